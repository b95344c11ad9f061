"""Errors of the library's checks as errors of an option file, with the place of the key."""

from collections.abc import Iterator
from contextlib import contextmanager

from basicsr.config.schema import Options
from basicsr.errors import OptionError


@contextmanager
def option_error_context(opt: Options) -> Iterator[None]:
    """Turn a ValueError "key: message" of the block into an OptionError with the file and line of the key.

    Raises:
        OptionError: when the block raises a ValueError.
    """
    try:
        yield
    except OptionError:
        raise
    except ValueError as error:
        key, _, message = str(error).partition(": ")
        raise opt.where.at(key).error(message) from error
