"""Your own data: a CSV or Parquet table with one row per image, its columns mapped by name."""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES, decoded, require_columns
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.labels import ExpressionSet, LabelSchema, expression_set, known_set, parse_action_unit

PARQUET = (".parquet", ".pq")
BLANK = ("", "nan", "none", "null", "na", "n/a")
NOT_RATED = (-2.0, -5.0)
"""What AffectNet and Aff-Wild2 write for valence and arousal that were not rated."""
NOT_CODED = (-1.0, 9.0)
"""What action-unit tables write for units that were not coded."""

INFO = ReaderInfo(
    name="table",
    summary="your own images and labels in a CSV or Parquet table",
    expects="the table itself; image paths are relative to it. --columns.NAME says which column holds what.",
    contact="you",
    licence="not stated",
)


@dataclass
class Columns:
    """Which column holds what. A column of the default name may be missing; one that you name must be there.

    Attributes:
        path: image file, relative to the table's folder.
        label: expression, as a code or name of the label set.
        votes: counts per class: one column with a list, or as many columns, separated by commas and named as classes.
        valence: -1..1; empty, -2 or -5 where not rated.
        arousal: the same.
        au: action units, 1 or 0; empty, -1 or 9 where not coded: columns separated by commas, or AU* for all named AU12
            or AU12_c.
        intensity: action-unit intensities, 0..5: the same; AU*_r for all named AU12_r.
        subject: person; splits and intervals go by it.
        split: train, valid or test.
        domain: stratum, such as the place.
        video: clip that the image is from.
        time: s in the clip.
        landmarks: 68 points in px as 136 numbers x0 y0 x1 y1 ...; without such a column x_0 ... x_67, y_0 ... y_67.
        box: face in px, four numbers x y width height: one column, or four separated by commas.
        text: what was said.
        id: unique name of the row. Default: the path.
    """

    path: str = "path"
    label: str = "label"
    votes: str = "votes"
    valence: str = "valence"
    arousal: str = "arousal"
    au: str = "AU*"
    intensity: str = "AU*_r"
    subject: str = "subject"
    split: str = "split"
    domain: str = "domain"
    video: str = "video"
    time: str = "time"
    landmarks: str = "landmarks"
    box: str = "box"
    text: str = "text"
    id: str = "id"


def schema(root: Path, *, columns: Mapping[str, str] | None = None, label_set: str | None = None) -> LabelSchema:
    """Classes of the label set or of the votes' columns, else those that occur; units and valence/arousal by column."""
    return _plan(Path(root), _chosen(columns), label_set).schema


def alignment(root: Path, *, columns: Mapping[str, str] | None = None) -> Alignment:
    """By the table's landmarks, else its boxes; photographs without either: the largest face, by five points."""
    known = _columns(Path(root), _chosen(columns))
    return Alignment("box" if "box" in known and "landmarks" not in known else "points", 224)


def read(root: Path, *, columns: Mapping[str, str] | None = None, label_set: str | None = None) -> Iterator[Row | Bad]:
    """Rows of a CSV (comma, semicolon or tab; UTF-8 or Windows-1252) or Parquet table.

    Empty cells, NaN and null are "not labelled".

    Args:
        root: the table.
        columns: which column holds what: field of `Columns` -> column.
        label_set: name of a set, or class names separated by commas, that labels are codes or names of, and in whose
            order a list of votes is. Default: names in any usual spelling.

    Raises:
        HonneError: the table or a column is missing.
        WrongCall: `columns` names something that is no field of `Columns`.
    """
    root = Path(root)
    plan = _plan(root, _chosen(columns), label_set)
    times: Counter[str] = Counter()
    for where, cells in rows(root):
        if cells is None:
            yield Bad(where, "not as many cells as columns", kind="label")
            continue
        try:
            row = plan.row(root.parent, cells)
        except HonneError as error:
            yield Bad(where, "wrong cell", str(error).replace("\n      ", ""), "label")
            continue
        times[row.id] += 1
        if times[row.id] > 1 and "id" not in plan.columns:  # several faces of one image
            row.id = f"{row.id}#{times[row.id]}"
        yield row


def _chosen(columns: Mapping[str, str] | None) -> Columns:
    known = [field.name for field in fields(Columns)]
    for name in columns or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(known)}."
            raise WrongCall(f"--columns.{name}: a table has no '{name}'.", hint)
    return Columns(**columns or {})


# --- the file ----------------------------------------------------------------------------------------------------


