"""The teacher of a run: its weights, the checks that a student can be compared with it, and their distillation."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import nn

from basicsr.archs import build_network
from basicsr.archs.prunable import Prunable, image_channels
from basicsr.config.input_form import PLAIN_RGB
from basicsr.config.pruning import DistillOptions
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_weights
from basicsr.metrics.evaluate import evaluate
from basicsr.pruning.distillation import Distillation, has_feature_terms
from basicsr.pruning.matching import compared_groups, kept_of_run

logger = logging.getLogger("basicsr")
PROBE_SIDE = 32  # px of the input by which the feature maps of two networks are compared


def load_teacher(spec: Mapping[str, Any], path: str, param_key: str | None, device: torch.device) -> nn.Module:
    """Return a frozen network in evaluation mode.

    Raises:
        ValueError: when its state was never set: in evaluation it would then be another function of each image.
    """
    net = build_network(spec)
    load_weights(net, path, param_key)
    unset = [name for name, buffer in net.named_buffers() if name.endswith("initted") and not bool(buffer)]
    if unset:
        raise ValueError(f"path.pretrain_network_t: {path} was never trained: {', '.join(unset[:5])} are false")
    return net.to(device).eval().requires_grad_(False)


def teacher_of_run(opt: Options, device: torch.device) -> nn.Module:
    """Return `network_t` with the weights `path.pretrain_network_t`.

    Raises:
        ValueError: when one of them is missing.
    """
    if "network_t" not in opt:
        raise ValueError("network_t: is missing; distillation needs a teacher")
    if opt.path.pretrain_network_t is None:
        raise ValueError("path.pretrain_network_t: is missing; a teacher needs trained weights")
    return load_teacher(opt["network_t"], opt.path.pretrain_network_t, opt.path.param_key_t, device)


def build_distillation(
    opt: Options, student: nn.Module, teacher: nn.Module, loss_weights: Iterable[float], *, searching: bool
) -> Distillation:
    """Return the distillation that section `kd` describes.

    Args:
        opt: of the run.
        student: the bare network, on its device.
        teacher: from `teacher_of_run`, on the same device.
        loss_weights: of the losses against the ground truth.
        searching: in a search, `kd.search_taps` decides on features, and alpha is constant.

    Raises:
        ValueError: when the networks cannot be compared, or nothing would be learned.
    """
    kd = opt.kd
    needs_features = has_feature_terms(kd) and not (searching and kd.search_taps == "none")
    check_teacher(student, teacher, needs_features)
    pairs: list[tuple[int, int]] = []
    channels = None
    if needs_features:
        student_groups, teacher_groups = cast(Prunable, student), cast(Prunable, teacher)
        if searching:
            pairs = [(len(student_groups.prunable_groups()) - 1, len(teacher_groups.prunable_groups()) - 1)]
        else:
            pairs = compared_groups(kd, student_groups, teacher_groups, kept_of_run(opt))
    if kd.ia.weight > 0 and opt.datasets["train"].batch_size_per_gpu == 1:
        logger.warning("kd.ia: compares the images of a batch; with one image it is 0")
    if kd.alpha == kd.zoom.weight == 0 and not pairs and not any(loss_weights):
        raise ValueError("kd.alpha: is 0, and so are the weights of all other losses; nothing would be learned")
    if kd.alpha == 1 and kd.alpha_off_at == 1 and not pairs:
        logger.info("kd: the teacher alone is the target; ground truth is not used")
    if pairs:
        channels = check_features(kd, student, teacher)
    total_iter = opt.train.total_iter if opt.train else 0
    return Distillation(kd, teacher, pairs, total_iter, channels, constant=searching)


def check_teacher(student: nn.Module, teacher: nn.Module, needs_groups: bool) -> None:
    """Check that student and teacher have the same scale and, for feature terms, groups.

    Raises:
        ValueError: naming the key of the network.
    """
    if getattr(teacher, "upscale", None) != getattr(student, "upscale", None):
        raise ValueError(
            f"network_t.upscale: is {getattr(teacher, 'upscale', None)}, but network_g has "
            f"{getattr(student, 'upscale', None)}; teacher and student must have the same scale"
        )
    for key, net in (("network_t", teacher), ("network_g", student)):
        if needs_groups and not isinstance(net, Prunable):
            raise ValueError(f"{key}: {type(net).__name__} gives no features of groups; set the weights in kd to 0")


def check_units(kd: DistillOptions, student: nn.Module, teacher: nn.Module) -> None:
    """Check, before a search rather than after it, that fine-tuning can compare the features of both networks.

    Raises:
        ValueError: when they offer parts of different kinds as groups, and a feature term has a weight.
    """
    mine, theirs = (getattr(net, "prune_unit", "group") for net in (student, teacher))
    if mine != theirs and has_feature_terms(kd):
        raise ValueError(
            f"network_t.prune_unit: is {theirs!r}, but network_g has {mine!r}, so their features do not "
            "correspond; make them equal, or set the weights of feature terms in kd to 0"
        )


def check_features(kd: DistillOptions, student: nn.Module, teacher: nn.Module) -> tuple[int, int]:
    """Check that the feature maps of both networks can be compared; return their numbers of channels.

    Raises:
        ValueError: when their sizes differ, or a term needs equally many channels.
    """
    mine, theirs = group_channels(student), group_channels(teacher)
    if mine[1:] != theirs[1:]:
        raise ValueError(
            f"kd: groups of network_g put out maps of {mine[1:]}, those of network_t {theirs[1:]}, for an "
            f"input of {PROBE_SIDE}x{PROBE_SIDE} px; set the weights of feature terms to 0"
        )
    for name, suggestion in (("ca", "use kd.sa or kd.ia"), ("feat", "set kd.feat.adapter: true")):
        adapted = name == "feat" and kd.feat.adapter
        if kd[name].weight > 0 and mine[0] != theirs[0] and not adapted:
            raise ValueError(
                f"kd.{name}: the groups of network_g have {mine[0]} channels, those of network_t {theirs[0]}; "
                f"{suggestion}"
            )
    return mine[0], theirs[0]


def group_channels(net: nn.Module) -> tuple[int, int, int]:
    """Return (C, h, w) of a group's output for an input of `PROBE_SIDE` x `PROBE_SIDE` px."""
    was_training = net.training
    device = next(net.parameters()).device
    with torch.no_grad():
        _, features = net.eval()(torch.zeros(1, image_channels(net), PROBE_SIDE, PROBE_SIDE, device=device), taps=[0])
    net.train(was_training)
    channels, height, width = features[0].shape[1:]
    return channels, height, width


