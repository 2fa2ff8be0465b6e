from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from dwt_cli.track.summary import Facts, Summary
from dwt_cli.track.told import print_summary


@pytest.mark.parametrize(("end", "is_told"), [(4.43, True), (4.18, False)])
def test_a_student_that_unlearns_its_start_is_told_of(end: float, is_told: bool) -> None:
    losses = {"teacher": 4.22, "random": 9.03, "remapped": 4.22}
    remap = {"flops": 0, "seconds": 0.0, "losses": losses}
    student = Facts(1000, {"loss": end, "perplexity": 2.0**end}, remap=remap)
    text = {"fingerprint": "abc", "heldout_8gram_residue": 0.0}
    summary = Summary("grown", "0" * 16, {}, 0, 1.0, 0.1, text, student)
    out = StringIO()
    print_summary(Console(file=out, width=300), summary, Path("run"), {})
    assert ("ends 0.210 nats above where it began" in out.getvalue()) == is_told
    assert "before the first step: teacher 4.220, random 9.030" in out.getvalue()
