"""Writing a prepared data set: images or sequences, and problems, while rows come in; the rest at the end."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Literal, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.markup import escape

from honne import console
from honne.data.cropping import Stored
from honne.data.manifest import COLUMNS, SPLITS, DataSchema, ImageWriter
from honne.data.readers import Bad, ReaderInfo, Row
from honne.data.sequences import SequenceWriter
from honne.errors import HonneError
from honne.labels import LabelSchema

_MEANING = {"rule": "by rule", "image": "file failed", "label": "wrong label"}
CHUNK = 2048
"""Manifest rows held as Python objects before they are packed."""


@contextmanager
def building(out: Path, overwrite: bool) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its place only when the block ends without an error."""
    aside, old = (out.with_name(f".{out.name}.{suffix}") for suffix in ("part", "old"))
    _tidy(out, aside, old)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise HonneError(f"{out}: already exists.", "Name another folder, or pass --overwrite to replace it.")
    try:
        aside.mkdir(parents=True)
        yield aside
        if out.exists():
            out.replace(old)
        aside.replace(out)
    finally:
        _tidy(out, aside, old)


def _tidy(out: Path, aside: Path, old: Path) -> None:
    """Remove what a stopped run left, and put back what it had only moved away."""
    if old.exists() and not out.exists():
        old.replace(out)
    for leftover in (aside, old):
        shutil.rmtree(leftover, ignore_errors=True)


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
    with ImageWriter(folder / "images") as writer:

        def keep(entry: Stored) -> str:
            if entry.fingerprint not in references:
                references[entry.fingerprint] = writer.add(entry.encoded)
            return references[entry.fingerprint]

        return _manifest(entries, "image", lambda entry: entry.row, keep, problems)


def store_sequences(
    entries: Iterable[Row | Bad], folder: Path, widths: Mapping[str, int], problems: Problems
) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """As `store`, for rows with `sequences`.

    Args:
        entries: rows.
        folder: of the data set.
        widths: modality -> number of features.
        problems: takes every `Bad`, rows whose id was there before, and features that cannot be stored.

    Returns:
        the manifest so far, and reference -> modality -> steps. Equal sequences are stored once: same `sequence`.
    """
    references: dict[bytes, str] = {}
    lengths: dict[str, dict[str, int]] = {}
    with SequenceWriter(folder / "sequences", widths) as writer:

        def keep(row: Row) -> str:
            sequences = row.sequences or {}
            fingerprint = _fingerprint(sequences)
            if fingerprint not in references:
                reference = references[fingerprint] = writer.add(sequences)
                steps = {name: sequences.get(name) for name in widths}
                lengths[reference] = {name: 0 if found is None else len(found) for name, found in steps.items()}
            return references[fingerprint]

        return _manifest(entries, "sequence", lambda row: row, keep, problems), lengths


def _fingerprint(sequences: Mapping[str, np.ndarray | None]) -> bytes:
    """Equal for equal sequences."""
    digest = hashlib.blake2b(digest_size=16)
    for name, features in sorted(sequences.items()):
        if features is not None:
            digest.update(f"{name} {features.shape} ".encode() + np.asarray(features, np.float32).tobytes())
    return digest.digest()


Entry = TypeVar("Entry")


def _manifest(
    entries: Iterable[Entry | Bad],
    column: Literal["image", "sequence"],
    row_of: Callable[[Entry], Row],
    keep: Callable[[Entry], str],
    problems: Problems,
) -> pd.DataFrame:
    """The rows of entries, with what `keep` says of each in `column`; without columns that no row fills."""
    seen: set[str] = set()
    packed: list[pa.Table] = []
    pending: list[Row] = []
    references: list[str] = []

    def pack() -> None:
        packed.append(_packed(pending, column, references))
        pending.clear()
        references.clear()

    for entry in entries:
        if isinstance(entry, Bad):
            problems.add(entry)
            continue
        row = row_of(entry)
        if row.id in seen:
            problems.add(Bad(row.id, "id stands on two rows", kind="label"))
            continue
        try:
            reference = keep(entry)
        except HonneError as error:
            problems.add(Bad(row.id, "features that cannot be stored", error.what))
            continue
        seen.add(row.id)
        row.sequences = None  # written; the row waits to be packed
        pending.append(row)
        references.append(reference)
        if len(pending) == CHUNK:
            pack()
    pack()
    table = pa.concat_tables(packed)
    return table.select([name for name in table.column_names if table[name].null_count < len(table)]).to_pandas()


