"""AffectNet (Mollahosseini et al., 2019): expressions, valence and arousal of web faces, in its three layouts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from honne.data.readers import Bad, Protocol, ReaderInfo, Row, missing, selected_on_test
from honne.data.readers.archive import Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import EXPRESSION_SETS, ExpressionSet, LabelSchema

CSV_FILES = {"training.csv": "train", "validation.csv": "test"}
CSV_COLUMNS = ("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "expression")
CSV_HEADER = (*CSV_COLUMNS[:5], "facial_landmarks", "expression", "valence", "arousal")
IMAGE_FOLDERS = (
    "",
    "Manually_Annotated_Images/",
    "Manually_Annotated/Manually_Annotated_Images/",
    "Manually_Annotated/",
)
FOLDERS = {"train_set": "train", "val_set": "test"}
LISTED = "all_exp_annotation.txt"
NO_VALUE = -2.0

INFO = ReaderInfo(
    name="affectnet",
    summary="AffectNet: web faces with eight expressions, valence and arousal (its validation set becomes `test`)",
    expects="training.csv and validation.csv beside the image folders; or train_set/ and val_set/ with images/ and "
    f"annotations/*_exp.npy; or train_set/ and val_set/ with {LISTED}.",
    contact="mohammadmahoor.com/affectnet, on request from an academic address",
    licence="non-commercial research only",
    label_files=(*CSV_FILES, f"*/{LISTED}", *(f"Manually_Annotated_file_lists/{name}" for name in CSV_FILES)),
)


def schema(root: Path, *, label_set: str | None = None) -> LabelSchema:
    """Eight (or seven) expressions in AffectNet's order, valence and arousal where the layout has them."""
    layout = _layout(Path(root))
    return LabelSchema(_codes(layout, label_set).expressions, valence_arousal=layout.kind != "listed")


def alignment(root: Path, *, label_set: str | None = None) -> Alignment:
    """By the official box from whole photographs; the 224 px images as they are."""
    return Alignment("box" if _layout(Path(root)).kind == "csv" else "none", 224)


def read(root: Path, *, label_set: str | None = None, protocol: Protocol = "clean") -> Iterator[Row | Bad]:
    """Rows of one of AffectNet's layouts, found by itself.

    - `training.csv` and `validation.csv` (in ROOT or `Manually_Annotated_file_lists/`) beside the photographs, with
      boxes, 68 landmarks, valence and arousal.
    - `train_set/` and `val_set/`, each with `images/N.jpg` (224 px), `annotations/N_exp.npy`, `_val`, `_aro`, `_lnd`.
    - `train_set/` and `val_set/` with `all_exp_annotation.txt`: "path,code" a line, codes in the order of the AU-cue
      work (neutral, happiness, surprise, fear, anger, disgust, sadness).

    The official validation set is what everybody reports on, so it becomes `test`. Left out: codes 8 to 10 (none,
    uncertain, no face), and contempt with seven classes.

    Args:
        root: folder or zip.
        label_set: affectnet8 or affectnet7. Default: eight classes, seven in the third layout.
        protocol: `published`: the test rows are the validation rows too, as in most papers.

    Raises:
        HonneError: none of the layouts is there.
    """
    layout = _layout(Path(root))
    codes = _codes(layout, label_set)
    rows = {"csv": _csv_rows, "npy": _npy_rows, "listed": _listed_rows}[layout.kind](layout, codes)
    yield from selected_on_test(rows) if protocol == "published" else rows


@dataclass
class _Layout:
    """Which of the three, and the label files with their splits."""

    kind: Literal["csv", "npy", "listed"]
    archive: Archive
    files: dict[str, str]


def _layout(root: Path) -> _Layout:
    if not root.exists():
        raise missing(root, INFO.expects, "affectnet")
    archive = Archive(root)
    for folder in ("", "Manually_Annotated_file_lists/"):
        if files := {f"{folder}{name}": split for name, split in CSV_FILES.items() if archive.exists(folder + name)}:
            return _Layout("csv", archive, files)
    if files := {f"{name}/{LISTED}": split for name, split in FOLDERS.items() if archive.exists(f"{name}/{LISTED}")}:
        return _Layout("listed", archive, files)
    if files := {name: split for name, split in FOLDERS.items() if archive.has_folder(f"{name}/annotations")}:
        return _Layout("npy", archive, files)
    raise missing(root, INFO.expects, "affectnet")


def _codes(layout: _Layout, label_set: str | None) -> ExpressionSet:
    names = ("affectnet7",) if layout.kind == "listed" else ("affectnet8", "affectnet7")
    if label_set not in (None, *names):
        raise HonneError(
            f"label set '{label_set}' does not fit this layout of AffectNet.", f"Use {' or '.join(names)}."
        )
    return EXPRESSION_SETS[label_set or names[0]]


