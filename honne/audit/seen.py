"""The labels of a data set as a model saw them: not the manifest's where its run made labels wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from honne.data.manifest import PreparedData
from honne.errors import HonneError
from honne.models import Model

FLIPS = "label_noise.csv"
"""Beside RUN/model: the labels that `honne train --data.label_noise` made wrong (data, id, from, to)."""


@dataclass(frozen=True)
class Seen:
    """A data set as a model saw it.

    Attributes:
        data: the data set, its rows with the labels that were trained on.
        prepared: the data set as it was prepared; `None` if the run changed none of its labels.
        notes: what was done, one sentence each.
    """

    data: PreparedData
    prepared: PreparedData | None
    notes: tuple[str, ...] = ()


def as_seen(data: PreparedData, model: Model) -> Seen:
    """Apply the label noise that the model's run made, if any.

    Raises:
        HonneError: the list of wrong labels cannot be read.
    """
    path = model.folder.parent / FLIPS if model.folder else None
    if path is None or not path.is_file() or "expression" not in data.rows:
        return Seen(data, None)
    flips = _read(path)
    if "data" in flips:
        flips = flips[flips["data"] == data.schema.name]
    place = pd.Series(np.arange(len(data)), index=data.rows["id"].to_numpy())
    flips = flips[flips["id"].isin(place.index)]
    if not len(flips):
        return Seen(data, None, (f"{FLIPS} beside the model names no row of these data, labelled as prepared.",))
    at = place[flips["id"]].to_numpy()
    labels = data.rows["expression"].to_numpy(object, copy=True)
    if list(labels[at]) != list(flips["from"]):
        note = f"{FLIPS} beside the model was made from other labels than these; they are taken as prepared."
        return Seen(data, None, (note,))
    labels[at] = flips["to"]
    opened = PreparedData(data.root)
    opened.rows = data.rows.assign(expression=labels)
    note = f"Labels are those that the model learned: its run made {len(at):,} of them wrong on purpose ({FLIPS})."
    return Seen(opened, data, (note,))


def _read(path: Path) -> pd.DataFrame:
    try:
        flips = pd.read_csv(path, dtype=str)
    except (ValueError, UnicodeDecodeError) as error:  # pandas' own errors are ValueErrors
        raise HonneError(f"{path}: cannot be read ({error}).", _MEND) from None
    if missing := [name for name in ("id", "from", "to") if name not in flips]:
        raise HonneError(f"{path}: has no column '{missing[0]}'.", _MEND)
    return flips


_MEND = "It is written by `honne train --data.label_noise`; copy it again from the run, or move it away."
