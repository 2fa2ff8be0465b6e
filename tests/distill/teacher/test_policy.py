"""The policy that chooses teachers, against sums over all of its choices."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwt_cli.base.ranks import Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.policy import Choice, ReinforcedSignal, rewards
from dwt_cli.distill.teacher.several import Reward, Weighting
from dwt_cli.distill.teacher.signal import MixtureSignal, ModelSignal, VirtualSignal
from dwt_cli.distill.teacher.targets import DenseLogits
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import TrainBatches
from dwt_cli.tasks.mlm import Masking
from dwt_cli.tasks.task import Batch
from dwt_cli.training.parallel import load_state, state_on_first
from dwt_cli.training.protocols import Moment
from tests.conftest import VOCAB_SIZE
from tests.processes import together

EVEN = ([1.0, 1.0], [1.0, 1.0], Weighting.reinforced)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("reward", [Reward.hard, Reward.both, Reward.gain])
def test_rewards(reward: Reward) -> None:
    logits, t_CV, labels = drawn(3, 7), drawn(3, 7, seed=1).softmax(-1), torch.tensor([2, 0, 6])
    found = rewards(reward, logits.log_softmax(-1), t_CV.log(), labels)
    for z, t, label, value in zip(logits, t_CV, labels, found, strict=True):
        if reward is Reward.gain:  # what a step along -(p - t) takes off the label's loss
            step = torch.zeros((), dtype=torch.float64, requires_grad=True)
            loss = -(z - step * (z.softmax(0) - t)).log_softmax(0)[label]
            expected = -torch.autograd.grad(loss, step)[0]
        else:
            p = z.softmax(0)
            expected = p[label].log()
            if reward is Reward.both:
                expected = expected - sum(t[v] * (t[v] / p[v]).log() for v in range(7))
        torch.testing.assert_close(value, expected)


def test_the_estimate_is_the_gradient_of_the_expected_reward() -> None:
    """Over all choices of two teachers, row by row; the baseline changes nothing."""
    states_NF, weights_KF = drawn(3, 7), 0.3 * drawn(2, 7, seed=1)
    members_KNV = drawn(2, 3, 5, seed=2).softmax(-1)
    student_NV, labels = drawn(3, 5, seed=3), torch.tensor([4, 0, 2])
    signal = ReinforcedSignal([None, None], *EVEN)  # type: ignore[list-item]
    signal.policy.double()
    moment = Moment(0.5, memory={"policy_reward": 0.2, "policy_noted": 3.0})
    exact = weights_KF.clone().requires_grad_()
    expected = torch.zeros((), dtype=torch.float64)
    total = torch.zeros(2, 7, dtype=torch.float64)
    for n, choice in itertools.product(range(3), itertools.product((0.0, 1.0), repeat=2)):
        chosen = torch.tensor([choice]).double()
        heard = chosen[0] if chosen.any() else (states_NF[n] @ weights_KF.T > 0).double() + 1e-9
        t_V = (heard[:, None] * members_KNV[:, n]).sum(0) / heard.sum()
        batch = Batch(
            torch.zeros((1, 4), dtype=torch.int64), torch.tensor([1]), labels[n : n + 1],
            torch.zeros((1, 3), dtype=torch.int64),
        )  # fmt: skip
        states = states_NF[n : n + 1]
        signal.choice = Choice(states, (states @ weights_KF.T).sigmoid(), chosen, None)
        before = signal.policy.scores.clone()
        given = (DenseLogits(t_V.log()[None]), DenseLogits(student_NV[n : n + 1]))
        _, named = signal.own_loss(*given, batch, moment)
        p_K = (states_NF[n] @ exact.T).sigmoid()
        likelihood = torch.where(chosen[0] > 0, p_K, 1 - p_K).prod()
        total += likelihood.detach() * (signal.policy.scores - before)
        expected = expected + likelihood * named["policy_reward"].double()
    (slow,) = torch.autograd.grad(expected, exact)
    torch.testing.assert_close(total, slow, rtol=1e-5, atol=1e-6)


@pytest.fixture
def made(
    tiny: Callable[..., Architecture], corpus: Corpus, masking: Masking
) -> Callable[..., tuple[DistillationLoss, ReinforcedSignal, Any, LanguageModel]]:
    def make(reward: Reward = Reward.gain, episode: int = 2) -> Any:
        student, teacher = (
            LanguageModel(make_model(tiny(num_layers=1), 0, role), torch.float32)
            for role in ("student", "teacher")
        )
        members = [VirtualSignal(0.9, VOCAB_SIZE), ModelSignal(teacher)]
        signal = ReinforcedSignal(members, *EVEN, reward, episode)
        loss = DistillationLoss(Distillation(signal, Constant(), {"logits": ForwardKL()}))
        batches = TrainBatches(corpus.train, masking, 8, 0, "student")
        return loss, signal, batches, student

    return make


def steps(
    made: Any, numbers: range, num_parts: int = 1, lr: float = 0.1, memory: Any = None
) -> Any:
    """Some steps of the policy; returns P of both teachers in each, and the memory."""
    loss, signal, batches, student = made
    optimizer = torch.optim.AdamW(signal.policy.parameters(), lr=lr)
    memory, likely = memory or {}, []
    for step in numbers:
        sums: dict[str, Tensor] = {}
        num_targets = batches.num_targets(step)
        for part in range(num_parts):
            batch = batches.batch(step, part, num_parts)
            found = loss(student, batch, Moment(0.1, memory=memory))
            (found.total / num_targets).backward()
            for name, value in found.sums.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach()
        gradient = signal.policy.choose.weight.grad
        ended = step > 0 and step % signal.episode == 0
        assert (gradient is not None) == ended, "its gradient is a matter of the step alone"
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        metrics = {name: float(value / num_targets) for name, value in sums.items()}
        likely.append((metrics["policy_1"], metrics["policy_2"]))
        memory = loss.remember(memory, metrics)
    return likely, memory


@pytest.mark.parametrize("reward", [Reward.both, Reward.shuffled])
def test_any_split_of_a_batch_teaches_the_policy_the_same(made: Any, reward: Reward) -> None:
    whole, split = made(reward), made(reward)
    likely, memory = steps(whole, range(5))
    theirs, their_memory = steps(split, range(5), num_parts=4)
    assert likely[0] == (0.5, 0.5) != likely[-1]
    torch.testing.assert_close(torch.tensor(theirs), torch.tensor(likely), rtol=1e-4, atol=1e-5)
    assert their_memory == pytest.approx(memory, rel=1e-4)
    for name in ("scores", "last", "counts"):
        ours, others = (getattr(each[1].policy, name) for each in (whole, split))
        torch.testing.assert_close(others, ours, rtol=1e-3, atol=1e-3)


def test_it_goes_on_in_the_middle_of_an_episode(made: Any) -> None:
    straight, first, second = (made(episode=3) for _ in range(3))
    steps(straight, range(5), lr=0)
    _, memory = steps(first, range(5), lr=0)
    load_state(second[0].aux, state_on_first(first[0].aux))
    for each in (straight, second):
        likely, _ = steps(each, range(5, 8), memory=memory)
        assert likely[-1] != (0.5, 0.5)
    assert torch.equal(straight[1].policy.choose.weight, second[1].policy.choose.weight)
    assert torch.equal(straight[1].policy.scores, second[1].policy.scores)


def test_who_knows_the_labels_is_heard_and_who_knows_nothing_is_not(made: Any) -> None:
    likely, _ = steps(made(), range(14), lr=0.5)
    assert likely[-1][0] > 0.6 and likely[-1][1] < 0.4
    by_chance, _ = steps(made(Reward.shuffled), range(14), lr=0.5)
    assert by_chance[-1][0] - by_chance[-1][1] < likely[-1][0] - likely[-1][1]


def test_who_hears_all_of_them_hears_their_mixture(made: Any) -> None:
    _, signal, batches, _ = made()
    batch = batches.batch(0)
    with torch.no_grad():
        signal.policy.choose.weight[:, -1] = 100.0  # P = 1
    fixed = MixtureSignal(signal.members, *EVEN[:2], Weighting.fixed)
    torch.testing.assert_close(signal(batch).targets.dense(), fixed(batch).targets.dense())
    with torch.no_grad():
        signal.policy.choose.weight[:, -1] = torch.tensor([-100.0, -90.0])  # nobody
    second = signal.members[1](batch).targets.dense().log_softmax(-1)
    torch.testing.assert_close(signal(batch).targets.dense(), second)


def test_half_of_the_reward_is_the_students_accuracy_apart(made: Any) -> None:
    """Asked once in a step that ends an episode, whatever its parts; else nobody is rewarded."""
    loss, signal, batches, student = made(Reward.probe)
    _, both, *_ = made(Reward.both)
    asked: list[bool] = []

    def accuracy(model: LanguageModel) -> float:
        asked.append(torch.is_grad_enabled())
        model.eval()
        return 0.125 * len(asked)

    settings = loss._distillation
    loss._distillation = replace(settings, watch=partial(signal.look, accuracy))
    memory: dict[str, float] = {}
    for step in range(5):
        named: list[dict[str, Tensor]] = []
        for part in range(2):
            batch = batches.batch(step, part, 2)
            found = loss(student, batch, Moment(0.1, memory=memory))
            assert student.training
            named.append(found.sums)
        assert len(asked) == step // 2
        assert ("policy_reward" in named[0]) == ("policy_reward" in named[1]) == (step in (2, 4))
        if step in (2, 4):
            answers = [DenseLogits(torch.zeros(5, 7)), DenseLogits(torch.eye(5, 7))]
            rows = Batch(batch.ids_BL, batch.rows_N[:5], torch.arange(5), batch.places_B3)
            plain, ours = (each._rewards(*answers, rows) for each in (both, signal))
            torch.testing.assert_close(ours, (plain + 0.125 * len(asked)) / 2)
            reward = float(sum(each["policy_reward"] for each in named)) / batches.num_targets(step)
            memory = loss.remember(memory, {"policy_reward": reward})
    assert not any(asked), "nobody learns from it"


@pytest.mark.slow
def test_every_rank_has_all_scores() -> None:
    for scores, count in together(2, _added):
        assert (scores, count) == ([[3.0] * 7] * 2, 10.0)


def _added(ranks: Ranks) -> tuple[list[list[float]], float]:
    signal = ReinforcedSignal([None, None], *EVEN)  # type: ignore[list-item]
    signal.policy.add(torch.full((2, 7), 1.0 + ranks.rank), 4 + 2 * ranks.rank, ranks)
    aux = nn.ModuleDict(signal.parts)
    return aux["teacher_policy"].scores.tolist(), float(signal.policy.counts[0])
