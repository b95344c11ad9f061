"""Reliability tests: a short seeded part in the suite, all of it with BASICSR_FULL=1 (`make fuzz`)."""

import logging
import os

import pytest
import torch
from hypothesis import settings

import basicsr.train

FULL = os.environ.get("BASICSR_FULL") == "1"

settings.register_profile("short", derandomize=True, deadline=None, max_examples=30, database=None)
settings.register_profile("full", derandomize=True, deadline=None, max_examples=1000, database=None)
settings.load_profile("full" if FULL else "short")


@pytest.fixture(autouse=True)
def fresh_logger(monkeypatch):
    """Commands add handlers to the log; the next test must not see them."""
    logger = logging.getLogger("basicsr")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "propagate", True)
    yield
    for handler in logger.handlers:
        handler.close()


@pytest.fixture
def train(monkeypatch):
    """A function that trains in a folder, in this process; returns the exit code."""

    def train(run, *flags):
        monkeypatch.chdir(run.folder)
        torch.set_num_threads(1)
        return basicsr.train.main(["-opt", "run.yml", *flags])

    return train
