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
from dwt_cli.base.cache import Cache
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.distill.loss import DistillationLoss
from dwt_cli.distill.remap.ligo import Growing
from dwt_cli.distill.remap.options import Ligo
from dwt_cli.distill.remap.remap import Account
from dwt_cli.distill.teacher.options import Teacher
from dwt_cli.models.options import Student
from dwt_cli.models.wrapper import LanguageModel
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Context, Done, Setup, Stage, train
from dwt_cli.recipe.teacher import Prepared, TeacherStage
from dwt_cli.track.summary import Facts
from dwt_cli.training.options import AdamW


@dataclass(frozen=True, kw_only=True)
class MapsStage(Stage):
    """The maps from the teacher's weights to the student's, learned once on the corpus (LiGO)."""

    name: str = "remap"
    options: Ligo
    student: Student
    seed: int
    shapes: Shapes
    corpus: CorpusStage
    teacher: TeacherStage
    teacher_options: Teacher

    @cached_property
    def identity(self) -> str:
        conditions = self.shapes.conditions
        return fingerprint(
            "ligo",
            self.corpus.identity,
            self.teacher_options,
            *self.teacher.identities,
            conditions.task,
            self.student,
            self.options,
            conditions.lasting(self.options.steps),
            conditions.eval,  # its facts have a held-out loss
            self.seed,
        )

    def cost(self, done: Mapping[str, Any]) -> float:
        return self.shapes.step_flops * self.options.steps

    def is_kept(self, cache: Cache) -> bool:
        return cache.holds("maps", self.identity)

    def carry_out(self, done: Done, at: Context) -> Path:
        """Return the folder of the maps and of their training's facts."""

        def make(folder: Path) -> None:
            conditions = self.shapes.conditions
            corpus = done[self.corpus.name]
            setup = Setup(
                purpose="remap",
                stage=self.name,
                identity=self.identity,
                folder=folder,
                seed=self.seed,
                train=conditions.lasting(self.options.steps),
                optim=AdamW(lr=self.options.lr, weight_decay=0.0),
                parallel=conditions.parallel,
                eval_every=conditions.eval.every,
                step_flops=self.shapes.step_flops,
            )
            growing = self.growing(self.student.start(self.seed, conditions.task.head), done, at)
            facts = train(
                setup,
                growing,
                DistillationLoss(),
                conditions.batches(corpus, setup.seed, setup.purpose),
                conditions.evaluation(corpus, at.machine, at.ranks),
                at,
            )
            if not at.ranks.is_first:
                return
            save_file(growing.maps(), folder / "maps.safetensors")
            atomic.write_json(folder / "facts.json", facts.to_json())
            shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

        place = at.trained("maps", self.identity, make, {"options": plain(self.options)})
        at.show.update(self.name, 1.0, f"held-out {self.facts(place).loss:.3f}")
        return place

    def facts(self, place: Path) -> Facts:
        """Return the facts of the maps' training."""
        return Facts.from_json(json.loads((place / "facts.json").read_text(encoding="utf-8")))

    def growing(self, student: PreTrainedModel, done: Done, at: Context) -> Growing:
        """Return a student whose weights are the maps' functions of its teacher's."""
        teacher: Prepared = done[self.teacher.name]
        assert teacher.model is not None
        device, dtype = at.machine.device, at.machine.dtype
        LanguageModel(student, dtype).to(device)
        return self.options.growing(student, teacher.model, dtype).to(device)

    def apply(self, student: PreTrainedModel, done: Done, at: Context) -> Account:
        """Write what the learned maps make of the teacher into the student."""
        maps = load_file(done[self.name] / "maps.safetensors", device=str(at.machine.device))
        return self.growing(student, done, at).fold(maps)
