"""What a person did wrong, as opposed to what the program did."""


class UserError(ValueError):
    """A mistake in a setting or a file: one line with the setting, the value and the remedy.

    The front door prints it without a traceback and leaves with a non-zero exit code.
    """
