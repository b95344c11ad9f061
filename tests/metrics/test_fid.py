"""FID: the distance of known Gaussians, and Inception's features with weights of the right names."""

import numpy as np
import pytest
import torch
from torchvision import models

from basicsr.errors import CheckpointError
from basicsr.metrics.fid import calculate_fid, extract_inception_features, load_patched_inception_v3, statistics
from basicsr.metrics.inception import CLASSES


def test_the_distance_of_known_gaussians():
    rng = np.random.default_rng(0)
    mean, root = rng.normal(size=5), rng.normal(size=(5, 5))
    sigma = root @ root.T
    assert calculate_fid(mean, sigma, mean, sigma) == pytest.approx(0, abs=1e-6)
    assert calculate_fid(mean, sigma, mean + 2, sigma) == pytest.approx(5 * 4)
    # of S and 4 S the roots commute: tr(S + 4 S - 2 * 2 S) = tr S
    assert calculate_fid(mean, sigma, mean, 4 * sigma) == pytest.approx(np.trace(sigma))
    diagonals = np.diag([1.0, 4.0]), np.diag([9.0, 16.0])
    assert calculate_fid(np.zeros(2), diagonals[0], np.zeros(2), diagonals[1]) == pytest.approx(2**2 + 2**2)
    singular = np.diag([1.0, 0.0])
    assert calculate_fid(np.zeros(2), singular, np.zeros(2), singular) == pytest.approx(0)
    with pytest.raises(ValueError, match="differ in number"):
        calculate_fid(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    net = models.inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(net.state_dict(), path)
    return path


def test_features_by_blocks_that_leave_the_border_out(weights):
    net = load_patched_inception_v3("cpu", resize_input=False, normalize_input=True, weights=weights)
    images = torch.rand(3, 3, 80, 80)
    features = extract_inception_features([images[:2], images[2:]], net, 2, "cpu")
    assert features.shape == (3, 2048)
    torch.testing.assert_close(features, net(images), rtol=1e-4, atol=1e-5)

    plain = models.inception_v3(weights=None, num_classes=CLASSES, aux_logits=False, init_weights=False)
    plain.load_state_dict(torch.load(weights, weights_only=True))
    plain.fc = torch.nn.Identity()
    plain.eval()
    with torch.no_grad():
        assert not torch.allclose(plain(2 * images - 1), features, rtol=0.01, atol=0)
        x = torch.rand(1, 192, 9, 9)
        ours, theirs = net.net.Mixed_5b(x), plain.Mixed_5b(x)
        torch.testing.assert_close(ours[:, :224], theirs[:, :224])  # only the last branch pools
        inner = (slice(None), slice(224, None), slice(1, -1), slice(1, -1))
        torch.testing.assert_close(ours[inner], theirs[inner])
        corner = net.net.Mixed_5b.branch_pool(x[:, :, :2, :2].mean((2, 3), keepdim=True))
        torch.testing.assert_close(ours[:, 224:, :1, :1], corner, rtol=1e-4, atol=1e-5)


def test_a_missing_or_foreign_file_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"FID needs Inception's weights.*curl .*pt_inception-2015-12-05"):
        load_patched_inception_v3("cpu")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: does not fit Inception-v3"):
        load_patched_inception_v3("cpu", weights=tmp_path / "a.pth")


def test_equal_sets_have_no_distance():
    features = torch.rand(50, 8, generator=torch.Generator().manual_seed(0))
    one, other = statistics(features), statistics(features.flip(0))
    assert calculate_fid(*one, *other) == pytest.approx(0, abs=1e-6)
    assert calculate_fid(*one, *statistics(features + 1)) == pytest.approx(8)
