"""Compile every kernel for an H100, which need not be there, as the functions launch it; print a line for each.

Triton's driver is replaced by one that names that GPU, and launches end after compilation. This is a program of its own
that `test_compiles.py` starts, because Triton's interpreter must be off. `--one` compiles layer normalization only.
"""

import os
import subprocess
import sys
import tempfile
from types import SimpleNamespace

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from basicsr.archs.kernels.global_attention import global_attention
from basicsr.archs.kernels.kmeans import kmeans_sums
from basicsr.archs.kernels.layer_norm import layer_norm
from basicsr.archs.kernels.window_attention import window_attention
from basicsr.archs.layers.windows import Heads

SHARED_MEMORY = 227 * 1024  # bytes that a program may have on an H100
compiled = set()
run = JITFunction.run


def compile_only(self, *args, grid, warmup, **kwargs):
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    if kernel.hash in compiled:
        return
    compiled.add(kernel.hash)
    assert kernel.metadata.shared <= SHARED_MEMORY
    print(self.__module__, self.__name__, report(kernel), flush=True)


def report(kernel):
    """Return registers, spills, shared memory and warps; nothing where Triton comes without cuobjdump."""
    tool = os.path.join(os.path.dirname(triton.__file__), "backends/nvidia/bin/cuobjdump")
    if not os.path.exists(tool):
        return ""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        line = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    usage = [word for word in line if word.startswith(("REG:", "STACK:"))]
    return " ".join([*usage, f"SHARED:{kernel.metadata.shared}", f"WARPS:{kernel.metadata.num_warps}"])


def windows(dtype, heads, queries, keys, scatter, **options):
    length = 16384
    number = length // queries
    qkv = torch.randn(length, heads.columns).to(dtype).requires_grad_()
    rows = torch.zeros(1, (number - 1) * queries + keys, dtype=torch.int32)
    inverse = torch.zeros(1, length, dtype=torch.int32), torch.zeros(length, 2, dtype=torch.int32)
    sizes = {"number": number, "step": queries, "queries": queries, "keys": keys, "valid": number * queries}
    out = window_attention(qkv, rows, **sizes, heads=heads, scatter=scatter, inverse=inverse, **options)
    out.sum().backward()


CATANET, ATD = Heads(4, 9, 10), Heads(4, 12, 12)


def normalization(dtype):
    x = torch.randn(16384, 40).to(dtype).requires_grad_()
    layer_norm(x, torch.ones(40, requires_grad=True), torch.zeros(40)).sum().backward()


def all_kernels(dtype):
    bias = {"numbers": torch.randn(4, 256, 256, requires_grad=True), "labels": torch.zeros(64, 256, dtype=torch.int32)}
    windows(dtype, CATANET, 32, 64, scatter=True)
    windows(dtype, ATD, 256, 256, scatter=True, **bias)
    qkv = torch.randn(16384, CATANET.columns).to(dtype).requires_grad_()
    global_attention(qkv, torch.randn(4, 64, 19), CATANET, torch.randn(16384, 40).to(dtype)).sum().backward()
    normalization(dtype)
    kmeans_sums(torch.randn(16384, 40).to(dtype), torch.randn(64, 40))


def other_forms_of_windows(dtype):
    windows(dtype, CATANET, 1, 1, scatter=True)
    windows(dtype, CATANET, 256, 256, scatter=False)
    windows(dtype, Heads(4, 35, 35), 256, 256, scatter=True)
    windows(dtype, ATD, 256, 256, scatter=True, factor=torch.ones(1, 1, requires_grad=True))
    torch.use_deterministic_algorithms(True)
    windows(dtype, CATANET, 256, 256, scatter=False)
    torch.use_deterministic_algorithms(False)


if __name__ == "__main__":
    target = GPUTarget("cuda", 90, 32)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: target, get_current_device=lambda: 0, get_current_stream=lambda device: 0
        )
    )
    JITFunction.run = compile_only
    if "--one" in sys.argv:
        normalization(torch.float32)
    else:
        for dtype in (torch.float32, torch.bfloat16):
            all_kernels(dtype)
        other_forms_of_windows(torch.float32)
    print("kernels:", len(compiled))
