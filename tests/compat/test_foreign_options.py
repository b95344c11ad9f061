"""Option files in the style of other projects, read without their plug-ins: one message says all that is to be done."""

import re

import pytest

from basicsr import train as train_command
from basicsr.config.faults import OptionFaultsError
from basicsr.config.load import load_options

TAIL = """
path:
  pretrain_network_g: ~
  pretrain_network_d: ~
  strict_load_g: true
  strict_load_d: true
  resume_state: ~

train:
  ema_decay: 0.999
  optim_g:
    type: Adam
    lr: !!float 2e-4
    weight_decay: 0
    betas: [0.9, 0.99]
  {train}

val:
  val_freq: !!float 5e3
  save_img: false
  pbar: False
  metrics:
    psnr:
      type: calculate_psnr
      crop_border: 4
      test_y_channel: true
    {metric}

logger:
  print_freq: 100
  save_checkpoint_freq: !!float 5e3
  use_tb_logger: true
  wandb:
    project: ~
    resume_id: ~

dist_params:
  backend: nccl
  port: 29500
"""

HAT = """
name: train_HAT_SRx2_from_scratch
model_type: HATModel
scale: 2
num_gpu: auto
manual_seed: 0

datasets:
  train:
    name: DF2K
    type: ImageNetPairedDataset
    dataroot_gt: datasets/DF2K/GT
    dataroot_lq: datasets/DF2K/LQ
    io_backend:
      type: disk
    gt_size: 128
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 6
    batch_size_per_gpu: 4
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val_1:
    name: Set5
    type: PairedImageDataset
    dataroot_gt: datasets/Set5/GTmod12
    dataroot_lq: datasets/Set5/LRbicx2
    io_backend:
      type: disk

network_g:
  type: HAT
  upscale: 2
  in_chans: 3
  window_size: 16
  depths: [6, 6]
  upsampler: 'pixelshuffle'
""" + TAIL.format(
    train="""scheduler: {type: MultiStepLR, milestones: [250000], gamma: 0.5}
  total_iter: 500000
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}""",
    metric="lpips: {type: calculate_lpips, crop_border: 4, better: lower}",
)

VIDEO = """
name: 001_BasicVSR
model_type: VideoRecurrentModel
scale: 4
num_gpu: 8

datasets:
  train:
    name: REDS
    type: REDSRecurrentDataset
    dataroot_gt: datasets/REDS/train_sharp
    num_frame: 15
    random_reverse: false

network_g:
  type: BasicVSR
  num_feat: 64
  num_block: 30
""" + TAIL.format(
    train="""scheduler: {type: CosineAnnealingRestartLR, periods: [300000], restart_weights: [1], eta_min: !!float 1e-7}
  total_iter: 300000
  fix_flow: 5000
  flow_lr_mul: 0.125
  pixel_opt: {type: CharbonnierLoss, loss_weight: 1.0, reduction: mean}""",
    metric="niqe: {type: calculate_niqe, crop_border: 4}",
)

RESTORATION = """
name: Deblurring_Restormer
model_type: ImageCleanModel
scale: 1
num_gpu: 8

datasets:
  train:
    name: TrainSet
    type: Dataset_PairedImage
    dataroot_gt: datasets/train/GoPro/target
    mini_batch_sizes: [8, 5, 4]
    iters: [92000, 64000, 48000]
    gt_size: 384

network_g:
  type: Restormer
  dim: 48
  num_blocks: [4, 6, 6, 8]
""" + TAIL.format(
    train="""scheduler: {type: CosineAnnealingRestartCyclicLR, periods: [92000], restart_weights: [1]}
  total_iter: 300000
  use_grad_clip: true
  mixing_augs: {mixup: false, mixup_beta: 1.2}
  pixel_opt: {type: L1Loss, loss_weight: 1, reduction: mean}""",
    metric="ssim: {type: calculate_ssim, crop_bordr: 0}",
)

# the file: the keys in the order of the message, and what it says of each
CASES = {
    "HAT": (HAT, {
        "model_type": "github.com/XPixelGroup/HAT",
        "datasets.train.type": "github.com/XPixelGroup/HAT",
        "network_g.type": "github.com/XPixelGroup/HAT",
        "val.metrics.lpips.type": "pyiqa",
    }),
    "BasicVSR": (VIDEO, {
        "model_type": "BasicSR 1.4 for video",
        "datasets.train.type": "BasicSR 1.4 for video",
        "network_g.type": "BasicSR 1.4 for video",
    }),
    "Restormer": (RESTORATION, {
        "model_type": "github.com/swz30/Restormer",
        "datasets.train.type": "github.com/swz30/Restormer",
        "network_g.type": "github.com/swz30/Restormer",
        "train.scheduler.type": "github.com/swz30/Restormer",
        "val.metrics.ssim.crop_bordr": "did you mean 'crop_border'",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_message_has_all_that_is_not_here(name, tmp_path):
    text, expected = CASES[name]
    path = tmp_path / "foreign.yml"
    path.write_text(text)
    with pytest.raises(OptionFaultsError) as error:
        load_options(path, is_train=True)
    head, *lines = str(error.value).splitlines()
    assert head == f"{len(expected)} faults in the options:"
    found = [re.match(r"  .*foreign\.yml:\d+: (\S+): (.*)", line).groups() for line in lines]
    assert [key for key, _ in found] == list(expected)
    for key, problem in found:
        assert expected[key] in problem
        assert "did you mean" not in problem or "did you mean" in expected[key]


def test_the_command_prints_them_one_a_line_and_exits_with_2(tmp_path, capsys):
    path = tmp_path / "foreign.yml"
    path.write_text(HAT)
    assert train_command.main(["-opt", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    start = next(k for k, line in enumerate(lines) if "4 faults in the options:" in line)
    assert "CRITICAL" in lines[start] and len(lines[start:]) == 5


def test_all_data_sets_that_are_missing_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yml"
    ours = HAT.replace("HATModel", "SRModel").replace("ImageNetPairedDataset", "PairedImageDataset")
    ours = ours.replace("num_gpu: auto", "num_gpu: 0").replace("  pretrain_network_g: ~\n", "")
    ours = re.sub(r"network_g:\n(  .*\n)+", "network_g: {type: Bicubic, upscale: 2}\n", ours)
    path.write_text(re.sub(r"    lpips: .*\n", "", ours))
    assert train_command.main(["-opt", str(path)]) == 2
    err = capsys.readouterr().err
    assert "2 faults in the options:" in err
    assert re.search(r"x\.yml:\d+: datasets\.train: datasets/DF2K", err), err
    assert re.search(r"x\.yml:\d+: datasets\.val_1: datasets/Set5", err), err
