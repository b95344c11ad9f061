"""ONNX files of networks: written, checked for the limits of browsers and phones, run, and quantised.

Needs `pip install basicsr[export]`.
"""

import logging
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import torch
from onnx_ir.passes import common

INPUT, OUTPUT = "lq", "sr"
AXES = ("height", "width")
MAX_RANK = 4  # of tensors that WebGPU and mobile runtimes take
FORBIDDEN = ("TopK", "NonZero", "Loop", "If", "Scan", "SequenceAt")  # missing in some runtime, or run on the CPU
INDEXED = ("Gather", "GatherElements", "ScatterElements", "GatherND", "ScatterND")


def onnx_model(program: torch.export.ExportedProgram, opset: int) -> onnx.ModelProto:
    """Return a traced network as an ONNX model with 32-bit indices, without traces of the machine that made it."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "torch.onnx", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):  # its progress
            exported = torch.onnx.export(
                program, (), dynamo=True, opset_version=opset, input_names=[INPUT], verbose=False
            )
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = exported.model
    model.graph.outputs[0].name = OUTPUT
    _narrow_indices(model)
    for simplify in (
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.DeduplicateInitializersPass(),
        common.ClearMetadataAndDocStringPass(),
    ):
        simplify(model)
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]  # runtimes infer it
    _name_axes(proto)
    return proto


def _name_axes(model: onnx.ModelProto) -> None:
    """Call the free sides of the input height and width, where the tracer calls them s52; those of the output too."""
    sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
    names = {dim.dim_param: name for dim, name in zip(sides, AXES, strict=True) if dim.dim_param}
    for dim, name in zip(model.graph.output[0].type.tensor_type.shape.dim[2:], AXES, strict=True):
        if dim.dim_param:
            dim.dim_param = names.get(dim.dim_param, f"{OUTPUT}_{name}")
    for dim in sides:
        if dim.dim_param:
            dim.dim_param = names[dim.dim_param]


def _narrow_indices(model: ir.Model) -> None:
    """Undo the exporter's casts of indices from 32 to 64 bits, which GPUs in browsers lack."""
    narrowed: dict[tuple[tuple[int, ...], bytes], ir.Value] = {}  # the exporter makes a copy for each use
    for node in model.graph:
        if node.op_type not in INDEXED or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        index = node.inputs[1]
        producer = index.producer()
        if producer is not None and producer.op_type == "Cast" and _dtype(producer.inputs[0]) == ir.DataType.INT32:
            node.replace_input_with(1, producer.inputs[0])
        elif index.const_value is not None and index.name is not None and index.const_value.shape.rank() > 0:
            values = index.const_value.numpy()
            if values.dtype != np.int64 or values.size == 0 or values.max() >= 2**31 or values.min() < -(2**31):
                continue
            key = values.shape, values.tobytes()
            if key not in narrowed:
                narrow = ir.tensor(values.astype(np.int32), name=f"{index.name}_int32")
                narrowed[key] = ir.Value(
                    name=narrow.name, shape=index.shape, type=ir.TensorType(ir.DataType.INT32), const_value=narrow
                )
                model.graph.register_initializer(narrowed[key])
            node.replace_input_with(1, narrowed[key])


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    return None if value is None else value.dtype


def check_model(model: onnx.ModelProto, size: tuple[int, int] | None, opset: int) -> None:
    """Check that a model has the size and opset asked for, and that every runtime can run it.

    Args:
        size: (height, width) of its inputs; None: any.

    Raises:
        RuntimeError: naming the fault; the network's code has to change.
    """
    onnx.checker.check_model(model, full_check=True)
    sides = model.graph.input[0].type.tensor_type.shape.dim[2:]
    frozen = [dim.dim_value for dim in sides if not dim.dim_param]
    if size is None and frozen:
        raise RuntimeError(f"the model has fixed sides, {frozen}, where it should have any; look for loops over sizes")
    if size is not None and frozen != list(size):
        raise RuntimeError(f"the model has sides {frozen}, it should have {list(size)}")
    opsets = {item.domain: item.version for item in model.opset_import}
    if opsets.get("") != opset or len([node for node in model.graph.node if node.domain not in ("", "ai.onnx")]):
        raise RuntimeError(f"the model needs {opsets}, it should need opset {opset} alone")
    found = sorted({node.op_type for node in model.graph.node} & set(FORBIDDEN))
    if found:
        raise RuntimeError(f"the model has nodes that not all runtimes have: {', '.join(found)}")
    for name, (kind, rank) in value_types(model).items():
        if rank > MAX_RANK:
            raise RuntimeError(f"the model has a tensor of {rank} dimensions, {name}; only {MAX_RANK} run everywhere")
        if kind == onnx.TensorProto.DOUBLE:
            raise RuntimeError(f"the model has a tensor of type double, {name}")
    wide = wide_indices(model)
    if wide:
        raise RuntimeError(f"the model has 64-bit indices, which leave the GPU of a browser, in {', '.join(wide)}")


