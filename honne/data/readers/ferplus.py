"""FER+: the FER2013 faces with ten votes each (Barsoum et al., ICMI 2016; github.com/microsoft/FERPlus)."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from honne.codes import FERPLUS_APART
from honne.data.readers import Bad, ReaderInfo, Row, fer2013, missing
from honne.data.readers.archive import Archive
from honne.data.votes import EMOTIONS, TargetMode, majority_class, multi_target, vote_targets
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import EXPRESSION_SETS, LabelSchema

VOTES: Literal["fer2013new.csv"] = "fer2013new.csv"
FER2013 = "fer2013.csv"
USAGES = {
    "Training": ("train", "data/FER2013Train"),
    "PublicTest": ("valid", "data/FER2013Valid"),
    "PrivateTest": ("test", "data/FER2013Test"),
}
EXPRESSIONS = EXPRESSION_SETS["ferplus"].expressions
COLUMNS = (*EXPRESSIONS, *FERPLUS_APART)

FRAMING = fer2013.FRAMING

INFO = ReaderInfo(
    name="ferplus",
    summary="FER+: 35,700 web faces of 48 px, ten votes each over eight expressions, unknown and not-a-face",
    expects="fer2013new.csv beside data/FER2013Train, FER2013Valid, FER2013Test (or beside fer2013.csv), or a zip.",
    contact="votes: github.com/microsoft/FERPlus; faces: Kaggle, Challenges in Representation Learning (FER2013)",
    licence="votes MIT; images of the Kaggle 2013 challenge: research use only",
    label_files=(VOTES, "data/*/label.csv"),
)


def schema(root: Path) -> LabelSchema:
    """The eight expressions in the order of the vote columns."""
    return LabelSchema(EXPRESSIONS)


def alignment(root: Path) -> Alignment:
    """The images are face crops already."""
    return FRAMING.as_delivered()


@dataclass
class _Rating:
    """One row of a votes file."""

    where: str
    row: int
    usage: str
    name: str
    votes: list[int]


def read(
    root: Path, *, target_mode: TargetMode = "votes", votes_from: Literal["fer2013new.csv", "label.csv"] = VOTES
) -> Iterator[Row | Bad]:
    """Rows of the official FER+ layout: `fer2013new.csv` beside `data/FER2013{Train,Valid,Test}/`, or a zip of it.

    Without image folders, `fer2013.csv` beside the votes serves: its rows are the same, in the same order.

    In every row `votes` are the eight emotion counts as recorded, `expression` is the class that more than half of the
    votes name once single votes are taken away (FER+'s majority rule; None if no emotion has that), and `target` is
    what the mode makes of the votes. Rows with a target but no majority stay, in all splits; accuracy is measured on
    rows with an expression. Left out: rows without a name (all ten voters saw no face), names on two rows, and

    - `votes`: rows whose ten counts have their first maximum at "unknown" or "NF", and rows without an emotion vote.
      The target is the eight raw counts over their sum.
    - `majority`, `probability`, `crossentropy`, `multi_target`: rows that the paper's rule gives up (see
      `honne.data.votes.chosen_votes`). The target is the distribution it keeps, for `multi_target` the vector t of
      the loss -log max(t p). In `probability` training draws one class from the target each time.

    Args:
        root: folder or zip.
        target_mode: how votes become a target.
        votes_from: `fer2013new.csv`, or `label.csv` of every image folder: the two differ in 4.5 % of the images, and
            FER+'s own training code reads the latter.

    Raises:
        HonneError: the votes file or the images are missing.
    """
    archive = _open(Path(root), votes_from)
    ratings: list[_Rating] = []
    for entry in _label_csv(archive) if votes_from == "label.csv" else _fer2013new(archive):
        if isinstance(entry, Bad):
            yield entry
        else:
            ratings.append(entry)
    files = {usage: set(archive.images(folder)) for usage, (_, folder) in USAGES.items()}
    rated = {f"{USAGES[rating.usage][1]}/{rating.name}" for rating in ratings}
    for path in sorted(set[str]().union(*files.values()) - rated):
        yield Bad(archive.path(path), "image without a row of votes", kind="rule")
    ratings, doubles = _unique(ratings)
    yield from doubles

    votes = np.array([rating.votes for rating in ratings], np.float32).reshape(-1, len(COLUMNS))
    targets, keep = vote_targets(votes, target_mode)
    if target_mode == "multi_target":
        targets = multi_target(targets)
    classes = majority_class(votes)
    images = _images(archive, files, ratings)
    for i, (rating, image) in enumerate(zip(ratings, images, strict=True)):
        if isinstance(image, Bad):
            yield image
        elif not keep[i]:
            yield Bad(rating.where, f"no expression left by the rule '{target_mode}'", rating.name, "rule")
        else:
            yield Row(
                id=rating.name.removesuffix(".png"),
                image=image,
                split=USAGES[rating.usage][0],
                expression=EXPRESSIONS[classes[i]] if classes[i] >= 0 else None,
                votes=votes[i, :EMOTIONS],
                target=targets[i].astype(np.float32),
            )


def _open(root: Path, votes_from: str) -> Archive:
    marker = VOTES if votes_from == VOTES else f"{USAGES['Training'][1]}/label.csv"
    if root.is_file() and root.name == VOTES:
        root = root.parent
    try:
        return Archive(root, marker)
    except FileNotFoundError:
        expected = INFO.expects if marker == VOTES else f"{marker} for votes_from = 'label.csv'."
        raise missing(root, expected, "ferplus") from None


def _fer2013new(archive: Archive) -> Iterator[_Rating | Bad]:
    for number, row in enumerate(archive.table(VOTES, ("Usage", "Image name", *COLUMNS))):
        where = f"{archive.path(VOTES)}, line {number + 2}"
        if row["Usage"] not in USAGES:
            yield Bad(where, "unknown Usage", f"'{row['Usage']}' is not one of {', '.join(USAGES)}", "label")
        elif not row["Image name"]:
            yield Bad(where, "row without an image name (all voters saw no face)", kind="rule")
        else:
            yield _rating(where, number, row["Usage"], row["Image name"], [row[column] for column in COLUMNS])


def _label_csv(archive: Archive) -> Iterator[_Rating | Bad]:
    for usage, (_, folder) in USAGES.items():
        name = f"{folder}/label.csv"
        for number, row in enumerate(csv.reader(archive.lines(name)) if archive.exists(name) else ()):
            where = f"{archive.path(name)}, line {number + 1}"
            if len(row) == len(COLUMNS) + 2:
                yield _rating(where, number, usage, row[0], row[2:])
            elif row:
                yield Bad(where, "wrong number of columns", f"{len(row)} columns, not {len(COLUMNS) + 2}", "label")


def _rating(where: str, number: int, usage: str, name: str, cells: list[str]) -> _Rating | Bad:
    try:
        votes = [int(cell) for cell in cells]
    except (TypeError, ValueError):
        votes = [-1]
    if min(votes) < 0:
        shown = ", ".join(map(str, cells))
        return Bad(where, "wrong votes", f"votes are not whole numbers of 0 or more: {shown}", "label")
    return _Rating(where, number, usage, name, votes)


def _unique(ratings: list[_Rating]) -> tuple[list[_Rating], list[Bad]]:
    """Ratings whose image name stands on one row only, and the others."""
    times = Counter(rating.name for rating in ratings)
    unique = [rating for rating in ratings if times[rating.name] == 1]
    doubles = [rating for rating in ratings if times[rating.name] > 1]
    return unique, [Bad(rating.where, "image name stands on two rows", rating.name, "rule") for rating in doubles]


def _images(
    archive: Archive, files: Mapping[str, Container[str]], ratings: list[_Rating]
) -> Iterator[Path | bytes | np.ndarray | Bad]:
    """One image, or the reason why there is none, for every rating."""
    if not any(files.values()):
        if not archive.exists(FER2013):
            raise missing(archive.root, f"images in {', '.join(folder for _, folder in USAGES.values())}.", "ferplus")
        yield from _from_fer2013_csv(archive, ratings)
        return
    for rating in ratings:
        folder = USAGES[rating.usage][1]
        path = f"{folder}/{rating.name}"
        if not files[rating.usage]:
            yield Bad(rating.where, f"no images in {folder}", rating.name, "rule")
        elif path in files[rating.usage]:
            yield archive.image(path)
        else:
            yield Bad(rating.where, "row without image", f"{path} is missing")


def _from_fer2013_csv(archive: Archive, ratings: list[_Rating]) -> Iterator[np.ndarray | Bad]:
    """Pixels of the rows of `fer2013.csv` that have a rating; row r belongs to row r of `fer2013new.csv`."""
    faces = enumerate(fer2013.pixel_rows(archive, FER2013))
    for rating in ratings:
        face = next((face for number, face in faces if number == rating.row), None)
        if face is None or (isinstance(face, fer2013.Face) and face.usage != rating.usage):
            raise HonneError(
                f"{archive.path(FER2013)}: its rows do not go with those of {VOTES} ({rating.where}).",
                "Both files must be the official ones, unsorted.",
            )
        yield face if isinstance(face, Bad) else face.pixels
