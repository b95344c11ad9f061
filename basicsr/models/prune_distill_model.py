"""Depth pruning with a learned mask, and distillation into what is left: from CATANet-L to CATANet-XS.

`prune.stage: search` learns which residual groups of `network_g` to keep, cuts the others out at the end, and writes
the small network with option files for what follows. `prune.stage: finetune` trains that network under a teacher. Both
are an `SRModel` with other losses; any network that keeps the protocol of `archs/prunable.py` will do.

Sources: TinySR (arXiv 2508.17434) and TinyFusion (CVPR 2025) for the learned mask, FAKD (ICIP 2020) for the affinities.
"""

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.archs.prunable import Prunable, missing_members
from basicsr.config.pruning import PruneOptions
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.engine.checkpoint import load_file
from basicsr.engine.distributed import all_reduce_sum, gather_objects
from basicsr.engine.optimizer_groups import set_rate
from basicsr.engine.wrapper import bare_network
from basicsr.errors import OptionError
from basicsr.metrics.evaluate import Scores, evaluate
from basicsr.models.sr_model import SRModel
from basicsr.pruning.compaction import check_tail, compact, cut_into, kept_groups
from basicsr.pruning.costs import group_resources
from basicsr.pruning.distillation import (
    Distillation,
    Transform,
    check_channels,
    check_teacher,
    group_channels,
    load_teacher,
    tapped_pairs,
)
from basicsr.pruning.finalize import WEIGHTS, harden
from basicsr.pruning.report import MaskLog
from basicsr.pruning.samplers import build_sampler
from basicsr.pruning.search import MaskedNetwork, MaskSearch

logger = logging.getLogger("basicsr")
FEATURE_TERMS = ("sa", "ca", "ia", "feat")


