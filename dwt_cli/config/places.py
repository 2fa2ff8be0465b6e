"""Where a run writes: found out before any work, without leaving a trace."""

from pathlib import Path
from tempfile import TemporaryDirectory

from dwt_cli.base.cache import Cache
from dwt_cli.base.errors import UserError
from dwt_cli.config.run import RunOptions


def check(options: RunOptions) -> None:
    """Raises `UserError` unless folders can be made below ``run.root`` and ``run.cache``."""
    _check_writable("run.root", Path(options.root).expanduser())
    _check_writable("run.cache", Cache(options.cache, print).root)


def _check_writable(setting: str, folder: Path) -> None:
    try:
        existing = nearest_existing(folder)
        if not existing.is_dir():
            raise UserError(f"{setting}={folder}: {existing} is a file; set {setting} to a folder")
        with TemporaryDirectory(prefix=".dwt-", dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"{setting}={folder} cannot be written ({error.strerror}); set {setting} to another "
            "folder"
        ) from error


def nearest_existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())
