"""`basicsr/train.py` on a slow disk: every file of a checkpoint is half written for a while, so a kill can hit that."""

import io
import os
import sys
import time
from pathlib import Path

import basicsr.train

PAUSE = float(os.environ.get("SLOW_WRITE", "0"))  # seconds between the halves of a file


class SlowFile(io.FileIO):
    def write(self, data):
        half = len(data) // 2
        super().write(data[:half])
        time.sleep(PAUSE)
        return half + super().write(data[half:])


def slow_open(path, mode="r", *args, **kwargs):
    return SlowFile(path, mode) if ".tmp" in path.suffixes else fast_open(path, mode, *args, **kwargs)


if __name__ == "__main__":
    fast_open = Path.open
    Path.open = slow_open
    sys.exit(basicsr.train.main())
