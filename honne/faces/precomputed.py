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

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from honne.errors import HonneError
from honne.faces.face import Face
from honne.faces.mesh import five_points

_log = logging.getLogger(__name__)

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
    _rows: pd.DataFrame = field(init=False, repr=False)
    _faces: dict[tuple[str, int], list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        table = _read(Path(self.path))
        self._rows = _faces_of(table, self.path)
        self._rows = self._rows[~(self._rows["score"] < self.min_score)]
        self._faces = defaultdict(list)
        for row, (source, frame) in enumerate(zip(self._rows["source"], self._rows["frame"], strict=True)):
            self._faces[source, frame].append(row)
        self._sources = set(self._rows["source"]) | set(_sources(table, self.path))

    def find(self, image: np.ndarray) -> list[Face]:
        """Raises HonneError: an image alone does not say which rows are its own."""
        raise HonneError(
            f"{self.path}: a table of faces can only be used on named files.",
            "Analyse files, or choose another finder.",
        )

    def find_in(self, source: str, index: int, image: np.ndarray) -> list[Face]:
        """Faces that the table has for frame `index` of `source`, largest first.

        Raises:
            HonneError: the table says nothing about this source.
        """
        path = Path(source)
        name = next((name for name in (source, path.name, path.stem) if name in self._sources), None)
        if name is None:
            raise HonneError(
                f"{self.path}: the table says nothing about {source}.",
                "Name the medium in a column 'source', or give the table the medium's name.",
            )
        faces = [_face(self._rows.iloc[row]) for row in self._faces.get((name, index), [])]
        return sorted(faces, key=lambda face: -face.box[2] * face.box[3])[: self.max_faces]


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


def _faces_of(table: pd.DataFrame, path: str) -> pd.DataFrame:
    """One row per face with `source`, `frame`, `score`, `box` (4,) or NaN, `landmarks` (68, 2) or NaN."""
    pyfeat, landmarks = set(PYFEAT_BOX) <= set(table), set(LANDMARKS) <= set(table)
    openface = landmarks and not pyfeat and bool({"confidence", "success"} & set(table))
    boxes = PYFEAT_BOX if pyfeat else BOX if set(BOX) <= set(table) else []
    if not boxes and not landmarks:
        raise HonneError(
            f"{path}: the table has neither boxes nor landmarks.",
            f"It needs the columns {', '.join(BOX)}, or x_0 to x_67 and y_0 to y_67.",
        )
    score = next((name for name in ("FaceScore", "confidence", "face_score", "score") if name in table), None)
    counted = [name for name in ("frame", "success") if name in table]
    numbers = _numbers(table, [*boxes, *(LANDMARKS if landmarks else []), *counted, *([score] if score else [])], path)
    frame = numbers["frame"] if "frame" in numbers else pd.Series(0, index=table.index)
    kept = frame.notna() & (numbers["success"] != 0 if "success" in numbers else True)
    needed = numbers[boxes or LANDMARKS]
    kept &= needed.notna().all(axis=1)
    faces = pd.DataFrame(
        {
            "source": _sources(table, path),
            "frame": frame.where(kept, 0).astype(int) - int(openface and "frame" in numbers),
            "score": numbers[score].fillna(1.0) if score else 1.0,
        }
    )
    faces["box"] = list(numbers[boxes].to_numpy(float)) if boxes else None
    faces["landmarks"] = list(numbers[LANDMARKS].to_numpy(float).reshape(-1, 68, 2)) if landmarks else None
    return faces[kept.to_numpy()].reset_index(drop=True)


def _sources(table: pd.DataFrame, path: str) -> list[str]:
    """What medium each row is about: as written, without the folder, or the table's own name."""
    column = next((name for name in ("source", "input") if name in table), None)
    if column is None:
        return [Path(path).stem] * len(table)
    return [Path(str(name)).name for name in table[column]]


def _numbers(table: pd.DataFrame, columns: list[str], path: str) -> pd.DataFrame:
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    wrong = numbers.isna() & table[columns].notna()
    if wrong.to_numpy().any():
        row, place = np.argwhere(wrong.to_numpy())[0]
        value = table[columns].iat[row, place]
        raise HonneError(
            f"{path}, row {row + 2}, column {columns[place]}: '{value}' is not a number.", "Correct the table."
        )
    return numbers


def _face(row: pd.Series) -> Face:
    box, landmarks = row["box"], row["landmarks"]
    known = landmarks is not None and bool(np.isfinite(landmarks).all())
    if box is None:
        low, high = landmarks.min(0), landmarks.max(0)
        low = low - (0, FOREHEAD * (high - low)[1])
        box = np.concatenate([low, high - low])
    points = five_points(landmarks) if known else box[:2] + BOX_POINTS * box[2:]
    return Face(box=box, score=float(row["score"]), landmarks=landmarks if known else None, points=points)
