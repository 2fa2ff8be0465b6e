"""A run on a dashboard, as the tracker's options say: an observer, or none."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dwt_cli.track.options import Tracker, Wandb
from dwt_cli.track.wandb import WandbTracker


class Dashboard:
    """Weights & Biases as an observer of the student's training; see `dwt_cli.track.wandb`."""

    def __init__(self, options: Wandb, tracker: WandbTracker) -> None:
        self._options, self._tracker = options, tracker

    @classmethod
    def open(
        cls,
        options: Tracker,
        config: dict[str, Any],
        identity: str,
        name: str,
        folder: Path,
        say: Callable[[str], None],
    ) -> "Dashboard | None":
        """None with tracker=none. config: the run's settings as JSON values."""
        if not isinstance(options, Wandb):
            return None
        return cls(
            options,
            WandbTracker.start(
                directory=folder,
                project=options.project,
                entity=options.entity,
                group=options.group,
                tags=[*options.tags, *_tags(config["choices"])],
                run_name=name,
                run_id=identity,
                config=config,
                say=say,
            ),
        )

    def resumed(self, step: int) -> None:
        pass

    def stepped(self, step: int, progress: float, metrics: Mapping[str, float]) -> None:
        self._tracker.log(step, {f"train/{key}": value for key, value in metrics.items()})

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tracker.log(step, {f"heldout/{key}": value for key, value in metrics.items()})

    def finish(self, summary: Mapping[str, Any], folder: Path) -> str | None:
        """Send figures, summary and, if asked for, the model; how to send what is left."""
        self._tracker.figure("curves", folder / "curves.png")
        if self._options.log_model:
            self._tracker.model(folder / "model", folder.name)
        self._tracker.finish(summary)
        return self._tracker.sync_command()

    def scores(self, rows: Sequence[Mapping[str, Any]], summary: Mapping[str, float]) -> str | None:
        """Send the scores of an evaluation, and end; how to send what is left."""
        columns = ["moment", "measure", "task", "metric", "value", "stderr", "num_seeds"]
        self._tracker.table("scores", columns, [[row[name] for name in columns] for row in rows])
        self._tracker.finish(summary)
        return self._tracker.sync_command()

    def abort(self) -> str | None:
        """The run stops before its end."""
        self._tracker.finish({}, exit_code=1)
        return self._tracker.sync_command()


def _tags(choices: Mapping[str, str]) -> list[str]:
    return [
        f"{group}={choices[group]}"
        for group in ("teacher", "alpha", "remap", "scale")
        if group in choices
    ]
