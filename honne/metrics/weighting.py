"""Sums and means over rows in double precision, for one weight per row or for many bootstrap replicates at once."""

from __future__ import annotations

import torch
from torch import Tensor


def exact(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and real-valued targets in double precision, on the CPU if the device has none (Apple GPUs)."""
    if predicted.device.type == "mps":
        predicted, target = predicted.cpu(), target.cpu()
    return predicted.double(), target.double() if target.is_floating_point() else target


def total(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted sum over the rows.

    Args:
        values: (N, ...) finite.
        weight: (N,) or (R, N) weight of each row, `None` for 1. The R rows are R bootstrap replicates.

    Returns:
        (...) or (R, ...) double.
    """
    values = values.double()
    return values.sum(0) if weight is None else torch.tensordot(weight.double(), values, dims=1)


def mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean over the rows; NaN entries are left out, a mean over nothing is NaN.

    Args:
        values: (N, ...).
        weight: (N,) or (R, N), see `total`.

    Returns:
        (...) or (R, ...) double.

    Example:
        >>> mean(torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([[1, 1, 1], [0, 2, 5]])).tolist()
        [2.0, 3.0]
    """
    return total(values.nan_to_num(), weight) / total(~values.isnan(), weight)


def require(holds: bool, expected: str, *got: Tensor) -> None:
    """Raise `ValueError` naming the shapes expected and found unless `holds`."""
    if not holds:
        raise ValueError(f"expected {expected}, got {' and '.join(str(tuple(tensor.shape)) for tensor in got)}")
