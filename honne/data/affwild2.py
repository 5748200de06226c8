"""Labels of video frames as Aff-Wild2 and the ABAW challenges write them.

A video has a folder of face crops, `<video>/00001.jpg` and so on, numbered from 1; a frame without a detected face has
none. Labels are invalid where they are -1 (action units, expression) or -5 (valence, arousal); here they are NaN.

Source: Kollias & Zafeiriou, "Expression, affect, action unit recognition: Aff-Wild2, multi-task learning and ArcFace",
BMVC 2019; the layouts are those of the ABAW challenges of 2020 to 2025.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from honne.data.readers import Bad, Row
from honne.errors import WrongCall
from honne.labels import LabelSchema

Task = Literal["expression", "action_units", "valence_arousal"]
Tasks = Literal["all", "expression", "action_units", "valence_arousal"]
Partial = Literal["keep", "drop"]
Thin = Literal["none", "published"]
TASKS: tuple[Task, ...] = ("expression", "action_units", "valence_arousal")
FPS = 30.0
"""Nominal; the videos' own rates differ."""
SPLIT_RANK = {"train": 0, "valid": 1}
"""Of several splits the last counts: what is held out of one task is not trained on for another."""
THINNED_CLASSES = (("neutral", 10), ("happiness", 2), ("sadness", 2))
THINNED_VALENCE_AROUSAL = 5
INVALID_VALENCE_AROUSAL = -5
_PLACES = ("path", "video", "frame", "split")


@dataclass(frozen=True)
class FrameLabels:
    """Labels of N frames.

    Attributes:
        path: (N,) str, `<video>/00001.jpg`.
        video: (N,) str.
        frame: (N,) int64 number of the frame, from 1.
        split: (N,) str.
        values: task -> (N, K) float32, NaN where not labelled: class index (K = 1); 1 or 0 per action unit; valence
            and arousal in [-1, 1].
        labels: what indices and columns stand for.
    """

    path: np.ndarray
    video: np.ndarray
    frame: np.ndarray
    split: np.ndarray
    values: dict[Task, np.ndarray]
    labels: LabelSchema

    @property
    def mask(self) -> dict[Task, np.ndarray]:
        """Task -> (N, K) bool, what is labelled."""
        return {task: ~np.isnan(values) for task, values in self.values.items()}

    @property
    def labelled(self) -> np.ndarray:
        """(N,) bool, frames with a label of any task."""
        return np.array(np.concatenate([*self.mask.values(), np.zeros((len(self.path), 1), bool)], axis=1).any(1))

    def __getitem__(self, index: np.ndarray) -> FrameLabels:
        """Some of the frames, by positions or a mask."""
        values = {task: values[index] for task, values in self.values.items()}
        return FrameLabels(
            self.path[index], self.video[index], self.frame[index], self.split[index], values, self.labels
        )

    @classmethod
    def of(cls, parts: Sequence[FrameLabels]) -> FrameLabels:
        """Parts of one task and the same labels, one after another; at least one."""
        path, video, frame, split = (np.concatenate([getattr(part, name) for part in parts]) for name in _PLACES)
        values = {task: np.concatenate([part.values[task] for part in parts]) for task in parts[0].values}
        return cls(path, video, frame, split, values, parts[0].labels)


def rows_of(labels: FrameLabels, images: Iterable[Path], fps: float) -> Iterator[Row]:
    """Rows of frames with their pictures; the id is the path without its suffix.

    Args:
        labels: of N frames.
        images: N files.
        fps: frames per second, for the time: frame 1 is at 0 s.
    """
    columns = {task: values.tolist() for task, values in labels.values.items()}
    coded: dict[Task, Any] = {task: mask.any(1).tolist() for task, mask in labels.mask.items()}
    times, names = ((labels.frame - 1) / fps).tolist(), labels.labels.expressions
    paths, videos, splits = labels.path.tolist(), labels.video.tolist(), labels.split.tolist()
    for i, (path, image) in enumerate(zip(paths, images, strict=True)):
        name = os.path.splitext(path)[0]  # noqa: PTH122 - millions of them
        row = Row(name, image, splits[i], subject(videos[i]), video=videos[i], time=times[i])
        if "expression" in coded and coded["expression"][i]:
            row.expression = names[int(columns["expression"][i][0])]
        if "action_units" in coded and coded["action_units"][i]:
            row.au = labels.values["action_units"][i]
        if "valence_arousal" in coded and coded["valence_arousal"][i]:
            row.valence, row.arousal = columns["valence_arousal"][i]
        yield row


