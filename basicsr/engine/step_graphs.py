"""Training steps as CUDA graphs: when a step may be recorded, and the graphs that repeat it."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from basicsr.config.registry import is_plugin
from basicsr.config.schema import Options
from basicsr.engine.cuda_graphs import GraphBackend, Recorded, first_error, reason_of
from basicsr.engine.device import is_out_of_memory
from basicsr.engine.optimizer_groups import is_capturable

logger = logging.getLogger("basicsr")
WARM_UP_STEPS = 3  # eager steps of a kind before it is recorded: optimizers make states, libraries choose algorithms
MAX_GRAPHS = 4  # kept at a time
MAX_KINDS = 64  # kinds of steps whose warm-up steps are counted
STEP_METHODS = (
    "feed_data",
    "optimize_parameters",
    "take_step",
    "compute_losses",
    "losses_of",
    "after_backward",
    "update_learning_rate",
    "update_ema",
    "model_ema",
    "graph_key",
)
"""methods in which a plug-in may run Python code of its own in a step, which a graph would leave out"""


class Outcome(NamedTuple):
    """The results of a step."""

    losses: dict[str, Tensor]
    finite: Tensor
    """bool (), whether losses and gradients were finite."""
    grad_norms: list[Tensor]
    """before clipping, of each optimizer's parameters."""


Body = Callable[[Mapping[str, Any]], Outcome]


class GraphedStep:
    """Takes the steps of a run: of each kind the first few eagerly, then one recorded, then that repeated.

    A kind is a key that the model gives, with the shapes and types of the batch. All steps are real ones: recording
    computes nothing, so the recorded step is repeated at once. A step that cannot be recorded is taken eagerly, like
    all later ones, and one line of the log gives the reason.

    Args:
        backend: of the device.
        parameters: returns the parameters, whose gradients belong to the graph that made them.
    """

    def __init__(self, backend: GraphBackend, parameters: Callable[[], Sequence[Tensor]]) -> None:
        self._backend: GraphBackend | None = backend
        self._parameters = parameters
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._taken: OrderedDict[Hashable, int] = OrderedDict()
        self._last: _Graph | None = None  # the graph whose gradients the parameters have

    def __call__(self, body: Body, batch: Mapping[str, Any], key: Hashable) -> Outcome:
        """Take one step.

        Args:
            body: takes it with the batch that it is given.
            batch: tensors on the device; no other value in it may decide what is computed.
            key: equal for steps that do the same on the device.
        """
        backend = self._backend
        if backend is None or not backend.ready():
            self._last = None
            return body(batch)
        kind = (key, _kinds(batch))
        if kind not in self._graphs:
            if self._taken.get(kind, 0) < WARM_UP_STEPS:
                return self._warm_up(backend, body, batch, kind)
            if problem := self._record(backend, body, batch, kind):
                self._give_up(problem)
                return body(batch)
        self._graphs.move_to_end(kind)
        return self._repeat(self._graphs[kind], batch)

    def _warm_up(self, backend: GraphBackend, body: Body, batch: Mapping[str, Any], kind: Hashable) -> Outcome:
        """Take an eager step; the last one before recording is watched for code that makes the CPU wait."""
        self._last = None
        taken = self._taken[kind] = self._taken.pop(kind, 0) + 1
        while len(self._taken) > MAX_KINDS:
            self._taken.popitem(last=False)
        if taken < WARM_UP_STEPS:
            return backend.run(lambda: body(batch))
        outcome, problem = backend.watch(lambda: body(batch))
        if problem:
            self._give_up(problem)
        return outcome

    def _record(self, backend: GraphBackend, body: Body, batch: Mapping[str, Any], kind: Hashable) -> str:
        """Record a kind of steps; return why that failed, or ""."""
        if len(self._graphs) >= MAX_GRAPHS:
            backend.wait()
            self._graphs.popitem(last=False)
        try:
            graph = _Graph(backend, body, batch)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(first_error(error)):
                return "memory does not suffice for them"
            return reason_of(error)
        if not self._graphs:
            logger.info("Training steps run as a CUDA graph")
        self._graphs[kind] = graph
        return ""

    def _repeat(self, graph: "_Graph", batch: Mapping[str, Any]) -> Outcome:
        """Take a recorded step, with the gradients that it was recorded with."""
        if graph.gradients is not None and graph is not self._last:
            for p, gradient in graph.gradients:
                p.grad = gradient
        outcome = graph.repeat(batch)
        if graph.gradients is None:
            graph.gradients = [(p, p.grad) for p in self._parameters()]
        self._last = graph
        return outcome

    def _give_up(self, problem: str) -> None:
        """Take all later steps eagerly, and free the graphs."""
        logger.info("Without CUDA graphs in training: %s", problem)
        if self._backend is not None and self._graphs:
            self._backend.wait()
        self._graphs.clear()
        self._last = None
        if self._backend is not None:
            self._backend.forget()
        self._backend = None


