"""CUDA graphs: the kernel launches of a function, recorded once and repeated with hardly any work of the CPU.

A graph repeats the same operations at the same addresses, so inputs are copied into fixed tensors and outputs out of
them, and Python code runs when a graph is recorded but not when it is repeated. `GraphedForward` does this for
evaluation, `engine/step_graphs.py` for the steps of a training run. Both use CUDA through `GraphBackend`, so their
logic is tested without a GPU.
"""

import logging
import threading
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from basicsr.engine.device import is_out_of_memory
from basicsr.errors import first_line

logger = logging.getLogger("basicsr")
T = TypeVar("T")
Result = TypeVar("Result", covariant=True)
Keep = Callable[[], AbstractContextManager[object]]
MAX_GRAPHS = 8  # of a `GraphedForward`
MAX_KINDS_SEEN = 64  # kinds of inputs that a `GraphedForward` remembers after the first
# Beginnings of PyTorch's warnings: of an operation that waits for the GPU, and of the mode that looks for these.
SYNC_WARNING, SYNC_MODE_WARNING = "called a synchronizing CUDA operation", "Synchronization debug mode"


class Recorded(Protocol[Result]):
    """A recorded function."""

    def replay(self) -> Result:
        """Repeat the recorded operations; return their result, always the same tensors."""
        ...


class GraphBackend(Protocol):
    """The operations that graphs need of a device."""

    def run(self, body: Callable[[], T]) -> T:
        """Run `body` in the stream where graphs are recorded, so that its one-time set-up happens there."""
        ...

    def watch(self, body: Callable[[], T]) -> tuple[T, str]:
        """`run`; return also the line of code that made the CPU wait for the GPU, or ""."""
        ...

    def record(self, body: Callable[[], T]) -> Recorded[T]:
        """Record the operations of `body` without executing them.

        Raises:
            RuntimeError: when one cannot be recorded, or memory runs out.
        """
        ...

    def ready(self) -> bool:
        """Return whether graphs can be used now: in the stream of their first use, while nothing is recorded."""
        ...

    def wait(self) -> None:
        """Wait for the device to end its work, before a graph is dropped that it may still be running."""
        ...

    def forget(self) -> None:
        """Free the memory of graphs that are no longer referenced."""
        ...


class GraphedForward:
    """A function of one tensor, run on CUDA as one graph for each shape that repeats.

    The first input of a kind (shape, strides, type) runs eagerly, the second is recorded, later ones are repeated. So
    outputs are the same, bit for bit, and always new tensors. Graphs that were not used for long are dropped. When
    memory runs out, all are. A function that cannot be recorded runs eagerly from then on, and one line of the log
    gives the reason.

    The function must do the same for equal shapes: weights that change in place count, other Python state does not.
    Where gradients are enabled, or another stream is used than at first, it runs eagerly.

    Args:
        function: maps a tensor on `device` to a tensor; enters autocast itself, if needed.
        device: of its input; on another one than CUDA, `function` is called directly.
        backend: for tests; None: CUDA.
        keep: see `CudaBackend`.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        device: torch.device,
        backend: GraphBackend | None = None,
        keep: Keep = nullcontext,
    ) -> None:
        self._function = function
        self._backend = CudaBackend(device, keep) if backend is None and device.type == "cuda" else backend
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._seen: OrderedDict[Hashable, bool] = OrderedDict()  # kind -> whether it may be recorded
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """Return the function's output, in memory of its own."""
        backend = self._backend
        if backend is None or torch.is_grad_enabled() or not backend.ready():
            return self._function(x)
        with self._lock:
            return self._run(backend, x)

    def drop(self) -> None:
        """Free the memory of all graphs."""
        if self._backend is not None and self._graphs:
            self._backend.wait()
            self._graphs.clear()
            self._backend.forget()

    def _run(self, backend: GraphBackend, x: Tensor) -> Tensor:
        """Run the function eagerly for the first input of a kind, else by its graph."""
        kind = (x.shape, x.stride(), x.dtype, torch.is_autocast_enabled(x.device.type))
        if kind in self._graphs:
            self._graphs.move_to_end(kind)
            return self._graphs[kind](x)
        if self._seen.get(kind):
            return self._record(backend, x, kind)
        self._seen.setdefault(kind, True)
        self._seen.move_to_end(kind)
        while len(self._seen) > MAX_KINDS_SEEN:
            self._seen.popitem(last=False)
        return self._run_eagerly(x)

    def _run_eagerly(self, x: Tensor) -> Tensor:
        """Run the function eagerly; when memory runs out, drop the graphs and run it again."""
        try:
            return self._function(x)
        except (MemoryError, RuntimeError) as error:
            if not (self._graphs and is_out_of_memory(error)):
                raise
        self.drop()  # only here, because the error's traceback holds on to tensors
        return self._function(x)

    def _record(self, backend: GraphBackend, x: Tensor, kind: Hashable) -> Tensor:
        """Return the output for the second input of a kind, and record a graph of it where possible."""
        if len(self._graphs) >= MAX_GRAPHS:
            backend.wait()
            self._graphs.popitem(last=False)
        problem: str
        try:
            output, problem = backend.watch(lambda: self._function(x))
            if not problem:
                self._graphs[kind] = _Graph(backend, self._function, x)
                return output
        except (MemoryError, RuntimeError) as error:
            problem = "" if is_out_of_memory(first_error(error)) else reason_of(error)
        self.drop()
        if problem:
            logger.info("Without CUDA graphs in evaluation: %s", problem)
            self._backend = None
            return self._function(x)
        self._seen[kind] = False  # memory does not suffice for it and its graph
        return self._function(x)


