"""Leak checks: pictures and people that stand in more than one split.

Prepared data store equal pixels once, so two rows are exact copies when their `image` reference is the same: the
checks work on the manifest alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

PRECEDENCE = ("train", "test", "valid")
"""Of copies in several splits the first of these keeps its row: what is trained on cannot be evaluated on, and what
is tested on should not be selected on."""


@dataclass
class Copies:
    """Exact pixel copies.

    Attributes:
        across: (N,) bool, rows whose picture already stands in a split of higher `PRECEDENCE`.
        within: (N,) bool, other rows whose picture stands in the same split before.
        original: (N,) row number of the row that each row repeats; its own for rows that repeat none.
    """

    across: np.ndarray
    within: np.ndarray
    original: np.ndarray


def copies(rows: pd.DataFrame) -> Copies:
    """Find rows with the same pixels.

    Args:
        rows: manifest with `image` and `split`.
    """
    rank = rows["split"].map({split: i for i, split in enumerate(PRECEDENCE)}).to_numpy()
    order = np.argsort(rank, kind="stable")
    image = pd.factorize(rows["image"])[0]
    image[rows["image"].isna().to_numpy()] = np.arange(len(rows))[rows["image"].isna().to_numpy()] + len(rows)
    _, first, group = np.unique(image[order], return_index=True, return_inverse=True)
    original = np.empty(len(rows), int)
    original[order] = order[first][group]
    repeats = original != np.arange(len(rows))
    across = repeats & (rank != rank[original])
    return Copies(across, repeats & ~across, original)


def shared_subjects(rows: pd.DataFrame) -> list[str]:
    """Subjects with rows in more than one split, sorted; empty if the manifest knows no subjects."""
    if "subject" not in rows:
        return []
    splits = rows.dropna(subset=["subject"]).groupby("subject")["split"].nunique()
    return sorted(map(str, splits.index[splits > 1]))
