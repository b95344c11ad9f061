"""Training runs of every kind of model, on one device or on two in turn."""

import shutil

import pytest
import torch
from helpers import run_here
from reliability.runs import FOUR, Run, options, pruning

import basicsr.train
from basicsr.engine.curves import read_logs

ATD = {"type": "ATD", "upscale": 2, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4,
       "category_size": 16, "num_tokens": 6, "reducted_dim": 3, "convffn_kernel_size": 3, "dim_ffn_td": 2,
       "upsampler": "pixelshuffledirect"}  # fmt: skip
UNET = {"type": "ATDUNet", "in_chans": 3, "embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "window_size": [4, 4],
        "dim_ffn_td": [2, 3], "category_size": [24, 16], "num_tokens": [8, 6], "reducted_dim": [3, 4],
        "convffn_kernel_size": 3, "mlp_ratio": 1.5}  # fmt: skip
TOTAL = 4  # iterations of a run; a checkpoint is written after every second one


def catanet(folder):
    return options(folder, TOTAL, train={"ema_decay": 0.9, "grad_clip": 0.5})


def catanet_float16(folder):
    return options(folder, TOTAL, train={"ema_decay": 0.9, "amp": "fp16"})


def atd(folder):
    return {**options(folder, TOTAL, train={"ema_decay": 0.9}), "model_type": "ATDModel", "network_g": ATD}


def atd_unet(folder):
    train = {"optim_g": {"type": "MUON", "lr": [1e-3, 2e-4]}, "use_grad_clip": True}
    values = options(folder, TOTAL, train=train)
    values |= {"model_type": "ATDUNetModel", "scale": 1, "network_g": UNET}
    values["datasets"]["train"] |= {
        "type": "Dataset_GaussianDenoising", "sigma_type": "constant", "sigma_range": 25, "gt_size": 12,
        "iters": [2, 2], "mini_batch_sizes": [2, 1], "gt_sizes": [8, 12],
    }  # fmt: skip
    return values


def search(folder):
    return options(folder, TOTAL, **pruning(folder, TOTAL))


def finetune(folder):
    changes = pruning(folder, TOTAL)
    changes = {key: changes[key] for key in ("model_type", "network_t", "path")}
    values = options(folder, TOTAL, **changes, prune={"stage": "finetune", "kept": [0, 2]},
                     kd={"sa": {"weight": 0.04}})  # fmt: skip
    values["network_g"] = {**FOUR, "block_num": 2, "num_tokens": [4, 4]}
    del values["path"]["pretrain_network_g"]
    return values


KINDS = {kind.__name__: kind for kind in (catanet, catanet_float16, atd, atd_unet, search, finetune)}


def with_device(device, values):
    """Return the options changed for `cpu`, or for the GPU in deterministic mode."""
    return {**values, "num_gpu": 0} if device == "cpu" else {**values, "num_gpu": "auto", "deterministic": True}


def train_in_subprocess(folder, values, *flags):
    """Train in a process of its own, which sees no GPU if the options use none; return the run."""
    with pytest.MonkeyPatch.context() as patch, Run(folder, values) as run:
        if values["num_gpu"] == 0:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        run.finish(*flags)
    return run


def train_in_this_process(folder, values, *flags):
    """Train in this process, which is faster, and return the run."""
    run = Run(folder, values)
    assert run_here(basicsr.train, folder, "-opt", "run.yml", *flags) == 0
    return run


def resumed_and_uninterrupted(folder, values, train):
    """Return the digests of a run resumed from half of another one, and of that other, uninterrupted one."""
    uninterrupted = train(folder / "uninterrupted", values)
    half = Run(folder / "resumed", values)
    shutil.copytree(uninterrupted.experiment, half.experiment)
    for path in (*half.experiment.glob(f"*/*{TOTAL}.*"), *half.experiment.glob("*/*latest*")):
        path.unlink()
    assert sorted(path.name for path in half.experiment.glob("training_states/*")) == [f"{TOTAL // 2}.state"]
    resumed = train(half.folder, values, "--auto_resume")
    assert f"iter: {TOTAL // 2}, with" in logs(resumed)
    return resumed.result(), uninterrupted.result()


def train_across_devices(folder, values, train, first, second):
    """Train the first half of a run on one device and the second half on another; return the run."""
    train(folder, with_device(first, values), "--force_yml", f"train:total_iter={TOTAL // 2}")
    run = train(folder, with_device(second, values), "--auto_resume", "--force_resume")
    assert f"iter: {TOTAL // 2}, with" in logs(run)
    return run


def assert_continued(run, uninterrupted):
    """Check that a run that changed devices kept its optimizer's state and ends near the run that did not."""
    (optimizer,) = state(run)["optimizers"]
    assert {float(learned["step"]) for learned in optimizer["state"].values()} == {float(TOTAL)}
    middle, end = (weights(uninterrupted, iteration=iteration) for iteration in (TOTAL // 2, TOTAL))
    assert difference(weights(run), end) < 0.2 * difference(middle, end)


def logs(run):
    """Return all log lines of a run."""
    return "".join(path.read_text() for path in sorted(run.experiment.glob("train_*.log")))


def losses(run):
    """Return the loss of each iteration, from the log."""
    series = read_logs(run.experiment.glob("train_*.log"))
    return list(series["losses/l_pix"].values())


def weights(run, key="params", iteration="latest"):
    return torch.load(run.experiment / f"models/net_g_{iteration}.pth", weights_only=True)[key]


def state(run, iteration=TOTAL):
    return torch.load(run.experiment / f"training_states/{iteration}.state", weights_only=True)


def difference(one, other):
    """Return the norm of the difference of two state dicts, floating-point entries only."""
    floats = [name for name, value in other.items() if value.is_floating_point()]
    return sum(float((one[name] - other[name]).double().square().sum()) for name in floats) ** 0.5
