"""Helpers that tests of several parts share: option files, commands in this process and in others."""

import logging
import os
import subprocess
import sys

import pytest
import yaml
from torch import nn

from basicsr.config.load import load_options, resolve
from basicsr.images.files import image_size
from basicsr.inference.upscaler import Upscaler

LOGGER = logging.getLogger("basicsr")
# A CATANet of two groups that trains in milliseconds.
TINY_CATANET = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
                "patch_size": [8, 10], "num_tokens": [4, 8], "group_size": [64, 32], "n_iters": [2, 3]}  # fmt: skip


def write_options(folder, values):
    """Write the option file `<name>.yml` and return its path."""
    path = folder / f"{values['name']}.yml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def resolved_options(folder, values, is_train=True):
    """Return options as a command gets them, for a model without a command; experiments go into `folder`."""
    values = {**values, "path": {"experiments_root": str(folder / "experiments"), **(values.get("path") or {})}}
    return resolve(load_options(write_options(folder, values), is_train=is_train))


def run_here(command, folder, *arguments):
    """Return the exit code of the `main` of a command in `folder`; the log is left as it was.

    This is seconds faster than a process, which imports PyTorch first.
    """
    level = LOGGER.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(LOGGER, "handlers", [])
        patch.setattr(LOGGER, "propagate", True)
        try:
            return command.main([str(argument) for argument in arguments])
        finally:
            for handler in LOGGER.handlers:
                handler.close()
            LOGGER.setLevel(level)


def run_python(*arguments, processes=0, timeout=120, **more):
    """Run Python in a process of its own and return what `subprocess.run` gives, with the output as text.

    Args:
        processes: start that many by torchrun; 0: one, without torchrun.
        more: of `subprocess.run`; `env` is added to the environment.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    env = {**os.environ, **more.pop("env", {})}
    argv = [sys.executable, *torchrun, *map(str, arguments)]
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=timeout, **more)


def damage_pixels(path):
    """Change a byte in the middle of a PNG, which then passes the check of its header and end, but not its decoder."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert image_size(path)


class Squares(nn.Module):
    """A network that shows every pixel as a square."""

    def __init__(self, upscale):
        super().__init__()
        self.upscale = upscale

    def forward(self, x):
        return x.repeat_interleave(self.upscale, -1).repeat_interleave(self.upscale, -2)


def squares(scale=1, channels=3, **settings):
    """Return an `Upscaler` whose outputs are the pixels of the input as squares."""
    spec = {"type": "Bicubic", "upscale": scale, "in_chans": channels}
    return Upscaler(Squares(scale), spec, device="cpu", **settings)
