"""SwinIR: names and shapes of published weights, and outputs from its equations in float64."""

import pytest
import torch
from torch.nn import functional as F

from basicsr.archs import build_network
from basicsr.archs.published import published_spec
from basicsr.archs.swinir_arch import TINY, SwinIR
from basicsr.config.construction import build_for_shapes

REAL = {
    "type": "SwinIR", "window_size": 8, "embed_dim": 240, "depths": [6] * 9, "num_heads": [8] * 9, "mlp_ratio": 2,
    "upscale": 4, "upsampler": "nearest+conv", "resi_connection": "3conv",
}  # fmt: skip
JPEG = {
    "type": "SwinIR", "window_size": 7, "img_size": 126, "in_chans": 1, "embed_dim": 180, "depths": [6] * 6,
    "num_heads": [6] * 6, "mlp_ratio": 2, "upscale": 1, "img_range": 255.0,
}  # fmt: skip
# name: (spec, parameters, (C, in_chans, groups, heads, window, windows of a mask, head of the network))
SPECS = {
    "light x2": ({"type": "SwinIR-light", "upscale": 2}, 910_152, (60, 3, 4, 6, 8, 64)),
    "light x3": ({"type": "SwinIR-light", "upscale": 3}, 918_267, (60, 3, 4, 6, 8, 64)),
    "light x4": ({"type": "SwinIR-light", "upscale": 4}, 929_628, (60, 3, 4, 6, 8, 64)),
    "classical x2": ({"type": "SwinIR-classical", "upscale": 2}, 11_752_487, (180, 3, 6, 6, 8, 64)),
    "classical x4, 48 px": ({"type": "SwinIR-classical", "img_size": 48}, 11_900_199, (180, 3, 6, 6, 8, 36)),
    "real-world, large": (REAL, 28_013_059, (240, 3, 9, 8, 8, 64)),
    "JPEG": (JPEG, 11_485_585, (180, 1, 6, 6, 7, 324)),
}


def convolution(name, channels, out, size=3):
    return {f"{name}.weight": (out, channels, size, size), f"{name}.bias": (out,)}


def linear(name, channels, out):
    return {f"{name}.weight": (out, channels), f"{name}.bias": (out,)}


def norm(name, dim):
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def connection(name, dim, kind):
    if kind == "1conv":
        return convolution(name, dim, dim)
    quarter = dim // 4
    ends = convolution(f"{name}.0", dim, quarter) | convolution(f"{name}.4", quarter, dim)
    return ends | convolution(f"{name}.2", quarter, quarter, 1)


def head(name, dim, channels):
    if name.startswith("light"):
        return convolution("upsample.0", dim, channels * int(name[-1]) ** 2)
    if name == "JPEG":
        return convolution("conv_last", dim, channels)
    table = convolution("conv_before_upsample.0", dim, 64) | convolution("conv_last", 64, channels)
    if name.startswith("real"):
        return table | {k: s for x in ("conv_up1", "conv_up2", "conv_hr") for k, s in convolution(x, 64, 64).items()}
    for place in ("0", "2")[: 1 if "x2" in name else 2]:
        table |= convolution(f"upsample.{place}", 64, 256)
    return table