@MODEL_REGISTRY.register()
class PruneDistillModel(SRModel):
    """`SRModel` whose network is pruned (`prune.stage: search`) or taught (`finetune`); see the module."""

    def __init__(self, opt: Options):
        self.prune = opt.prune or PruneOptions()
        self.search: MaskSearch | None = None
        self.iteration = 0
        self._draws = 0  # masks drawn in this iteration
        self._drawn: list[Tensor] = []  # masks since the last line of the log
        self._learned = False  # whether a mask of this iteration has a gradient to the logits
        super().__init__(opt)
        if not self.is_train or opt.train is None:
            return
        if self.prune.mask_chunks > 1:
            size = opt.datasets["train"].batch_size_per_gpu
            if size % self.prune.mask_chunks:
                raise opt.where.at("prune.mask_chunks").error(
                    f"a batch of {size} does not divide into {self.prune.mask_chunks} parts"
                )
        self.distillation = self._build_distillation(opt.train.total_iter).to(self.device)
        adapters = list(self.distillation.features.parameters())
        if adapters:
            for p in adapters:  # each process made its own
                p.data = all_reduce_sum(p.data) / opt.world_size
            self.setup_optimizer(adapters, opt.train.optim_g)
        self._teacher_scored: set[str] = set()
        self.mask_log = MaskLog(Path(str(opt.path.log)) / "mask_log.csv") if self.search and opt.rank == 0 else None

    # Networks.

    def build_net_g(self) -> nn.Module:
        """`network_g`; in a search inside the module that masks it.

        For fine-tuning without weights of its own, it starts as the groups `prune.kept` of the teacher.
        """
        net = super().build_net_g()
        opt, prune = self.opt, self.prune
        if not self.is_train:
            return net
        with blamed(opt):
            self.teacher = self._load_teacher()
            self._check_units(net)
            if prune.stage == "finetune":
                if prune.tail_warmup_iter and not isinstance(net, Prunable):
                    raise ValueError(
                        f"prune.tail_warmup_iter: {type(net).__name__} does not say what its tail is; see "
                        "archs/prunable.py, or set it to 0"
                    )
                if opt.path.pretrain_network_g is None and prune.kept is not None:
                    cut_into(net, self.teacher, prune.kept)
                return net
            if not isinstance(net, Prunable):
                raise ValueError(
                    f"network_g.type: {type(net).__name__} declares no residual groups: it lacks "
                    f"{', '.join(missing_members(net))}; see archs/prunable.py"
                )
            if opt.path.pretrain_network_g is None:
                raise ValueError("path.pretrain_network_g: is missing; a search starts from trained weights")
            self._check_search(net)
            net = net.to(self.device)
            resources = group_resources(net, opt.budget, self.device)
            sampler = build_sampler(prune, len(net.prunable_groups()), resources, opt.budget.mode)
            self.search = MaskSearch(prune, opt.budget, sampler, resources)
        if prune.delta_w != "full":
            net.requires_grad_(False)
        return MaskedNetwork(net, sampler, prune.lora_rank if prune.delta_w == "lora" else 0, skip=not opt.dist)

    def _check_units(self, net: nn.Module) -> None:
        """Refuse, before a search and not after it, features that fine-tuning could not compare."""
        mine, theirs = (getattr(one, "prune_unit", "group") for one in (net, self.teacher))
        if mine != theirs and any(self.opt.kd[name].weight > 0 for name in FEATURE_TERMS):
            raise ValueError(
                f"network_t.prune_unit: is {theirs!r}, but network_g has {mine!r}, so their features do not "
                "correspond; make them equal, or set the weights of feature terms in kd to 0"
            )

    def _check_search(self, net: nn.Module) -> None:
        """Refuse a search that would learn nothing, or end in an error."""
        prune, train = self.prune, self.opt.train
        if train is not None and prune.warmup_iter + prune.search_iter + prune.settle_iter != train.total_iter:
            raise ValueError(
                "prune.search_iter: warmup_iter, search_iter and settle_iter add up to "
                f"{prune.warmup_iter + prune.search_iter + prune.settle_iter}, but train.total_iter is "
                f"{train.total_iter}; make them equal"
            )
        if prune.delta_w == "lora" and train is not None and train.ema_decay > 0:
            raise ValueError("prune.delta_w: lora has no moving average; set train.ema_decay to 0")
        if prune.delta_w == "none" and prune.sampler == "fixed":
            raise ValueError("prune.delta_w: none leaves nothing to learn with sampler fixed; use full or lora")
        if prune.tail != "original":
            check_tail(net)

    def setup_optimizers(self) -> None:
        """An optimizer for the weights and, in a search, one for the logits, whose rate stays as it is."""
        train = self.opt.train
        if self.search is None or train is None:
            super().setup_optimizers()
            return
        masked = self.masked
        weights = [p for p in (*masked.module.parameters(), *masked.low_rank.parameters()) if p.requires_grad]
        if weights:
            self.setup_optimizer(weights, train.optim_g)
        logits = list(masked.sampler.parameters())
        if logits:
            if "optim_m" not in train:
                raise (train.where / "optim_m").error("is missing; the logits need e.g. {type: Adam, lr: 0.03}")
            self.setup_optimizer(logits, train["optim_m"], scheduled=False)

    @property
    def masked(self) -> MaskedNetwork:
        """The network of a search with its mask."""
        net = self.net_g.module if isinstance(self.net_g, DistributedDataParallel) else self.net_g
        return cast(MaskedNetwork, net)

    @property
    def net_eval(self) -> nn.Module:
        """What is tested: in a search the network cut down to the best mask so far."""
        if self.search is None:
            return super().net_eval
        return compact(self.whole_network(), kept_groups([int(bit) for bit in self.search.mode]))

    def whole_network(self) -> nn.Module:
        """The full-depth network of a search with all that it has learned."""
        if self.ema is not None:
            return bare_network(self.ema)
        net, changed = self.masked.module, self.masked.changed()
        if changed:
            net = deepcopy(net)
            net.load_state_dict({name: value.detach() for name, value in changed.items()}, strict=False)
        return net

    def _build_distillation(self, total_iter: int) -> Distillation:
        opt, kd = self.opt, self.opt.kd
        student = bare_network(self.net_g)
        needs_features = any(kd[name].weight > 0 for name in FEATURE_TERMS)
        if self.search is not None:
            needs_features = needs_features and kd.search_taps != "none"
        teacher = self.teacher
        with blamed(opt):
            check_teacher(student, teacher, needs_features)
            pairs: list[tuple[int, int]] = []
            if needs_features:
                pairs = self._pairs(cast(Prunable, teacher))
            if kd.ia.weight > 0 and opt.datasets["train"].batch_size_per_gpu == 1:
                logger.warning("kd.ia: compares the images of a batch; with one image it is 0")
            weights = [getattr(loss, "loss_weight", 1.0) for loss in self.losses.values()]
            if kd.alpha == kd.zoom.weight == 0 and not pairs and not any(weights):
                raise ValueError("kd.alpha: is 0, and so are the weights of all other losses; nothing would be learned")
            if kd.alpha == 1 and kd.alpha_off_at == 1 and not pairs:
                logger.info("kd: the teacher alone is the target; ground truth is not used")
            channels = None
            if pairs:
                mine, theirs = group_channels(student, self.device), group_channels(teacher, self.device)
                if mine[1:] != theirs[1:]:
                    raise ValueError(
                        f"kd: groups of network_g put out maps of {mine[1:]}, those of network_t {theirs[1:]}, for an "
                        "input of 32x32 px; set the weights of feature terms to 0"
                    )
                channels = mine[0], theirs[0]
                check_channels(kd, *channels)
        return Distillation(kd, teacher, pairs, total_iter, channels, constant=self.search is not None)

    def _load_teacher(self) -> nn.Module:
        path = self.opt.path
        if "network_t" not in self.opt:
            raise ValueError("network_t: is missing; distillation needs a teacher")
        if path.pretrain_network_t is None:
            raise ValueError("path.pretrain_network_t: is missing; a teacher needs trained weights")
        return load_teacher(self.opt["network_t"], path.pretrain_network_t, path.param_key_t, self.device)

    def _pairs(self, teacher: Prunable) -> list[tuple[int, int]]:
        """Groups of student and teacher that are compared."""
        groups = teacher.prunable_groups()
        number = len(groups)
        mine = len(cast(Prunable, bare_network(self.net_g)).prunable_groups())
        if self.search is not None:
            return [(mine - 1, number - 1)]
        kept = self._kept()
        if len(kept) != mine or not set(kept) <= set(range(number)):
            raise ValueError(
                f"prune.kept: must name, of the teacher's groups 0 to {number - 1}, the {mine} that network_g kept, "
                f"got {kept}"
            )
        pairs = tapped_pairs(self.opt.kd.taps, kept, number, self.opt.kd.match)
        if self.opt.kd.match == "absorb":  # nothing can stand for what is done after its block
            last = {group.block: group.index for group in groups}
            pairs = [(own, min(other, last[groups[kept[own]].block])) for own, other in pairs]
        return pairs

    def _kept(self) -> list[int]:
        if self.prune.kept is not None:
            return list(self.prune.kept)
        path = self.opt.path.pretrain_network_g
        found = load_file(path).get("meta", {}).get("kept") if path is not None else None
        if found is None:
            raise ValueError(
                "prune.kept: is missing, and so it is in the weight file; stage finetune compares features with the "
                "teacher's and must know which groups network_g kept: run stage search, or give e.g. [0, 4, 7]"
            )
        return list(found)

    # Training.

    def optimize_parameters(self, current_iter: int) -> None:
        """One step; in a search of the logits, too."""
        self.iteration = current_iter
        self._draws, self._learned = 0, False
        if self.device.type == "cuda":
            self.distillation.weigh_on_device(self.device, current_iter)
        if self.search is None and self.prune.tail_warmup_iter:
            net = cast(Prunable, bare_network(self.net_g))
            net.set_state_tracking([current_iter > self.prune.tail_warmup_iter] * len(net.prunable_groups()))
        super().optimize_parameters(current_iter)
        if self.search is not None:
            self.search.after_step(current_iter)
            if current_iter % self.prune.sync_check_freq == 0:
                self._check_processes_agree(current_iter)
            self._write_mask_log(current_iter)

    def graph_obstacle(self) -> str:
        """As in `BaseModel`; what is drawn at random in Python would be drawn once for all steps."""
        kd = self.opt.kd
        if self.search is not None:
            return "a search draws other masks in every step"
        if kd.zoom.weight > 0:
            return "kd.zoom draws other crops in every step"
        if kd.sa.weight > 0 and kd.sa.anchors:
            return "kd.sa.anchors draws other rows in every step"
        return super().graph_obstacle()

    def graph_key(self, current_iter: int) -> Hashable:
        """The weight of the teacher's output, whether its features count, and whether the tail alone learns."""
        kd = self.distillation
        in_warm_up = current_iter <= self.prune.tail_warmup_iter
        return kd.alpha(current_iter), kd.feature_weight(current_iter) > 0, in_warm_up

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Distances to the ground truth and to the teacher, feature terms, and penalties on the logits."""
        lq, gt = batch["lq"], batch["gt"]
        kd, it = self.distillation, self.iteration
        zoomed = kd.zoomed(lq, gt)
        change = Transform(self.opt.kd.zoom.augment, square=lq.shape[2] == lq.shape[3])
        target, target_features = kd.ask(lq if zoomed is None else torch.cat([lq, zoomed]), it)
        output, features = self._student(lq if zoomed is None else torch.cat([lq, change(zoomed)]))
        number = len(lq)
        answer = (
            target[:number] if target is not None else None,
            {i: value[:number] for i, value in target_features.items()},
        )
        from_gt = self.losses_of(output[:number], gt)
        result = kd.losses(output[:number], {i: v[:number] for i, v in features.items()}, answer, from_gt, it)
        if zoomed is not None and target is not None:
            result["l_zoom"] = self.opt.kd.zoom.weight * kd.to_teacher(change(output[number:]).float(), target[number:])
        return result | (self.search.penalties(it) if self.search is not None else {})

    def _student(self, lq: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Output and features; in a search under masks drawn for each of `prune.mask_chunks` parts of the batch."""
        taps = self.distillation.student_taps
        if self.search is None:
            return _with_features(self.net_g(lq, taps=taps) if taps else self.net_g(lq))
        outputs, features = [], []
        for part in lq.chunk(self.prune.mask_chunks):
            result = self.net_g(part, self.search.draw(self.iteration, self._draws), taps)
            self._draws += 1
            self._drawn.append(self.masked.mask.cpu())
            self._learned = self._learned or self.masked.learned
            output, found = _with_features(result)
            outputs.append(output)
            features.append(found)
        return torch.cat(outputs), {i: torch.cat([found[i] for found in features]) for i in taps}

    def after_backward(self, current_iter: int) -> None:
        """Keep still what does not learn now: logits and groups not asked, all but the tail in its warm-up."""
        if self.search is not None and not self._learned:
            asked = torch.stack(self._drawn[-self._draws :]).amax(dim=0).bool().tolist()
            logits = [] if self.search.penalties(current_iter) else self.masked.sampler.parameters()
            for p in (*logits, *self.masked.idle(asked)):
                p.grad = None  # under DDP it is 0, which would still move what has momentum
        if self.search is None and current_iter <= self.prune.tail_warmup_iter:
            net = bare_network(self.net_g)
            for name, p in net.named_parameters():
                if not name.startswith(cast(Prunable, net).tail_prefixes):
                    p.grad = None
        for p in self.distillation.features.parameters():
            if p.grad is not None:
                p.grad = all_reduce_sum(p.grad) / self.opt.world_size

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """The scheduled rate; during the warm-up of a new tail its own."""
        super().update_learning_rate(current_iter, warmup_iter)
        if self.search is None and current_iter <= self.prune.tail_warmup_iter:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    set_rate(group, self.prune.tail_warmup_lr)

    def _check_processes_agree(self, current_iter: int) -> None:
        """Stop when processes have drifted apart.

        Raises:
            RuntimeError: naming the iteration and what each process holds.
        """
        masked = self.masked
        checksum = sum(float(p.double().sum()) for p in masked.sampler.parameters())
        found = gather_objects((masked.mask.tolist(), checksum))
        if len({str(item) for item in found}) > 1:
            raise RuntimeError(f"iteration {current_iter}: the processes disagree on (mask, sum of logits): {found}")

    def check_finite(self, current_iter: int) -> None:
        """As in `BaseModel`; in a search the error also names mask and temperature."""
        try:
            super().check_finite(current_iter)
        except FloatingPointError as error:
            if self.search is None:
                raise
            mask = "".join(str(int(bit)) for bit in self.masked.mask)
            raise FloatingPointError(f"{error}; mask {mask}, tau {self.search.tau(current_iter):.4g}") from error

    # Reports and checkpoints.

    def validation(self, loader: Iterable[Mapping[str, Any]], current_iter: int | None = None,
                   save_img: bool = False) -> Scores:  # fmt: skip
        """Score a data set; the first time also the teacher, where `val.expect_teacher_psnr` names the set."""
        name = getattr(loader, "name", "")
        expected = (self.opt.val.expect_teacher_psnr or {}).get(name)
        if expected is not None and current_iter is not None and name not in self._teacher_scored:
            self._score_teacher(loader, name, *expected)
        return super().validation(loader, current_iter, save_img)

    def _score_teacher(self, loader: Iterable[Mapping[str, Any]], name: str, psnr: float, tolerance: float) -> None:
        metrics = {key: spec for key, spec in (self.opt.val.metrics or {}).items() if "psnr" in spec["type"]}
        with torch.inference_mode():
            scores = evaluate(lambda lq: self.distillation.teacher(lq.to(self.device)), loader, metrics, name,
                              root=getattr(loader, "root", None))  # fmt: skip
        found = next(iter(scores.mean().values()), float("nan"))
        logger.info("Teacher on %s: %.4f dB", name, found)
        if not abs(found - psnr) <= tolerance:
            raise (self.opt.val.where / "expect_teacher_psnr" / name).error(
                f"the teacher reaches {found:.4f} dB, not {psnr} within {tolerance}; check path.pretrain_network_t, "
                "the data and the metric"
            )
        self._teacher_scored.add(name)

    def _write_mask_log(self, current_iter: int) -> None:
        search, log = self.search, self.mask_log
        train = self.opt.train
        if current_iter % self.opt.logger.print_freq and (train is None or current_iter != train.total_iter):
            return
        drawn, self._drawn = torch.stack(self._drawn).mean(dim=0).tolist(), []
        if search is None or log is None:
            return
        sampler = search.sampler
        rates = self.get_current_learning_rate()
        norms = [float(norm) for norm in self.training_step.grad_norms] or [float("nan")]
        log.append(
            {
                "iter": current_iter, "phase": search.phase(current_iter), "tau": search.tau(current_iter),
                "eps": search.eps(current_iter), "lr_g": rates[0], "lr_m": rates[-1],
                "l_total": float(sum(self.log.values())), **{name: float(loss) for name, loss in self.log.items()},
                **search.costs(), "entropy": sampler.entropy().item(), "p_max": sampler.ranking(1)[0][1],
                "mode": search.mode, "mode_changes": search.mode_changes, "hamming": search.hamming,
                **{f"pi_{i}": p for i, p in enumerate(sampler.marginals().tolist())},
                **{f"drawn_{i}": d for i, d in enumerate(drawn)},
                "grad_norm_g": norms[0], "grad_norm_m": norms[-1],
            }
        )  # fmt: skip

    @property
    def unfinished(self) -> bool:
        """Whether a search has not yet written its network."""
        written = Path(str(self.opt.path.log)) / "compact" / WEIGHTS
        return self.search is not None and self.opt.compact.enable and not written.exists()

    def finish(self, batches: Iterator[tuple[int, Mapping[str, Any]]]) -> None:
        """At the end of a search: cut the network, set its state anew, and write it with all that follows."""
        if self.search is not None and self.opt.compact.enable:
            lq = (batch["lq"].to(self.device) for _, batch in batches)
            harden(self.opt, self.prune, self.search, self.whole_network(), lq)

    def extra_state(self) -> dict[str, Any]:
        """The state of the search and of adapters."""
        state: dict[str, Any] = {"adapters": self.distillation.features.state_dict()}
        if self.search is not None:
            state["search"] = self.search.state_dict()
            state["drawn"] = self._drawn
            state["low_rank"] = self.masked.low_rank.state_dict()
        return state

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """As in `BaseModel`.

        Raises:
            OptionError: when the state is of the other stage, of other masks, or of other things that learn.
        """
        where = self.opt.where.at("path.resume_state")
        stage = "search" if "search" in state else "finetune"
        if stage != self.prune.stage:
            raise where.error(f"is a state of stage {stage}, this is stage {self.prune.stage}; give it another name")
        additions: dict[str, Tensor] = {}
        if self.search is not None:
            try:
                self.search.load_state_dict(state["search"])
            except ValueError as error:
                raise where.error(str(error)) from error
            additions = dict(self.masked.low_rank)
        saved = {name: p.shape for name, p in state.get("low_rank", {}).items()}
        if saved != {n: p.shape for n, p in additions.items()} or len(state["optimizers"]) != len(self.optimizers):
            raise where.error(
                "is of a run in which other things learn; see prune.delta_w, lora_rank and kd.feat.adapter"
            )
        super().resume_training(state, weights, source)

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Go on with the search where it was."""
        self.distillation.features.load_state_dict(state.get("adapters", {}))
        if self.search is not None:
            self.search.load_state_dict(state["search"])
            self._drawn = list(state.get("drawn", ()))
            self.masked.low_rank.load_state_dict(state["low_rank"])
            if self.mask_log is not None:
                self.mask_log.truncate(current_iter)


@contextmanager
def blamed(opt: Options) -> Iterator[None]:
    """Turn "key: what is wrong" of a ValueError into an OptionError that says where the key stands."""
    try:
        yield
    except OptionError:
        raise
    except ValueError as error:
        key, _, message = str(error).partition(": ")
        raise opt.where.at(key).error(message) from error


def _with_features(result: Tensor | Sequence[Any]) -> tuple[Tensor, dict[int, Tensor]]:
    return (result, {}) if isinstance(result, Tensor) else (result[0], result[1])
