"""Smoothing of predictions along a video: what a user may ask for, and the same for a table of rows at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import signal

from honne.errors import WrongCall

AT_ONCE = 1 << 22
"""Numbers that a median looks at in one go."""


@dataclass(frozen=True)
class Smoothing:
    """Smoothing of what the model predicts, along each face's own track.

    Args:
        kind: `median` and `mean` are centred windows; `exponential` looks back only.
        amount: window in analysed frames, or the weight of the newest value (0..1) for `exponential`.
    """

    kind: Literal["none", "median", "mean", "exponential"] = "none"
    amount: float = 0

    @classmethod
    def parse(cls, text: str) -> Smoothing:
        """From `median:5`, `mean:50`, `exponential:0.3` or `none`."""
        kind, _, amount = text.partition(":")
        if text == "none":
            return cls()
        try:
            if kind in ("median", "mean") and int(amount) >= 1:
                return cls("median" if kind == "median" else "mean", int(amount))
            if kind == "exponential" and 0 < float(amount) <= 1:
                return cls("exponential", float(amount))
        except ValueError:
            pass
        raise WrongCall(
            f"smooth: '{text}' is not a smoothing.",
            "Give median:N or mean:N (N frames), exponential:W (W in 0..1, weight of the newest frame), or none.",
        )

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after a frame that its centred window takes in."""
        size = int(self.amount)
        return size // 2, (size - 1) // 2

    def __str__(self) -> str:
        return self.kind if self.kind == "none" else f"{self.kind}:{self.amount:g}"


def smoothed(values: np.ndarray, videos: np.ndarray, smoothing: Smoothing) -> np.ndarray:
    """Rows smoothed along their videos; windows count rows and end where their video ends.

    Args:
        values: (N, K).
        videos: (N,) number of each row's video; the rows of one beside each other, in time order.
        smoothing: what to do.

    Returns:
        (N, K) of the type of `values`.

    Example:
        >>> smoothed(np.array([[0.0], [9.0], [3.0], [5.0]]), np.array([0, 0, 0, 1]), Smoothing("median", 3)).tolist()
        [[4.5], [3.0], [6.0], [5.0]]
    """
    if smoothing.kind == "none" or not len(values):
        return values
    starts = np.flatnonzero(np.diff(videos, prepend=videos[0] - 1))
    sizes = np.diff(starts, append=len(videos))
    if smoothing.kind == "exponential":
        parts = (_exponential(part, smoothing.amount) for part in np.split(values, starts[1:]))
        return np.concatenate(list(parts)).astype(values.dtype)
    before, after = smoothing.reach
    rows = np.arange(len(values))
    low = np.maximum(rows - before, np.repeat(starts, sizes))
    end = np.minimum(rows + after + 1, np.repeat(starts + sizes, sizes))
    average = _mean if smoothing.kind == "mean" else _median
    return average(values, low, end).astype(values.dtype)


def _mean(values: np.ndarray, low: np.ndarray, end: np.ndarray) -> np.ndarray:
    sums = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0, dtype=np.float64)])
    return (sums[end] - sums[low]) / (end - low)[:, None]


def _median(values: np.ndarray, low: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Entries beyond a window's end count as infinite and are sorted away."""
    result = np.empty_like(values)
    counts, width = end - low, int((end - low).max())
    size = max(1, AT_ONCE // (width * max(1, values.shape[1])))
    for start in range(0, len(values), size):
        part = slice(start, start + size)
        places, count = low[part, None] + np.arange(width), counts[part]
        outside = places >= end[part, None]
        shown = np.where(outside[..., None], np.inf, values[np.where(outside, 0, places)])
        shown.sort(1)
        rows = np.arange(len(count))
        result[part] = (shown[rows, (count - 1) // 2] + shown[rows, count // 2]) / 2
    return result


def _exponential(values: np.ndarray, weight: float) -> np.ndarray:
    found, _ = signal.lfilter([weight], [1, weight - 1], values, axis=0, zi=(1 - weight) * values[:1])
    return np.asarray(found)
