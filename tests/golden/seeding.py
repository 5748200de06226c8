"""Weights that anybody can make again from the names of the entries."""

from __future__ import annotations

import ast
import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def key_seeded(keys: Iterable[str], shapes: Iterable[str], salt: str) -> dict[str, Tensor]:
    """State dict of a network, every entry drawn from its own key.

    Args:
        keys: names of the entries in the original code.
        shapes: as text, like "(64, 3, 7, 7)".
        salt: seeds together with the key.
    """
    return {
        str(key): _entry(str(key), tuple(ast.literal_eval(str(shape))), str(salt))
        for key, shape in zip(keys, shapes, strict=True)
    }


def _entry(key: str, shape: tuple[int, ...], salt: str) -> Tensor:
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    seed = zlib.crc32(f"{salt}:{key}".encode())
    noise = np.random.RandomState(seed).standard_normal(shape)  # the generator of the recording
    if key.endswith("running_mean"):
        values = 0.1 * noise
    elif key.endswith("running_var"):
        values = 1 + 0.1 * np.abs(noise)
    elif noise.ndim == 4:
        values = noise * np.sqrt(2 / np.prod(shape[1:]))
    elif noise.ndim == 2:
        values = 0.05 * noise
    elif key.endswith(".bias"):
        values = 0.1 * noise
    elif noise.size == 1:
        values = np.full(shape, 0.25)
    else:
        values = 1 + 0.1 * noise
    return torch.from_numpy(np.asarray(values, np.float32))
