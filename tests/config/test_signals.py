"""What a cached signal cannot be together with: a line each, with the remedy."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dwt_cli.config import check, signals
from dwt_cli.config.run import Run
from dwt_cli.distill.alpha import Constant
from dwt_cli.distill.objective.chunks import Alm
from dwt_cli.distill.objective.divergences import ForwardKL, ReverseKL, TopK
from dwt_cli.distill.objective.relations import MiniLMv2
from dwt_cli.distill.objective.revise import LabelRevision
from dwt_cli.distill.objective.select import Gate, Uncertain
from dwt_cli.distill.signal.options import LikeliestOnly, Online, Sampled, Threshold
from dwt_cli.distill.teacher.options import NoTeacher, VirtualTeacher
from dwt_cli.distill.teacher.options import Online as Learning
from dwt_cli.distill.teacher.several import SeveralTeachers, Weighting
from dwt_cli.training.options import NonFinite


@pytest.fixture(scope="module")
def run(composed: Callable[..., Run]) -> Run:
    run = composed("signal=threshold", "tracker=none")
    return replace(run, choices={"signal": "it", "teacher": "this"})


def several(run: Run, weighting: Weighting) -> SeveralTeachers:
    return SeveralTeachers(["a", "b"], [run.teacher, run.teacher], weighting=weighting)


REFUSED: dict[str, Callable[[Run], dict[str, Any]]] = {
    "no model": lambda run: {"teacher": VirtualTeacher(0.9)},
    "teacher.online": lambda run: {"teacher": replace(run.teacher, online=Learning.head)},  # type: ignore[call-arg]
    "teacher.weighting=token": lambda run: {"teacher": several(run, Weighting.token)},
    "teacher.weighting=batch": lambda run: {"teacher": several(run, Weighting.batch)},
    "features": lambda run: {"objective": {"logits": ForwardKL(), "f": MiniLMv2()}},
    "objective=logits": lambda run: {"objective": {"it": ReverseKL()}},
    "objective=top_k": lambda run: {"signal": LikeliestOnly()},
    "signal.num_entries=4": lambda run: {
        "signal": LikeliestOnly(4),
        "objective": {"top_k": TopK(k=5)},
    },
    "temperature_end=3": lambda run: {"objective": {"it": ForwardKL(temperature_end=3.0)}},
    "one temperature": lambda run: {
        "objective": {"one": ForwardKL(), "other": ForwardKL(temperature=2.0)}
    },
    "revise=none": lambda run: {"revise": LabelRevision()},
    "select.entropy": lambda run: {"select": Uncertain()},
    "train.max_minutes=5": lambda run: {"train": replace(run.train, max_minutes=5.0)},
    "non_finite=rollback": lambda run: {"train": replace(run.train, non_finite=NonFinite.rollback)},
    "below the vocabulary's size": lambda run: {"signal": Sampled(run.data.vocab_size)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_a_line_with_the_remedy(run: Run, what: str) -> None:
    changes = REFUSED[what](run)
    with pytest.raises(Exception, match=what) as problem:
        check.check(replace(run, **changes))
    assert "\n" not in str(problem.value)
    check.check(replace(run, **{**changes, "signal": Online()}))


def test_likelihoods_of_text_are_not_kept(run: Run) -> None:
    (line,) = signals.problems(replace(run, objective={"alm": Alm()}))
    assert "objective=alm" in line and "or signal=online" in line


ACCEPTED: dict[str, Callable[[Run], dict[str, Any]]] = {
    "as it is": lambda run: {},
    "sampled": lambda run: {"signal": Sampled(50)},
    "the likeliest": lambda run: {"signal": LikeliestOnly(), "objective": {"top_k": TopK(k=12)}},
    "warm": lambda run: {"objective": {"it": ForwardKL(temperature=2.0)}},
    "selected": lambda run: {"select": Gate()},
    "an entropy": lambda run: {"select": Uncertain(entropy=1.5)},
    "nobody teaches": lambda run: {"teacher": NoTeacher(), "revise": LabelRevision()},
    "nobody listens": lambda run: {"alpha": Constant(soft=0.0), "revise": LabelRevision()},
    "several": lambda run: {"teacher": several(run, Weighting.fixed)},
}


@pytest.mark.parametrize("what", ACCEPTED)
def test_accepted(run: Run, what: str) -> None:
    check.check(replace(run, **ACCEPTED[what](run)))


def test_settings_of_a_signal_have_ranges(run: Run) -> None:
    for cached in (Threshold(0), Threshold(seed=-1)):
        with pytest.raises(Exception, match="at least"):
            check.check(replace(run, signal=cached))
