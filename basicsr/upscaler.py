"""The old import path of `basicsr.inference.upscaler`."""

from basicsr.inference.upscaler import *  # noqa: F403
