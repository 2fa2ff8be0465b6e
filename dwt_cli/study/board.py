"""A study on Weights & Biases: a run that sums it up, and a workspace with panels per factor.

The study's runs are grouped by its name there, with arm, seed and length as tags.
"""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.study.comparisons import judge
from dwt_cli.study.record import StudyRecord
from dwt_cli.study.results import Results
from dwt_cli.study.tables import interval
from dwt_cli.track.options import Entry, Tracker
from dwt_cli.track.wandb import one_line

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


def show(results: Results, folder: Path, options: Tracker, say: Callable[[str], None]) -> None:
    """Send the verdicts, a row per run and the figures of a study's report."""
    study = results.study
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        columns, *cells = csv.reader(file)
    verdicts = [[j.claim.claim, j.length, interval(j.found), j.verdict] for j in judge(results)]
    entry = Entry(
        folder,
        identity=f"study-{fingerprint(study.name, str(folder.resolve()))}",
        name=f"study {study.name}",
        config={"study": study.name, "question": study.question, "arms": study.arms},
        tables={
            "verdicts": (["claim", "length", "difference", "verdict"], verdicts),
            "runs": (columns, cells),
        },
        summary={"num_runs": len(results.cells), "num_left_out": len(results.left_out)},
    )
    with options.labelled(study.name, ["study"]).open(entry, say):
        pass  # everything is there


def workspace(study: StudyRecord, entity: str, project: str) -> "Workspace":
    """Return panels for what comes out and for each factor; a line is an arm's mean."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    def lines(title: str, metric: str) -> wr.LinePlot:
        return wr.LinePlot(
            title=title,
            x="Step",
            y=[metric],
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )

    sections = {
        "what comes out": [
            lines("held-out loss", "heldout/loss"),
            lines("held-out accuracy", "heldout/accuracy"),
            wr.BarPlot(title="held-out loss at the end", metrics=["loss"]),
        ],
        "teacher": [
            lines("teacher's loss on the student's batches", "train/teacher_loss"),
            lines("soft loss", "train/soft_loss"),
            lines("hard loss", "train/hard_loss"),
        ],
        "alpha": [
            lines("weight of the soft loss", "train/alpha_soft"),
            lines("weight of the hard loss", "train/alpha_hard"),
        ],
        "remap": [lines("held-out loss from step 0 on", "heldout/loss")],
        "cost": [
            wr.ScatterPlot(
                title="loss against the student's FLOPs",
                x=wr.SummaryMetric("student_flops"),
                y=wr.SummaryMetric("loss"),
            ),
            wr.ScatterPlot(
                title="loss against the teacher's forward FLOPs",
                x=wr.SummaryMetric("teacher_forward_flops"),
                y=wr.SummaryMetric("loss"),
            ),
            lines("tokens per second", "train/tokens_per_s"),
        ],
    }
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
