"""FER2013: the Kaggle challenge's faces with one label each, as the official CSV or as class folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES, Archive
from honne.errors import HonneError
from honne.faces.align import FER2013_TEMPLATE, Alignment
from honne.labels import EXPRESSION_SETS, LabelSchema

SIDE = 48
CSV_FILES = ("fer2013.csv", "icml_face_data.csv")
SPLITS = {"Training": "train", "PublicTest": "valid", "PrivateTest": "test"}
CODES = EXPRESSION_SETS["fer2013"]

INFO = ReaderInfo(
    name="fer2013",
    summary="FER2013: 35,887 web faces of 48 px, seven expressions",
    expects="fer2013.csv (columns emotion, pixels, Usage), or class folders train/angry ... test/surprise; or a zip.",
    contact="Kaggle, Challenges in Representation Learning: Facial Expression Recognition Challenge",
    licence="Kaggle 2013 challenge: research use only",
    label_files=CSV_FILES,
)


def schema(root: Path) -> LabelSchema:
    """The seven expressions in the order of their codes."""
    return LabelSchema(CODES.expressions)


FRAMING = Alignment(kind="upright", size=SIDE, template=FER2013_TEMPLATE, grey=True)
"""How these crops are framed: what analysis has to do to a photograph to get the like."""


def alignment(root: Path) -> Alignment:
    """The images are face crops already."""
    return FRAMING.as_delivered()


def read(root: Path) -> Iterator[Row | Bad]:
    """Rows of the official CSV, or of class folders (`train/angry/*.jpg`, ...; Kaggle's repacked form has no valid).

    Args:
        root: folder, zip, or the CSV itself.

    Raises:
        HonneError: neither layout is there, or a column is missing.
    """
    root = Path(root)
    archive, name = (Archive(root.parent), root.name) if _is_csv(root) else _find(root)
    yield from _csv_rows(archive, name) if name else _folder_rows(archive)


def _is_csv(path: Path) -> bool:
    return path.suffix == ".csv" and path.is_file()


def _find(root: Path) -> tuple[Archive, str]:
    for name in CSV_FILES:
        try:
            return Archive(root, name), name
        except FileNotFoundError:
            continue
    if not root.exists():
        raise missing(root, INFO.expects, "fer2013")
    return Archive(root), ""


@dataclass
class Face:
    """One row of the official CSV.

    Attributes:
        where: file and line.
        usage: Training, PublicTest or PrivateTest.
        emotion: the code as written; "" where the file has none.
        pixels: (48, 48) uint8.
    """

    where: str
    usage: str
    emotion: str
    pixels: np.ndarray


def pixel_rows(archive: Archive, name: str) -> Iterator[Face | Bad]:
    """Rows of `fer2013.csv`, one by one."""
    for number, row in enumerate(archive.table(name, ("pixels", "Usage"))):
        where = f"{archive.path(name)}, line {number + 2}"
        try:
            pixels = np.array(row["pixels"].split(), np.uint8).reshape(SIDE, SIDE)
        except (AttributeError, ValueError, OverflowError):
            yield Bad(where, f"pixels are not {SIDE * SIDE} numbers of 0..255")
        else:
            yield Face(where, row["Usage"], row.get("emotion") or "", pixels)


def _csv_rows(archive: Archive, name: str) -> Iterator[Row | Bad]:
    for number, face in enumerate(pixel_rows(archive, name)):
        if isinstance(face, Bad):
            yield face
        elif face.usage not in SPLITS:
            yield Bad(face.where, "unknown Usage", f"'{face.usage}' is not one of {', '.join(SPLITS)}", "label")
        else:
            yield _row(f"{number:05d}", face.pixels, SPLITS[face.usage], face.emotion, face.where)


def _folder_rows(archive: Archive) -> Iterator[Row | Bad]:
    found = False
    for path in archive.images():
        parts = PurePosixPath(path).parts
        split = SPLIT_NAMES.get(parts[-3].lower()) if len(parts) >= 3 else None
        if split:
            found = True
            yield _row("/".join(parts[-3:]), archive.image(path), split, parts[-2], archive.path(path))
    if not found:
        raise missing(archive.root, INFO.expects, "fer2013")


def _row(name: str, image: Path | bytes | np.ndarray, split: str, label: str, where: str) -> Row | Bad:
    try:
        return Row(name, image, split, expression=CODES.parse(label))
    except HonneError as error:
        return Bad(where, "unknown label", error.what, "label")
