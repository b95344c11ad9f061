"""Train a network: `torchrun --nproc_per_node=N basicsr/train.py -opt X.yml`, or plain `python` for one process.

The file to read first. Options come in, batches flow from the loaders into the model, and logs, scores, pictures and
checkpoints come out under `experiments/<name>/`.
"""

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader
from tqdm import tqdm

from basicsr.data.loaders import build_test_loader, build_train_loader
from basicsr.metrics.evaluate import Best
from basicsr.models import build_model
from basicsr.models.base_model import BaseModel
from basicsr.utils.checkpoint import load_file, newest_state
from basicsr.utils.command_line import parse_command_line
from basicsr.utils.errors import CheckpointError
from basicsr.utils.logger import MessageLogger, Trackers
from basicsr.utils.options import Options, dump_options, load_options, resolve
from basicsr.utils.plot_util import plot_curves, read_logs
from basicsr.utils.run import join_processes, make_folders, run_command

logger = logging.getLogger("basicsr")


@record
def main(argv: list[str] | None = None) -> int:
    """The command `basicsr-train`; returns the exit code."""
    args = parse_command_line("basicsr-train", __doc__ or "", argv)

    def body() -> None:
        opt = load_options(args.opt, args.force_yml, is_train=True)
        if args.check:
            sys.stdout.write(dump_options(resolve(opt, debug=args.debug)))
        else:
            train(join_processes(opt, args.launcher, debug=args.debug, auto_resume=args.auto_resume))

    return run_command("basicsr-train", body)


def train(opt: Options) -> None:
    """Train from the first or the resumed iteration to `train.total_iter`, then save, validate and plot."""
    total_iter = opt.train.total_iter if opt.train else 0
    state, state_path = find_state(opt)
    loader = build_train_loader(opt)
    test_loaders = [build_test_loader(opt, key) for key in opt.datasets_of("val", "test")]
    model = build_model(opt)
    start_iter = resume(model, state, state_path)
    best = Best(opt.val.metrics or {})
    best.load_state_dict(state.get("best", {}))
    make_folders(opt, keep_existing=start_iter > 0)
    trackers = Trackers(opt)
    message = MessageLogger(opt.name, start_iter, total_iter)
    logger.info("Start training from epoch: %d, iter: %d", start_iter // len(loader), start_iter)

    def validate(it: int) -> None:
        for test_loader in test_loaders:
            scores = model.validation(test_loader, it, opt.val.save_img)
            best.update(scores, it)
            logger.info(best.report(scores))
            trackers.scalars({f"metrics/{scores.dataset}/{m}": v for m, v in scores.mean().items()}, it)

    on_terminal = sys.stderr.isatty()
    bar = tqdm(total=total_iter, initial=start_iter, desc=opt.name, unit="it", disable=opt.rank != 0,
               mininterval=0.5 if on_terminal else 10)  # fmt: skip
    ticks = [time.perf_counter()]
    iterations = range(start_iter + 1, total_iter + 1)
    for it, (epoch, batch) in zip(iterations, batches(loader, start_iter), strict=False):  # batches() has no end
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
        if opt.val.val_freq is not None and it % opt.val.val_freq == 0 and it < total_iter:
            validate(it)
        if it % opt.logger.save_checkpoint_freq == 0 or it == total_iter:
            model.check_finite(it)
            model.save(epoch, it, best=best.state_dict())
        ticks = [time.perf_counter()]
    bar.close()
    if start_iter < total_iter or model.unfinished:
        model.finish(batches(loader, total_iter))
    del loader  # ends its workers now; left to the garbage collector, each would be waited for
    model.save(-1, -1)
    if start_iter < total_iter:
        validate(total_iter)
        model.save_training_state(epoch, total_iter, best=best.state_dict())  # again, with these scores
    if opt.rank == 0:
        plot_curves(read_logs(Path(str(opt.path.log)).glob("train_*.log")), Path(str(opt.path.log)) / "curves.png")
    trackers.close()
    logger.info("End of training.")


def batches(loader: DataLoader, start_iter: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """(epoch, batch) without end, from where iteration `start_iter` left off."""
    epoch, done = divmod(start_iter, len(loader))
    sampler: Any = loader.sampler
    while True:
        sampler.set_epoch(epoch, done * int(loader.batch_size or 1))
        for batch in loader:
            yield epoch, batch
        epoch, done = epoch + 1, 0


def find_state(opt: Options) -> tuple[dict[str, Any], Path | None]:
    """The state to continue from, and its file: `path.resume_state`, or with --auto_resume the run's newest."""
    path = Path(opt.path.resume_state) if opt.path.resume_state else None
    if path is None and opt.auto_resume:
        path = newest_state(str(opt.path.training_states))
    if path is None:
        return {}, None
    state = load_file(path)
    if "iter" not in state or "optimizers" not in state:
        raise CheckpointError(f"{path}: is no training state; its keys are {', '.join(map(str, state))}")
    return state, path


def resume(model: BaseModel, state: dict[str, Any], path: Path | None) -> int:
    """Bring the model to where the state was saved; returns the number of iterations done."""
    if path is None:
        return 0
    weights_path = path.parent.parent / "models" / f"net_g_{state['iter']}.pth"
    logger.info("Resuming training from epoch: %d, iter: %d, with %s", state["epoch"], state["iter"], weights_path)
    model.resume_training(state, load_file(weights_path), str(weights_path))
    return int(state["iter"])


if __name__ == "__main__":
    sys.exit(main())
