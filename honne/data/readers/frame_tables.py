"""What the readers of action units coded frame by frame share: their tables, and folds by subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from honne.data.mixbasic import Fold
from honne.data.readers.archive import Archive
from honne.errors import HonneError

NTH_VALID = 6
"""Every sixth subject that a fold does not test is validated on."""
MEND = "Mend the line."


@dataclass(frozen=True)
class FrameTable:
    """Numbers by frame.

    Attributes:
        where: how messages name the file.
        columns: names of the C columns beside the first; numbers from 1 where the file has no header.
        frames: (F,) int64, as the first column numbers them, each once.
        values: (F, C) float64.
    """

    where: str
    columns: tuple[str, ...]
    frames: np.ndarray
    values: np.ndarray


def read_frame_table(archive: Archive, name: str, header: bool = False) -> FrameTable:
    """The numbers of a CSV file, whose first column is the number of the frame.

    Args:
        archive: where the file is.
        name: of the file.
        header: whether the first line holds the names of the columns. A line without any number is one in any case.

    Raises:
        HonneError: a line that is not as many numbers as the others, or a frame that stands there twice.
    """
    where = archive.path(name)
    lines = [(number, line) for number, line in enumerate(archive.lines(name), 1) if line.strip()]
    names: list[str] = []
    if lines and (header or not any(map(_is_number, lines[0][1].split(",")))):
        names = [cell.strip() for cell in lines.pop(0)[1].split(",")]
    if not lines:
        raise HonneError(f"{where}: no rows.", "Unpack the file again.")
    try:
        table = np.loadtxt([line for _, line in lines], delimiter=",", comments=None, ndmin=2)
    except ValueError:
        table = np.empty((0, 0))
    width = len(names) or len(lines[0][1].split(","))
    if table.shape[1] != width:
        raise _broken(where, lines, width)
    numbers = table[:, 0]
    odd = (np.floor(numbers) != numbers) | ~np.isfinite(numbers)
    odd[np.setdiff1d(np.arange(len(numbers)), np.unique(numbers, return_index=True)[1])] = True
    if odd.any():
        line, number = lines[odd.argmax()][0], numbers[odd.argmax()]
        raise HonneError(f"{where}, line {line}: frame {number:g} is no whole number, or stands there before.", MEND)
    columns = tuple(names[1:]) or tuple(map(str, range(1, width)))
    return FrameTable(where, columns, numbers.astype(np.int64), table[:, 1:])


def fold_split(subject: str, fold: Fold, folds: Sequence[Sequence[str]]) -> str | None:
    """Split of a subject in a fold: the subjects of list number `fold` are tested; None for one in none of the lists.

    Of the others, taken in order from the next list on, every sixth is validated on.
    """
    if subject in folds[fold - 1]:
        return "test"
    others = [name for part in (*folds[fold:], *folds[: fold - 1]) for name in part]
    if subject not in others:
        return None
    return "train" if others.index(subject) % NTH_VALID else "valid"


def fold_notes(fold: Fold | None, folds: Sequence[Sequence[str]]) -> list[str]:
    """What is to be said of a fold."""
    if fold is None:
        return []
    valid = [name for part in folds for name in part if fold_split(name, fold, folds) == "valid"]
    return [
        f"Published fold {fold}: tested on {', '.join(folds[fold - 1])}; validated on {', '.join(valid)}, "
        "whom the published protocol trains on."
    ]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _broken(where: str, lines: Sequence[tuple[int, str]], width: int) -> HonneError:
    for number, line in lines:
        cells = line.split(",")
        if len(cells) != width or not all(map(_is_number, cells)):
            return HonneError(f"{where}, line {number}: not {width} numbers separated by commas.", MEND)
    return HonneError(f"{where}: not a table of numbers.", "Unpack the file again.")
