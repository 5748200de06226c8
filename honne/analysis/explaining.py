"""Explanations of the faces of an analysis: a second pass over what was read, while its rows are at hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from honne.analysis.pipeline import Seen, Watcher
from honne.analysis.table import POSITION, Explained
from honne.data.cropping import overlap
from honne.explain.agreement import unit_text
from honne.explain.explainer import Explainer
from honne.explain.gallery import Gallery, Where
from honne.faces.media import Frame
from honne.models import Model

MOST_PICTURES = 500
"""Of an input; more faces than this are all explained, but only every second, third ... of them is drawn."""
SAME_FACE = 0.5  # least overlap of a face's box with that of its row
NEEDED = [POSITION, "time", "face", "status", "message", "expression", *(f"box_{side}" for side in "xywh")]

Row = dict[str, Any]


class Explaining:
    """Explains with one model and one kind of face finder; made once for all inputs.

    Args:
        model: of the analysis.
        finder: of the analysis, name for `honne.faces.finders.finder`.
        pictures: whether faces are `drawn`, or `figures` are enough.

    Raises:
        HonneError: the model cannot be explained.

    Use as a context manager, as `Watcher`.
    """

    def __init__(self, model: Model, finder: str, pictures: Literal["drawn", "figures"] = "drawn") -> None:
        self.explainer = Explainer(model)
        self.pictures = pictures
        self._watcher = Watcher(model.alignment, finder)

    def __enter__(self) -> Explaining:
        return self

    def __exit__(self, *_: object) -> None:
        self._watcher.__exit__()

    def run(
        self,
        frames: Iterator[tuple[str, Frame]],
        parts: Iterable[pa.Table],
        folder: Path,
        settings: dict[str, Any],
        every: Literal["frame", "second"],
    ) -> Explained:
        """Explain the faces of one input.

        Args:
            frames: all that were analysed, in order.
            parts: their finished rows.
            folder: for the explanations.
            settings: of the analysis.
            every: frame, or the first analysed one of every second of media time.

        Returns:
            Position and face -> action units of its map, and cosine with the codebook's; None and NaN where there is
            none.
        """
        chosen = _chosen(parts, every)
        if not chosen:
            return {}
        step = math.ceil(sum(map(len, chosen.values())) / MOST_PICTURES)
        picked = (each for position, each in enumerate(frames) if position in chosen)
        gallery = Gallery(folder, self.explainer)
        keys: list[tuple[int, int]] = []
        for position, seen in zip(chosen, self._watcher.watch(picked), strict=False):
            shot = position if every == "frame" else seen.frame
            for row, number in _matched(chosen[position], seen):
                name = f"{Path(seen.source.replace(':', '_')).stem}_{shot:06d}_face{row['face']}"
                drawn = self.pictures == "drawn" and len(keys) % step == 0
                where = Where(seen.source, seen.frame, seen.time, row["face"], row["status"], row["message"])
                points = seen.landmarks(number, self._watcher.alignment)
                gallery.add(where, seen.crops[number], points, name if drawn else "", row["expression"])
                keys.append((position, row["face"]))
        gallery.close(settings)
        figures = [(unit_text(each.regions) or None, each.cosine) for each in gallery.explained if each is not None]
        return dict(zip(keys, figures, strict=True))


def _chosen(parts: Iterable[pa.Table], every: Literal["frame", "second"]) -> dict[int, list[Row]]:
    """Position -> rows of its faces, for the frames that are explained."""
    chosen: dict[int, list[Row]] = {}
    second = -1
    rows = (row for part in parts for row in part.select(NEEDED).to_pylist() if row["face"] is not None)
    for position, group in groupby(rows, key=lambda row: row[POSITION]):
        found = list(group)
        now = int(found[0]["time"])
        if every == "frame" or now > second:
            chosen[position], second = found, now
    return chosen


def _matched(rows: list[Row], seen: Seen) -> Iterator[tuple[Row, int]]:
    """Rows of a frame with the numbers of their faces, found again; finders find the same in the same picture."""
    for row in rows:
        box = np.array([row[f"box_{side}"] for side in "xywh"])
        number = max(range(len(seen.faces)), key=lambda n: overlap(seen.faces[n].box, box), default=None)
        if number is not None and overlap(seen.faces[number].box, box) >= SAME_FACE:
            yield row, number
