"""A policy that chooses teachers row by row, by the student's progress (RL-KD, arXiv 2012.06048).

After its abstract and notes on it, not checked against the paper's text: `Reward.gain` is ours, and
a row's state has no vector of an encoder. A policy takes a step an episode, a few dozen in a run:
too few to learn a weight for each of some hundred numbers and teacher from rewards as noisy. What
an encoder would tell, who knows such text, is in the probability of the label already.

Legend: B blocks, N target rows of a batch, C some of them, V vocabulary, K teachers, F numbers of a
state, M any number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dwt_cli.base.randomness import seed_for
from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.distill.teacher.several import CHUNK_ROWS, Reward
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, MixtureSignal, Request
from dwt_cli.distill.teacher.targets import SoftTargets
from dwt_cli.tasks.task import Batch, Place
from dwt_cli.training.protocols import Moment, Numbers

_LOWEST = -20.0  # nats: a teacher may give a label no probability at all


class Policy(nn.Module):
    """P(teacher k is heard) = sigmoid(w_k . state), 0.5 at first and fixed within an episode.

    But for its first step, whose choices are still those of the weights before.
    scores: what the choices so far add to the gradient of log P, (K, F), summed over the rows of
    the episode and, with a reward by row, weighted. last: those of the episode before. counts:
    rows of both.
    """

    # its steps are few; with much more AdamW goes a long way on rewards that mean nothing
    lr_scale = 8.0
    scores: Tensor
    last: Tensor
    counts: Tensor
    episode: Tensor

    def __init__(self, num_teachers: int) -> None:
        super().__init__()
        size = (num_teachers, 3 * num_teachers + 1)
        self.choose = nn.Linear(size[1], size[0], bias=False)
        nn.init.zeros_(self.choose.weight)
        self.register_buffer("scores", torch.zeros(size))
        self.register_buffer("last", torch.zeros(size))
        self.register_buffer("counts", torch.zeros(2))
        self.register_buffer("episode", torch.zeros((), dtype=torch.int64))

    def forward(self, states_MF: Tensor) -> Tensor:
        """Return the logits (M, K) of hearing each teacher."""
        logits_MK: Tensor = self.choose(states_MF)
        return logits_MK

    def begin(self, episode: int) -> None:
        """Begin an episode, if it is another: what is added up is that of the one before it."""
        if episode != int(self.episode):
            self.last.copy_(self.scores)
            self.counts[1] = self.counts[0]
            self.scores.zero_()
            self.counts[0] = 0
            self.episode.fill_(episode)

    def add(self, scores_KF: Tensor, num_rows: int, ranks: Ranks) -> None:
        """Add a micro-batch's scores, those of all ranks: each of them has the whole sum."""
        added = ranks.sum(torch.cat([scores_KF.flatten(), scores_KF.new_tensor([num_rows])]))
        self.scores += added[:-1].view_as(self.scores)
        self.counts[0] += added[-1]


class Choice(NamedTuple):
    """The choices on the rows of a batch: states (N, F), P (N, K), and 1 where k is chosen (N, K).

    slope: the policy's logits along ``last``, with a gradient; None where no episode has ended.
    """

    states_NF: Tensor
    probabilities_NK: Tensor
    chosen_NK: Tensor
    slope: Tensor | None


