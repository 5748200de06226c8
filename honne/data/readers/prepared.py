"""A data set that honne prepared before: to crop it anew, or to give it landmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from honne.data import readers
from honne.data.manifest import COLUMNS, PreparedData
from honne.data.readers import Bad, ReaderInfo, Row
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import LabelSchema

INFO = ReaderInfo(
    name="prepared",
    summary="a data set that honne prepared before, every row and column as it is",
    expects="a folder written by honne prepare, with images.",
    contact="whoever prepared it; its card.md says more",
    licence="as its schema.json says",
    label_files=("manifest.parquet", "schema.json"),
)
COPIED = [field.name for field in fields(Row) if field.name in COLUMNS and field.name != "image"]


def schema(root: Path) -> LabelSchema:
    """What the data set is labelled with."""
    return PreparedData(root).schema.labels


def alignment(root: Path) -> Alignment:
    """The stored pictures as they are."""
    return framing(root).as_delivered()


def framing(root: Path) -> Alignment:
    """How its faces are framed."""
    return Alignment.from_dict(PreparedData(root).schema.alignment)


def info(root: Path) -> ReaderInfo:
    """What the reader that made it says of it, and the licence it carries."""
    schema = PreparedData(root).schema
    made = readers.get(schema.reader).INFO if schema.reader in readers.names() else INFO
    return replace(made, name=schema.reader, licence=schema.licence, label_files=INFO.label_files)


def read(root: Path) -> Iterator[Row | Bad]:
    """Rows of a prepared data set, with their encoded images.

    Raises:
        HonneError: ROOT is not a prepared data set, or one without images.
    """
    data = PreparedData(root)
    if "image" not in data.rows:
        raise HonneError(f"{root}: holds no images.", "Only data sets of faces can be prepared again.")
    columns = {name: data.rows[name].tolist() for name in COPIED if name in data.rows}
    for number in range(len(data)):
        values = {name: _value(name, column[number]) for name, column in columns.items()}
        yield Row(**values, image=bytes(data.image_bytes(number)))


def _value(name: str, value: Any) -> Any:
    """A cell as a row holds it: None for none, arrays for lists."""
    if pa.types.is_list(COLUMNS[name]):
        return value.reshape(68, 2) if name == "landmarks" and value is not None else value
    return None if isinstance(value, float) and np.isnan(value) else value
