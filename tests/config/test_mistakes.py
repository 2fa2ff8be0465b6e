"""Every mistake is reported in seconds: one line with setting, value, remedy; nothing touched."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    PreTrainedConfig,
)

from dwt_cli.base import atomic
from dwt_cli.cli import main
from dwt_cli.config.check import warnings
from dwt_cli.config.compose import runs_of
from dwt_cli.recipe.corpus import CorpusStage
from dwt_cli.recipe.recipe import recipe_of
from tests.miniature import dwt_train, options, write_text

Snapshot = Mapping[Path, tuple[int, bytes]]


@dataclass(frozen=True)
class Answer:
    """What a command came to: its exit code, and what it printed."""

    code: object
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("dwt-train:")]


Ask = Callable[..., Answer]


@pytest.fixture
def ask(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The front door in this process, as from a shell that stands in ``place``."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def command(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["dwt-train", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            main.main()
        except SystemExit as leave:
            code = leave.code
        printed = capsys.readouterr()
        return Answer(code, printed.out, printed.err)

    return command


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, a finished run, and everything that can be wrong with text and checkpoints."""
    folder = tmp_path_factory.mktemp("mistakes")
    write_text(folder / "text")
    done = dwt_train(*options(folder), "teacher=none", "train.max_steps=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "runs").iterdir()
    shutil.copytree(run / "model", folder / "good")
    (folder / "good" / atomic.SUMS).unlink()  # they are spoilt on purpose
    _write_wrong_text(folder)
    _write_wrong_checkpoints(folder)
    (folder / "a_file").write_text("in the way\n")
    studies = folder / "studies"
    studies.mkdir()
    (studies / "broken.yaml").write_text("defaults: [config\nseed: : 3\n")
    (studies / "target.yaml").write_text(
        "defaults: [config, _self_]\nteacher:\n  _target_: os.mkdir\n  path: it_ran\n"
    )
    (studies / "partial.yaml").write_text("seed: 3\n")
    return folder


def _write_wrong_text(folder: Path) -> None:
    for name, content in {
        "empty/a.txt": b"",
        "blank/a.txt": b" \n\n \n",
        "short/a.txt": b"A few words.\n",
        "latin/a.txt": "Ein schönes Wort.\n".encode("latin-1") * 50,
        "pictures/a.png": b"\x89PNG",
        "rows/a.jsonl": b'{"body": "no text here"}\n',
        "torn/a.jsonl": b'{"text": "no end\n',
        "cut/a.txt.gz": b"\x1f\x8b\x08\x00",
        "table/a.parquet": b"PAR1 not really",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "nothing").mkdir()


class Evil:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def _write_wrong_checkpoints(folder: Path) -> None:
    """Copies of ``good``, each spoilt in one way. What would run writes ``it_ran``."""

    def spoilt(name: str) -> Path:
        return Path(shutil.copytree(folder / "good", folder / name))

    def change(path: Path, **settings: object) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    def config(**settings: object) -> ModernBertConfig:
        return ModernBertConfig.from_pretrained(folder / "good", **settings)

    (spoilt("no_config") / "config.json").unlink()
    (spoilt("torn_config") / "config.json").write_text('{"model_type": "bert",')
    (spoilt("no_weights") / "model.safetensors").unlink()
    weights = spoilt("cut_weights") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ModernBertForSequenceClassification(config()).save_pretrained(spoilt("classifier"))
    GPT2Config(vocab_size=200).save_pretrained(spoilt("gpt2"))
    electra = ElectraConfig(
        vocab_size=200, embedding_size=16, hidden_size=16, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    ElectraForMaskedLM(electra).save_pretrained(spoilt("electra"))
    electra.max_position_embeddings = 8
    ElectraForMaskedLM(electra).save_pretrained(spoilt("short_electra"))
    renumbered = spoilt("renumbered") / "tokenizer.json"
    content = json.loads(renumbered.read_text())
    entries = content["model"]["vocab"]
    entries["##a"], entries["##b"] = entries["##b"], entries["##a"]
    renumbered.write_text(json.dumps(content))
    ModernBertForMaskedLM(config(vocab_size=100)).save_pretrained(spoilt("vocabulary"))
    ModernBertForMaskedLM(config(hidden_size=32)).save_pretrained(spoilt("wide"))
    mixed = ["full_attention", "sliding_attention"]
    ModernBertForMaskedLM(config(num_hidden_layers=2, layer_types=mixed)).save_pretrained(
        spoilt("mixed")
    )
    ModernBertForMaskedLM(config(mlp_bias=True)).save_pretrained(spoilt("biased"))
    bert: PreTrainedConfig = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8,
    )  # fmt: skip
    BertForMaskedLM(bert).save_pretrained(spoilt("short_sighted"))
    bert.max_position_embeddings = 64
    BertForMaskedLM(bert).save_pretrained(spoilt("bert"))

    code = "from pathlib import Path\nPath('it_ran').mkdir()\n"
    evil = spoilt("evil")
    (evil / "model.safetensors").unlink()
    torch.save({"evil": Evil(folder / "it_ran")}, evil / "pytorch_model.bin")
    own_code = spoilt("own_code")
    (own_code / "own.py").write_text(code)
    change(
        own_code / "config.json", auto_map={"AutoConfig": "own.C", "AutoModelForMaskedLM": "own.M"}
    )
    own_tokenizer = spoilt("own_tokenizer")
    (own_tokenizer / "own.py").write_text(code)
    (own_tokenizer / "tokenizer.json").unlink()
    change(own_tokenizer / "tokenizer_config.json", tokenizer_class="Own",
           auto_map={"AutoTokenizer": ["own.T", None]})  # fmt: skip
    for path in spoilt("no_tokenizer").glob("tokenizer*"):
        path.unlink()
    maskless = spoilt("maskless") / "tokenizer_config.json"
    change(maskless, mask_token=None)


def _snapshot(folder: Path) -> Snapshot:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def _paths(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def untouched(place: Path) -> Iterator[None]:
    """Nothing below ``place`` changes, comes or goes."""
    before, paths = _snapshot(place), _paths(place)
    yield
    assert _paths(place) == paths
    assert _snapshot(place) == before


@pytest.fixture
def kept(place: Path) -> Iterator[None]:
    """What was below ``place`` stays as it was; there may be a record of the failed run."""
    before = _snapshot(place)
    yield
    after = _snapshot(place)
    assert {path: after.get(path) for path in before} == before
    assert not (place / "it_ran").exists()


def _is_one_line(answer: Answer, *parts: str) -> None:
    assert answer.code == 2, answer
    assert len(answer.lines) == 1, answer.err
    assert "Traceback" not in answer.out + answer.err
    for part in parts:
        assert part in answer.lines[0], answer.lines[0]


# id: the words after dwt-train, and what the line has in it: the setting, the value, the remedy
Row = tuple[str, str | list[str], list[str]]

WORDS: list[Row] = [
    ("a group that is not", "teachr=small", ["teachr", "did you mean teacher?"]),
    ("a choice that is not", "teacher=smal", ["teacher=smal", "did you mean small?", "none"]),
    ("a setting that is not", "train.max_step=3", ["train.max_step", "mean train.max_steps?"]),
    ("a setting of another choice", ["data=docs", "data.path=foo"], ["data.path", "data=files"]),
    ("a mask of next tokens", ["task=clm", "task.mask_ratio=0.3"], ["task.mask_ratio", "task=mlm"]),
    ("a setting of a number", "seed.x=3", ["seed.x", "seed is one value"]),
    ("a setting of no group", "momentum=0.9", ["momentum", "write optim.momentum"]),
    ("a number for a choice", "alpha=2", ["alpha=2", "normal"]),
    ("no choice", "teacher=", ["teacher=:", "small"]),
    ("null for a choice", "teacher=null", ["teacher=null", "none"]),
    ("a list for a choice", "teacher=[none,small]", ["teacher=[none,small]", "small"]),
    ("a map for a choice", "teacher={num_layers:3}", ["teacher={num_layers:3}", "made"]),
    ("a choice taken away", "~teacher", ["~teacher", "write teacher=CHOICE"]),
    ("a setting taken away", "~teacher.seed", ["~teacher.seed", "give it another value"]),
    ("something that is not taken away", "~foo", ["foo", "no such group"]),
    ("a choice added", "+teacher=none", ["+teacher=none", "write teacher=none"]),
    ("a setting added", "+foo=1", ["foo", "no such group or setting"]),
    ("a setting forced", "++teacher.pth=1", ["teacher.pth", "did you mean teacher.path?"]),
    ("a setting added again", "+seed=3", ["+seed", "leave out the +"]),
    ("a target added", "+teacher._target_=os.mkdir", ["teacher._target_", "no such setting"]),
    ("a target as a choice", "teacher={_target_:os.mkdir}", ["teacher={_target_", "small"]),
    ("two words", ["teacher", "small"], ["teacher small", "write teacher=small"]),
    ("three words", ["teacher", "=", "small"], ["teacher = small", "write teacher=small"]),
    ("spaces in a word", ["teacher = small"], ["teacher = small", "write teacher=small"]),
    ("a setting without a value", ["seed", "3"], ["seed", "as in seed=3"]),
    ("a group without a choice", "teacher", ["teacher", "as in teacher=checkpoint"]),
    ("a choice without its group", "very_weak", ["very_weak", "write teacher=very_weak"]),
    ("a word", "nonsense", ["nonsense", "GROUP=CHOICE", "--help"]),
    ("a dashed group", ["--teacher", "small"], ["--teacher", "write teacher=small"]),
    ("a dashed setting", "--train.max_steps=3", ["--train.max_steps=3", "write train.max_steps=3"]),
    ("an option that is not", "--vrsion", ["--vrsion", "did you mean --version?"]),
    ("an option without a value", "--config-name", ["--config-name", "expected one argument"]),
    ("a question that is not", ["--info", "foo"], ["--info", "'foo'", "defaults"]),
    ("two questions", ["-m", "--info=defaults", "seed=0,1"], ["--multirun, --info", "give one"]),
    ("resolving nothing", ["--info=config", "--resolve"], ["--resolve", "add --cfg job"]),
    ("no setting", "=3", ["=3", "write GROUP=CHOICE"]),
    ("two equals", "seed==3", ["seed==3", "write seed=3"]),
    ("an open quote", 'data.path="abc', ['data.path="abc', "close it"]),
    ("an open bracket", "optim.betas=[0.9", ["optim.betas=[0.9", "[ and ]"]),
    ("an open brace", "data.parts={a:", ["data.parts={a:", "{ and }"]),
    ("no quotes around signs", "data.path=ü", ["data.path=ü", "write 'data.path=\"ü\"'"]),
    ("no quotes around a tilde", "data.path=~/x", ["~/x", "write 'data.path=\"~/x\"'"]),
    ("a reference to nothing", "scale.width=${foo}", ["${foo}", "no such setting"]),
    ("two scales in one run", "scale=nano,paper", ["scale=nano,paper", "-m scale=nano,paper"]),
    ("two seeds in one run", "seed=1,2", ["seed=1,2", "dwt-train -m seed=1,2"]),
    ("a range in one run", "seed=range(1,3)", ["seed=range(1,3)", "dwt-train -m"]),
    ("a range of nothing", ["-m", "seed=range(0,0)"], ["seed=range(0,0)", "give one at least"]),
    ("a list without brackets", ["tracker=wandb", "tracker.tags=a,b"],
     ["tracker.tags=a", "as in tracker.tags=[a,b]"]),
    ("another package", "teacher@foo=small", ["teacher@foo", "did you mean teacher?"]),
    ("hydra's own setting", "hydra.job.nam=1", ["hydra.job.nam", "--hydra-help"]),
    ("hydra's own choice", "hydra/sweeper=slurm", ["hydra/sweeper=slurm", "there are: basic"]),
    ("hydra's launcher", ["-m", "hydra/launcher=joblib", "seed=0,1"],
     ["hydra/launcher=joblib", "by jobs=joblib"]),
    ("no such config", ["--config-name", "nothing"], ["--config-name nothing", "teacher_quality"]),
    ("a study's name misspelt", ["-cn", "teacher_qualty"], ["did you mean teacher_quality?"]),
    ("no such arm", ["-cn", "smoke", "arm=weka"], ["arm=weka", "did you mean arm=weak?"]),
    ("what an arm sets", ["-m", "-cn", "smoke", "alpha=strong"], ["alpha=strong", "leave it out"]),
    ("no SLURM for jobs", ["-m", "jobs=submitit", "seed=0,1"], ["jobs=submitit", "launch=slurm"]),
    ("a word of studies", "arm=weak", ["arm", "no such"]),
    ("a choice as config", ["--config-name", "teacher/small"], ["teacher/small", "teacher=small"]),
    ("no such folder of configs", ["--config-dir", "nowhere"], ["--config-dir nowhere", "name"]),
    ("a config that is not YAML", ["--config-dir", "studies", "--config-name", "broken"],
     ["broken.yaml", "line", "put it right"]),
    ("a config with a target", ["--config-dir", "studies", "--config-name", "target"],
     ["_target_", "teacher"]),
    ("a config that is no run", ["--config-dir", "studies", "--config-name", "partial"],
     ["tracker", "defaults: [config, _self_]"]),
    ("no such record", ["--experimental-rerun", "nowhere"], ["nowhere", "same command"]),
]  # fmt: skip

TYPES: list[Row] = [
    ("no value", "seed=", ["seed=", "a whole number"]),
    ("words for a number", "seed=many", ["seed=many", "a whole number"]),
    ("a fraction of a layer", "student.num_layers=2.5", ["num_layers=2.5", "a whole number"]),
    ("a float for a count", "train.max_steps=1e3", ["train.max_steps=1e3", "a whole number"]),
    ("words for a float", "optim.lr=high", ["optim.lr=high", "a number"]),
    ("a list for a number", "optim.lr=[1,2]", ["optim.lr=[1,2]", "a number"]),
    ("a number for a list", "optim.betas=3", ["optim.betas=3", "optim.betas=[a,b]"]),
    ("words in a list", "optim.betas=[a,b]", ["optim.betas=[a,b]", "a number"]),
    ("one of two", "optim.betas=[0.9]", ["optim.betas=[0.9]", "[0.9,0.98]"]),
    ("null for a number", "seed=null", ["seed=null", "give a value"]),
    ("neither true nor false", "run.fresh=maybe", ["run.fresh=maybe", "true or false"]),
    ("no such device", "launch.device=gpu", ["launch.device=gpu", "auto, cpu, cuda"]),
    ("no such family", "scale.family=gpt", ["scale.family=gpt", "bert, modernbert"]),
    ("a value for settings", "run=foo", ["run=foo", "run.root"]),
    ("an unknown part", ["data=wikitext", "data.parts=[{dataset:a,foo:1}]"],
     ["data.parts", "foo", "dataset"]),
    ("a nameless part", ["data=wikitext", "data.parts=[{split:a}]"],
     ["data.parts.0.dataset", "give one"]),
    ("nothing of the hub", ["data=wikitext", "data.parts=[]"], ["data.parts=[]", "at least one"]),
    ("a path that is missing", ["data=files", "data.path=???"], ["data.path", "give one"]),
    ("an empty path", "data.path=''", ["data.path=''", "give a value"]),
    ("a path as name", "run.name=a/b", ["run.name=a/b", "at most 43 letters"]),
    ("an empty root", "run.root=", ["run.root=''", "give a value"]),
    ("an empty tag", ["tracker=wandb", "tracker.tags=[a,'']"], ["tracker.tags=''", "give a value"]),
    ("not a number", "optim.lr=nan", ["optim.lr=nan", "finite number"]),
    ("without end", "alpha.soft=inf", ["alpha.soft=inf", "finite number"]),
    ("no fp32", "alpha.soft=1e300", ["alpha.soft=1e+300", "0, or between 1e-12 and 1e+12"]),
    ("no room's size", "data.max_gb=1e308", ["data.max_gb=1e+308", "between 1e-12"]),
    ("no temperature", "objective.logits.temperature=1e-300", ["temperature=1e-300", "1e-12"]),
    ("no weights in proportion", ["teacher=several", "teacher.members=[small,very_weak]",
     "teacher.weights=[1e308,1e308]"], ["teacher.weights=1e+308", "between 1e-12"]),
    ("no step's number", f"train.max_steps={10**400}", ["train.max_steps=1000", "at most 922337"]),
    ("clipped to nothing", "optim.clip_norm=1e-300", ["optim.clip_norm=1e-300", "at least 0.001"]),
]  # fmt: skip

TOGETHER: list[Row] = [
    ("heads", ["scale.width=130", "scale.num_heads=4"], ["width=130", "heads=4", "width=132"]),
    ("an odd head", ["scale.width=6", "scale.num_heads=2"], ["width=6", "heads=2", "even"]),
    ("vocabularies", "teacher.vocab_size=300", ["teacher.vocab_size=300", "set scale.vocab_size"]),
    ("text and model", "student.vocab_size=300", ["student.vocab_size=300", "scale.vocab_size"]),
    ("too long", "student.max_length=8", ["student.max_length=8", "raise the one or lower"]),
    ("shares", ["optim.warmup=0.6", "optim.decay=0.6"], ["optim.warmup=0.6", "at most 1"]),
    ("masks", ["task.keep_ratio=0.7", "task.random_ratio=0.7"], ["keep_ratio=0.7", "at most 1"]),
    ("no masks", ["task.keep_ratio=1.0", "task.random_ratio=0.0"], ["keep_ratio=1.0", "lower it"]),
    ("no losses", ["alpha=normal", "alpha.hard=0", "alpha.soft=0"],
     ["alpha.hard=0.0 and alpha.soft=0.0", "above 0"]),
    ("a step beyond the run", ["alpha=crossover", "alpha.until=7"],
     ["alpha.until=7", "train.max_steps=6", "alpha=strong"]),
    ("no loss to reach", ["alpha=crossover", "teacher=virtual"],
     ["alpha=crossover with teacher=virtual", "set alpha.until=STEP"]),
    ("a setting of nothing", "teacher.optim.lr=2e-3",
     ["teacher.optim.lr=2e-3: nothing is chosen for teacher.optim", "set optim@teacher.optim to"]),
    ("no way back in time", ["train.non_finite=rollback", "train.max_minutes=1"],
     ["train.non_finite=rollback with train.max_minutes", "limit train.max_steps"]),
    ("no number of steps", ["alpha=crossover", "alpha.until=2", "train.max_minutes=1"],
     ["alpha=crossover with train.max_minutes=1", "set train.max_steps"]),
    ("too short to calibrate", "alpha=crossover",
     ["alpha.calibration=0.25", "2 of 6 steps", "alpha.until=STEP", "teacher=none"]),
    ("as certain everywhere", ["select=uncertain", "teacher=virtual"],
     ["select=uncertain with teacher=virtual", "choose another select"]),
    ("nobody who writes", ["explore=sample", "teacher=virtual"],
     ["explore=sample with teacher=virtual", "choose another teacher"]),
    ("nothing to learn from what is written", ["explore=sample", "objective=hidden"],
     ["explore=sample with objective=hidden", "add logits"]),
    ("the same blocks in each epoch", ["explore=sample", "task.num_patterns=2"],
     ["explore=sample with task.num_patterns=2", "task.num_patterns=null"]),
    ("a rank for which nothing is written",
     ["explore=sample", "launch=torchrun", "launch.gpus=8", "launch.device=cpu"],
     ["explore.share=0.25 on 8 ranks: of the 1 blocks", "train.micro_batch_size"]),
    ("episodes by steps", ["teacher=several", "teacher.members=[small,very_weak]",
                           "teacher.weighting=reinforced", "task.num_patterns=2"],
     ["teacher.weighting=reinforced with task.num_patterns=2", "task.num_patterns=null"]),
    ("nobody who scores", ["order=learnable", "teacher=virtual"],
     ["order=learnable with teacher=virtual", "or order=random"]),
    ("scores that follow the labels", ["order=learnable", "teacher=several",
                                       "teacher.members=[small,very_weak]",
                                       "teacher.weighting=token"],
     ["order=learnable with teacher.weighting=token", "teacher.weighting=fixed"]),
    ("scores of what is softened", ["order=learnable", "teacher.temperature=2"],
     ["teacher.temperature=2 with order=learnable", "leave teacher.temperature out"]),
    ("scores of what one of them softens", ["order=learnable", "teacher=several",
                                            "teacher.members=[small,very_weak]",
                                            "teacher.temperatures=[1,2]"],
     ["teacher.temperatures=2 with order=learnable", "leave teacher.temperatures out"]),
    ("maps of another text", ["order=random", "remap=ligo"],
     ["remap=ligo with order=random", "choose another remap"]),
    ("no earlier one", ["order=difference", "teacher=untrained"],
     ["order.budget=0.1 and teacher.budget=0.0", "set order.reference"]),
    ("no such reference", ["order=difference", "order.budget=1"],
     ["order.budget=1.0", "0, 0.05, 0.1", "choose one"]),
    ("nobody to compare with", ["order=difference", "teacher=several",
                                "teacher.members=[small,very_weak]"],
     ["order.reference=null", "set order.reference to a lesser"]),
    ("all of the text", ["order=random", "order.share=1"], ["order.share=1.0", "below 1.0"]),
    ("no whole block", ["explore=sample", "explore.share=0.1"],
     ["explore.share=0.1 of train.batch_size=8", "set it to 0.125"]),
    ("no third of a block", ["explore=sample", "explore.share=0.333333", "train.batch_size=3"],
     ["explore.share=0.333333", "set it to 0.333334"]),
    ("no project", ["tracker=wandb", "tracker.project=a/b"], ["=a/b: W&B", "tracker.project=a-b"]),
    ("no end", "train.max_steps=null", ["train.max_steps", "set one of them"]),
    ("no weights", ["teacher=none", "remap=paper"], ["remap.depth=paper", "remap=random"]),
    ("no layers", "teacher=made", ["teacher.num_layers", "give one"]),
    ("no such rule", ["remap=paper", "remap.depth=fna"],
     ["remap.depth=fna", "use fresh, interpolate, paper"]),
    ("no such width rule", ["remap=net2net", "remap.width=fpi"], ["remap.width=fpi", "net2net"]),
    ("a rule that nothing asks for", ["remap=random", "remap.depth=stack"], ["remap.depth"]),
    ("a wider teacher", ["remap=paper", "teacher.width=32"],
     ["student.width=16", "32", "remap=random"]),
    ("a narrower teacher", ["remap=paper", "teacher.width=8", "teacher.num_heads=1"],
     ["student.width=16", "8", "remap.width=net2net", "remap=random"]),
    ("heads that do not divide", ["teacher.width=18", "teacher.num_heads=4"],
     ["teacher.width=18 does not divide into teacher.num_heads=4", "teacher.width=20"]),
    ("heads of an odd size", ["teacher.width=10"], ["teacher.width=10", "an even width per head"]),
    ("heads that share", ["scale.family=bert", "teacher.num_kv_heads=1"],
     ["teacher.num_kv_heads=1: a bert", "teacher.family=qwen3"]),
    ("heads of another size", ["remap=net2net", "teacher.width=8"],
     ["student.num_heads=2", "size 8", "size 4", "set student.num_heads=4"]),
    ("post-LN", ["remap=zero_init", "scale.family=bert"],
     ["remap.depth=zero_init", "post-LN", "student.family=modernbert"]),
    ("a deeper teacher", ["remap=zero_init", "student.num_layers=2"],
     ["remap.depth=zero_init", "student.num_layers=2", "remap.depth=interpolate"]),
    ("no multiple", ["remap=lemon", "teacher.width=8", "student.width=12", "student.num_heads=3"],
     ["remap.width=lemon", "student.width=12", "set student.width=16", "remap.width=net2net"]),
    ("no beginning for LiGO", ["remap=ligo", "remap.depth=zero_init"],
     ["remap.depth=zero_init", "LiGO", "use interpolate, paper, stack"]),
    ("maps without a head", ["remap=ligo", "remap.head=false"], ["remap.head=false", "leave it"]),
    ("a flatter teacher", ["remap=paper", "teacher.mlp_width=32"],
     ["student.mlp_width=16", "32", "remap=random"]),
    ("other heads", ["remap=paper", "teacher.num_heads=1"],
     ["student.num_heads=2", "1", "remap=random"]),
    ("another family", ["remap=paper", "teacher.family=bert"],
     ["modernbert", "student.family=bert", "remap=random"]),
    ("no CUDA", "launch.device=cuda", ["launch.device=cuda", "launch.device=auto"]),
    ("a bad arm", ["-m", "optim.lr=0.001,-1.0", "seed=3,4"], ["optim.lr=-1.0", "above 0"]),
    ("a bad choice of an arm", ["-m", "teacher=none,smal"], ["teacher=smal", "mean small?"]),
    ("a bad pair of arms", ["-m", "teacher=small,none", "remap=paper"], ["remap=random"]),
    ("a bad type of an arm", ["-m", "seed=1,x"], ["seed=x", "a whole number"]),
    ("a setting of which", "objective.temperature=2", ["objective.logits.temperature"]),
    ("a typo in one of several", "objective.logits.temperatur=2",
     ["objective.logits.temperatur", "did you mean objective.logits.temperature?"]),
    ("several, one is a typo", "objective=[logits,minlm]", ["objective=minlm", "mean minilm?"]),
    ("several without brackets", "objective=logits,mse", ["objective=[logits,mse]", "-m"]),
    ("a member's setting", ["teacher=several", "teacher.members=[small,very_weak]",
                            "teacher.members.small.width=2"], ["teacher.members is a list"]),
    ("a member by its name", ["teacher=several", "teacher.members=[small,very_weak]",
                              "teacher.members.small=2"], ["teacher.members is a list"]),
    ("a number's name", "optim.betas.first=0.9", ["optim.betas is a list", "=[a,b]"]),
    ("Hydra's list", "hydra.searchpath.x=1", ["hydra.searchpath is a list"]),
    ("no place for all bytes", ["data.tokenizer_kind=bpe", "scale.vocab_size=260"],
     ["data.vocab_size=260", "256 bytes and 5 marks", "set scale.vocab_size=261"]),
    ("no place for a decoder's bytes", ["task=clm", "scale.vocab_size=257"],
     ["data.vocab_size=257", "2 marks", "set scale.vocab_size=258"]),
    ("one of several, twice", "objective=[mse,hidden,mse]", ["name mse once", "=[mse,hidden]"]),
    ("none of several", "objective=[]", ["objective=[]", "there are: alm"]),
    ("MiniLM, other heads", ["objective=minilm", "teacher.num_heads=1"],
     ["objective.minilm", "2 heads", "the teacher 1", "minilmv2"]),
    ("scores of other heads", ["objective=attention", "teacher.num_heads=1"],
     ["objective.attention", "2 heads", "the teacher 1", "minilmv2"]),
    ("no pair at all", ["objective=attention", "objective.attention.pairs=[]"],
     ["objective.attention.pairs=[]", "at least one pair"]),
    ("likelihoods of masked text", "objective=alm",
     ["objective=alm", "task=mlm", "choose objective=hidden"]),
    ("likelihoods of text and of tokens", ["task=clm", "objective=[logits,uld]"],
     ["objective=logits+uld", "uld is for", "choose one of the two"]),
    ("likelihoods of nobody", ["task=clm", "objective=alm", "teacher=virtual"],
     ["objective=alm with teacher=virtual", "choose another teacher"]),
    ("a layer too far", ["objective=let", "objective.let.pairs=[[9,-1]]"],
     ["objective.let", "layer 9 of a model with"]),
    ("half a pair", ["objective=let", "objective.let.pairs=[[1]]"], ["objective.let.pairs", "[1]"]),
    ("relation heads", ["objective=minilmv2", "objective.minilmv2.num_relation_heads=3"],
     ["num_relation_heads=3", "choose a divisor"]),
    ("a step too long", ["alpha=step", "alpha.until=2"], ["alpha.until=2.0", "longer than"]),
    ("never to zero", ["alpha=exponential", "alpha.soft_end=0"], ["alpha.soft_end=0", "linear"]),
    ("planned and anew", ["run.plan=true", "run.fresh=true"],
     ["run.fresh=true and run.plan=true", "leave the others out"]),
    ("anew and exported", ["run.fresh=true", "run.export=true"],
     ["run.fresh=true", "run.export=true", "leave the others out"]),
    ("no number of ranks", "launch=torchrun", ["launch.gpus", "give one"]),
    ("a batch among ranks", ["launch=torchrun", "launch.gpus=3"],
     ["train.batch_size=8", "3 ranks", "a multiple of 3"]),
    ("nodes that meet nowhere", ["launch=torchrun", "launch.gpus=1", "launch.nodes=2"],
     ["launch.nodes=2", "launch.rdzv_endpoint=HOST:29400"]),
    ("a place without a port", ["launch=torchrun", "launch.gpus=1", "launch.rdzv_endpoint=node1"],
     ["launch.rdzv_endpoint=node1", "write HOST:PORT"]),
    ("nodes of one machine",
     ["launch=slurm", "launch.gpus=1", "launch.nodes=2", "launch.executor=local"],
     ["launch.nodes=2 with launch.executor=local", "leave launch.nodes out"]),
    ("a tokenizer without an end", ["task=clm", "data.tokenizer_kind=wordpiece"],
     ["data.tokenizer_kind=wordpiece", "has no eos_token", "leave it out"]),
    ("compiled by half", "train.compile=some", ["train.compile=some", "true, false or auto"]),
    ("compiled by number", "train.compile=1", ["train.compile=1", "true, false or auto"]),
    ("compiled and sharded", ["parallel=fsdp", "train.compile=true"],
     ["train.compile=true", "parallel=fsdp", "parallel=ddp"]),
    ("a giant", ["scale.width=16384", "scale.mlp_width=65536", "student.num_layers=100"],
     ["out of memory", "student.num_layers=100", "lower scale.width"]),
    ("a giant batch", "train.batch_size=1000000000",
     ["out of memory", "train.batch_size=1000000000", "set train.micro_batch_size="]),
]  # fmt: skip

PLACES: list[Row] = [
    ("a file as root", "run.root=a_file", ["run.root=a_file", "is a file", "set run.root"]),
    ("below a file", "run.root=a_file/runs", ["run.root=a_file/runs", "is a file"]),
    ("a file as cache", "run.cache=a_file", ["run.cache=a_file", "set run.cache"]),
    ("a root that is read-only", "run.root=/proc/runs", ["run.root=/proc/runs", "another folder"]),
    ("a cache that is read-only", "run.cache=/proc/x", ["run.cache=/proc/x", "another folder"]),
    ("a long name", f"run.root={'x' * 300}", ["run.root=xxx", "too long", "another folder"]),
    ("no text", "data.path=nowhere", ["data.path=nowhere", "no such file", "give a file"]),
    ("no text there", "data.path=nothing", ["data.path=nothing", "no such file", "give a file"]),
    ("no match", "data.path=text/*.md", ["data.path=text/*.md", "quoted glob"]),
    ("pictures", "data.path=pictures", ["data.path=pictures", "none of the 1", ".txt"]),
    ("a picture", "data.path=pictures/a.png", ["pictures/a.png", "none of the 1", ".txt"]),
    ("no package", ["data=docs", "data.packages=[nopkg]"], ["data.packages", "nopkg"]),
    ("no tokenizer", "data.tokenizer=./nowhere", ["data.tokenizer=./nowhere", "give another"]),
    ("a file as tokenizer", "data.tokenizer=a_file", ["data.tokenizer=a_file", "its folder"]),
    ("an empty tokenizer", "data.tokenizer=nothing", ["nothing", "set data.tokenizer"]),
    ("a tokenizer without mask", "data.tokenizer=maskless", ["maskless", "mask_token", "another"]),
    ("a tokenizer that is larger", ["data.tokenizer=good", "scale.vocab_size=100"],
     ["good", "set scale.vocab_size="]),
]  # fmt: skip


def _teacher(name: str, *more: str) -> list[str]:
    return ["teacher=checkpoint", f"teacher.path={name}", *more]


CHECKPOINTS: list[Row] = [
    ("no path", ["teacher=checkpoint"], ["teacher.path", "give one"]),
    ("no folder", _teacher("./nowhere"), ["teacher.path=./nowhere", "no such folder"]),
    ("no folder at home", _teacher("'~/nowhere'"), ["teacher.path=~/nowhere", "no such folder"]),
    ("a file", _teacher("a_file"), ["teacher.path=a_file", "is a file", "give its folder"]),
    ("an empty folder", _teacher("nothing"), ["teacher.path=nothing", "config.json"]),
    ("no config", _teacher("no_config"), ["teacher.path=no_config", "config.json"]),
    ("a torn config", _teacher("torn_config"), ["teacher.path=torn_config", "JSON"]),
    ("no weights", _teacher("no_weights"), ["teacher.path=no_weights", "model.safetensors"]),
    ("cut weights", _teacher("cut_weights"), ["teacher.path=cut_weights", "cannot be opened"]),
    ("no head", _teacher("classifier"), ["teacher.path=classifier", "ForMaskedLM"]),
    ("a loss without a head", [*_teacher("classifier"), "objective=minilmv2", "alpha=overtake"],
     ["teacher.path=classifier", "no alpha=overtake"]),
    ("a loss to reach without a head",
     [*_teacher("classifier"), "objective=minilmv2", "alpha=crossover"],
     ["teacher.path=classifier", "no alpha=overtake or crossover"]),
    ("another task", _teacher("gpt2"), ["teacher.path=gpt2", "a gpt2", "modernbert"]),
    ("a type without layers", _teacher("electra", "remap=paper"), ["electra", "remap=random"]),
    ("a head that is not known", _teacher("electra", "explore=ascend"),
     ["explore=perturb or ascend", "electra", "choose explore=sample"]),
    ("a type that is too short", _teacher("short_electra"),
     ["teacher.path=short_electra", "a electra", "block of 16", "lower scale.block_length"]),
    ("rows of an unknown family", _teacher("electra", "objective=masked_hidden"),
     ["objective.masked_hidden, teacher", "a electra", "objective=logits"]),
    ("another numbering", _teacher("renumbered", "data.tokenizer=good"),
     ["teacher.path=renumbered", "good: 2 of ", "hidden or alpha=off", "same tokenizer"]),
    ("rows of other tokens", _teacher("renumbered", "data.tokenizer=good", "remap=paper"),
     ["teacher.path=renumbered", "set remap.vocabulary=transfer", "same tokenizer"]),
    ("a loss per other token", _teacher("good", "data.tokenizer=own", "alpha=overtake"),
     ["data.tokenizer=own", "teacher.path=good", "choose another alpha"]),
    ("heads over other tokens", _teacher("good", "data.tokenizer=own", "objective=minilm"),
     ["objective=minilm", "choose objective=hidden or alpha=off"]),
    ("other tokens of nobody", _teacher("no_tokenizer", "data.tokenizer=own", "alpha=off"),
     ["no_tokenizer", "set data.tokenizer"]),
    ("fresh rows for maps", _teacher("good", "remap=ligo", "remap.vocabulary=fresh"),
     ["remap.vocabulary=fresh", "set remap.vocabulary=transfer"]),
    ("no such start of tokens", _teacher("good", "remap=paper", "remap.vocabulary=mean"),
     ["remap.vocabulary=mean", "shared, transfer, fresh"]),
    ("another vocabulary", _teacher("vocabulary"), ["100", "200", "set scale.vocab_size=100"]),
    ("a window too long", _teacher("short_sighted", "teacher.window=9"),
     ["teacher.window=9", "reads 8 positions", "lower it"]),
    ("a pickle", _teacher("evil"), ["teacher.path=evil", "pickle", "model.safetensors"]),
    ("code", _teacher("own_code"), ["own_code", "auto_map", "teacher.trust_remote_code=true"]),
    ("a tokenizer's code", _teacher("own_tokenizer"), ["own_tokenizer", "set data.tokenizer"]),
    ("no tokenizer", _teacher("no_tokenizer"), ["no_tokenizer", "set data.tokenizer"]),
    ("no mask", _teacher("maskless"), ["maskless", "mask_token", "set data.tokenizer"]),
    ("another width", _teacher("wide", "remap=paper"), ["student.width=16", "=32", "random"]),
    ("another family", _teacher("bert", "remap=paper"), ["student.family=bert", "random"]),
    ("mixed layers", _teacher("mixed", "remap=paper"), ["sliding_attention", "remap=random"]),
    ("no bias", _teacher("biased", "remap=paper"), ["remap.depth=paper", "bias", "remap=random"]),
]  # fmt: skip


def _student(name: str, *more: str) -> list[str]:
    return ["student=checkpoint", f"student.path={name}", *more]


_DSEE = ["tuning=dsee", "tuning.rank=2"]
_TWO = ["launch=torchrun", "launch.gpus=2", "launch.device=cpu"]


STUDENTS: list[Row] = [
    ("no student", ["student=checkpoint"], ["student.path", "give one"]),
    ("no such student", _student("./nowhere"), ["student.path=./nowhere", "no such folder"]),
    ("a student of another type", _student("electra"), ["student.path=electra", "modernbert"]),
    ("a student of another vocabulary", _student("vocabulary"),
     ["student.path=vocabulary", "100", "200", "set scale.vocab_size=100"]),
    ("a short student", _student("short_sighted"), ["reads 8", "set scale.block_length=8"]),
    ("a student with its own weights", _student("good", "remap=paper"),
     ["remap.depth=paper", "student.path=good", "remap=random"]),
    ("two tokenizers", [*_student("good"), *_teacher("renumbered")],
     ["teacher.path=renumbered", "tokenizer good", "choose models with the same"]),
    ("a student's own tokenizer", _student("good", "data.tokenizer=own"),
     ["data.tokenizer=own", "student.path=good", "leave data.tokenizer out"]),
    ("a student of a size", _student("good", "student.num_layers=2"),
     ["student.num_layers", "student=large"]),
    ("nothing to tune", ["tuning=lora"], ["tuning=lora with student=large", "student=checkpoint"]),
    ("a rank above the width", _student("good", "tuning=lora", "tuning.rank=17"),
     ["tuning.rank=17", "16 x 16", "set it to 16 or less"]),
    ("more places than numbers", _student("good", *_DSEE, "tuning.num_sparse=257"),
     ["tuning.num_sparse=257", "has 256 numbers", "set it to fewer"]),
    ("all heads", _student("good", *_DSEE, "tuning.heads=2"),
     ["tuning.heads=2", "has 2", "set it to 1 or less"]),
    ("masks over shares", _student("good", *_DSEE, "tuning.prune=0.2", *_TWO, "parallel=fsdp"),
     ["tuning=dsee with parallel=fsdp", "tuning.prune=0 tuning.heads=0"]),
    ("heads over shares", _student("good", *_DSEE, "tuning.heads=1", *_TWO, "parallel=fsdp"),
     ["tuning=dsee with parallel=fsdp", "parallel=ddp"]),
    ("a curve with a step in it", _student("good", *_DSEE, "tuning.heads=1", "alpha=crossover"),
     ["tuning=dsee with alpha=crossover", "choose another alpha"]),
    ("weights that are computed", _student("good", *_DSEE, "train.compile=true"),
     ["train.compile=true with tuning=dsee", "train.compile=false"]),
    ("a fresh head that stays", _student("classifier", "teacher=none", *_DSEE),
     ["student.path=classifier", "the tuning trains no such", "choose tuning=full"]),
    ("a sparse part of LoRA", _student("good", "tuning=lora", "tuning.num_sparse=3"),
     ["tuning.num_sparse", "tuning=dsee"]),
    ("a rank of none", ["tuning.rank=3"], ["tuning.rank", "tuning=lora"]),
]  # fmt: skip


def _several(members: str, *more: str) -> list[str]:
    return ["teacher=several", f"teacher.members={members}", *more]


TEACHERS: list[Row] = [
    ("no members", ["teacher=several"], ["teacher.members", "give one"]),
    ("none of them", _several("[]"), ["teacher.members=[]", "two at least"]),
    ("one of them", _several("[small]"), ["teacher.members=['small']", "two at least"]),
    ("a member that is not", _several("[small,smal]"), ["smal ", "very_weak", "path"]),
    ("a member at no place", _several("[small,./nowhere]"), ["./nowhere", "no such folder"]),
    ("a member of another task", _several("[small,./gpt2]"), ["teacher.members=./gpt2", "a gpt2"]),
    ("a nested member", _several("[small,several]"), ["several has no teacher.members", "path"]),
    ("a sizeless member", _several("[small,made]"), ["made has no teacher.num_layers", "path"]),
    ("a member that is none", _several("[small,none]"), ["none is not one teacher", "leave"]),
    ("too few weights", _several("[small,very_weak]", "teacher.weights=[1]"),
     ["teacher.weights=[1.0]", "give 2"]),
    ("too many temperatures", _several("[small,very_weak]", "teacher.temperatures=[1,2,3]"),
     ["teacher.temperatures=[1.0, 2.0, 3.0]", "give 2"]),
    ("no weight", _several("[small,very_weak]", "teacher.weights=[1,0]"),
     ["teacher.weights=0.0", "leave the member out"]),
    ("no temperature", _several("[small,very_weak]", "teacher.temperatures=[1,0]"),
     ["teacher.temperatures=0.0", "above 0"]),
    ("parts of a batch", _several("[small,very_weak]", "teacher.weighting=batch",
     "train.micro_batch_size=4"), ["weighting=batch", "micro_batch_size=4", "weighting=token"]),
    ("weights of a policy", _several("[small,very_weak]", "teacher.weights=[1,2]",
     "teacher.weighting=reinforced"),
     ["teacher.weights=[1.0, 2.0] with teacher.weighting=reinforced", "leave teacher.weights out"]),
    ("an episode beyond the run", _several("[small,very_weak]", "teacher.weighting=reinforced",
     "teacher.episode=7"), ["teacher.episode=7", "train.max_steps=6", "lower it"]),
    ("a policy for nobody", ["teacher.reward=hard"], ["teacher.reward", "teacher=several"]),
    ("weights of several", _several("[small,very_weak]", "remap=paper"),
     ["remap.depth=paper", "remap=random"]),
    ("a bad arm's member", ["-m", *_several("[small,very_weak],[small,smal]")], ["smal ", "path"]),
    ("weights of nobody", ["teacher=virtual", "remap=paper"],
     ["remap.depth=paper", "remap=random"]),
    ("a member that is the student", _several("[small,self]"), ["self has no distribution"]),
    ("a student's own logits", "teacher=self",
     ["objective=logits with teacher=self", "set objective=self_features"]),
    ("another's own features", "objective=self_features",
     ["objective=self_features with teacher=small", "set teacher=self"]),
    ("a loss of its own", ["teacher=self", "objective=self_features", "alpha=overtake"],
     ["alpha=overtake with teacher=self", "choose another alpha"]),
    ("a deep layer below", ["teacher=self", "objective=self_features", "student.num_layers=4",
     "objective.self_features.pairs=[[2,1]]"],
     ["objective.self_features.pairs", "4 layers [2,1]", "deeper student"]),
    ("one layer alone", ["teacher=self", "objective=self_features", "student.num_layers=1"],
     ["objective.self_features", "layer 1 of a model with 1", "-1 at the end"]),
    ("weights of its own", ["teacher=self", "objective=self_features", "remap=stack"],
     ["remap.depth=stack with teacher=self", "remap=random"]),
    ("a member that learns", _several("[small,online]"), ["online learns beside", "as small"]),
    ("no model that learns", ["teacher=virtual", "teacher.online=head"],
     ["teacher.online", "teacher=small"]),
    ("as wide as nothing", ["teacher=online", "teacher.rank=17"],
     ["teacher.rank=17", "16 wide", "lower it"]),
    ("parts that are not known", _teacher("electra", "teacher.online=head"),
     ["teacher.online=head", "a electra", "teacher.online=none"]),
    ("other rows that learn", _teacher("vocabulary", "teacher.online=head"),
     ["teacher.online=head", "100 rows", "teacher.online=none"]),
    ("a head that is none", _teacher("classifier", "objective=minilmv2", "teacher.online=lora"),
     ["teacher.path=classifier", "ForMaskedLM"]),
    ("a gradient through shares", ["teacher.online=lora", "launch=torchrun", "launch.gpus=1",
     "parallel=fsdp", "parallel.shard_teacher=true"],
     ["teacher.online=lora", "parallel.shard_teacher=false", "teacher.online=head"]),
    ("a share between", "teacher.budget=0.3", ["teacher.budget=0.3", "0.05, 0.1, 0.25, 0.5, 0.75"]),
    ("a share of nothing", ["teacher=virtual", "teacher.budget=0.1"],
     ["teacher.budget", "teacher=small"]),
    ("text that is not", "data@teacher.data=fils", ["data=fils", "did you mean files?"]),
    ("text for nobody", ["teacher=none", "data@teacher.data=files"],
     ["data@teacher.data", "teacher=small"]),
    ("text without a path", "data@teacher.data=files", ["teacher.data.path", "give one"]),
    ("text that is nowhere", ["data@teacher.data=files", "teacher.data.path=nowhere"],
     ["teacher.data", "data.path=nowhere", "no such file"]),
    ("text in other tokens", ["data@teacher.data=docs", "teacher.data.tokenizer=good"],
     ["teacher.data.tokenizer=good", "set data.tokenizer"]),
    ("text in other blocks", ["data@teacher.data=docs", "teacher.data.block_length=32"],
     ["teacher.data.block_length=32", "data.block_length=16", "set scale.block_length"]),
]  # fmt: skip

EARLY = [*WORDS, *TYPES, *TOGETHER, *PLACES, *CHECKPOINTS, *STUDENTS, *TEACHERS]


def _ids(rows: list[Row]) -> list[str]:
    return [name for name, _, _ in rows]


def _command(place: Path, words: str | list[str]) -> list[str]:
    """The words after those of a miniature run; those about its text only if it is used."""
    own = [words] if isinstance(words, str) else words
    other = any(word.startswith("data=") for word in own)
    return [
        *(
            word
            for word in options(place)
            if not (other and word.startswith(("data=", "data.path")))
        ),
        *own,
    ]


@pytest.mark.parametrize(("name", "words", "parts"), EARLY, ids=_ids(EARLY))
@pytest.mark.usefixtures("untouched")
def test_refused_before_any_work(
    ask: Ask, place: Path, name: str, words: str | list[str], parts: list[str]
) -> None:
    _is_one_line(ask(*_command(place, words)), *parts)


LATE: list[Row] = [
    ("an empty file", "data.path=empty", ["data.path=empty", "a.txt", "no text", "remove it"]),
    ("a blank file", "data.path=blank", ["data.path=blank", "a.txt", "no text", "remove it"]),
    ("too little", "data.path=short", ["data.path=short", "block_length=16", "give more text"]),
    ("not UTF-8", "data.path=latin", ["data.path=latin", "a.txt line 1", "UTF-8", "convert"]),
    ("no column", "data.path=rows", ["data.text_column=text", "choose one of body"]),
    ("not JSON", "data.path=torn", ["data.path=torn", "a.jsonl line 1", "one object per line"]),
    ("a torn archive", "data.path=cut", ["data.path=cut", "a.txt.gz", "fetch it again"]),
    ("no table", "data.path=table", ["data.path=table", "a.parquet", "no parquet"]),
]


@pytest.mark.parametrize(("name", "words", "parts"), LATE, ids=_ids(LATE))
@pytest.mark.usefixtures("kept")
def test_refused_when_the_text_is_read(
    ask: Ask, place: Path, name: str, words: str | list[str], parts: list[str]
) -> None:
    _is_one_line(ask(*_command(place, words), "teacher=none"), *parts)


# ----------------------------------------------------------------- what only happens while at work


def test_a_full_disk_is_seen_beforehand(
    ask: Ask, place: Path, untouched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(total=10**9, used=10**9 - 1000, free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    _is_one_line(ask(*options(place), "teacher=none"), f"run.root={place}/runs", "free some room")


@pytest.mark.parametrize(("seed", "error"), [
    (31, torch.OutOfMemoryError("CUDA out of memory")), (32, MemoryError()),
    (33, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")),
], ids=["CUDA", "python", "CPU"])  # fmt: skip
def test_out_of_memory(
    ask: Ask, place: Path, kept: None, monkeypatch: pytest.MonkeyPatch, seed: int, error: Exception
) -> None:
    def corpus(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(CorpusStage, "carry_out", corpus)
    _is_one_line(
        ask(*options(place), "teacher=none", f"seed={seed}"),
        "train.micro_batch_size",
        "smaller scale",
    )


def test_the_program_s_own_fault_keeps_its_traceback(
    ask: Ask, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def corpus(*arguments: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(CorpusStage, "carry_out", corpus)
    with pytest.raises(KeyError, match="a bug"):
        ask(*options(place), "teacher=none", "seed=4")


def test_a_file_where_the_run_would_be(ask: Ask, place: Path) -> None:
    words = [*options(place), "teacher=none", "seed=8"]
    (run,), _ = runs_of(words)
    file = place / "runs" / f"a-file-{recipe_of(run).identity}"
    file.write_text("in the way\n")
    _is_one_line(ask(*words), f"{file} is in the way", "move it")
    file.unlink()


@pytest.mark.slow
def test_a_stdout_that_is_full(place: Path) -> None:
    words = ["teacher=none", "train.max_steps=1", "seed=9"]
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "dwt_cli.cli", *options(place), *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert "what is printed cannot be written (No space left" in line


def test_a_folder_that_is_gone(
    ask: Ask, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    _is_one_line(ask(*options(place)), "the folder in which this was typed is gone")


def test_a_model_that_was_deleted(ask: Ask, place: Path) -> None:
    words = [*options(place), "teacher=none", "train.max_steps=1", "seed=10"]
    before = set((place / "runs").iterdir())
    assert ask(*words).code == 0
    (run,) = set((place / "runs").iterdir()) - before
    shutil.rmtree(run / "model")
    assert "its model/ is gone: run.export=true saves" in ask(*words).out


def test_a_checkpoint_of_another_run(ask: Ask, place: Path) -> None:
    words = [*options(place), "teacher=none", "seed=7", "train.max_steps=2"]
    before = set((place / "runs").iterdir())
    assert ask(*words).code == 0
    (run,) = set((place / "runs").iterdir()) - before
    checkpoint = run / "checkpoints" / "step-00000002"
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | {"identity": "another"}))
    atomic.seal(checkpoint)
    (run / "summary.json").unlink()
    checkpoints = _snapshot(run / "checkpoints")
    _is_one_line(ask(*words), str(checkpoint), "another run", "run.fresh=true")
    assert _snapshot(run / "checkpoints") == checkpoints


# ------------------------------------------------------------------------------ answers, warnings


@pytest.mark.parametrize(
    "words", [["--help"], ["-h"], ["help"], ["teacher=small", "--help"]], ids=str
)
@pytest.mark.usefixtures("untouched")
def test_help(ask: Ask, words: list[str]) -> None:
    answer = ask(*words)
    assert (answer.code, answer.err) == (0, "")
    assert "very_weak" in answer.out


@pytest.mark.parametrize("word", ["--version", "version"])
def test_version_is_ours(ask: Ask, word: str) -> None:
    assert ask(word) == Answer(0, f"dwt-train {version('dwt-cli')}\n", "")


_TUNED = _student("model", *_DSEE)

WITHOUT_EFFECT = {
    "run.mfu": ["run.mfu=0.5"],
    "alpha": ["teacher=none", "alpha.soft=2"],
    "alpha.margin": ["alpha=crossover", "alpha.until=2", "alpha.margin=0.01"],
    "objective": ["alpha=off", "objective.logits.temperature=2"],
    "objective.logits.tau_squared": ["objective.logits.tau_squared=true"],
    "objective.masked_hidden.only_masked": [
        "task=clm",
        "objective=masked_hidden",
        "objective.masked_hidden.only_masked=true",
    ],
    "teacher.episode": [
        "teacher=several",
        "teacher.members=[small,very_weak]",
        "teacher.episode=3",
    ],
    "teacher.probe": [
        "teacher=several",
        "teacher.members=[small,very_weak]",
        "teacher.weighting=reinforced",
        "teacher.probe=3",
    ],
    "teacher.rank": ["teacher.rank=4"],
    "teacher.agreement": ["teacher=online", "teacher.agreement=0", "alpha=off"],
    "teacher.online": ["teacher.online=head", "objective=minilm"],
    "revise": ["teacher=none", "revise=label_revision"],
    "explore": ["explore=sample", "alpha=off"],
    "explore has": ["teacher=none", "explore=sample"],
    "explore.ratio": ["explore=sample", "explore.ratio=0.3"],
    "order": ["teacher=none", "order=random"],
    "order.budget": ["order=difference", "order.reference=model", "order.budget=0.25"],
    "order.num_patterns": ["task=clm", "order=learnable", "order.num_patterns=2"],
    "select": ["objective=minilm", "select=gate"],
    "remap.width": ["remap=stack", "remap.width=net2net"],
    "scale.teacher_steps": ["teacher=none"],
    "parallel": ["parallel=fsdp"],
    "parallel.shard_teacher": [
        "launch=torchrun",
        "launch.gpus=1",
        "parallel=fsdp",
        "parallel.shard_teacher=true",
        "teacher=virtual",
    ],
    "train.micro_batch_size": ["train.micro_batch_size=8"],
    "train.micro_batch_size=3 is 2": ["train.micro_batch_size=3"],
    "train.micro_batch_size=3 is 1": [
        "launch=torchrun",
        "launch.gpus=4",
        "train.batch_size=20",
        "train.micro_batch_size=3",
    ],
    "eval.num_blocks=9999": ["eval.num_blocks=9999"],
    "eval.glue": ["eval.glue.num_seeds=2"],
    "task.tokenizer": ["task.tokenizer=bpe", "data.tokenizer=folder"],
    "train.max_minutes": ["train.max_minutes=1"],
    "train.max_rollbacks": ["train.max_rollbacks=2"],
    "train.rollback_steps": ["train.rollback_steps=2"],
    "tuning.prune_by": [*_TUNED, "tuning.prune_by=weight"],
    "tuning.remove_at": [*_TUNED, "tuning.remove_at=0.3"],
    "tuning.places": [*_TUNED, "tuning.num_sparse=0", "tuning.places=random"],
    "optim.hidden_lr": [*_TUNED, "optim=muon", "optim.hidden_lr=0.1"],
}


@pytest.mark.parametrize("setting", WITHOUT_EFFECT)
def test_a_setting_without_effect_is_warned_of(place: Path, setting: str) -> None:
    (run,), _ = runs_of([*options(place), *WITHOUT_EFFECT[setting]])
    warned = list(warnings(run))
    assert any(line.startswith(f"{setting} ") for line in warned), warned


def test_a_setting_that_is_set_twice_is_warned_of(ask: Ask, place: Path) -> None:
    answer = ask(*options(place), "seed=1", "seed=2", "launch.device=cuda")  # stops it
    assert "warning: seed=1 has no effect: seed=2 comes after it\n" in answer.err


def test_warnings_are_printed_once(ask: Ask, place: Path) -> None:
    words = ["teacher=none", "train.max_minutes=1", "run.mfu=0.5", "launch.device=cuda"]  # stops it
    printed = ask("-m", *options(place), *words, "run.plan=true", "seed=0,1").err.splitlines()
    warned = [line.split()[1] for line in printed if line.startswith("warning: ")]
    assert sorted(warned) == ["scale.teacher_steps", "train.max_minutes"]


@pytest.mark.parametrize(("words", "said"), [
    (["teacher=none", *_student("classifier")], "the student began with a fresh head"),
    ([*_teacher("classifier"), "objective=minilmv2"], "the teacher has no head"),
])  # fmt: skip
def test_an_encoder_without_a_head_learns_and_teaches(
    ask: Ask, place: Path, words: list[str], said: str
) -> None:
    answer = ask(*options(place), *words, "train.max_steps=1")
    assert answer.code == 0, answer.err
    assert said in answer.out.replace("\n", " ")


def test_what_one_run_of_several_uses_is_not_warned_of(ask: Ask, place: Path) -> None:
    words = ["launch.device=cuda", "run.plan=true", "run.mfu=0.5", "teacher=none,small"]
    assert "scale.teacher_steps" not in ask("-m", *options(place), *words).err


def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(ask: Ask, place: Path) -> None:
    (place / "models").mkdir()
    words = ["teacher=checkpoint", "teacher.path=models/nothere"]
    assert "there is no such folder" in ask(*options(place), *words).err


@pytest.mark.slow
def test_a_plan_names_the_model_that_is_not_there(ask: Ask, place: Path) -> None:
    words = ["task=packages", "student=checkpoint", "student.path=large", "teacher=none"]
    answer = ask("-m", *words, "tracker=none", f"run.cache={place}/cache", "run.plan=true")
    assert answer.code == 2
    assert "student.path=large cannot be opened" in answer.err


def test_more_held_out_blocks_than_there_are_are_warned_of(ask: Ask, place: Path) -> None:
    words = ["teacher=none", "train.max_steps=1", "eval.num_blocks=4000"]
    answer = ask(*options(place), *words)
    assert answer.code == 0
    assert "warning: eval.num_blocks=4000 has no effect above the" in answer.out


@pytest.mark.parametrize(("words", "parts"), [
    (["teachr=small"], ["teachr", "did you mean teacher?"]),
    (["alpha.soft=-1"], ["alpha.soft=-1.0", "at least 0"]),
    (["-m", "teacher=none", "optim.lr=1e-3,-1.0"], ["optim.lr=-1.0", "above 0"]),
    (["teacher=checkpoint", "teacher.path=no-such-organisation/model"], ["teacher.path=no-such"]),
    (["data=wikitext"], ["data.parts.dataset=Salesforce/wikitext", "check the network"]),
], ids=str)  # fmt: skip
@pytest.mark.usefixtures("kept")
def test_the_real_command(place: Path, words: list[str], parts: list[str]) -> None:
    done = dwt_train(*_command(place, words), cwd=place)
    _is_one_line(Answer(done.returncode, done.stdout, done.stderr), *parts)
