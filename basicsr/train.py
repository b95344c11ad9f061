"""Train a network: `torchrun --nproc_per_node=N basicsr/train.py -opt X.yml`, or plain `python` for one process.

The file to read first. Options come in, batches flow from the loaders into the model, and logs, scores, pictures and
checkpoints come out under `experiments/<name>/`.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.config.command_line import parse_command_line
from basicsr.config.schema import Options, below, dump_options, load_options, resolve
from basicsr.data.loaders import build_test_loader, build_train_loader
from basicsr.engine.atomic import remove_leftovers
from basicsr.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_checkpoint,
    prune_checkpoints,
)
from basicsr.engine.curves import plot_curves, read_logs
from basicsr.engine.logging import MessageLogger, Trackers
from basicsr.engine.random_state import random_state_kept
from basicsr.engine.resume_check import check_changes
from basicsr.engine.run import join_processes, make_folders, read_once, run_command
from basicsr.engine.signals import CutShort, RunStoppedError, StopRequest
from basicsr.errors import OptionError
from basicsr.metrics.evaluate import Best
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel

logger = logging.getLogger("basicsr")
# What states of BasicSR 1.4 and of older versions do not have, and what follows.
LACKING = {
    "rng": "the random state (random numbers begin anew from manual_seed)",
    "data": "the position in the data (it follows from the iteration; the order of the samples is that of now)",
    "options": "the options of its run (check yourself that they are the same)",
    "best": "the best scores (they begin anew)",
    "scaler": "the scale of float16 gradients (it is found anew)",
}


@record
def main(argv: list[str] | None = None, root_path: str | Path | None = None) -> int:
    """The command `basicsr-train`; returns the exit code. `experiments` is made below `root_path`, else here."""
    args = parse_command_line("basicsr-train", __doc__ or "", argv)

    def body() -> None:
        opt = below(root_path, load_options(args.opt, args.force_yml, is_train=True))
        if args.check:
            sys.stdout.write(dump_options(resolve(opt, debug=args.debug)))
        else:
            train(join_processes(opt, args.launcher, debug=args.debug, auto_resume=args.auto_resume,
                                 force_resume=args.force_resume))  # fmt: skip

    return run_command("basicsr-train", body)


def train_pipeline(root_path: str | Path) -> None:
    """Train as the command line of this process says, for the `train.py` of a project with plug-ins of its own.

    Args:
        root_path: folder below which `experiments` is made.

    Raises:
        SystemExit: with the exit code of `main`, when the run did not end well.
    """
    if code := main(root_path=root_path):
        sys.exit(code)


def train(opt: Options) -> None:
    """Train from the first or the resumed iteration to `train.total_iter`, then save, validate and plot.

    Raises:
        RunStoppedError: after SIGTERM or SIGINT, when the state after the running step is saved.
    """
    total_iter = opt.train.total_iter if opt.train else 0
    checkpoint = read_once(lambda: find_checkpoint(opt))
    state = checkpoint.state if checkpoint else {}
    loader = build_train_loader(opt)
    test_loaders = [build_test_loader(opt, key) for key in opt.datasets_of("val", "test")]
    model = build_model(opt)
    facts = facts_of_run(opt, model, loader)
    if checkpoint:
        resume(model, checkpoint, facts)
    per_epoch = len(loader)
    start_iter, start_batch = state.get("iter", 0), first_batch(state, per_epoch)
    best = Best(opt.val.metrics or {})
    best.load_state_dict(state.get("best", {}))
    make_folders(opt, keep_existing=start_iter > 0)
    if opt.rank == 0:
        remove_leftovers(str(opt.path.models))
        remove_leftovers(str(opt.path.training_states))
    trackers = Trackers(opt)
    message = MessageLogger(opt.name, start_iter, total_iter)
    stop = StopRequest(opt.dist_params.timeout)
    logger.info("Start training from epoch: %d, iter: %d", start_batch // per_epoch, start_iter)

    def validate(it: int) -> bool:
        """Whether all test sets were scored; a request to stop ends it early."""
        for test_loader in test_loaders:
            problem: OptionError | None = None
            try:
                with random_state_kept():  # the training must not depend on how often, and how far, it is scored
                    scores = model.validation(CutShort(test_loader, stop), it, opt.val.save_img)
            except OptionError as error:  # such as a teacher that is too bad, perhaps judged by half of the images
                problem = error
            if stop.agreed():
                return False
            if problem is not None:
                raise problem
            best.update(scores, it)
            logger.info(best.report(scores))
            trackers.scalars({f"metrics/{scores.dataset}/{m}": v for m, v in scores.mean().items()}, it)
        return True

    def state_after(it: int) -> dict[str, Any]:
        data = {"batches": start_batch + it - start_iter, "per_epoch": per_epoch}
        return {"best": best.state_dict(), "data": data, "run": facts}

    def save(epoch: int, it: int, to_validate: bool) -> None:
        model.save(epoch, it, **state_after(it), to_validate=to_validate)
        if opt.rank == 0 and opt.logger.keep_checkpoints is not None:
            best_iters = {it for found in best.state_dict().values() for _, it in found.values()}
            prune_checkpoints(
                str(opt.path.training_states), str(opt.path.models), it, opt.logger.keep_checkpoints, best_iters
            )

    if checkpoint:  # again, for what was built since may have drawn random numbers
        model.restore_random_state(state)
    on_terminal = sys.stderr.isatty()
    bar = tqdm(total=total_iter, initial=start_iter, desc=opt.name, unit="it", disable=opt.rank != 0,
               mininterval=0.5 if on_terminal else 10)  # fmt: skip
    ticks = [time.perf_counter()]
    iterations = range(start_iter + 1, total_iter + 1)
    epoch = state.get("epoch", 0)
    with stop, bar:  # which ends before a message that says why the run does
        if state.get("to_validate") and not validate(start_iter):
            raise RunStoppedError(stop.number, f"iteration {start_iter} is saved, as it was")
        # batches() has no end
        for it, (epoch, batch) in zip(iterations, batches(loader, start_batch), strict=False):
            ticks.append(time.perf_counter())
            model.update_learning_rate(it, opt.train.warmup_iter if opt.train else -1)
            model.feed_data(batch)
            model.optimize_parameters(it)
            bar.update()
            if it % opt.logger.print_freq == 0 or it == total_iter:
                model.check_finite(it)
                losses, rates = model.get_current_log(), model.get_current_learning_rate()
                data_time, iter_time = ticks[-1] - ticks[-2], time.perf_counter() - ticks[-2]
                message(epoch, it, rates, iter_time, data_time, losses)
                trackers.scalars({**{f"losses/{k}": v for k, v in losses.items()}, "lr": rates[0]}, it)
            stopped_by = stop.agreed()
            to_validate = opt.val.val_freq is not None and it % opt.val.val_freq == 0 and it < total_iter
            if to_validate and not stopped_by and not validate(it):
                stopped_by = stop.number
            elif not stopped_by:
                to_validate = False
            if it % opt.logger.save_checkpoint_freq == 0 or it == total_iter or stopped_by:
                model.check_finite(it)
                save(epoch, it, to_validate)
            if stopped_by:
                raise RunStoppedError(stopped_by, f"iteration {it} of {total_iter} is saved; go on with --auto_resume")
            ticks = [time.perf_counter()]
    is_new = start_iter < total_iter or (start_iter == total_iter and not state.get("finished", "run" not in state))
    if is_new or model.unfinished:
        model.finish(batches(loader, start_batch + max(total_iter - start_iter, 0)))
    del loader  # ends its workers now; left to the garbage collector, each would be waited for
    model.save(-1, -1)
    if is_new:
        validate(total_iter)
        model.save_training_state(epoch, total_iter, **state_after(total_iter), finished=True)  # now with these scores
    if opt.rank == 0:
        plot_curves(read_logs(Path(str(opt.path.log)).glob("train_*.log")), Path(str(opt.path.log)) / "curves.png")
    trackers.close()
    logger.info("End of training.")


def batches(loader: DataLoader, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(epoch, batch) without end, after the first `start` batches of a run."""
    epoch, done = divmod(start, len(loader))
    sampler: Any = loader.sampler
    while True:
        sampler.set_epoch(epoch, done * int(loader.batch_size or 1))
        for batch in loader:
            yield epoch, batch
        epoch, done = epoch + 1, 0


