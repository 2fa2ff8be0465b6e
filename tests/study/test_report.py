"""Reports of whole, half-finished and damaged studies, as `dwt-report` writes them."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest

from dwt_cli.cli.report import main
from dwt_cli.study import figures
from dwt_cli.study.record import Claim, Expect, read_study, write_study
from dwt_cli.study.report import write_report
from tests.study import miniature
from tests.study.test_results import other_versions, place, torn

Capture = pytest.CaptureFixture[str]
PICTURES = ("headline", "teacher_quality", "curves", "progress", "schedules", "cost")


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what is about words: pictures take most of a report's time."""
    monkeypatch.setattr(figures, "draw", lambda results, folder: {})


def report(folder: Path) -> str:
    write_report(folder)
    return (folder / "report.md").read_text()


def row(text: str, *cells: str) -> list[str]:
    """The cells of the one table row that begins with these."""
    head = "| " + " | ".join(cells) + " |"
    (found,) = [line for line in text.splitlines() if line.startswith(head)]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_whole_study(tmp_path: Path, capsys: Capture) -> None:
    folder = miniature.write(tmp_path)
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "a weak teacher helps" in said and "supported" in said and "contradicted" in said
    assert "30 of 30 runs are in the report" in said and "left out" not in said
    for name in ("report.html", "report.md", "results.csv", *(f"{p}.png" for p in PICTURES)):
        assert str(folder / name) in said and (folder / name).is_file()
    text = (folder / "report.md").read_text()
    assert "Complete: 30 of 30 runs" in text
    helps = row(text, "a weak teacher helps", "200")
    assert helps[2:4] == ["weak - alone < 0", "the end"]
    assert helps[5] == "5" and helps[7] == "supported"
    mean, low, high = map(float, re.findall(r"[+-][\d.]+", helps[4]))
    assert mean == -0.1 and low < -0.1 < high
    assert "±0.02 nats" in text, "the rule has the study's smallest effect"
    assert row(text, "weak", "100", "100")[3:5] == ["0.7", "5.900"], (
        "mean: 5.9, a seed's luck of 0.1, - 0.1"
    )
    assert "beyond the longest stand-alone" in text
    assert "- text: corpus c0ffee" in text and "torch 2.13.0" in text
    assert "- time of the runs: 6.0 min" in text  # 30 students of 10 s, teachers of 4 to 8 s once
    check_pictures(folder)


def check_pictures(folder: Path) -> None:
    """Each arm's colour is in each picture, and nothing reaches the border."""
    for name in PICTURES:
        pixels = (matplotlib.image.imread(folder / f"{name}.png")[..., :3] * 255).round()
        for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0, 0, 0)):
            if (name, colour) == ("schedules", (0xD5, 0x5E, 0x00)):
                continue  # poor shares weak's line
            assert (abs(pixels - colour).max(-1) <= 8).sum() > 60, (name, colour)
        edge = pixels[:2].min(), pixels[-2:].min(), pixels[:, :2].min(), pixels[:, -2:].min()
        assert min(edge) == 255, f"{name} is cut off"


