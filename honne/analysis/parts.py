"""Rows on disk while an input is being read, so that an interrupted run goes on and memory stays small.

    OUT/.<name>.parts/analysis.json    what the parts belong to: input, model, settings
    OUT/.<name>.parts/00000.parquet    raw rows of the first `PART_FRAMES` frames
    OUT/.<name>.parts/00001.parquet    ... each carries what is needed to go on after it
    OUT/.<name>.parts/changed.parquet  all rows, once a temporal model has judged them

A part is written aside and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from honne.data.manifest import replacing

PART_FRAMES = 256
"""Frames of a part. Cuts are at multiples of this, so a run that goes on cuts and batches as an unbroken one does."""

_AFTER = b"after"


@dataclass(frozen=True)
class After:
    """Where reading stands after a part.

    Args:
        positions: frames analysed so far.
        next_frame: index of the first frame not read yet.
        tracker: state of the face tracker.
        ended: whether the input ended with this part.
    """

    positions: int = 0
    next_frame: int = 0
    tracker: dict[str, Any] = field(default_factory=dict)
    ended: bool = False


def now() -> str:
    """Time of day in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


class Parts:
    """The parts of one input.

    Args:
        folder: holds the parts; made when the first one is written.
        identity: what the parts belong to; parts of something else are thrown away.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder = folder
        self.identity = identity

    def open(self) -> None:
        """Keep parts of the same identity, remove others."""
        if self._note().get("of") == self.identity:
            return
        self.remove()
        with replacing(self.folder / "analysis.json") as path:
            path.write_text(json.dumps({"of": self.identity, "started": now()}), encoding="utf-8")

    def _note(self) -> dict[str, Any]:
        note = self.folder / "analysis.json"
        return json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}

    def started(self) -> str:
        """When the first part was begun."""
        return self._note()["started"]

    def path(self, number: int) -> Path:
        """File of one part."""
        return self.folder / f"{number:05d}.parquet"

    def has(self, number: int) -> bool:
        """Whether a part is there."""
        return self.path(number).is_file()

    def count(self) -> int:
        """Number of parts in an unbroken row from the first."""
        number = 0
        while self.has(number):
            number += 1
        return number

    def after(self, number: int) -> After:
        """Where reading stands after a part."""
        return After(**json.loads(pq.read_schema(self.path(number)).metadata[_AFTER]))

    def write(self, number: int, rows: pa.Table, after: After) -> None:
        """Write one part."""
        note = {_AFTER: json.dumps(asdict(after)).encode()}
        with replacing(self.path(number)) as path:
            pq.write_table(rows.replace_schema_metadata(note), path, compression="zstd")

    def read(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Rows of all parts, part by part, with all columns or some."""
        for number in range(self.count()):
            yield pq.read_table(self.path(number), columns=columns).replace_schema_metadata(None)

    def changed(
        self, change: Callable[[Iterator[pa.Table]], Iterator[pa.Table]], schema: pa.Schema
    ) -> Iterator[pa.Table]:
        """Rows of all parts after a change that takes long: made once, then read from a file beside the parts.

        Args:
            change: what to do with the stream of the parts.
            schema: of the changed rows.
        """
        file = self.folder / "changed.parquet"
        if not file.is_file():
            with replacing(file) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
                for rows in change(self.read()):
                    writer.write_table(rows.cast(schema))
        with pq.ParquetFile(file) as changed:
            for group in range(changed.num_row_groups):
                yield changed.read_row_group(group)

    def remove(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)
