"""Two network namespaces joined by a cable stand for two hosts: a run across them is that of one host."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from reliability.runs import ROOT, Run, options
from reliability.test_failures import FAULTY

pytestmark = pytest.mark.slow
HOSTS = ("10.213.77.1", "10.213.77.2")
TIMEOUT = 5  # seconds, dist_params.timeout
ENDS_WITHIN = TIMEOUT + 40  # seconds from the cut to the end of the last process
TOTAL = 6


def ip(*arguments, check=True):
    return subprocess.run(["ip", *map(str, arguments)], check=check, capture_output=True, text=True)


@pytest.fixture
def hosts():
    """Names of two network namespaces joined by a veth pair, an address and a loopback device in each."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (package iproute2)")
    names = [f"basicsr{os.getpid()}{side}" for side in "ab"]
    ends = [f"bsr{os.getpid() % 10**6}{side}" for side in "ab"]
    made = ip("netns", "add", names[0], check=False)
    if made.returncode:
        pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
    try:
        ip("netns", "add", names[1])
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, HOSTS, strict=True):
            ip("-n", name, "address", "add", f"{address}/30", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, ends, HOSTS, strict=True))
    finally:
        for name in names:
            ip("netns", "delete", name, check=False)


class TwoHosts(Run):
    """A run of one process on each of two hosts, by torchrun, with separate folders as hosts without shared storage."""

    def begin(self, hosts, pause=0.0):
        self.seen, self.output, self.processes = 0, "", []
        for k, (name, end, _) in enumerate(hosts):
            folder = self.folder if k == 0 else self.folder / "other"
            folder.mkdir(exist_ok=True)
            shutil.copyfile(self.folder / "run.yml", folder / "run.yml") if k else None
            env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": end,
                   "PAUSE": str(pause)}  # fmt: skip
            argv = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes=2",
                    "--nproc_per_node=1", f"--node-rank={k}", f"--master-addr={hosts[0][2]}", "--master-port=29533",
                    str(FAULTY), "-opt", "run.yml", "--auto_resume"]  # fmt: skip
            process = subprocess.Popen(argv, cwd=folder, env=env, text=True, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, start_new_session=True)  # fmt: skip
            threading.Thread(target=self._follow, args=(process,), daemon=True).start()
            self.processes.append(process)

    def end_all(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_a_run_across_two_hosts_survives_a_cut_and_ends_like_that_of_one_host(hosts, tmp_path, record_property):
    changes = {"datasets": {"train": {"batch_size_per_gpu": 1}}, "train": {"ema_decay": 0.9},
               "dist_params": {"timeout": TIMEOUT}}  # fmt: skip
    values = options(tmp_path, TOTAL, **changes)
    straight = Run(tmp_path / "one", values, 2)
    straight.start()  # at the same time

    across = TwoHosts(tmp_path / "two", values)
    try:
        across.begin(hosts, pause=0.5)
        assert across.wait_for(lambda: across.seen >= 3), across.output
        ip("-n", hosts[1][0], "link", "set", hosts[1][1], "down")
        begin = time.monotonic()
        codes = [process.wait(ENDS_WITHIN) for process in across.processes]
        took = time.monotonic() - begin
        record_property("seconds", round(took, 1))
        print(f"cut: {took:.1f} s to the end of the last process, exit codes {codes}")
        assert all(codes)
        log = "".join(path.read_text() for path in across.experiment.glob("train_*.log"))
        assert "First failure" in log, log + across.output
        assert straight.wait() == [0, 0], straight.output
        # As far as it came, it is the run of one host.
        assert weights(across, 2) == weights(straight, 2)

        ip("-n", hosts[1][0], "link", "set", hosts[1][1], "up")
        across.begin(hosts)
        assert [process.wait(120) for process in across.processes] == [0, 0], across.output
    finally:
        across.end_all()
        straight.send(signal.SIGKILL)
    assert across.result() == straight.result()


def weights(run, iteration):
    content = torch.load(run.experiment / "models" / f"net_g_{iteration}.pth", weights_only=True)
    return {key: {name: value.tolist() for name, value in content[key].items()} for key in ("params", "params_ema")}
