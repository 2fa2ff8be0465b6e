"""The stage of the maps that a student can start by (remap=ligo)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwt_cli.base.identity import plain
from dwt_cli.distill.remap.options import Ligo
from dwt_cli.recipe import formerly
from dwt_cli.recipe.stage import Context, Done, Stage, facts_of
from dwt_cli.recipe.start import transfer
from dwt_cli.recipe.teacher import Prepared, TeacherStage
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import AdamW

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from dwt_cli.distill.remap.ligo import Growing
    from dwt_cli.distill.remap.remap import Account
    from dwt_cli.recipe.student import StudentStage


@dataclass(frozen=True)
class MapsStage(Stage):
    """Maps that are learned once on the corpus; they make the student of its teacher's weights."""

    kind, word = "maps", "ligo"
    options: Ligo
    student: StudentStage
    teacher: TeacherStage
    name: str = "remap"

    @property
    def parts(self) -> dict[str, Any]:
        """What determines the maps, and the facts of their training."""
        student, of = self.student, self.student.shapes.conditions
        return {
            "text": student.corpus.identity,
            "teacher": self.teacher.options,
            "teachers": self.teacher.identities,
            "task": of.task,
            "student": student.shapes.student,
            "options": self.options,
            "train": of.lasting(self.options.steps).train,
            "eval": of.eval,  # the facts have a held-out loss
            "seed": student.seed,
        }

    @cached_property
    def formerly(self) -> str | None:
        text, teachers = self.student.corpus.formerly, self.teacher.former_identities
        return formerly.of("ligo", self.parts, text=text, teachers=teachers)

    def cost(self, done: Mapping[str, Any]) -> float:
        return self.student.shapes.step_flops * self.options.steps

    def carry_out(self, done: Done, at: Context) -> Path:
        """Return the folder of the maps and of their training's facts."""
        about = {"options": plain(self.options)}
        place = at.trained(self, lambda folder: self._learn(done, at, folder), about)
        at.show.update(self.name, 1.0, f"held-out {facts_of(place).loss:.3f}")
        return place

    def _learn(self, done: Done, at: Context, folder: Path) -> Facts:
        from safetensors.torch import save_file

        from dwt_cli.distill.loss import DistillationLoss

        student, options = self.student, self.options
        growing = self._growing(student.start()[0], done, at)
        of = student.shapes.conditions.lasting(options.steps)
        facts = replace(of, optim=AdamW(lr=options.lr, weight_decay=0.0)).fit(
            self,
            growing,
            DistillationLoss(),
            done[student.corpus.name],
            at,
            purpose="remap",
            seed=student.seed,
            folder=folder,
        )
        if at.ranks.is_first:
            save_file(growing.maps(), folder / "maps.safetensors")
        return facts

    def apply(self, student: PreTrainedModel, done: Done, at: Context) -> Account:
        """Write what the learned maps make of the teacher into the student."""
        from safetensors.torch import load_file

        maps = load_file(done[self.name] / "maps.safetensors", device=str(at.machine.device))
        return self._growing(student, done, at).fold(maps)

    def _growing(self, student: PreTrainedModel, done: Done, at: Context) -> Growing:
        """Return a student whose weights are the maps' functions of its teacher's."""
        from dwt_cli.distill.remap.ligo import Growing
        from dwt_cli.models.wrapper import LanguageModel

        teacher: Prepared = done[self.teacher.name]
        assert teacher.model is not None
        device, dtype = at.machine.device, at.machine.dtype
        LanguageModel(student, dtype).to(device)
        tokens = transfer(self.student, done)
        return Growing(student, teacher.model, self.options, dtype, tokens).to(device)
