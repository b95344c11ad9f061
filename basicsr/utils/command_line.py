"""The old import path of `basicsr.config.command_line`."""

from basicsr.config.command_line import *
