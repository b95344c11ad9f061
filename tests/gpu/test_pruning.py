"""A mask search on the GPU, with the compact network that it writes."""

import pytest
from gpu.cutting import check_search_and_cut
from gpu.training import train_in_subprocess

pytestmark = pytest.mark.gpu


def test_a_search_is_cut_and_checked(tmp_path):
    check_search_and_cut(tmp_path, "cuda", train_in_subprocess)
