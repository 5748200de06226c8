"""Feature sequences padded with zeros to one length, as the field's pickles hold them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from honne.data.readers import Bad, Row
from honne.errors import HonneError

Timing = Literal["aligned", "unaligned"]
Padding = Literal["strip", "keep"]
KINDS = ("text", "audio", "vision")
"""What these files call the modalities, and honne too."""


@dataclass
class Padded:
    """The sequences of the N samples of a split.

    Args:
        where: file and split, for messages.
        values: modality -> (N, T, D) numbers; float32 afterwards, with 0 for what is not finite.
        there: modality -> (N, T) bool, steps that are no padding. Default: those with a value other than 0. A sample
            that has no such value at all lacks the modality, whatever this says.

    Attributes:
        replaced: modality -> how many values were not finite.

    Raises:
        HonneError: a shape that does not fit.
    """

    where: str
    values: dict[str, np.ndarray]
    there: dict[str, np.ndarray] = field(default_factory=dict)
    replaced: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, given in self.values.items():
            self.values[name], self.replaced[name] = _numbers(given, f"{self.where}, {name}")
        if len({len(values) for values in self.values.values()}) > 1:
            shapes = ", ".join(f"{name} {values.shape}" for name, values in self.values.items())
            raise HonneError(f"{self.where}: not equally many samples of every modality ({shapes}).", _HINT)
        for name, values in self.values.items():
            filled = np.any(values, axis=2)
            self.there[name] = self.there.get(name, filled) & np.any(filled, axis=1, keepdims=True)

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    def spans(self, padding: Padding, timing: Timing) -> dict[str, np.ndarray]:
        """Modality -> (N, 2) first step and the one after the last; both 0 where a sample lacks the modality.

        Args:
            padding: `strip` leaves out steps at both ends that are padding; `keep` nothing.
            timing: `aligned`: steps of all modalities belong together, and are padding if they are in every one.

        Raises:
            HonneError: aligned, and not equally many steps.
        """
        if padding == "keep":
            return {name: np.tile((0, values.shape[1]), (len(self), 1)) for name, values in self.values.items()}
        if timing == "unaligned":
            return {name: _span(there) for name, there in self.there.items()}
        if len({there.shape[1] for there in self.there.values()}) > 1:
            steps = ", ".join(f"{name} {there.shape[1]}" for name, there in self.there.items())
            raise HonneError(
                f"{self.where}: aligned, but not equally many steps ({steps}).", "Pass --timing unaligned."
            )
        span = _span(np.logical_or.reduce(list(self.there.values())))
        return {name: np.where(np.any(there, axis=1, keepdims=True), span, 0) for name, there in self.there.items()}

    def rows(self, rows: Iterable[Row | Bad], padding: Padding, timing: Timing) -> Iterator[Row | Bad]:
        """The rows with their sequences; those without any become `Bad`."""
        spans = self.spans(padding, timing)
        for i, row in enumerate(rows):
            if isinstance(row, Row):
                ends = {name: span[i].tolist() for name, span in spans.items()}
                row.sequences = {n: self.values[n][i, a:b] if b else None for n, (a, b) in ends.items()}
                if not any(b for _, b in ends.values()):
                    row = Bad(f"{self.where}, sample {i}", "no features of any modality", row.id, "rule")
            yield row


_HINT = "Only files in the published layout are read."


def _numbers(values: Any, where: str) -> tuple[np.ndarray, int]:
    """(N, T, D) float32, and how many values of it were not finite and are 0 now."""
    array = np.asarray(values)
    if array.ndim != 3 or array.dtype.kind not in "fiub" or not array.shape[2]:
        raise HonneError(f"{where}: {array.dtype} of shape {array.shape}, not numbers (N, steps, features).", _HINT)
    with np.errstate(over="ignore"):
        array = array.astype(np.float32, copy=False)
    wrong = ~np.isfinite(array)
    count = int(wrong.sum())
    return (np.where(wrong, np.float32(0), array) if count else array), count


def _span(there: np.ndarray) -> np.ndarray:
    """(N, 2) first true step and the one after the last true one of (N, T); (0, 0) where there is none."""
    if not there.shape[1]:
        return np.zeros((len(there), 2), np.int64)
    first, last = there.argmax(1), there.shape[1] - there[:, ::-1].argmax(1)
    return np.where(np.any(there, axis=1, keepdims=True), np.stack([first, last], 1), 0)


def widths(parts: Sequence[Padded]) -> dict[str, int]:
    """Modality -> number of features.

    Raises:
        HonneError: splits whose features differ.
    """
    found = [{name: values.shape[2] for name, values in part.values.items()} for part in parts]
    for part, own in zip(parts, found, strict=True):
        if own != found[0]:
            raise HonneError(f"{part.where}: features {own}, but {found[0]} in the first split.", _HINT)
    return found[0]


def notes(parts: Sequence[Padded], padding: Padding) -> list[str]:
    """What was replaced, and on which side the padding lies, in words."""
    said = []
    for name in parts[0].values:
        if replaced := sum(part.replaced[name] for part in parts):
            said.append(f"{name}: {replaced:,} values that are not finite became 0.")
        spans = np.concatenate([_span(part.there[name]) for part in parts])
        steps = np.concatenate([np.full(len(part), part.values[name].shape[1]) for part in parts])
        have = spans[:, 1] > 0
        before, after = int((spans[have, 0] > 0).sum()), int((spans[have, 1] < steps[have]).sum())
        if before or after:
            said.append(
                f"{name}: padded in front in {before:,} samples and behind in {after:,} of {int(have.sum()):,}"
                + (", which is left out." if padding == "strip" else ", which is kept.")
            )
    return said


def sentiment(values: Any, count: int, largest: float, where: str) -> list[dict[str, Any] | Bad]:
    """One number per sample, as `Row` takes it, or what is wrong with it.

    Raises:
        HonneError: not `count` numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu" or array.size != count or len(array) != count:
        raise HonneError(f"{where}: labels of shape {array.shape}, not one number for each of {count} samples.", _HINT)
    scale = f"sentiment in [{-largest:g}, {largest:g}]"
    return [
        {"sentiment": value}
        if abs(value) <= largest
        else Bad(f"{where}, sample {i}", "wrong label", f"{value} is no {scale}", "label")
        for i, value in enumerate(array.reshape(count).tolist())
    ]


class Names:
    """Gives every sample an id of its own: a name that occurs again gets a number, as `name#2`."""

    def __init__(self) -> None:
        self.times: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        self.times[name] += 1
        return name if self.times[name] == 1 else f"{name}#{self.times[name]}"


def text_of(value: Any) -> str:
    """Text that may be bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
