"""Every registered network computes the same on the GPU as on the CPU."""

import pytest
from archs.registered import NAMES
from gpu.agreement import compute, count_group_choices, gradient_difference, largest_difference, psnr, trained_network

pytestmark = pytest.mark.gpu
ROUNDING = 1e-4  # of outputs around [0, 1], in float32 without TF32
GRADIENT_ROUNDING = 1e-3  # of the norm of all gradients; sums over all pixels add up in another order
MIN_PSNR = 20  # dB, where tokens are free to change groups; float32 against float64 on a CPU: 27.9 (ATD-U) and more


@pytest.mark.parametrize("name", NAMES)
def test_with_the_same_groups_outputs_are_the_same(name):
    net = trained_network(name)
    here = compute(net, "cpu")
    there = compute(net, "cuda", forced=here.groups)
    assert len(here.groups) == len(there.groups) == count_group_choices(net)
    assert largest_difference(here, there) < ROUNDING


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("CATANet")])
def test_with_the_same_groups_the_prepared_form_is_the_same(name):
    net = trained_network(name)
    here = compute(net, "cpu", prepared=True)
    there = compute(net, "cuda", forced=here.groups, prepared=True)
    assert len(here.groups) == len(there.groups) == count_group_choices(net)
    assert largest_difference(here, there) < ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_with_the_same_groups_outputs_and_gradients_of_training_are_the_same(name):
    net = trained_network(name)
    here = compute(net, "cpu", train=True)
    there = compute(net, "cuda", forced=here.groups, train=True)
    assert len(here.groups) == len(there.groups) >= count_group_choices(net)  # k-means steps may be choices, too
    assert largest_difference(here, there) < ROUNDING
    assert gradient_difference(here, there) < GRADIENT_ROUNDING


@pytest.mark.parametrize("name", NAMES)
def test_with_their_own_groups_outputs_are_close(name):
    net = trained_network(name)
    assert psnr(compute(net, "cpu"), compute(net, "cuda")) > MIN_PSNR
