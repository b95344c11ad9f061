"""`basicsr/train.py` with a fault in one process at one iteration: FAULT=kind:rank:iteration, such as kill:1:3."""

import os
import signal
import sys
import time

import basicsr.train
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.models.sr_model import SRModel


def hang():
    time.sleep(1000)


def provoke(kind):
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "hang":
        hang()
    elif kind == "raise":
        raise ZeroDivisionError("a mistake in a plug-in")


def main():
    kind, rank, *iterations = os.environ.get("FAULT", "none:0:0").split(":")
    is_here = os.environ.get("RANK", "0") == rank
    pause = float(os.environ.get("PAUSE", "0"))  # seconds a step, so that there is time to pull a cable
    iteration = 0
    losses, load = SRModel.compute_losses, PairedImageDataset.__getitem__
    parent = os.getpid()

    def compute_losses(self, batch):
        nonlocal iteration
        iteration += 1
        time.sleep(pause)
        faulty = is_here and str(iteration) in iterations
        if faulty:
            provoke(kind)
        found = losses(self, batch)
        return {k: v * float("nan") for k, v in found.items()} if faulty and kind == "nan" else found

    def load_or_die(self, index):
        if os.getpid() != parent and kind.startswith("loader") and is_here and index.index % 5 == 2:
            os.kill(os.getpid(), signal.SIGKILL) if kind == "loader-killed" else hang()
        return load(self, index)

    SRModel.compute_losses = compute_losses
    PairedImageDataset.__getitem__ = load_or_die
    return basicsr.train.main()


if __name__ == "__main__":
    sys.exit(main())
