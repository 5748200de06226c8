"""Everything but pixels and features that is known of the rows of prepared data sets, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from honne.batch import NOT_LABELLED
from honne.data.manifest import PreparedData
from honne.errors import HonneError

Learns = Literal["labels", "expression", "subject"]
"""What makes a row worth learning from."""


@dataclass
class Known:
    """What is known of N rows, NaN or `NOT_LABELLED` where not; `None` if of no row.

    Attributes:
        count: N.
        expression: (N,) class index.
        distribution: (N, C) target distributions.
        action_units: (N, A).
        au_intensity: (N, A).
        valence_arousal: (N, 2).
        landmarks: (N, 68, 2) px of the stored image.
        domain: (N,) index into `domains`.
        domains: names of the strata.
        subject: (N,) index into `subjects`.
        subjects: names of the people.
    """

    count: int
    expression: np.ndarray | None
    distribution: np.ndarray | None
    action_units: np.ndarray | None
    au_intensity: np.ndarray | None
    valence_arousal: np.ndarray | None
    landmarks: np.ndarray | None
    domain: np.ndarray | None
    domains: tuple[str, ...] = ()
    subject: np.ndarray | None = None
    subjects: tuple[str, ...] = ()

    def usable(self, learns: Learns = "labels") -> np.ndarray:
        """(N,) whether a row has any label, or an expression, or names its subject, as `learns` says."""
        codes = self.subject if learns == "subject" else self.expression
        some = np.zeros(self.count, bool) if codes is None else codes != NOT_LABELLED
        if learns != "labels":
            return some
        for values in (self.distribution, self.action_units, self.au_intensity, self.valence_arousal):
            if values is not None:
                some = some | ~np.isnan(values).all(1)
        return some


def known(data: Sequence[PreparedData], distributions: Literal["none", "target", "votes"] = "none") -> Known:
    """Labels, landmarks and strata of all rows of all data sets, one set after the other.

    Args:
        data: data sets of one label schema.
        distributions: which to read: none; what is to be learned (column `target` where a data set has it, else votes
            over their sum); or the votes over their sum, to measure against (`target` where there are none).

    Raises:
        HonneError: an expression that the schema does not have.
    """
    found = [part.rows["domain"].dropna().unique() for part in data if "domain" in part.rows]
    domains = tuple(sorted({str(name) for names in found for name in names}))
    subject, subjects = _subjects(data)
    valence, arousal, points = (_column(data, name) for name in ("valence", "arousal", "landmarks"))
    return Known(
        count=sum(map(len, data)),
        expression=_codes(data, "expression", data[0].schema.labels.expressions),
        distribution=_join(data, [_distribution(part, distributions == "votes") for part in data])
        if distributions != "none"
        else None,
        action_units=_column(data, "au"),
        au_intensity=_column(data, "au_intensity"),
        valence_arousal=None if valence is None or arousal is None else np.stack([valence, arousal], 1),
        landmarks=None if points is None else points.reshape(len(points), -1, 2),
        domain=_codes(data, "domain", domains),
        domains=domains,
        subject=subject,
        subjects=subjects,
    )


def _column(data: Sequence[PreparedData], name: str) -> np.ndarray | None:
    return _join(data, [part.stack(name) for part in data])


def _join(data: Sequence[PreparedData], parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    """One array; NaN for data sets that lack the column, `None` if all do."""
    present = [part for part in parts if part is not None and part.size]
    if not present:
        return None
    blank = [np.full((len(each), *present[0].shape[1:]), np.nan, np.float32) for each in data]
    return np.concatenate([b if p is None or not p.size else p for p, b in zip(parts, blank, strict=True)])


def _codes(data: Sequence[PreparedData], column: str, names: Sequence[str]) -> np.ndarray | None:
    """(N,) index into `names`, `NOT_LABELLED` for null."""
    if not any(column in part.rows for part in data):
        return None
    place = {name: i for i, name in enumerate(names)}
    codes = []
    for part in data:
        values = part.rows[column].tolist() if column in part.rows else [None] * len(part)
        for row, value in enumerate(values):
            if isinstance(value, str) and value not in place:
                raise HonneError(
                    f"{part.root}: manifest row {row}: {column} '{value}' is not one of {', '.join(names)}.",
                    "Prepare the data set again.",
                )
        codes.append(np.array([place.get(str(value), NOT_LABELLED) for value in values], np.int64))
    return np.concatenate(codes)


def _subjects(data: Sequence[PreparedData]) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """(N,) index into the names, `NOT_LABELLED` for null; people of two data sets are two, whatever they are called."""
    if not any("subject" in part.rows for part in data):
        return None, ()
    names = [part.rows["subject"] if "subject" in part.rows else pd.Series([None] * len(part)) for part in data]
    if len(data) > 1:
        names = [each.map(f"{number}/{{}}".format, na_action="ignore") for number, each in enumerate(names)]
    codes, found = pd.factorize(pd.concat(names), sort=True)  # -1 for null
    return codes.astype(np.int64), tuple(map(str, found))


def _distribution(data: PreparedData, prefer_votes: bool) -> np.ndarray | None:
    target, votes = data.stack("target"), data.stack("votes")
    if votes is None or (target is not None and not prefer_votes):
        return target
    total = votes.sum(1, keepdims=True)
    return np.divide(votes, total, out=np.full_like(votes, np.nan), where=total > 0)
