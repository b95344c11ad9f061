"""Scores of masks: of the teacher with dropped groups cut out, untrained, and after a short fine-tuning."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.archs.prunable import Prunable
from basicsr.config.pruning import PruneOptions
from basicsr.config.schema import Options
from basicsr.config.section import Spec
from basicsr.data.loaders import build_train_loader
from basicsr.engine.random_state import seed_everything
from basicsr.errors import OptionError
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.models.recovery import HeldImages, fine_tune, mean_scores
from basicsr.models.sr_model import SRModel
from basicsr.pruning.compaction import compact, in_form, kept_groups, network_spec
from basicsr.pruning.next_stages import longest_warmup, recovery_options, recovery_settings
from basicsr.pruning.option_errors import option_error_context
from basicsr.pruning.teacher import load_teacher
from mask_ranking.candidates import bits
from mask_ranking.table import RECOVERED, ZERO_SHOT, Table


class CutTeacher(SRModel):
    """The teacher, untrained, with a selection of its groups.

    Args:
        opt: of the search.
    """

    def __init__(self, opt: Options):
        super().__init__(replace(opt, is_train=False, val=replace(opt.val, pbar=False)))

    def build_net_g(self) -> nn.Module:
        """Return the whole teacher."""
        path = self.opt.path
        with option_error_context(self.opt):
            self.whole = load_teacher(
                self.opt["network_t"], str(path.pretrain_network_t), path.param_key_t, self.device
            )
            if not isinstance(self.whole, Prunable):
                raise ValueError(
                    f"network_t.type: {type(self.whole).__name__} declares no residual groups; see archs/prunable.py"
                )
        return self.whole

    def keep(self, mask: str) -> None:
        """Replace the network by the whole one with only the groups of `mask`."""
        self.net_g = compact(self.whole, kept_groups(bits(mask)))


class Recovery:
    """Fine-tuning of the groups that a mask keeps of the teacher, with the options that the search would emit.

    Args:
        opt: of the search.
        whole: the teacher.
        mask: any, to check the options with.
        iterations: replaces `train.total_iter`, and the period of CosineAnnealingRestartLR.

    Raises:
        OptionError: when the options do not fit each other, or a warm-up takes all iterations.
    """

    def __init__(self, opt: Options, whole: nn.Module, mask: str, iterations: int):
        self.whole = whole
        self.iterations = iterations
        self.tail = opt.prune.tail if opt.prune else "original"
        self.mlp_dim = opt.compact.mlp_dim
        with option_error_context(opt):
            spec = self.network_spec(mask)
        self.base = recovery_options(opt, spec, kept_groups(bits(mask)), iterations)
        if (warmup := longest_warmup(self.base)) >= iterations:
            raise OptionError(
                f"--recover {iterations}: must be above the {warmup} iterations of warm-up; raise it, or change "
                "compact:finetune:warmup_iter or prune:tail_warmup_iter by --force_yml"
            )

    def network_spec(self, mask: str) -> dict[str, Any]:
        """Return the `network_g` of the groups that a mask keeps."""
        return network_spec(in_form(compact(self.whole, kept_groups(bits(mask))), self.tail, self.mlp_dim))

    def options(self, mask: str) -> Options:
        """Return the options of the run for one mask."""
        prune = replace(self.base.prune or PruneOptions(), kept=kept_groups(bits(mask)))
        return replace(self.base, network_g=Spec(self.network_spec(mask)), prune=prune)

    def settings(self) -> dict[str, Any]:
        """Return the settings that the recovered scores depend on, besides the mask and the teacher."""
        settings = recovery_settings(self.base)
        settings["prune"]["tail"] = self.tail
        return settings | ({"mlp_dim": self.mlp_dim} if self.mlp_dim is not None else {})


def measure_zero_shot(table: Table, teacher: CutTeacher, sets: Sequence[HeldImages]) -> None:
    """Score every mask that has no score yet, without training."""
    masks = table.missing(table.rows, ZERO_SHOT)
    with _progress(len(masks), "zero-shot", "mask") as bar:
        for mask in masks:
            teacher.keep(mask)
            table.put(mask, "zero_shot", mean_scores(teacher, sets))
            bar.update()


def measure_recovered(table: Table, masks: Sequence[str], recovery: Recovery, sets: Sequence[HeldImages]) -> None:
    """Fine-tune and score those of `masks` that have no score yet.

    Raises:
        FloatingPointError: naming the mask whose loss was not finite.
    """
    masks = table.missing(masks, RECOVERED)
    if not masks:
        return
    loader = build_train_loader(recovery.base)
    with _progress(len(masks) * recovery.iterations, "recover", "it") as bar:
        for mask in masks:
            bar.set_postfix_str(mask)
            try:
                model = fine_tuned(recovery.options(mask), loader, bar.update)
            except FloatingPointError as error:
                raise FloatingPointError(f"mask {mask}: {error}") from error
            table.put(mask, "recovered", mean_scores(model, sets))


def fine_tuned(opt: Options, loader: DataLoader[Any], on_step: Callable[[], object]) -> BaseModel:
    """Return the model after the training loop of basicsr/train.py, on the first batches of `loader`."""
    seed_everything(opt.manual_seed)
    model = build_model(opt)
    fine_tune(model, loader, on_step)
    return model


def _progress(total: int, title: str, unit: str) -> tqdm:
    """Return a progress bar; without a terminal, it prints a line every 10 seconds."""
    return tqdm(total=total, desc=title, unit=unit, mininterval=0.5 if sys.stderr.isatty() else 10)
