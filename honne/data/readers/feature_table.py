"""Your own features: a CSV or Parquet table with one row per clip and one column per number."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from honne.data.readers import Bad, ReaderInfo, Row
from honne.data.readers.archive import require_columns
from honne.data.readers.table import BLANK, Plan, codes_of, columns_of, finite, rows
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

COPIES = "report"
"""A few numbers may be the same by chance; a constant always is."""
FIELDS = ("id", "label", "valence", "arousal", "subject", "split", "domain", "video", "text")
"""What a column may hold beside features; also the names of the columns unless told otherwise."""
CONSTANT = "constant"
"""In place of columns: the same number in every row, as a modality that cannot say anything."""

INFO = ReaderInfo(
    name="feature_table",
    summary="your own features in a CSV or Parquet table, one row a clip and one column a number",
    expects="the table itself. --modalities.NAME says which columns are features, --columns.NAME what others hold.",
    contact="you",
    licence="not stated",
)


def schema(root: Path, *, columns: Mapping[str, str] | None = None, label_set: str | None = None) -> LabelSchema:
    """Classes of the label set, else those that occur; valence and arousal where there are columns of both."""
    return _plan(Path(root), columns, label_set).schema


def modalities(root: Path, *, modalities: Mapping[str, str] | None = None) -> dict[str, int]:
    """One feature for each column that is not empty throughout."""
    return {name: len(used.columns) or 1 for name, used in _used(Path(root), modalities).items()}


def features(root: Path, *, modalities: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The columns, in their order."""
    used = _used(Path(root), modalities)
    return {name: f"columns {', '.join(one.columns)}" if one.columns else "constant 1" for name, one in used.items()}


def notes(root: Path, *, modalities: Mapping[str, str] | None = None) -> list[str]:
    """Columns that were dropped and cells that were filled."""
    said = []
    for name, used in _used(Path(root), modalities).items():
        if used.empty:
            said.append(f"{name}: {len(used.empty)} columns without a number are dropped: {', '.join(used.empty)}.")
        if used.filled:
            counts = ", ".join(f"{column} {count:,}" for column, count in used.filled.items())
            said.append(f"{name}: empty cells became 0: {counts}.")
    return said


def read(
    root: Path,
    *,
    modalities: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    label_set: str | None = None,
) -> Iterator[Row | Bad]:
    """Rows of a CSV (comma, semicolon or tab) or Parquet table, as sequences of one step.

    Numbers stay as they are. A row whose cells of a modality are all empty lacks it. Other empty cells become 0: which
    rows are for training is not settled yet, so that a mean would have seen the test rows.

    Args:
        root: the table.
        modalities: name of a modality -> its columns: names, or ranges `first:last` in the order of the file, separated
            by commas; or `constant`, a single 1 in every row.
        columns: which column holds what: one of `FIELDS` -> column. Default: columns of these names.
        label_set: name of a set, or class names separated by commas, that labels are codes or names of. Default: names
            in any usual spelling.

    Raises:
        HonneError: the table or a column is missing, or the columns of a modality are all empty.
        WrongCall: no modalities, or something that is no field.
    """
    root = Path(root)
    plan, used = _plan(root, columns, label_set), _used(root, modalities)
    for number, (where, cells) in enumerate(rows(root), 1):
        if cells is None:
            yield Bad(where, "not as many cells as columns", kind="label")
            continue
        try:
            row = _row(plan, cells, f"{number:06d}")
            row.sequences = {name: one.values(cells) for name, one in used.items()}
        except HonneError as error:
            yield Bad(where, "wrong cell", str(error).replace("\n      ", ""), "label")
            continue
        if all(values is None for name, values in row.sequences.items() if used[name].columns):
            yield Bad(where, "no features of any modality", row.id, "rule")
            continue
        yield row


@dataclass
class _Used:
    """Columns of a modality; none of a constant one.

    Attributes:
        columns: those with numbers.
        empty: those without.
        filled: column -> how many empty cells in rows with other numbers.
    """

    columns: tuple[str, ...]
    empty: tuple[str, ...]
    filled: dict[str, int]

    def values(self, cells: Mapping[str, Any]) -> np.ndarray | None:
        """(1, D) numbers of a row; raises `HonneError` for a cell that is none."""
        if not self.columns:
            return np.ones((1, 1), np.float32)
        if all(_blank(cells[column]) for column in self.columns):
            return None
        numbers = [0.0 if _blank(cells[c]) else finite([cells[c]], c)[0] for c in self.columns]
        return np.array([numbers], np.float32)


