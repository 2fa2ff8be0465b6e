"""A study on Weights & Biases: a run that sums it up, and a workspace with panels per factor.

The study's runs are grouped by its name there, with arm, seed and length as tags.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.study.record import StudyRecord
from dwt_cli.study.results import Results
from dwt_cli.study.tables import runs_table, verdicts
from dwt_cli.track.options import Entry, Tracker
from dwt_cli.track.wandb import one_line

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


_CURVES = {
    "what comes out": {"heldout/loss": "held-out loss", "heldout/accuracy": "held-out accuracy"},
    "teacher": {
        "train/teacher_loss": "teacher's loss on the student's batches",
        "train/soft_loss": "soft loss",
        "train/hard_loss": "hard loss",
    },
    "alpha": {f"train/alpha_{loss}": f"weight of the {loss} loss" for loss in ("soft", "hard")},
    "remap": {"heldout/loss": "held-out loss from step 0 on"},
    "cost": {"train/tokens_per_s": "tokens per second"},
}


def show(results: Results, folder: Path, options: Tracker, say: Callable[[str], None]) -> None:
    """Send the verdicts, a row per run and the figures of a study's report."""
    study = results.study
    tables = {"verdicts": pd.DataFrame(verdicts(results)), "runs": runs_table(results)}
    entry = Entry(
        folder,
        identity=f"study-{fingerprint(study.name, str(folder.resolve()))}",
        name=f"study {study.name}",
        config={"study": study.name, "question": study.question, "arms": study.arms},
        tables={
            name: (list(table), table.fillna("").astype(str).to_numpy().tolist())
            for name, table in tables.items()
        },
        summary={"num_runs": len(results.runs), "num_left_out": len(results.left_out)},
    )
    with options.labelled(study.name, ["study"]).open(entry, say):
        pass  # everything is there


def workspace(study: StudyRecord, entity: str, project: str) -> "Workspace":
    """Return panels for what comes out and for each factor; a line is an arm's mean."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    looks = {"x": "Step", "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
    sections: dict[str, list[Any]] = {
        name: [wr.LinePlot(title=title, y=[metric], **looks) for metric, title in curves.items()]
        for name, curves in _CURVES.items()
    }
    bar = wr.BarPlot(title="held-out loss at the end", metrics=["loss"])
    sections["what comes out"].append(bar)
    for whose, metric in (
        ("student's", "student_flops"),
        ("teacher's forward", "teacher_forward_flops"),
    ):
        x, y = wr.SummaryMetric(metric), wr.SummaryMetric("loss")
        title = f"loss against the {whose} FLOPs"
        sections["cost"].append(wr.ScatterPlot(title=title, x=x, y=y))
    return ws.Workspace(
        name=f"dwt {study.name}",
        entity=entity,
        project=project,
        sections=[
            ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()
        ],
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group") == study.name],
            groupby=[ws.Config("arm"), ws.Config("length")],
        ),
    )


def save_workspace(study: StudyRecord, place: str) -> str:
    """Make the workspace at ``ENTITY/PROJECT`` and return its address.

    Raises `UserError` when W&B does not take it.
    """
    entity, slash, project = place.partition("/")
    if not (entity and slash and project):
        raise UserError(f"--workspace {place}: write ENTITY/PROJECT, as in W&B's addresses")
    try:
        saved = workspace(study, entity, project).save()
    except Exception as error:  # whatever a network, a key or a server may say
        raise UserError(
            f"--workspace {place}: W&B did not take it ({one_line(error)}); check the key "
            "(wandb login), the names and the network"
        ) from error
    return str(saved.url)
