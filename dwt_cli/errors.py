"""What a person did wrong, as opposed to what the program did."""


class Told(Exception):
    """Another process has said what went wrong; ``code`` is what to leave with."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a rank has left with {code}")
        self.code = code


class UserError(ValueError):
    """A mistake in a setting or a file: one line with the setting, the value and the remedy.

    The front door prints it without a traceback and leaves with a non-zero exit code.
    """
