"""Scoring of a data set by the function that a model predicts with, and the pictures of it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from basicsr.config.input_form import PLAIN_RGB, InputForm
from basicsr.config.schema import Options
from basicsr.images.files import to_pixels, write_image
from basicsr.metrics import both_protocols
from basicsr.metrics.evaluate import Scores, evaluate


def score_images(
    opt: Options,
    predict: Callable[[Tensor], Tensor],
    loader: Iterable[Mapping[str, Any]],
    current_iter: int | None,
    save_img: bool,
    gather: bool = True,
    on_scores: Callable[[str, Mapping[str, float]], None] | None = None,
) -> Scores:
    """Score the outputs of `predict` for the images of `loader`, by the metrics of `opt.val`.

    Args:
        opt: of the run.
        predict: maps LQ (B, C, h, w) to SR (B, C, s*h, s*w), in the form of the LQ.
        loader: batches; a `TestLoader`, or any other with some of its attributes.
        current_iter: iterations done; None in a test run, which scores in both protocols.
        save_img: write the outputs into the run's `visualization` folder.
        gather: put the shares of all processes together; False: only this process calls.
        on_scores: see `evaluate`.
    """
    name, form = name_of_set(loader), form_of(loader)
    metrics: Mapping[str, Any] = opt.val.metrics or {}
    if current_iter is None:
        metrics = both_protocols(metrics)
    on_image = _image_writer(opt, name, current_iter, form) if save_img else None
    hidden = not opt.val.pbar or opt.rank != 0 or None  # None: also where stderr is no terminal
    bar = tqdm(loader, desc=f"Test {name}", unit="image", leave=False, disable=hidden)
    return evaluate(
        predict,
        bar,
        metrics,
        name,
        on_image,
        on_scores=on_scores,
        unreadable=getattr(loader, "unreadable", ()),
        root=getattr(loader, "root", None),
        names=getattr(loader, "names", {}),
        gather=gather,
        form=form,
    )


def name_of_set(loader: Any) -> str:
    """Return the name of a loader's data set: its own, or that in the options of the data set; "" where it has none."""
    options = getattr(getattr(loader, "dataset", None), "opt", None) or {}
    return str(getattr(loader, "name", "") or options.get("name") or "")


def form_of(loader: Any) -> InputForm:
    """Return how the images of a loader were made network inputs; one of plain batches has plain RGB."""
    return getattr(loader, "form", PLAIN_RGB)


def _image_writer(
    opt: Options, dataset: str, current_iter: int | None, form: InputForm
) -> Callable[[str, Tensor], None]:
    """Return a function that writes an output, given its name and SR (1, C, H, W) in [0, 1]."""
    folder, suffix = Path(str(opt.path.visualization)), opt.val.suffix
    if current_iter is not None and len(opt.datasets_of("val", "test")) > 1:
        folder /= dataset  # the images of two sets may have one name

    def write(name: str, sr: Tensor) -> None:
        if current_iter is not None:
            end = f"_{suffix}" if suffix else ""
            path = folder / name / f"{Path(name).name}_{current_iter}{end}.png"
        else:
            path = folder / dataset / f"{name}_{suffix or opt.name}.png"
        write_image(path, to_pixels(form.to_picture(sr[0])))

    return write
