"""SFEW 2.0 (Dhall et al., ICCV Workshops 2011; ICMI 2015): single frames of films, seven expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES, Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import EXPRESSION_SETS, LabelSchema

CODES = EXPRESSION_SETS["sfew"]
ALIGNED = "_aligned_faces"
FILM = re.compile(r"(.+?)_\d{6,}_\d+$")

INFO = ReaderInfo(
    name="sfew",
    summary="SFEW 2.0: 1,766 frames of films, seven expressions (its test labels are not public)",
    expects="Train/CLASS and Val/CLASS, or Train_Aligned_Faces/CLASS and so on, at any depth; or a zip of it.",
    contact="cs.anu.edu.au/few, on request from an academic address",
    licence="non-commercial research only",
)


def schema(root: Path) -> LabelSchema:
    """The seven expressions in alphabetic order, as the folders are."""
    return LabelSchema(CODES.expressions)


def alignment(root: Path) -> Alignment:
    """Whole frames: the largest face, by five points; the official aligned faces as they are."""
    return Alignment("none" if _open(Path(root))[2] else "points", 224)


def read(root: Path) -> Iterator[Row | Bad]:
    """Rows of SPLIT/CLASS/FILM_TIME_NUMBER.png, where SPLIT is `Train`, `Val` or `Test`.

    Train becomes `train`, and Val, on which papers report, `valid`. Test images are left out unless they lie in class
    folders. The film becomes `video`: its frames are not independent of each other. Where whole frames and the official
    aligned faces (in `Train_Aligned_Faces` and so on) are both there, the frames are read.

    Args:
        root: folder or zip.

    Raises:
        HonneError: there are no training images.
    """
    archive, paths, _ = _open(Path(root))
    for path, split in paths.items():
        where, label, stem = archive.path(path), PurePosixPath(path).parent.name, PurePosixPath(path).stem
        try:
            expression = CODES.parse(label)
        except HonneError as error:
            if split == "test":
                yield Bad(where, "test image without a label", kind="rule")
            else:
                yield Bad(where, "unknown class folder", str(error).replace("\n      ", ""), "label")
            continue
        film = FILM.match(stem)
        name = f"{split}/{label}/{stem}"
        yield Row(name, archive.image(path), split, video=film[1] if film else None, expression=expression)


def _open(root: Path) -> tuple[Archive, dict[str, str], bool]:
    """The archive, images of one kind with their splits, and whether they are the aligned faces."""
    if not root.exists():
        raise missing(root, INFO.expects, "sfew")
    archive = Archive(root)
    kinds: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for path in archive.images():
        folders = [part.lower() for part in PurePosixPath(path).parts[:-1]]
        splits = [SPLIT_NAMES[name] for part in folders if (name := part.partition(ALIGNED)[0]) in SPLIT_NAMES]
        if splits:
            kinds[any(ALIGNED in part for part in folders)][path] = splits[0]
    aligned = "train" not in kinds[False].values()
    if "train" not in kinds[aligned].values():
        raise missing(root, INFO.expects, "sfew")
    return archive, kinds[aligned], aligned
