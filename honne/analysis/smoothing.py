"""Smoothing what the model predicts along each face's track, as a stream of rows with bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from honne.analysis.settings import Smoothing
from honne.analysis.table import POSITION, Layout

FORGET = 1.0
"""Seconds after which exponential smoothing of a face that was away starts afresh."""


def smoothed(parts: Iterable[pa.Table], layout: Layout, smoothing: Smoothing) -> Iterator[pa.Table]:
    """The same rows with smoothed signals; the result does not depend on how the rows are cut into parts.

    Windows are centred and count analysed frames: `median:5` is the median over the rows of the same face in the two
    frames before, this one and the two after; frames in which the face was not seen count for nothing. Smoothed
    probabilities of the expressions are divided by their sum. Rows without a face pass unchanged.

    Args:
        parts: raw rows of one video, in order.
        layout: of the model's tables.
        smoothing: what to do.
    """
    if smoothing.kind == "none":
        yield from parts
    elif smoothing.kind == "exponential":
        yield from _exponential(parts, layout, smoothing.amount)
    else:
        yield from _windowed(parts, layout, smoothing)


def _windowed(parts: Iterable[pa.Table], layout: Layout, smoothing: Smoothing) -> Iterator[pa.Table]:
    """Rows leave once all frames that their window takes in have been read."""
    before, after = smoothing.reach
    average = np.median if smoothing.kind == "median" else np.mean
    kept: pa.Table | None = None
    done = -1  # last position that has left

    def leave(rows: pa.Table, last: int) -> pa.Table:
        positions = rows[POSITION].to_numpy()
        leaving = (positions > done) & (positions <= last)
        values = layout.matrix(rows)
        result = values.copy()
        for track in tracks(rows).values():
            where = positions[track]
            for row in track[leaving[track]]:
                first, end = np.searchsorted(where, (positions[row] - before, positions[row] + after + 1))
                result[row] = average(values[track[first:end]], axis=0)
        return _with_signals(rows.filter(pa.array(leaving)), layout, result[leaving])

    for part in parts:
        if not len(part):
            continue
        kept = part if kept is None else pa.concat_tables([kept, part])
        last = kept[POSITION][-1].as_py() - after
        yield leave(kept, last)
        done = max(done, last)
        kept = kept.filter(pc.greater(kept[POSITION], done - before)).combine_chunks()
    if kept is not None and len(kept):
        yield leave(kept, kept[POSITION][-1].as_py())


def _exponential(parts: Iterable[pa.Table], layout: Layout, weight: float) -> Iterator[pa.Table]:
    state: dict[int, tuple[float, np.ndarray]] = {}
    for part in parts:
        values = layout.matrix(part).astype(np.float64)
        times = part["time"].to_numpy()
        for row, face in enumerate(part["face"].to_pylist()):
            if face is None:
                continue
            seen, last = state.get(face, (-np.inf, values[row]))
            if times[row] - seen <= FORGET:
                values[row] = weight * values[row] + (1 - weight) * last
            state[face] = times[row], values[row]
        yield _with_signals(part, layout, values)


def tracks(rows: pa.Table) -> dict[int, np.ndarray]:
    """Face -> its row numbers, in order."""
    faces = rows["face"].fill_null(-1).to_numpy()
    return {int(face): np.flatnonzero(faces == face) for face in np.unique(faces) if face >= 0}


def _with_signals(rows: pa.Table, layout: Layout, values: np.ndarray) -> pa.Table:
    classes = len(layout.probabilities)
    if classes:
        values[:, :classes] /= values[:, :classes].sum(1, keepdims=True)
    return layout.with_matrix(rows, values)
