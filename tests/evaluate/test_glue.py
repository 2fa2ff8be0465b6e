"""GLUE from a model to an average, on a miniature, and what is kept of it."""

import shutil
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dwt_cli.base.cache import Cache
from dwt_cli.base.machine import Machine
from dwt_cli.base.ranks import ALONE
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.glue import TASKS
from dwt_cli.evaluate import glue, measures
from dwt_cli.evaluate.finetuning import PROTOCOLS
from dwt_cli.evaluate.measurement import EvaluatedModel, Measurement, Results, Score
from dwt_cli.evaluate.options import Eval, Glue, Protocol, TunedBy
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.recipe import finetuning
from dwt_cli.recipe.finetuning import TaskTunings
from dwt_cli.recipe.stage import Site
from dwt_cli.recipe.student import StudentStage
from dwt_cli.tasks.options import MaskedLM
from dwt_cli.track.display import Display
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.options import Optim


@pytest.fixture
def tested(tiny: Callable[..., Architecture], corpus: Corpus) -> EvaluatedModel:
    model = make_model(tiny("bert", num_layers=1), 0, "student").eval()
    return EvaluatedModel(
        model, corpus.tokenizer, MaskedLM(), "tiny", torch.device("cpu"), torch.float32
    )


@pytest.fixture
def look(
    tested: EvaluatedModel, glue_folder: Path, tmp_path: Path
) -> Callable[..., tuple[Results, list[str]]]:
    """GLUE's results on the miniature, and the lines said on the way."""

    def carry_out(**changes: Any) -> tuple[Results, list[str]]:
        options = Glue(str(glue_folder), protocol=Protocol.quick, **changes)
        said: list[str] = []
        tested.tokenizer.save_pretrained(tmp_path / "tokenizer")
        machine = Machine(tested.device, tested.dtype)
        cache, quiet = Cache(str(tmp_path / "cache"), said.append), Display(Console(quiet=True))
        at = Site(machine, cache, ALONE).at(tmp_path, quiet)
        results = measures.carry_out(
            Measurement(
                tested,
                Eval(every=1, measures=["glue"], glue=options),
                text=lambda: pytest.fail("GLUE needs no text"),
                tunings=partial(TaskTunings.of, tested, lambda: f"{tmp_path}/tokenizer", at),
                cache=at.cache,
                say=said.append,
                advance=lambda measure, share, text: None,
            ),
            has_head=False,
        )
        return results, said

    return carry_out


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the fine-tunings that are really done."""
    seeds: list[int] = []
    real = TaskTunings.carry_out

    def counted(self: TaskTunings, optim: Optim, seed: int, *more: Any) -> Any:
        seeds.append(seed)
        return real(self, optim, seed, *more)

    monkeypatch.setattr(TaskTunings, "carry_out", counted)
    return seeds


@pytest.mark.slow
def test_all_nine_tasks_and_the_averages(look: Any) -> None:
    results, said = look(num_seeds=1)
    by_name = {(s.task, s.metric): s for s in results.scores["glue"]}
    metrics = [(dev.title, m) for task in TASKS.values() for dev in task.dev for m in task.metrics]
    assert [*by_name] == [*metrics, ("GLUE", "average"), ("GLUE without WNLI", "average")]
    of_task = {
        name: statistics.fmean(
            by_name[dev.title, metric].value for dev in task.dev for metric in task.metrics
        )
        for name, task in TASKS.items()
    }
    assert by_name["GLUE", "average"].value == pytest.approx(statistics.fmean(of_task.values()))
    del of_task["WNLI"]
    assert by_name["GLUE without WNLI", "average"].value == pytest.approx(
        statistics.fmean(of_task.values())
    )
    assert results.problems == []
    assert sum("padding" in line for line in said) == 9


def test_what_is_known_is_not_computed_again(look: Any, trainings: list[int]) -> None:
    first, _ = look(tasks=["RTE"], num_seeds=1)
    assert trainings == [0]
    more, _ = look(tasks=["RTE", "WNLI"], num_seeds=2)
    assert trainings == [0, 1, 0, 1]
    again, _ = look(tasks=["RTE", "WNLI"], num_seeds=2)
    assert trainings == [0, 1, 0, 1]
    assert again == more
    assert first.scores["glue"][0].num_seeds == 1
    assert more.scores["glue"][0].num_seeds == 2


def test_another_length_or_other_data_is_another_piece(
    look: Any, trainings: list[int], glue_folder: Path
) -> None:
    look(tasks=["RTE"], num_seeds=1)
    look(tasks=["RTE"], num_seeds=1, max_length=16)
    with (glue_folder / "RTE" / "dev.tsv").open("a") as file:
        file.write("99\tbark\tum\tentailment\n")
    look(tasks=["RTE"], num_seeds=1)
    assert len(trainings) == 3


@pytest.mark.parametrize("tuning", ["lora", "dsee"])
def test_a_fine_tuning_of_a_few_numbers_is_another_piece(
    look: Any, trainings: list[int], monkeypatch: pytest.MonkeyPatch, tuning: str
) -> None:
    look(tasks=["WNLI"], num_seeds=1)
    rates, real = [], StudentStage.carry_out

    def watched(self: StudentStage, *given: Any) -> Any:
        trained = real(self, *given)
        rates.append((self.shapes.conditions.optim.lr, trained.facts.tuning))
        return trained

    monkeypatch.setattr(StudentStage, "carry_out", watched)
    results, _ = look(tasks=["WNLI"], num_seeds=1, tuning=TunedBy[tuning])
    assert trainings == [0, 0]
    assert results.problems == []
    ((rate, account),) = rates
    assert rate == 10 * PROTOCOLS[Protocol.quick].optims[0].lr
    assert 0 < account["trained"] < 6000


def test_what_was_stopped_goes_on_to_the_same_scores(
    look: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = look(tasks=["RTE"], num_seeds=1)
    shutil.rmtree(tmp_path / "cache" / "scores")
    monkeypatch.setattr(finetuning, "_CHECKPOINT_EVERY", 1)
    save, steps = Checkpoints.save, []

    def stop(self: Checkpoints, *given: Any) -> None:
        save(self, *given)
        steps.append(given[-1].step)
        if steps == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        look(tasks=["RTE"], num_seeds=1)
    again, _ = look(tasks=["RTE"], num_seeds=1)
    assert steps == [1, 2, 3]
    assert again == whole


def test_a_task_that_lacks_its_file_does_not_stop_the_others(look: Any, glue_folder: Path) -> None:
    (glue_folder / "RTE" / "dev.tsv").unlink()
    results, _ = look(tasks=["RTE", "WNLI"], num_seeds=2)
    assert {score.task for score in results.scores["glue"]} == {"WNLI"}
    (line,) = results.problems
    assert "RTE/dev.tsv" in line


def test_texts_beyond_the_model_s_positions_are_cut_and_counted(look: Any) -> None:
    results, _ = look(tasks=["RTE"], num_seeds=1, max_length=10)
    assert any("texts cut to 10 tokens" in remark for remark in results.scores["glue"][0].remarks)


def test_mean_and_standard_error_over_seeds() -> None:
    found = [Score("RTE", "accuracy", value, 0.5, 10) for value in (0.5, 0.6, 0.8)]
    (score,) = glue.summed_up(found)
    assert score.value == pytest.approx(1.9 / 3)
    assert score.stderr == pytest.approx(statistics.stdev([0.5, 0.6, 0.8]) / 3**0.5)
    assert score.num_seeds == 3


def test_a_measure_of_the_head_is_refused_without_one(
    tested: EvaluatedModel, tmp_path: Path
) -> None:
    asked = Measurement(
        tested,
        Eval(every=1, measures=["lm"]),
        lambda: pytest.fail("asked"),
        lambda *given: pytest.fail("asked"),
        Cache(str(tmp_path), print),
        print,
        lambda *a: None,
    )
    results = measures.carry_out(asked, has_head=False)
    assert results.scores == {}
    assert "no language-model head" in results.problems[0]