def wide_indices(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that index data by 64-bit integers; arithmetic on shapes is not data."""
    types = value_types(model)
    wide = []
    for node in model.graph.node:
        if node.op_type in INDEXED:
            data, index = (types.get(name, (0, 0)) for name in node.input[:2])
            if index[0] == onnx.TensorProto.INT64 and data[0] != onnx.TensorProto.INT64:
                wide.append(f"{node.op_type} {node.name}")
    return wide


def value_types(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Return name -> (element type, rank) of all values that shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    types = {item.name: (item.data_type, len(item.dims)) for item in inferred.initializer}
    for item in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = item.type.tensor_type
        types[item.name] = (tensor.elem_type, len(tensor.shape.dim))
    return types


def with_groups(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the same graph with the chosen groups as further outputs, in the order of the network's forward."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    for node in model.graph.node:
        if node.op_type == "ArgMax":
            tapped.graph.output.append(onnx.helper.make_empty_tensor_value_info(node.output[0]))
    return onnx.shape_inference.infer_shapes(tapped)


def load_model(data: bytes) -> onnx.ModelProto:
    """Return the model in the content of an ONNX file."""
    return onnx.load_from_string(data)


class OnnxNet:
    """An ONNX model in ONNX Runtime on the CPU, as a function of arrays.

    Args:
        source: a model or its file.
        threads: 0: as many as there are cores.
    """

    def __init__(self, source: onnx.ModelProto | str | Path, threads: int = 0):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        model = source.SerializeToString() if isinstance(source, onnx.ModelProto) else str(source)
        self.session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, lq: np.ndarray) -> list[np.ndarray]:
        """Return all outputs for (1, C, H, W) float32; the image comes first."""
        return self.session.run(None, {INPUT: np.ascontiguousarray(lq)})


def quantised(model: onnx.ModelProto, images: Sequence[np.ndarray]) -> onnx.ModelProto:
    """Return an INT8 version (QDQ, static): convolutions per channel, linear layers per tensor.

    The first and the last convolution, the choice of groups and the attention stay float32.

    Args:
        images: (1, C, H, W) float32 in [0, 1], for the ranges of activations.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Yields the images one after the other."""

        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            """Return the next one; None: there are no more."""
            image = next(self.left, None)
            return None if image is None else {INPUT: image}

    # Per channel fails at run time for MatMul, so the two kinds are quantised one after the other.
    with tempfile.TemporaryDirectory() as folder:
        first, second, third = (str(Path(folder) / f"{i}.onnx") for i in range(3))
        onnx.save(model, first)
        quant_pre_process(first, second, skip_symbolic_shape=True)
        convs, linears = _quantisable(onnx.load(second))
        for source, target, names, per_channel in ((second, third, convs, True), (third, first, linears, False)):
            quantize_static(
                source,
                target,
                Reader(),
                quant_format=QuantFormat.QDQ,
                nodes_to_quantize=names,
                per_channel=per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        return onnx.load(first)


def _quantisable(model: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Return the names of the inner convolutions, and of the linear layers that choose no groups."""
    constants = {item.name for item in model.graph.initializer}
    choosing = {name for node in model.graph.node if node.op_type == "ArgMax" for name in node.input}
    convs = [node.name for node in model.graph.node if node.op_type == "Conv"]
    linears = [
        node.name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in constants and not choosing & set(node.output)
    ]
    return convs[1:-1], linears
