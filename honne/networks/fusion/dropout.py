"""Dropout that costs little on a CPU.

PyTorch draws one number after the other there, which takes longer than the products around it. `byte` draws a byte for
each entry from a generator that is seeded by torch's, many at once.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

DropoutMode = Literal["byte", "exact"]
"""`byte`: the probability is rounded to a multiple of 1/256 (0.2 is 51/256 = 0.199); `exact`: as it is. Devices other
than a CPU are always exact."""
LEVELS = 256


def generator(seed: int) -> np.random.Generator:
    """What bytes are drawn from."""
    return np.random.Generator(np.random.SFC64(seed))


def drawn_seed() -> int:
    """A seed that follows from torch's."""
    return int(torch.randint(2**62, ()))


def kept(random: np.random.Generator, shape: tuple[int, ...], dropped: int) -> Tensor:
    """Bool tensor, each entry false with probability dropped / 256."""
    count = int(np.prod(shape))
    drawn = random.integers(0, 2**64, -(-count // 8), np.uint64).view(np.uint8)[:count]
    return torch.from_numpy(drawn.reshape(shape)) >= dropped


def drop(x: Tensor, probability: float, training: bool, mode: DropoutMode = "byte") -> Tensor:
    """Dropout; see `DropoutMode`."""
    dropped = round(probability * LEVELS)
    if mode == "exact" or x.device.type != "cpu":
        return F.dropout(x, probability, training)
    if not training or not dropped:
        return x
    return x * (kept(generator(drawn_seed()), tuple(x.shape), dropped) * (LEVELS / (LEVELS - dropped))).to(x.dtype)
