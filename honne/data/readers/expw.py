"""ExpW (Zhang et al., IJCV 2018): faces found on the web, seven expressions, often several in one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from honne.data.readers import Bad, ReaderInfo, Row, Splits, drawn_split, missing
from honne.data.readers.archive import Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import EXPRESSION_SETS, LabelSchema

LABELS = "label/label.lst"
IMAGES = "image"
FIELDS = 8
CODES = EXPRESSION_SETS["expw"]

INFO = ReaderInfo(
    name="expw",
    summary="ExpW: 91,793 faces found on the web, seven expressions",
    expects=f"{LABELS} (image_name face_id top left right bottom confidence label) and {IMAGES}/origin/*.jpg; "
    "or a zip of it.",
    contact="mmlab.ie.cuhk.edu.hk/projects/socialrelation",
    licence="non-commercial research only; pictures are their owners'",
    label_files=(LABELS,),
)


def schema(root: Path) -> LabelSchema:
    """The seven expressions in the order of their codes."""
    return LabelSchema(CODES.expressions)


def alignment(root: Path) -> Alignment:
    """The square around the box of the face, without a margin and without rotation, 112 px."""
    return Alignment("box", 112, margin=1.0)


def notes(root: Path, *, splits: Splits = "drawn") -> list[str]:
    """How many pictures have several faces, and where the splits are from."""
    archive = _open(Path(root))
    faces = Counter(cells[0] for cells in map(_cells, archive.lines(LABELS)) if len(cells) == FIELDS)
    several = sum(count > 1 for count in faces.values())
    drawn = ["Splits are honne's own, by a hash of the image's name: all faces of an image are in one split."]
    return [f"{several:,} of {len(faces):,} images have several labelled faces."] + drawn * (splits == "drawn")


def read(root: Path, *, min_confidence: float | None = None, splits: Splits = "drawn") -> Iterator[Row | Bad]:
    """Rows of `label/label.lst`, one a face, named IMAGE#FACE.

    Args:
        root: folder or zip.
        min_confidence: of the detector that found the face; faces below it are left out. It is no probability: it
            goes beyond 1. Default: all faces.
        splits: `drawn`: by a hash of the image's name, since there are no official ones. `train`: all for training.

    Raises:
        HonneError: the list or the images are missing.
    """
    archive = _open(Path(root))
    images = {PurePosixPath(path).name: path for path in archive.images(IMAGES)}
    if not images:
        raise missing(archive.root, INFO.expects, "expw")
    labelled = set()
    for number, line in enumerate(archive.lines(LABELS), 1):
        if not line.strip():
            continue
        where, cells = f"{archive.path(LABELS)}, line {number}", _cells(line)
        row = _row(where, cells)
        labelled.add(cells[0])
        if isinstance(row, Bad):
            yield row
        elif min_confidence is not None and float(cells[6]) < min_confidence:
            yield Bad(where, f"confidence below {min_confidence:g}", kind="rule")
        elif cells[0] not in images:
            yield Bad(where, "row without image", f"{cells[0]} is missing")
        else:
            row.image = archive.image(images[cells[0]])
            row.split = drawn_split(cells[0]) if splits == "drawn" else "train"
            yield row
    for name in sorted(set(images) - labelled):
        yield Bad(archive.path(images[name]), "image without a label", kind="rule")


def _open(root: Path) -> Archive:
    try:
        return Archive(root, LABELS)
    except FileNotFoundError:
        raise missing(root, INFO.expects, "expw") from None


def _cells(line: str) -> list[str]:
    """The eight fields of a line; names of images may hold spaces."""
    return line.strip().rsplit(maxsplit=FIELDS - 1) or [""]


def _row(where: str, cells: list[str]) -> Row | Bad:
    """A row without its image and split."""
    try:
        top, left, right, bottom, confidence = map(float, cells[2:7])
        expression = CODES.parse(cells[7])
    except (ValueError, IndexError):
        return Bad(where, "broken line", "not a name, a face, four sides, a confidence and a label", "label")
    except HonneError as error:
        return Bad(where, "unknown label", error.what, "label")
    box = np.array([left, top, right - left, bottom - top], np.float32)
    if not np.isfinite([*box, confidence]).all() or box[2:].min() <= 0:
        sides = f"top {top:g}, left {left:g}, right {right:g}, bottom {bottom:g}"
        return Bad(where, "wrong box", f"not the box of a face: {sides}", "label")
    return Row(f"{cells[0]}#{cells[1]}", b"", box=box, expression=expression)
