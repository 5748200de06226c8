"""Following faces through a video, so that each keeps its number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from honne.faces.face import Face

PATIENCE = 1.0
"""Seconds for which a face may be away and still come back under its number; at least two sampling steps."""
REACH = 1.0
"""Largest cost of a match: distance of the centres in box sizes, per step of `STEP` seconds, plus change of size."""
STEP = 0.1
"""Seconds in which a face is expected to move by at most `REACH`; shorter gaps count as this."""


@dataclass
class _Track:
    number: int
    time: float
    box: np.ndarray
    speed: np.ndarray  # px per second of the centre


class Tracker:
    """Gives every face of a video a number that stays with it.

    Faces are matched to the tracks of the last second at the least total cost (Hungarian method): how far the centre is
    from where the track's motion puts it, in box sizes, plus how much the size changed. Positions alone are used: no
    appearance is stored, so nobody is recognised again after leaving for more than a second. Numbers are never reused.
    """

    def __init__(self) -> None:
        self._tracks: list[_Track] = []
        self._time: float | None = None
        self._step: float | None = None  # smallest time between two frames
        self._next = 0

    def update(self, faces: list[Face], time: float) -> list[int]:
        """Track numbers of the faces of the next frame.

        Args:
            faces: as found, in any order.
            time: of the frame, s; not before that of the frame before.
        """
        if self._time is not None and time > self._time:
            self._step = min(time - self._time, self._step or time - self._time)
        self._time = time
        patience = max(PATIENCE, 2 * (self._step or 0))
        self._tracks = [track for track in self._tracks if time - track.time <= patience]
        numbers = [-1] * len(faces)
        if faces and self._tracks:
            costs = self._costs(np.stack([face.box for face in faces]), time)
            for row, column in zip(*linear_sum_assignment(np.minimum(costs, 10 * REACH)), strict=True):
                if costs[row, column] <= REACH:
                    self._follow(self._tracks[row], faces[column].box, time)
                    numbers[column] = self._tracks[row].number
        for place, face in enumerate(faces):
            if numbers[place] < 0:
                numbers[place] = self._next
                self._tracks.append(_Track(self._next, time, np.asarray(face.box, float), np.zeros(2)))
                self._next += 1
        return numbers

    def _costs(self, boxes: np.ndarray, time: float) -> np.ndarray:
        """(tracks, faces) cost of each match."""
        last = np.stack([track.box for track in self._tracks])
        gap = np.array([time - track.time for track in self._tracks])
        speed = np.stack([track.speed for track in self._tracks])
        expected = last[:, :2] + last[:, 2:] / 2 + speed * np.minimum(gap, 2 * STEP)[:, None]
        size = np.sqrt(last[:, 2] * last[:, 3])
        distance = np.linalg.norm(expected[:, None] - (boxes[:, :2] + boxes[:, 2:] / 2)[None], axis=2)
        steps = np.sqrt(np.maximum(gap, STEP) / STEP)  # the longer unseen, the further it may have gone
        growth = np.abs(np.log(np.sqrt(boxes[:, 2] * boxes[:, 3])[None] / size[:, None]))
        return distance / (size * steps)[:, None] + growth

    def _follow(self, track: _Track, box: np.ndarray, time: float) -> None:
        moved = (box[:2] + box[2:] / 2) - (track.box[:2] + track.box[2:] / 2)
        gap = time - track.time
        track.speed = 0.5 * track.speed + 0.5 * moved / gap if gap > 0 else track.speed
        track.box, track.time = np.asarray(box, float), time

    def state(self) -> dict[str, Any]:
        """Everything that the next `update` depends on, as JSON values."""
        tracks = [[track.number, track.time, *track.box.tolist(), *track.speed.tolist()] for track in self._tracks]
        return {"next": self._next, "time": self._time, "step": self._step, "tracks": tracks}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Tracker:
        """The inverse of `state`."""
        tracker = cls()
        tracker._next, tracker._time, tracker._step = int(state["next"]), state["time"], state["step"]
        for number, time, *rest in state["tracks"]:
            tracker._tracks.append(_Track(int(number), time, np.array(rest[:4]), np.array(rest[4:])))
        return tracker
