"""Train a network: `torchrun --nproc_per_node=N basicsr/train.py -opt X.yml`, or plain `python` for one process.

The file to read first: `Trainer.__init__` sets up or resumes, `Trainer.run` is the loop, `Trainer.finish` ends the run.
Log, scores, images and checkpoints are written to `experiments/<name>/`.
"""

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from basicsr.config.command_line import parse_command_line
from basicsr.config.load import dump_options, load_options, resolve, with_output_root
from basicsr.config.schema import Options
from basicsr.data.files_record import FilesRecord, record_files
from basicsr.data.loaders import batches, build_loaders
from basicsr.engine.checkpoint import find_checkpoint, prune_checkpoints
from basicsr.engine.curves import plot_curves, read_logs
from basicsr.engine.logging import RunLog
from basicsr.engine.processes import process_age
from basicsr.engine.random_state import random_state_kept, rng_state, set_rng_state
from basicsr.engine.resume_check import check_changes, run_facts
from basicsr.engine.run import (
    join_processes,
    make_folders,
    read_on_rank0_and_broadcast,
    run_command,
    run_folders_locked,
)
from basicsr.engine.signals import InterruptibleLoader, StopRequest
from basicsr.engine.training_state import restore_random_state
from basicsr.errors import ImageReadError, OptionError
from basicsr.metrics.evaluate import Best
from basicsr.models import build_model

logger = logging.getLogger("basicsr")


@record
def main(argv: list[str] | None = None, root_path: str | Path | None = None) -> int:
    """Run the command `basicsr-train` and return its exit code.

    Args:
        argv: arguments; None: those of this process.
        root_path: folder in which `experiments` is made; None: the current folder.
    """
    args = parse_command_line("basicsr-train", __doc__ or "", argv, trains=True)
    started = time.monotonic() - (process_age() if argv is None else 0.0)  # a process may call this again and again

    def body() -> None:
        opt = with_output_root(root_path, load_options(args.opt, args.force_yml, is_train=True))
        if args.check:
            sys.stdout.write(dump_options(resolve(opt, debug=args.debug), sys.stdout.encoding))
            return
        flags = {"debug": args.debug, "auto_resume": args.auto_resume, "force_resume": args.force_resume}
        train(join_processes(opt, args.launcher, **flags), started + 60 * args.minutes)

    return run_command("basicsr-train", body)


def train_pipeline(root_path: str | Path) -> None:
    """Train as the command line of this process asks, for the `train.py` of a project with its own plug-ins.

    Args:
        root_path: folder in which `experiments` is made.

    Raises:
        SystemExit: with the exit code of `main`, unless it is 0.
    """
    if code := main(root_path=root_path):
        sys.exit(code)


def train(opt: Options, deadline: float = math.inf) -> None:
    """Train from the first or the resumed iteration to `train.total_iter`, then save, validate and plot.

    Args:
        deadline: the `time.monotonic()` at which to stop.

    Raises:
        OptionError: when another run of the same name is at work, among others.
        RunStoppedError: after a signal or the deadline, once the state after the running iteration is saved.
    """
    with run_folders_locked(opt):
        trainer = Trainer(opt, deadline)
        trainer.run()
        trainer.finish()


