"""Fixtures of the tests on a GPU and of the same tests on the CPU."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(seed):
    torch.set_num_threads(1)  # faster for tensors this small
