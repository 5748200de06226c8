"""Leak checks: pictures, feature sequences and people that stand in more than one split.

Prepared data store equal pixels, or sequences, once, so two rows are exact copies when their reference is the same: the
checks work on the manifest alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from honne.data.manifest import SPLITS
from honne.data.readers import Bad
from honne.data.splits import stored
from honne.data.storing import Problems
from honne.errors import HonneError

PRECEDENCE = ("train", "test", "valid")
"""Of copies in several splits the first of these keeps its row: what is trained on cannot be evaluated on, and what
is tested on should not be selected on."""


@dataclass
class Copies:
    """Exact copies.

    Attributes:
        across: (N,) bool, rows whose picture already stands in a split of higher `PRECEDENCE`.
        within: (N,) bool, other rows whose picture stands in the same split before.
        original: (N,) row number of the row that each row repeats; its own for rows that repeat none.
    """

    across: np.ndarray
    within: np.ndarray
    original: np.ndarray


def copies(rows: pd.DataFrame) -> Copies:
    """Find rows with the same pixels, or the same sequences.

    Args:
        rows: manifest with `image` or `sequence`, and `split`.
    """
    rank = rows["split"].map({split: i for i, split in enumerate(PRECEDENCE)}).to_numpy()
    order = np.argsort(rank, kind="stable")
    reference = stored(rows)
    image, none = pd.factorize(reference)[0], reference.isna().to_numpy()
    image[none] = np.arange(len(rows))[none] + len(rows)
    _, first, group = np.unique(image[order], return_index=True, return_inverse=True)
    original = np.empty(len(rows), int)
    original[order] = order[first][group]
    repeats = original != np.arange(len(rows))
    across = repeats & (rank != rank[original])
    return Copies(across, repeats & ~across, original)


def shared_subjects(rows: pd.DataFrame) -> list[str]:
    """Subjects with rows in more than one split, sorted; empty if the manifest knows no subjects."""
    return _shared(rows, "subject")


def _shared(rows: pd.DataFrame, column: str) -> list[str]:
    if column not in rows:
        return []
    splits = rows.dropna(subset=[column]).groupby(column)["split"].nunique()
    return sorted(map(str, splits.index[splits > 1]))


def without_leaks(rows: pd.DataFrame, policy: str, subjects: str, problems: Problems, notes: list[str]) -> pd.DataFrame:
    """Apply the checks for exact copies, and for subjects (videos where no subjects are known) in several splits.

    Args:
        rows: manifest.
        policy: drop, report or refuse, of copies.
        subjects: report or refuse.
        problems: takes the rows that are dropped.
        notes: takes what was found.

    Returns:
        the rows that stay.

    Raises:
        HonneError: a check refuses.
    """
    pictures = "image" in rows
    what = "exact pixel copies" if pictures else "exact copies"
    found = copies(rows)
    within = found.within & (rows["split"] != "train").to_numpy()
    ids, splits = rows["id"].to_numpy(), rows["split"].to_numpy()
    for split in SPLITS:
        mine, of = found.across & (splits == split), splits[found.original]
        for other in PRECEDENCE:
            if count := int((mine & (of == other)).sum()):
                notes.append(f"{count} {split} rows are {what} of {other} rows.")
        if count := int((found.within & (splits == split)).sum()):
            notes.append(f"{count} {split} rows are {what} of other {split} rows.")
    drop = (found.across | within) & (policy == "drop")
    if policy == "refuse" and found.across.any():
        row = int(found.across.argmax())
        raise HonneError(
            f"{found.across.sum()} rows are {what} of rows in another split "
            f"(first: {ids[row]} in {splits[row]}, {ids[found.original[row]]} in {splits[found.original[row]]}).",
            "Pass --copies drop to leave them out of the evaluation splits.",
        )
    for row in np.flatnonzero(drop).tolist():
        original = found.original[row]
        thing = "picture" if pictures else "sample"
        reason = f"exact copy of a {splits[original]} {thing} in {splits[row]}"
        problems.add(Bad(ids[row], reason, ids[original], "rule"))
    people = "subjects" if "subject" in rows else "videos"
    if shared := _shared(rows, people[:-1]):
        sentence = f"{len(shared)} {people} stand in several splits ({', '.join(shared[:3])} ...)."
        if subjects == "refuse":
            raise HonneError(sentence, "Split by subject, or pass --subjects report.")
        notes.append(sentence)
    rows = rows[~drop].reset_index(drop=True)
    notes += [f"Split '{split}' is empty." for split in SPLITS if not (rows["split"] == split).any()]
    return rows
