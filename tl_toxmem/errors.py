"""The one error that people are meant to read: one line that says what, where and what to do."""


class ToxmemError(ValueError):
    """A mistake in the input, not in the program.

    The command line prints it as one line and exits with 1; every other exception is a bug and keeps
    its traceback.
    """


class NotFinite(ToxmemError):
    """A number is NaN or infinite, which no later step can make good."""


def brief(error: Exception, *, most: int | None = 200) -> str:
    """An error of another library in one line of at most so many letters."""
    return " ".join(str(error).split())[:most]
