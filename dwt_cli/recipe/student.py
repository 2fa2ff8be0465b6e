"""The student before its first step: fresh, opened, or made of its teacher's weights."""

import json
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from dwt_cli.base import atomic
from dwt_cli.base.identity import fingerprint, plain
from dwt_cli.data.corpus import Corpus
from dwt_cli.distill.loss import MaskedLanguageModelling
from dwt_cli.distill.remap.ligo import Growing
from dwt_cli.distill.remap.options import FromTeacher, Ligo
from dwt_cli.distill.remap.picture import draw_origins
from dwt_cli.distill.remap.remap import Account, remap
from dwt_cli.models.checkpoint import open_model
from dwt_cli.models.making import make_model
from dwt_cli.models.options import CheckpointStudent, MadeStudent
from dwt_cli.models.wrapper import MaskedLM
from dwt_cli.recipe.stage import Job, Workshop
from dwt_cli.recipe.teacher import Prepared, Teachers
from dwt_cli.track.display import Display
from dwt_cli.training.options import Optim


class Starts:
    """Where a student begins."""

    def __init__(self, workshop: Workshop, teachers: Teachers) -> None:
        self._shop, self._teachers = workshop, teachers

    def own(self) -> PreTrainedModel:
        """The student as it is without a teacher's weights."""
        run = self._shop.run
        if isinstance(run.student, CheckpointStudent):
            return open_model("student.path", run.student)
        assert isinstance(run.student, MadeStudent)
        return make_model(run.student, run.seed, "student")

    @cached_property
    def maps_id(self) -> str:
        """What determines the maps that `remap=ligo` learns."""
        run = self._shop.run
        return fingerprint(
            "ligo",
            self._shop.corpus_id,
            run.teacher,
            *self._teachers.identities(),
            run.task,
            run.student,
            run.remap,
            self._shop.lasting(getattr(run.remap, "steps", 0)),
            run.eval,  # its facts have a held-out loss
            run.seed,
        )

    def remapped(
        self,
        student: PreTrainedModel,
        options: FromTeacher,
        teacher: Prepared,
        corpus: Corpus,
        display: Display,
        folder: Path,
    ) -> dict[str, Any]:
        """Start the student from its teacher, in place; what that cost and what it is worth.

        losses: held-out, before the student's first step, in nats. Where each tensor comes from
        goes to ``folder``, with a picture.
        """
        assert teacher.model is not None
        facts: dict[str, Any] = {"flops": 0, "seconds": 0.0}

        def loss() -> float:
            plain_student = MaskedLM(student, self._shop.machine.dtype)  # one look: not compiled
            return self._shop.heldout_metrics(plain_student.to(self._shop.machine.device), corpus)[
                "loss"
            ]

        losses = {"teacher": teacher.facts["heldout"]["loss"], "random": loss()}
        if isinstance(options, Ligo):
            account, learned = self._grown(student, teacher.model, options, corpus, display)
            facts = {name: learned[name] for name in facts}
        else:
            account = remap(student, teacher.model, options)
        losses["remapped"] = loss()
        facts["losses"] = losses
        if self._shop.ranks.is_first:
            atomic.write_json(folder / "remap.json", plain(vars(account)) | facts)
            ours, theirs = (model.config.num_hidden_layers for model in (student, teacher.model))
            draw_origins(account, ours, theirs, folder / "remap.png")
        return facts

    def _grown(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        options: Ligo,
        corpus: Corpus,
        display: Display,
    ) -> tuple[Account, dict[str, Any]]:
        """Learn the maps once, and apply them."""
        shop = self._shop
        growing = Growing(student, teacher, options, shop.machine.dtype).to(shop.machine.device)

        def make(folder: Path) -> None:
            job = Job(
                purpose="remap",
                shown_as="remap",
                identity=self.maps_id,
                folder=folder,
                seed=shop.run.seed,
                train=shop.lasting(options.steps),
                optim=Optim(lr=options.lr, weight_decay=0.0),
            )
            facts = shop.train(job, growing, MaskedLanguageModelling(), corpus, display)
            if not shop.ranks.is_first:
                return
            save_file(growing.maps(), folder / "maps.safetensors")
            atomic.write_json(folder / "facts.json", facts)
            shutil.rmtree(folder / "checkpoints")  # finished: nobody resumes it

        place = shop.trained("maps", self.maps_id, make, {"options": plain(options)})
        facts = json.loads((place / "facts.json").read_text(encoding="utf-8"))
        display.update("remap", 1.0, f"held-out {facts['heldout']['loss']:.3f}")
        device = str(shop.machine.device)
        return growing.fold(load_file(place / "maps.safetensors", device=device)), facts
