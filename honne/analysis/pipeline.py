"""From frames to raw rows: decode, find faces, crop, track, predict, all at the same time.

One thread decodes ahead, a few find and crop faces, the calling thread tracks and predicts. All queues are bounded.
Every step sees one frame at a time in order, or is independent of the others, so the rows do not depend on threads,
batch size or chunking.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from honne.analysis.parts import PART_FRAMES, After
from honne.analysis.table import FEATURES, WHERE, Layout
from honne.batch import Prediction
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.faces.face import Face
from honne.faces.finders import find_faces
from honne.faces.finders import finder as make_finder
from honne.faces.geometry import transform_points
from honne.faces.media import Frame
from honne.faces.quality import quality
from honne.faces.track import Tracker
from honne.models import CHUNK, Model

MAX_FINDERS = 4
DECODED_AHEAD = 4  # frames waiting for a finder; a 4K frame takes 25 MB


@dataclass
class Seen:
    """What was found in one frame."""

    source: str
    frame: int
    time: float
    size: tuple[int, int] = (0, 0)  # height and width of the picture, px
    error: str | None = None
    faces: list[Face] = field(default_factory=list)
    crops: list[np.ndarray] = field(default_factory=list)

    def landmarks(self, number: int, alignment: Alignment) -> np.ndarray:
        """(68, 2) px of the crop of one of the faces; NaN where they are unknown."""
        points = self.faces[number].landmarks
        if points is None:
            return np.full((68, 2), np.nan)
        return transform_points(alignment.matrix(np.empty((*self.size, 0)), self.faces[number]), points)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Watcher:
    """Finds the faces of frames, several frames at a time.

    Args:
        alignment: how faces are cropped.
        finder: name for `honne.faces.finders.finder`.

    Use as a context manager: the finders hold native resources.
    """

    def __init__(self, alignment: Alignment, finder: str) -> None:
        self.alignment = alignment
        self.threads = max(1, min(MAX_FINDERS, cores()))
        self._finder = make_finder(finder)
        self._pool = ThreadPoolExecutor(self.threads, "honne-faces")

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def watch(self, frames: Iterable[tuple[str, Frame]]) -> Iterator[Seen]:
        """Faces of every frame, found in parallel, given in order."""
        waiting: deque[Future[Seen]] = deque()
        ahead = _ahead(frames, DECODED_AHEAD)
        try:
            for source, frame in ahead:
                waiting.append(self._pool.submit(self._see, source, frame))
                if len(waiting) > self.threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            ahead.close()
            for future in waiting:
                future.cancel()

    def _see(self, source: str, frame: Frame) -> Seen:
        seen = Seen(source, frame.index, frame.time, error=frame.error)
        if frame.image is None:
            return seen
        seen.size = frame.image.shape[:2]
        try:
            seen.faces = find_faces(self._finder, source, frame.index, frame.image)
        except HonneError as error:
            seen.error = error.what
        for face in seen.faces:
            face.quality = quality(frame.image, face)
            seen.crops.append(self.alignment.crop(frame.image, face))
        return seen


class Analyst:
    """Turns frames into rows with one model and one kind of face finder.

    Args:
        model: any model of images.
        finder: name for `honne.faces.finders.finder`.
        batch_size: faces collected before the model is asked; rounded up to whole chunks of the model, so that the same
            faces always share a chunk and the last digit of a figure does not depend on it.
        layout: of the model's tables.

    Use as a context manager: the finders hold native resources.
    """

    def __init__(self, model: Model, finder: str, batch_size: int, layout: Layout) -> None:
        self.model = model
        self.batch_size = math.ceil(batch_size / CHUNK) * CHUNK
        self.layout = layout
        self._watcher = Watcher(model.alignment, finder)

    def __enter__(self) -> Analyst:
        return self

    def __exit__(self, *_: object) -> None:
        self._watcher.__exit__()

    def parts(
        self,
        frames: Iterable[tuple[str, Frame]],
        start: After,
        advance: Callable[[int], None] = lambda frame: None,
        over_time: bool = False,
    ) -> Iterator[tuple[pa.Table, After]]:
        """Raw rows in parts of `PART_FRAMES` frames, each with where reading stands after it.

        The last part has `ended` and may be empty.

        Args:
            frames: (source, frame) in order; a new source starts new tracks.
            start: where reading stands; `frames` begin with `start.next_frame`.
            advance: called with the number of every frame done.
            over_time: keep the frame features of a temporal model, with no signals yet, for `honne.analysis.over_time`.
        """
        tracker = Tracker.from_state(start.tracker) if start.tracker else Tracker()
        position, next_frame, source = start.positions, start.next_frame, ""
        rows = _Rows(self.model, self.layout, over_time)
        with _torch_threads(max(1, cores() - self._watcher.threads)):
            for seen in self._watcher.watch(frames):
                if source not in ("", seen.source):
                    tracker = Tracker()
                source, next_frame = seen.source, seen.frame + 1
                rows.add(position, seen, [] if seen.error else tracker.update(seen.faces, seen.time))
                position += 1
                advance(next_frame)
                while len(rows.crops) >= self.batch_size:
                    rows.predict(self.batch_size)
                if position % PART_FRAMES == 0:
                    yield rows.take(), After(position, next_frame, tracker.state())
            yield rows.take(), After(position, next_frame, tracker.state(), ended=True)


class _Rows:
    """Rows being collected; faces wait for the model in `crops`."""

    def __init__(self, model: Model, layout: Layout, over_time: bool) -> None:
        self.model = model
        self.layout = layout
        self.over_time = over_time
        self.rows: list[tuple[Any, ...]] = []
        self.said: list[np.ndarray] = []  # signals, or frame features
        self.crops: list[np.ndarray] = []
        self.where: list[int] = []

    def add(self, position: int, seen: Seen, tracks: list[int]) -> None:
        """One frame: a row for each face in the order of their tracks, or one row without a face."""
        before = (position, seen.source, seen.frame, seen.time)
        if not seen.faces:
            status = "error" if seen.error else "no_face"
            self.rows.append((*before, None, status, seen.error, *[None] * (len(WHERE) - 6)))
        for number in np.argsort(tracks, kind="stable"):
            face = seen.faces[number]
            pose = [None] * 3 if face.pose is None else face.pose.tolist()
            self.where.append(len(self.rows))
            self.crops.append(seen.crops[number])
            box = np.asarray(face.box).tolist()
            self.rows.append((*before, tracks[number], "ok", None, *box, face.score, face.quality, *pose))

    def predict(self, count: int) -> None:
        """Ask the model about the faces that have waited longest."""
        crops = np.stack(self.crops[:count])
        if self.over_time:
            self.said.append(self.model.frame_features(crops).numpy())
        else:
            self.said.append(signals(self.model, self.model.predict(crops), self.layout))
        del self.crops[:count]

    def take(self) -> pa.Table:
        """All rows so far, predicted; starts anew."""
        if self.crops:
            self.predict(len(self.crops))
        values = np.full((len(self.rows), len(self.layout.signals)), np.nan, np.float32)
        if self.where and not self.over_time:
            values[self.where] = np.concatenate(self.said)
        schema = self.layout.raw_schema
        columns = list(zip(*self.rows, strict=True)) or [()] * (len(WHERE) + 1)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=False)]
        arrays += [pa.array(column, pa.float32(), from_pandas=True) for column in values.T]
        table = pa.Table.from_arrays(arrays, schema=schema)
        if self.over_time:
            table = table.append_column(FEATURES, self._features())
        self.rows, self.said, self.where = [], [], []
        return table

    def _features(self) -> pa.Array:
        """A list of floats a row; null without a face."""
        there = np.zeros(len(self.rows), bool)
        there[self.where] = True
        features = np.concatenate(self.said) if self.said else np.empty((0, 0), np.float32)
        ends = np.concatenate([[0], np.cumsum(there) * features.shape[1]])
        floats = pa.array(features.ravel(), pa.float32())
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), floats, mask=pa.array(~there))


def signals(model: Model, prediction: Prediction, layout: Layout) -> np.ndarray:
    """(N, K) float32 figures in the order of `layout.signals`."""
    parts = []
    if prediction.expression is not None and layout.labels.expressions:
        parts += [prediction.expression.double().softmax(1), model.uncertainty(prediction)[:, None]]
    if prediction.valence_arousal is not None and layout.labels.valence_arousal:
        parts.append(prediction.valence_arousal.clamp(-1, 1))
    if prediction.action_units is not None and layout.labels.action_units:
        parts.append(prediction.action_units.double().sigmoid())
    if prediction.emotions is not None and layout.labels.emotions:
        parts.append(prediction.emotions.double().softmax(2)[:, :, 1])
    if prediction.sentiment is not None and layout.labels.sentiment:
        parts.append(prediction.sentiment.clamp(-layout.labels.sentiment, layout.labels.sentiment)[:, None])
    return torch.cat([part.double() for part in parts], 1).float().numpy()


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    """The finders use the cores; torch gets what is left, and what it had before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ahead(items: Iterable[Any], size: int) -> Generator[Any, None, None]:
    """The same items, made in a thread of their own up to `size` ahead."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    stop = threading.Event()

    def put(kind: str, item: Any) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                ready.put((kind, item), timeout=0.1)
                break

    def fill() -> None:
        try:
            for item in items:
                put("item", item)
                if stop.is_set():
                    break
            put("end", None)
        except BaseException as error:  # handed to the reader, whatever it is
            put("error", error)
        finally:
            if isinstance(items, Generator):
                items.close()  # here, where it ran: containers and cameras are let go at once

    thread = threading.Thread(target=fill, name="honne-decode", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
