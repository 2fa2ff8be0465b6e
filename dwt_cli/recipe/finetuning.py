"""The fine-tunings of a model under test: each is a student's stage of a labelled task."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel

from dwt_cli.base.errors import UserError
from dwt_cli.base.options import bookkeeping
from dwt_cli.base.ranks import ALONE
from dwt_cli.data.options import Data
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.objective.revise import NoRevision
from dwt_cli.distill.objective.select import AllRows
from dwt_cli.distill.remap.options import RandomStart
from dwt_cli.evaluate.finetuning import FineTuning, Tuned
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.options import Eval
from dwt_cli.models import adapters
from dwt_cli.models.anatomy import is_known, num_positions
from dwt_cli.models.making import classifier_config, make_classifier
from dwt_cli.models.options import Classes, Predicts, Student
from dwt_cli.models.tuning import Tuning
from dwt_cli.recipe.conditions import Conditions
from dwt_cli.recipe.labelled import LabelledStage
from dwt_cli.recipe.samples import train_batches
from dwt_cli.recipe.shapes import Shapes
from dwt_cli.recipe.stage import Context
from dwt_cli.recipe.student import StudentStage
from dwt_cli.tasks.labelled import LabelledTask
from dwt_cli.tasks.texts import BucketedBatches
from dwt_cli.track.display import Display
from dwt_cli.training.options import Ddp, Optim, Train

_CHECKPOINT_EVERY = 2000  # steps: only a long fine-tuning is worth going on with
_LOG_EVERY = 100


@dataclass
class TestedStudent(Student):
    """The model under test, which becomes a classifier whatever head it has."""

    __test__ = False  # pytest: this is no test

    identity: str
    model: PreTrainedModel = bookkeeping(None)

    def start(
        self, seed: int, head: Predicts, config: PreTrainedConfig | None = None
    ) -> tuple[PreTrainedModel, list[str]]:
        assert isinstance(head, Classes)
        return make_classifier(self.model, head.num_outputs, seed), []

    def config(self, setting: str, head: Predicts) -> PreTrainedConfig:
        assert isinstance(head, Classes)
        return classifier_config(self.model, head.num_outputs)


def _problems(model: PreTrainedModel, tuning: Tuning) -> Iterator[str]:
    """Yield why a model cannot be tuned in part."""
    if not tuning.freezes:
        return
    if not is_known(model.config):
        yield f"which matrices of a {model.config.model_type} it changes is not known here"
    elif any(True for _ in tuning.problems_with(*adapters.sizes(model))):
        yield f"a width of {model.config.hidden_size} is too small for it"


class _Part(Display):
    """A display of one stage as a part of something else, and of no other."""

    def __init__(
        self, stage: str, advance: Callable[[float, str], None], say: Callable[[str], None]
    ) -> None:
        self._stage, self._advance, self.say = stage, advance, say

    def update(
        self, stage: str, share: float, text: str = "", seconds: float | None = None
    ) -> None:
        if stage == self._stage:
            self._advance(share, text)


@dataclass(frozen=True)
class TaskTunings:
    """The fine-tunings of one model on one task; see `dwt_cli.evaluate.finetuning.FineTunings`.

    stage: that of any of them.
    """

    stage: StudentStage
    texts: LabelledStage
    at: Context

    @classmethod
    def of(
        cls,
        tested: EvaluatedModel,
        tokenizer: Callable[[], str | None],
        at: Context,
        task: LabelledTask,
        protocol: FineTuning,
        max_length: int,
    ) -> "TaskTunings":
        """Return those of a protocol. tokenizer: returns where the model's is."""
        config = tested.model.config
        for problem in _problems(tested.model, protocol.tuning):
            named = type(protocol.tuning).__name__.lower()
            raise UserError(f"eval.glue.tuning={named}: {problem}; leave it out")
        data = Data(min(max_length, num_positions(config)), config.vocab_size)
        texts = LabelledStage(data, task, tokenizer, cache=at.cache)
        train = Train(
            max_steps=None,
            epochs=float(protocol.epochs),
            batch_size=protocol.batch_size,
            micro_batch_size=None,
            checkpoint_every=_CHECKPOINT_EVERY,
            keep_checkpoints=1,
            log_every=_LOG_EVERY,
        )
        own = Conditions(
            task,
            train,
            protocol.optims[0],
            Eval(every=None, measures=[]),
            Ddp(),
            data,
            mean_length=lambda: texts.length,
        )
        student = TestedStudent(tested.identity, tested.model)
        stage = StudentStage(
            0,
            Shapes(student, RandomStart(), {}, {}, own, (), tuning=protocol.tuning),
            texts,
            None,
            Constant(hard=1.0, soft=0.0),
            NoRevision(),
            AllRows(),
            purpose="fine-tuning",
        )
        return cls(stage, texts, replace(at, ranks=ALONE))

    @property
    def sizes(self) -> Mapping[str, int]:
        return {name: len(texts) for name, texts in self.texts.texts.heldout.items()}

    @property
    def remarks(self) -> list[str]:
        remarks: list[str] = self.texts.texts.report["remarks"]
        return remarks

    @property
    def cut(self) -> str:
        num_cut, length = self.texts.texts.report["cut_texts"], self.texts.data.block_length
        return f"{num_cut:,} texts cut to {length} tokens" if num_cut else ""

    def identity(self, optim: Optim, seed: int) -> str:
        return self._of(optim, seed).identity

    def carry_out(
        self, optim: Optim, seed: int, folder: Path, advance: Callable[[float, str], None]
    ) -> Tuned:
        stage = self._of(optim, seed)
        at = replace(self.at, folder=folder, show=_Part(stage.name, advance, self.at.show.say))
        texts = self.texts.carry_out({}, at)
        facts = stage.carry_out({self.texts.name: texts}, at).facts
        batches = train_batches(stage.shapes.conditions, texts, seed, stage.purpose)
        assert isinstance(batches, BucketedBatches)
        return Tuned(facts.heldout, batches.padding)

    def _of(self, optim: Optim, seed: int) -> StudentStage:
        shapes = self.stage.shapes
        conditions = replace(shapes.conditions, optim=optim)
        return replace(self.stage, seed=seed, shapes=replace(shapes, conditions=conditions))
