"""How far a model is from one that knows a task, on the task's dev texts.

Legend: B texts, L positions, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dwt_cli.distill.objective.attention import Attention
from dwt_cli.models.checkpoint import open_classifier
from dwt_cli.models.features import NO_FEATURES, Features, FeatureSpec
from dwt_cli.models.options import STUDENT_PATH, Checkpoint
from dwt_cli.models.wrapper import Classifier, Want
from dwt_cli.tasks.texts import HeldoutTexts, TextBatch

if TYPE_CHECKING:
    from pathlib import Path

    from dwt_cli.recipe.labelled import LabelledStage

_BATCH_SIZE = 32


class Known:
    """A model that knows a task, and the task's first dev part, on the CPU in fp32.

    texts: the stage that reads them, in its tokens, of classes. folder: of the model.
    """

    def __init__(self, texts: LabelledStage, folder: Path) -> None:
        self._classes, read = texts.task.head, texts.texts
        self._pad_id = read.tokenizer.pad_token_id
        self._batches = list(HeldoutTexts(next(iter(read.heldout.values())), _BATCH_SIZE))
        self._model, fresh = self._open(folder)
        assert not fresh, "it was trained on the task"

    @torch.no_grad()
    def divergence(self, folder: Path, has_answers: bool) -> dict[str, float]:
        """Return how far another model is from it, means over texts, as far as it is defined.

        has_answers: whether the other's head for the classes was trained, if it has one. classes:
        KL(it || the other), in nats, of such a head. attention: the
        difference of `Attention` over all of the other's layers, if it has as many heads.
        """
        model, fresh = self._open(folder)
        config, its = model.model.config, self._model.model.config
        are_alike = config.num_attention_heads == its.num_attention_heads
        scores = Attention().between(config, its)
        ours, theirs = scores.requested() if are_alike else (NO_FEATURES, NO_FEATURES)
        has_classes = has_answers and bool(self._classes.names) and not fresh
        sums = {"classes": 0.0} if has_classes else {}
        sums |= {"attention": 0.0} if are_alike else {}
        num_texts = 0
        for batch in self._batches:
            num_texts += len(batch.labels_N)
            p_BC, seen = _asked(model, batch, ours)
            t_BC, known = _asked(self._model, batch, theirs)
            if "classes" in sums:
                sums["classes"] += float((t_BC.exp() * (t_BC - p_BC)).sum())
            if "attention" in sums:
                mean = float(scores.difference(seen, known))
                sums["attention"] += mean * len(batch.labels_N)
        return {name: value / num_texts for name, value in sums.items()}

    def _open(self, folder: Path) -> tuple[Classifier, list[str]]:
        checkpoint = Checkpoint(str(folder))
        model, fresh = open_classifier(STUDENT_PATH, checkpoint, self._classes, seed=0)
        model.config.pad_token_id = self._pad_id  # by which a decoder finds the ends of texts
        return Classifier(model.eval(), torch.float32), fresh


def _asked(model: Classifier, batch: TextBatch, spec: FeatureSpec) -> tuple[Tensor, Features]:
    """Return log-probabilities of the classes (B, C), and features."""
    output = model(*batch.inputs, Want(features=spec))
    return output.logits_NV.log_softmax(-1), output.features
