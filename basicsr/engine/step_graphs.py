"""Training steps as CUDA graphs: when a step may be recorded, and the graphs that repeat it."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from basicsr.compat.hooks import from_outside
from basicsr.engine.cuda_graphs import GraphBackend, Recorded, first_error, reason_of
from basicsr.engine.device import is_out_of_memory
from basicsr.engine.optimizer_groups import is_capturable

if TYPE_CHECKING:
    from basicsr.engine.step import TrainingStep

logger = logging.getLogger("basicsr")
WARM_UP = 3  # eager steps of a kind before it is recorded: optimizers make their states, libraries choose algorithms
KEPT = 4  # graphs
COUNTED = 64  # kinds of steps whose warm-up is remembered
# What a plug-in may override to run Python code of its own in a step, which a graph would leave out.
STEP_HOOKS = (
    "feed_data", "optimize_parameters", "compute_losses", "losses_of", "after_backward", "update_learning_rate",
    "minimise", "whole_step", "compute_gradients", "apply_gradients", "model_ema", "autocast", "graph_key",
)  # fmt: skip


class Outcome(NamedTuple):
    """What is known after a step."""

    losses: dict[str, Tensor]
    finite: Tensor
    """bool (), whether losses and gradients were finite."""
    grad_norms: list[Tensor]
    """before clipping, of each optimizer's parameters."""


Body = Callable[[Mapping[str, Any]], Outcome]


class GraphedStep:
    """Takes the steps of a run: of each kind the first few eagerly, then one recorded, then that repeated.

    A kind is a key that the model gives, with the shapes and types of the batch. All steps are real ones: recording
    does nothing by itself, so the recorded step is repeated at once. A step that cannot be recorded is taken eagerly,
    like all later ones, which one line says.

    Args:
        backend: of the device.
        parameters: gives what has gradients, which belong to the graph that made them.
    """

    def __init__(self, backend: GraphBackend, parameters: Callable[[], Sequence[Tensor]]) -> None:
        self._backend: GraphBackend | None = backend
        self._parameters = parameters
        self._graphs: OrderedDict[Hashable, _Graph] = OrderedDict()
        self._taken: OrderedDict[Hashable, int] = OrderedDict()
        self._last: _Graph | None = None  # whose gradients the parameters have

    def __call__(self, body: Body, batch: Mapping[str, Any], key: Hashable) -> Outcome:
        """Take one step.

        Args:
            body: takes it with the batch that it is given.
            batch: tensors on the device; what else is in there must not decide anything.
            key: equal for steps that do the same on the device.
        """
        backend = self._backend
        if backend is None or not backend.ready():
            self._last = None
            return body(batch)
        kind = (key, _kinds(batch))
        if kind not in self._graphs:
            if self._taken.get(kind, 0) < WARM_UP:
                return self._warm_up(backend, body, batch, kind)
            if problem := self._record(backend, body, batch, kind):
                self._give_up(problem)
                return body(batch)
        self._graphs.move_to_end(kind)
        return self._repeat(self._graphs[kind], batch)

    def _warm_up(self, backend: GraphBackend, body: Body, batch: Mapping[str, Any], kind: Hashable) -> Outcome:
        """Take an eager step, the last of them with a look at whether it lets the CPU wait."""
        self._last = None
        taken = self._taken[kind] = self._taken.pop(kind, 0) + 1
        while len(self._taken) > COUNTED:
            self._taken.popitem(last=False)
        if taken < WARM_UP:
            return backend.run(lambda: body(batch))
        outcome, problem = backend.watch(lambda: body(batch))
        if problem:
            self._give_up(problem)
        return outcome

    def _record(self, backend: GraphBackend, body: Body, batch: Mapping[str, Any], kind: Hashable) -> str:
        """Make the graph of a kind of steps; returns why there is none."""
        if len(self._graphs) >= KEPT:
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
        if graph.gradients is not None and graph is not self._last:
            for p, gradient in graph.gradients:
                p.grad = gradient
        outcome = graph.repeat(batch)
        if graph.gradients is None:
            graph.gradients = [(p, p.grad) for p in self._parameters()]
        self._last = graph
        return outcome

    def _give_up(self, problem: str) -> None:
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
        """Take the step with a batch; what it gives back is not changed by later ones."""
        for name, value in self._batch.items():
            if isinstance(value, Tensor):
                value.copy_(batch[name], non_blocking=True)
        found = self._recorded.replay()
        losses = {name: loss.clone() for name, loss in found.losses.items()}
        return Outcome(losses, found.finite.clone(), [norm.clone() for norm in found.grad_norms])


def obstacle(model: "TrainingStep") -> str:
    """Why the steps of a model cannot be repeated by a graph, in words; "" where nothing is known."""
    train, cls = model.opt.train, type(model)
    if model.opt.dist:
        return "several processes work together"
    if model.scaler.is_enabled():
        return "the scaler of float16 decides in Python"
    if train is not None and train.nan == "skip":
        return "train.nan: skip looks at the numbers of every step"
    if overridden := overridden_hooks(cls):
        return f"the plug-in {cls.__name__} has its own {', '.join(overridden)}"
    for optimizer in model.optimizers:
        if not is_capturable(optimizer):
            return f"{type(optimizer).__name__} is not built to be part of one; Adam, AdamW and MUON are"
    return ""


def doubt(model: "TrainingStep") -> str:
    """Why graphs might change the results of a model, in words; "" where nothing is known."""
    foreign = {type(m).__name__ for m in _modules(model) if not type(m).__module__.startswith(("basicsr.", "torch."))}
    if foreign:
        return f"the Python code of {', '.join(sorted(foreign))} may decide anew in every step"
    return ""


def overridden_hooks(cls: type) -> list[str]:
    """Which parts of a step a model class has from a plug-in."""
    found = ((name, getattr(cls, name, None)) for name in STEP_HOOKS)
    return [name for name, method in found if method is not None and from_outside(method)]


def _modules(model: "TrainingStep") -> Iterator[nn.Module]:
    """All modules that a model holds, by themselves or by name."""
    for value in vars(model).values():
        for held in value.values() if isinstance(value, dict) else [value]:
            if isinstance(held, nn.Module):
                yield from held.modules()


def _kinds(batch: Mapping[str, Any]) -> Hashable:
    return tuple((name, v.shape, v.stride(), v.dtype) for name, v in batch.items() if isinstance(v, torch.Tensor))
