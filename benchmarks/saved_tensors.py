"""How much autograd keeps for the backward pass: counted, so the same on every machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Saved:
    """Bytes of activations that autograd keeps: now, and at the most.

    Args:
        module: whose weights do not count.
    """

    def __init__(self, module: nn.Module) -> None:
        self.weights = {_place(each) for each in (*module.parameters(), *module.buffers())}
        self.users: Counter[int] = Counter()
        self.now = self.peak = 0

    def of(self, run: Callable[[], object]) -> int:
        """The most during a run."""
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Kept(tensor, self), lambda kept: kept.tensor):
            run()
        return self.peak

    def add(self, tensor: Tensor) -> None:
        """One user more of its memory."""
        place = _place(tensor)
        self.users[place] += 1
        if self.users[place] == 1 and place not in self.weights:
            self.now += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.now)

    def remove(self, tensor: Tensor) -> None:
        """One user less."""
        place = _place(tensor)
        self.users[place] -= 1
        if not self.users[place] and place not in self.weights:
            self.now -= tensor.untyped_storage().nbytes()


class _Kept:
    """A tensor as long as autograd keeps it."""

    def __init__(self, tensor: Tensor, saved: Saved) -> None:
        self.tensor, self.saved = tensor, saved
        saved.add(tensor)

    def __del__(self) -> None:
        self.saved.remove(self.tensor)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
