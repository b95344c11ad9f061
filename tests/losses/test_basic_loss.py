import pytest
import torch
from torch.autograd import gradcheck
from torchvision import models

from basicsr.errors import CheckpointError, UnknownNameError
from basicsr.losses import build_loss
from basicsr.losses.basic_loss import CharbonnierLoss, L1Loss, MSELoss, PerceptualLoss

PIXEL_LOSSES = [L1Loss, MSELoss, CharbonnierLoss]


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 5, 7, generator=generator).double(), torch.rand(2, 3, 5, 7, generator=generator).double()


@pytest.mark.parametrize(("loss", "expected"), [(L1Loss, 3.0), (MSELoss, 9.0), (CharbonnierLoss, 3.0)])
def test_known_number(loss, expected):
    pred, target = torch.full((1, 3, 4, 4), 5.0), torch.full((1, 3, 4, 4), 2.0)
    assert loss()(pred, target).item() == pytest.approx(expected)
    assert loss(loss_weight=0.5)(pred, target).item() == pytest.approx(expected / 2)
    assert loss(reduction="sum")(pred, target).item() == pytest.approx(expected * 48)
    assert loss(reduction="none")(pred, target).shape == (1, 3, 4, 4)


def test_charbonnier_is_smooth_at_zero():
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    loss = CharbonnierLoss(eps=1e-6)(x, torch.zeros(1, 3, 4, 4))
    loss.backward()
    assert loss.item() == pytest.approx(1e-3)
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_weighted_mean_counts_only_the_weighted_pixels(loss, images):
    pred, target = images
    weight = torch.zeros(2, 1, 5, 7)
    weight[:, :, :2] = 1
    torch.testing.assert_close(loss()(pred, target, weight), loss()(pred[:, :, :2], target[:, :, :2]))
    torch.testing.assert_close(loss()(pred, target, 3 * torch.ones(1)), loss()(pred, target))
    summed = loss(reduction="sum")
    torch.testing.assert_close(summed(pred, target, weight), summed(pred[:, :, :2], target[:, :, :2]))
    assert loss()(pred, target, torch.zeros(1)).item() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_gradients(loss, reduction, images):
    pred, target = images
    weight = torch.rand(2, 1, 5, 7, dtype=torch.float64)
    gradcheck(lambda x: loss(reduction=reduction)(x, target, weight), pred.requires_grad_())


@pytest.mark.parametrize("loss", PIXEL_LOSSES)
def test_bad_input(loss, images):
    with pytest.raises(ValueError, match=r"differ in shape, got \(2, 3, 5, 7\) and \(1, 3, 5, 7\)"):
        loss()(images[0], images[1][:1])
    with pytest.raises(ValueError, match="reduction: must be one of mean, sum, none, got 'max'"):
        loss(reduction="max")


def test_charbonnier_refuses_zero_eps():
    with pytest.raises(ValueError, match="eps: must be above 0, got 0"):
        CharbonnierLoss(eps=0)


def test_build_loss_leaves_the_spec_alone():
    spec = {"type": "L1Loss", "loss_weight": 0.5, "reduction": "sum"}
    loss = build_loss(spec)
    assert isinstance(loss, L1Loss) and loss.loss_weight == 0.5 and loss.reduction == "sum"
    assert spec == {"type": "L1Loss", "loss_weight": 0.5, "reduction": "sum"}
    with pytest.raises(UnknownNameError, match="L1Loss"):
        build_loss({"type": "L1Los"})


@pytest.fixture(scope="module")
def vgg():
    """Torchvision's VGG-11 up to conv2_1 with random weights: nothing is downloaded, so nothing is trained."""
    torch.manual_seed(0)
    with torch.device("meta"):
        features = models.vgg11().features[:4]
    features = features.to_empty(device="cpu")
    for parameter in features.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return features


@pytest.fixture
def weights(vgg, tmp_path):
    state = {f"features.{key}": value for key, value in vgg.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg11.pth")
    return str(tmp_path / "vgg11.pth")


def perceptual(weights, **options):
    layers = options.pop("layer_weights", {"conv1_1": 0.5, "conv2_1": 2.0})
    return PerceptualLoss(layer_weights=layers, vgg_type="vgg11", weights=weights, **options)


def test_perceptual_loss_compares_the_named_layers(vgg, weights):
    x, y = torch.rand(2, 2, 3, 12, 16)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    (x1, x2), (y1, y2) = (
        (vgg[:1]((image - mean) / std), vgg((image - mean) / std)) for image in (x, y)
    )  # conv1_1 is tapped before the in-place ReLU that follows it
    expected = 0.5 * (x1 - y1).abs().mean() + 2 * (x2 - y2).abs().mean()
    torch.testing.assert_close(perceptual(weights)(x, y), expected.detach())
    squares = 0.5 * (x1 - y1).square().mean() + 2 * (x2 - y2).square().mean()
    torch.testing.assert_close(perceptual(weights, criterion="l2")(x, y), squares.detach())
    norms = 0.5 * (x1 - y1).norm() + 2 * (x2 - y2).norm()
    torch.testing.assert_close(perceptual(weights, criterion="fro")(x, y), norms.detach())


def test_style_compares_gram_matrices(vgg, weights):
    x, y = torch.rand(2, 2, 3, 8, 10)
    style = perceptual(
        weights, layer_weights={"conv1_1": 2.0}, use_input_norm=False, perceptual_weight=0, style_weight=3
    )
    gram_x, gram_y = (torch.einsum("bihw,bjhw->bij", f, f) / (64 * 8 * 10) for f in (vgg[:1](x), vgg[:1](y)))
    torch.testing.assert_close(style(x, y), (6 * (gram_x - gram_y).abs().mean()).detach())


def test_range_norm_reads_images_from_minus_one_to_one(weights):
    x, y = torch.rand(2, 1, 3, 8, 8)
    torch.testing.assert_close(perceptual(weights, range_norm=True)(2 * x - 1, 2 * y - 1), perceptual(weights)(x, y))


def test_perceptual_loss_trains_the_image_and_nothing_else(weights):
    loss = perceptual(weights, style_weight=1.0).train()
    pred, target = (image.requires_grad_() for image in torch.rand(2, 1, 3, 8, 8).unbind())
    loss(pred, target).backward()
    assert pred.grad.abs().sum() > 0 and target.grad is None
    assert not loss.vgg.training and all(not p.requires_grad for p in loss.parameters())


def test_perceptual_loss_refuses_bad_options(weights, tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        perceptual(str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match=r"text\.pth: is damaged or no weight file: it is a text file"):
        perceptual(str(tmp_path / "text.pth"))
    with pytest.raises(CheckpointError, match=r"vgg11\.pth: does not fit vgg11: .*features\.6\.weight"):
        perceptual(weights, layer_weights={"conv3_1": 1.0})
    with pytest.raises(CheckpointError, match=r"vgg11\.pth: does not fit vgg16"):
        PerceptualLoss(layer_weights={"conv2_1": 1.0}, vgg_type="vgg16", weights=weights)
    with pytest.raises(ValueError, match=r"vgg11 has no layers \['conv1_2'\]"):
        perceptual(weights, layer_weights={"conv1_2": 1.0})
    with pytest.raises(ValueError, match="needs some of conv1_1"):
        perceptual(weights, layer_weights={})
    with pytest.raises(ValueError, match="criterion: must be one of l1, l2, fro, got 'l3'"):
        perceptual(weights, criterion="l3")
    with pytest.raises(ValueError, match=r"vgg_type: .* got 'vgg12'"):
        PerceptualLoss(layer_weights={"conv1_1": 1.0}, vgg_type="vgg12", weights=weights)
