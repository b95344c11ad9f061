"""VGGFeatureExtractor: BasicSR 1.4's names, on weights that are made here."""

import pytest
import torch
from torch import nn
from torchvision import models

from basicsr.archs.vgg_arch import VGGFeatureExtractor
from basicsr.errors import CheckpointError

LAYERS = ["conv1_1", "relu1_1", "pool1", "conv2_1"]


@pytest.fixture(scope="module")
def vgg():
    """Torchvision's VGG-11 with batch norm up to relu2_1, with random weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        features = models.vgg11_bn().features[:7]
    features = features.to_empty(device="cpu")
    for p in features.parameters():
        nn.init.normal_(p, std=0.1)
    for module in features.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.running_mean.normal_()
    return features.eval()


@pytest.fixture
def weights(vgg, tmp_path):
    torch.save({f"features.{key}": value for key, value in vgg.state_dict().items()}, tmp_path / "vgg11_bn.pth")
    return str(tmp_path / "vgg11_bn.pth")


def test_names_and_features(vgg, weights):
    net = VGGFeatureExtractor(["conv1_1", "bn1_1", "pool1", "conv2_1"], vgg_type="vgg11_bn", weights=weights)
    assert set(net.state_dict()) == {"mean", "std"} | {
        f"vgg_net.{layer}.{key}"
        for layer, keys in {"conv1_1": "weight bias", "conv2_1": "weight bias"}.items()
        for key in keys.split()
    } | {f"vgg_net.bn1_1.{key}" for key in ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]}
    x = torch.rand(2, 3, 8, 12)
    found = net(x)
    z = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = {"conv1_1": vgg[:1](z), "bn1_1": vgg[:2](z), "pool1": vgg[:4](z), "conv2_1": vgg[:5](z)}
    assert list(found) == list(expected)
    for name, features in expected.items():
        torch.testing.assert_close(found[name], features)
    again = VGGFeatureExtractor(["conv2_1"], vgg_type="vgg11_bn", weights=weights, range_norm=True)
    torch.testing.assert_close(again(2 * x - 1)["conv2_1"], expected["conv2_1"])


def test_pooling_and_gradients(weights):
    def extractor(**options):
        return VGGFeatureExtractor(["conv2_1"], vgg_type="vgg11_bn", weights=weights, **options)

    x = torch.rand(1, 3, 8, 8)
    assert extractor(remove_pooling=True)(x)["conv2_1"].shape[-1] == 8
    assert extractor(pooling_stride=1)(x)["conv2_1"].shape[-1] == 7
    frozen, learning = extractor().train(), extractor(requires_grad=True).train()
    mean = frozen.vgg_net.bn1_1.running_mean.clone()
    frozen(x), learning(x)
    assert torch.equal(frozen.vgg_net.bn1_1.running_mean, mean)
    assert not torch.equal(learning.vgg_net.bn1_1.running_mean, mean)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in learning.vgg_net.parameters())


def test_weights_are_taken_from_torchvisions_cache_and_never_downloaded(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"neither .*checkpoints/vgg11_bn-6002323d\.pth nor "):
        VGGFeatureExtractor(["conv1_1"], vgg_type="vgg11_bn")
    cached = tmp_path / "hub/checkpoints/vgg11_bn-6002323d.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes((tmp_path / "vgg11_bn.pth").read_bytes())
    assert VGGFeatureExtractor(["conv1_1"], vgg_type="vgg11_bn")(torch.rand(1, 3, 4, 4))["conv1_1"].shape[1] == 64


def test_errors(weights):
    with pytest.raises(ValueError, match=r"layer_name_list: vgg11_bn has no layers \['conv1_2'\]"):
        VGGFeatureExtractor(["conv1_2"], vgg_type="vgg11_bn", weights=weights)
    with pytest.raises(ValueError, match=r"vgg_type: .* got 'vgg12'"):
        VGGFeatureExtractor(["conv1_1"], vgg_type="vgg12", weights=weights)
