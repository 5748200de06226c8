"""Feature sequences of several modalities on disk.

    DATA/sequences/<modality>/00000.arrow   columns `features` (T x D flattened), `length` T, `width` D

Row r of shard s is the same sample in every modality; the manifest's `sequence` column holds "0000s:r". A modality
that a sample lacks has length 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from honne.data.manifest import SHARD_BYTES, replacing
from honne.errors import HonneError


class SequenceWriter:
    """Packs feature sequences into Arrow shards of about 64 MiB.

    Args:
        folder: DATA/sequences.
        modalities: name -> number of features D.

    Example:
        with SequenceWriter(root / "sequences", {"text": 32, "audio": 16}) as sequences:
            reference = sequences.add({"text": words, "audio": None})
    """

    def __init__(self, folder: Path, modalities: Mapping[str, int]) -> None:
        self.folder, self.modalities = folder, dict(modalities)
        self.shard = self.size = 0
        self.pending: dict[str, list[np.ndarray]] = {name: [] for name in self.modalities}

    def add(self, sample: Mapping[str, np.ndarray | None]) -> str:
        """Store one sample.

        Args:
            sample: modality -> (T, D) features, or None where it is missing.

        Returns:
            The reference for the manifest's `sequence` column.

        Raises:
            HonneError: a shape that does not fit, or features that are not finite.
        """
        arrays = {}
        for name, width in self.modalities.items():
            given = sample.get(name)
            features = np.zeros((0, width), np.float32) if given is None else np.asarray(given, np.float32)
            if features.ndim != 2 or features.shape[1] != width:
                raise HonneError(f"{name}: features of shape {features.shape}, expected (T, {width}).")
            if not np.isfinite(features).all():
                step = int(np.flatnonzero(~np.isfinite(features).all(1))[0])
                raise HonneError(
                    f"{name}: step {step} has features that are not finite.", "Mend or leave out the sample."
                )
            arrays[name] = features
        unknown = set(sample) - set(self.modalities)
        if unknown:
            raise HonneError(f"unknown modality {', '.join(sorted(unknown))}; there are {', '.join(self.modalities)}.")
        size = sum(features.nbytes for features in arrays.values())
        if self.size + size > SHARD_BYTES and self.size:
            self.flush()
        for name, features in arrays.items():
            self.pending[name].append(features)
        self.size += size
        return f"{self.shard:05d}:{len(self.pending[name]) - 1}"

    def flush(self) -> None:
        """Write the pending samples as one shard of every modality."""
        for name, arrays in self.pending.items():
            offsets = np.cumsum([0, *(array.size for array in arrays)])
            flat = np.concatenate([array.ravel() for array in arrays])
            table = pa.table({
                "features": pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat, pa.float32())),
                "length": pa.array([len(array) for array in arrays], pa.int32()),
                "width": pa.array([self.modalities[name]] * len(arrays), pa.int32()),
            })  # fmt: skip
            with (
                replacing(self.folder / name / f"{self.shard:05d}.arrow") as path,
                pa.OSFile(str(path), "wb") as file,
                pa.ipc.new_file(file, table.schema) as writer,
            ):
                writer.write_table(table, max_chunksize=len(table))
            arrays.clear()
        self.shard, self.size = self.shard + 1, 0

    def __enter__(self) -> SequenceWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None and any(self.pending.values()):
            self.flush()


def sequence_statistics(samples: Iterable[Mapping[str, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Modality -> (D,) mean and standard deviation over all steps of some samples but those of nothing but zeros.

    Args:
        samples: modality -> (T, D) features of each.
    """
    sums: dict[str, np.ndarray] = {}
    for sample in samples:
        for name, values in sample.items():
            steps = values[(values != 0).any(1)].astype(np.float64)
            found = np.stack([np.full(values.shape[1], float(len(steps))), steps.sum(0), np.square(steps).sum(0)])
            sums[name] = sums[name] + found if name in sums else found
    result = {}
    for name, (count, total, squares) in sums.items():
        mean = total / np.maximum(count, 1)
        std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
        result[name] = (mean.astype(np.float32), std.astype(np.float32))
    return result


class SequenceReader:
    """Reads what `SequenceWriter` wrote, straight from memory maps.

    Args:
        folder: DATA/sequences.

    Attributes:
        modalities: names, sorted.

    Raises:
        HonneError: there are no sequences.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modalities = tuple(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else ()
        if not self.modalities:
            raise HonneError(f"{folder}: no feature sequences.", "This data set holds images only.")
        self._shards: dict[tuple[str, str], pa.RecordBatch] = {}

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_shards": {}}  # memory maps are reopened in every worker

    def read(self, reference: str) -> dict[str, np.ndarray]:
        """Modality -> (T, D) float32 features of one sample, not to be written to; T is 0 where it is missing."""
        shard, _, row = reference.partition(":")
        return {name: self._one(name, shard, int(row)) for name in self.modalities}

    def widths(self) -> dict[str, int]:
        """Modality -> number of features D."""
        return {name: int(self._shard(name, "00000").column("width")[0].as_py()) for name in self.modalities}

    def longest(self) -> dict[str, int]:
        """Modality -> steps of its longest sample."""
        shards = {name: sorted((self.folder / name).glob("*.arrow")) for name in self.modalities}
        return {
            name: max(int(pc.max(self._shard(name, path.stem).column("length")).as_py()) for path in paths)
            for name, paths in shards.items()
        }

    def _one(self, modality: str, shard: str, row: int) -> np.ndarray:
        batch = self._shard(modality, shard)
        width = batch.column("width")[row].as_py()
        return batch.column("features")[row].values.to_numpy().reshape(-1, width)

    def _shard(self, modality: str, shard: str) -> pa.RecordBatch:
        key = modality, shard
        if key not in self._shards:
            path = self.folder / modality / f"{shard}.arrow"
            if not path.is_file():
                raise HonneError(f"{path}: missing shard of sequences.", "Prepare the data set again.")
            self._shards[key] = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        return self._shards[key]
