"""Your own images in class sub-folders: ROOT/happy/*.jpg, or with splits ROOT/train/happy/*.jpg."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES, Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import LabelSchema, expression_set, known_set

INFO = ReaderInfo(
    name="folder",
    summary="your own images, one sub-folder a class",
    expects="ROOT/CLASS/*.jpg, or ROOT/train/CLASS, ROOT/valid/CLASS, ROOT/test/CLASS; or a zip of it.",
    contact="you",
    licence="not stated",
)


def schema(root: Path, *, label_set: str | None = None) -> LabelSchema:
    """The classes of the label set; without one, those that have a folder, in honne's order."""
    if label_set:
        return LabelSchema(expression_set(label_set).expressions)
    archive = _open(Path(root))
    found = {label for path in archive.images() if (label := _places(path)[1])}
    return LabelSchema(known_set(found, str(root)).expressions)


def alignment(root: Path) -> Alignment:
    """Photographs: the largest face, by five points."""
    return Alignment("points", 224)


def read(root: Path, *, label_set: str | None = None, subject_pattern: str | None = None) -> Iterator[Row | Bad]:
    """Rows of class sub-folders. A first level named train, valid or test (in any usual spelling) is the split.

    Args:
        root: folder or zip.
        label_set: name of a set, or class names separated by commas, that the folders are codes or names of.
            Default: names in any usual spelling.
        subject_pattern: regular expression with one group, searched in the path below ROOT; the group is the subject.

    Raises:
        HonneError: there is no such folder, no image in it, or a folder is not a class of the set.
    """
    root = Path(root)
    archive = _open(root)
    codes = expression_set(label_set) if label_set else known_set(schema(root).expressions, str(root))
    pattern = _compiled(subject_pattern)
    for path in archive.images():
        split, label = _places(path)
        if not label:
            yield Bad(archive.path(path), "image outside the class folders", kind="rule")
            continue
        try:
            expression = codes.parse(label)
        except HonneError as error:
            yield Bad(archive.path(path), "unknown class folder", str(error).replace("\n      ", ""), "label")
            continue
        if expression is None:
            yield Bad(archive.path(path), f"no expression of '{codes.name}'", f"folder {label}", "rule")
            continue
        found = pattern.search(path) if pattern else None
        if pattern and not found:
            yield Bad(archive.path(path), "no subject in the path", f"'{subject_pattern}' does not match", "label")
            continue
        yield Row(path, archive.image(path), split, found[1] if found else None, expression=expression)


def _open(root: Path) -> Archive:
    if not root.exists():
        raise missing(root, INFO.expects, "folder")
    archive = Archive(root)
    if not archive.images():
        raise missing(root, INFO.expects, "folder")
    return archive


def _places(path: str) -> tuple[str | None, str]:
    """Split and class folder of an image; "" if it lies in no class folder."""
    folders = PurePosixPath(path).parts[:-1]
    split = SPLIT_NAMES.get(folders[0].lower()) if folders else None
    folders = folders[1:] if split else folders
    return split, folders[0] if folders else ""


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        compiled = re.compile(pattern) if pattern else None
    except re.error as error:
        raise HonneError(f"'{pattern}' is not a regular expression: {error}.", "For example '^(S[0-9]+)_'.") from None
    if compiled and compiled.groups != 1:
        raise HonneError(f"'{pattern}' has {compiled.groups} groups.", "Give one, around the subject: '(S[0-9]+)_'.")
    return compiled