def keys(name):
    dim, channels, groups, heads, window, windows = SPECS[name][2]
    kind = "3conv" if name.startswith("real") else "1conv"
    table = convolution("conv_first", channels, dim) | norm("patch_embed.norm", dim) | norm("norm", dim)
    table |= connection("conv_after_body", dim, kind) | head(name, dim, channels)
    area = window**2
    for i in range(groups):
        table |= connection(f"layers.{i}.conv", dim, kind)
        for j in range(6):
            block = f"layers.{i}.residual_group.blocks.{j}"
            table |= norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
            table |= linear(f"{block}.attn.qkv", dim, 3 * dim) | linear(f"{block}.attn.proj", dim, dim)
            table |= linear(f"{block}.mlp.fc1", dim, 2 * dim) | linear(f"{block}.mlp.fc2", 2 * dim, dim)
            table[f"{block}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
            table[f"{block}.attn.relative_position_index"] = (area, area)
            if j % 2:
                table[f"{block}.attn_mask"] = (windows, area, area)
    return table


@pytest.mark.parametrize("name", SPECS)
def test_published_names_shapes_and_parameters(name):
    spec, parameters, _ = SPECS[name]
    net = build_for_shapes(lambda: build_network(spec))
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == keys(name)
    assert sum(p.numel() for p in net.parameters()) == parameters


@pytest.mark.parametrize("name", SPECS)
def test_published_weights_are_recognised(name):
    weights = {key: torch.empty(shape, device="meta") for key, shape in keys(name).items()}
    spec = published_spec(weights, "x.pth")
    assert spec["type"] == "SwinIR"
    assert spec["img_range"] == (255 if name == "JPEG" else 1)
    net = build_for_shapes(lambda: build_network(spec))
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == keys(name)


def windows_of(x, side):
    """(B, H, W, C) as (B, rows, columns, side * side, C)."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).flatten(3, 4)


def merged_windows(x, side):
    batch, rows, columns, _, channels = x.shape
    x = x.view(batch, rows, columns, side, side, channels).transpose(2, 3)
    return x.reshape(batch, rows * side, columns * side, channels)


def layer(state, prefix, x, side, heads, shift):
    """One layer on a map (B, H, W, C), after the papers."""

    def linear(name, t):
        return F.linear(t, state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"])

    def norm(name, t):
        return F.layer_norm(t, t.shape[-1:], state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"])

    height, width = x.shape[1:3]
    region = torch.zeros(height, width)
    if shift:
        region[height - shift :] += 1  # what the roll brings from the other side
        region[:, width - shift :] += 2
    region = windows_of(region[None, :, :, None], side)[..., 0]
    rolled = norm("norm1", x).roll((-shift, -shift), (1, 2))
    w = windows_of(rolled, side)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(-2, -3) for t in linear("attn.qkv", w).chunk(3, -1))
    scores = q @ k.mT / q.shape[-1] ** 0.5
    table = state[f"{prefix}.attn.relative_position_bias_table"]
    for a in range(side**2):
        for b in range(side**2):
            dy, dx = a // side - b // side + side - 1, a % side - b % side + side - 1
            scores[..., a, b] += table[dy * (2 * side - 1) + dx]
    scores = scores + (region[..., :, None] != region[..., None, :])[..., None, :, :] * -100.0
    out = (scores.softmax(-1) @ v).transpose(-2, -3).flatten(-2)
    x = x + merged_windows(linear("attn.proj", out), side).roll((shift, shift), (1, 2))
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


def reference(state, x, side, depths, heads, scale, dim):
    def conv(name, t):
        return F.conv2d(t, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    def norm(name, t):
        return F.layer_norm(t, (dim,), state[f"{name}.weight"], state[f"{name}.bias"])

    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(1, 3, 1, 1)
    shallow = conv("conv_first", x - mean)
    t = norm("patch_embed.norm", shallow.permute(0, 2, 3, 1))
    for i, depth in enumerate(depths):
        y = t
        for j in range(depth):
            y = layer(state, f"layers.{i}.residual_group.blocks.{j}", y, side, heads[i], side // 2 if j % 2 else 0)
        t = t + conv(f"layers.{i}.conv", y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    y = conv("conv_after_body", norm("norm", t).permute(0, 3, 1, 2)) + shallow
    return F.pixel_shuffle(conv("upsample.0", y), scale) + mean


def randomised(net):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net.eval()


def test_equal_to_its_equations():
    net = randomised(SwinIR(**(TINY | {"depths": (2, 3), "embed_dim": 12, "num_heads": (2, 3)}), upscale=3))
    x = torch.rand(2, 3, 12, 16, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(net.state_dict(), x, 4, (2, 3), (2, 3), 3, 12)
        torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)


def test_other_sizes_are_mirrored():
    net = randomised(SwinIR(**TINY))
    x = torch.rand(1, 3, 6, 7, dtype=torch.float64)
    mirrored = torch.cat([x, x.flip(2)[:, :, :2]], 2)
    mirrored = torch.cat([mirrored, mirrored.flip(3)[..., :1]], 3)
    with torch.no_grad():
        torch.testing.assert_close(net(x), net(mirrored)[:, :, :12, :14], rtol=0, atol=1e-12)


def test_masks_and_indices_are_those_of_published_files():
    state = SwinIR(**(TINY | {"img_size": 8})).state_dict()
    mask = state["layers.0.residual_group.blocks.1.attn_mask"]
    region = torch.zeros(8, 8)
    region[6:] += 1
    region[:, 6:] += 2
    region = windows_of(region[None, :, :, None], 4)[0, ..., 0].flatten(0, 1)
    expected = torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)
    assert torch.equal(mask, expected)
    index = state["layers.0.residual_group.blocks.0.attn.relative_position_index"]
    assert index[0, 0] == 24 and index[0, 15] == 0 and index[15, 0] == 48 and index[0, 1] == 23


def test_stochastic_depth_leaves_branches_out_in_training_only():
    torch.manual_seed(0)
    net = SwinIR(**TINY, drop_path_rate=0.5)
    x = torch.rand(1, 3, 8, 8)
    assert len({net.train()(x).sum().item() for _ in range(8)}) > 1
    assert len({net.eval()(x).sum().item() for _ in range(3)}) == 1
    assert [blk.drop_path for group in net.layers for blk in group.residual_group.blocks] == [0, 0.25, 0.5]


def test_recomputing_gives_the_same_gradients():
    x, found = torch.rand(2, 3, 8, 8), []
    for use_checkpoint in (False, True):
        torch.manual_seed(0)
        net = SwinIR(**TINY, drop_path_rate=0.5, use_checkpoint=use_checkpoint).train()
        torch.manual_seed(1)
        net(x).square().mean().backward()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upsampler": "nearest+conv"}, r"upscale: 2 is not possible with upsampler 'nearest\+conv'"),
        ({"upsampler": "bilinear"}, "upsampler: must be one of"),
        ({"num_heads": (3, 2)}, r"num_heads: must divide embed_dim \(8\)"),
        ({"depths": (2,)}, "depths: needs as many numbers"),
        ({"img_size": 4}, r"img_size: must be above window_size \(4\)"),
        ({"drop_rate": 0.1}, "drop_rate: must be 0, got 0.1"),
        ({"qk_scale": 0.5}, "qk_scale: must be null"),
        ({"drop_path_rate": 1}, "drop_path_rate: must be in"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SwinIR(**(TINY | change))
