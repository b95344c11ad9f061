"""Training steps on one random batch, over and over."""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.engine.launches import count_launches
from benchmarks.config import Config, Size, channels_of
from benchmarks.report import Result, notes_on
from benchmarks.timing import Job, captured_if_asked, in_fresh_process, timed, with_peak


def train_step(args: argparse.Namespace) -> Result:
    """Measure training steps on one random batch, over and over."""
    jobs = [with_peak(config.device, partial(training, config, args.batch, args.patch)) for config in args.configs]
    rows = timed(jobs, args.warmup, args.runs)
    if args.launches:
        for row, config in zip(rows, args.configs, strict=True):
            row["launches"] = in_fresh_process(launches_of_training, config, args.batch, args.patch)
    return Result(rows, [*notes_on(args), "bfloat16 is autocast. The loss is L1."])


def training(config: Config, batch: int, patch: int) -> Job:
    """Return a training step on one random batch, over and over."""
    net, run = config.build()
    lq, gt = random_batch(config, net, batch, patch)
    step = captured_if_asked(config, training_step(config, run), lq, gt)
    facts = {**config.facts(net, Size(patch, patch)), "batch": batch}
    return Job(config.device, partial(step, lq, gt), facts, config.precision)


def training_step(config: Config, run: Any) -> Callable[[Tensor, Tensor], None]:
    """Return forward, L1 loss, backward and Adam step as a function of a batch (lq, gt)."""
    run.train()
    on_card = {"fused": True, "capturable": config.graph} if config.device == "cuda" else {}
    optimizer = torch.optim.Adam(run.parameters(), lr=2e-4, betas=(0.9, 0.99), **on_card)

    def step(lq: Tensor, gt: Tensor) -> None:
        optimizer.zero_grad()
        with config.autocast():
            output = run(lq)
        F.l1_loss(output.float(), gt).backward()
        optimizer.step()

    return step


def random_batch(config: Config, net: Any, batch: int, patch: int) -> list[Tensor]:
    """Return random lq and gt with a low-resolution side of `patch` pixels."""
    shape = batch, channels_of(net)
    return [torch.rand(*shape, side, side, device=config.device) for side in (patch, patch * net.upscale)]


def launches_of_training(config: Config, batch: int, patch: int) -> int:
    """Return the ATen calls of forward, loss and backward, views left out, in this fresh process without kernels."""
    os.environ["BASICSR_KERNELS"] = "0"
    net, run = replace(config, graph=False, compile=False).build()
    lq, gt = random_batch(config, net, batch, patch)
    run.train()

    def forward_and_backward() -> None:
        run.zero_grad()
        with config.autocast():
            output = run(lq)
        F.l1_loss(output.float(), gt).backward()

    forward_and_backward()
    return count_launches(forward_and_backward)
