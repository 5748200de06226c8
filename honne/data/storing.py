"""Writing a prepared data set: images and problems while rows come in, the rest at the end."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType

import pandas as pd
import pyarrow as pa

from honne.data.cropping import Stored
from honne.data.manifest import COLUMNS, SPLITS, DataSchema, ImageWriter
from honne.data.readers import Bad, ReaderInfo, Row
from honne.errors import HonneError
from honne.labels import LabelSchema

CHUNK = 2048
"""Manifest rows held as Python objects before they are packed."""


class Problems:
    """What gave no row: written to a CSV file at once, counted for the summary.

    Args:
        path: CSV file with the columns kind, reason, where, detail.
        skip_bad: leave out rows with a wrong label instead of raising.

    Attributes:
        counts: (kind, reason) -> how often.
    """

    def __init__(self, path: Path, skip_bad: bool) -> None:
        self.skip_bad = skip_bad
        self.counts: Counter[tuple[str, str]] = Counter()
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["kind", "reason", "where", "detail"])

    def add(self, bad: Bad) -> None:
        """Note one.

        Raises:
            HonneError: its label is wrong and such rows are not skipped.
        """
        if bad.kind == "label" and not self.skip_bad:
            sentence = (bad.detail or bad.reason).rstrip(".")
            raise HonneError(f"{bad.where}: {sentence}.", "Mend it, or pass --skip-bad to leave such rows out.")
        self.counts[bad.kind, bad.reason] += 1
        self._writer.writerow([bad.kind, bad.reason, bad.where, bad.detail])

    @property
    def failed(self) -> int:
        """Inputs that should have given a row."""
        return sum(count for (kind, _), count in self.counts.items() if kind != "rule")

    def __enter__(self) -> Problems:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def store(entries: Iterable[Stored | Bad], folder: Path, problems: Problems) -> pd.DataFrame:
    """Write images and note problems; memory grows by manifest rows only, packed.

    Args:
        entries: cropped rows.
        folder: of the data set.
        problems: takes every `Bad`, and rows whose id was there before.

    Returns:
        The manifest so far, without columns that no row fills. Equal pictures are stored once: same `image`.
    """
    references: dict[bytes, str] = {}
    seen: set[str] = set()
    packed: list[pa.Table] = []
    pending: list[Row] = []
    images: list[str] = []

    def pack() -> None:
        packed.append(_packed(pending, images))
        pending.clear()
        images.clear()

    with ImageWriter(folder / "images") as writer:
        for entry in entries:
            if isinstance(entry, Stored) and entry.row.id in seen:
                entry = Bad(entry.row.id, "id stands on two rows", kind="label")
            if isinstance(entry, Bad):
                problems.add(entry)
                continue
            seen.add(entry.row.id)
            if entry.fingerprint not in references:
                references[entry.fingerprint] = writer.add(entry.encoded)
            pending.append(entry.row)
            images.append(references[entry.fingerprint])
            if len(pending) == CHUNK:
                pack()
        pack()
    table = pa.concat_tables(packed)
    return table.select([name for name in table.column_names if table[name].null_count < len(table)]).to_pandas()


def _packed(rows: list[Row], images: list[str]) -> pa.Table:
    names = [field.name for field in fields(Row) if field.name in COLUMNS and field.name != "image"]
    columns = {name: [_flat(getattr(row, name)) for row in rows] for name in names} | {"image": images}
    return pa.table({name: pa.array(values, COLUMNS[name], from_pandas=True) for name, values in columns.items()})


def _flat(value: object) -> object:
    return value.ravel() if hasattr(value, "ravel") else value


def class_counts(rows: pd.DataFrame, expressions: Iterable[str]) -> list[list[str | int]]:
    """One line per class and one for rows without: name, count per split, sum."""
    if "expression" not in rows:
        return []
    label = rows["expression"].fillna("(no expression)")
    names = [*expressions, *(["(no expression)"] if rows["expression"].isna().any() else [])]
    counts = [[int(((label == name) & (rows["split"] == split)).sum()) for split in SPLITS] for name in names]
    return [[name, *line, sum(line)] for name, line in zip(names, counts, strict=True)]


def card(info: ReaderInfo, schema: DataSchema, rows: pd.DataFrame, problems: Problems, notes: list[str]) -> str:
    """What `card.md` says."""
    splits = [[split, int((rows["split"] == split).sum())] for split in SPLITS]
    classes = class_counts(rows, schema.labels.expressions)
    left_out = [[reason, kind, count] for (kind, reason), count in problems.counts.most_common()]
    parts = [
        f"# {schema.name}",
        info.summary + ".",
        f"Prepared by honne {schema.version}, reader `{schema.reader}`. Data: {info.contact}.",
        f"Licence: {schema.licence}.",
        _markdown(["split", "rows"], splits),
        _markdown(["expression", *SPLITS, "all"], classes) if classes else "",
        f"Action units: {', '.join(f'AU{unit}' for unit in schema.labels.action_units)}."
        if schema.labels.action_units
        else "",
        "Valence and arousal in [-1, 1]." if schema.labels.valence_arousal else "",
        "\n".join(f"- {note}" for note in notes),
        "Left out (one by one in `problems.csv`):\n\n" + _markdown(["reason", "kind", "count"], left_out)
        if left_out
        else "",
        "Labels are the apparent expression as raters saw it, not what a person felt."
        if schema.labels != LabelSchema()
        else f"{rows['subject'].nunique():,} people. Nothing is labelled but who is shown.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown(header: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    rows: list[Sequence[object]] = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows)
