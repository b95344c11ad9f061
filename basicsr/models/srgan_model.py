"""Training against a discriminator, which learns to tell the network's outputs from ground truth.

Generator and discriminator take their steps from one backward pass: the generator's losses see a discriminator whose
parameters count as constants, the discriminator's see outputs without a gradient. So no step sees the other's update.

Sources: Ledig et al., SRGAN, CVPR 2017; relativistic average: Wang et al., ESRGAN, ECCVW 2018.
"""

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import weight_file
from basicsr.engine.distributed import all_reduce_sum
from basicsr.engine.training_state import write_on_rank0
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel


@MODEL_REGISTRY.register()
class SRGANModel(SRModel):
    """`SRModel` with a discriminator `network_d`; needs `train.gan_opt` and `train.optim_d`.

    The generator learns in every `train.net_d_iters`-th iteration after the first `train.net_d_init_iters`, the
    discriminator in all. Checkpoints hold `net_d_<iter>` beside `net_g_<iter>`.
    """

    trains_discriminator = True
    own_losses = frozenset({"l_d_real", "l_d_fake", "l_g_gan"})
    net_d: nn.Module
    cri_gan: nn.Module

    def __init__(self, opt: Options):
        self.iteration = 0
        super().__init__(opt)

    def init_training_settings(self) -> None:
        """Make the discriminator and its loss, then all that `SRModel` needs.

        Raises:
            OptionError: when `network_d`, `train.gan_opt` or `train.optim_d` is missing.
        """
        opt, train = self.opt, self.opt.train
        if train is None:
            return
        if "network_d" not in opt:
            raise (opt.where / "network_d").error("is missing; add e.g. {type: UNetDiscriminatorSN, num_in_ch: 3}")
        if train.gan_opt is None:
            raise (train.where / "gan_opt").error("is missing; add e.g. {type: GANLoss, loss_weight: 0.1}")
        if train.optim_d is None:
            raise (train.where / "optim_d").error("is missing; add e.g. {type: Adam, lr: 1e-4}")
        net_d, path = build_network(opt["network_d"]), opt.path
        if path.pretrain_network_d is not None:
            self.load_network(net_d, path.pretrain_network_d, path.strict_load_d, path.param_key_d)
        self.net_d = _same_as_in_rank0(net_d.to(self.device), opt.rank).train()
        self.cri_gan = build_loss(train.gan_opt).to(self.device)
        self.net_d_iters, self.net_d_init_iters = train.net_d_iters, train.net_d_init_iters
        super().init_training_settings()

    def setup_optimizers(self) -> None:
        """Make the optimizers of the generator and of the discriminator."""
        super().setup_optimizers()
        if self.opt.train is not None and self.opt.train.optim_d is not None:
            self.setup_optimizer(self.net_d.parameters(), self.opt.train.optim_d)
            self.optimizer_g, self.optimizer_d = self.optimizers[-2:]

    @property
    def trains_generator(self) -> bool:
        """Whether the generator learns in this iteration."""
        return self.iteration > self.net_d_init_iters and self.iteration % self.net_d_iters == 0

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one step of the discriminator and, where it is due, of the generator."""
        self.iteration = current_iter
        super().optimize_parameters(current_iter)

    def graph_key(self, current_iter: int) -> Hashable:
        """Return whether the generator learns, which decides what a step does on the device."""
        return (super().graph_key(current_iter), self.trains_generator)

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of the generator (`l_g_*`), where it learns, and of the discriminator (`l_d_*`)."""
        losses: dict[str, Tensor] = {}
        if self.trains_generator:
            output = self.net_g(batch["lq"])
            with constant_parameters(self.net_d):
                losses = self.generator_losses(output, batch)
        else:
            with torch.no_grad():
                output = self.net_g(batch["lq"])
        return losses | self.discriminator_losses(output.detach(), batch)

    def generator_losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of the output by name: those of `train.*_opt`, and how real it does not seem."""
        return self.content_losses(output, batch) | {"l_g_gan": self.cri_gan(self.scores(output), True)}

    def content_losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of `train.*_opt` between output and ground truth."""
        return {_of_generator(name): loss for name, loss in self.losses_of(output, batch["gt"]).items()}

    def discriminator_losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of the discriminator by name."""
        return {
            "l_d_real": self.cri_gan(self.scores(self.real_images(batch)), True, is_disc=True),
            "l_d_fake": self.cri_gan(self.scores(output), False, is_disc=True),
        }

    def real_images(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the images that the discriminator should take for real."""
        return batch["gt"]

    def scores(self, images: Tensor) -> Tensor:
        """Return the discriminator's scores, in float32 also under autocast."""
        return self.net_d(images).float()

    def after_backward(self, current_iter: int) -> None:
        """Average the discriminator's gradients over the processes; DDP does that only for the generator."""
        super().after_backward(current_iter)
        if self.opt.dist:
            for p in self.net_d.parameters():
                if p.grad is not None:
                    p.grad.copy_(all_reduce_sum(p.grad) / self.opt.world_size)

    def save(self, epoch: int, current_iter: int, **run_state: Any) -> None:
        """Write the discriminator, then weights and training state; see `BaseModel.save`."""
        write_on_rank0(lambda: self.save_network(self.net_d, "net_d", current_iter))
        super().save(epoch, current_iter, **run_state)

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """Load a checkpoint, and the discriminator from the file beside that of the generator."""
        if "network_d" not in (self.opt.path.ignore_resume_networks or ()):
            self.load_network(self.net_d, weight_file(Path(source).parent, "net_d", int(state["iter"])))
        super().resume_training(state, weights, source)


@MODEL_REGISTRY.register()
class ESRGANModel(SRGANModel):
    """`SRGANModel` with a relativistic discriminator: it tells whether an image seems more real than the others' mean.

    Source: ESRGAN, section 3.2.
    """

    def generator_losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of `train.*_opt`, and how much more real the ground truth seems than the output."""
        with torch.no_grad():
            real = self.scores(self.real_images(batch))
        fake = self.scores(output)
        seems_real = self.cri_gan(fake - real.mean(), True)
        seems_fake = self.cri_gan(real - fake.mean(), False)
        return self.content_losses(output, batch) | {"l_g_gan": (seems_real + seems_fake) / 2}

    def discriminator_losses(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the losses of the discriminator by name."""
        real, fake = self.scores(self.real_images(batch)), self.scores(output)
        return {
            "l_d_real": self.cri_gan(real - fake.mean(), True, is_disc=True) / 2,
            "l_d_fake": self.cri_gan(fake - real.mean(), False, is_disc=True) / 2,
        }


@contextmanager
def constant_parameters(net: nn.Module) -> Iterator[None]:
    """Let the parameters of a network get no gradient from what is computed in the block."""
    learning = [p for p in net.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)


def _of_generator(name: str) -> str:
    """Return `l_g_pix` for `l_pix`."""
    return f"l_g_{name.removeprefix('l_')}"


@torch.no_grad()
def _same_as_in_rank0(net: nn.Module, rank: int) -> nn.Module:
    """Return the network with the values of rank 0; each process has initialised its own."""
    for value in (*net.parameters(), *net.buffers()):
        value.copy_(all_reduce_sum(value if rank == 0 else torch.zeros_like(value)))
    return net
