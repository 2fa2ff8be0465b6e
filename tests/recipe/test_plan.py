"""What is planned against what torch counts, and against the paper."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dwt_cli.base import atomic
from dwt_cli.base.cache import Cache
from dwt_cli.base.machine import Machine
from dwt_cli.base.options import Precision
from dwt_cli.config.run import Run
from dwt_cli.models.flops import FORWARD_AND_BACKWARD, num_parameters
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe import plan
from dwt_cli.recipe.memory import memory
from dwt_cli.recipe.recipe import recipe_of
from dwt_cli.recipe.study_plan import print_study_plan
from dwt_cli.study.record import Job
from dwt_cli.track.summary import Facts, Summary
from tests.conftest import outlined
from tests.miniature import dwt_train, options

SENTENCES, TOKENS_PER_SENTENCE = 30_000_000, 24.576  # the first of the paper, the second assumed
SIZES = ["scale.width=64", "scale.num_heads=2", "scale.mlp_width=128", "scale.vocab_size=1000",
         "student.num_layers=2"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["paper", "large", "large_modernbert"])
def test_flops_at_full_size(composed: Callable[..., Run], scale: str) -> None:
    """A forward and a backward pass of fake tensors, attention as two products."""
    run = composed(f"scale={scale}")
    conditions, length = recipe_of(run).shapes.conditions, run.data.block_length
    with (
        FakeTensorMode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        model = LanguageModel(outlined(run.student, "cpu"), torch.float32)
        ids_BL = torch.zeros(1, length, dtype=torch.long)
        rows_N = torch.zeros(conditions.num_targets, dtype=torch.long)
        model(ids_BL, rows_N).logits_NV.sum().backward()
    planned = FORWARD_AND_BACKWARD * conditions.token_flops(model.model) * length
    assert counter.get_total_flops() == pytest.approx(planned, rel=0.02)


def test_parts_add_up(composed: Callable[..., Run]) -> None:
    for task, family in (("mlm", "bert"), ("mlm", "modernbert"), ("clm", "qwen3"), ("clm", "gpt2")):
        words = (f"task={task}", f"scale.family={family}")
        model = outlined(composed(*SIZES, *words).student)
        parts = plan.parameters_by_part(model)
        assert sum(parts.values()) == num_parameters(model)
        assert parts["embeddings"] >= 64_000 and parts["head"] < 10_000, "tied, and counted once"


def test_the_papers_run(composed: Callable[..., Run]) -> None:
    """67 M parameters (section 3.1), 20 epochs of 30 M sentences, 16 of them on 8 GPUs."""
    run = composed("scale=paper", "launch=torchrun", "launch.gpus=8")
    run.run.train_tokens = round(SENTENCES * TOKENS_PER_SENTENCE)
    assert num_parameters(outlined(run.student)) == pytest.approx(67e6, rel=0.01)
    assert num_parameters(outlined(run.teacher)) == pytest.approx(0.78 * 67e6, rel=0.02)
    assert run.train.batch_size / run.launch.num_ranks == 16
    tokens = 20 * SENTENCES * TOKENS_PER_SENTENCE
    assert num_steps(run) == round(tokens / (8 * 16 * 128)) == run.scale.teacher_steps
    run.run.train_tokens = None
    assert num_steps(run) is None
    run.train.max_steps, run.train.epochs = 7, None
    assert num_steps(run) == 7


def num_steps(run: Run) -> int | None:
    return recipe_of(run).num_steps({})


def test_flops_in_all_written_out(composed: Callable[..., Run]) -> None:
    """A teacher that is asked in the first half of the steps, and trained for ten."""
    run = composed(*SIZES, "scale.max_steps=100", "scale.teacher_steps=10", "alpha=linear_to_zero",
                   "alpha.until=0.5")  # fmt: skip
    conditions = recipe_of(run).shapes.conditions
    student, teacher = (conditions.step_flops(outlined(o)) for o in (run.student, run.teacher))
    expected = 100 * 3 * student + (50 + 30) * teacher
    assert plan.flops_in_all(recipe_of(run)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("explore", "students"), [("sample", 0), ("ascend", 1)])
def test_who_writes_is_charged(composed: Callable[..., Run], explore: str, students: int) -> None:
    """A forward pass of the teacher over what it writes, and one of a student that is asked."""
    words = (*SIZES, "scale.max_steps=100", "alpha=step", "alpha.until=0.5")
    plain, run = composed(*words), composed(*words, f"explore={explore}", "explore.share=0.25")
    flops = recipe_of(run).shapes.conditions.step_flops
    student, teacher = (flops(outlined(each)) for each in (run.student, run.teacher))
    more = 50 * run.explore.exact_share * (teacher + students * student)
    found = [plan.flops_in_all(recipe_of(each)) for each in (plain, run)]
    assert found[1] == pytest.approx(found[0] + more)


def test_scores_of_attention_are_charged(composed: Callable[..., Run]) -> None:
    """A product of queries and keys for each layer and side; the last layers are whole anyway."""
    words = (*SIZES, "student.num_layers=3")
    runs = [composed(*words, f"objective=[logits,{name}]") for name in ("hidden", "attention")]
    (ours, theirs), (ours_too, theirs_too) = (recipe_of(r).shapes.taught_flops() for r in runs)
    conditions = recipe_of(runs[1]).shapes.conditions
    products = 3 * 2 * conditions.train.batch_size * conditions.data.block_length**2 * 64
    projection = 2 * conditions.train.batch_size * conditions.data.block_length * 64 * 64
    assert ours_too - ours == pytest.approx(3 * (products - projection))
    assert theirs_too - theirs == pytest.approx(products)


def test_windows_are_charged(composed: Callable[..., Run]) -> None:
    """What torch counts of all windows of a block, and what they have at once."""
    run = composed(*SIZES, "scale.block_length=64", "teacher.window=24")
    shapes = recipe_of(run).shapes
    (windows,), of = shapes.windows.values(), shapes.conditions
    with (
        FakeTensorMode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        model = windows.around(outlined(run.teacher, "cpu"), torch.float32)
        ids_BL = torch.zeros(of.train.batch_size, 64, dtype=torch.long)
        rows_N = torch.arange(ids_BL.numel()).view_as(ids_BL)[:, : of.num_targets].flatten()
        model(ids_BL, rows_N)
    assert shapes.answer_flops("teacher") == pytest.approx(counter.get_total_flops(), rel=0.02)
    assert shapes.answer_flops("teacher") > 1.5 * of.step_flops(outlined(run.teacher))
    console = Console(file=(told := io.StringIO()), width=120)
    plan.print_plan(
        recipe_of(run), run.run, Machine(torch.device("cpu"), torch.float32), 1, console
    )
    assert "5 of 24 positions" in told.getvalue()


def test_hours() -> None:
    assert plan.hours(3600e12, 2, 0.5) == 1


@pytest.mark.slow
def test_a_study_s_plan_counts_once_what_runs_share(
    composed: Callable[..., Run], tmp_path: Path
) -> None:
    def row(arm: str) -> list[str]:
        lines = [line.split("│")[1:-1] for line in printed().splitlines() if "│" in line]
        return next([cell.strip() for cell in line] for line in lines if line[0].strip() == arm)

    def printed(first: int = 0, on_record: Sequence[str] = ()) -> str:
        console = Console(file=(told := io.StringIO()), width=120)
        students, options = list(map(recipe_of, runs))[first:], runs[0].run
        print_study_plan(students, jobs[first:], options, 1, "mine", console, on_record=on_record)
        return told.getvalue()

    def end(number: int, flops: float) -> None:
        jobs[number] = replace(jobs[number], state="finished")
        found = tmp_path / f"ended-{recipe_of(runs[number]).identity}"
        found.mkdir()
        facts = Facts(1, {"loss": 3.0}, flops=flops, seconds=1800.0)
        summary = Summary("ended", "", {}, 0, 1.0, 1.0, {}, facts)
        (found / "summary.json").write_text(json.dumps(summary.to_json()))

    words = [*SIZES, "scale.max_steps=100", "scale.teacher_steps=10", f"run.root={tmp_path}",
             f"run.cache={tmp_path}"]  # fmt: skip
    asked = [(arm, seed) for arm in ("none", "small") for seed in (0, 1)]
    runs = [composed(*words, f"teacher={arm}", f"seed={seed}") for arm, seed in asked]
    jobs = [Job(arm, 100, seed, (), None, None, "missing") for arm, seed in asked]
    alone, taught = (plan.flops_in_all(recipe_of(run)) or 0.0 for run in runs[::2])
    (teacher,) = [s.cost({}) or 0.0 for s in recipe_of(runs[2]).stages if s.name == "teacher"]
    tokens = 2 * recipe_of(runs[0]).shapes.conditions.tokens_per_step * 100
    in_all = 2 * (alone + taught) - teacher
    assert row("none") == ["none", "100", "2", f"{tokens:,}", f"{2 * alone:.3g}", "unknown"]
    assert row("in all") == ["in all", "", "4", f"{2 * tokens:,}", f"{in_all:.3g}", "unknown"]
    assert "hours are unknown: no run is finished" in printed()
    end(0, alone)
    hours = (in_all - alone) / alone / 2
    left = ["3", f"{1.5 * tokens:,.0f}", f"{in_all - alone:.3g}", f"{hours:,.2f}"]
    assert row("in all")[2:] == left
    assert "as its finished runs; 1 of 4 runs are finished" in printed()
    assert "hours are unknown" in printed(first=1)  # what is finished is not of these
    before = printed(first=1, on_record=["elsewhere", recipe_of(runs[0]).identity])
    assert "as its finished runs; 0 of 3 runs are finished" in before
    jobs[1] = replace(jobs[1], state="finished")  # elsewhere
    assert row("in all")[2] == "2" and "2 of 4 runs are finished" in printed()
    jobs[1] = replace(jobs[1], state="missing")
    runs[0].run.peak_tflops, runs[0].run.mfu = alone / 1e15, 0.5
    assert row("in all")[-1] == f"{hours / 0.9:,.2f}"
    runs[0].run.peak_tflops = None
    # a taught run is finished, and its teacher in the cache
    end(2, taught - teacher)
    kept = next(s for s in recipe_of(runs[3]).stages if s.name == "teacher")
    (made := tmp_path / "made").mkdir()
    atomic.publish(made, kept.place(Cache(str(tmp_path), print)))
    assert row("small")[2:5] == ["1", f"{tokens / 2:,.0f}", f"{taught - teacher:.3g}"]
    runs[0].run.device_gb = 0.001
    held = memory(recipe_of(runs[2]).shapes, Machine.elsewhere(1, Precision.auto)).total / 1e9
    assert row("in all")[-1] == row("small")[-1] == f"{held:.3f}"
    assert "run.device_gb=0.001: it does not fit: none, small" in printed()
    runs[0].run.device_gb = 80
    assert "run.device_gb=80: it fits" in printed() and "epochs" not in printed()
    runs[0].run.train_tokens = tokens // 4
    assert row("small")[4] == row("in all")[4] == "2.00", "epochs"


def test_one_gpu_is_a_day(composed: Callable[..., Run]) -> None:
    """At the peak and the share of it that conf/scale/one_gpu.yaml names."""
    run = composed("scale=one_gpu")
    run.run.train_tokens = round(SENTENCES * TOKENS_PER_SENTENCE)
    flops = plan.flops_in_all(recipe_of(run))
    assert flops is not None
    assert 20 < plan.hours(flops, 312, 0.3) < 24
    tokens = run.scale.teacher_steps * run.train.batch_size * run.data.block_length
    assert run.train.epochs is not None
    assert tokens == pytest.approx(run.train.epochs * run.run.train_tokens, rel=0.01)


def test_a_plan_touches_nothing(tmp_path: Path) -> None:
    answer = dwt_train(*options(tmp_path), "run.plan=true", "run.peak_tflops=1", cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    for words in ("student, parameters", "teacher, FLOPs", "hours in all", "it fits"):
        assert words in answer.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("parallel", "gb", "answer"),
    [("ddp", 80, "it fits"), ("fsdp", 80, "it fits"), ("ddp", 1, "it does not fit: lower")],
)
def test_for_gpus_that_are_not_here(tmp_path: Path, parallel: str, gb: int, answer: str) -> None:
    words = ["scale=paper", "launch=torchrun", "launch.gpus=8", f"parallel={parallel}",
             "run.plan=true", f"run.device_gb={gb}", "run.peak_tflops=312",
             "run.train_tokens=737280000", "tracker=none"]  # fmt: skip
    told = dwt_train(*words, cwd=tmp_path, COLUMNS="200")
    assert told.returncode == 0, told.stderr
    for part in (answer, f"{gb}.000 GB (cuda)", "16 sequences, 1 in a step on each of 8 ranks",
                 f"({parallel}, ring)", "900,000; 14,745,600,000"):  # fmt: skip
        assert part in told.stdout, told.stdout
    assert list(tmp_path.iterdir()) == []
