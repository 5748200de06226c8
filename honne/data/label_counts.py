"""How many labels of each task several data sets have, and how many of them a training epoch shows."""

from __future__ import annotations

from typing import Any

import numpy as np

from honne.batch import NOT_LABELLED
from honne.data.known import TASKS
from honne.data.loading import DataModule


def label_counts(data: DataModule) -> dict[str, Any]:
    """Labelled rows by data set, split and task, and what the first epoch shows.

    Returns:
        `data`: a list of {data, split, rows, and every task}; `epoch`: the same of the rows
        that an epoch shows, a repeated row as often as it is shown; `classes`: expression -> rows shown; `units`:
        action unit -> rows shown that have it.
    """
    known, training = data.training.known, data.training
    lines = []
    for part, (start, prepared) in enumerate(zip(training.starts, data.data, strict=False)):
        splits = prepared.rows["split"].to_numpy()
        for split in ("train", "valid"):
            rows = start + np.flatnonzero(splits == split)
            lines.append({"data": data.data[part].schema.name, "split": split} | _of(data, rows))
    shown = data.order()(0)
    if training.windows is not None:
        shown = training.windows[shown]
        shown = shown[shown >= 0]
    counts: dict[str, Any] = {"data": lines, "epoch": _of(data, shown)}
    if known.expression is not None:
        codes = known.expression[shown]
        numbers = np.bincount(codes[codes != NOT_LABELLED], minlength=len(data.labels.expressions))
        counts["classes"] = dict(zip(data.labels.expressions, numbers.tolist(), strict=True))
    if known.action_units is not None:
        present = np.nansum(known.action_units[shown], 0).astype(int).tolist()
        counts["units"] = {f"au{unit:02d}": n for unit, n in zip(data.labels.action_units, present, strict=True)}
    return counts


def _of(data: DataModule, rows: np.ndarray) -> dict[str, int]:
    return {"rows": len(rows)} | {task: int(data.training.known.labelled(task)[rows].sum()) for task in TASKS}
