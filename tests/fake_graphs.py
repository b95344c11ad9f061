"""A graph backend without CUDA: it repeats the function itself, or fails where it is told to."""

import torch


class FakeBackend:
    """Counts what it is asked for.

    Args:
        fails: the error that recording ends with, if any.
        waits: what `watch` says of the function.
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
    """Writes its results into the tensors of the first time, as CUDA does."""

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