class TeacherCheck:
    """Scores the teacher once on each data set that `val.expect_teacher_psnr` names.

    Args:
        opt: of the run.
        teacher: on `device`.
        device: of the run.
    """

    def __init__(self, opt: Options, teacher: nn.Module, device: torch.device) -> None:
        self.opt, self.teacher, self.device = opt, teacher, device
        self._scored: set[str] = set()

    def __call__(self, loader: Iterable[Mapping[str, Any]]) -> None:
        """Compare the teacher's PSNR on the data set of `loader` with the expected one.

        Raises:
            OptionError: when it differs by more than the tolerance.
        """
        val, name = self.opt.val, getattr(loader, "name", "")
        expected = (val.expect_teacher_psnr or {}).get(name)
        if expected is None or name in self._scored:
            return
        psnr, tolerance = expected
        metrics = {key: spec for key, spec in (val.metrics or {}).items() if "psnr" in spec["type"]}
        form, root = getattr(loader, "form", PLAIN_RGB), getattr(loader, "root", None)
        with torch.inference_mode():
            scores = evaluate(
                lambda lq: self.teacher(lq.to(self.device)),
                loader,
                metrics,
                name,
                unreadable=getattr(loader, "unreadable", ()),
                root=root,
                form=form,
            )
        if scores.failed:
            logger.warning("Teacher on %s: not compared, as only %s images have scores", name, scores.count)
            return
        found = next(iter(scores.mean().values()), float("nan"))
        logger.info("Teacher on %s: %.4f dB", name, found)
        if not abs(found - psnr) <= tolerance:
            raise (val.where / "expect_teacher_psnr" / name).error(
                f"the teacher reaches {found:.4f} dB, not {psnr} within {tolerance}; check path.pretrain_network_t, "
                "the data and the metric"
            )
        self._scored.add(name)