class _Graph:
    """The graph of a function for inputs of one kind."""

    def __init__(self, backend: GraphBackend, function: Callable[[Tensor], Tensor], like: Tensor) -> None:
        with torch.inference_mode(False):  # a tensor of inference mode could not be written to outside of it
            fixed = torch.empty_like(like)
        self._input = fixed.copy_(like)
        self._recorded = backend.record(lambda: function(fixed))

    def __call__(self, x: Tensor) -> Tensor:
        self._input.copy_(x)
        return self._recorded.replay().clone()


class CudaBackend:
    """Graphs of one CUDA device, which share their memory because they never run at the same time.

    Args:
        keep: makes a context whose value holds the cached tensors that the body reads, such as plans of geometry. A
            graph keeps that value, because it holds only the addresses of tensors.
    """

    def __init__(self, device: torch.device, keep: Keep = nullcontext) -> None:
        self._device = device
        self._keep = keep
        self._side_stream: torch.cuda.Stream | None = None
        self._first_stream: torch.cuda.Stream | None = None
        self._pool: Any = None

    def ready(self) -> bool:
        """Return whether no graph is being recorded, and this is the stream of the first call."""
        with torch.cuda.device(self._device):
            if torch.cuda.is_current_stream_capturing():
                return False
            stream = torch.cuda.current_stream()
        self._first_stream = self._first_stream or stream
        return stream == self._first_stream

    def run(self, body: Callable[[], T]) -> T:
        """Run `body` in a side stream, after all earlier and before all later work of the current one."""
        with self._in_side_stream():
            return body()

    def watch(self, body: Callable[[], T]) -> tuple[T, str]:
        """`run`; return also the first line of Python code that made the CPU wait for the GPU, or ""."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                result = self.run(body)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        for warning in caught:
            if not str(warning.message).startswith((SYNC_WARNING, SYNC_MODE_WARNING)):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        places = [f"{w.filename}:{w.lineno}" for w in caught if str(w.message).startswith(SYNC_WARNING)]
        return result, f"{places[0]} makes the CPU wait for the GPU" if places else ""

    def record(self, body: Callable[[], T]) -> "CudaGraph[T]":
        """Record the operations of `body`.

        Raises:
            RuntimeError: when one cannot be recorded, or memory runs out.
        """
        with self._keep() as kept, self._in_side_stream(), _random_state_restored_on_error(self._device):
            self._pool = self._pool or torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            torch.clear_autocast_cache()  # whose weights would be freed when their autocast ends
            # Only this thread counts: threads that feed batches may allocate page-locked memory meanwhile.
            with torch.cuda.graph(graph, self._pool, self._side_stream, capture_error_mode="thread_local"):
                result = body()
            torch.clear_autocast_cache()  # its tensors were recorded, not computed
        return CudaGraph(graph, result, self._device, kept)

    def wait(self) -> None:
        """Wait for the device to end its work."""
        torch.cuda.synchronize(self._device)

    def forget(self) -> None:
        """Free the memory of graphs that are no longer referenced."""
        self._pool = None
        torch.cuda.empty_cache()

    @contextmanager
    def _in_side_stream(self) -> Iterator[None]:
        """Use the device, and a stream other than the default one, which cannot be recorded."""
        with torch.cuda.device(self._device):
            self._side_stream = self._side_stream or torch.cuda.Stream()
            current = torch.cuda.current_stream()
            self._side_stream.wait_stream(current)
            try:
                with torch.cuda.stream(self._side_stream):
                    yield
            finally:
                current.wait_stream(self._side_stream)


class CudaGraph(Generic[T]):
    """A recorded function."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: T, device: torch.device, kept: object) -> None:
        self._graph = graph
        self._result = result
        self._device = device
        self._kept = kept

    def replay(self) -> T:
        """Repeat the recorded operations."""
        with torch.cuda.device(self._device):
            self._graph.replay()
        return self._result


@contextmanager
def _random_state_restored_on_error(device: torch.device) -> Iterator[None]:
    """Restore the random generator if recording fails; otherwise it would stay in its state of being recorded."""
    generator = torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    before = generator.clone_state()
    try:
        yield
    except BaseException:
        generator.graphsafe_set_state(before)
        raise


def first_error(error: BaseException) -> BaseException:
    """Return the first error of a failed recording, from which the later ones follow."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def reason_of(error: BaseException) -> str:
    """Return why recording failed and where, in one line."""
    error = first_error(error)
    reason = first_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    return f"{reason} ({frames[-1].filename}:{frames[-1].lineno})" if frames else reason
