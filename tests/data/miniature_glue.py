"""A miniature of GLUE in the original layout: a few made-up sentences a task."""

import random
from pathlib import Path

from dwt_cli.data.glue import TASKS

NUM_TRAIN, NUM_DEV = 40, 20
HEADERS = {
    "SST-2": "sentence label",
    "STS-B": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "QQP": "id qid1 qid2 question1 question2 is_duplicate",
    "MNLI": "index sentence1 sentence2 gold_label",
    "QNLI": "index question sentence label",
    "RTE": "index sentence1 sentence2 label",
    "WNLI": "index sentence1 sentence2 label",
}
MRPC = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]


def _file(name: str, num_rows: int, draw: random.Random) -> str:
    task = TASKS[name]
    header = MRPC if name == "MRPC" else HEADERS.get(name, " ".join(task.header)).split()
    rows = [] if task.header else [header]
    for number in range(num_rows):
        row = dict.fromkeys(header, str(number))
        for column in task.texts:
            row[column] = " ".join(draw.choices(['the "bark', "elin", "ossa's", "um"], k=6))
        label = draw.choice(task.written) if task.labels else f"{draw.uniform(0, 5):.3f}"
        row[task.label] = label
        rows.append([row[column] for column in header])
    mark = "\ufeff" if name == "MRPC" else ""
    return mark + "".join("\t".join(row) + "\n" for row in rows)


def write_glue(folder: Path) -> Path:
    """All nine tasks below a folder; the same ones every time."""
    draw = random.Random(0)
    for name, task in TASKS.items():
        (folder / name).mkdir(parents=True)
        for source, num_rows in [(task.train, NUM_TRAIN), *((dev, NUM_DEV) for dev in task.dev)]:
            text = _file(name, num_rows, draw)
            (folder / name / source.file).write_text(text, encoding="utf-8")
    return folder
