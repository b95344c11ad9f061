"""Small prunable networks for the tests of pruning: a CATANet, and a CNN that only shares the protocol with it."""

import torch
import torch.nn.functional as F
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.layers.multiply_adds import MultiplyAdds
from basicsr.archs.prunable import GroupInfo, check_gates, gated, image_channels

TINY = {"type": "CATANet", "upscale": 2, "dim": 16, "block_num": 6, "qk_dim": 12, "mlp_dim": 32, "heads": 4,
        "patch_size": 8, "num_tokens": [4, 8, 4, 8, 4, 8], "group_size": 32, "n_iters": 2}  # fmt: skip


class Group(nn.Module):
    """The residual of a group of `ResidualCNN`; the running mean of its inputs is a state buffer."""

    def __init__(self, width, hidden):
        super().__init__()
        self.inner = nn.Conv2d(width, hidden, 3, padding=1)
        self.outer = nn.Conv2d(hidden, width, 1)
        self.register_buffer("level", torch.zeros(width, 1, 1))
        self.tracks, self.decay = True, 0.9

    def forward(self, x):
        level = self.level
        if self.training:
            level = x.mean(dim=(0, 2, 3))[:, None, None]
            if self.tracks:
                self.level.lerp_(level.detach(), 1 - self.decay)
        return self.outer(F.relu(self.inner(x - level)))


class ResidualCNN(nn.Module):
    """A CNN with one residual group for each width in `hidden`."""

    tail_prefixes = ("to_image.",)

    def __init__(self, *, upscale=2, width=8, hidden=(8, 4, 6, 5)):
        super().__init__()
        self.upscale, self.width, self.hidden = upscale, width, tuple(hidden)
        self.from_image = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.ModuleList(Group(width, channels) for channels in hidden)
        self.to_image = nn.Conv2d(width, 3 * upscale**2, 3, padding=1)

    def forward(self, x, gates=None, taps=()):
        y, features = self.from_image(x), {}
        for i, gate in enumerate(check_gates(gates, len(self.body))):
            y = gated(y, gate, lambda group=self.body[i], y=y: group(y))
            if i in taps:
                features[i] = y
        y = F.pixel_shuffle(self.to_image(y), self.upscale) + F.interpolate(x, scale_factor=self.upscale)
        return (y, features) if taps else y

    def prunable_groups(self):
        return [
            GroupInfo(
                index=i,
                prefixes=(f"body.{i}.",),
                hparams={"hidden": hidden},
                state_buffers=(f"body.{i}.level",),
                macs=lambda h, w, hidden=hidden: MultiplyAdds(h * w * self.width * hidden * 10, 0),
            )
            for i, hidden in enumerate(self.hidden)
        ]

    def compact_kwargs(self, keep):
        return {"upscale": self.upscale, "width": self.width, "hidden": [self.hidden[i] for i in keep]}

    def set_state_tracking(self, flags, decay=None):
        for group, flag in zip(self.body, flags, strict=True):
            group.tracks, group.decay = bool(flag), 0.9 if decay is None else decay


def with_state(net):
    """The network with its state set, as a trained one has it, in evaluation."""
    with torch.no_grad():
        for _ in range(3):
            net.train()(torch.rand(2, image_channels(net), 16, 16))
    return net.eval()


def catanet(**changed):
    """`TINY` with its state set."""
    return with_state(build_network({**TINY, **changed}))
