"""What compiles a model of a stage while it trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwt_cli.models.wrapper import Wrapper
    from dwt_cli.recipe.conditions import Conditions
    from dwt_cli.recipe.stage import Context
    from dwt_cli.training.compiling import Compiling


def compiling_of(
    of: Conditions,
    model: Wrapper,
    compile_loss: Callable[[], None] | None,
    folder: Path,
    at: Context,
) -> Compiling | None:
    """Return what compiles a model while it trains, where that is wanted and possible."""
    if not of.train.compile:
        return None
    from dwt_cli.training.compiling import DECISION, Compiling, KeptCode, write_down

    is_sharded = of.parallel.sharding(at.ranks.size)
    if compile_loss is None or is_sharded:
        what = "a sharded model" if is_sharded else "a model with hooks or computed weights"
        if at.ranks.is_first:
            off = {"compiled": False, "why": f"off: {what} is not compiled"}
            write_down(off, folder / DECISION, at.show.say)
        return None

    def compile_all() -> None:
        model.compile_layers()
        compile_loss()

    shape = [of.train.num_blocks(at.ranks.size), of.data.block_length]
    facts = {"shape": shape, "num_targets": of.num_targets}
    code = KeptCode.of(model, at.machine, at.show.say, **facts)
    return Compiling(
        model,
        code,
        compile_all,
        of.train.compile is True,
        at.machine.device.type,
        of.tokens_per_step,
        folder / DECISION,
        Path(of.train.compile_with) if of.train.compile_with else None,
        at.show.say,
        at.ranks,
    )
