"""Faces found before: a table of boxes or landmarks, among them the CSV files of OpenFace and Py-Feat.

Columns, by the first of these forms that fits:

- OpenFace: `x_0`..`x_67`, `y_0`..`y_67`, `confidence` or `success`; `frame` counts from 1.
- Py-Feat: `FaceRectX`, `FaceRectY`, `FaceRectWidth`, `FaceRectHeight`, `FaceScore`; landmarks `x_0`.. if there are any;
  `frame` from 0; `input` names the medium.
- general, which honne's own analysis table is too: `box_x`, `box_y`, `box_w`, `box_h` or landmarks `x_0`.. `y_67` or
  both; `face_score`, `frame` (from 0) and `source` may be missing.

All px. Rows belong to the medium named in `source` (or `input`): its path or file name. A table without such a column
belongs to the medium of its own name: `clip.csv` to `clip.mp4`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from honne.errors import HonneError
from honne.faces.face import Face
from honne.faces.mesh import five_points

LANDMARKS = [f"{axis}_{number}" for number in range(68) for axis in "xy"]
PYFEAT_BOX = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"]
BOX = ["box_x", "box_y", "box_w", "box_h"]
BOX_POINTS = np.array([[0.27, 0.316], [0.73, 0.316], [0.5, 0.588], [0.322, 0.753], [0.678, 0.753]])
"""Where the five points lie in a face box, for rows with a box only: medians over 1,921 FER2013 pictures."""
FOREHEAD = 0.163
"""A box around 68 landmarks starts at the brows; this part of its height is missing above (same measurement)."""


@dataclass
class TableFinder:
    """Looks faces up instead of finding them.

    Args:
        path: CSV (commas, UTF-8) or Parquet file.
        max_faces: keep this many, largest first.
        min_score: leave out rows with a lower score.

    Raises:
        HonneError: the file cannot be read as a table, lacks columns, or has something else than numbers in them.
    """

    path: str
    max_faces: int = 50
    min_score: float = 0.0
    _rows: _Rows = field(init=False, repr=False)
    _places: dict[tuple[str, int], list[int]] = field(init=False, repr=False)
    _names: dict[str, set[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = _read(Path(self.path))
        self._rows = _rows(table, self.path)
        self._places, self._names = defaultdict(list), defaultdict(set)
        for row in np.flatnonzero(self._rows.valid & ~(self._rows.score < self.min_score)).tolist():
            self._places[self._rows.source[row], int(self._rows.frame[row])].append(row)
        for source in dict.fromkeys(self._rows.source):
            self._names[Path(source).name].add(source)

    def find(self, image: np.ndarray) -> list[Face]:
        """Raises HonneError: an image alone does not say which rows are its own."""
        raise HonneError(
            f"{self.path}: a table of faces can only be used on named files.",
            "Analyse files, or choose another finder.",
        )

    def find_in(self, source: str, index: int, image: np.ndarray) -> list[Face]:
        """Faces that the table has for frame `index` of `source`, largest first.

        Raises:
            HonneError: the table says nothing about this source, or names several files like it.
        """
        faces = [self._rows.face(row) for row in self._places.get((self._written(source), index), [])]
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])[: self.max_faces]

    def _written(self, source: str) -> str:
        """How the table writes this source."""
        path = Path(source)
        if source in self._names[path.name]:
            return source
        written = self._names[path.name] or self._names[path.stem]
        if len(written) == 1:
            return next(iter(written))
        raise HonneError(
            f"{self.path}: the table {'has several files like' if written else 'says nothing about'} {source}.",
            "Write its path in a column 'source', or give the table the medium's name.",
        )


@dataclass
class _Rows:
    """A table's columns, one entry per row; landmarks may be missing altogether."""

    source: list[str]
    frame: np.ndarray
    score: np.ndarray
    valid: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray | None

    def face(self, row: int) -> Face:
        landmarks = None if self.landmarks is None else self.landmarks[row]
        if landmarks is not None and not np.isfinite(landmarks).all():
            landmarks = None
        box = self.boxes[row]
        points = box[:2] + BOX_POINTS * box[2:] if landmarks is None else five_points(landmarks)
        return Face(box=box, score=float(self.score[row]), landmarks=landmarks, points=points)


def _read(path: Path) -> pd.DataFrame:
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, skipinitialspace=True, low_memory=False)
    except UnicodeDecodeError:
        raise HonneError(f"{path}: this table is not in UTF-8.", "Save it again as UTF-8.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pa.ArrowInvalid, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise HonneError(f"{path}: this cannot be read as a table ({reason}).", "Name a CSV or Parquet file.") from None
    return table.rename(columns=lambda name: str(name).strip())


def _rows(table: pd.DataFrame, path: str) -> _Rows:
    pyfeat, landmarks = set(PYFEAT_BOX) <= set(table), set(LANDMARKS) <= set(table)
    openface = landmarks and not pyfeat and bool({"confidence", "success"} & set(table))
    boxes = PYFEAT_BOX if pyfeat else BOX if set(BOX) <= set(table) else []
    if not boxes and not landmarks:
        raise HonneError(
            f"{path}: the table has neither boxes nor landmarks.",
            f"It needs the columns {', '.join(BOX)}, or x_0 to x_67 and y_0 to y_67.",
        )
    score = _first(table, "FaceScore", "confidence", "face_score", "score")
    others = [name for name in ("frame", "success", score) if name is not None and name in table]
    numbers = _numbers(table, [*boxes, *(LANDMARKS if landmarks else []), *others], path)
    shapes = numbers[LANDMARKS].to_numpy(float).reshape(-1, 68, 2) if landmarks else None
    frame = numbers["frame"] - int(openface) if "frame" in numbers else pd.Series(0, index=table.index)
    valid = frame.notna() & numbers[boxes or LANDMARKS].notna().all(axis=1)
    if "success" in numbers:
        valid &= numbers["success"] != 0
    source = _first(table, "source", "input")
    return _Rows(
        source=[str(name) for name in table[source]] if source else [Path(path).stem] * len(table),
        frame=frame.fillna(-1).to_numpy(int),
        score=numbers[score].fillna(1.0).to_numpy(float) if score else np.ones(len(table)),
        valid=valid.to_numpy(bool),
        boxes=_around(shapes) if shapes is not None and not boxes else numbers[boxes].to_numpy(float),
        landmarks=shapes,
    )


def _around(landmarks: np.ndarray) -> np.ndarray:
    """(N, 4) face boxes of (N, 68, 2) landmarks."""
    low, extent = landmarks.min(1), np.ptp(landmarks, axis=1)
    forehead = FOREHEAD * extent[:, 1] * np.array([[0.0], [1.0]])
    return np.concatenate([low - forehead.T, extent + forehead.T], axis=1)


def _first(table: pd.DataFrame, *names: str) -> str | None:
    return next((name for name in names if name in table), None)


def _numbers(table: pd.DataFrame, columns: list[str], path: str) -> pd.DataFrame:
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    wrong = numbers.isna() & table[columns].notna()
    if wrong.to_numpy().any():
        row, place = np.argwhere(wrong.to_numpy())[0]
        value = str(table[columns].iat[row, place])
        raise HonneError(
            f"{path}, row {row + 2}, column {columns[place]}: '{value}' is not a number.", "Correct the table."
        )
    return numbers
