"""Log lines, where messages go before there is a file, and trackers."""

import logging
import os
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

from basicsr.config.schema import LoggerOptions, Options, WandbOptions
from basicsr.config.section import Spec
from basicsr.engine import logging as module
from basicsr.engine.logging import MessageLogger, Trackers, init_logging, log_to_file

LOGGER = logging.getLogger("basicsr")


def options(rank=0, **logger):
    return Options(
        name="run", scale=2, datasets={}, network_g=Spec({"type": "X"}), rank=rank, logger=LoggerOptions(**logger)
    )


def test_the_line_of_an_iteration(caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with caplog.at_level(logging.INFO, logger="basicsr"):
        message = MessageLogger("train_CATANet", start_iter=1000, total_iter=250_000)
        now[0] += 100 * 2.5
        message(12, 1100, [5e-4, 1e-4], 0.6171, 0.0083, {"l_pix": 0.020122, "l_fakd": 1.5})
    assert caplog.messages == [
        "[train..][epoch: 12, iter:   1,100, lr:(5.000e-04,1.000e-04,)] "
        "[eta: 7 days, 4:50:50, time (data): 0.617 (0.008)] l_pix: 2.0122e-02 l_fakd: 1.5000e+00"
    ]


def test_messages_from_before_the_file_are_in_it_once(tmp_path, capsys):
    init_logging()
    LOGGER.info("early")
    log_to_file(tmp_path / "new" / "run.log")
    LOGGER.warning("late")
    lines = (tmp_path / "new" / "run.log").read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["INFO: early", "WARNING: late"]
    assert capsys.readouterr().err.splitlines() == lines


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_said_once_without_a_traceback(capsys):
    init_logging()
    log_to_file("/dev/full")
    LOGGER.info("first")
    LOGGER.info("second")
    for handler in list(LOGGER.handlers):  # what the file has not taken fails again when it is closed
        LOGGER.removeHandler(handler)
    err = capsys.readouterr().err
    assert "first" in err and "second" in err and "Traceback" not in err
    assert err.count("/dev/full: cannot be written (No space left on device)") == 1


def test_other_ranks_show_errors_only(capsys):
    init_logging(rank=1)
    LOGGER.info("step")
    LOGGER.error("trouble")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("ERROR: trouble")


def test_other_ranks_track_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trackers = Trackers(options(rank=1, use_tb_logger=True))
    trackers.scalars({"lr": 1.0}, 1)
    trackers.close()
    assert not list(tmp_path.iterdir())


def test_wandb_gets_name_options_and_values(monkeypatch):
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((values, step)), finish=lambda: calls.append("end")
    )
    fake = types.ModuleType("wandb")
    fake.__spec__ = ModuleSpec("wandb", None)
    fake.init = lambda **arguments: calls.append(arguments) or run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    trackers = Trackers(options(wandb=WandbOptions(project="p", resume_id="i")))
    trackers.scalars({"losses/l_pix": 0.5}, 7)
    trackers.close()
    start, values, end = calls
    config = start.pop("config")
    assert start == {"project": "p", "name": "run", "id": "i", "resume": "allow"}
    assert config["network_g"] == {"type": "X"}
    assert (values, end) == (({"losses/l_pix": 0.5}, 7), "end")
