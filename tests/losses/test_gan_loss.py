"""Adversarial losses and penalties on gradients, against numbers and formulas."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from basicsr.losses import build_loss, g_path_regularize, gradient_penalty_loss, r1_penalty
from basicsr.losses.basic_loss import WeightedTVLoss
from basicsr.losses.gan_loss import GANLoss

SCORES = torch.tensor([[-1.5], [0.0], [0.5], [2.0]], dtype=torch.float64)


def mean(function):
    return sum(function(x) for x in SCORES.flatten().tolist()) / len(SCORES)


def softplus(x):
    return math.log1p(math.exp(x))


FORMULAS = {  # type: (real, fake) for the discriminator, then for the generator
    "vanilla": (lambda x: softplus(-x), softplus, lambda x: softplus(-x), softplus),
    "lsgan": (lambda x: (x - 1) ** 2, lambda x: x**2, lambda x: (x - 1) ** 2, lambda x: x**2),
    "wgan": (lambda x: -x, lambda x: x, lambda x: -x, lambda x: x),
    "wgan_softplus": (lambda x: softplus(-x), softplus, lambda x: softplus(-x), softplus),
    "hinge": (lambda x: max(0, 1 - x), lambda x: max(0, 1 + x), lambda x: -x, lambda x: x),
}


@pytest.mark.parametrize("gan_type", FORMULAS)
def test_known_numbers(gan_type):
    loss = build_loss({"type": "GANLoss", "gan_type": gan_type, "loss_weight": 0.1})
    cases = [(True, True), (False, True), (True, False), (False, False)]
    for formula, (is_real, is_disc) in zip(FORMULAS[gan_type], cases, strict=True):
        expected = mean(formula) * (1 if is_disc else 0.1)
        assert loss(SCORES, is_real, is_disc=is_disc).item() == pytest.approx(expected)
        gradcheck(lambda x, r=is_real, d=is_disc: loss(x, r, d), (SCORES + 0.1).requires_grad_())


def test_labels_and_unknown_types():
    assert GANLoss("lsgan", real_label_val=0.9)(torch.full((2, 3), 0.4), True, is_disc=True).item() == pytest.approx(
        0.25
    )
    assert GANLoss("lsgan", fake_label_val=0.1)(torch.full((2, 3), 0.4), False).item() == pytest.approx(0.09)
    with pytest.raises(ValueError, match=r"gan_type: must be one of vanilla, lsgan, .* got 'ragan'"):
        GANLoss("ragan")


def test_r1_penalty_of_a_linear_score_is_its_squared_norm():
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    images = torch.rand(5, 3, requires_grad=True)
    penalty = r1_penalty(images @ weight, images)
    assert penalty.item() == pytest.approx(14)
    penalty.backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach())


def test_gradient_penalty():
    net = nn.Conv2d(2, 1, 1, bias=False).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))
    real, fake = torch.rand(2, 4, 2, 5, 5, dtype=torch.float64)
    penalty = gradient_penalty_loss(net, real, fake)
    assert penalty.item() == pytest.approx((5 - 1) ** 2)
    penalty.backward()
    assert net.weight.grad.abs().sum() > 0
    assert gradient_penalty_loss(net, real, fake, torch.full_like(real, 0.5)).item() == pytest.approx(1.5**2 / 0.5)


def test_path_length_of_a_linear_generator():
    latents = torch.rand(3, 2, 4, dtype=torch.float64, requires_grad=True)
    images = 2 * latents.sum((1, 2)).view(3, 1, 1, 1)  # gradient: 2 * noise in each of the 8 entries
    torch.manual_seed(0)
    noise = torch.randn_like(images).flatten().abs()
    torch.manual_seed(0)
    penalty, length, running = g_path_regularize(images, latents, 1.0, decay=0.25)
    lengths = 2 * noise * math.sqrt(4)
    torch.testing.assert_close(length, lengths.mean())
    torch.testing.assert_close(running, 0.75 + 0.25 * lengths.mean())
    torch.testing.assert_close(penalty.detach(), (lengths - running).square().mean())


def test_total_variation():
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(2, 3, 5, 4)
    assert WeightedTVLoss(loss_weight=2)(ramp).item() == pytest.approx(2)
    assert WeightedTVLoss(reduction="sum")(ramp).item() == pytest.approx(2 * 3 * 5 * 3)
    weight = torch.zeros(2, 1, 5, 4)
    assert WeightedTVLoss()(ramp, weight).item() == 0
    with pytest.raises(ValueError, match="reduction: must be mean or sum, got 'none'"):
        WeightedTVLoss(reduction="none")
