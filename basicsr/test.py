"""Test a network: `python basicsr/test.py -opt X.yml`, or `torchrun` to divide the images among processes.

The scores of every image, in both PSNR protocols, are logged and written to `results/<name>/`, with the images.
"""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.config.command_line import parse_command_line

if TYPE_CHECKING:
    from basicsr.config.schema import Options
    from basicsr.metrics.evaluate import Scores

logger = logging.getLogger("basicsr")


def main(argv: list[str] | None = None, root_path: str | Path | None = None) -> int:
    """Run the command `basicsr-test` and return its exit code.

    Args:
        argv: arguments; None: those of this process.
        root_path: folder in which `results` is made; None: the current folder.
    """
    args = parse_command_line("basicsr-test", __doc__ or "", argv)
    # Imported here because they import torch, which --help need not wait for.
    from basicsr.config.load import dump_options, load_options, resolve, with_output_root
    from basicsr.engine.run import join_processes, run_command, run_folders_locked

    def body() -> None:
        opt = with_output_root(root_path, load_options(args.opt, args.force_yml, is_train=False))
        if args.check:
            sys.stdout.write(dump_options(resolve(opt, debug=args.debug), sys.stdout.encoding))
            return
        resolved = join_processes(opt, args.launcher, debug=args.debug)
        with run_folders_locked(resolved):
            test(resolved)

    return run_command("basicsr-test", body)


def test_pipeline(root_path: str | Path) -> None:
    """Test as the command line of this process asks, for the `test.py` of a project with its own plug-ins.

    Args:
        root_path: folder in which `results` is made.

    Raises:
        SystemExit: with the exit code of `main`, unless it is 0.
    """
    if code := main(root_path=root_path):
        sys.exit(code)


def test(opt: "Options") -> None:
    """Score the network on every test set; write `scores.json`, `scores_<set>.csv`, `scores.md` and the images.

    Files are written after each set, and the rows of a set as they come, so that whatever ends the run leaves them.

    Raises:
        OptionError: when there are no weights to test.
        IncompleteError: at the end, when an image has no scores or a file could not be written.
    """
    from basicsr.data.loaders import build_loaders
    from basicsr.engine.run import make_folders
    from basicsr.errors import IncompleteError, OptionError
    from basicsr.metrics.score_files import UnfinishedRows
    from basicsr.models import build_model

    _, loaders = build_loaders(opt)
    model = build_model(opt)
    if opt.path.pretrain_network_g is None and any(True for _ in model.net_g.parameters()):
        raise OptionError(f"{opt.path.where / 'pretrain_network_g'}: is missing; a test run needs weights")
    make_folders(opt, keep_existing=False)
    folder = Path(str(opt.path.log))
    results: list[Scores] = []
    problems: list[str] = []
    pending: list[UnfinishedRows] = []  # whose rows are in no table yet
    unwritten = ""
    for loader in loaders:
        logger.info("Testing %s (%d images here)...", loader.name, len(loader))
        pending.append(UnfinishedRows(folder, loader.name, opt.rank))
        model.on_scores = pending[-1].add
        scores = model.validation(loader, None, opt.val.save_img)
        problems += [scores.problems] if scores.problems else []
        if not (scores.per_image or scores.failed):
            logger.info("%s has no ground truth, so there are no scores", scores.dataset)
            continue
        results.append(scores)
        logger.info("Scores of %s:\n\n%s\n", scores.dataset, scores.table())
        unwritten = files_problem(folder, opt, results)
        while pending and not unwritten:
            pending.pop().remove()
    if problems := [*problems, *filter(None, [unwritten])]:
        raise IncompleteError(f"{'; '.join(problems)}. The lines above say why; what there is, is in {folder}")
    logger.info("Written to %s", folder)


def files_problem(folder: Path, opt: "Options", results: "list[Scores]") -> str:
    """Write the files of scores, in rank 0; return in every process why that is not possible, "" where it is."""
    from basicsr.engine.training_state import write_on_rank0
    from basicsr.metrics.score_files import write_scores

    try:
        write_on_rank0(lambda: write_scores(folder, opt.name, results))
    except OSError as error:
        logger.error("The tables cannot be written: %s", error)
        return f"the tables are not written ({error}); make room and test again"
    return ""


if __name__ == "__main__":
    sys.exit(main())
