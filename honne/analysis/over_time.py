"""What a temporal model says of each face: from frame features to signals, as a stream of rows with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from honne.analysis.pipeline import signals
from honne.analysis.smoothing import tracks
from honne.analysis.table import FEATURES, POSITION, Layout
from honne.data.windows import windows
from honne.models import Model

AWAY = 1.0
"""Seconds without a face after which its stretch ends: what it shows then is no context of what it showed before."""
BLOCK = 8  # windows that leave together; fixed by the stretch alone, so the last digits do not depend on parts


def over_time(parts: Iterable[pa.Table], model: Model, layout: Layout) -> Iterator[pa.Table]:
    """Raw rows with the signals of a temporal model, in the same order.

    A face's rows are cut into stretches where it was away for more than `AWAY` seconds of media time. The network sees
    windows of `model.length` consecutive rows of a stretch at steps of half that, the last one moved back to the end of
    the stretch, and a stretch shorter than a window padded; rows in several windows get the mean of their logits. A row
    leaves when all windows that show it, or an earlier row, are known.

    Args:
        parts: raw rows of one video with their `FEATURES`, in order.
        model: a temporal one.
        layout: of its tables.
    """
    stretches: dict[int, _Stretch] = {}
    waiting = _Waiting(layout)
    for part in parts:
        numbers, features = waiting.add(part.drop_columns([FEATURES])), _features(part)
        feature = np.cumsum(np.asarray(part["face"].is_valid())) - 1  # row -> its number among `features`
        positions, times = (part[name].to_numpy() for name in (POSITION, "time"))
        for face, rows in tracks(part).items():
            stretch = stretches.setdefault(face, _Stretch(model, layout))
            here, *later = np.split(rows, stretch.ends_before(positions[rows], times[rows]))
            stretch.add(numbers[here], features[feature[here]], positions[here], times[here])
            for piece in later:
                waiting.judged(stretch.leave(ended=True))
                stretch = stretches[face] = _Stretch(model, layout)
                stretch.add(numbers[piece], features[feature[piece]], positions[piece], times[piece])
            waiting.judged(stretch.leave(ended=False))
        for face in [face for face, stretch in stretches.items() if stretch.gone(positions, times)]:
            waiting.judged(stretches.pop(face).leave(ended=True))
        yield from waiting.take()
    for stretch in stretches.values():
        waiting.judged(stretch.leave(ended=True))
    yield from waiting.take()


def _features(part: pa.Table) -> Tensor:
    """(faces, F) of the rows with a face."""
    column = part[FEATURES].combine_chunks()
    faces = len(column) - column.null_count
    values = column.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.reshape(faces, -1 if faces else 0).copy())


@dataclass
class _Stretch:
    """Rows of one face, kept until nothing that comes can change what is said of them, and as context of later ones.

    Attributes:
        model, layout: as of `over_time`.
        position, time: of the last row.
        numbers: of the kept rows.
        features: (R, F) of the kept rows.
        first: number within the stretch of the first kept row; a multiple of the step.
        done: rows of the stretch that have left.
    """

    model: Model
    layout: Layout
    position: int | None = None
    time: float = 0.0
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    first: int = 0
    done: int = 0

    @property
    def step(self) -> int:
        return max(self.model.length // 2, 1)

    def ends_before(self, positions: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Which of the face's next rows (in order) begin a new stretch: frames were skipped, and for too long."""
        position, time = (positions[0], times[0]) if self.position is None else (self.position, self.time)
        return np.flatnonzero((np.diff(positions, prepend=position) > 1) & (np.diff(times, prepend=time) > AWAY))

    def gone(self, positions: np.ndarray, times: np.ndarray) -> bool:
        """Whether, after frames at these positions and times, any later row of the face would begin a new stretch."""
        return bool(len(positions)) and self.position != positions[-1] and times[-1] - self.time > AWAY

    def add(self, numbers: np.ndarray, features: Tensor, positions: np.ndarray, times: np.ndarray) -> None:
        """Append rows of the stretch."""
        if len(numbers):
            self.numbers = np.concatenate([self.numbers, numbers])
            self.features = torch.cat([self.features, features]) if len(self.features) else features
            self.position, self.time = int(positions[-1]), float(times[-1])

    def leave(self, ended: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and signals of the rows that can leave: blocks, and when the stretch has ended all the rest."""
        length, step = self.model.length, self.step
        context = (length - 1) // step * step  # a row is shown by windows that begin so much before it at most
        while self.first + len(self.numbers) >= self.done + BLOCK * step + length:  # the last window cannot reach back
            end = self.done + BLOCK * step
            yield self._judge(end, end - step + length)
            left = max(end - context, 0) - self.first
            self.numbers, self.features = self.numbers[left:], self.features[left:].clone()
            self.first, self.done = self.first + left, end
        end = self.first + len(self.numbers)
        if ended and end > self.done:
            yield self._judge(end, end)
            self.done = end

    def _judge(self, end: int, seen: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows up to `end` by windows over the kept rows up to `seen`, both counted within the stretch."""
        features = self.features[: seen - self.first]
        clips = windows(np.zeros(len(features), np.int64), self.model.length, self.step)
        prediction = self.model.over_time(features, torch.from_numpy(clips))
        leaving = slice(self.done - self.first, end - self.first)
        return self.numbers[leaving], signals(self.model, prediction, self.layout)[leaving]


class _Waiting:
    """Rows in their order, until they and all before them are judged."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.rows: pa.Table | None = None
        self.values = np.empty((0, len(layout.signals)), np.float32)
        self.known = np.empty(0, bool)
        self.first = 0  # number of the first waiting row

    def add(self, rows: pa.Table) -> np.ndarray:
        """Append rows; gives their numbers."""
        begin = self.first + len(self.known)
        self.rows = rows if self.rows is None else pa.concat_tables([self.rows, rows])
        self.values = np.concatenate([self.values, self.layout.matrix(rows)])
        self.known = np.concatenate([self.known, ~np.asarray(rows["face"].is_valid())])
        return np.arange(begin, begin + len(rows))

    def judged(self, said: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """Fill in what is now known: numbers of rows and their signals."""
        for numbers, values in said:
            self.values[numbers - self.first] = values
            self.known[numbers - self.first] = True

    def take(self) -> Iterator[pa.Table]:
        """The rows at the front that are known."""
        count = len(self.known) if self.known.all() else int(self.known.argmin())
        if self.rows is None or not count:
            return
        yield self.layout.with_matrix(self.rows.slice(0, count), self.values[:count])
        self.rows = self.rows.slice(count).combine_chunks()
        self.values, self.known = self.values[count:].copy(), self.known[count:].copy()
        self.first += count
