"""BP4D-Spontaneous (Zhang et al., Image and Vision Computing, 2014): action units of 41 people in eight tasks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from honne.codes import ACTION_UNIT_SETS
from honne.data.mixbasic import Fold
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import Archive
from honne.data.readers.frame_tables import FrameTable, fold_notes, fold_split, read_frame_table
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import LabelSchema

UNITS = ACTION_UNIT_SETS["bp4d"]
COPIES = "report"
RATE = 25
"""Frames a second."""
NOT_CODED = 9
FOLDS = (
    (
        *("F001", "M007", "F018", "F008", "F002", "M004", "F010"),
        *("F009", "M012", "M001", "F016", "M014", "F023", "M008"),
    ),
    (
        *("M011", "F003", "M010", "M002", "F005", "F022", "M018"),
        *("M017", "F013", "M016", "F020", "F011", "M013", "M005"),
    ),
    (
        *("F007", "F015", "F006", "F019", "M006", "M009", "F012"),
        *("M003", "F004", "F021", "F017", "M015", "F014"),
    ),
)
"""Subjects that each of the three folds tests, as in ME-GraphAU (Luo et al., IJCAI 2022) and others."""

Sequence = tuple[str, str]
"""Subject and task."""
OCCURRENCE = re.compile(r"([FM]\d{3})_(T\d+)\.csv$", re.IGNORECASE)
INTENSITY = re.compile(r"([FM]\d{3})_(T\d+)_AU(\d+)\.csv$", re.IGNORECASE)
PICTURE = re.compile(r"([FM]\d{3})[/_](T\d+)[/_](?:.*\D)?(\d+)$", re.IGNORECASE)

INFO = ReaderInfo(
    name="bp4d",
    summary="BP4D: 41 people in eight tasks, twelve action units a frame, some with intensities of 0 to 5",
    expects="AUCoding/F001_T1.csv and so on (frames down, action units across; 9: not coded), the pictures "
    "F001/T1/FRAME.jpg at any depth and, if there, AU-Intensity-Codes3.0/AU06/F001_T1_AU06.csv; or a zip of it.",
    contact="Binghamton University, www.cs.binghamton.edu/~lijun/Research/3DFE/3DFE_Analysis.html",
    licence="by signed agreement with Binghamton University",
    label_files=("**/[FM][0-9][0-9][0-9]_T*.csv",),
)


def schema(root: Path) -> LabelSchema:
    """The twelve action units that publications on BP4D report."""
    return LabelSchema(action_units=UNITS)


def alignment(root: Path) -> Alignment:
    """Whole frames: the largest face, by five points."""
    return Alignment("points", 224)


def notes(root: Path, *, fold: Fold | None = None) -> list[str]:
    """Whom a fold tests and validates on."""
    return fold_notes(fold, FOLDS)


def read(root: Path, *, fold: Fold | None = None) -> Iterator[Row | Bad]:
    """Rows of all frames with a coded action unit and a picture, task by task, in order of time.

    Args:
        root: folder or zip.
        fold: 1 to 3, the subjects that are tested; see `FOLDS`. Default: no splits.

    Raises:
        HonneError: there are no labels or no pictures, or a file of labels is no table of numbers.
    """
    found = _open(Path(root))
    for sequence, name in sorted(found.occurrence.items()):
        subject = sequence[0]
        split = fold_split(subject, fold, FOLDS) if fold else None
        if fold and split is None:
            yield Bad(found.archive.path(name), "subject in none of the folds", kind="rule")
            continue
        for row in _rows(found, sequence):
            if isinstance(row, Row):
                row.split = split
            yield row


@dataclass
class _Files:
    """Tables and pictures by subject and task; `intensity` also by action unit, `pictures` by frame."""

    archive: Archive
    occurrence: dict[Sequence, str] = field(default_factory=dict)
    intensity: dict[Sequence, dict[int, str]] = field(default_factory=dict)
    pictures: dict[Sequence, dict[int, str]] = field(default_factory=dict)


def _open(root: Path) -> _Files:
    if not root.exists():
        raise missing(root, INFO.expects, "bp4d")
    found = _Files(Archive(root))
    for name in found.archive.names():
        if match := OCCURRENCE.search(name):
            found.occurrence[match[1].upper(), match[2].upper()] = name
        elif (match := INTENSITY.search(name)) and int(match[3]) in UNITS:
            found.intensity.setdefault((match[1].upper(), match[2].upper()), {})[int(match[3])] = name
    for path in found.archive.images():
        if match := PICTURE.search(str(PurePosixPath(path).with_suffix(""))):
            frames = found.pictures.setdefault((match[1].upper(), match[2].upper()), {})
            frames.setdefault(int(match[3]), path)
    if not found.occurrence or not found.pictures:
        raise missing(root, INFO.expects, "bp4d")
    return found


def _rows(found: _Files, sequence: Sequence) -> Iterator[Row | Bad]:
    archive, pictures = found.archive, dict(found.pictures.get(sequence, {}))
    table = read_frame_table(archive, found.occurrence[sequence], header=True)
    codes, wrong = _codes(table)
    intensities = np.full_like(codes, np.nan)
    for unit, name in found.intensity.get(sequence, {}).items():
        wrong |= _graded(read_frame_table(archive, name), unit, table.frames, intensities)
    video = "/".join(sequence)
    for row in np.argsort(table.frames).tolist():
        frame = int(table.frames[row])
        where, path = f"{table.where}, frame {frame}", pictures.pop(frame, None)
        if frame in wrong:
            yield wrong[frame]
        elif np.isnan(codes[row]).all():
            yield Bad(where, "frame without a coded action unit", kind="rule")
        elif path is None:
            yield Bad(where, "row without image", f"there is no {video}/{frame}.jpg")
        else:
            yield Row(
                f"{video}/{frame}",
                archive.image(path),
                subject=sequence[0],
                video=video,
                time=frame / RATE,
                au=codes[row],
                au_intensity=None if np.isnan(intensities[row]).all() else intensities[row],
            )
    yield from (Bad(archive.path(path), "picture without a label", kind="rule") for path in pictures.values())


def _codes(table: FrameTable) -> tuple[np.ndarray, dict[int, Bad]]:
    """(F, A) 1, 0 or NaN in the order of the units, and what is wrong with a frame."""
    columns = [re.sub(r"^(au)?[ _]?0*", "", column.lower()) for column in table.columns]
    codes = np.full((len(table.frames), len(UNITS)), np.nan, np.float32)
    wrong: dict[int, Bad] = {}
    there = [unit for unit in UNITS if str(unit) in columns]
    if not there:
        raise HonneError(f"{table.where}: no column of any of the action units {UNITS}.", "Is it the right file?")
    for unit in there:
        values = table.values[:, columns.index(str(unit))]
        wrong |= _bad(table, values, unit, (0, 1, NOT_CODED))
        codes[:, UNITS.index(unit)] = np.where(values == NOT_CODED, np.nan, values)
    return codes, wrong


def _graded(table: FrameTable, unit: int, frames: np.ndarray, intensities: np.ndarray) -> dict[int, Bad]:
    """Fill in the intensities (F, A) of a unit by frame; what is wrong with a frame."""
    values = table.values[:, 0]
    _, mine, theirs = np.intersect1d(frames, table.frames, return_indices=True)
    known = np.where(values == NOT_CODED, np.nan, values)
    intensities[mine, UNITS.index(unit)] = known[theirs]
    return _bad(table, values, unit, (*range(6), NOT_CODED))


def _bad(table: FrameTable, values: np.ndarray, unit: int, allowed: tuple[int, ...]) -> dict[int, Bad]:
    listed = ", ".join(map(str, allowed))
    return {
        frame: Bad(f"{table.where}, frame {frame}", "wrong code", f"AU{unit} is {value:g}, none of {listed}", "label")
        for frame, value in zip(
            *(column[~np.isin(values, allowed)].tolist() for column in (table.frames, values)), strict=True
        )
    }