def subject(video: str) -> str:
    """Who is in a video, as far as its name tells: two faces of one video are `_left` and `_right`."""
    return re.sub("_(left|right)$", "", video)


def require_fps(fps: float) -> None:
    """Raise `WrongCall` unless it is above 0."""
    if not fps > 0:
        raise WrongCall(f"--fps {fps:g} is not above 0.")


# --- values ------------------------------------------------------------------------------------------------------


def numbers(lines: Sequence[str], columns: int, where: str, first: int) -> tuple[np.ndarray, list[Bad]]:
    """(R, columns) of R lines of numbers with commas between them, NaN on lines that are wrong, and these.

    Args:
        lines: without the header.
        columns: how many numbers a line has.
        where: the file, for messages.
        first: number of the first line in it.
    """
    try:
        values = np.loadtxt(lines, np.float32, delimiter=",", comments=None, ndmin=2)
        if values.shape == (len(lines), columns) and np.isfinite(values).all():
            return values, []
    except ValueError:
        pass
    values, wrong = np.full((len(lines), columns), np.nan, np.float32), []
    for i, line in enumerate(lines):
        cells = line.split(",")
        try:
            found = np.array(cells, np.float32)
        except ValueError:
            found = np.full(len(cells), np.nan)
        if len(cells) != columns:
            detail = f"{len(cells)} numbers where the header names {columns}"
            wrong.append(Bad(f"{where}, line {first + i}", "wrong number of columns", detail, "label"))
        elif not np.isfinite(found).all():
            wrong.append(Bad(f"{where}, line {first + i}", "not numbers", f"'{line.strip()}' is not numbers", "label"))
        else:
            values[i] = found
    return values, wrong


def valid_values(
    task: Task, raw: np.ndarray, classes: int, partial: Partial, where: str, first: int, unit: str = "line"
) -> tuple[np.ndarray, list[Bad]]:
    """(R, K) with NaN for what is invalid, and the lines with values that cannot be.

    Args:
        task: which values they are.
        raw: (R, K) as in the file; NaN is invalid.
        classes: number of expressions.
        partial: where some action units of a row are invalid: `keep` the others, or `drop` the row, as the original
            does. Valence and arousal need each other in either case.
        where: the file, for messages.
        first: number of the first line in it.
        unit: what is counted.
    """
    if task == "valence_arousal":
        invalid = np.isnan(raw) | (raw == INVALID_VALENCE_AROUSAL)
        possible = invalid | (np.abs(raw) <= 1)
        invalid = np.repeat(invalid.any(1, keepdims=True), raw.shape[1], 1)
    else:
        invalid = np.isnan(raw) | (raw == -1)
        possible = invalid | ((raw >= 0) & (raw < (classes if task == "expression" else 2)) & (raw == np.round(raw)))
    if partial == "drop":
        invalid = np.repeat(invalid.any(1, keepdims=True), raw.shape[1], 1)
    allowed = {
        "expression": f"0 to {classes - 1}, or -1",
        "action_units": "0, 1 or -1",
        "valence_arousal": "in -1..1, or -5",
    }[task]
    wrong = [
        Bad(
            f"{where}, {unit} {first + row}",
            "label out of range",
            f"{raw[row][~possible[row]][0]:g} is not {allowed}",
            "label",
        )
        for row in np.flatnonzero(~possible.all(1)).tolist()
    ]
    return np.where(invalid | ~possible.all(1, keepdims=True), np.nan, raw).astype(np.float32), wrong


