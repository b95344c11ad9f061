"""A fault in the middle of a run: every process ends in time, and the log says what came first."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from reliability.runs import Run, feed, options

from basicsr.config.load import load_options, resolve
from basicsr.engine.checkpoint import load_file
from basicsr.engine.device import is_out_of_memory
from basicsr.engine.wrapper import bare_network
from basicsr.images.tiling import MIN_TILE, predict_in_tiles, spans, tiles_when_full
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel

FAULTY = Path(__file__).with_name("faulty_train.py")
FULL = os.environ.get("BASICSR_FULL") == "1"
TIMEOUT = 5  # seconds, dist_params.timeout of these runs
TWO = {"datasets": {"train": {"batch_size_per_gpu": 1}}, "dist_params": {"timeout": TIMEOUT}}


class FaultyRun(Run):
    """A run whose process `rank` meets a fault at an iteration; under torchrun, or else as a cluster would start it."""

    def begin(self, monkeypatch, fault, torchrun=False):
        monkeypatch.setattr("reliability.runs.SCRIPT", FAULTY)
        monkeypatch.setenv("FAULT", fault)
        if not torchrun:
            self.start()
            return
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.number}"]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(FAULTY.parents[2])}
        argv = [*launcher, str(FAULTY), "-opt", "run.yml"]
        self.processes = [
            subprocess.Popen(
                argv, cwd=self.folder, env=env, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        ]
        threading.Thread(target=self._follow, args=tuple(self.processes), daemon=True).start()

    def end(self, iteration):
        """Exit codes, and seconds from the log line of `iteration` (0: the start) to the end of the last process."""
        assert self.wait_for(lambda: self.seen >= iteration and "Start training" in self.output), self.output
        begin = time.monotonic()
        codes = self.wait(60)
        return codes, time.monotonic() - begin

    def logs(self):
        return "".join(path.read_text() for path in sorted(self.experiment.glob("*.log")))


AT_ONCE = 20  # seconds within which every process has ended, if there is nothing to wait for
CASES = {  # fault -> under torchrun, seconds, what the logs say
    "kill:1:3": (False, AT_ONCE, r"First failure seen: rank 0 .*: rank 1 \(process \d+ on \S+\) gives no sign of life"),
    "kill:0:3": (True, AT_ONCE, r"First failure seen: rank 1 .*: rank 0 .* gives no sign of life"),
    "hang:1:3": (
        False,
        TIMEOUT + AT_ONCE + 10,
        r"First failure seen: rank 0 .*: rank 1 .* is alive and has been in hang \(faulty_train\.py:\d+\) for \d+ s",
    ),
    "freeze:1:3": (True, TIMEOUT + AT_ONCE + 30, r"First failure seen: rank 0 .*: rank 1 .* gives no sign of life"),
    "raise:1:3": (True, AT_ONCE, r"First failure: rank 1 \(.*\): ZeroDivisionError: a mistake in a plug-in"),
    "loader-killed:1:0": (
        False,
        AT_ONCE,
        r"First failure: rank 1 \(.*\): RuntimeError: DataLoader worker \(pid.*(killed by signal|exited unexpectedly)",
    ),
    "loader-hangs:1:0": (
        False,
        TIMEOUT + AT_ONCE,
        r"First failure: rank 1 \(.*\): RuntimeError: DataLoader timed out after 4",
    ),
}

QUICK = ("hang:1:3", "loader-killed:1:0")  # of these cases; BASICSR_FULL=1 (`make fuzz`) runs all


@pytest.mark.parametrize("fault", CASES if FULL else [pytest.param(QUICK[0], marks=pytest.mark.slow), *QUICK[1:]])
def test_every_process_ends_and_the_log_names_the_first(fault, tmp_path, monkeypatch, record_property):
    torchrun, seconds, said = CASES[fault]
    workers = {"num_worker_per_gpu": 1} if fault.startswith("loader") else {}
    changes = {**TWO, "datasets": {"train": {"batch_size_per_gpu": 1, **workers}}}
    run = FaultyRun(tmp_path, options(tmp_path, 40, **changes), 2)
    run.begin(monkeypatch, fault, torchrun)
    codes, took = run.end(max(int(fault.split(":")[2]) - 1, 0))
    record_property("seconds", round(took, 1))
    print(f"{fault}, {'torchrun' if torchrun else 'alone'}: {took:.1f} s, exit codes {codes}")
    assert all(codes), run.output
    assert took < seconds
    assert re.search(said, run.logs(), re.DOTALL), run.logs() + run.output


# A loss or a gradient that is not finite.


@pytest.fixture
def model(tmp_path):
    """Builds a model whose folders are in `tmp_path`."""

    def model(**train):
        values = options(
            tmp_path,
            9,
            train={"ema_decay": 0.5, **train},
            path={"experiments_root": str(tmp_path)},
            val={"metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0}}},
        )
        (tmp_path / "run.yml").write_text(json.dumps(values))
        torch.manual_seed(0)
        return build_model(resolve(load_options(tmp_path / "run.yml", is_train=True)))

    return model


def step(model, it, poison=None):
    generator = torch.Generator().manual_seed(it)
    lq, gt = (torch.rand(2, 3, side, side, generator=generator) for side in (12, 24))
    if poison == "loss":
        gt[0, 0, 0, 0] = float("nan")
    if poison == "input":  # goes into the token centres as well
        lq[0, 0, 0, 0] = float("inf")
    model.update_learning_rate(it)
    model.feed_data({"lq": lq, "gt": gt, "gt_path": [f"{it}a.png", f"{it}b.png"]})
    if poison == "gradient":
        hook = next(model.net_g.parameters()).register_hook(lambda grad: grad * float("inf"))
    model.optimize_parameters(it)
    if poison == "gradient":
        hook.remove()


def everything(model):
    """Hash of all that training changes."""
    net = bare_network(model.net_g)
    flags = [module.initialised for module in net.modules() if hasattr(module, "initialised")]
    digest = hashlib.sha256(repr(flags).encode())
    feed(digest, [net.state_dict(), model.ema.module.state_dict(), [o.state_dict() for o in model.optimizers]])
    return digest.hexdigest()


@pytest.mark.parametrize("poison", ["loss", "input", "gradient"])
def test_a_skipped_step_changes_nothing(poison, model, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
    poisoned, clean = model(nan="skip"), model(nan="skip")
    fresh = everything(poisoned)
    with caplog.at_level("WARNING"):
        step(poisoned, 9, poison)  # even the first
    assert everything(poisoned) == fresh
    assert "skipped (1 of at most 10), the files are 9a.png, 9b.png" in caplog.text
    for it in (1, 2):
        step(poisoned, it)
        step(clean, it)
    step(poisoned, 8, poison)
    assert everything(poisoned) == everything(clean)
    step(poisoned, 3)
    step(clean, 3)
    assert everything(poisoned) == everything(clean)
    lines = [json.loads(line) for line in (tmp_path / "run" / "non_finite.jsonl").read_text().splitlines()]
    assert [(line["iter"], line["action"], line["files"]) for line in lines] == [
        (9, "skip", ["9a.png", "9b.png"]),
        (8, "skip", ["8a.png", "8b.png"]),
    ]


def test_no_more_steps_are_skipped_than_the_limit(model):
    limited = model(nan="skip", nan_limit=1)
    step(limited, 1, "loss")
    before = everything(limited)
    with pytest.raises(FloatingPointError, match=r"iteration 2: the loss is not finite \(l_pix=nan\);.*2a.png"):
        step(limited, 2, "loss")
    assert everything(limited) == before


@pytest.mark.parametrize(
    ("poison", "said"),
    [
        ("loss", r"the loss is not finite \(l_pix=nan\)"),
        ("gradient", r"the gradient is not finite, the loss is \(l_pix=0\."),
    ],
)
def test_without_skip_the_run_ends_and_the_last_checkpoint_stays(poison, said, model, tmp_path):
    stopped = model()
    step(stopped, 1)
    stopped.save(0, 1)
    kept = {path: path.read_bytes() for path in tmp_path.glob("run/*/*1.*")}
    with pytest.raises(FloatingPointError, match=rf"iteration 2: {said}.*training_states/1\.state.*2a\.png, 2b\.png"):
        step(stopped, 2, poison)
    assert len(kept) == 2 and {path: path.read_bytes() for path in kept} == kept
    (line,) = (tmp_path / "run" / "non_finite.jsonl").read_text().splitlines()
    assert json.loads(line)["action"] == "stop"
    assert all(value.isfinite().all() for value in stopped.net_g.state_dict().values())


@pytest.mark.slow
def test_all_processes_skip_what_one_of_them_cannot_use(tmp_path, monkeypatch):
    changes = {**TWO, "train": {"nan": "skip", "ema_decay": 0.9}, "logger": {"save_checkpoint_freq": 1}}
    run = FaultyRun(tmp_path, options(tmp_path, 4, **changes), 2)
    run.begin(monkeypatch, "nan:1:3")
    assert run.wait() == [0, 0], run.output
    before, after, last = (load_file(run.experiment / "models" / f"net_g_{it}.pth") for it in (2, 3, 4))
    for key in ("params", "params_ema"):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
    assert any(not torch.equal(last["params"][name], value) for name, value in after["params"].items())
    (line,) = map(json.loads, (run.experiment / "non_finite.jsonl").read_text().splitlines())
    assert line["iter"] == 3 and len(line["files"]) == 2  # those of both processes
    assert line["losses"][1] == {"l_pix": "nan"} and line["losses"][0] != {"l_pix": "nan"}
    assert re.search(r"iteration 3: .*rank 1: l_pix=nan.*skipped \(1 of at most 10\)", run.logs())


# Memory that does not suffice.


@pytest.mark.parametrize(("side", "tile", "overlap"), [(1, 8, 2), (8, 8, 2), (9, 8, 2), (31, 8, 2), (100, 64, 32)])
def test_tiles_cover_a_side_once(side, tile, overlap):
    found = spans(side, tile, overlap)
    assert [i for span in found for i in range(span.keep_start, span.keep_stop)] == list(range(side))
    for span in found:
        assert 0 <= span.start <= span.keep_start < span.keep_stop <= span.stop <= side
        assert span.keep_start == 0 or span.keep_start - span.start >= overlap // 2
        assert span.keep_stop == side or span.stop - span.keep_stop >= overlap // 2


def test_tiles_of_a_local_network_are_the_whole_image():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 12, 5, padding=2), torch.nn.PixelShuffle(2)).double()
    lq = torch.rand(1, 3, 70, 101, dtype=torch.float64)
    torch.testing.assert_close(predict_in_tiles(net, lq, 32, 8), net(lq), rtol=0, atol=1e-14)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
]


@pytest.mark.parametrize("error", ERRORS, ids=["cuda", "python", "cpu", "c++", "onednn"])
def test_validation_goes_on_in_tiles_and_says_so(error, model, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("basicsr"), "propagate", True)
    tried = []

    class Net(torch.nn.Module):
        def forward(self, lq):
            tried.append(tuple(lq.shape[-2:]))
            if lq.shape[-1] * lq.shape[-2] > 70 * 70:
                raise error
            return torch.nn.functional.interpolate(lq, scale_factor=2)

    monkeypatch.setattr(SRModel, "net_eval", property(lambda self: Net()))
    torch.manual_seed(0)
    small, large = torch.rand(1, 3, 60, 60), torch.rand(1, 3, 90, 256)
    names = {"lq_path": ["a"], "gt_path": ["a"]}
    loader = [
        {"lq": x, "gt": torch.nn.functional.interpolate(x, scale_factor=2), **names, "gt_path": [name]}
        for x, name in ((small, "small"), (large, "large"), (large, "larger"))
    ]
    scores = model().validation(loader, 1)
    assert {name: found["psnr"] for name, found in scores.per_image.items()} == dict.fromkeys(
        ("small", "large", "larger"), float("inf")
    )
    messages = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(messages) == 2  # 128, then 64; the third image begins with 64
    assert messages[0].startswith("Out of memory for an image of 256x90 px (") and "tiles of 128 px" in messages[0]
    assert tried.count((90, 256)) == 1


LITTLE_MEMORY = """
import resource, torch
from basicsr.archs import build_network
from basicsr.images.tiling import tiles_when_full

