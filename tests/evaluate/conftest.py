from pathlib import Path

import pytest

from tests.evaluate.miniature_glue import write_glue


@pytest.fixture
def glue_folder(tmp_path: Path) -> Path:
    return write_glue(tmp_path / "glue")
