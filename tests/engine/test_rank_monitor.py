"""The thread of the rank monitor ends before its process. tests/reliability/test_failures.py has real failures."""

import threading
import time

from basicsr.engine import rank_monitor


def test_a_run_that_ends_well_waits_for_a_call_of_the_store(monkeypatch):
    """Otherwise Python aborts the process at its exit, after a successful run."""
    in_call = threading.Event()

    def slow_connect(seconds):
        in_call.set()
        time.sleep(1.5)
        raise RuntimeError("rank 0 has ended")

    monkeypatch.setattr(rank_monitor, "connect", slow_connect)
    rank_monitor.start_rank_monitor(1, 2, 60)
    assert in_call.wait(10)
    rank_monitor.stop_rank_monitor()
    assert "basicsr-rank-monitor" not in [thread.name for thread in threading.enumerate()]