def rows(path: Path, only: Sequence[str] | None = None) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Where it stands, and the cells, of every row; None for a line with too many or too few cells."""
    if path.suffix.lower() in PARQUET:
        number = 0
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(1024, columns=only):
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", cells
        return
    with path.open("rb") as file:
        lines = decoded(file, str(path))
        header = next(lines, "")
        names = [name.strip() for name in next(csv.reader([header], delimiter=_delimiter(header)), [])]
        reader = csv.reader(lines, delimiter=_delimiter(header))
        for cells in reader:
            if cells:
                whole = len(cells) == len(names)
                yield f"{path}, line {reader.line_num + 1}", dict(zip(names, cells, strict=True)) if whole else None


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def columns_of(path: Path) -> list[str]:
    """Names of the columns of a Parquet or CSV file; nothing else is read."""
    if not path.is_file():
        raise missing(path, INFO.expects, "table")
    if path.suffix.lower() in PARQUET:
        try:
            with pq.ParquetFile(path) as table:
                return table.schema_arrow.names
        except (OSError, ValueError) as error:
            raise HonneError(f"{path}: not a readable Parquet file ({error}).", "Write it again.") from None
    with path.open("rb") as file:
        header = next(decoded(file, str(path)), "")
    return [cell.strip() for cell in next(csv.reader([header], delimiter=_delimiter(header)), [])]


# --- what is in it -----------------------------------------------------------------------------------------------

LISTS = {
    "votes": [],
    "box": ["box_x", "box_y", "box_w", "box_h"],
    "landmarks": [f"{axis}_{i}" for i in range(68) for axis in "xy"],
}
"""Fields that are a list in one column, or these columns."""


@dataclass
class Plan:
    """Which columns of one table are used, and for what.

    Attributes:
        schema: what the rows are labelled with.
        columns: field of `Columns` -> its columns; fields without a column are missing.
        codes: set of the labels and votes; None without either.
        classes: for every column of votes its class; empty where votes are one list.
    """

    schema: LabelSchema
    columns: dict[str, list[str]]
    codes: ExpressionSet | None
    classes: list[int]

    def row(self, folder: Path, cells: dict[str, Any]) -> Row:
        """One row; raises `HonneError` for a cell that cannot be."""
        path = self.text(cells, "path")
        if path is None:
            raise HonneError("no image path")
        label = self.text(cells, "label")
        return Row(
            self.text(cells, "id") or path,
            folder / path,
            split=self.split(cells),
            subject=self.text(cells, "subject"),
            domain=self.text(cells, "domain"),
            video=self.text(cells, "video"),
            text=self.text(cells, "text"),
            time=self._number(cells, "time"),
            expression=self.codes.parse(label) if self.codes and label is not None else None,
            votes=self._votes(cells),
            valence=self.affect(cells, "valence"),
            arousal=self.affect(cells, "arousal"),
            box=self._box(cells),
            landmarks=self._list(cells, "landmarks", (68, 2)),
            au=self._units(cells, "au", 1),
            au_intensity=self._units(cells, "intensity", 5),
        )

    def text(self, cells: dict[str, Any], name: str) -> str | None:
        text = str(cells[self.columns[name][0]]).strip() if name in self.columns else ""
        return None if text.lower() in BLANK else text

    def _number(self, cells: dict[str, Any], name: str) -> float | None:
        text = self.text(cells, name)
        return None if text is None else finite([text], name)[0]

    def split(self, cells: dict[str, Any]) -> str | None:
        text = self.text(cells, "split")
        if text is not None and text.lower() not in SPLIT_NAMES:
            raise HonneError(f"'{text}' is not a split", "train, valid or test")
        return None if text is None else SPLIT_NAMES[text.lower()]

    def affect(self, cells: dict[str, Any], name: str) -> float | None:
        value = self._number(cells, name)
        if value is None or value in NOT_RATED:
            return None
        if not -1 <= value <= 1:
            raise HonneError(f"{name} {value:g} is not in [-1, 1]")
        return value

    def _list(self, cells: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray | None:
        """Numbers of one list cell or of several cells; None if all are blank."""
        values = [cells[column] for column in self.columns.get(name, ())]
        if len(values) == 1:
            value = values[0]
            text = value.strip(" []()") if isinstance(value, str) else value
            values = re.split(r"[\s,;]+", text) if isinstance(text, str) else [] if text is None else list(text)
        if all(str(value).strip().lower() in BLANK for value in values):
            return None
        if len(values) != np.prod(shape):
            raise HonneError(f"{name}: {len(values)} numbers instead of {np.prod(shape)}")
        return np.array(finite(values, name), np.float32).reshape(shape)

    def _votes(self, cells: dict[str, Any]) -> np.ndarray | None:
        votes = self._list(cells, "votes", (len(self.classes or self.schema.expressions),))
        if votes is None:
            return None
        if votes.min() < 0:
            raise HonneError(f"votes {votes.min():g} is less than 0")
        if not self.classes:
            return votes
        return np.bincount(self.classes, votes, len(self.schema.expressions)).astype(np.float32)

    def _box(self, cells: dict[str, Any]) -> np.ndarray | None:
        box = self._list(cells, "box", (4,))
        if box is not None and min(box[2:]) <= 0:
            raise HonneError(f"box is {box[2]:g} x {box[3]:g} px wide and high")
        return box

    def _units(self, cells: dict[str, Any], name: str, top: int) -> np.ndarray | None:
        """(A,) values of the schema's action units, NaN where not coded; None if none is."""
        if name not in self.columns:
            return None
        values = np.full(len(self.schema.action_units), np.nan, np.float32)
        for column in self.columns[name]:
            if str(cells[column]).strip().lower() in BLANK:
                continue
            value = finite([cells[column]], column)[0]
            if value in NOT_CODED:
                continue
            if not 0 <= value <= top or (name == "au" and value not in (0, 1)):
                raise HonneError(f"{column} is {value:g}", "0 or 1" if name == "au" else f"0 to {top}")
            values[self.schema.action_units.index(parse_action_unit(column))] = value
        return None if np.isnan(values).all() else values


