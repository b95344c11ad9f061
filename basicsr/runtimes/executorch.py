"""ExecuTorch programs (`.pte`) of networks, for Android and iOS. Needs `pip install basicsr[executorch]`."""

from collections.abc import Sequence

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime


def executorch_program(program: torch.export.ExportedProgram) -> tuple[bytes, int]:
    """Return the file of a traced network, run by XNNPACK, and the number of nodes that stay outside of XNNPACK."""
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    nodes = edge.exported_program().graph_module.graph.nodes
    called = [str(node.target) for node in nodes if node.op == "call_function"]
    outside = [name for name in called if "executorch_call_delegate" not in name and "getitem" not in name]
    return edge.to_executorch().buffer, len(outside)


class ExecuTorchNet:
    """A program in ExecuTorch's Python runtime, as a function of arrays."""

    def __init__(self, data: bytes):
        self.program = Runtime.get().load_program(data)
        self.method = self.program.load_method("forward")

    def __call__(self, lq: np.ndarray) -> Sequence[np.ndarray]:
        """Return all outputs for (1, C, H, W) float32 of the program's size; the image comes first."""
        outputs = self.method.execute([torch.from_numpy(np.ascontiguousarray(lq))])
        return [output.clone().numpy() for output in outputs]
