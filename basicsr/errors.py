"""The three errors that a user's mistake can end in. Command lines print them as one line and exit with code 2."""


class OptionError(ValueError):
    """An option is missing, misspelt, of the wrong type or out of range."""


class UnknownNameError(KeyError):
    """A registry holds nothing under the name asked for."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the quotes of a repr


class CheckpointError(RuntimeError):
    """A weight or state file is missing, damaged, or does not fit the network."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