class Trainer:
    """One training run of this process.

    Args:
        opt: the resolved options; with `path.resume_state` or `auto_resume`, the run continues from a checkpoint.
        deadline: see `train`.
    """

    def __init__(self, opt: Options, deadline: float = math.inf):
        checkpoint = read_on_rank0_and_broadcast(lambda: find_checkpoint(opt))
        state = checkpoint.state if checkpoint else {}
        self.opt = opt
        self.loader, self.test_loaders = build_loaders(opt)
        self.model = build_model(opt)
        files, file_facts = read_on_rank0_and_broadcast(self.describe_files)
        facts = run_facts(opt, self.model.device, len(self.loader.sampler), file_facts)
        self.progress = progress = Progress(opt, state, len(self.loader), facts, files)
        if checkpoint:
            weights_path = str(checkpoint.weights_path)
            logger.info(
                "Resuming training from epoch: %d, iter: %d, with %s", progress.epoch, progress.iter, weights_path
            )
            self.model.resume_training(state, checkpoint.weights, weights_path)
            before = FilesRecord.from_tensor(state.get("training_files"))
            changed_files = files.changes_since(before) if files and before else ""
            check_changes(opt, facts, state, checkpoint.path, changed_files)
        make_folders(opt, keep_existing=progress.iter > 0)
        self.finished_file = Path(str(opt.path.log)) / "finished"  # for scripts: there is nothing left to do
        if opt.rank == 0:
            self.finished_file.unlink(missing_ok=True)
        self.log = RunLog(opt, progress.iter, progress.total_iter)
        self.start_iter = self.saved_iter = progress.iter
        self.stop = StopRequest(opt.dist_params.timeout, deadline)
        restore_random_state(state)  # again: set-up may have consumed random numbers

    def describe_files(self) -> tuple[FilesRecord | None, dict[str, Any]]:
        """Return the record of the training images, and the facts of all data sets for `run_facts`."""
        sections = self.opt.datasets
        files = record_files(self.loader.dataset, sections["train"].data_check == "content")
        facts: dict[str, Any] = dict(files.facts()) if files else {}
        found = {
            loader.name: record_files(loader.dataset, sections[key].data_check == "content")
            for key, loader in zip(self.opt.datasets_of("val", "test"), self.test_loaders, strict=True)
        }
        facts["validation"] = {name: " ".join(record.facts().values()) for name, record in found.items() if record}
        return files, facts

    def run(self) -> None:
        """Iterate to `train.total_iter`: fetch, step, log, save, validate, and stop if requested."""
        opt, model, progress, stop, log = self.opt, self.model, self.progress, self.stop, self.log
        warmup_iter = opt.train.warmup_iter if opt.train else -1
        logger.info("Start training from epoch: %d, iter: %d", progress.batches // progress.per_epoch, progress.iter)
        stream = batches(self.loader, progress.batches)
        with stop, log.bar:
            if progress.to_validate:  # the run ended in the last validation, or before it
                self.validate()
                self.stop_if_agreed()
            for it in range(progress.iter + 1, progress.total_iter + 1):
                epoch, batch, data_time = self.next_batch(stream)
                start_time = time.perf_counter() - data_time
                progress.advance(epoch)

                model.update_learning_rate(it, warmup_iter)
                model.feed_data(batch)
                model.optimize_parameters(it)
                log.bar.update()

                is_last = it == progress.total_iter
                if it % opt.logger.print_freq == 0 or is_last:
                    model.check_finite(it)
                    losses, rates = model.get_current_log(), model.get_current_learning_rate()  # waits for the GPU
                    iter_time = time.perf_counter() - start_time
                    log.iteration(epoch, it, rates, iter_time, data_time, losses)

                progress.to_validate = opt.val.val_freq is not None and it % opt.val.val_freq == 0 and not is_last
                if it % opt.logger.save_checkpoint_freq == 0 or is_last:
                    self.save()
                if progress.to_validate:  # after the checkpoint, which is there whatever happens in the validation
                    self.validate()
                    self.stop_if_agreed()
            if progress.iter > self.start_iter and stop.agree():
                self.stop_if_agreed()

    def next_batch(self, stream: Iterator[tuple[int, dict[str, Any]]]) -> tuple[int, dict[str, Any], float]:
        """Return the next batch with its epoch, and the seconds that it took; stop the run if requested.

        Processes agree here, once an iteration, so that one that cannot read its data stops the others before they wait
        for it in a step. All take one step at least, so that a run in short stretches comes to its end.

        Raises:
            ImageReadError: in all processes, when one cannot read an image; the iteration before is saved.
            RunStoppedError: after another request; the iteration before is saved.
        """
        stop, before = self.stop, None if self.loader.num_workers else rng_state()
        fetched: tuple[int, dict[str, Any]] = 0, {}
        start = time.perf_counter()
        try:
            fetched = next(stream)
        except ImageReadError as error:
            stop.failure = str(error)
        seconds = time.perf_counter() - start
        if stop.agree() and (self.progress.iter > self.start_iter or stop.failure):
            if before is not None:
                set_rng_state(before)  # the resumed run fetches this batch again
            self.stop_if_agreed()
        return *fetched, seconds

    def stop_if_agreed(self) -> None:
        """Save the state, unless that is done, and end the run, if the processes have agreed to stop."""
        progress, stop = self.progress, self.stop
        if not stop.agreed:
            return
        if progress.iter != self.saved_iter:
            self.save()
        hint = " and still to be validated" if progress.to_validate else ""
        saved = f"iteration {progress.iter} of {progress.total_iter} is saved{hint}; go on with --auto_resume"
        stop.raise_if_agreed(saved if progress.iter else "no iteration is done yet")

    def validate(self) -> None:
        """Score all test sets and keep the best scores.

        A request to stop interrupts this. `progress.to_validate` then stays set, and the resumed run validates first.
        """
        progress, stop = self.progress, self.stop
        for loader in self.test_loaders:
            try:
                with random_state_kept():  # training must not depend on how often, and how far, it is validated
                    images = InterruptibleLoader(loader, stop)
                    scores = self.model.validation(images, progress.iter, self.opt.val.save_img)
            except OptionError:  # such as a teacher with too low scores; after a request, perhaps of too few images
                if stop.agree():
                    return
                raise
            if stop.agree():
                return
            progress.best.update(scores, progress.iter)
            means = {} if scores.failed else scores.mean()  # else curves would mix scores of different images
            self.log.scores(scores.dataset, means, progress.iter, progress.best.report(scores))
            if scores.problems:
                logger.warning("Incomplete validation: %s; the lines above say why", scores.problems)
        progress.to_validate = False

    def save(self) -> None:
        """Write weights and training state; delete older checkpoints beyond `logger.keep_checkpoints`."""
        opt, progress = self.opt, self.progress
        self.model.check_finite(progress.iter)
        self.saved_iter = progress.iter
        self.model.save(progress.epoch, progress.iter, **progress.state_dict())
        if opt.rank == 0 and opt.logger.keep_checkpoints is not None:
            folders = str(opt.path.training_states), str(opt.path.models)
            prune_checkpoints(*folders, progress.iter, opt.logger.keep_checkpoints, progress.best.iterations())

    def finish(self) -> None:
        """Finish the model's own work, write `net_g_latest`, validate, mark the run as finished and plot the log."""
        progress, log_folder = self.progress, Path(str(self.opt.path.log))
        if not progress.finished or self.model.unfinished:
            self.model.finish(batches(self.loader, progress.batches))
        del self.loader  # ends its workers now; garbage collection would wait for each of them
        self.model.save(-1, -1)
        if not progress.finished:
            self.validate()
            self.stop_if_agreed()
            progress.finished = True
            self.model.save_training_state(progress.epoch, progress.iter, **progress.state_dict())
        if self.opt.rank == 0:
            plot_curves(read_logs(log_folder.glob("train_*.log")), log_folder / "curves.png")
            self.finished_file.write_text(f"{progress.iter} iterations\n", encoding="utf-8")
        self.log.trackers.close()
        logger.info("End of training.")


class Progress:
    """The position of a run, its best scores and open tasks: the part of a training state that is not the model's.

    Args:
        state: the training state to continue from; empty for a new run.
        per_epoch: batches in an epoch.
        facts: see `run_facts`.
        files: record of the training images, kept in the state to name those that change; None: nothing is known.

    Attributes:
        batches: number that this process has taken since the beginning of the run.
        to_validate: a validation is due; in the resumed run, if the checkpoint is older than its end.
        finished: the last validation is done as well, so that there is nothing left to do.
    """

    def __init__(
        self,
        opt: Options,
        state: Mapping[str, Any],
        per_epoch: int,
        facts: Mapping[str, Any],
        files: FilesRecord | None = None,
    ):
        self.total_iter = opt.train.total_iter if opt.train else 0
        self.iter: int = state.get("iter", 0)
        self.epoch: int = state.get("epoch", 0)
        self.per_epoch = per_epoch
        self.batches = batches_taken(state, per_epoch)
        self.facts = facts
        self.files = files.to_tensor() if files else None
        self.best = Best(opt.val.metrics or {})
        self.best.load_state_dict(state.get("best", {}))
        self.to_validate: bool = opt.val.val_freq is not None and state.get("to_validate", False)
        is_finished = state.get("finished", "run" not in state)  # old states, without `run`, count as finished
        self.finished: bool = self.iter > self.total_iter or (self.iter == self.total_iter and is_finished)

    def advance(self, epoch: int) -> None:
        """Count one more iteration, on a batch of `epoch`."""
        self.iter, self.batches, self.epoch = self.iter + 1, self.batches + 1, epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the part of a training state that a later `Progress` reads."""
        data = {"batches": self.batches, "per_epoch": self.per_epoch}
        known = {} if self.files is None else {"training_files": self.files}
        return {
            **known,
            "best": self.best.state_dict(),
            "data": data,
            "run": self.facts,
            "to_validate": self.to_validate,
            "finished": self.finished,
        }


def batches_taken(state: Mapping[str, Any], per_epoch: int) -> int:
    """Return the number of batches that a run has taken, converted where an epoch has another length now."""
    data = state.get("data") or {"batches": state.get("iter", 0), "per_epoch": per_epoch}
    epoch, done = divmod(int(data["batches"]), int(data["per_epoch"]))
    return epoch * per_epoch + done * per_epoch // int(data["per_epoch"])


if __name__ == "__main__":
    sys.exit(main())
