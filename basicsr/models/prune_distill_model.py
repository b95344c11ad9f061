"""Depth pruning with a learned mask, and distillation into the remaining network: from CATANet-L to CATANet-XS.

`prune.stage: search` learns which residual groups of `network_g` to keep, cuts the others out at the end, and writes
the small network with option files for the next stages. `prune.stage: finetune` trains that network under a teacher.
Both are an `SRModel` with other losses, for any network that implements the protocol of `archs/prunable.py`.

Sources: TinySR (arXiv 2508.17434) and TinyFusion (CVPR 2025) for the learned mask, FAKD (ICIP 2020) for the affinities.
"""

import logging
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from basicsr.config.pruning import PruneOptions
from basicsr.config.registry import MODEL_REGISTRY
from basicsr.config.schema import Options
from basicsr.engine.distributed import all_reduce_sum
from basicsr.engine.wrapper import bare_network
from basicsr.metrics.evaluate import Scores
from basicsr.models.recovery import check_recovery, try_masks
from basicsr.models.sr_model import SRModel
from basicsr.pruning.compaction import compact, cut_into, kept_groups
from basicsr.pruning.distillation import Transform
from basicsr.pruning.finalize import WEIGHTS, finalize_pruned_network
from basicsr.pruning.mask_log import MaskLog, mask_log_row
from basicsr.pruning.masked_network import MaskedNetwork
from basicsr.pruning.matching import kept_in_files, origin_of_groups
from basicsr.pruning.option_errors import option_error_context
from basicsr.pruning.search import DrawRecord, MaskSearch, build_search, check_search
from basicsr.pruning.tail_fit import TailFit
from basicsr.pruning.tail_warmup import TailWarmup
from basicsr.pruning.teacher import TeacherCheck, build_distillation, check_units, teacher_of_run

logger = logging.getLogger("basicsr")