torch.set_num_threads(1)
run = build_network({"type": "CATANet-S", "upscale": 2}).eval().prepared(torch.float32)
with torch.inference_mode():
    lq = torch.rand(1, 3, 400, 400)
    run(lq[..., :64, :64])
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 150 * 2**20,) * 2)
    output = tiles_when_full(lambda x: run(x))(lq)
    assert output.shape == (1, 3, 800, 800) and output.isfinite().all()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory that hold")
@pytest.mark.slow
def test_a_process_whose_memory_is_limited_goes_on_in_tiles():
    env = {**os.environ, "PYTHONPATH": str(FAULTY.parents[2])}
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "Out of memory for an image of 400x400 px (" in done.stderr and "in tiles of " in done.stderr


def test_other_errors_and_too_little_memory_for_any_tile_are_raised():
    def broken(lq):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def full(lq):
        raise MemoryError

    with pytest.raises(RuntimeError, match="mat1"):
        tiles_when_full(broken)(torch.rand(1, 3, 200, 200))
    with pytest.raises(MemoryError, match=rf"200x300 px does not fit into memory, not even in tiles of {MIN_TILE} px"):
        tiles_when_full(full)(torch.rand(1, 3, 300, 200))
    assert not is_out_of_memory(ValueError("out of memory"))