def finite(values: Sequence[Any], name: str) -> list[float]:
    """The values as numbers; what is none, NaN or infinite raises `HonneError` with the name."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        raise HonneError(f"{name}: '{', '.join(map(str, values))}' is not a number") from None
    if not np.isfinite(numbers).all():
        raise HonneError(f"{name}: not finite")
    return numbers


def _columns(path: Path, wanted: Columns) -> dict[str, list[str]]:
    """Field of `Columns` -> the columns of this table that it takes."""
    have = columns_of(path)
    columns: dict[str, list[str]] = {}
    for field in fields(Columns):
        value, named = getattr(wanted, field.name), getattr(wanted, field.name) != field.default
        if field.name in ("au", "intensity"):
            found = _unit_columns(value, have)
        elif "," in value and value not in have:
            found = [part.strip() for part in value.split(",")]
            require_columns(have, found, str(path))
        elif value in have or named or field.name == "path":
            found = [value]
            require_columns(have, found, str(path))
        else:
            found = LISTS.get(field.name, []) if set(LISTS.get(field.name, [""])) <= set(have) else []
        if found:
            columns[field.name] = found
        elif named:
            raise HonneError(f"{path}: no column fits {field.name} = '{value}'; it has {', '.join(have)}.")
    return columns


def _plan(path: Path, wanted: Columns, label_set: str | None) -> Plan:
    columns = _columns(path, wanted)
    codes = codes_of(path, columns, label_set)
    votes = columns.get("votes", [])
    classes = [codes.expressions.index(codes.parse(name) or "") for name in votes] if codes and len(votes) > 1 else []
    units = dict.fromkeys(parse_action_unit(name) for name in columns.get("au", []) + columns.get("intensity", []))
    affect = "valence" in columns and "arousal" in columns
    return Plan(LabelSchema(codes.expressions if codes else (), tuple(units), affect), columns, codes, classes)


def _unit_columns(value: str, have: list[str]) -> list[str]:
    """Columns of action units: named one by one, or by a pattern with * for the number."""
    if "*" not in value:
        names = [part.strip() for part in value.split(",")]
        require_columns(have, names, "action units")
        return names
    pattern = re.escape(value).replace(r"\*", r"(\d+)") + ("" if value.endswith("_r") else "(_c)?")
    return [name for name in have if re.fullmatch(pattern, name, re.IGNORECASE)]


def codes_of(path: Path, columns: dict[str, list[str]], label_set: str | None) -> ExpressionSet | None:
    """The expressions that the table's labels or votes mean: as named, or found from what they say; `None`: neither."""
    if "label" not in columns and "votes" not in columns:
        return None
    if label_set:
        return expression_set(label_set)
    if len(columns.get("votes", [])) > 1:
        return expression_set(",".join(columns["votes"]))
    if "votes" in columns:
        raise WrongCall(
            f"{path}: column '{columns['votes'][0]}' holds lists of votes; of which classes?",
            "Pass --label-set, a set's name or class names separated by commas.",
        )
    column = columns["label"][0]
    labels: dict[str, str] = {}
    for where, cells in rows(path, [column]):
        text = str((cells or {}).get(column, "")).strip()
        if text.lower() not in BLANK:
            labels.setdefault(text, where)
    for label, where in labels.items():
        known_set([label], where)
    return known_set(labels)
