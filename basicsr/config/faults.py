"""Several faults of one option file in one message, the most telling first."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from basicsr.errors import OptionError

MAX_FAULTS = 20  # that a message lists
MAX_FAULT_CHARS = 500  # of each of several


class OptionFaultsError(OptionError):
    """At least two faults of an option file. Its message has a headline, and a line for each fault.

    Args:
        faults: in the order of the message.
    """

    def __init__(self, faults: Sequence[OptionError]) -> None:
        super().__init__(faults)
        self.faults = tuple(faults)

    def __str__(self) -> str:
        lines = [" ".join(str(fault).splitlines()) for fault in self.faults[:MAX_FAULTS]]
        lines = [line if len(line) <= MAX_FAULT_CHARS else f"{line[:MAX_FAULT_CHARS]}..." for line in lines]
        more = len(self.faults) - len(lines)
        tail = [f"and {more} more"] if more else []
        return "\n  ".join([f"{len(self.faults)} faults in the options:", *lines, *tail])


class FaultList:
    """Collects the errors of parts that are checked one by one, so that all of them are reported at once."""

    def __init__(self) -> None:
        self._faults: list[OptionError] = []

    def __bool__(self) -> bool:
        return bool(self._faults)

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep an OptionError of the block, instead of raising it."""
        try:
            yield
        except OptionError as error:
            self.add(error)

    def add(self, error: OptionError) -> None:
        """Add an error, or all of those that it holds."""
        self._faults += error.faults if isinstance(error, OptionFaultsError) else [error]

    def raise_if_any(self) -> None:
        """Raise what was collected.

        Raises:
            OptionError: the only error; or `OptionFaultsError`, sorted by `OptionError.order`.
        """
        faults = sorted(dict.fromkeys(self._faults), key=lambda fault: fault.order)
        if len(faults) > 1:
            raise OptionFaultsError(faults)
        if faults:
            raise faults[0]
