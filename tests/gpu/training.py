"""Training runs of every kind of model, to be made on one device or on two in turn."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from reliability.runs import FOUR, Run, options, pruning

import basicsr.train
from basicsr.config.load import load_options, resolve
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


def on(device, values):
    """The same options for `cpu`, or for the card in deterministic mode."""
    return {**values, "num_gpu": 0} if device == "cpu" else {**values, "num_gpu": "auto", "deterministic": True}


def train_apart(folder, values, *flags):
    """Train in a process of its own, which sees no card where it is to use none; returns the run."""
    with pytest.MonkeyPatch.context() as patch, Run(folder, values) as run:
        if values["num_gpu"] == 0:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        run.finish(*flags)
    return run


def train_here(folder, values, *flags):
    """Train in this process, which is faster where its state does not matter; returns the run."""
    run = Run(folder, values)
    logger = logging.getLogger("basicsr")
    level = logger.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(logger, "handlers", [])
        patch.setattr(logger, "propagate", True)
        assert basicsr.train.main(["-opt", "run.yml", *flags]) == 0
        for handler in logger.handlers:
            handler.close()
    logger.setLevel(level)
    return run


def resumed_and_straight(folder, values, train):
    """Digests of two runs: one that goes on, in a new process, from half of the other, and that other."""
    straight = train(folder / "straight", values)
    half = Run(folder / "resumed", values)
    shutil.copytree(straight.experiment, half.experiment)
    for path in (*half.experiment.glob(f"*/*{TOTAL}.*"), *half.experiment.glob("*/*latest*")):
        path.unlink()
    assert sorted(path.name for path in half.experiment.glob("training_states/*")) == [f"{TOTAL // 2}.state"]
    resumed = train(half.folder, values, "--auto_resume")
    assert f"iter: {TOTAL // 2}, with" in logs(resumed)
    return resumed.result(), straight.result()


def moved(folder, values, train, first, second):
    """A run whose first half was made on one device and whose second half on another."""
    train(folder, on(first, values), "--force_yml", f"train:total_iter={TOTAL // 2}")
    run = train(folder, on(second, values), "--auto_resume", "--force_resume")
    assert f"iter: {TOTAL // 2}, with" in logs(run)
    return run


def assert_went_on(run, straight):
    """`run`, moved in its middle, has kept its optimizer's state and ends near the run that stayed where it was."""
    (optimizer,) = state(run)["optimizers"]
    assert {float(learned["step"]) for learned in optimizer["state"].values()} == {float(TOTAL)}
    middle, end = (weights(straight, iteration=iteration) for iteration in (TOTAL // 2, TOTAL))
    assert difference(weights(run), end) < 0.2 * difference(middle, end)


def logs(run):
    """All that a run logged."""
    return "".join(path.read_text() for path in sorted(run.experiment.glob("train_*.log")))


def losses(run):
    """The loss of each iteration, from the log."""
    series = read_logs(run.experiment.glob("train_*.log"))
    return list(series["losses/l_pix"].values())


def weights(run, key="params", iteration="latest"):
    return torch.load(run.experiment / f"models/net_g_{iteration}.pth", weights_only=True)[key]


def state(run, iteration=TOTAL):
    return torch.load(run.experiment / f"training_states/{iteration}.state", weights_only=True)


def difference(one, other):
    """Norm of the difference of two state dicts, floating point entries alone."""
    floats = [name for name, value in other.items() if value.is_floating_point()]
    return sum(float((one[name] - other[name]).double().square().sum()) for name in floats) ** 0.5


def model_options(folder, values):
    """Resolved options, for a model without a command."""
    path = Path(folder) / "model.yml"
    values = {**values, "path": {**values["path"], "experiments_root": str(Path(folder) / "experiments")}}
    path.write_text(yaml.safe_dump(values))
    return resolve(load_options(path, is_train=True))
