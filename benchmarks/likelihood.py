"""BLiMP by a 6 x 256 decoder: the project's likelihoods against lm-evaluation-harness's.

Both start from read sentences and end with accuracies, in fp32, with one model of random weights
and one tokenizer, trained on the embedded text. The harness gets the batch size at which it is
fastest. Their likelihoods are compared sentence by sentence. Needs the extra ``harness``.
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from provenance import provenance
from timing import SMOKE, in_turn, ratios, spread, table, timed

from dwt_cli.data.bpe import train_tokenizer
from dwt_cli.data.docs import Docs
from dwt_cli.data.source import no_progress
from dwt_cli.evaluate import blimp
from dwt_cli.evaluate.harness import quiet
from dwt_cli.evaluate.measurement import EvaluatedModel
from dwt_cli.evaluate.options import Blimp
from dwt_cli.evaluate.sentences import encode
from dwt_cli.models.making import make_model
from dwt_cli.models.options import Architecture, Family
from dwt_cli.tasks.options import CausalLM

_BATCH_SIZES = (8, 16, 32, 64, 128)
_TASK = """\
include: {own}
task: {name}
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {file}}}
"""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    files, num_pairs = Blimp(options.blimp, options.pairs), options.pairs
    tested = _model()
    pairs = blimp.read(files, print)
    with quiet():
        tasks = _tasks(sorted(Path(options.blimp).glob("*.jsonl")))

    def theirs(batch_size: int, limit: int | None = num_pairs, samples: bool = False) -> Any:
        from lm_eval import evaluate
        from lm_eval.models.huggingface import HFLM

        with quiet():
            model = HFLM(tested.model, tokenizer=tested.tokenizer, batch_size=batch_size)
            return evaluate(model, tasks, limit=limit, log_samples=samples)

    few = max(10, (num_pairs or 1000) // 10)  # of each file, to find the best batch size
    cpu = torch.device("cpu")
    trials = {n: timed(lambda n=n: theirs(n, few), cpu) for n in _BATCH_SIZES}  # type: ignore[misc]
    best = min(trials, key=lambda n: min(trials[n]() for _ in range(2)))
    seconds = in_turn(
        {
            "project": timed(lambda: blimp.scores(tested, files, print), cpu),
            "harness": timed(lambda: theirs(best), cpu),
        },
        rounds=1 if options.quick else options.rounds,
        warm_up=0 if options.quick else 1,
    )
    found = theirs(best, samples=True)["samples"]
    expected = np.array([
        [resp[0][0] for resp in item["resps"]] for task in sorted(found) for item in found[task]
    ])  # fmt: skip
    sentences, _ = encode(tested, [text for pair in pairs for text in pair[:2]])
    targets = tested.task.targets(tested.tokenizer)
    ours = blimp.log_likelihoods(tested.language_model, sentences, targets, cpu).reshape(-1, 2)
    same = (ours.argmax(1) == expected.argmax(1)).sum()
    rows = [(name, spread(values, 2)) for name, values in seconds.items()]
    speed = spread(ratios(seconds["harness"], seconds["project"]), 2)
    lines = [
        *provenance(),
        "",
        *([SMOKE, ""] if options.quick else []),
        *table(("", "seconds, median (min .. max)"), rows),
        "",
        f"{len(pairs):,} pairs, {np.mean([len(each) - 1 for each in sentences]):.1f} tokens each. "
        f"Harness / project: {speed}, the harness at its best batch size of {best}. "
        f"Largest difference of a log-likelihood: {np.abs(ours - expected).max():.1e}; "
        f"the same answer: {same:,} of {len(pairs):,}.",
    ]
    print("\n".join(lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blimp", help="the folder with BLiMP's .jsonl files")
    parser.add_argument("--pairs", type=int, help="of each file; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    return parser.parse_args()


def _model() -> EvaluatedModel:
    texts = [
        text
        for document in islice(Docs([]).documents(no_progress), 2000)
        for text in document.paragraphs
    ]
    tokenizer = train_tokenizer(texts, 8192, 64)
    architecture = Architecture(
        num_layers=6,
        width=256,
        num_heads=4,
        mlp_width=512,
        vocab_size=len(tokenizer),
        max_length=64,
        family=Family.qwen3,
    )
    made = make_model(architecture, 0, "student").eval()
    return EvaluatedModel(made, tokenizer, CausalLM(), "", torch.device("cpu"), torch.float32)


def _tasks(files: list[Path]) -> Any:
    import lm_eval
    from lm_eval.tasks import TaskManager

    own = Path(lm_eval.__file__).parent / "tasks" / "blimp" / "adjunct_island.yaml"
    with tempfile.TemporaryDirectory() as folder:
        for file in files:
            task = _TASK.format(own=own, name=file.stem, file=file.absolute())
            (Path(folder) / f"{file.stem}.yaml").write_text(task, encoding="utf-8")
        tasks = TaskManager(include_path=folder, include_defaults=False)
        return tasks.load([file.stem for file in files])


if __name__ == "__main__":
    main()