class Reading(HTMLParser):
    """The tags of a page, and what they point to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.slow
def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), question="Is 1 < 2 & <b>sure</b>?")
    write_report(folder)
    text = (folder / "report.html").read_text()
    page = Reading()
    page.feed(text)
    assert page.tags.count("img") == len(PICTURES) and "table" in page.tags
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not {"script", "link", "b"} & set(page.tags)
    assert "Is 1 &lt; 2 &amp; &lt;b&gt;sure&lt;/b&gt;?" in text


def test_one_seed_has_no_intervals_and_says_so(tmp_path: Path, unpictured: None) -> None:
    text = report(miniature.write(tmp_path, seeds=(3,)))
    assert "**One seed: there are no intervals, and no claim can be decided.**" in text
    assert row(text, "a weak teacher helps", "100")[-1] == "undecided (one seed)"
    assert "[-" not in text and "[+" not in text


@pytest.mark.parametrize("missing", ["from the record", "from the disk"])
def test_without_a_baseline(tmp_path: Path, missing: str) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,), claims=[])
    if missing == "from the record":
        write_study(folder, replace(read_study(folder), baseline=None))
        said = "There is no stand-alone arm: nothing is compared with it."
    else:
        for seed in (0, 1):
            shutil.rmtree(place(folder, "alone", 100, seed))
        said = "The stand-alone arm, alone, has no run yet: nothing is compared with it."
    text = report(folder)
    assert said in text
    assert "This study tests no claim: there are no verdicts." in text
    assert row(text, "weak", "100")[2] == "100"
    assert "Against the stand-alone" not in text and not (folder / "cost.png").exists()


def test_claims_need_no_baseline(tmp_path: Path, unpictured: None) -> None:
    claim = Claim("weak is | ahead of poor", "weak", "poor", Expect.lower, length=100)
    text = report(miniature.write(tmp_path, seeds=(0, 1, 2), baseline=None, claims=[claim]))
    assert "There is no stand-alone arm: nothing is compared with it." in text
    assert row(text, "weak is \\| ahead of poor", "100")[-1] == "supported"
    assert "| weak - poor |" in text[text.index("## Where curves cross") :]
    assert "Against the stand-alone" not in text


def test_an_arm_that_nobody_ran_is_named(tmp_path: Path, unpictured: None) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,))
    assert "Complete: 6 of 6 runs are in this report: 3 of 3 arms" in report(folder)
    study = read_study(folder)
    write_study(folder, replace(study, arms={**study.arms, "never": "teacher=large"}))
    text = report(folder)
    assert "Not complete: 6 of 6 runs are in this report: 3 of 4 arms" in text
    assert "**No run of these arms was asked for: never.**" in text


def test_the_report_begins_with_what_came_out(tmp_path: Path, unpictured: None) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1, 2))
    first, _, cost, _, models = report(folder).splitlines()[2:7]
    assert cost.startswith(
        "To the stand-alone student's final loss of length 200, weak takes < 62%"
    )
    gaps = [-0.1 + miniature.noise("weak", seed) for seed in (0, 1, 2)]
    below = f"{-sum(gaps) / 3:.3f} nats below it (95% interval -0.1"
    assert first.startswith("At length 200, 1 of 2 arms ends below the stand-alone student; ")
    assert f"the best, weak, ends {below}" in first and "over 3 seeds)." in first
    assert models == "Parameters: student 20.00; teacher 10.00. Text: corpus c0ffee."
    study = read_study(folder)
    write_study(folder, replace(study, chosen_on=[0, 1]))
    cost = report(folder).splitlines()[4]
    assert cost.endswith(" It was chosen on seeds 0, 1; the others take < 62% and < 88%.")
    write_study(folder, replace(study, chosen_on=[0, 1, 2]))
    cost = report(folder).splitlines()[4]
    assert cost.endswith(" It was chosen on seeds 0, 1, 2; there is no other.")
    write_study(folder, study)
    (folder / "runs.jsonl").unlink()
    for seed in (0, 1, 2):
        for length in (100, 200):
            shutil.rmtree(place(folder, "weak", length, seed))
    poor = report(folder).splitlines()[2]
    assert poor.startswith("At length 200, poor ends 0.2") and "above the stand-alone" in poor
    study = read_study(folder)
    write_study(folder, replace(study, baseline=None, claims=[]))
    assert (
        report(folder).splitlines()[2].startswith("alone ends lowest, at 5.850 nats; there is no")
    )


def test_without_claims_the_terminal_has_means_and_paired_differences(
    tmp_path: Path, unpictured: None, capsys: Capture
) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1, 2), claims=[])
    assert main([str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("At length 200, 1 of 2 arms ends below") for line in lines)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    (alone,) = [row for row in rows if row[:2] == ["alone", "100"]]
    assert alone == ["alone", "100", "3", "5.950", "0.050", ""]
    (weak,) = [row for row in rows if row[:2] == ["weak", "100"]]
    assert re.fullmatch(r"-0\.099 \[-0\.1\d\d, -0\.0\d\d\]", weak[-1])


def test_half_a_study(tmp_path: Path, unpictured: None, capsys: Capture) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1, 2))
    torn(folder, place(folder, "weak", 100, 1))
    other_versions(folder, place(folder, "poor", 200, 0))
    for seed in (0, 1, 2):
        shutil.rmtree(place(folder, "weak", 200, seed))
    assert main([str(folder)]) == 0
    said = capsys.readouterr().out
    assert "13 of 18 runs are in the report" in said and "what was left out, and why" in said
    text = (folder / "report.md").read_text()
    assert "Not complete: 13 of 18 runs" in text
    assert row(text, "weak", "run", "its summary.json is half-written")[3] == "100: 1"
    assert row(text, "weak", "run", "its folder is gone")[3] == "200: 0, 1, 2"
    assert "other versions than most runs: torch 2.14.0 instead of 2.13.0" in text
    assert row(text, "a weak teacher helps", "100")[5] == "2"
    assert row(text, "a weak teacher helps", "200")[-1] == "undecided (no pair of runs)"


def test_nothing_has_been_run(tmp_path: Path) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1), lengths=(100,))
    for run in folder.parent.parent.glob("*-100-*"):
        shutil.rmtree(run)
    text = report(folder)
    assert "0 of 6 runs" in text and "No run is finished yet." in text


def test_exploratory_arms_get_no_verdict(tmp_path: Path, unpictured: None) -> None:
    claims = miniature.CLAIMS[:1]
    folder = miniature.write(tmp_path, seeds=(0, 1), exploratory=["poor"], claims=claims)
    core, _, explored = report(folder).partition("## Exploratory arms")
    assert "No verdict was planned for these: poor." in explored
    against = core[core.index("## Against the stand-alone") : core.index("## Where curves cross")]
    assert "| weak | 100 |" in against and "| poor | 100 |" not in against
    assert "| poor | 100 |" in explored


def test_where_teachers_are_left_is_said(tmp_path: Path, unpictured: None) -> None:
    folder = miniature.write(tmp_path, seeds=(0, 1))
    for seed, step in ((0, 70), (1, 64)):
        place = tmp_path / "runs" / miniature.identity("weak", 100, seed) / "summary.json"
        summary = json.loads(place.read_text())
        summary["student"]["crossing"] = {"step": step, "flops": 5e9}
        place.write_text(json.dumps(summary))
    text = report(folder)
    assert "- weak, 100 steps: the teacher is left at step 70, 64, by seed (the run's" in text
    assert text.count("the teacher is left") == 1


def test_a_teacher_ahead_is_marked(
    tmp_path: Path, unpictured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(miniature.TEACHER, "weak", -0.2)
    text = report(miniature.write(tmp_path, seeds=(0, 1), lengths=(100,)))
    against = text[text.index("## Against the stand-alone") :]
    assert row(against[: against.index("## Where")], "weak", "100")[-1] == "+0.200†"
    losses = text[text.index("## Held-out loss") : text.index("## Against the stand-alone")]
    assert [cell[-1] for cell in row(losses, "weak", "100")[5:]] == ["†", "†"]
    assert "†" not in "".join(row(losses, "poor", "100"))


def test_a_folder_that_is_no_studys(tmp_path: Path, capsys: Capture) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"dwt-report: {tmp_path} is no study's folder: it has no study.json or "
        "runs.jsonl; give another\n"
    )
