"""Training in lower precision than float32: float16 with its scaler, bfloat16, TF32."""

import pytest
import torch
from gpu.scaling import check_overflow_halves_scale, check_scale_growth_and_resume
from gpu.training import catanet, catanet_float16, difference, losses, state, train_in_subprocess, weights, with_device

pytestmark = pytest.mark.gpu


def test_the_scale_grows_and_is_resumed(tmp_path):
    check_scale_growth_and_resume(tmp_path, "cuda")


def test_a_step_that_overflows_is_skipped(tmp_path):
    check_overflow_halves_scale(tmp_path, "cuda")


def test_a_float16_run_keeps_its_scale_in_the_state(tmp_path):
    run = train_in_subprocess(tmp_path / "run", with_device("cuda", catanet_float16(tmp_path)))
    assert state(run)["scaler"]["scale"] > 0
    assert all(torch.isfinite(torch.tensor(losses(run))))


def test_bfloat16_trains_close_to_float32(tmp_path):
    values = with_device("cuda", catanet(tmp_path))
    plain = train_in_subprocess(tmp_path / "float32", values)
    half = train_in_subprocess(tmp_path / "bfloat16", {**values, "train": {**values["train"], "amp": "bf16"}})
    assert losses(half) == pytest.approx(losses(plain), rel=0.05)
    assert difference(weights(half), weights(plain)) > 0


def test_high_precision_trains_close_to_highest(tmp_path):
    values = with_device("cuda", catanet(tmp_path))
    highest, high = (
        train_in_subprocess(tmp_path / name, {**values, "matmul_precision": name}) for name in ("highest", "high")
    )
    assert losses(high) == pytest.approx(losses(highest), rel=0.02)
