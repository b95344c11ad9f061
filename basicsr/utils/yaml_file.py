"""The old import path of `basicsr.config.yaml_file`."""

from basicsr.config.yaml_file import *