def _packed(rows: list[Row], column: str, references: list[str]) -> pa.Table:
    names = [field.name for field in fields(Row) if field.name in COLUMNS and field.name != "image"]
    columns = {name: [_flat(getattr(row, name)) for row in rows] for name in names} | {column: references}
    return pa.table({name: pa.array(values, COLUMNS[name], from_pandas=True) for name, values in columns.items()})


def _flat(value: object) -> object:
    return value.ravel() if hasattr(value, "ravel") else value


def class_counts(rows: pd.DataFrame, labels: LabelSchema) -> list[list[str | int]]:
    """One line per class, one for rows without, and one per emotion: name, count per split, sum."""
    return _expressions(rows, labels.expressions) + _emotions(rows, labels.emotions)


def _emotions(rows: pd.DataFrame, emotions: Sequence[str]) -> list[list[str | int]]:
    if "emotions" not in rows or not emotions:
        return []
    blank = np.full(len(emotions), np.nan)
    present = np.stack([blank if value is None else value for value in rows["emotions"]]) == 1
    counts = [[int(present[rows["split"] == split, i].sum()) for split in SPLITS] for i in range(len(emotions))]
    return [[name, *line, sum(line)] for name, line in zip(emotions, counts, strict=True)]


def _expressions(rows: pd.DataFrame, expressions: Iterable[str]) -> list[list[str | int]]:
    if "expression" not in rows:
        return []
    label = rows["expression"].fillna("(no expression)")
    names = [*expressions, *(["(no expression)"] if rows["expression"].isna().any() else [])]
    counts = [[int(((label == name) & (rows["split"] == split)).sum()) for split in SPLITS] for name in names]
    return [[name, *line, sum(line)] for name, line in zip(names, counts, strict=True)]


def sequence_table(rows: pd.DataFrame, widths: Mapping[str, int], lengths: dict[str, dict[str, int]]) -> str:
    """Markdown: every modality's width, steps, and how many rows lack it; empty where there are no sequences.

    Args:
        rows: manifest.
        widths: modality -> number of features.
        lengths: as `store_sequences` gives them.
    """
    header = ["modality", "features", "steps: median", "least", "most", "rows without"]
    lines: list[Sequence[object]] = []
    for name, width in widths.items():
        steps = np.array([lengths[reference][name] for reference in rows["sequence"]])
        have = steps[steps > 0]
        extent = [f"{np.median(have):g}", have.min(), have.max()] if len(have) else ["", "", ""]
        lines.append([name, width, *extent, int((steps == 0).sum())])
    return _markdown(header, lines) if lines else ""


def say(out: Path, rows: pd.DataFrame, labels: LabelSchema, problems: Problems, notes: Iterable[str]) -> None:
    """Print rows by class and split, the reader's notes, and what was left out and why."""
    counts = [int((rows["split"] == split).sum()) for split in SPLITS]
    lines = class_counts(rows, labels)
    lines.append(["all rows", *counts, len(rows)])
    console.say(console.table(escape(str(out)), ["", *SPLITS, "all"], lines))
    for note in notes:
        console.say(escape(note))
    if problems.counts:
        left = ((count, reason, _MEANING[kind]) for (kind, reason), count in problems.counts.most_common())
        console.say(console.table("left out (one by one in problems.csv)", ["rows", "reason", "kind"], left))


def card(
    info: ReaderInfo, schema: DataSchema, rows: pd.DataFrame, problems: Problems, notes: list[str], sequences: str = ""
) -> str:
    """What `card.md` says; `sequences` as `sequence_table` gives it."""
    splits = [[split, int((rows["split"] == split).sum())] for split in SPLITS]
    classes = class_counts(rows, schema.labels)
    left_out = [[reason, kind, count] for (kind, reason), count in problems.counts.most_common()]
    parts = [
        f"# {schema.name}",
        info.summary + ".",
        f"Prepared by honne {schema.version}, reader `{schema.reader}`. Data: {info.contact}.",
        f"Licence: {schema.licence}.",
        _markdown(["split", "rows"], splits),
        _markdown(["expression" if schema.labels.expressions else "emotion", *SPLITS, "all"], classes)
        if classes
        else "",
        f"Action units: {', '.join(f'AU{unit}' for unit in schema.labels.action_units)}."
        if schema.labels.action_units
        else "",
        "Valence and arousal in [-1, 1]." if schema.labels.valence_arousal else "",
        f"Sentiment in [-{schema.labels.sentiment:g}, {schema.labels.sentiment:g}]." if schema.labels.sentiment else "",
        sequences,
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
