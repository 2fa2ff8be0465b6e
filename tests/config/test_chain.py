"""The words of a chain's stages, and what is refused before any of them is composed."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from dwt_cli.base.errors import UserError
from dwt_cli.config import check
from dwt_cli.config.chain import Chain, Chained, ErnieTiny, Grades, filled, words_of_stages
from dwt_cli.config.compose import runs_of

COMMON = "teacher=checkpoint remap=stack alpha=step"


def problems(chain: Chain) -> list[str]:
    return [*check.outside_ranges(chain, "chain"), *chain.problems("chain")]


def test_each_grade_learns_from_the_one_before() -> None:
    grades = Grades("DIR", COMMON, layers=[3, 6], mask=[0.1, 0.2])
    assert not problems(grades)
    found = words_of_stages(grades, ["remap=zero_init", "seed=3"])
    common = ["teacher=checkpoint", "alpha=step", "remap=zero_init", "seed=3"]
    assert found == {
        "grade1": [
            *(*common, "teacher.path=@teacher", "student.num_layers=3", "task.mask_ratio=0.1")
        ],
        "grade2": [
            *(*common, "teacher.path=@grade1", "student.num_layers=6", "task.mask_ratio=0.2")
        ],
    }


def test_stages_may_be_written_one_by_one_and_name_any_earlier_model() -> None:
    stages = {"tuned": "student.path=@teacher lr=1", "last": "student.path=@tuned teacher=none"}
    found = words_of_stages(Chain("DIR", "lr=2", stages), ["lr=1"])
    assert found["tuned"] == ["student.path=@teacher", "lr=1"]
    assert found["last"] == ["lr=1", "student.path=@tuned", "teacher=none"]


def test_a_stage_has_its_own_word_where_all_have_another() -> None:
    assert words_of_stages(Chain("DIR", "a=1 b=1", {"one": "a=2"}), []) == {"one": ["b=1", "a=2"]}


@pytest.mark.parametrize(
    ("grades", "parts"),
    [
        (Grades("DIR", layers=[]), ["chain.layers=[]", "name one"]),
        (Grades("DIR", layers=[3, 6, 5]), ["chain.layers=[3, 6, 5]", "put them in order"]),
        (Grades("DIR", layers=[3, 6, 3], same=True), ["put them in order"]),
        (Grades("DIR", layers=[3, 3]), ["chain.layers=[3, 3]", "set chain.same=true"]),
        (Grades("DIR", layers=[0, 3]), ["chain.layers=0", "at least 1"]),
        (Grades("DIR", layers=[3, 6], mask=[0.1]), ["chain.mask=[0.1]", "give 2"]),
        (Grades("DIR", layers=[3], mask=[1.0]), ["chain.mask=1.0", "at most 0.9"]),
        (Grades("DIR", layers=[3], stages={"one": "seed=1"}), ["chain.stages", "leave it out"]),
        (Chain("DIR"), ["chain.stages={}", "name it"]),
        (Chain("DIR", stages={"teacher": "seed=1"}), ["'teacher'", "no name"]),
        (Chain("DIR", stages={"a b": "seed=1"}), ["'a b'", "no name"]),
    ],
)
def test_what_cannot_be_meant_is_one_line(grades: Chain, parts: list[str]) -> None:
    found = problems(grades)
    assert len(found) == 1 and all(part in found[0] for part in parts), found


TYPED = ["task.path=GLUE", "student.num_layers=4", "teacher.temperature=2", "optim.lr=1e-3"]


def test_each_stage_of_ernie_tiny_changes_one_thing() -> None:
    chain = ErnieTiny("DIR", task="SST-2", steps=[5, 4, 3, 2, 1])
    assert not problems(chain)
    found = {name: {*words} for name, words in words_of_stages(chain, TYPED).items()}
    assert list(found) == ["tuned", "general", "enhanced", "adaptive", "specific"]
    assert all("optim.lr=1e-3" in words for words in found.values())
    steps = [f"train.max_steps={n}" for n in chain.steps]
    assert [
        word for words, word in zip(found.values(), steps, strict=True) if word in words
    ] == steps

    def setting(name: str) -> list[str | None]:
        said = ([w for w in words if w.startswith(f"{name}=")] for words in found.values())
        return [words[0].partition("=")[2] if words else None for words in said]

    assert setting("task.name") == ["SST-2", None, None, "SST-2", "SST-2"]
    assert setting("task.path") == ["GLUE", None, None, "GLUE", "GLUE"]
    models = ["@teacher", None, "@general", "@enhanced", "@adaptive"]
    assert setting("student.path") == models
    assert setting("teacher.path") == [None, "@teacher", "@tuned", "@tuned", "@tuned"]
    assert setting("teacher.temperature") == [None, "2", "2", "2", "2"]
    assert setting("student.num_layers") == [None, "4", None, None, None]
    assert setting("alpha.hard") == [None, "0", "0", "0", None]
    latent = "[attention,hidden]"
    assert setting("objective") == [None, latent, latent, latent, "[attention,hidden,logits]"]


def test_numbers_as_labels_are_compared_by_squares() -> None:
    words = words_of_stages(ErnieTiny("DIR", task="STS-B"), ["objective.mse.weight=2"])
    assert "objective=[attention,hidden,mse]" in words["specific"]
    assert [name for name in words if "objective.mse.weight=2" in words[name]] == ["specific"]


def test_a_file_has_numbers_as_labels_where_it_is_said() -> None:
    for typed, words in (["task.regression=true"], None), ([], "task.regression=true"):
        found = words_of_stages(ErnieTiny("DIR", words, task="classification"), typed)
        assert "objective=[attention,hidden,mse]" in found["specific"]
        assert "task.regression=true" in found["tuned"]


@pytest.mark.parametrize("in_words", [False, True])
def test_another_task_of_text_is_that_of_the_stages_on_general_text(in_words: bool) -> None:
    words = ["task=clm", "task.mask_ratio=0.3"]
    for alone in False, True:
        chain = ErnieTiny("DIR", task="packages", steps=[5, 4, 3, 2, 9], alone=alone)
        chain.words = " ".join(words) if in_words else None
        found = words_of_stages(chain, [] if in_words else words)
        for name, each in found.items():
            is_general = name in ("general", "enhanced", "begun")
            assert [word in each for word in words] == [is_general] * 2
            assert ("task=packages" in each) != is_general


def test_the_control_asks_its_teacher_for_layers_alone_before_the_task() -> None:
    chain = ErnieTiny("DIR", task="packages", steps=[5, 4, 3, 2, 9], alone=True)
    begun = words_of_stages(chain, [])["begun"]
    assert "objective=[attention,hidden]" in begun and "alpha=off" in begun


def test_the_control_has_the_last_stage_alone_and_as_many_steps() -> None:
    four, alone = (
        words_of_stages(ErnieTiny("DIR", task="packages", steps=[5, 4, 3, 2, 9], alone=a), [])
        for a in (False, True)
    )
    assert list(alone) == ["tuned", "begun", "specific"]
    assert alone["tuned"] == four["tuned"]
    own = ("student.path=", "train.max_steps=")
    last = [[w for w in words["specific"] if not w.startswith(own)] for words in (four, alone)]
    assert last[0] == last[1]
    assert "train.max_steps=1" in alone["begun"] and "train.max_steps=17" in alone["specific"]


@pytest.mark.parametrize(
    ("chain", "parts"),
    [
        (ErnieTiny("DIR", task="SST2"), ["chain.task=SST2", "did you mean SST-2?"]),
        (ErnieTiny("DIR", task="RTE", steps=[1, 2]), ["chain.steps=[1, 2]", "give 5"]),
        (ErnieTiny("DIR", task="RTE", steps=[0] * 5), ["chain.steps=0", "at least 1"]),
        (ErnieTiny("DIR", task="RTE", alone=True), ["chain.alone=true", "chain.steps"]),
        (ErnieTiny("DIR", task="RTE", stages={"a": "b=1"}), ["chain.stages", "leave it out"]),
    ],
)
def test_a_chain_that_no_task_has_is_one_line(chain: ErnieTiny, parts: list[str]) -> None:
    found = problems(chain)
    assert found and all(part in found[0] for part in parts), found


def test_a_word_that_only_a_stage_has_is_not_typed_for_all() -> None:
    with pytest.raises(UserError, match=r"alpha\.hard=1: the stage general sets alpha\.hard=0"):
        words_of_stages(ErnieTiny("DIR", task="RTE"), ["alpha.hard=1"])


@pytest.mark.parametrize(
    ("layers", "same", "teacher", "part"),
    [
        ([3, 6], False, 2, None),
        ([3, 2], False, 4, None),
        ([4, 6], True, 4, None),
        ([6, 6, 6], True, 6, None),
        ([4, 6], False, 4, "after a teacher of 4 layers: a grade equals"),
        ([3, 6], False, 4, "put them in order"),
    ],
)
def test_the_teachers_layers_count(
    layers: list[int], same: bool, teacher: int, part: str | None
) -> None:
    grades = Grades("DIR", layers=layers, same=same)
    assert not problems(grades)
    found = list(grades.problems_after("chain", teacher))
    assert not found if part is None else part in found[0]


def test_what_a_stage_sets_is_not_set_for_all() -> None:
    grades = Grades("DIR", layers=[3, 6])
    with pytest.raises(UserError, match=r"student.num_layers=4: the stage grade1 sets .*; leave"):
        words_of_stages(grades, ["student.num_layers=4"])


def test_a_stage_names_an_earlier_one() -> None:
    chain = Chain("DIR", stages={"one": "seed=1", "two": "teacher.path=@oen"})
    with pytest.raises(UserError, match=r"chain.stages.two: .*did you mean one\?"):
        words_of_stages(chain, [])


@pytest.mark.parametrize(
    "path",
    ["runs/a-b.c", "with space", "a'quote", "a,comma=[x]", "a\\b", "/home/jürgen/m", "~/m", "1e5"],
)
def test_hydra_reads_a_models_folder_as_it_is(path: str) -> None:
    (word,) = filled(["teacher.path=@one"], {"one": path})
    assert OverridesParser.create().parse_override(word).value() == path


def test_a_stage_has_values_of_its_own(tmp_path: Path) -> None:
    """Those of its run, not the chain's: the seed that is typed."""
    text = "defaults: [chain, _self_]\nchain: {teacher: DIR, stages: {one: 'teacher.seed=${seed}'}}"
    (tmp_path / "mine.yaml").write_text(text)
    (run,), _ = runs_of([], Chained, "mine", str(tmp_path))
    assert isinstance(run, Chained)
    assert words_of_stages(run.chain, ["seed=3"]) == {"one": ["seed=3", "teacher.seed=${seed}"]}


def test_words_that_no_shell_could_read() -> None:
    with pytest.raises(UserError, match=r"chain\.stages\.one=a='1: No closing quotation"):
        words_of_stages(Chain("DIR", None, {"one": "a='1"}), [])


def test_what_is_not_there_yet_keeps_its_name() -> None:
    assert filled(["teacher.path=@two"], {"one": "x"}) == ["teacher.path=@two"]
