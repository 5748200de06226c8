"""RAF-DB, single-label subset (Li & Deng, CVPR 2017): seven expressions, official train and test parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from honne.data.readers import Bad, Protocol, ReaderInfo, Row, missing, selected_on_test
from honne.data.readers.archive import Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import EXPRESSION_SETS, LabelSchema

LABELS = "EmoLabel/list_patition_label.txt"  # spelled so in the official files
DISTRIBUTIONS = "EmoLabel/distribution_basic.txt"
CODES = EXPRESSION_SETS["rafdb"]
Images = Literal["aligned", "our_aligned", "original"]
Points = Literal["given", "found"]

INFO = ReaderInfo(
    name="rafdb",
    summary="RAF-DB basic: 15,339 web faces, seven expressions, about 40 raters each",
    expects=f"the folder 'basic' (or one that holds it, or a zip) with {LABELS} and Image/aligned or Image/original.",
    contact="whdeng.cn/raf, on request from an academic address",
    licence="non-commercial research only; images not to be passed on",
    label_files=(LABELS, f"basic/{LABELS}"),
)


def schema(root: Path) -> LabelSchema:
    """The seven expressions in the order of their codes."""
    return LabelSchema(CODES.expressions)


def alignment(root: Path, *, images: Images = "aligned") -> Alignment:
    """Aligned images as they are (100 or 224 px); original ones by five points."""
    kinds = {
        "aligned": Alignment("none", 100),
        "our_aligned": Alignment("none", 224),
        "original": Alignment("points", 224),
    }
    return kinds[images]


def read(
    root: Path, *, images: Images = "aligned", points: Points = "given", protocol: Protocol = "clean"
) -> Iterator[Row | Bad]:
    """Rows of the official layout: `EmoLabel/list_patition_label.txt` beside `Image/` and `Annotation/`.

    Original images come with their box and five hand-placed points (`Annotation/boundingbox`, `Annotation/manual`)
    where these are there. If `EmoLabel/distribution_basic.txt` is there (name and seven numbers a line), it becomes
    `votes`.

    Args:
        root: the folder `basic`, or one that holds it, or a zip.
        images: `Image/aligned` (100 px, official), `Image/our_aligned` (224 px, as the AU-cue work makes them), or
            `Image/original`.
        points: of original images: the five hand-placed ones, or none, so that a finder looks for the face that fits
            the official box best, as the AU-cue work has it.
        protocol: `published`: the test rows are the validation rows too, as in most papers.

    Raises:
        HonneError: the label file or the images are missing.
    """
    rows = _rows(_open(Path(root)), images, points)
    yield from selected_on_test(rows) if protocol == "published" else rows


def _rows(archive: Archive, images: Images, points: Points) -> Iterator[Row | Bad]:
    folder = f"Image/{images}"
    files = {PurePosixPath(path).name: path for path in archive.images(folder)}
    if not files:
        raise missing(archive.root, f"images in {folder}.", "rafdb")
    votes = _distributions(archive)
    labelled = set()
    for number, line in enumerate(archive.lines(LABELS), 1):
        where = f"{archive.path(LABELS)}, line {number}"
        if not line.split():
            continue
        name, _, label = line.strip().partition(" ")
        stem = PurePosixPath(name).stem
        file = name if images == "original" else f"{stem}_aligned.jpg"
        labelled.add(file)
        row = _row(archive, where, stem, label)
        if isinstance(row, Row) and file not in files:
            yield Bad(where, "row without image", f"{folder}/{file} is missing")
            continue
        if isinstance(row, Row):
            row.image, row.votes = archive.image(files[file]), votes.get(stem)
            if images == "original":
                row.box = _box(archive, stem)
                row.points = _points(archive, stem) if points == "given" else None
        yield row
    for file in sorted(set(files) - labelled):
        yield Bad(archive.path(files[file]), "image without a label", kind="rule")


def _open(root: Path) -> Archive:
    for folder in (root, root / "basic"):
        try:
            return Archive(folder, LABELS)
        except FileNotFoundError:
            continue
    raise missing(root, INFO.expects, "rafdb")


def _row(archive: Archive, where: str, stem: str, label: str) -> Row | Bad:
    split = stem.partition("_")[0]
    if split not in ("train", "test"):
        return Bad(where, "unknown split", f"'{stem}' begins with neither train_ nor test_", "label")
    try:
        return Row(stem, b"", split, expression=CODES.parse(label))
    except HonneError as error:
        return Bad(where, "unknown label", error.what, "label")


def _box(archive: Archive, stem: str) -> np.ndarray | None:
    """(x, y, width, height); the file holds left, top, right, bottom."""
    numbers = _numbers(archive, f"Annotation/boundingbox/{stem}_boundingbox.txt", 4)
    return None if numbers is None else np.concatenate([numbers[:2], numbers[2:] - numbers[:2]])


def _points(archive: Archive, stem: str) -> np.ndarray | None:
    """(5, 2) of the first five lines: eye centres, nose tip, mouth corners; image-left ones first."""
    numbers = _numbers(archive, f"Annotation/manual/{stem}_manu_attri.txt", 10)
    if numbers is None:
        return None
    eyes, nose, mouth = np.split(numbers.reshape(5, 2), [2, 3])
    return np.concatenate([eyes[eyes[:, 0].argsort()], nose, mouth[mouth[:, 0].argsort()]])


def _numbers(archive: Archive, name: str, count: int) -> np.ndarray | None:
    """The first numbers of a file; None if there is no such file."""
    if not archive.exists(name):
        return None
    try:
        return np.array(" ".join(archive.lines(name)).split()[:count], float).reshape(count)
    except ValueError:
        raise HonneError(f"{archive.path(name)}: does not begin with {count} numbers.", "Mend or remove it.") from None


def _distributions(archive: Archive) -> dict[str, np.ndarray]:
    if not archive.exists(DISTRIBUTIONS):
        return {}
    votes = {}
    for number, line in enumerate(archive.lines(DISTRIBUTIONS), 1):
        name, *values = line.split() or [""]
        try:
            votes[PurePosixPath(name).stem] = np.array(values, np.float32).reshape(len(CODES.codes))
        except ValueError:
            where = f"{archive.path(DISTRIBUTIONS)}, line {number}"
            raise HonneError(f"{where}: not a name and {len(CODES.codes)} numbers.", "Mend the line.") from None
    return votes
