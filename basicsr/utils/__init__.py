"""The old import path of many modules; see `basicsr.compat.utils_names` for the names that BasicSR has here."""

from basicsr.compat.utils_names import __dir__, __getattr__
