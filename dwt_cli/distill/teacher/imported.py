"""The options of a teacher that is elsewhere, and has written down what it says.

Imports no torch.
"""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from dwt_cli.base.atomic import file_sum
from dwt_cli.base.errors import UserError
from dwt_cli.base.identity import fingerprint
from dwt_cli.base.options import at_least, bookkeeping
from dwt_cli.distill.teacher.options import Teacher

if TYPE_CHECKING:
    from dwt_cli.distill.teacher.signal import TeacherSignal
    from dwt_cli.models.wrapper import LanguageModel

KINDS = (".jsonl", ".parquet")


@dataclass
class ImportedTeacher(Teacher):
    """Rows of files. path, num_entries: as of the signal, filled in by `typed`."""

    is_elsewhere: ClassVar[bool] = True
    unmeasured: ClassVar[str] = "rows that a server wrote"

    path: str | None = bookkeeping(None)  # the files' sums count
    num_entries: int = at_least(1, 12, identity=False)

    @property
    def files(self) -> list[Path]:
        """The files of rows, in the order of their names; none without a path."""
        if self.path is None:
            return []
        found = sorted(map(Path, glob.glob(str(Path(self.path).expanduser()), recursive=True)))  # noqa: PTH207
        if not found or any(file.suffix not in KINDS or not file.is_file() for file in found):
            raise UserError(
                f"signal.path={self.path}: {'no such file' if not found else 'other files, too'} "
                f"(looked in {Path.cwd()}); give a file, or a quoted glob, of {' or '.join(KINDS)}"
            )
        return found

    def identity(self) -> str:
        return fingerprint("imported", [file_sum(file) for file in self.files])

    def signal(self, model: "LanguageModel | None", vocab_size: int) -> "TeacherSignal":
        from dwt_cli.distill.signal.imported import ImportedSignal

        return ImportedSignal(self.files, self.num_entries, vocab_size)
