"""Aligned faces as DMUE (She et al., CVPR 2021) caches them: `lb2.txt` beside an LMDB, or beside the image folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from honne.data.cropping import DMUE_TEMPLATE
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import LabelSchema, expression_set

LABELS = "lb2.txt"
SPLITS = ("train", "test")
PUBLISHED = "affectnet8"
SIDE = 256
FRAMING = Alignment("points", SIDE, template=DMUE_TEMPLATE)
"""What comes nearest to how the original crops, which stretches every picture a little otherwise."""

Image = Path | bytes | np.ndarray
Pictures = Callable[[str], Image | str]
"""Key -> picture, or what is wrong with it."""

INFO = ReaderInfo(
    name="dmue_cache",
    summary="faces aligned by the published DMUE code, with its label file",
    expects=f"{LABELS} (lines 'train_FOLDER/FILE 3') beside an LMDB of raw {SIDE} x {SIDE} RGB, or beside FOLDER/FILE.",
    contact="you, who made them",
    licence="as the data set they were made from",
    label_files=(LABELS,),
)


def schema(root: Path, *, label_set: str | None = None) -> LabelSchema:
    """The classes of the label set, in its order."""
    return LabelSchema(expression_set(label_set or PUBLISHED).expressions)


def alignment(root: Path) -> Alignment:
    """They are aligned already."""
    return FRAMING.as_delivered()


def read(root: Path, *, label_set: str | None = None) -> Iterator[Row | Bad]:
    """Rows of the label file; an LMDB below ROOT goes before image files.

    The last word of a line is the label, a position from 0; what stands before it is the key of the picture. What
    stands before the key's first "_" is the split, train or test; what stands behind it is the path of the image file.

    Args:
        root: folder, or without an LMDB a zip.
        label_set: set, or names separated by commas, whose order the labels count. Default: affectnet8.

    Raises:
        HonneError: there is no label file, or the LMDB cannot be read.
    """
    archive = _open(Path(root))
    expressions = expression_set(label_set or PUBLISHED).expressions
    pictures = _lmdb(archive) or (lambda key: _file(archive, key))
    seen: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(archive.lines(LABELS), 1):
        if not line.strip():
            continue
        where = f"{archive.path(LABELS)}, line {number}"
        key, label = [*line.rsplit(maxsplit=1), ""][:2]
        key = key.strip()
        first, known = seen.setdefault(key, (number, label))
        if first != number:
            detail = f"'{key}' stands on line {first} as well, labelled {known}"
            same = label == known
            yield Bad(where, "line repeated" if same else "two labels", detail, "rule" if same else "label")
            continue
        row = _row(where, key, label, expressions)
        if isinstance(row, Row):
            picture = pictures(key)
            if isinstance(picture, str):
                yield Bad(where, picture, key)
                continue
            row.image = picture
        yield row


def _open(root: Path) -> Archive:
    try:
        return Archive(root, LABELS)
    except FileNotFoundError:
        raise missing(root, INFO.expects, "dmue_cache") from None


def _row(where: str, key: str, label: str, expressions: tuple[str, ...]) -> Row | Bad:
    split = key.partition("_")[0]
    if split not in SPLITS:
        return Bad(where, "unknown split", f"'{key}' begins with neither train_ nor test_", "label")
    if not label.isdecimal() or int(label) >= len(expressions):
        codes = ", ".join(f"{code} {name}" for code, name in enumerate(expressions))
        return Bad(where, "unknown label", f"label '{label}' is not one of {codes}", "label")
    return Row(key, b"", split, expression=expressions[int(label)])


def _file(archive: Archive, key: str) -> Image | str:
    path = key.partition("_")[2]
    return archive.image(path) if archive.exists(path) else "row without image"


def _lmdb(archive: Archive) -> Pictures | None:
    """Pictures of the LMDB below a folder; None where there is none."""
    found = [] if archive.zip else sorted(archive.root.rglob("data.mdb"))
    if not found:
        return None
    if len(found) > 1:
        raise HonneError(f"{archive.root}: holds several LMDBs ({found[0]}, {found[1]}).", "Leave one.")
    try:
        import lmdb
    except ImportError as error:
        hint = "Install it with: pip install 'honne[dmue]'"
        raise HonneError(f"{found[0]}: reading an LMDB needs the package lmdb.", hint) from error
    try:
        environment = lmdb.open(str(found[0].parent), readonly=True, lock=False, readahead=False)
        transaction = environment.begin(buffers=True)
    except lmdb.Error as error:
        raise HonneError(f"{found[0]}: not a readable LMDB ({error}).", "Copy it again from where it came.") from error

    def picture(key: str) -> Image | str:
        try:
            value = transaction.get(key.encode())
        except lmdb.Error:  # longer than any key can be
            value = None
        if value is None:
            return "key not in the LMDB"
        if len(value) != SIDE * SIDE * 3:
            return f"value in the LMDB is not {SIDE} x {SIDE} RGB"
        return np.frombuffer(value, np.uint8).reshape(SIDE, SIDE, 3).copy()

    return picture
