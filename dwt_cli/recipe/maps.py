"""The stage that learns maps from the teacher's weights to the student's (remap=ligo)."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.distill.loss import DistillationLoss
from dwt_cli.distill.remap.ligo import Growing
from dwt_cli.distill.remap.options import Ligo
from dwt_cli.distill.remap.remap import Account
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Context, Done, Stage
from dwt_cli.recipe.teacher import Prepared, TeacherStage
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import AdamW


@dataclass(frozen=True)
class MapsStage(Stage):
    """Maps that are learned once on the corpus; they make the student of its teacher's weights.

    teaches: the options of the teacher.
    """

    kind = "maps"
    options: Ligo
    seed: int
    shapes: Shapes
    corpus: CorpusStage
    teacher: TeacherStage
    teaches: Teacher
    name: str = "remap"

    @cached_property
    def identity(self) -> str:
        of = self.shapes.conditions
        # the facts of the training have a held-out loss
        trained = (self.options, of.lasting(self.options.steps), of.eval, self.seed)
        taught = (self.teaches, *self.teacher.identities)
        student = self.shapes.student
        return fingerprint("ligo", self.corpus.identity, *taught, of.task, student, *trained)

    def cost(self, done: Mapping[str, Any]) -> float:
        return self.shapes.step_flops * self.options.steps

    def carry_out(self, done: Done, at: Context) -> Path:
        """Return the folder of the maps and of their training's facts."""
        place = at.trained(
            self, lambda folder: self._learn(done, at, folder), {"options": plain(self.options)}
        )
        at.show.update(self.name, 1.0, f"held-out {self.facts(place).loss:.3f}")
        return place

    def _learn(self, done: Done, at: Context, folder: Path) -> None:
        options, conditions = self.options, self.shapes.conditions
        optim = AdamW(lr=options.lr, weight_decay=0.0)
        setup = conditions.setup("remap", self, folder, self.seed, steps=options.steps, optim=optim)
        growing = self._growing(self.shapes.start(self.seed), done, at)
        corpus = done[self.corpus.name]
        facts = conditions.fit(setup, growing, DistillationLoss(), corpus, corpus, at)
        if at.ranks.is_first:
            save_file(growing.maps(), folder / "maps.safetensors")
            atomic.write_json(folder / "facts.json", facts.to_json())
            shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

    def facts(self, place: Path) -> Facts:
        """Return the facts of the maps' training."""
        return Facts.from_json(json.loads((place / "facts.json").read_text(encoding="utf-8")))

    def apply(self, student: PreTrainedModel, done: Done, at: Context) -> Account:
        """Write what the learned maps make of the teacher into the student."""
        maps = load_file(done[self.name] / "maps.safetensors", device=str(at.machine.device))
        return self._growing(student, done, at).fold(maps)

    def _growing(self, student: PreTrainedModel, done: Done, at: Context) -> Growing:
        """Return a student whose weights are the maps' functions of its teacher's."""
        teacher: Prepared = done[self.teacher.name]
        assert teacher.model is not None
        device, dtype = at.machine.device, at.machine.dtype
        LanguageModel(student, dtype).to(device)
        return self.options.growing(student, teacher.model, dtype).to(device)
