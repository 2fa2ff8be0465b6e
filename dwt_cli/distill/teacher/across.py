"""The signal of a teacher that reads the student's text in its own tokens.

Legend: B blocks, L positions of the student, T of the teacher, A places where tokens of both end,
C chunks of text between two such places, N target rows of the student, M rows of the teacher,
D width of the teacher, W its vocabulary.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dwt_cli.data.spans import Reading, Spans
from dwt_cli.data.surfaces import Surfaces
from dwt_cli.distill.objective.chunks import Chunks
from dwt_cli.distill.teacher.signal import TARGETS_ALONE, Answer, Request, TeacherSignal
from dwt_cli.distill.teacher.targets import SoftTargets
from dwt_cli.models.anatomy import is_known, num_positions
from dwt_cli.models.features import Features
from dwt_cli.models.options import Head, Predicts
from dwt_cli.models.wrapper import LanguageModel, OutputLayer, Want
from dwt_cli.tasks.task import Batch

_TILE_ENTRIES = 1 << 22  # logits at a time
_ANY = 1 << 30  # positions: of a family that is not known here


class NoTargets(SoftTargets):
    """No targets: the teacher's tokens are not the student's, of which it says nothing."""

    are_there: ClassVar[bool] = False

    @property
    def parts(self) -> tuple[Callable[..., SoftTargets], list[Tensor | None]]:
        return NoTargets, []

    def dense(self, rows: slice = slice(None)) -> Tensor:
        raise AssertionError("objectives that compare token by token were refused")


class SpanSignal(TeacherSignal):
    """A frozen model that reads each block in tokens of its own: in eval mode, without gradients.

    It answers at places where a token of the student and one of its own end together: with hidden
    states, put where the student's are, and of a causal model with the likelihoods of the text
    between. What it reads is a pure function of the block.

    temperature: its logits are divided by it. mask_id: of a masked model; it stands for each token
    that has a part of one which the student does not see, masked or exchanged. None: it is causal.
    unknown_id: of the token for text that it cannot read, of which it says nothing: a chunk with
    one is left out. None: it has none.
    """

    def __init__(
        self,
        model: LanguageModel,
        spans: Spans,
        temperature: float,
        mask_id: int | None,
        unknown_id: int | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self._spans, self._temperature, self._mask_id = spans, temperature, mask_id
        self._unknown_id = unknown_id

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        ours: Surfaces,
        theirs: Surfaces,
        head: Predicts,
        temperature: float = 1.0,
    ) -> "SpanSignal":
        """Return the signal of a model that reads ``theirs`` for a student that reads ``ours``."""
        config, mask_id = model.model.config, None
        most = num_positions(config) if is_known(config) else _ANY
        if model.windows:  # of the student's blocks; it reads as much of one, and no more
            most = min(most, model.windows.length)
        if head is Head.masked:
            mask_id = theirs.tokenizer.mask_token_id
        unknown_id = theirs.tokenizer.unk_token_id
        return cls(model, Spans(ours, theirs, most), temperature, mask_id, unknown_id)

    @torch.no_grad()
    def __call__(self, batch: Batch, request: Request = TARGETS_ALONE) -> Answer:
        assert self.model is not None, "a released teacher is not asked again"
        device, readings = batch.ids_BL.device, self.read(batch)
        length = max(1, *(len(each.ids_T) for each in readings))
        ids_BT, present_BT, documents_BT = (torch.zeros(len(readings), length) for _ in range(3))
        for place, each in enumerate(readings):
            there = slice(len(each.ids_T))
            ids_BT[place, there] = torch.from_numpy(each.ids_T)
            present_BT[place, there] = 1
            documents_BT[place, there] = torch.from_numpy(each.special_T.cumsum())
        present_BT[:, 0] = 1  # of a block of which it can read nothing, too
        rows = _Rows(readings, batch.ids_BL.shape[1], length, request, self._unknown_id)
        want = Want(
            False,
            request.features,
            lambda states_MD, head: self._likelihoods(states_MD, head, rows, ids_BT, device),
            ragged=True,
            documents_BL=None if batch.documents_BL is None else _whole(documents_BT, device),
            present_BL=None if self._mask_id is None else present_BT.bool().to(device),
        )
        output = self.model(_whole(ids_BT, device), rows.all_M.to(device), want)
        features = None
        if request.features:
            features = _at_places(output.features, readings, batch)
        return Answer(NoTargets(), features, output.loss)

    def counted(self, batch: Batch) -> tuple[int, int, int, int, int]:
        """Return of a batch how many tokens end together, how many are read, and chunks.

        Then how many of these are left out; none of a masked model, which has no chunks. Last how
        many of the student's tokens are after what it reads.
        """
        readings, length = self.read(batch), batch.ids_BL.shape[1]
        chunks = Request(chunks=self._mask_id is None)
        rows = _Rows(readings, length, 0, chunks, self._unknown_id)
        ends, read = (sum(len(getattr(r, n)) for r in readings) for n in ("ours_A", "ids_T"))
        beyond = sum(each.num_beyond for each in readings)
        return ends, read, rows.num_chunks, rows.num_unknown, beyond

    def read(self, batch: Batch) -> list[Reading]:
        """Return the blocks of a batch as the teacher reads them."""
        ids_BL: NDArray[np.int64] = batch.ids_BL.cpu().numpy()
        if self._mask_id is None:
            return self._spans.read(ids_BL)
        shown, rows_N = ids_BL.reshape(-1), batch.rows_N.cpu().numpy()
        whole = shown.copy()
        whole[rows_N] = batch.labels_N.cpu().numpy()
        hidden_BL = (whole != shown).reshape(ids_BL.shape)
        readings = self._spans.read(whole.reshape(ids_BL.shape), hidden_BL)
        return [
            each._replace(ids_T=np.where(each.hidden_T, self._mask_id, each.ids_T))
            for each in readings
        ]

    def _likelihoods(
        self,
        states_MD: Tensor,
        head: OutputLayer | None,
        rows: "_Rows",
        ids_BT: Tensor,
        device: torch.device,
    ) -> Chunks | None:
        """Return those of the chunks, and the sorted probabilities at the places."""
        if not rows.asked:
            return None
        in_chunks, labels = len(rows.chunks_M), ids_BT.flatten().long()[rows.labels_M].to(device)
        log_p, sorted_tiles = [], []
        size = self._tile(states_MD, head)
        for start in range(0, max(1, len(states_MD)), size):  # an empty one, too
            states = states_MD[start : start + size]
            logits = (head(states) if head else states).float() / self._temperature
            inside = max(0, min(in_chunks - start, len(states)))
            of_labels = logits[:inside].gather(1, labels[start : start + inside, None]).squeeze(1)
            log_p.append(of_labels - logits[:inside].logsumexp(-1))
            sorted_tiles.append(logits[inside:].softmax(-1).sort(-1, descending=True).values)
        log_p_C = torch.zeros(rows.num_chunks, device=device)
        log_p_C.index_add_(0, rows.chunks_M.to(device), torch.cat(log_p))
        ours = (rows.chunks_N.to(device), log_p_C, rows.places_A.to(device))
        return Chunks(*ours, torch.cat(sorted_tiles))

    @staticmethod
    def _tile(states_MD: Tensor, head: OutputLayer | None) -> int:
        width = states_MD.shape[1] if head is None else len(head.weight_VD)
        return max(1, _TILE_ENTRIES // width)


class _Rows:
    """The rows that are asked for, of blocks of L and of T positions.

    chunks_N: the chunk of each of the student's target rows; of those in none num_chunks. chunks_M,
    labels_M: the chunk of each of the teacher's, and the place of its label in the flattened
    positions. places_A: target rows at places where tokens end together. all_M: the teacher's rows
    in chunks, and then those at these places. num_unknown: the chunks with a token ``unknown_id``,
    which keep their numbers and have no rows.
    """

    def __init__(
        self,
        readings: list[Reading],
        num_ours: int,
        num_theirs: int,
        request: Request,
        unknown_id: int | None,
    ) -> None:
        self.asked, self.num_chunks = request.chunks or request.places, 0
        self.num_unknown = 0
        chunks_N, chunks_M, labels_M, places_A, rows_A = ([] for _ in range(5))
        for block, each in enumerate(readings if self.asked else ()):
            first, count = self.num_chunks, max(0, len(each.ours_A) - 1)
            of_ours = _chunks(each.ours_A, num_ours, first)
            of_theirs = _chunks(each.theirs_A, len(each.ids_T), first)
            is_unknown_T = ~each.special_T & (each.ids_T == unknown_id)
            unknown = np.setdiff1d(of_theirs[is_unknown_T[1:]], [-1])
            self.num_unknown += len(unknown)
            of_ours[np.isin(of_ours, unknown)] = -1
            of_theirs[np.isin(of_theirs, unknown)] = -1
            chunks_N.append(of_ours)
            places = np.flatnonzero(of_theirs >= 0)
            chunks_M.append(of_theirs[places])
            labels_M.append(block * num_theirs + places + 1)
            self.num_chunks += count
            if request.places:
                is_row = each.ours_A < num_ours - 1
                places_A.append(block * (num_ours - 1) + each.ours_A[is_row])
                rows_A.append(block * num_theirs + each.theirs_A[is_row])
        joined = (np.concatenate([np.zeros(0, np.int64), *each]) for each in
                  (chunks_N, chunks_M, labels_M, places_A, rows_A))  # fmt: skip
        tensors: list[Tensor] = [torch.from_numpy(each) for each in joined]
        chunks, self.chunks_M, self.labels_M, self.places_A, at_places_A = tensors
        self.chunks_N = torch.where(chunks < 0, self.num_chunks, chunks)
        self.all_M = torch.cat([self.labels_M - 1, at_places_A])


def _chunks(places_A: NDArray[np.int64], length: int, first: int) -> NDArray[np.int64]:
    """Return the number of the chunk in which each position but the first is, from ``first`` on.

    -1: it is in none. A chunk ends at a place, and begins after the one before.
    """
    number = np.searchsorted(places_A, np.arange(1, max(1, length))) - 1
    return np.where((number >= 0) & (number < len(places_A) - 1), first + number, -1)


def _whole(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.long().to(device)


def _at_places(found: Any, readings: list[Reading], batch: Batch) -> Features:
    """Return the teacher's states where the student's tokens end with its own."""
    device, places_BL = batch.ids_BL.device, torch.full(batch.ids_BL.shape, -1)
    for block, each in enumerate(readings):
        places_BL[block, torch.from_numpy(each.ours_A)] = torch.from_numpy(each.theirs_A)
    taught_BL = (places_BL >= 0).to(device)
    index_BL1 = places_BL.clamp_min(0).to(device)[..., None]
    hidden = {
        number: states_BTD.take_along_dim(index_BL1, 1)
        for number, states_BTD in found.hidden.items()
    }
    return Features(hidden, {}, found.causal, batch.documents_BL, taught_BL=taught_BL)