def first_batch(state: Mapping[str, Any], per_epoch: int) -> int:
    """The number of batches that a run has taken; where an epoch has another length now, those of as many epochs."""
    data = state.get("data") or {"batches": state.get("iter", 0), "per_epoch": per_epoch}
    epoch, done = divmod(int(data["batches"]), int(data["per_epoch"]))
    return epoch * per_epoch + done * per_epoch // int(data["per_epoch"])


def facts_of_run(opt: Options, model: BaseModel, loader: DataLoader) -> dict[str, Any]:
    """What decides the numbers of a run beside its options; a state keeps it."""
    return {
        "world_size": opt.world_size,
        "device": model.device.type,
        "samples_per_epoch": len(loader.sampler) * opt.world_size,  # type: ignore[arg-type]
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }


def find_checkpoint(opt: Options) -> Checkpoint | None:
    """What to continue from: `path.resume_state`, or with --auto_resume the run's newest that is whole."""
    if opt.path.resume_state:
        return load_checkpoint(opt.path.resume_state)
    return newest_checkpoint(str(opt.path.training_states)) if opt.auto_resume else None


def resume(model: BaseModel, checkpoint: Checkpoint, facts: Mapping[str, Any]) -> None:
    """Bring the model to where the checkpoint was saved, and say in the log what has changed or is missing.

    Raises:
        CheckpointError: when it does not fit the model.
        OptionError: when options have changed that decide the result, without --force_resume.
    """
    state = checkpoint.state
    logger.info(
        "Resuming training from epoch: %s, iter: %d, with %s",
        state.get("epoch", "?"), state["iter"], checkpoint.weights_path,
    )  # fmt: skip
    model.resume_training(state, checkpoint.weights, str(checkpoint.weights_path))
    check_changes(model.opt, facts, state, checkpoint.path)
    if absent := [text for key, text in LACKING.items() if key not in state]:
        logger.warning("%s: is of an older version and lacks %s", checkpoint.path, "; ".join(absent))


if __name__ == "__main__":
    sys.exit(main())
