"""Shared by all tests: a tiny corpus built by the project's own code, tiny architectures."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dwt_cli.config.compose import runs_of
from dwt_cli.config.run import Run
from dwt_cli.data.options import Data, TokenizerKind
from dwt_cli.data.source import Document, Progress, Source
from dwt_cli.models.options import Architecture, Family

# a background shell ignores Ctrl-C, and its children with it: the tests send signals to theirs
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny tensors; threads would wait for each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # else a name on the hub is asked for again and again

_LONGEST = (
    *("config/test_mistakes.py", "launch/test_launch.py", "recipe/test_resume.py"),
    *("golden/test_identities.py", "test_contracts.py", "recipe/test_teacher.py"),
    *("launch/test_sweep.py", "training/test_parallel.py", "recipe/test_memory.py"),
    *("cli/test_main.py", "track/test_wandb.py"),
)

VOCAB_SIZE = 160
BLOCK_LENGTH = 24


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: processes that take a file each are done at the same time."""

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)

    items.sort(key=place)


class Sentences(Source):
    """Documents of sentences in which each word has few successors: there is something to learn."""

    def __init__(self, num_documents: int = 60, seed: int = 0) -> None:
        self.num_documents, self.seed = num_documents, seed

    def documents(self, progress: Progress) -> Iterator[Document]:
        draw = random.Random(self.seed)
        words = [a + b for a in "bdglmnrst" for b in ("ark", "elin", "ossa", "um", "ive")]
        follow = {word: draw.sample(words, 3) for word in words}
        for number in range(self.num_documents):
            paragraphs = []
            for _ in range(8):
                sentence = [draw.choice(words)]
                while len(sentence) < 12:
                    sentence.append(draw.choice(follow[sentence[-1]]))
                paragraphs.append(" ".join(sentence) + ".")
            yield Document(f"document {number}", tuple(paragraphs))

    def provenance(self) -> dict[str, Any]:
        return {"sentences": self.num_documents, "seed": self.seed}


@pytest.fixture(scope="session")
def sentences() -> type[Sentences]:
    return Sentences


@pytest.fixture(scope="session")
def data_options() -> Data:
    return Data(
        block_length=BLOCK_LENGTH,
        vocab_size=VOCAB_SIZE,
        tokenizer_kind=TokenizerKind.wordpiece,
        heldout_fraction=0.25,
    )


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, data_options: Data) -> Path:
    from dwt_cli.data.corpus import build
    from dwt_cli.data.source import no_progress
    from dwt_cli.tasks.options import MaskedLM

    folder = tmp_path_factory.mktemp("corpus")
    build(Sentences(), data_options, MaskedLM.frame, None, folder, no_progress, print)
    return folder


@pytest.fixture(scope="session")
def corpus(corpus_folder: Path) -> Any:
    from dwt_cli.data.corpus import Corpus

    return Corpus.open(corpus_folder)


@pytest.fixture
def glue_folder(tmp_path: Path) -> Path:
    from tests.data.miniature_glue import write_glue

    return write_glue(tmp_path / "glue")


@pytest.fixture(scope="session")
def masking(corpus: Any) -> Any:
    return masking_of(corpus)


def masking_of(corpus: Any) -> Any:
    from dwt_cli.tasks.options import MaskedLM

    return MaskedLM().targets(corpus.tokenizer)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Architecture]:
    return tiny_architecture


def tiny_architecture(family: str = "bert", num_layers: int = 2, **changes: Any) -> Architecture:
    """Options of a model of some ten thousand parameters; give what shall be otherwise."""
    options: dict[str, Any] = {
        "width": 16,
        "num_heads": 2,
        "mlp_width": 24,
        "vocab_size": VOCAB_SIZE,
        "max_length": BLOCK_LENGTH,
        "dropout": 0.0,
    }
    return Architecture(num_layers=num_layers, family=Family[family], **options | changes)


def outlined(options: Any, device: str = "meta") -> Any:
    """The model that options describe, as shapes alone."""
    from dwt_cli.models.making import config_of, outline

    return outline(config_of(options), options.family.predicts, device)


@pytest.fixture(scope="session")
def composed() -> Callable[..., Run]:
    """``conf/`` composed as the command line does it, with overrides."""
    return lambda *overrides: runs_of(overrides)[0][0]