def _csv_rows(layout: _Layout, codes: ExpressionSet) -> Iterator[Row | Bad]:
    archive = layout.archive
    for name, split in layout.files.items():
        for number, cells in enumerate(archive.table(name, CSV_COLUMNS, CSV_HEADER)):
            where = f"{archive.path(name)}, line {number + 2}"
            path = cells["subDirectory_filePath"]
            row = _row(where, f"{split}/{path}", split, codes, cells["expression"])
            if isinstance(row, Row):
                image = next((f for f in (folder + path for folder in IMAGE_FOLDERS) if archive.exists(f)), None)
                if image is None:
                    yield Bad(where, "row without image", f"{path} is missing")
                    continue
                row.image = archive.image(image)
                row.box = _floats([cells[f"face_{side}"] for side in ("x", "y", "width", "height")], (4,))
                row.landmarks = _floats((cells.get("facial_landmarks") or "").split(";"), (68, 2))
                row = _with_affect(row, where, cells.get("valence"), cells.get("arousal"))
            yield row


def _npy_rows(layout: _Layout, codes: ExpressionSet) -> Iterator[Row | Bad]:
    archive = layout.archive
    for folder, split in layout.files.items():
        for path in archive.images(f"{folder}/images"):
            stem = PurePosixPath(path).stem
            annotation = f"{folder}/annotations/{stem}_"
            where = archive.path(f"{annotation}exp.npy")
            code = _scalar(archive, f"{annotation}exp.npy")
            if code is None:
                yield Bad(archive.path(path), "image without a readable expression", f"{where} is missing or no number")
                continue
            row = _row(where, f"{split}/{stem}", split, codes, code)
            if isinstance(row, Row):
                row.image = archive.image(path)
                points = _npy(archive, f"{annotation}lnd.npy")
                row.landmarks = None if points is None else _floats(points.ravel().tolist(), (68, 2))
                affect = (_scalar(archive, f"{annotation}{key}.npy") for key in ("val", "aro"))
                row = _with_affect(row, where, *affect)
            yield row


def _listed_rows(layout: _Layout, codes: ExpressionSet) -> Iterator[Row | Bad]:
    archive = layout.archive
    for name, split in layout.files.items():
        folder = name.removesuffix(LISTED)
        for number, line in enumerate(archive.lines(name), 1):
            where = f"{archive.path(name)}, line {number}"
            path, _, label = line.strip().rpartition(",")
            places = (folder + path, path, path.partition("/")[2])  # the last: written from the folder above ROOT
            image = next((place for place in places if place and archive.exists(place)), None)
            row = _row(where, f"{split}/{path}", split, EXPRESSION_SETS["au_cues"], label)
            if isinstance(row, Row):
                if image is None:
                    yield Bad(where, "row without image", f"{path} is missing")
                    continue
                row.image = archive.image(image)
            yield row


def _row(where: str, name: str, split: str, codes: ExpressionSet, label: str) -> Row | Bad:
    try:
        expression = codes.parse(label)
    except HonneError as error:
        return Bad(where, "unknown label", error.what, "label")
    if expression is None:
        return Bad(where, f"no expression of '{codes.name}'", f"code {label}", "rule")
    return Row(name, b"", split, expression=expression)


def _with_affect(row: Row, where: str, valence: str | None, arousal: str | None) -> Row | Bad:
    """The row with valence and arousal; -2 means that they were not rated."""
    try:
        values = [None if not text or float(text) == NO_VALUE else float(text) for text in (valence, arousal)]
    except ValueError:
        return Bad(where, "wrong valence or arousal", f"{valence}, {arousal}: not two numbers", "label")
    if any(value is not None and not -1 <= value <= 1 for value in values):
        return Bad(where, "wrong valence or arousal", f"valence {valence}, arousal {arousal}: not in [-1, 1]", "label")
    row.valence, row.arousal = values
    return row


def _floats(cells: Sequence[object], shape: tuple[int, ...]) -> np.ndarray | None:
    """Numbers as an array; None if they are none, too few, or a box without extent."""
    try:
        numbers = np.array(cells, np.float32).reshape(shape)
    except ValueError:
        return None
    return None if len(shape) == 1 and min(numbers[2:]) <= 0 else numbers


def _npy(archive: Archive, name: str) -> np.ndarray | None:
    """A small array; None if there is none, or it holds anything but numbers and text. Never unpickles."""
    try:
        return np.load(io.BytesIO(archive.read(name)), allow_pickle=False) if archive.exists(name) else None
    except (ValueError, OSError, EOFError):
        return None


def _scalar(archive: Archive, name: str) -> str | None:
    """The one number or word of a small array."""
    array = _npy(archive, name)
    return str(array.item()) if array is not None and array.size == 1 else None
