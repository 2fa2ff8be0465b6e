"""What an arm of a study sets, as words of a command. Imports no torch."""

import shlex
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from dwt_cli.base.errors import UserError, not_among


def words_of(composed: DictConfig, typed: Sequence[str]) -> list[str]:
    """The words of the arm that a study's composed config names.

    typed: the words of the command itself. Raises `UserError` for an arm that there is not, and
    where the command sets what the arm sets: all arms would be the same.
    """
    arms = composed.study.arms
    if OmegaConf.is_missing(composed, "arm") or composed.arm not in arms:
        arm = "..." if OmegaConf.is_missing(composed, "arm") else composed.arm
        raise UserError(not_among(f"arm={arm}", "arm", arm, list(arms), prefix="arm="))
    words = shlex.split(arms[composed.arm])
    theirs = {word.partition("=")[0]: word for word in typed}
    for word in words:
        if (key := word.partition("=")[0]) in theirs and theirs[key] != word:
            raise UserError(
                f"{theirs[key]}: the arm {composed.arm} says {word}; leave it out, or write an arm "
                f"of your own: '+study.arms.mine=\"...\"' arm={composed.arm},mine"
            )
    return words


def as_written(composed: DictConfig) -> dict[str, str]:
    """Every arm of a study as its file has it, the seed not yet filled in."""
    written = OmegaConf.to_container(composed.study.arms, resolve=False)
    assert isinstance(written, dict)
    return {str(arm): str(words) for arm, words in written.items()}
