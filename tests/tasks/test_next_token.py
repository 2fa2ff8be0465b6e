"""A task that the package has not: what a task must say is enough to train and to evaluate one.

Next tokens with a target at every position but a document's last one, so that blocks have unequal
numbers of targets, and a model of a family whose parts are not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from dwt_cli.base.ranks import ALONE, Ranks
from dwt_cli.data.corpus import Corpus
from dwt_cli.data.options import Frame
from dwt_cli.data.pack import Blocks, pack, write_blocks
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.loss import Distillation, DistillationLoss
from dwt_cli.distill.objective.divergences import ForwardKL
from dwt_cli.distill.teacher.signal import ModelSignal
from dwt_cli.evaluate.blimp import log_likelihoods
from dwt_cli.evaluate.lm import heldout_metrics
from dwt_cli.models.checkpoint import open_model
from dwt_cli.models.options import Checkpoint, Head
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.tasks.batches import HeldoutBatches, TrainBatches
from dwt_cli.tasks.likelihoods import Sentence
from dwt_cli.tasks.options import Task
from dwt_cli.tasks.task import Batch, Place
from dwt_cli.training.checkpoint import Checkpoints
from dwt_cli.training.loop import Training
from dwt_cli.training.options import AdamW, Muon, Optim, Train
from dwt_cli.training.protocols import Observer
from tests.processes import together

CPU = torch.device("cpu")
END, V, L = 3, 160, 24


@dataclass
class NextToken(Task):
    """Every position but the last of a document."""

    head: ClassVar[Head] = Head.causal
    unit: ClassVar[str] = "token"
    pipeline_tag: ClassVar[str] = "text-generation"
    frame: ClassVar[Frame] = Frame(None, "sep_token")
    special_tokens: ClassVar[tuple[str, ...]] = ("sep_token",)

    def num_targets(self, block_length: int) -> int:
        return block_length - 1

    def targets(self, tokenizer: PreTrainedTokenizerBase) -> "Shifted":
        return Shifted(tokenizer.sep_token_id)


@dataclass(frozen=True)
class Shifted:
    ragged: ClassVar[bool] = True
    num_patterns: ClassVar[int | None] = None

    end_id: int

    def batch(self, blocks_BL: NDArray[np.int64], seed: int, places: Sequence[Place]) -> Batch:
        ends_BL = blocks_BL == self.end_id
        documents_BL = np.cumsum(ends_BL, axis=1) - ends_BL
        is_target = (np.arange(blocks_BL.shape[1]) < blocks_BL.shape[1] - 1) & ~ends_BL
        rows_N = np.flatnonzero(is_target)
        labels_N = np.roll(blocks_BL, -1, axis=1).reshape(-1)[rows_N]
        tensors = (blocks_BL, rows_N, labels_N, np.array(places), documents_BL)
        return Batch(*map(torch.from_numpy, tensors), ragged=self.ragged)

    def log_likelihoods(
        self, model: LanguageModel, sentences: Sequence[Sentence], device: torch.device
    ) -> NDArray[np.float64]:
        found = []
        for ids in sentences:
            logits_LV = model(torch.tensor([ids]), torch.arange(len(ids) - 1)).logits_NV.double()
            log_p_LV = logits_LV.log_softmax(-1)
            found.append(sum(log_p_LV[n, id].item() for n, id in enumerate(ids[1:])))
        return np.array(found)


def gpt2(seed: int = 0, num_layers: int = 1) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"n_embd": 16, "n_head": 2, "n_layer": num_layers}
    dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=64, **sizes, **dropouts))


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    """Documents of a few tokens each, in which a token is followed by the next number."""
    draw = np.random.default_rng(0)
    starts, lengths = draw.integers(5, 90, 300), draw.integers(3, 12, 300)
    documents = [list(range(s, s + n)) for s, n in zip(starts.tolist(), lengths, strict=True)]
    before, after = [], [END]
    write_blocks(pack(documents, L, before, after), tmp_path / "blocks", V, 1000)
    return Blocks(tmp_path / "blocks")


class Losses(list[float], Observer):
    def stepped(self, step: int, progress: float, metrics: Any) -> None:
        self.append(metrics["loss"])


FAST = AdamW(lr=0.02, warmup=0.0, decay=0.0)


def train(
    blocks: Blocks,
    folder: Path,
    num_parts: int = 1,
    teacher: LanguageModel | None = None,
    optim: Optim = FAST,
    ranks: Ranks = ALONE,
) -> tuple[LanguageModel, Losses, HeldoutBatches]:
    """The one loop and the one loss, on batches of the task. num_parts: of all ranks."""
    model = LanguageModel(gpt2(), torch.float32)
    batches = TrainBatches(blocks, Shifted(END), 8, 0, "student")
    heldout = HeldoutBatches(blocks, Shifted(END), 20, 7)
    setup = teacher and Distillation(ModelSignal(teacher), Constant(), {"logits": ForwardKL()})
    losses = Losses()
    Training(
        model=model,
        loss=DistillationLoss(setup or None),
        batches=batches,
        optim=optim,
        options=Train(
            max_steps=30 if optim is FAST else 20,
            epochs=None,
            batch_size=8,
            micro_batch_size=8 // num_parts,
            checkpoint_every=100,
        ),
        evaluate=lambda model: heldout_metrics(model, heldout, CPU),
        eval_every=None,
        checkpoints=Checkpoints(folder, "next token", 1, print, ranks),
        observers=[losses],
        device=CPU,
        seed=0,
        ranks=ranks,
    ).run()
    return model, losses, heldout


def test_a_task_of_a_test_is_trained_evaluated_and_distilled(
    blocks: Blocks, tmp_path: Path
) -> None:
    model, losses, heldout = train(blocks, tmp_path / "alone")
    assert losses[0] == pytest.approx(np.log(V), rel=0.05), "the mean over all targets"
    assert losses[-1] < 0.5 * losses[0]
    found = heldout_metrics(model, heldout, CPU)
    by_hand, count = 0.0, 0
    with torch.no_grad():
        for batch in heldout:
            its_own_BLL = batch.documents_BL[:, :, None] == batch.documents_BL[:, None]
            logits_BLV = model.model(
                batch.ids_BL,
                position_ids=its_own_BLL.tril(-1).sum(-1),
                attention_mask=its_own_BLL.tril()[:, None],
            ).logits
            logits_NV = logits_BLV.flatten(0, 1)[batch.rows_N]
            log_p_NV = logits_NV.double().log_softmax(-1)
            by_hand -= log_p_NV.gather(1, batch.labels_N[:, None]).sum().item()
            count += len(batch.labels_N)
    assert count == heldout.num_targets < 20 * (L - 1)
    assert found["loss"] == pytest.approx(by_hand / count, rel=1e-5)
    _, split, _ = train(blocks, tmp_path / "split", num_parts=4)
    assert split == pytest.approx(losses, rel=1e-3)
    _, taught, _ = train(blocks, tmp_path / "taught", teacher=model)
    assert taught[0] > losses[0], "the soft loss comes on top"
    assert taught[-1] < 0.5 * taught[0]


SLOW: dict[str, tuple[Optim, float]] = {
    "adamw": (AdamW(lr=2e-3, clip_norm=float("inf")), 1e-5),
    "muon": (Muon(lr=2e-3, clip_norm=float("inf")), 1e-3),
}


@pytest.mark.slow
@pytest.mark.parametrize("optim", SLOW)
@pytest.mark.parametrize(("num_ranks", "num_parts"), [(1, 8), (2, 2), (2, 8), (4, 4), (4, 8)])
def test_blocks_of_unequal_targets_are_shared_by_any_number_of_ranks(
    blocks: Blocks, tmp_path: Path, num_ranks: int, num_parts: int, optim: str
) -> None:
    rules, tolerance = SLOW[optim]
    teacher = LanguageModel(gpt2(1), torch.float32)
    _, alone, _ = train(blocks, tmp_path / "alone", 1, teacher, rules)
    folders = tmp_path / "blocks", tmp_path / "shared"
    for losses in together(num_ranks, _losses, *folders, num_parts, rules):
        assert len(losses) == 20
        assert losses[0] == pytest.approx(alone[0], rel=1e-6)
        assert losses == pytest.approx(alone, rel=tolerance)


def _losses(ranks: Ranks, blocks: Path, folder: Path, num_parts: int, optim: Optim) -> list[float]:
    torch.set_num_threads(1)
    teacher = LanguageModel(gpt2(1), torch.float32)
    return list(train(Blocks(blocks), folder, num_parts, teacher, optim, ranks)[1])


def test_it_scores_sentences(corpus: Corpus) -> None:
    task, model = NextToken(), LanguageModel(gpt2(), torch.float32).eval()
    before, after = task.frame.ids(corpus.tokenizer)
    sentences = [(*before, *ids, *after) for ids in ((7, 9), (11, 30, 31, 12), (9, 7))]
    found = log_likelihoods(model, sentences, task.targets(corpus.tokenizer), CPU)
    for sentence, log_p in zip(sentences, found, strict=True):
        with torch.no_grad():
            log_p_LV = model.model(torch.tensor([sentence])).logits[0].double().log_softmax(-1)
        expected = sum(log_p_LV[place, token].item() for place, token in enumerate(sentence[1:]))
        assert log_p == pytest.approx(expected, rel=1e-5)


def test_its_models_are_opened_with_their_head(tmp_path: Path) -> None:
    gpt2().save_pretrained(tmp_path)
    opened, _ = open_model("teacher.path", Checkpoint(path=str(tmp_path)), NextToken.head)
    assert isinstance(opened, GPT2LMHeadModel)


def test_targets_are_known_by_place_and_document(blocks: Blocks) -> None:
    batch = TrainBatches(blocks, Shifted(END), 8, 0, "student").batch(3, 1, 2)
    assert batch.documents_BL is not None
    blocks_BL = blocks[batch.places_B3[:, 0].numpy()]
    np.testing.assert_array_equal(batch.ids_BL, blocks_BL)
    documents_N = batch.documents_BL.flatten()
    assert torch.equal(documents_N[batch.rows_N], documents_N[batch.rows_N + 1])
    assert batch.to(CPU).ragged
