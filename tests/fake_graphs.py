"""A graph backend without CUDA: it calls the function again, or raises a given error."""

import torch


class FakeBackend:
    """Record the calls of its methods.

    Args:
        fails: the error that `record` raises, if any.
        waits: the reason for a synchronization that `watch` reports.
    """

    def __init__(self, fails=None, waits=""):
        self.fails = fails
        self.waits = waits
        self.usable = True
        self.done = []
        self.alive = 0

    def ready(self):
        return self.usable

    def run(self, body):
        self.done.append("run")
        return body()

    def watch(self, body):
        self.done.append("watch")
        return body(), self.waits

    def record(self, body):
        self.done.append("record")
        if self.fails is not None:
            raise self.fails
        return FakeGraph(self, body)

    def wait(self):
        self.done.append("wait")

    def forget(self):
        self.done.append("forget")

    def count(self, what):
        return self.done.count(what)


class FakeGraph:
    """Write its results into the tensors of the first replay, as CUDA does."""

    def __init__(self, backend, body):
        self.backend = backend
        self.body = body
        self.result = None
        backend.alive += 1

    def __del__(self):
        self.backend.alive -= 1

    def replay(self):
        self.backend.done.append("replay")
        found = self.body()
        if isinstance(found, torch.Tensor) and self.result is not None:
            with torch.inference_mode():
                return self.result.copy_(found)
        self.result = found
        return found
