"""Faces of known people for pre-training: one sub-folder a person, with five points of each face if there is a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES, Archive
from honne.faces.align import Alignment
from honne.labels import LabelSchema

LISTS = ("landmarks.txt", "landmarks.csv", "msra_lmk.txt", "msra_lmk")
"""Names of the list of points; the first that is there is taken."""
LINE = re.compile(r"(?P<path>.+?)[\s,;]+(?P<numbers>(?:[-+.\deE]+[\s,;]+){9,10}[-+.\deE]+)")
"""A path, perhaps the person's number, and x and y of five points."""

INFO = ReaderInfo(
    name="identities",
    summary="faces of known people (MS-Celeb-1M, CASIA-WebFace, VGGFace2 or your own), for pre-training",
    expects="ROOT/PERSON/*.jpg, or with splits ROOT/train/PERSON/*.jpg; or a zip. landmarks.txt in ROOT, if there: "
    "PERSON/x.jpg x1 y1 ... x5 y5 a line, image-left eye first (the msra_lmk list of MS-Celeb-1M-v1c as it is).",
    contact="who gave you the pictures",
    licence="not stated",
    label_files=LISTS,
)


def schema(root: Path) -> LabelSchema:
    """No labels but the subject, which every data set may have."""
    return LabelSchema()


def alignment(root: Path) -> Alignment:
    """By the list of points if there is one, else the face box enlarged by 256/224: its central 224 px are the box."""
    return Alignment("points", 256) if _list(_open(Path(root))) else Alignment("box", 256, margin=256 / 224)


def read(root: Path) -> Iterator[Row | Bad]:
    """Rows of a folder of people: in the order of the list of points, or of folder and file names without one.

    A list says which pictures count: others are not read. Pictures lie in PERSON, or SPLIT/PERSON with a first
    level named train, valid or test (in any usual spelling).

    Args:
        root: folder or zip.

    Raises:
        HonneError: there is no such folder, or no picture in it.
    """
    archive = _open(Path(root))
    name = _list(archive)
    if name:
        yield from _listed(archive, name)
        return
    images = archive.images()
    if not images:
        raise missing(archive.root, INFO.expects, "identities")
    for path in images:
        yield _row(archive, archive.path(path), path)


def _open(root: Path) -> Archive:
    if not root.exists():
        raise missing(root, INFO.expects, "identities")
    return Archive(root)


def _list(archive: Archive) -> str | None:
    return next((name for name in LISTS if archive.exists(name)), None)


def _listed(archive: Archive, name: str) -> Iterator[Row | Bad]:
    for number, line in enumerate(archive.lines(name), 1):
        where = f"{archive.path(name)}, line {number}"
        if not line.strip():
            continue
        try:
            path, points = _parsed(line.strip())
        except ValueError:
            yield Bad(where, "wrong line", "not a path and the x and y of five points", "label")
            continue
        if not archive.exists(path):
            yield Bad(where, "row without image", f"{path} is missing")
            continue
        row = _row(archive, where, path)
        if isinstance(row, Row):
            row.points = points
        yield row


def _parsed(line: str) -> tuple[str, np.ndarray]:
    """Path and (5, 2) points.

    Raises:
        ValueError: the line is not one.
    """
    found = LINE.fullmatch(line)
    if not found:
        raise ValueError(line)
    points = np.array(re.split(r"[\s,;]+", found["numbers"])[-10:], float).reshape(5, 2)
    if not np.isfinite(points).all():
        raise ValueError(line)
    return found["path"], points


def _row(archive: Archive, where: str, path: str) -> Row | Bad:
    folders = PurePosixPath(path).parts[:-1]
    split = SPLIT_NAMES.get(folders[0].lower()) if folders else None
    folders = folders[1:] if split else folders
    if not folders:
        return Bad(where, "image outside the folders of people", kind="rule")
    return Row(path, archive.image(path), split, "/".join(folders))
