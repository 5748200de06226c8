"""Explained faces on disk: a picture each, and one table and one file of arrays for all.

OUT/NAME_face0.png       the picture of a face
OUT/explanations.csv     a row per face, and per frame without one
OUT/explanations.npz     the arrays, in the order of the rows
OUT/explanations.json    the rows with their regions, and how they were made; written last
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import honne
from honne.analysis.table import OUTPUTS_ARE
from honne.analysis.writers import writing
from honne.data.manifest import replacing
from honne.errors import HonneError
from honne.explain.agreement import unit_text
from honne.explain.explainer import Explainer, Explanation
from honne.explain.pictures import panel
from honne.models import CHUNK

TABLE, ARRAYS, NOTE = "explanations.csv", "explanations.npz", "explanations.json"
COLUMNS = [
    *("source", "frame", "time", "face", "status", "message", "picture", "expression", "p", "predicted", "map"),
    *("cosine", "attention_cosine", "blob", "others", "au", "au_share", "au_lift", "places", "au_of_attention"),
]
COMPRESSION = 2  # of PNG: three times as fast as the usual 6 for files a tenth larger

Row = dict[str, Any]


@dataclass
class Where:
    """What a row says of the face before it is explained, as in the analysis table."""

    source: str
    frame: int
    time: float
    face: int | None = None
    status: str = "ok"
    message: str | None = None


@dataclass
class _Waiting:
    """Faces that have not been explained yet, and the places of their rows."""

    rows: list[int] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)
    landmarks: list[np.ndarray] = field(default_factory=list)
    expressions: list[str | None] = field(default_factory=list)
    names: list[str] = field(default_factory=list)


class Gallery:
    """Explains faces as they come and writes their pictures; `close` writes the rest.

    Args:
        folder: of the results; what an earlier gallery left there is removed.
        explainer: explains.

    Raises:
        HonneError: the folder cannot be written.
    """

    def __init__(self, folder: Path, explainer: Explainer) -> None:
        self.folder, self.explainer = folder, explainer
        self.explained: list[Explanation | None] = []
        self._where: list[Where] = []
        self._pictures: list[str | None] = []
        self._landmarks: list[np.ndarray | None] = []
        self._waiting = _Waiting()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            clear(folder)

    def skip(self, where: Where) -> None:
        """A frame without a face."""
        self._where.append(where)
        self.explained.append(None)
        self._pictures.append(None)
        self._landmarks.append(None)

    def add(
        self, where: Where, crop: np.ndarray, landmarks: np.ndarray, name: str = "", expression: str | None = None
    ) -> None:
        """A face.

        Args:
            where: it was found.
            crop: (S, S, 3) uint8.
            landmarks: (68, 2) px of the crop, NaN where unknown.
            name: of its picture, without suffix; empty for no picture.
            expression: to explain; None for the predicted one. The same for all faces, or for none.
        """
        waiting = self._waiting
        waiting.rows.append(len(self._where))
        waiting.crops.append(crop)
        waiting.landmarks.append(landmarks)
        waiting.expressions.append(expression)
        waiting.names.append(name)
        self.skip(where)
        self._landmarks[-1] = landmarks
        if len(waiting.rows) == CHUNK:
            self._explain()

    def _explain(self) -> None:
        waiting, self._waiting = self._waiting, _Waiting()
        if not waiting.rows:
            return
        wanted = [name for name in waiting.expressions if name is not None] or None
        explained = self.explainer(np.stack(waiting.crops), np.stack(waiting.landmarks), wanted)
        for row, crop, name, each in zip(waiting.rows, waiting.crops, waiting.names, explained, strict=True):
            self.explained[row] = each
            if name:
                self._pictures[row] = f"{name}.png"
                self._draw(row, crop, each)

    def _draw(self, row: int, crop: np.ndarray, explained: Explanation) -> None:
        where = self._where[row]
        time = f"{where.time:.2f} s" if where.time else ""
        said = " · ".join(filter(None, [Path(where.source).name, time, f"face {where.face}"]))
        target = self.folder / str(self._pictures[row])
        with writing(target), replacing(target) as path:
            panel(crop, explained, self.explainer, said).save(path, "PNG", compress_level=COMPRESSION)

    def close(self, settings: dict[str, Any]) -> pd.DataFrame:
        """Explain what waits, and write the table, the arrays and the note.

        Args:
            settings: beside those of the explainer, for the note.

        Returns:
            The table.
        """
        self._explain()
        every = zip(self._where, self._pictures, self.explained, strict=True)
        bare = [_row(where, picture, explained, self.explainer.kind) for where, picture, explained in every]
        cells = [_in_cells(row, explained) for row, explained in zip(bare, self.explained, strict=True)]
        rows = [_in_full(row, explained) for row, explained in zip(bare, self.explained, strict=True)]
        table = pd.DataFrame(cells, columns=COLUMNS).astype({"face": "Int64"})
        with writing(self.folder):
            with replacing(self.folder / TABLE) as path:
                table.to_csv(path, index=False)
            with replacing(self.folder / ARRAYS) as path, path.open("wb") as file:
                np.savez_compressed(file, **self._arrays())
            with replacing(self.folder / NOTE) as path:
                path.write_text(json.dumps(self._note(settings, rows), indent=1, ensure_ascii=False) + "\n", "utf-8")
        return table

    def _arrays(self) -> dict[str, Any]:
        each = {
            name: _stacked([None if one is None else getattr(one, name) for one in self.explained])
            for name in ("map", "attention", "cue")
        }
        return each | {"landmarks": _stacked(self._landmarks)}

    def _note(self, settings: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
        model = self.explainer.model
        return {
            "outputs are": OUTPUTS_ARE,
            "honne": honne.__version__,
            "model": {"name": model.name, "sha256": model.sha256},
            "settings": self.explainer.settings() | settings,
            "faces": rows,
        }


def clear(folder: Path) -> None:
    """Remove what a gallery left in a folder, and nothing else."""
    for name in [row.get("picture") for row in read_note(folder).get("faces", [])]:
        if name:
            (folder / Path(name).name).unlink(missing_ok=True)
    for name in (NOTE, TABLE, ARRAYS):
        (folder / name).unlink(missing_ok=True)


def read_note(folder: Path) -> dict[str, Any]:
    """What `explanations.json` in a folder says; empty if there is none."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def require_free(folder: Path) -> None:
    """Raise `HonneError` if explanations are where others would go."""
    if (folder / NOTE).exists():
        raise HonneError(
            f"{folder / NOTE}: explanations are there already.",
            "Choose another --out, or pass --overwrite to replace them.",
        )


