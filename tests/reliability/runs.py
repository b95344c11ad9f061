"""Training runs in processes of their own, to be stopped in every way, and what they leave."""

import hashlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import yaml

from basicsr.archs import build_network
from basicsr.engine.checkpoint import save_atomically
from basicsr.images.files import write_image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("slow_train.py")
TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 2, "qk_dim": 12, "mlp_dim": 24, "heads": 2,
        "patch_size": [8, 10], "num_tokens": [4, 8], "group_size": [64, 32], "n_iters": [1, 1]}  # fmt: skip
FOUR = {**TINY, "block_num": 4, "patch_size": 8, "num_tokens": [4, 8, 4, 8], "group_size": 32, "n_iters": 1}
PATIENCE = 3600 if os.environ.get("BASICSR_FULL") == "1" else 180  # seconds, for a machine that does other things too
ITERATION = re.compile(r"iter: *([\d,]+), lr:")


def write_images(folder):
    """Five smooth images of odd sizes."""
    generator = np.random.default_rng(0)
    for k in range(5):
        small = generator.random((6, 7, 3)).repeat(7, 0).repeat(6, 1)[: 37 + k, : 42 - k]
        write_image(folder / f"{k}.png", (255 * small).astype(np.uint8))


def options(folder, total_iter=6, **changes):
    """A run on images in `folder`; two iterations are an epoch. `changes` are sections, merged into it."""
    if not (folder / "images").exists():
        write_images(folder / "images")
    images = {"name": "Images", "type": "PairedImageDataset", "dataroot_gt": str(folder / "images")}
    values = {
        "name": "run", "scale": 2, "num_gpu": 0, "manual_seed": 3,
        "datasets": {"train": {**images, "gt_size": 24, "batch_size_per_gpu": 2}},
        "network_g": TINY,
        "path": {},
        "train": {"total_iter": total_iter, "optim_g": {"type": "Adam", "lr": 1e-3}, "pixel_opt": {"type": "L1Loss"}},
        "val": {},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }  # fmt: skip
    return merged(values, changes)


def merged(values, changes):
    for key, value in changes.items():
        values[key] = merged(dict(values.get(key) or {}), value) if isinstance(value, dict) else value
    return values


def pruning(folder, total_iter):
    """Changes that make it the search of a mask, with a teacher."""
    path = folder / "teacher.pth"
    if not path.exists():
        torch.manual_seed(0)
        net = build_network(FOUR)
        net(torch.rand(2, 3, 16, 16))  # sets its token centres, as training does
        save_atomically({"params": net.state_dict()}, path)
    return {
        "model_type": "PruneDistillModel", "network_g": FOUR, "network_t": FOUR,
        "path": {"pretrain_network_g": str(path), "pretrain_network_t": str(path)},
        "prune": {"warmup_iter": 1, "search_iter": total_iter - 2, "settle_iter": 1},
        "budget": {"blocks": 2, "ref_size": [16, 16]},
        "compact": {"enable": False},
        "train": {"optim_m": {"type": "Adam", "lr": 0.1}, "ema_decay": 0.9},
    }  # fmt: skip


class Run:
    """A training run in a folder: `processes` processes, each started afresh by `start`."""

    def __init__(self, folder, values, processes=1, slow_write=0.0):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.yml").write_text(yaml.safe_dump(values))
        self.folder = folder
        self.number = processes
        self.slow_write = slow_write
        self.processes = []
        self.seen = 0  # the last iteration that the log spoke of
        self.output = ""

    @property
    def experiment(self):
        return self.folder / "experiments" / "run"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for process in self.processes:  # whatever has failed, nothing is left running
            if process.poll() is None:
                process.kill()
                process.wait()

    def start(self, *flags):
        """Begin or go on; the output of all processes is followed."""
        env = {**os.environ, "OMP_NUM_THREADS": "1", "SLOW_WRITE": str(self.slow_write), "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, str(SCRIPT), "-opt", "run.yml", "--auto_resume", *flags]
        if self.number > 1:
            with socket.socket() as found:
                found.bind(("127.0.0.1", 0))
                port = found.getsockname()[1]
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(self.number)}
        self.seen, self.output, self.processes = 0, "", []
        for rank in range(self.number):
            mine = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if self.number > 1 else {}
            process = subprocess.Popen(argv, cwd=self.folder, env={**env, **mine}, text=True,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
            threading.Thread(target=self._follow, args=(process,), daemon=True).start()
            self.processes.append(process)

    def _follow(self, process):
        for line in process.stderr:
            self.output += line
            if found := ITERATION.search(line):
                self.seen = int(found[1].replace(",", ""))

    def is_running(self):
        return any(process.poll() is None for process in self.processes)

    def wait_for(self, condition, seconds=PATIENCE):
        """Until `condition()`; False if the run ended before."""
        end = time.monotonic() + seconds
        while not condition():
            if not self.is_running():
                return False
            assert time.monotonic() < end, self.output
            time.sleep(0.0005)
        return True

    def is_writing(self):
        return any(self.experiment.glob("*/.*.tmp.*"))

    def send(self, number, ranks=None):
        for rank in range(self.number) if ranks is None else ranks:
            if self.processes[rank].poll() is None:
                os.kill(self.processes[rank].pid, number)

    def wait(self, seconds=PATIENCE):
        """The exit codes."""
        codes = [process.wait(seconds) for process in self.processes]
        time.sleep(0.05)  # for the last lines
        return codes

    def finish(self, *flags):
        self.start(*flags)
        assert self.wait() == [0] * self.number, self.output

    def kill_at_random(self, rng, total_iter, write):
        """Start and SIGKILL somewhere: at the start, between, or (`write`) while a checkpoint is half written.

        Returns:
            "start", "step" or "write"; None when the run ended before the kill.
        """
        self.start()
        if not write and rng.random() < 0.1:
            time.sleep(rng.uniform(0, 5))
            kind = "start"
        else:
            steps = rng.randint(1, 3)
            if not self.wait_for(lambda: self.seen):
                return None
            target = min(self.seen - 1 + steps, total_iter)
            kind = "step"
            if not self.wait_for(lambda: self.seen >= target):
                return None
            if write:
                kind = "write"
                if not self.wait_for(self.is_writing):
                    return None
                time.sleep(rng.uniform(0, self.slow_write))
            else:
                time.sleep(rng.uniform(0, 0.1))
        if not self.is_running():
            return None
        alone = self.number > 1 and rng.random() < 0.25  # the other process must end by itself
        self.send(signal.SIGKILL, [rng.randrange(self.number)] if alone else None)
        self.wait()
        return kind

    def result(self):
        """Hash of all tensors and numbers in the last weights and the last state, but for the options."""
        states = sorted((self.experiment / "training_states").glob("*.state"), key=lambda path: int(path.stem))
        digest = hashlib.sha256()
        for path in (self.experiment / "models" / "net_g_latest.pth", states[-1]):
            content = torch.load(path, weights_only=True)
            feed(digest, {key: value for key, value in content.items() if key not in ("options", "run", "meta")})
        return digest.hexdigest()


def feed(digest, value):
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            feed(digest, item)
    elif isinstance(value, torch.Tensor):
        digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(repr(value).encode())


def seeded(*parts):
    """A random generator that depends on nothing but `parts`."""
    return random.Random("/".join(map(str, parts)))
