"""Tiles: where they agree the output is theirs bit for bit, borders included; it comes in bands of rows."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from basicsr.images.files import to_tensor
from basicsr.images.tiling import bands_of, predict_in_tiles, tiles_when_full

SIZES = [(1, 1), (1, 90), (37, 45), (64, 64), (65, 64), (100, 131), (300, 70)]
TILES = [(8, 2, 2), (16, 8, 8), (16, 8, 0), (64, 32, 32), (32, 24, 24), (20, 19, 18), (33, 11, 11), (7, 0, 0)]


def identity(x):
    return x


@pytest.mark.parametrize(("tile", "overlap", "feather"), TILES)
@pytest.mark.parametrize("size", SIZES)
def test_an_identity_network_gives_the_image_bit_for_bit(size, tile, overlap, feather):
    lq = torch.rand(2, 3, *size) * 3 - 1
    assert torch.equal(predict_in_tiles(identity, lq, tile, overlap, feather), lq)
    with torch.inference_mode():  # as networks give them
        assert torch.equal(predict_in_tiles(lambda x: x.clone(), lq, tile, overlap, feather), lq)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_all_levels_of_integers_are_kept(dtype):
    top = np.iinfo(dtype).max
    image = np.arange(top + 1, dtype=np.int64).astype(dtype).reshape(-1, 16, 1)
    out = predict_in_tiles(identity, to_tensor(image)[None], 12, 5, 5)
    assert np.array_equal(out.mul(top).round().numpy()[0, 0].astype(dtype), image[..., 0])


@pytest.mark.parametrize("scale", [2, 3])
def test_pixels_that_become_squares(scale):
    lq = torch.rand(1, 3, 100, 77)
    assert torch.equal(
        predict_in_tiles(lambda x: F.interpolate(x, scale_factor=scale), lq, 24, 10, 10),
        F.interpolate(lq, scale_factor=scale),
    )


def test_a_local_network_gives_the_whole_where_enough_is_cropped():
    net = torch.nn.Conv2d(3, 4, 5, padding=2).double().requires_grad_(False)
    lq = torch.rand(1, 3, 70, 101, dtype=torch.float64)
    torch.testing.assert_close(predict_in_tiles(net, lq, 32, 12, 8), net(lq), rtol=0, atol=1e-14)
    assert not torch.allclose(predict_in_tiles(net, lq, 32, 12, 12), net(lq), atol=1e-3)  # sees the tiles' edges


def test_the_transition_between_tiles_is_linear():
    """The network returns the number of the tile."""
    count = iter(range(100))
    out = predict_in_tiles(lambda x: torch.full_like(x, next(count)), torch.zeros(1, 1, 4, 24), 16, 8, 8)[0, 0, 0]
    assert (out[:8] == 0).all() and (out[16:] == 1).all()
    torch.testing.assert_close(out[8:16], (torch.arange(8) + 0.5) / 8)


def test_bands_are_rows_in_order_and_no_larger_than_a_tile():
    lq = torch.rand(1, 3, 200, 50)
    bands = [band.clone() for band in bands_of(identity, lambda y, x: lq[..., y, x], (200, 50), 32, 8, 8)]
    assert len(bands) > 5 and max(band.shape[-2] for band in bands) <= 32
    assert torch.equal(torch.cat(bands, -2), lq)


def test_the_input_stays_as_it_is():
    lq = torch.rand(1, 3, 50, 60)
    before = lq.clone()
    predict_in_tiles(identity, lq, 16, 8, 8)
    assert torch.equal(lq, before)


@pytest.mark.parametrize(
    ("size", "tile", "overlap", "feather", "message"),
    [
        ((0, 5), 8, 2, 0, "needs an image"),
        ((5, 5), 8, 2, 3, r"feather: must be in \[0, overlap\], got 3"),
        ((5, 5), 8, 8, 0, r"overlap: must be in \[0, tile\), got 8"),
    ],
)
def test_sizes_that_do_not_fit(size, tile, overlap, feather, message):
    lq = torch.zeros(1, 1, *size)
    with pytest.raises(ValueError, match=message):
        predict_in_tiles(identity, lq, tile, overlap, feather)


def test_tiles_are_halved_until_they_fit_into_memory():
    sizes = []

    def predict(x):
        sizes.append(max(x.shape[-2:]))
        if sizes[-1] > 100:
            raise MemoryError
        return x

    lq = torch.rand(1, 3, 130, 300)
    assert torch.equal(tiles_when_full(predict)(lq), lq)
    assert sizes[:2] == [300, 150] and max(sizes[2:]) == 75