@MODEL_REGISTRY.register()
class PruneDistillModel(SRModel):
    """`SRModel` whose network is pruned (`prune.stage: search`) or taught (`finetune`); see the module.

    Args:
        opt: the resolved options of the run.
        begin: in fine-tuning, the network to train instead of `network_g`.
    """

    extra_options: ClassVar = frozenset({"prune", "budget", "kd", "compact", "expect_teacher_psnr"})
    own_losses: ClassVar = frozenset({"l_ts", "l_sa", "l_ca", "l_ia", "l_feat", "l_zoom", "l_budget", "l_entropy"})

    def __init__(self, opt: Options, begin: nn.Module | None = None):
        self.begin = begin
        self.prune = opt.prune or PruneOptions()
        self.search: MaskSearch | None = None
        self.mask_log: MaskLog | None = None
        self.draws = DrawRecord()
        self.tail_fit, self.tail_warmup = TailFit(self.prune), TailWarmup(self.prune)
        self.iteration = 0
        self.kept_meta: dict[str, list[int]] = {}
        super().__init__(opt)
        if not self.is_train or opt.train is None:
            return
        size = opt.datasets["train"].batch_size_per_gpu
        if self.prune.mask_chunks > 1 and size % self.prune.mask_chunks:
            raise opt.where.at("prune.mask_chunks").error(
                f"a batch of {size} does not divide into {self.prune.mask_chunks} parts"
            )
        with option_error_context(opt):
            weights = [getattr(loss, "loss_weight", 1.0) for loss in self.losses.values()]
            student, searching = bare_network(self.net_g), self.search is not None
            distillation = build_distillation(opt, student, self.teacher, weights, searching=searching)
        self.distillation = distillation.to(self.device)
        self.check_teacher = TeacherCheck(opt, self.teacher, self.device)
        adapters = list(self.distillation.features.parameters())
        if adapters:
            for p in adapters:  # each process has initialised its own
                p.data = all_reduce_sum(p.data) / opt.world_size
            self.setup_optimizer(adapters, opt.train.optim_g)
        if self.search is not None and opt.rank == 0:
            self.mask_log = MaskLog(Path(str(opt.path.log)) / "mask_log.csv")

    # Networks.

    def build_net_g(self) -> nn.Module:
        """Return `network_g`; in a search inside the module that masks it.

        In fine-tuning it starts as the groups `prune.kept` of the teacher, unless a file has all of its weights.
        """
        opt, prune = self.opt, self.prune
        if not self.is_train:
            return super().build_net_g()
        with option_error_context(opt):
            self.teacher = teacher_of_run(opt, self.device)
        net = super().build_net_g() if self.begin is None else self.begin
        with option_error_context(opt):
            check_units(opt.kd, net, self.teacher)
            self.tail_fit.check(net)
            self.tail_warmup.check(net)
            if prune.stage == "finetune":
                self.kept_meta = kept_in_files(opt)
                return net
            check_search(opt, net)
            self.origin = origin_of_groups(opt, net, self.teacher)
            if prune.pick == "best_of_topk":
                check_recovery(opt, net, self.origin)
            net = net.to(self.device)
            self.search = build_search(opt, net, self.device)
        if prune.delta_w != "full":
            net.requires_grad_(False)
        rank = prune.lora_rank if prune.delta_w == "lora" else 0
        return MaskedNetwork(net, self.search.sampler, rank, skip=not opt.dist)

    def init_net_g(self, net: nn.Module) -> None:
        """Copy the groups `prune.kept` of the teacher, with head and tail, to `net` before a file is loaded.

        Where the file fits in part (`strict_load_g: false`), the rest is the teacher's: the tail of another scale, say.
        A teacher whose groups do not fit gives nothing, with a warning.

        Raises:
            OptionError: when they do not fit, and there is no file.
        """
        kept, path = self.prune.kept, self.opt.path
        if not self.is_train or self.prune.stage != "finetune" or kept is None:
            return
        if path.pretrain_network_g is None:
            with option_error_context(self.opt):
                cut_into(net, self.teacher, kept)
        elif not path.strict_load_g:
            try:
                cut_into(net, self.teacher, kept)
            except ValueError as error:
                logger.warning("What %s lacks is initialised at random: %s", path.pretrain_network_g, error)

    def setup_optimizers(self) -> None:
        """Make an optimizer for the weights and, in a search, one for the logits with a constant learning rate."""
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
        """The network that is tested: in a search cut down to the most probable mask so far."""
        if self.search is None:
            return super().net_eval
        return compact(self.whole_network(), kept_groups([int(bit) for bit in self.search.mode]))

    def whole_network(self) -> nn.Module:
        """Return the full-depth network of a search with its learned weights."""
        if self.ema is not None:
            return bare_network(self.ema)
        net, changed = self.masked.module, self.masked.changed_weights()
        if changed:
            net = deepcopy(net)
            net.load_state_dict({name: value.detach() for name, value in changed.items()}, strict=False)
        return net

    # Training.

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one step; in a search, also of the logits; during the fit of a tail, none."""
        self.iteration = current_iter
        if self.tail_fit.active(current_iter):
            self._fit_tail(current_iter)
            return
        self.draws.start_iteration()
        if self.device.type == "cuda":
            self.distillation.put_weight_on_device(self.device, current_iter)
        self.tail_warmup.set_state_tracking(bare_network(self.net_g), current_iter)
        super().optimize_parameters(current_iter)
        if self.search is not None:
            self.search.after_step(current_iter)
            if current_iter % self.prune.sync_check_freq == 0:
                self.masked.check_ranks_agree(current_iter)
            self._write_mask_log(self.search, current_iter)

    def _fit_tail(self, current_iter: int) -> None:
        """Add the batch to the equations of the tail's weights, and solve them in the last iteration of the fit."""
        net = bare_network(self.net_g)
        self.log = {"l_tail": self.tail_fit.add(net, self.batch["lq"], self.batch["gt"])}
        if current_iter == self.tail_fit.iterations:
            self.tail_fit.solve([net] if self.ema is None else [net, bare_network(self.ema)])

    def graph_obstacle(self) -> str:
        """As in `BaseModel`; a captured graph would repeat random draws made in Python."""
        kd = self.opt.kd
        if self.search is not None:
            return "a search draws other masks in every step"
        if kd.zoom.weight > 0:
            return "kd.zoom draws other crops in every step"
        if kd.sa.weight > 0 and kd.sa.anchors:
            return "kd.sa.anchors draws other rows in every step"
        return super().graph_obstacle()

    def graph_key(self, current_iter: int) -> Hashable:
        """Return the weight of the teacher's output, whether features count, and whether only the tail learns."""
        kd = self.distillation
        return kd.alpha(current_iter), kd.feature_weight(current_iter) > 0, self.tail_warmup.active(current_iter)

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return distances to the ground truth and to the teacher, feature terms, and penalties on the logits."""
        lq, gt = batch["lq"], batch["gt"]
        kd, it = self.distillation, self.iteration
        zoomed = kd.zoomed_inputs(lq, gt)
        change = Transform(self.opt.kd.zoom.augment, square=lq.shape[2] == lq.shape[3])
        target, target_features = kd.teacher_targets(lq if zoomed is None else torch.cat([lq, zoomed]), it)
        output, features = self._student(lq if zoomed is None else torch.cat([lq, change(zoomed)]))
        number = len(lq)
        targets = (
            target[:number] if target is not None else None,
            {i: value[:number] for i, value in target_features.items()},
        )
        from_gt = self.losses_of(output[:number], gt)
        result = kd.losses(output[:number], {i: v[:number] for i, v in features.items()}, targets, from_gt, it)
        if zoomed is not None and target is not None:
            result["l_zoom"] = self.opt.kd.zoom.weight * kd.to_teacher(change(output[number:]).float(), target[number:])
        return result | (self.search.penalties(it) if self.search is not None else {})

    def _student(self, lq: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """Return output and tapped features; in a search, each of `prune.mask_chunks` parts of `lq` draws a mask."""
        taps = self.distillation.student_taps
        if self.search is None:
            return _with_features(self.net_g(lq, taps=taps) if taps else self.net_g(lq))
        outputs, features = [], []
        for part in lq.chunk(self.prune.mask_chunks):
            result = self.net_g(part, self.search.draw(self.iteration, self.draws.count), taps)
            self.draws.add(self.masked.mask, self.masked.learned)
            output, found = _with_features(result)
            outputs.append(output)
            features.append(found)
        return torch.cat(outputs), {i: torch.cat([found[i] for found in features]) for i in taps}

    def after_backward(self, current_iter: int) -> None:
        """Remove gradients of frozen logits, of groups that no mask kept, and of groups in the tail's warm-up."""
        if self.search is not None and not self.draws.learned:
            frozen = self.masked.parameters_of_dropped(self.draws.kept_in_iteration())
            if not self.search.penalties(current_iter):
                frozen += self.masked.sampler.parameters()
            for p in frozen:
                p.grad = None  # under DDP it is 0, which would still move parameters with momentum
        self.tail_warmup.drop_other_gradients(bare_network(self.net_g), current_iter)
        for p in self.distillation.features.parameters():
            if p.grad is not None:
                p.grad = all_reduce_sum(p.grad) / self.opt.world_size

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Set the scheduled rate, or during the warm-up of a new tail the rate of the warm-up."""
        super().update_learning_rate(current_iter, warmup_iter)
        self.tail_warmup.set_rates(self.optimizers, current_iter)

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

    def validation(
        self, loader: Iterable[Mapping[str, Any]], current_iter: int | None = None, save_img: bool = False
    ) -> Scores:
        """Score a data set; the first time also the teacher, where `val.expect_teacher_psnr` names the set."""
        if self.is_train and current_iter is not None:
            self.check_teacher(loader)
        return super().validation(loader, current_iter, save_img)

    def _write_mask_log(self, search: MaskSearch, current_iter: int) -> None:
        train = self.opt.train
        if current_iter % self.opt.logger.print_freq and (train is None or current_iter != train.total_iter):
            return
        frequency = self.draws.pop_keep_frequency()
        if self.mask_log is not None:
            rates, norms = self.get_current_learning_rate(), [float(norm) for norm in self.training_step.grad_norms]
            self.mask_log.append(mask_log_row(search, current_iter, frequency, self.log, rates, norms))

    @property
    def unfinished(self) -> bool:
        """True while a search has not yet written its network."""
        written = Path(str(self.opt.path.log)) / "compact" / WEIGHTS
        return self.search is not None and self.opt.compact.enable and not written.exists()

    def finish(self, batches: Iterator[tuple[int, Mapping[str, Any]]]) -> None:
        """At the end of a search: choose the mask, and write the cut network with option files and report."""
        opt, search = self.opt, self.search
        if search is None or not opt.compact.enable:
            return
        whole, tried = self.whole_network(), []
        if self.prune.pick == "best_of_topk":
            tried = try_masks(opt, search, self.origin, whole, PruneDistillModel)
        lq = (batch["lq"].to(self.device) for _, batch in batches)
        finalize_pruned_network(opt, search, self.origin, whole, lq, tried)

    def extra_meta(self) -> dict[str, Any]:
        """Return, in fine-tuning, which groups of the teacher and of the original network this one has."""
        return self.kept_meta

    def extra_state(self) -> dict[str, Any]:
        """Return the state of the search, of adapters and of the fit of a tail."""
        state: dict[str, Any] = {"adapters": self.distillation.features.state_dict()}
        state["tail_fit"] = self.tail_fit.state_dict()
        if self.search is not None:
            state["search"] = self.search.state_dict()
            state["drawn"] = self.draws.since_log
            state["low_rank"] = self.masked.low_rank.state_dict()
        return state

    def resume_training(self, state: Mapping[str, Any], weights: Mapping[str, Any], source: str) -> None:
        """As in `BaseModel`.

        Raises:
            OptionError: when the state belongs to the other stage, other masks, or other trained parameters.
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
                "is of a run in which other parameters learn; see prune.delta_w, lora_rank and kd.feat.adapter"
            )
        super().resume_training(state, weights, source)

    def load_extra_state(self, state: Mapping[str, Any], current_iter: int) -> None:
        """Restore what `extra_state` returns, and drop the rows of the mask log after `current_iter`."""
        self.distillation.features.load_state_dict(state.get("adapters", {}))
        self.tail_fit.load_state_dict(state.get("tail_fit", {}))
        if self.search is not None:
            self.search.load_state_dict(state["search"])
            self.draws.since_log = list(state.get("drawn", ()))
            self.masked.low_rank.load_state_dict(state["low_rank"])
            if self.mask_log is not None:
                self.mask_log.truncate(current_iter)


def _with_features(result: Tensor | Sequence[Any]) -> tuple[Tensor, dict[int, Tensor]]:
    return (result, {}) if isinstance(result, Tensor) else (result[0], result[1])
