"""Splits for data sets that come without: no subject, video or copy of a picture ever stands on both sides."""

from __future__ import annotations

import numpy as np
import pandas as pd


def assign_splits(rows: pd.DataFrame, valid: float, test: float, seed: int = 0) -> np.ndarray:
    """(N,) split names for rows; whole subjects go to one split, and whole videos of which the subject is not known.

    Other rows are grouped by picture, and if all are, drawn so that every class gives the same share to every split.

    Args:
        rows: manifest with `image`, and `subject`, `video` and `expression` where known.
        valid: share of the rows for the validation split, 0..1.
        test: share of the rows for the test split, 0..1.
        seed: of the draw.

    Returns:
        array of "train", "valid" and "test". With three subjects or more, a share above 0 gets at least one.
    """
    group = rows["image"].astype(str)
    larger = [column for column in ("video", "subject") if column in rows]
    for column in larger:
        group = (f"{column} " + rows[column].astype(str)).where(rows[column].notna(), group)
    code, names = pd.factorize(group)
    size = np.bincount(code)
    order = np.random.default_rng(seed).permutation(len(names))
    splits = np.full(len(names), "train", object)
    if larger or "expression" not in rows:
        _deal(splits, order, size, valid, test)
    else:
        stratum = pd.factorize(rows["expression"])[0][np.unique(code, return_index=True)[1]]
        for value in np.unique(stratum):
            _deal(splits, order[stratum[order] == value], size, valid, test, middle=0.5)
    return splits[code]


def _deal(
    splits: np.ndarray, order: np.ndarray, size: np.ndarray, valid: float, test: float, middle: float = 0.0
) -> None:
    """Give the first groups in `order` to test, the next to valid.

    A group goes to a split while the share already dealt to it, plus `middle` of the group's own, is below the
    split's: 0 gives every split at least one group, 0.5 rounds to the nearest.
    """
    total = size[order].sum()
    for split, share in (("test", test), ("valid", valid)):
        mine = size[order]
        before = np.cumsum(mine) - mine
        taken = before + middle * mine < share * total - 1e-9
        splits[order[taken]] = split
        order = order[~taken]
