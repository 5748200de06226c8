"""Splits for data sets that come without: no subject, video or copy of a picture ever stands on both sides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from honne.data.readers import Bad, Row
from honne.errors import HonneError, WrongCall

VALID_SHARE, TEST_SHARE = 0.1, 0.2


def split_rows(
    rows: pd.DataFrame, valid: float | None, test: float | None, cross_validation: str | None, seed: int
) -> list[str]:
    """Fill the column `split` where the layout has none; what was done, in words.

    Args:
        rows: manifest.
        valid: share of the rows, 0..1: of all rows where the layout has no split (default 0.1), of the training rows
            where it has (default 0).
        test: share where the layout has no split. Default: 0.2.
        cross_validation: "3/8" for the third of eight folds, in place of the shares.
        seed: of the draw.

    Raises:
        HonneError: some rows have a split and others none, or there are too few groups for the folds.
        WrongCall: folds of data with splits of their own.
    """
    unit = "subject" if "subject" in rows else "picture" if "image" in rows else "sample"
    if "split" not in rows and cross_validation is not None:
        fold, folds = fold_of(cross_validation)
        rows["split"] = cross_validated(rows, fold, folds, seed)
        following = fold % folds + 1
        return [f"Fold {fold} of {folds}, drawn by {unit}: it is test, fold {following} valid, seed {seed}."]
    if "split" not in rows:
        valid, test = VALID_SHARE if valid is None else valid, TEST_SHARE if test is None else test
        rows["split"] = assign_splits(rows, valid, test, seed)
        return [f"Splits drawn by {unit}: {valid:g} valid, {test:g} test, seed {seed}."]
    if missing := int(rows["split"].isna().sum()):
        where = rows.loc[rows["split"].isna(), "id"].iloc[0]
        raise HonneError(f"{missing} rows have no split while others have one (first: {where}).", "Fill the column.")
    if valid is not None:
        train = rows["split"] == "train"
        rows.loc[train, "split"] = assign_splits(rows[train], valid, 0.0, seed)
        return [f"Validation split drawn from the training rows: {valid:g}, seed {seed}."]
    if (rows["split"] == "valid").any():
        return ["Splits of the reader."]
    return ["Splits of the reader. There is no validation part; --valid-share 0.1 takes one from the training rows."]


def without_own_split(
    rows: Iterable[Row | Bad], valid: float | None, test: float | None, cross_validation: str | None
) -> Iterator[Row | Bad]:
    """The rows; refuses shares for splits that the layout has itself, at the first row that shows it."""
    for name, share in (("valid", valid), ("test", test)):
        if share is not None and not 0 <= share < 1:
            raise WrongCall(f"--{name}-share {share:g} is not a share of 0..1.")
        if share is not None and cross_validation is not None:
            raise WrongCall(f"--cross-validation takes the place of --{name}-share.", "Leave one of them out.")
    if cross_validation is not None:
        fold_of(cross_validation)
    for row in rows:
        if isinstance(row, Row) and row.split and test is not None:
            raise WrongCall("--test-share is for layouts without a split; this one has its own.")
        if isinstance(row, Row) and row.split and cross_validation is not None:
            raise WrongCall("--cross-validation is for layouts without a split; this one has its own.")
        if isinstance(row, Row) and row.split == "valid" and valid is not None:
            raise WrongCall("--valid-share is for layouts without a validation part; this one has its own.")
        yield row


def assign_splits(rows: pd.DataFrame, valid: float, test: float, seed: int = 0) -> np.ndarray:
    """(N,) split names for rows; whole subjects go to one split, and whole videos of which the subject is not known.

    Other rows are grouped by picture, and if all are, drawn so that every class gives the same share to every split.

    Args:
        rows: manifest with `image` or `sequence`, and `subject`, `video` and `expression` where known.
        valid: share of the rows for the validation split, 0..1.
        test: share of the rows for the test split, 0..1.
        seed: of the draw.

    Returns:
        array of "train", "valid" and "test". With three subjects or more, a share above 0 gets at least one.
    """
    code, stratum = _groups(rows)
    size = np.bincount(code)
    order = np.random.default_rng(seed).permutation(len(size))
    splits = np.full(len(size), "train", object)
    if stratum is None:
        _deal(splits, order, size, valid, test)
    else:
        for value in np.unique(stratum):
            _deal(splits, order[stratum[order] == value], size, valid, test, middle=0.5)
    return splits[code]


def cross_validated(rows: pd.DataFrame, fold: int, folds: int, seed: int = 0) -> np.ndarray:
    """(N,) split names: one fold is test, the next valid (after the last comes the first), the others are train.

    Groups are those of `assign_splits`; folds get about equally many rows, and of rows that are no part of a larger
    group equally many of every class.

    Args:
        rows: as `assign_splits`.
        fold: which fold is test, 1..folds.
        folds: how many, at least 3.
        seed: of the draw; the same for every fold of one experiment.

    Raises:
        HonneError: fewer groups than folds.
    """
    code, stratum = _groups(rows)
    size = np.bincount(code)
    if len(size) < folds:
        raise HonneError(f"{len(size)} groups of rows are too few for {folds} folds.", "Ask for fewer folds.")
    order = np.random.default_rng(seed).permutation(len(size))
    order = order[np.argsort(-size[order] if stratum is None else stratum[order], kind="stable")]
    place, load = np.zeros(len(size), int), np.zeros(folds, int)
    for group in order.tolist():
        place[group] = load.argmin()
        load[place[group]] += size[group]
    away = (place - (fold - 1)) % folds
    return np.where(away == 0, "test", np.where(away == 1, "valid", "train")).astype(object)[code]


def fold_of(text: str) -> tuple[int, int]:
    """Fold and number of folds of "3/8".

    Raises:
        WrongCall: anything else.
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if not match or int(match[2]) < 3 or not 1 <= int(match[1]) <= int(match[2]):
        raise WrongCall(
            f"--cross-validation {text} is no fold of three or more.", "Pass 3/8 for the third of eight folds."
        )
    return int(match[1]), int(match[2])


def stored(rows: pd.DataFrame) -> pd.Series:
    """(N,) reference to what is stored for each row of a manifest: equal for equal pictures, or sequences."""
    return rows["image"] if "image" in rows else rows["sequence"]


def _groups(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray | None]:
    """(N,) number of each row's group; (groups,) class, or None if groups may be larger than a picture."""
    group = stored(rows).astype(str)
    larger = [column for column in ("video", "subject") if column in rows]
    for column in larger:
        group = (f"{column} " + rows[column].astype(str)).where(rows[column].notna(), group)
    code, _ = pd.factorize(group)
    if larger or "expression" not in rows:
        return code, None
    return code, pd.factorize(rows["expression"])[0][np.unique(code, return_index=True)[1]]


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
