"""A face's own resting level, and how far each row is from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from honne.analysis.settings import Baseline
from honne.analysis.table import POSITION, Layout


@dataclass
class _Track:
    """What is known of one face while rows pass."""

    time: float
    position: int
    rows: list[np.ndarray] = field(default_factory=list)


class Baselines:
    """Median of every correctable signal during the first part of each face's track.

    The window is counted from the face's first row. Only rows with status `ok` count. A face without such a row in its
    window has no baseline: its corrected columns are null.

    The same subtraction serves valence, arousal, action units and probabilities alike: a corrected probability is a
    difference in -1..1, "so much more probable than in this face at rest", and no longer a probability. Ratios or
    logits would turn a resting probability near zero into a huge and meaningless change.

    Args:
        baseline: which part.
        layout: of the model's tables.
    """

    def __init__(self, baseline: Baseline, layout: Layout) -> None:
        self.baseline = baseline
        self.layout = layout
        self.medians: dict[int, np.ndarray] = {}

    def collect(self, parts: Iterable[pa.Table]) -> Baselines:
        """Learn the baselines of all faces from decided rows; returns self."""
        tracks: dict[int, _Track] = {}
        for part in parts:
            values = self.layout.matrix(part, self.layout.correctable)
            columns = (part[name].to_pylist() for name in ("face", "time", POSITION, "status"))
            for row, (face, time, position, status) in enumerate(zip(*columns, strict=True)):
                if face is None or face in self.medians:
                    continue
                track = tracks.setdefault(face, _Track(time, position))
                passed = time - track.time if self.baseline.unit == "s" else position - track.position
                if passed >= self.baseline.length:
                    self._settle(face, tracks.pop(face))
                elif status == "ok":
                    track.rows.append(values[row])
        for face, track in tracks.items():
            self._settle(face, track)
        return self

    def _settle(self, face: int, track: _Track) -> None:
        blank = np.full(len(self.layout.correctable), np.nan, np.float32)
        self.medians[face] = np.median(track.rows, axis=0).astype(np.float32) if track.rows else blank

    def apply(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """The rows with their corrected columns."""
        blank = np.full(len(self.layout.correctable), np.nan, np.float32)
        for part in parts:
            faces = part["face"].to_pylist()
            medians = np.array([self.medians.get(face, blank) for face in faces], np.float32).reshape(len(faces), -1)
            yield self.layout.with_corrected(part, self.layout.matrix(part, self.layout.correctable) - medians)
