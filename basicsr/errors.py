"""Errors for mistakes of the user, which the commands report as one line before they exit with code 2."""


class OptionError(ValueError):
    """An option is missing, misspelt, of the wrong type or out of range."""

    order: tuple[int, ...] = (1,)
    """rank among several: those that name what is not here at all (0) come before wrong keys and values (1)."""


class UnknownNameError(KeyError):
    """A registry has no entry of the given name."""

    def __str__(self) -> str:
        return str(self.args[0])  # `KeyError.__str__` returns the repr


class CheckpointError(RuntimeError):
    """A weight or state file is missing, damaged, or does not fit the network."""


class ImageReadError(RuntimeError):
    """An image that was there when a run began cannot be read any more, or was damaged all along."""


class IncompleteError(RuntimeError):
    """A command has done what it could, and says what is missing."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type when the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
