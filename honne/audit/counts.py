"""Right and wrong counted by expression, and pooled over folds, as the reference of IERN reports them.

Source: Chen et al., ACM MM 2022, reference code (per fold a line of counts; folds are pooled as sums).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from honne.errors import HonneError
from honne.metrics import confusion_matrix

ALL = "All"
_ENTRY = re.compile(r"([^|:]+): (?:[\d.]+|nan)\((\d+)/(\d+)\)")


@dataclass(frozen=True)
class Counts:
    """Of some test rows.

    Attributes:
        names: of the C expressions.
        right: (C,) rows of each expression that are predicted right.
        rows: (C,) rows of each.
    """

    names: tuple[str, ...]
    right: tuple[int, ...]
    rows: tuple[int, ...]

    @classmethod
    def of(cls, predicted: Tensor, label: Tensor, names: Sequence[str]) -> Counts:
        """Count (N,) predicted classes against (N,) labels."""
        matrix = confusion(predicted, label, len(names))
        return cls(tuple(names), tuple(matrix.diagonal().long().tolist()), tuple(matrix.sum(1).long().tolist()))

    @classmethod
    def pooled(cls, folds: Iterable[Counts]) -> Counts:
        """Sums over folds: of the accuracies that follow every row counts once, not every fold."""
        each = list(folds)
        right, rows = (np.sum([getattr(one, name) for one in each], 0).tolist() for name in ("right", "rows"))
        return cls(each[0].names, tuple(right), tuple(rows))

    @property
    def accuracies(self) -> dict[str, float]:
        """Of each expression and of `All` rows; NaN where there are no rows."""
        right, rows = ([*values, sum(values)] for values in (self.right, self.rows))
        return {
            name: hit / count if count else float("nan")
            for name, hit, count in zip([*self.names, ALL], right, rows, strict=True)
        }

    def line(self) -> str:
        """As the reference logs it: `[Acc] Anger: 0.800000(8/10) | ... | All: 0.666667(40/60) |`."""
        right, rows = ([*values, sum(values)] for values in (self.right, self.rows))
        entries = zip(self.accuracies.items(), right, rows, strict=True)
        return "[Acc] " + " ".join(f"{name}: {value:.6f}({hit}/{count}) |" for (name, value), hit, count in entries)

    @classmethod
    def from_line(cls, line: str) -> Counts:
        """The inverse of `line`.

        Raises:
            HonneError: not such a line.
        """
        entries = [(name.strip(), int(hit), int(count)) for name, hit, count in _ENTRY.findall(line.partition("]")[2])]
        if len(entries) < 2 or entries[-1][0] != ALL:
            raise HonneError(f"'{line.strip()[:60]}' is no line of counts.", "Give a line that begins with [Acc].")
        names, right, rows = zip(*entries[:-1], strict=True)
        return cls(names, right, rows)


def confusion(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    """(C, C) rows by label (down) and predicted class (across), (N,) each."""
    return confusion_matrix(torch.nn.functional.one_hot(predicted, classes), label)


def percent(matrix: Tensor) -> Tensor:
    """(C, C) counts in per cent of each line; a line without rows is NaN."""
    return 100 * matrix / matrix.sum(-1, keepdim=True)