@dataclass
class ReinforcedSignal(MixtureSignal):
    """The even mixture of those that a policy has chosen for a row; of none, the likeliest one.

    Its state is, for each teacher, the log-probability of the label, the largest probability and
    the entropy. The policy takes a step of REINFORCE at the first batch after ``episode`` steps:
    sum (R - baseline) grad log P, where R is that batch's reward, or that of each row. The baseline
    is the running mean of R. ranks: those that have the batch together.
    """

    reward: Reward = Reward.gain
    episode: int = 10
    ranks: Ranks = ALONE
    policy: Policy = field(init=False)
    choice: Choice | None = field(init=False, default=None)
    probed: tuple[int, float] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.policy = Policy(len(self.members))
        self.parts = {"teacher_policy": self.policy}

    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        self._batch, self._trains = batch, torch.is_grad_enabled()
        return super().__call__(batch, request)

    def look(
        self, accuracy: Callable[[nn.Module], float], student: nn.Module, batch: Batch
    ) -> None:
        """Measure the student on the probe before the first part of a step that ends an episode.

        It goes on in training mode.
        """
        step = int(batch.places_B3[0, 1])
        if self._has_ended(step) and (self.probed is None or self.probed[0] != step):
            with torch.no_grad():
                self.probed = step, accuracy(student)
            student.train()

    def _has_ended(self, step: int) -> bool:
        """Return whether an episode has, with the step before this one."""
        return step > 0 and step % self.episode == 0

    def _weigh(self, members_KNV: Sequence[Tensor], labels_N: Tensor) -> Tensor:
        states_NF = states_of(members_KNV, labels_N)
        step, has_ended = int(self._batch.places_B3[0, 1]), False
        if self._trains:
            self.policy.begin(step // self.episode)
            has_ended = self._has_ended(step)
        else:
            self.policy.to(labels_N.device)
        with torch.set_grad_enabled(has_ended):
            logits_MK = self.policy(torch.cat([states_NF, self.policy.last]))
            along_KK = logits_MK[len(states_NF) :]
            slope = along_KK.diagonal().sum() if has_ended else None
        logits_NK = logits_MK[: len(states_NF)].detach()
        probabilities_NK = logits_NK.sigmoid()
        drawn_NK = uniforms(self._batch, len(members_KNV)).to(probabilities_NK)
        chosen_NK = (drawn_NK < probabilities_NK).to(probabilities_NK)
        self.choice = Choice(states_NF, probabilities_NK, chosen_NK, slope)
        likeliest_N1 = logits_NK.argmax(1, keepdim=True)
        alone_NK = torch.zeros_like(chosen_NK).scatter(1, likeliest_N1, 1.0)
        heard_NK = torch.where(chosen_NK.sum(1, keepdim=True) > 0, chosen_NK, alone_NK)
        return heard_NK.log().T

    def own_loss(
        self, teacher: SoftTargets, student: SoftTargets, batch: Batch, moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.choice is not None, "it is asked before"
        states_NF, probabilities_NK, chosen_NK, slope = self.choice
        named = {f"policy_{k}": each for k, each in enumerate(probabilities_NK.sum(0), 1)}
        rewards_N = above_N = states_NF.new_zeros(len(states_NF))
        if slope is not None or self.reward is not Reward.probe:
            rewards_N = self._rewards(teacher, student, batch)
            baseline = self._baseline(moment.memory)
            above_N = rewards_N - baseline if baseline is not None else torch.zeros_like(rewards_N)
            named["policy_reward"] = rewards_N.sum()
        weights_N = above_N if self.reward.is_by_row else torch.ones_like(above_N)
        by_row_NK = (chosen_NK - probabilities_NK) * weights_N[:, None]
        self.policy.add(by_row_NK.T @ states_NF, len(states_NF), self.ranks)
        if slope is None:
            return rewards_N.new_zeros(()), named
        # over all parts of the step: once, or the mean of the rewards
        credit = float(len(rewards_N)) if self.reward.is_by_row else above_N.sum()
        rising = credit * slope / self.policy.counts[1].clamp(min=1)
        return rising.detach() - rising, named  # a gradient, and no loss

    def remember(self, memory: Numbers, metrics: Numbers) -> Numbers:
        if "policy_reward" not in metrics:
            return memory
        keep = self._keep
        mean = keep * memory.get("policy_reward", 0.0) + (1 - keep) * metrics["policy_reward"]
        noted = memory.get("policy_noted", 0.0) + 1
        return {**memory, "policy_reward": mean, "policy_noted": noted}

    def _baseline(self, memory: Numbers) -> float | None:
        """Return the running mean of the reward, freed of its start at zero; None at first."""
        if "policy_reward" not in memory:
            return None
        return memory["policy_reward"] / (1 - self._keep ** memory["policy_noted"])

    @property
    def _keep(self) -> float:
        """The factor of the running mean, which reaches back an episode."""
        return 1 - 1 / (1 + (1 if self.reward is Reward.probe else self.episode))

    def _rewards(self, teacher: SoftTargets, student: SoftTargets, batch: Batch) -> Tensor:
        """Return the reward of each row (N,), fp32."""
        found = []
        for start in range(0, len(batch.labels_N), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            p_CV, t_CV = (each.dense(rows).float().log_softmax(-1) for each in (student, teacher))
            found.append(rewards(self.reward, p_CV, t_CV, batch.labels_N[rows]))
        rewards_N = torch.cat(found)
        if self.reward is Reward.probe:
            assert self.probed is not None, "the student is looked at before"
            return (rewards_N + self.probed[1]) / 2
        return exchanged(rewards_N, batch) if self.reward is Reward.shuffled else rewards_N


def states_of(members_KNV: Sequence[Tensor], labels_N: Tensor) -> Tensor:
    """Return the states (N, 3 K + 1) of log-probabilities; the last number is 1."""
    log_size = log(members_KNV[0].shape[1])
    columns = []
    for member_NV in members_KNV:
        label_N = member_NV.gather(1, labels_N[:, None])[:, 0].clamp(min=_LOWEST)
        entropy_N = -(member_NV.exp() * member_NV.clamp(min=_LOWEST)).sum(1)
        columns += [label_N / log_size, member_NV.amax(1).exp(), entropy_N / log_size]
    return torch.stack([*columns, torch.ones_like(columns[0])], 1)


def rewards(reward: Reward, p_CV: Tensor, t_CV: Tensor, labels_C: Tensor) -> Tensor:
    """Return rewards by row (C,) of log-probabilities: the student's p, those heard t.

    hard: -CE(p, label). both, and so far probe: that minus KL(t || p). gain: (p - t) . (p - label),
    what a small step along the lesson takes off the label's loss, to first order.
    """
    of_label_C, theirs_C = (each.gather(1, labels_C[:, None])[:, 0] for each in (p_CV, t_CV))
    if reward is Reward.hard:
        return of_label_C
    if reward in (Reward.both, Reward.probe):
        t_CV = t_CV.clamp(min=_LOWEST)
        return of_label_C - (t_CV.exp() * (t_CV - p_CV)).sum(1)
    likely_CV = p_CV.exp()
    within_C = (likely_CV * (likely_CV - t_CV.exp())).sum(1)
    return within_C - of_label_C.exp() + theirs_C.exp()


def uniforms(batch: Batch, num_teachers: int) -> Tensor:
    """Return numbers in [0, 1) for each row and teacher (N, K), by the places of its blocks."""
    drawn = [
        place.generator(seed_for("teacher", "policy")).random((num_rows, num_teachers))
        for place, num_rows in _blocks(batch)
    ]
    return torch.from_numpy(np.concatenate(drawn))


def exchanged(rewards_N: Tensor, batch: Batch) -> Tensor:
    """Return for each row the reward of the next one in its block, after the last the first's."""
    pieces = rewards_N.split([num_rows for _, num_rows in _blocks(batch)])
    return torch.cat([piece.roll(-1) for piece in pieces])


def _blocks(batch: Batch) -> list[tuple[Place, int]]:
    """Return the place of each block, and how many target rows it has."""
    places = (Place(*map(int, place)) for place in batch.places_B3.tolist())
    return list(zip(places, batch.num_rows, strict=True))
