"""The one on-disk form of a prepared data set.

    DATA/manifest.parquet    one row per image or sequence
    DATA/images/00000.arrow  encoded PNG/JPEG bytes, memory-mapped; `image` "00000:17" is row 17 of that shard
    DATA/sequences/          feature sequences, one Arrow file per modality and shard
    DATA/schema.json         label schema, alignment, source, licence, reader, counts
    DATA/card.md             the same for people

Columns that a data set does not have are absent; *not labelled* is null or NaN, never a magic number.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from honne.errors import HonneError
from honne.labels import LabelSchema

SPLITS = ("train", "valid", "test")
SHARD_BYTES = 64 << 20

COLUMNS: dict[str, pa.DataType] = {
    "id": pa.string(),
    "split": pa.string(),
    "subject": pa.string(),
    "domain": pa.string(),
    "video": pa.string(),
    "time": pa.float64(),
    "image": pa.string(),
    "sequence": pa.string(),
    "box": pa.list_(pa.float32()),
    "landmarks": pa.list_(pa.float32()),
    "expression": pa.string(),
    "votes": pa.list_(pa.float32()),
    "target": pa.list_(pa.float32()),
    "valence": pa.float32(),
    "arousal": pa.float32(),
    "au": pa.list_(pa.float32()),
    "au_intensity": pa.list_(pa.float32()),
    "text": pa.string(),
    "emotions": pa.list_(pa.float32()),
    "sentiment": pa.float32(),
}
"""Manifest columns and their types. `landmarks` is 68 x 2 flattened (x0, y0, x1, ...), px of the stored image. `votes`
are counts as recorded, one per class; `target` is the distribution to learn, where the reader makes one. `emotions`:
one value per emotion of the schema, 1 present, 0 absent, NaN not labelled; `sentiment`: on the schema's scale."""


@dataclass
class DataSchema:
    """What `schema.json` holds.

    Attributes:
        name: of the data set.
        reader: name of the reader that made it.
        labels: label schema.
        alignment: `honne.faces.align.Alignment` as a dictionary; how faces are framed, so that analysis does the same.
        source: what was read, and the sha256 of each source file that carries labels.
        licence: terms of the data.
        options: reader options.
        counts: rows per split.
        version: honne's version.
        features: modality of the sequences -> how its features are made of a clip (`honne.features`), or what they are.
    """

    name: str
    reader: str
    labels: LabelSchema
    alignment: dict[str, Any] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    licence: str = "not stated"
    options: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    version: str = ""
    features: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Pretty-printed JSON."""
        return json.dumps(asdict(self) | {"labels": self.labels.to_dict()}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> DataSchema:
        """The inverse of `to_json`."""
        values = json.loads(text)
        return cls(**values | {"labels": LabelSchema.from_dict(values["labels"])})


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(file)


def _sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


class ImageWriter:
    """Packs encoded images into Arrow shards of about 64 MiB.

    Example:
        with ImageWriter(root / "images") as images:
            reference = images.add(png_bytes)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shard = 0
        self.pending: list[bytes] = []
        self.size = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, encoded: bytes) -> str:
        """Store one encoded image; returns the reference for the manifest's `image` column."""
        if self.size + len(encoded) > SHARD_BYTES and self.pending:
            self.flush()
        self.pending.append(encoded)
        self.size += len(encoded)
        return f"{self.shard:05d}:{len(self.pending) - 1}"

    def flush(self) -> None:
        """Write the pending images as one shard."""
        table = pa.table({"image": pa.array(self.pending, pa.large_binary())})
        with (
            replacing(self.folder / f"{self.shard:05d}.arrow") as path,
            pa.OSFile(str(path), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=len(table))
        self.shard, self.pending, self.size = self.shard + 1, [], 0

    def __enter__(self) -> ImageWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and self.pending:
            self.flush()


def write_manifest(root: Path, rows: pd.DataFrame, schema: DataSchema) -> None:
    """Write `manifest.parquet` and `schema.json` (images first, with `ImageWriter`)."""
    unknown = set(rows.columns) - set(COLUMNS)
    if unknown:
        raise ValueError(f"not manifest columns: {sorted(unknown)}")
    columns = [name for name in COLUMNS if name in rows.columns]
    table = pa.table({name: pa.array(rows[name].tolist(), COLUMNS[name], from_pandas=True) for name in columns})
    schema.counts = {split: int((rows["split"] == split).sum()) for split in SPLITS}
    with replacing(root / "manifest.parquet") as path:
        pq.write_table(table, path, compression="zstd")
    with replacing(root / "schema.json") as path:
        path.write_text(schema.to_json(), encoding="utf-8")


class PreparedData:
    """A prepared data set on disk.

    Args:
        root: folder written by `honne prepare`.

    Attributes:
        schema: `DataSchema`.
        rows: manifest as a DataFrame.

    Raises:
        HonneError: the folder is not a prepared data set.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        for name in ("schema.json", "manifest.parquet"):
            if not (self.root / name).is_file():
                raise HonneError(
                    f"{self.root}: not a prepared data set (no {name}).",
                    "Make one with `honne prepare READER ROOT --out DATA`; `honne prepare --list` names the readers.",
                )
        self.schema = DataSchema.from_json((self.root / "schema.json").read_text(encoding="utf-8"))
        self._shards: dict[str, pa.ChunkedArray] = {}

    @cached_property
    def rows(self) -> pd.DataFrame:
        return pq.read_table(self.root / "manifest.parquet").to_pandas()

    @cached_property
    def _references(self) -> list[str]:
        return self.rows["image"].tolist()  # many times faster to index than the frame

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_shards": {}}  # memory maps are reopened in every worker

    def split(self, name: str) -> np.ndarray:
        """Row numbers of a split.

        Raises:
            HonneError: the split is empty.
        """
        indices = np.flatnonzero(self.rows["split"].to_numpy() == name)
        if not len(indices):
            counts = ", ".join(f"{split} {n}" for split, n in self.schema.counts.items())
            raise HonneError(
                f"{self.root}: split '{name}' is empty ({counts}).", "Choose another split, or prepare one."
            )
        return indices

    def image_bytes(self, row: int) -> memoryview:
        """Encoded bytes of a row's image, straight from the memory map."""
        shard, _, position = self._references[row].partition(":")
        if shard not in self._shards:
            path = self.root / "images" / f"{shard}.arrow"
            if not path.is_file():
                raise HonneError(f"{path}: missing image shard.", "Prepare the data set again.")
            self._shards[shard] = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0)
        return memoryview(self._shards[shard][int(position)].as_buffer()).cast("B")

    def stack(self, column: str, indices: Iterable[int] | None = None) -> np.ndarray | None:
        """A column as one float32 array, NaN where not labelled; `None` if the data set has no such column.

        List columns give (N, K), missing lists rows of NaN.
        """
        if column not in self.rows:
            return None
        values = self.rows[column] if indices is None else self.rows[column].iloc[list(indices)]
        if not pa.types.is_list(COLUMNS[column]):
            return values.to_numpy(dtype=np.float32, na_value=np.nan)
        width = next((len(value) for value in values if value is not None), 0)
        blank = np.full(width, np.nan, np.float32)
        return np.stack([blank if value is None else value for value in values]).astype(np.float32)