def _row(where: Where, picture: str | None, explained: Explanation | None, kind: str) -> Row:
    row = asdict(where) | {"picture": picture}
    if explained is None:
        return row
    figures = {name: getattr(explained, name) for name in ("cosine", "attention_cosine", "blob", "others")}
    return (
        row
        | {"expression": explained.expression, "p": round(explained.probability, 4), "predicted": explained.predicted}
        | {"map": kind}
        | {name: round(value, 4) if math.isfinite(value) else None for name, value in figures.items()}
    )


def _in_full(row: Row, explained: Explanation | None) -> Row:
    """A row for the note: with everything about its regions."""
    if explained is None:
        return row
    kinds = {"regions": explained.regions, "attention_regions": explained.attention_regions}
    return row | {name: [asdict(region) for region in regions] for name, regions in kinds.items()}


def _in_cells(row: Row, explained: Explanation | None) -> Row:
    """A row for the table: its regions as texts."""
    if explained is None:
        return row
    return row | {
        "au": unit_text(explained.regions),
        "au_share": " ".join(f"{region.share:.2f}" for region in explained.regions),
        "au_lift": " ".join(f"{region.lift:.1f}" for region in explained.regions),
        "places": ", ".join(region.place for region in explained.regions),
        "au_of_attention": unit_text(explained.attention_regions),
    }


def _stacked(arrays: list[np.ndarray | None]) -> np.ndarray:
    """(rows, ...) float32; NaN in rows without an array."""
    known = next((each for each in arrays if each is not None), None)
    if known is None:
        return np.empty((len(arrays), 0), np.float32)
    blank = np.full_like(known, np.nan, np.float32)
    return np.stack([blank if each is None else each for each in arrays]).astype(np.float32)
