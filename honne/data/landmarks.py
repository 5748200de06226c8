"""Landmarks of stored crops: found by the mesh, read from files, written to files.

A landmark file has one line a picture, `path,x1,...,x68,y1,...,y68`: px of the stored picture, x to the right, `inf`
everywhere where no face was found. It is the form in which the landmarks of the AU-cue work are handed out (Belharbi et
al., FG 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from honne.data.cropping import overlap
from honne.data.manifest import PreparedData, replacing
from honne.errors import HonneError
from honne.faces.face import FaceFinder

ENLARGED = 192
"""px; smaller crops are enlarged to this side for the mesh."""
MARGIN = 0.25
"""Share of the side that is added in black all around, because the finder wants to see where a face ends.

Measured on 500 FER2013 pictures (48 px) drawn at random: a mesh is found in 99.0 %, without margin in 98.2 %, with 0.15
in 98.4 %, with 0.35 in 99.0 %."""
FAILED = "inf"
FIELDS = 1 + 2 * 68


class MeshLandmarks:
    """Landmarks of crops that are known to show a face. Cheap to make and to pickle; the finder starts on first use."""

    def __init__(self) -> None:
        self._finder: FaceFinder | None = None

    def __call__(self, crop: np.ndarray) -> np.ndarray | None:
        """(68, 2) float32 px of a crop (H, W, 3) uint8; None if no face is found.

        Of several faces it takes the one that fills the crop best.
        """
        if self._finder is None:
            from honne.faces.finders import finder  # optional extras

            self._finder = finder("mediapipe", min_score=0.0)
        height, width = crop.shape[:2]
        scale = max(ENLARGED / max(height, width), 1.0)
        size = round(width * scale), round(height * scale)
        margin = round(MARGIN * max(size))
        canvas = Image.new("RGB", (size[0] + 2 * margin, size[1] + 2 * margin))
        canvas.paste(Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC), (margin, margin))
        whole = np.array([margin, margin, *size], float)
        faces = self._finder.find(np.asarray(canvas))
        best = max(faces, key=lambda face: overlap(face.box, whole), default=None)
        if best is None or best.landmarks is None:
            return None
        return ((best.landmarks - margin) * (width, height) / size).astype(np.float32)


class LandmarkFile:
    """Landmarks by picture: a `landmarks.txt`, or a table with the columns `x_0`.. `y_67` and `source`.

    A picture belongs to a path that ends as its own name does, or the other way round, folder by folder; the file's
    ending, and `_aligned` before it, do not count.

    Args:
        path: `*.txt`: one line a picture, as above. `*.csv`, `*.parquet`: as `honne.faces.precomputed` describes.

    Raises:
        HonneError: there is no such file, or a line is not a path and 136 numbers.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise HonneError(f"{path}: no such file of landmarks.", "Name a landmarks.txt, or pass mesh or none.")
        self.path = path
        self._of = _table(path) if path.suffix.lower() in (".csv", ".parquet", ".pq") else _text(path)

    def __call__(self, *names: str) -> np.ndarray | None:
        """(68, 2) float32 px of the picture with the first of these names that is known, or None."""
        found = (self._of(name) for name in names if name)
        return next((landmarks for landmarks in found if landmarks is not None), None)


def read_landmarks(lines: Iterator[str], where: str) -> Iterator[tuple[str, np.ndarray | None]]:
    """Path and (68, 2) float32 px of every line of a landmark file; None where no face was found.

    Raises:
        HonneError: a line is not a path and 136 numbers, naming file and line.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, *cells = line.strip().split(",")
        if len(cells) + 1 != FIELDS:
            raise HonneError(
                f"{where}, line {number}: {len(cells) + 1} fields, not {FIELDS}.",
                "A line is path,x1,...,x68,y1,...,y68.",
            )
        try:
            values = np.array(cells, np.float32)
        except ValueError:
            raise HonneError(f"{where}, line {number}: not a path and 136 numbers.", "Mend the line.") from None
        yield name, values.reshape(2, 68).T if np.isfinite(values).all() else None


def write_landmarks(data: PreparedData, path: Path) -> int:
    """Write the landmarks of a prepared data set as a landmark file, for others who have its pictures.

    Args:
        data: the data set; its ids become the paths.
        path: file to write.

    Returns:
        Rows with landmarks.

    Raises:
        HonneError: the data set has no landmarks.
    """
    landmarks = data.stack("landmarks")
    if landmarks is None:
        raise HonneError(f"{data.root}: no landmarks.", "Prepare it with --landmarks mesh.")
    known = np.isfinite(landmarks).all(1)
    with replacing(path) as aside, aside.open("w", encoding="utf-8") as file:
        for name, points, there in zip(data.rows["id"], landmarks.reshape(-1, 68, 2), known, strict=True):
            cells = [f"{value:.3f}" for value in points.T.ravel()] if there else [FAILED] * (FIELDS - 1)
            file.write(",".join([name, *cells]) + "\n")
    return int(known.sum())


_Lookup = Callable[[str], "np.ndarray | None"]


def _text(path: Path) -> _Lookup:
    with path.open(encoding="utf-8") as file:
        landmarks = dict(read_landmarks(file, str(path)))
    wholes: dict[str, str] = {}
    ends: dict[str, str | None] = {}
    for name in landmarks:
        mine = _ends(name)
        wholes[mine[0]] = name
        for end in mine:
            ends[end] = None if end in ends else name  # None: of several

    def of(name: str) -> np.ndarray | None:
        if name in landmarks:
            return landmarks[name]
        mine = _ends(name)
        known = ends.get(mine[0]) or next((wholes[end] for end in mine if end in wholes), None)
        return None if known is None else landmarks[known]

    return of


def _ends(name: str) -> list[str]:
    """Ends of a path, longest first, without the file's ending and `_aligned`."""
    path = PurePosixPath(name)
    parts = [*path.parts[:-1], path.name.removesuffix(path.suffix).removesuffix("_aligned")]
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _table(path: Path) -> _Lookup:
    from honne.faces.precomputed import TableFinder

    table, blank = TableFinder(str(path)), np.zeros((1, 1, 3), np.uint8)

    def of(name: str) -> np.ndarray | None:
        try:
            faces = table.find_in(name, 0, blank)
        except HonneError:  # the table does not know the picture
            return None
        return faces[0].landmarks.astype(np.float32) if faces and faces[0].landmarks is not None else None

    return of
