"""EmotioNet (Fabian Benitez-Quiroz et al., CVPR 2016): pictures of the web with action units, as tables of links."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np

from honne.codes import ACTION_UNITS
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import Archive
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import LabelSchema, select_action_units

TABLES = (".csv", ".tsv", ".txt")
PLACES = ("path", "file", "filename", "file_name", "image", "image_path", "image_name", "url", "orig_url")
"""Names of columns (lower case) that say which picture it is; the first of these that a table has counts."""
CODES = {"1": 1.0, "0": 0.0} | dict.fromkeys(("999", "9", "-1", "", "nan"), np.nan)
"""What cells say of an action unit; NaN: not coded."""
UNIT = re.compile(r"au[ _]?0*(\d+)")

INFO = ReaderInfo(
    name="emotionet",
    summary="EmotioNet: pictures of the web with action units, 1 or 0, or 999 where not coded",
    expects="CSV or TSV tables with a column of paths or links and columns AU1, 'AU 12' and so on, and the pictures at "
    "these paths, or anywhere with the last part of the link as their name; or a zip of it.",
    contact="cbcsl.ece.ohio-state.edu, on request from an academic address",
    licence="non-commercial research only; pictures are their owners'",
    label_files=("*.csv", "*.tsv", "*.txt"),
)


def schema(root: Path) -> LabelSchema:
    """The action units that are coded in any row, by their FACS number."""
    return LabelSchema(action_units=_open(Path(root)).units)


def alignment(root: Path) -> Alignment:
    """Photographs: the largest face, by five points."""
    return Alignment("points", 224)


def notes(root: Path) -> list[str]:
    """Columns that give no action unit."""
    dropped = _open(Path(root)).dropped
    if not dropped:
        return []
    listed = ", ".join(f"AU{unit}" for unit in dropped)
    return [f"Columns left out, because nothing is coded in them or honne has no such action unit: {listed}."]


def read(root: Path) -> Iterator[Row | Bad]:
    """Rows of all tables, each with the picture at its path or with the name at the end of its link.

    A name that several links end in, or that several pictures have, says nothing: such rows have no image.

    Args:
        root: folder or zip.

    Raises:
        HonneError: there is no table with action units, or one that cannot be read.
    """
    found = _open(Path(root))
    images = set(found.archive.images())
    named: dict[str, list[str]] = {}
    for path in images:
        named.setdefault(PurePosixPath(path).name, []).append(path)
    links = {place for table in found.tables for place in table.places}
    times = Counter(_name(place) for place in links)
    for table in found.tables:
        codes = select_action_units(table.values, table.units, found.units)
        coded = ~np.isnan(codes).all(1)
        for row, place in enumerate(table.places):
            where, name = f"{table.where}, line {row + 2}", _name(place)
            path = place if place in images else named.get(name, [""])[0]
            if problem := table.wrong.get(row):
                yield Bad(where, "wrong code", problem, "label")
            elif not coded[row]:
                yield Bad(where, "row without a coded action unit", kind="rule")
            elif path != place and max(times[name], len(named.get(name, ()))) > 1:
                yield Bad(where, "name of several pictures", f"'{name}' is the name of more than one")
            elif not path:
                yield Bad(where, "row without image", f"{name or 'a picture without a name'} is missing")
            else:
                yield Row(path, found.archive.image(path), au=codes[row])


@dataclass(frozen=True)
class _Table:
    """One table.

    Attributes:
        where: how messages name it.
        places: path or link of every row.
        units: of the U columns.
        values: (N, U) float32: 1, 0 or NaN.
        wrong: row -> what is wrong with it.
    """

    where: str
    places: list[str]
    units: tuple[int, ...]
    values: np.ndarray
    wrong: dict[int, str]


@dataclass(frozen=True)
class _Found:
    """The tables, units that any of them codes, and units of columns that are left out."""

    archive: Archive
    tables: list[_Table]
    units: tuple[int, ...]
    dropped: tuple[int, ...]


def _open(root: Path) -> _Found:
    if not root.exists():
        raise missing(root, INFO.expects, "emotionet")
    archive = Archive(root)
    names = [name for name in archive.names() if "/" not in name and name.lower().endswith(TABLES)]
    tables = [table for name in names if (table := _table(archive, name))]
    if not tables:
        raise missing(root, INFO.expects, "emotionet")
    every = sorted({unit for table in tables for unit in table.units})
    coded = {
        unit
        for table in tables
        for unit, any_ in zip(table.units, ~np.isnan(table.values).all(0), strict=True)
        if any_ and unit in ACTION_UNITS
    }
    return _Found(archive, tables, tuple(sorted(coded)), tuple(unit for unit in every if unit not in coded))


def _table(archive: Archive, name: str) -> _Table | None:
    """A table with action units; None for other files."""
    where, lines = archive.path(name), list(archive.lines(name))
    header = lines[0] if lines else ""
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    columns = [_bare(cell).lower() for cell in next(rows, [])]
    units = {column: int(match[1]) for column, text in enumerate(columns) if (match := UNIT.fullmatch(text))}
    place = next((columns.index(name) for name in (p for p in PLACES if p in columns)), None)
    if not units:
        return None
    if place is None:
        raise HonneError(f"{where}: no column of paths or links.", f"Name one of the columns {', '.join(PLACES)}.")
    if len(set(units.values())) < len(units):
        raise HonneError(f"{where}: an action unit has two columns.", "Remove one of them.")
    places, values, wrong = [], [], {}
    for row, cells in enumerate(rows):
        if len(cells) not in (0, len(columns)):
            wrong[row] = f"{len(cells)} cells instead of {len(columns)}"
        if len(cells) != len(columns):
            cells = [""] * len(columns)
        codes = [CODES.get(cells[column]) for column in units]
        if None in codes:  # not written in the plainest way
            codes = [CODES.get(_bare(cells[column]).lower().removesuffix(".0")) for column in units]
        if None in codes:
            unit = list(units.values())[codes.index(None)]
            wrong[row] = f"AU{unit} is neither 1 nor 0 nor 999"
        places.append(_bare(cells[place]))
        values.append(np.array(codes, np.float32))
    stacked = np.stack(values) if values else np.empty((0, len(units)), np.float32)
    return _Table(where, places, tuple(units.values()), stacked, wrong)


def _bare(text: str) -> str:
    """'"'AU 1'" ' -> AU 1."""
    return text.strip().strip("\"'").strip()


def _name(place: str) -> str:
    """Name of the file that a path or link ends in."""
    return PurePosixPath(unquote(urlsplit(place).path) if "://" in place else place.replace("\\", "/")).name
