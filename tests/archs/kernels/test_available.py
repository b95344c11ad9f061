"""Where the Triton kernels are used, and the log line where they cannot be."""

import logging

import pytest
import torch

from basicsr.archs import kernels
from basicsr.archs.kernels import triton_available


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    for name in ("BASICSR_KERNELS", "BASICSR_TRITON_ON_CPU"):
        monkeypatch.delenv(name, raising=False)
    kernels._runs_on_cuda.cache_clear()
    yield
    kernels._runs_on_cuda.cache_clear()


def test_on_the_cpu_only_for_tests(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not triton_available(torch.device("cpu"))
    monkeypatch.setenv("BASICSR_TRITON_ON_CPU", "1")
    assert triton_available(torch.device("cpu"))
    assert not triton_available(torch.device("meta"))
    monkeypatch.setenv("BASICSR_KERNELS", "0")
    assert not triton_available(torch.device("cpu"))
    monkeypatch.delenv("BASICSR_KERNELS")
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not triton_available(torch.device("cpu"))


def test_a_missing_triton_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(kernels.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(kernels.logger, "propagate", True)
    with caplog.at_level(logging.INFO, logger="basicsr"):
        assert not any(triton_available(torch.device("cuda", 0)) for _ in range(3))
    assert [record.message for record in caplog.records] == [
        "No Triton kernels, using plain PyTorch (Triton is not installed)"
    ]


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_needs_a_recent_gpu(monkeypatch, capability, expected):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    assert triton_available(torch.device("cuda", 0)) is expected
    monkeypatch.setenv("BASICSR_KERNELS", "0")
    assert not triton_available(torch.device("cuda", 0))
