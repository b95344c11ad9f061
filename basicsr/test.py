"""Test a network: `python basicsr/test.py -opt X.yml`, or `torchrun` to divide the images among processes.

The scores of every image, in both PSNR protocols, are logged and written to `results/<name>/`, with the images.
"""

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.config.command_line import parse_command_line
from basicsr.text import write_text

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

    Raises:
        OptionError: when there are no weights to test.
    """
    from basicsr.data.loaders import build_test_loader
    from basicsr.engine.run import make_folders
    from basicsr.errors import OptionError
    from basicsr.models import build_model

    loaders = [build_test_loader(opt, key) for key in opt.datasets_of("val", "test")]
    model = build_model(opt)
    if opt.path.pretrain_network_g is None and any(True for _ in model.net_g.parameters()):
        raise OptionError(f"{opt.path.where / 'pretrain_network_g'}: is missing; a test run needs weights")
    make_folders(opt, keep_existing=False)
    results = []
    for loader in loaders:
        logger.info("Testing %s (%d images here)...", loader.name, len(loader))
        scores = model.validation(loader, None, opt.val.save_img)
        if not scores.per_image:
            logger.info("%s has no ground truth, so there are no scores", scores.dataset)
            continue
        results.append(scores)
        logger.info("Scores of %s:\n\n%s\n", scores.dataset, scores.table())
    folder = Path(str(opt.path.log))
    if opt.rank == 0 and results:
        write_scores(folder, opt.name, results)
    logger.info("Written to %s", folder)


def write_scores(folder: Path, name: str, results: "list[Scores]") -> None:
    """Write the scores of all test sets as Markdown and JSON, and each set's as CSV.

    Args:
        name: of the run, the heading of the Markdown file.
    """
    tables = "\n\n".join(scores.table() for scores in results)
    write_text(folder / "scores.md", f"# {name}\n\n{tables}\n")
    for scores in results:
        scores.to_csv(folder / f"scores_{scores.dataset}.csv")
    content = {scores.dataset: scores.to_plain() for scores in results}
    write_text(folder / "scores.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
