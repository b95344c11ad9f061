"""In which stages each option of data sets and of `val` counts: the table at the end of docs/options.md.

A test compares it with the declared options, so that a new one must be entered here. `check_stages` reads it, so that
an option in a stage in which it has no effect is not passed over in silence.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from basicsr.config.section import Section

logger = logging.getLogger("basicsr")
Stage = Literal["train", "val", "test", "pictures", "inference"]

YES = "yes"  # honoured
NO = "no effect"  # a warning says so where a file sets it
REFUSED = "refused"  # an error where options are checked
NONE = "-"  # nothing that it could mean there


class Stages(NamedTuple):
    """Where an option counts."""

    train: str
    val: str
    test: str
    pictures: str = NONE
    """that validation and test save."""
    inference: str = NONE
    """with the weights that were trained so."""
    note: str = ""


LOADING = Stages(YES, YES, YES)
TRAINING = Stages(YES, NO, NO, note="validation and test take whole images, one by one")
SPEED = Stages(YES, NONE, NONE, note="changes the speed alone")
FORM = Stages(
    YES, YES, YES, YES, YES,
    "all data sets of a run must agree. Losses see normalised tensors, scores and pictures do not. Weight files keep "
    "the values for inference; `basicsr-export` refuses such files",
)  # fmt: skip
TESTING = Stages(NONE, YES, YES, YES)

REAL_ESRGAN = (
    *(f"{name}{end}" for end in ("", "2")
      for name in ("blur_kernel_size", "kernel_list", "kernel_prob", "betag_range", "betap_range", "sinc_prob")),
    "blur_sigma2", "final_sinc_prob", "crop_pad_size",
)  # fmt: skip

STAGES: dict[str, dict[str, Stages]] = {
    "datasets.*": {
        "name": Stages(YES, YES, YES, YES),
        "type": LOADING,
        "batch_size_per_gpu": TRAINING,
        "num_worker_per_gpu": LOADING,
        "dataset_enlarge_ratio": TRAINING,
        "prefetch_mode": Stages(NONE, NONE, NONE, note="accepted for files of BasicSR"),
        "num_prefetch_queue": SPEED,
        "pin_memory": SPEED,
        "persistent_workers": SPEED,
        "cache": Stages(YES, REFUSED, REFUSED, note="`device` is refused outside training"),
        "dataroot_gt": Stages(YES, YES, YES, YES),
        "dataroot_lq": Stages(YES, YES, YES, note="made from dataroot_gt by data sets that degrade; a warning says so"),
        "filename_tmpl": LOADING._replace(note="with dataroot_lq; not used by data sets that degrade"),
        "meta_info_file": LOADING,
        "io_backend": LOADING,
        "cache_mb": LOADING,
        "data_check": Stages(YES, YES, NONE, note="when a run is resumed; a changed validation set is a note"),
        "gt_size": TRAINING,
        "use_hflip": TRAINING,
        "use_rot": TRAINING,
        "geometric_augs": TRAINING,
        "color": FORM._replace(
            note="all data sets of a run must agree. Luma is scored as luma, saved as gray from black to white. "
            "Inference takes the luma of colours or gray, and adds the colours, enlarged bicubically"
        ),
        "mean": FORM,
        "std": FORM,
        "in_ch": Stages(YES, YES, YES, YES, YES, "must be network_g.in_chans"),
        "gray": Stages(REFUSED, YES, YES, YES, note="`swapped_luma` is refused: inference takes OpenCV's"),
        "mini_batch_sizes": TRAINING._replace(note="read by ATDUNetModel; refused with another model"),
        "iters": TRAINING._replace(note="read by ATDUNetModel; refused with another model"),
        "gt_sizes": TRAINING._replace(note="read by ATDUNetModel; refused with another model"),
        "sigma_type": Stages(YES, NO, NO, note="validation and test have sigma_test"),
        "sigma_range": Stages(YES, NO, NO, note="validation and test have sigma_test"),
        "sigma_test": Stages(NONE, YES, YES),
        "quality_factor": LOADING,
        "blur_sigma": LOADING,
        "blur_prob": LOADING,
        "kernels": LOADING,
        "noise_sigma": LOADING,
        "noise_prob": LOADING,
        "luma_noise_prob": LOADING,
        "jpeg_quality": LOADING,
        "jpeg_prob": LOADING,
        "chroma_420_prob": LOADING,
        **dict.fromkeys(REAL_ESRGAN, Stages(YES, NONE, NONE, note="RealESRGANDataset refuses other phases")),
        "meta_info": LOADING._replace(note="the name of meta_info_file in files of Real-ESRGAN"),
        "scale": Stages(REFUSED, REFUSED, REFUSED, note="set at the top; the same value is accepted"),
        "phase": Stages(REFUSED, REFUSED, REFUSED, note="follows from the data set's key; the same value is accepted"),
        "seed": Stages(REFUSED, REFUSED, REFUSED, note="set manual_seed"),
    },
    "val": {
        "val_freq": Stages(NONE, YES, NONE),
        "save_img": TESTING,
        "suffix": TESTING._replace(note="in training after the iteration"),
        "pbar": Stages(NONE, YES, YES),
        "metrics": Stages(NONE, YES, YES),
        "amp": TESTING._replace(note="`basicsr-infer --dtype`"),
        "compile": TESTING,
        "self_ensemble": TESTING._replace(note="`basicsr-infer --self-ensemble`"),
        "expect_teacher_psnr": Stages(NONE, YES, NO, note="read by PruneDistillModel; refused with another"),
    },
    "val.metrics.*": {
        "type": Stages(NONE, YES, YES),
        "crop_border": Stages(NONE, YES, YES),
        "test_y_channel": Stages(NONE, YES, YES, note="of one channel, that channel is scored"),
        "input_order": Stages(NONE, REFUSED, REFUSED, note="`CHW` is refused; it is for calls from Python"),
        "convert_to": Stages(NONE, YES, YES, note="of NIQE"),
        "better": Stages(NONE, YES, NONE, note="which validation is the best"),
    },
}  # fmt: skip


def warn_of_no_effect(path: str, stage: Stage, section: Section, given: Mapping[str, Any]) -> None:
    """Log the options in `given` that the table says have no effect in a stage, in one line."""
    table = STAGES[path]
    idle = [key for key in given if key in table and getattr(table[key], stage) == NO]
    if idle:
        logger.warning("%s: no effect in this stage: %s (see docs/options.md)", section.where, ", ".join(idle))