def _blank(cell: Any) -> bool:
    return str(cell).strip().lower() in BLANK


def _plan(path: Path, wanted: Mapping[str, str] | None, label_set: str | None) -> Plan:
    """Which column holds what beside features."""
    have = columns_of(path)
    for name, column in (wanted or {}).items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(FIELDS)}."
            raise WrongCall(f"--columns.{name}: a table of features has no '{name}'.", hint)
        require_columns(have, [column], str(path))
    columns = {name: [column] for name in FIELDS if (column := (wanted or {}).get(name, name)) in have}
    codes = codes_of(path, columns, label_set)
    affect = "valence" in columns and "arousal" in columns
    return Plan(LabelSchema(codes.expressions if codes else (), (), affect), columns, codes, [])


def _row(plan: Plan, cells: dict[str, Any], number: str) -> Row:
    label = plan.text(cells, "label")
    return Row(
        plan.text(cells, "id") or number,
        split=plan.split(cells),
        subject=plan.text(cells, "subject"),
        domain=plan.text(cells, "domain"),
        video=plan.text(cells, "video"),
        text=plan.text(cells, "text"),
        expression=plan.codes.parse(label) if plan.codes and label is not None else None,
        valence=plan.affect(cells, "valence"),
        arousal=plan.affect(cells, "arousal"),
    )


def _used(path: Path, modalities: Mapping[str, str] | None) -> dict[str, _Used]:
    """Modality -> its columns, and what is empty in them."""
    have = columns_of(path)
    if not modalities:
        raise WrongCall(
            "reader 'feature_table' needs --modalities: which columns are features.",
            f"As --modalities.audio {have[0]}:{have[-1]}." if have else "",
        )
    chosen = {name: _columns(name, text, have, path) for name, text in modalities.items()}
    number = {column: i for i, column in enumerate(have)}
    blank = np.array([[_blank(cells[c]) for c in have] for _, cells in rows(path) if cells]).reshape(-1, len(have))
    return {name: _scanned(name, columns, blank[:, [number[c] for c in columns]]) for name, columns in chosen.items()}


def _scanned(name: str, columns: list[str], blank: np.ndarray) -> _Used:
    """What (rows, columns) blank cells make of a modality."""
    if not columns:
        return _Used((), (), {})
    empty = np.all(blank, axis=0)
    if np.all(empty):
        raise HonneError(f"--modalities.{name}: no number in any of its {len(columns)} columns.", "Name others.")
    counts = (blank & ~np.all(blank, axis=1, keepdims=True)).sum(0)
    pairs = list(zip(columns, empty.tolist(), counts.tolist(), strict=True))
    return _Used(
        tuple(column for column, none, _ in pairs if not none),
        tuple(column for column, none, _ in pairs if none),
        {column: count for column, none, count in pairs if count and not none},
    )


def _columns(name: str, text: str, have: list[str], path: Path) -> list[str]:
    """Columns of one modality, in the order named."""
    if not re.fullmatch(r"\w+", name):
        raise WrongCall(f"--modalities.{name}: '{name}' is no name.", "Letters, digits and _ make one.")
    if text.strip() == CONSTANT and CONSTANT not in have:
        return []
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        ends = [part] if part in have else [end.strip() for end in part.split(":", 1)]
        require_columns(have, ends, f"{path}, --modalities.{name}")
        first, last = have.index(ends[0]), have.index(ends[-1])
        if last < first:
            raise WrongCall(f"--modalities.{name}: {ends[0]} stands after {ends[1]} in {path}.", "Turn them round.")
        found += have[first : last + 1]
    if len(set(found)) < len(found):
        twice = next(column for column in found if found.count(column) > 1)
        raise WrongCall(f"--modalities.{name}: column '{twice}' is named twice.", "Name every column once.")
    return found