class _Graph:
    """The graph of a step, with the batch that it reads and the gradients that it writes."""

    def __init__(self, backend: GraphBackend, body: Body, like: Mapping[str, Any]) -> None:
        fixed = {name: value.clone() if isinstance(value, Tensor) else value for name, value in like.items()}
        self._batch = fixed
        self._recorded: Recorded[Outcome] = backend.record(lambda: body(fixed))
        self.gradients: list[tuple[Tensor, Tensor | None]] | None = None

    def repeat(self, batch: Mapping[str, Any]) -> Outcome:
        """Take the step with a batch; later steps do not change the results."""
        for name, value in self._batch.items():
            if isinstance(value, Tensor):
                value.copy_(batch[name], non_blocking=True)
        found = self._recorded.replay()
        losses = {name: loss.clone() for name, loss in found.losses.items()}
        return Outcome(losses, found.finite.clone(), [norm.clone() for norm in found.grad_norms])


def graph_obstacle(
    opt: Options, scaler: torch.amp.GradScaler, optimizers: Sequence[torch.optim.Optimizer], model_class: type
) -> str:
    """Return why the steps of a model cannot be repeated by a graph, as the end of a sentence; "" where they can.

    Args:
        opt: of the run.
        scaler: of its float16 gradients.
        optimizers: of the model.
        model_class: its class.
    """
    if opt.dist:
        return "several processes work together"
    if scaler.is_enabled():
        return "the scaler of float16 decides in Python"
    if opt.train is not None and opt.train.nan == "skip":
        return "train.nan: skip looks at the numbers of every step"
    if methods := methods_of_plugins(model_class, STEP_METHODS):
        return f"the plug-in {model_class.__name__} has its own {', '.join(methods)}"
    for optimizer in optimizers:
        if not is_capturable(optimizer):
            return f"{type(optimizer).__name__} is not built to be part of one; Adam, AdamW and MUON are"
    return ""


def graph_doubt(attributes: Iterable[Any]) -> str:
    """Return why graphs might change the results of a model, as the end of a sentence; "" where nothing is known.

    Args:
        attributes: values of the model's attributes; modules among them, or in dicts among them, are looked at.
    """
    foreign = {
        type(module).__name__
        for module in _modules(attributes)
        if not type(module).__module__.startswith(("basicsr.", "torch."))
    }
    if foreign:
        return f"the Python code of {', '.join(sorted(foreign))} may decide differently in every step"
    return ""


def methods_of_plugins(model_class: type, names: Iterable[str]) -> list[str]:
    """Return those of `names` that a class outside this package defines for `model_class`, itself or a base of it."""
    plugins = [base for base in model_class.__mro__ if is_plugin(base)]
    return [name for name in names if any(name in vars(base) for base in plugins)]


def _modules(attributes: Iterable[Any]) -> Iterator[nn.Module]:
    """Yield all modules among values, and among the values of dicts."""
    for value in attributes:
        for held in value.values() if isinstance(value, dict) else [value]:
            if isinstance(held, nn.Module):
                yield from held.modules()


def _kinds(batch: Mapping[str, Any]) -> Hashable:
    """Return names, shapes, strides and types of the tensors of a batch."""
    return tuple((name, v.shape, v.stride(), v.dtype) for name, v in batch.items() if isinstance(v, torch.Tensor))
