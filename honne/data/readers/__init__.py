"""Readers: one file per official layout. Each turns a folder (or a zip of it) into `Row`s; nothing else knows layouts.

A reader module has

    INFO = ReaderInfo(...)
    def read(root: Path, *, option=...) -> Iterator[Row | Bad]
    def schema(root: Path, *, option=...) -> LabelSchema        # what the rows are labelled with
    def alignment(root: Path, *, option=...) -> Alignment       # how faces are cropped unless told otherwise

Options are keyword-only, have defaults and are named in `honne.data.prepare.prepare`; each function takes those it
needs. It may also have

    FRAMING: Alignment, or def framing(root) -> Alignment       # how faces are framed that it delivers cropped
    def settled(root: Path, *, option=...) -> dict[str, Any]    # options that only ROOT settles
    def info(root: Path) -> ReaderInfo                          # where contact and licence depend on the root
    def notes(root: Path, *, option=...) -> list[str]           # what is to be said of the data beside counts
    def files(root: Path, *, option=...) -> list[Path]          # those of INFO.label_files that are read
    COPIES: str                                                 # what becomes of exact copies unless told otherwise

A reader of feature sequences has, in place of `alignment` (its rows have `sequences`, no image),

    def modalities(root: Path, *, option=...) -> dict[str, int] # modality -> number of features
    def features(root: Path, *, option=...) -> dict[str, Any]   # modality -> what its features are, in words

and a reader of raw clips (its rows have `clip`, `text` or both) has `CLIPS = True` and neither: `honne.features` makes
the sequences.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np

from honne.errors import HonneError, WrongCall

READERS = (
    "ferplus",
    "fer2013",
    "rafdb",
    "affectnet",
    "sfew",
    "dmue_cache",
    "folder",
    "table",
    "identities",
    "au_cues",
    "mixbasic",
    "scenes",
    "affwild2",
    "saffwild2",
    "multitask_pickles",
    "disfa",
    "bp4d",
    "emotionet",
    "expw",
    "afewva",
    "mult",
    "mmsa",
    "feature_table",
    "crema_d",
    "ravdess",
    "meld",
    "prepared",
)

Protocol = Literal["clean", "published"]
"""Whether the test rows serve for selection too, as in several published protocols."""

Splits = Literal["drawn", "train"]
"""Whether a data set without official splits is split by the reader (`drawn_split`), or all of it is for training."""


@dataclass
class Row:
    """One labelled face, clip or sample as a reader found it. None or empty: this row has no such label.

    Attributes:
        id: unique within the data set.
        image: path of the file, its encoded bytes, or pixels (H, W) or (H, W, 3) uint8; `None` of rows without a face.
        split: train, valid or test; None where the layout has no split.
        box: (x, y, width, height) px.
        landmarks: (68, 2) px in the iBUG order.
        points: (5, 2) px: image-left eye, image-right eye, nose tip, image-left and image-right mouth corner.
        time: seconds.
        expression: class name of the schema.
        votes: counts, one per class.
        target: distribution to learn, one value per class.
        valence: -1..1.
        arousal: -1..1.
        au: one value per action unit of the schema: 1 present, 0 absent, NaN not coded.
        au_intensity: 0..5, NaN not coded.
        text: what is said.
        emotions: one value per emotion of the schema: 1 present, 0 absent, NaN not labelled.
        sentiment: on the schema's scale.
        sequences: modality -> (T, D) features, or None where the row lacks it; of readers of feature sequences.
        clip: file with picture and sound, of which features are made; of readers of raw clips.
    """

    id: str
    image: Path | bytes | np.ndarray | None = None
    split: str | None = None
    subject: str | None = None
    domain: str | None = None
    video: str | None = None
    time: float | None = None
    box: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    points: np.ndarray | None = None
    expression: str | None = None
    votes: np.ndarray | None = None
    target: np.ndarray | None = None
    valence: float | None = None
    arousal: float | None = None
    au: np.ndarray | None = None
    au_intensity: np.ndarray | None = None
    text: str | None = None
    emotions: np.ndarray | None = None
    sentiment: float | None = None
    sequences: Mapping[str, np.ndarray | None] | None = None
    clip: Path | None = None


@dataclass
class Bad:
    """Something that gives no row, and why.

    Attributes:
        where: file, with line or row.
        reason: one phrase; equal for equal cases, so that they can be counted.
        detail: what is special to this one, a sentence of its own for labels.
        kind: `rule`: left out as documented, nothing is wrong. `image`: the image is missing or unreadable; the run
            goes on and ends with status 3. `label`: the label is wrong; the run stops, unless told to skip such rows.
    """

    where: str
    reason: str
    detail: str = ""
    kind: Literal["rule", "image", "label"] = "image"


@dataclass(frozen=True)
class ReaderInfo:
    """What `honne prepare --list` says of a reader.

    Attributes:
        name: the word for the command line.
        summary: the data set in a line.
        expects: what ROOT must hold.
        contact: where to get the data.
        licence: terms of the data.
        label_files: patterns of the files with labels below ROOT; their sha256 goes into the schema.
    """

    name: str
    summary: str
    expects: str
    contact: str
    licence: str
    label_files: tuple[str, ...] = ()


def names() -> tuple[str, ...]:
    """Names of all readers."""
    return READERS


def get(name: str) -> ModuleType:
    """The reader module of that name.

    Raises:
        WrongCall: there is none.
    """
    if name not in READERS:
        near = difflib.get_close_matches(name, READERS, 1)
        raise WrongCall(
            f"there is no reader '{name}'; there are {', '.join(READERS)}.",
            f"Did you mean '{near[0]}'?" if near else "`honne prepare --list` says what each one reads.",
        )
    return importlib.import_module(f"honne.data.readers.{name}")


def missing(root: Path, expected: str, reader: str) -> HonneError:
    """The error for a root that does not hold the official layout."""
    if not root.exists():
        return HonneError(f"{root}: no such file or folder.", f"Reader '{reader}' expects {expected}")
    return HonneError(f"{root}: not the layout of reader '{reader}'.", f"It expects {expected}")


def selected_on_test(rows: Iterable[Row | Bad]) -> Iterator[Row | Bad]:
    """The rows, and every test row once more as a validation row."""
    for row in rows:
        again = None
        if isinstance(row, Row) and row.split == "test":
            again = replace(row, id=f"valid/{row.id}", split="valid")  # now: whoever takes the row may change it
        yield row
        if again:
            yield again


def drawn_split(group: str) -> str:
    """train (70 %), valid (10 %) or test (20 %) by a hash of the group's name, the same on every machine and forever.

    For rows of which more than the subject decides that they belong together: faces of one image, frames of one clip.
    """
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return "test" if share < 0.2 else "valid" if share < 0.3 else "train"
