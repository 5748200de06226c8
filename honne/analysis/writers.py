"""Finished tables on disk: Parquet, CSV or JSON lines, streamed; column names of honne or of OpenFace."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from honne.analysis.settings import Format, Names
from honne.analysis.table import Layout, to_pandas
from honne.errors import HonneError


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Turns what the operating system says about writing into one clear sentence.

    Raises:
        HonneError: disk full, no permission, or anything else that stops the writing.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HonneError(
                f"{where}: the disk is full.",
                "Free some space and run the same command again; it goes on where it stopped.",
            ) from error
        raise HonneError(f"{where}: cannot be written ({error.strerror or error}).", "Choose another --out.") from error


class _JsonLines:
    """One JSON object a line."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write_table(self, rows: pa.Table) -> None:
        lines = to_pandas(rows).to_json(orient="records", lines=True, force_ascii=False, double_precision=9)
        self.file.write(lines.encode())

    def close(self) -> None:
        """Nothing is held back."""


def write_table(path: Path, parts: Iterable[pa.Table], layout: Layout, file_format: Format, names: Names) -> None:
    """Write rows as they come; memory holds one part.

    Args:
        path: of the file.
        parts: decided rows with the columns of `layout`, in any order and with others.
        layout: of the table.
        file_format: of the file.
        names: of the columns.
    """
    wanted = [column.name for column in layout.columns]
    schema = layout.schema if names == "honne" else openface(layout.schema.empty_table(), layout).schema
    with path.open("wb") as file:
        writer: Any
        if file_format == "parquet":
            writer = pq.ParquetWriter(file, schema, compression="zstd")
        elif file_format == "csv":
            writer = pa.csv.CSVWriter(file, schema)
        else:
            writer = _JsonLines(file)
        try:
            for part in parts:
                rows = part.select(wanted).cast(layout.schema)
                if len(rows):
                    writer.write_table(rows if names == "honne" else openface(rows, layout))
        finally:
            writer.close()


def openface(rows: pa.Table, layout: Layout) -> pa.Table:
    """The rows under OpenFace 2's column names, first those it has, then ours that it lacks.

    Frames count from 1; angles are radians about the camera's axes (x right, y down, z away), so a lifted head has a
    negative `pose_Rx` and a head turned to image right a negative `pose_Ry`; `success` is 1 where a face was found.
    Only presence (`AU01_c`) is filled: intensities (`AU01_r`) are not what the models predict.
    """
    found = rows["face"].is_valid().cast(pa.int32())
    columns: dict[str, Any] = {
        "frame": pc.add(rows["frame"], 1),
        "face_id": rows["face"],
        "timestamp": rows["time"],
        "confidence": rows["face_score"].fill_null(0),
        "success": found,
        "pose_Rx": _radians(rows["pitch"], -1),
        "pose_Ry": _radians(rows["yaw"], -1),
        "pose_Rz": _radians(rows["roll"], 1),
    }
    for unit in layout.labels.action_units:
        columns[f"AU{unit:02d}_c"] = rows[f"au{unit:02d}_on"].cast(pa.int32())
    replaced = {"frame", "face", "time", "face_score", "yaw", "pitch", "roll"}
    replaced |= {f"au{unit:02d}_on" for unit in layout.labels.action_units}
    columns |= {name: rows[name] for name in rows.column_names if name not in replaced}
    return pa.table(columns, metadata=rows.schema.metadata)


def _radians(degrees: pa.ChunkedArray, sign: int) -> pa.ChunkedArray:
    return pc.multiply(degrees, pa.scalar(sign * np.pi / 180, pa.float32()))