# --- thinning ----------------------------------------------------------------------------------------------------


def thinned_expressions(expressions: np.ndarray) -> np.ndarray:
    """Positions of the N training frames that are kept: every tenth of neutral, every other of happiness and sadness.

    As published: a neutral frame stays only where its position divides by 10; then, counted anew, one of happiness
    where it divides by 2; then one of sadness.

    Args:
        expressions: (N,) class names.
    """
    kept = np.arange(len(expressions))
    for name, step in THINNED_CLASSES:
        kept = kept[(expressions[kept] != name) | (np.arange(len(kept)) % step == 0)]
    return kept


def thinned_valence_arousal(count: int) -> np.ndarray:
    """Positions of the training frames that are kept: every fifth of `count`."""
    return np.arange(0, count, THINNED_VALENCE_AROUSAL)


def thin(labels: FrameLabels) -> FrameLabels:
    """The labels without those that the published training data leave out; action units keep all.

    Positions are counted over the training frames with a label of the task, video after video by name.
    """
    values = {task: array.copy() for task, array in labels.values.items()}
    for task in ("expression", "valence_arousal"):
        if task not in values:
            continue
        trained = np.flatnonzero((labels.split == "train") & labels.mask[task].all(1))
        if task == "expression":
            kept = thinned_expressions(np.array(labels.labels.expressions)[values[task][trained, 0].astype(int)])
        else:
            kept = thinned_valence_arousal(len(trained))
        values[task][np.delete(trained, kept)] = np.nan
    return replace(labels, values=values)


# --- joining tasks -----------------------------------------------------------------------------------------------


def joined(parts: dict[Task, FrameLabels]) -> tuple[FrameLabels, list[Bad]]:
    """One row per frame with the labels of all tasks, by video and frame number.

    A video in different splits of different tasks takes the one that is held out (`valid` before `train`); the
    labels it has as training data of other tasks are left out, so that every task's evaluation splits stay the
    official ones.

    Args:
        parts: labels of each task; a frame is there at most once in each.

    Returns:
        the rows, and one `Bad` by rule for every video and task whose labels are left out.
    """
    path, videos, frame, split = (np.concatenate([getattr(part, name) for part in parts.values()]) for name in _PLACES)
    names, video = np.unique(videos.astype(str), return_inverse=True)
    rank = np.array([SPLIT_RANK[split] for split in split.tolist()], np.int64)
    highest = np.zeros(len(names), np.int64)
    np.maximum.at(highest, video, rank)
    order = np.lexsort((frame, video))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(video[order]) != 0) | (np.diff(frame[order]) != 0)
    position = np.empty(len(order), np.int64)
    position[order] = np.cumsum(new) - 1
    first = order[new]
    values: dict[Task, np.ndarray] = {}
    left_out, start = [], 0
    for task, part in parts.items():
        own = slice(start, start := start + len(part.path))
        kept = rank[own] == highest[video[own]]
        values[task] = np.full((len(first), part.values[task].shape[1]), np.nan, np.float32)
        values[task][position[own][kept]] = part.values[task][kept]
        lost = np.bincount(video[own][~kept & part.mask[task].any(1)], minlength=len(names))
        for code in np.flatnonzero(lost).tolist():
            what = task.replace("_", " ")
            detail = f"{lost[code]} frames with {what}; the video is in another split of another task"
            left_out.append(
                Bad(str(names[code]), f"video held out for another task: its {what} left out", detail, "rule")
            )
    schema = LabelSchema(
        next((part.labels.expressions for part in parts.values() if part.labels.expressions), ()),
        next((part.labels.action_units for part in parts.values() if part.labels.action_units), ()),
        "valence_arousal" in parts,
    )
    splits = np.array(list(SPLIT_RANK), object)[highest[video[first]]]
    return FrameLabels(path[first], videos[first], frame[first], splits, values, schema), left_out
