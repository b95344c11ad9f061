"""A search of a mask on the card, the cut of its network, and the check that both are the same."""

import pytest
from gpu.cutting import search_is_cut_and_checked
from gpu.training import train_apart

pytestmark = pytest.mark.gpu


def test_a_search_is_cut_and_checked(tmp_path):
    search_is_cut_and_checked(tmp_path, "cuda", train_apart)
