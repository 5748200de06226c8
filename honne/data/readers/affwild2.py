"""Aff-Wild2 with one label file per video, as in the ABAW challenges: expression, action units, valence and arousal.

2020 and 2021: `AU_Set`, `EXPR_Set` and `VA_Set`, each with `Training_Set` (or `Train_Set`) and `Validation_Set`. Later:
`AU_Detection_Challenge`, `EXPR_Classification_Challenge` (or `EXPR_Recognition_Challenge`), `VA_Estimation_Challenge`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from honne.data.affwild2 import (
    FPS,
    TASKS,
    FrameLabels,
    Partial,
    Task,
    Tasks,
    Thin,
    joined,
    numbers,
    require_fps,
    rows_of,
    subject,
    valid_values,
)
from honne.data.affwild2 import thin as thinned
from honne.data.frame_folders import Tree, listed_rows
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES, decoded
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.faces.media import open_media
from honne.labels import ACTION_UNITS, LabelSchema, canonical

COPIES = "report"
_FOLDER = re.compile("(au|expr|va)_(set|.*challenge)", re.IGNORECASE)
_CODES: dict[str, Task] = {"au": "action_units", "expr": "expression", "va": "valence_arousal"}
_LISTED: dict[str, Task] = _CODES | {"aus": "action_units", "expression": "expression"}
_LIST = re.compile("(aus?|expr|expression|va)_.*test_set.*", re.IGNORECASE)

INFO = ReaderInfo(
    name="affwild2",
    summary="Aff-Wild2: video frames with expression, action units, valence and arousal (ABAW, a file per video)",
    expects="AU_Set, EXPR_Set, VA_Set (or AU_Detection_Challenge and so on), each with Training_Set (or Train_Set) and "
    "Validation_Set of one .txt per video, and the cropped and aligned faces, a folder per video, all at any depth.",
    contact="ibug.doc.ic.ac.uk/resources/aff-wild2, on request from an academic address",
    licence="non-commercial research only; images not to be passed on",
    label_files=("**/*_Set/*/*.txt", "**/*_Challenge/*/*.txt", "**/*test_set*.txt"),
)


def schema(root: Path, *, task: Tasks = "all") -> LabelSchema:
    """What the headers name, of the tasks that are read."""
    parts = [_header(next(iter(files.values())), task) for task, files in _files(_tree(root), task).items()]
    return LabelSchema(
        next((part.expressions for part in parts if part.expressions), ()),
        next((part.action_units for part in parts if part.action_units), ()),
        any(part.valence_arousal for part in parts),
    )


def alignment(root: Path) -> Alignment:
    """The official cropped and aligned faces as they are, 112 px."""
    return Alignment("none", 112)


def read(
    root: Path, *, task: Tasks = "all", partial: Partial = "keep", thin: Thin = "none", fps: float = FPS
) -> Iterator[Row | Bad]:
    """One row per frame that has a picture and a label, by video; then the rows of the test lists, without labels.

    The picture with number n has the label of row n below the header. A video that is training data of one task and
    validation data of another becomes `valid`, without the labels it has as training data; a video of a test list
    becomes `test`. Test lists name videos (every frame gets a row, as many as the video file has and one more, or up to
    the last picture where there is no video file) or frames; a frame without a picture shows the one before.

    Args:
        root: folder.
        task: which labels are read.
        partial: `keep`: a frame keeps the action units that are coded. `drop`: unless all of them are it has none, as
            in the original of Deng et al. (FG 2020).
        thin: `published`: of the training frames every tenth neutral, every other of happiness and sadness, and every
            fifth with valence and arousal keep that label, as Deng et al. merge data sets.
        fps: frames per second, for the times.

    Raises:
        HonneError: the layout is not there, or files contradict each other.
    """
    require_fps(fps)
    tree = _tree(root)
    lists = _lists(tree, task)
    parts: dict[Task, FrameLabels] = {}
    for name, files in _files(tree, task).items():
        part, bad = _labelled(tree, name, files, partial)
        yield from bad
        again = np.array([video in lists for video in part.video.tolist()], bool)
        for video, count in zip(*np.unique(part.video[again].astype(str), return_counts=True), strict=True):
            yield Bad(str(video), "video of a test list: its labels left out", f"{count} frames of {name}", "rule")
        part = part[~again]
        part = thinned(part) if thin == "published" else part
        parts[name] = part[part.labelled]
    labels, left_out = joined(parts)
    yield from left_out
    labels = labels[labels.labelled]
    yield from rows_of(labels, tree.images(labels.path), fps)
    yield from listed_rows(tree, _listed_frames(tree, lists), fps)


def read_affwild2_task(root: Path, task: Task, partial: Partial = "keep") -> FrameLabels:
    """Labels of one task: frames with a picture and a label, by split, video and frame number.

    Args:
        root: folder with the label files and the pictures.
        task: which.
        partial: `drop` leaves out frames where any value is invalid.

    Raises:
        HonneError: the layout is not there, or a label is wrong, naming file and line.
    """
    tree = _tree(root)
    labels, bad = _labelled(tree, task, _files(tree, task)[task], partial)
    for problem in bad:
        if problem.kind == "label":
            raise HonneError(f"{problem.where}: {problem.detail}.", "Mend the line.")
    return labels[labels.labelled]


# --- label files -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """Labels of a video."""

    path: Path
    split: str

    @property
    def video(self) -> str:
        return self.path.stem


def _tree(root: Path) -> Tree:
    root = Path(root)
    if not root.is_dir():
        raise missing(root, INFO.expects, INFO.name)
    return Tree(root)


def _files(tree: Tree, task: Tasks) -> dict[Task, dict[str, _File]]:
    """Task -> video -> label file, by video; the tasks that are wanted and there."""
    found: dict[Task, dict[str, _File]] = {}
    for path in tree.texts:
        folder, split = path.parent.parent.name, SPLIT_NAMES.get(path.parent.name.lower())
        match = _FOLDER.fullmatch(folder)
        if not match or split not in ("train", "valid") or task not in ("all", _CODES[match[1].lower()]):
            continue
        of_task = found.setdefault(_CODES[match[1].lower()], {})
        if other := of_task.get(path.stem):
            raise HonneError(f"{other.path} and {path}: both label one video for one task.", "Move one away.")
        of_task[path.stem] = _File(path, split)
    if not found:
        raise missing(tree.root, INFO.expects, INFO.name)
    return {name: dict(sorted(found[name].items())) for name in TASKS if name in found}


def _header(file: _File, task: Task) -> LabelSchema:
    """What the first line of a label file names."""
    with file.path.open("rb") as lines:
        names = [name.strip() for name in next(decoded(lines, str(file.path)), "").split(",")]
    where, hint = f"{file.path}, line 1", "Is it a label file of Aff-Wild2?"
    if task == "valence_arousal" and [name.lower() for name in names] == ["valence", "arousal"]:
        return LabelSchema(valence_arousal=True)
    if task == "action_units" and all(re.fullmatch(r"(?i)AU\d+", name) for name in names):
        units = tuple(int(name[2:]) for name in names)
        if len(set(units)) == len(units) and set(units) <= set(ACTION_UNITS):
            return LabelSchema(action_units=units)
    if task == "expression" and len(names) > 1 and all(re.fullmatch("[A-Za-z]+", name) for name in names):
        return LabelSchema(tuple(canonical(name) for name in names))
    what = {"expression": "expressions", "action_units": "action units", "valence_arousal": "valence and arousal"}
    raise HonneError(f"{where}: '{','.join(names)[:60]}' does not name {what[task]}.", hint)


def _labelled(tree: Tree, task: Task, files: dict[str, _File], partial: Partial) -> tuple[FrameLabels, list[Bad]]:
    """All frames of one task with a picture and a row of labels, training videos first; and what is wrong."""
    order = sorted(files.values(), key=lambda file: (file.split, file.video))
    labels = _header(order[0], task)
    parts: list[FrameLabels] = []
    bad: list[Bad] = []
    for file in order:
        if (own := _header(file, task)) != labels:
            raise HonneError(
                f"{file.path}, line 1: another header than that of {order[0].path}.",
                "Files of two editions lie below ROOT; move one away.",
            )
        values, wrong = _values(file, task, own, partial)
        part, problems = _with_pictures(tree, file, task, values, labels)
        bad += wrong + problems
        parts.append(part)
    return FrameLabels.of(parts), bad


def _values(file: _File, task: Task, labels: LabelSchema, partial: Partial) -> tuple[np.ndarray, list[Bad]]:
    """(R, K) values of a file, row after row, and its wrong lines."""
    columns = {"expression": 1, "action_units": len(labels.action_units), "valence_arousal": 2}[task]
    with file.path.open("rb") as opened:
        lines = list(decoded(opened, str(file.path)))[1:]
    while lines and not lines[-1].strip():
        lines.pop()
    raw, wrong = numbers(lines, columns, str(file.path), 2)
    values, impossible = valid_values(task, raw, len(labels.expressions), partial, str(file.path), 2)
    return values, wrong + impossible


def _with_pictures(
    tree: Tree, file: _File, task: Task, values: np.ndarray, labels: LabelSchema
) -> tuple[FrameLabels, list[Bad]]:
    """The frames of a video that have both, and what has only one of them."""
    frames, where = tree.frames(file.video), str(file.path)
    number = np.fromiter(frames, np.int64, len(frames))
    paths = np.array(list(frames.values()), object)
    fits = (number >= 1) & (number <= len(values))
    bad = []
    if not len(frames):
        bad.append(Bad(where, "video without pictures", f"no pictures of {file.video} below {tree.root}"))
    elif not fits.all():
        detail = f"{(~fits).sum()} pictures, the first {paths[~fits][0]}; there are {len(values)} rows of labels"
        bad.append(Bad(where, "video with pictures without a row of labels", detail))
    number, paths = number[fits], paths[fits]
    labelled = ~np.isnan(values).all(1)
    if lost := int(labelled.sum() - labelled[number - 1].sum()) if len(frames) else 0:
        bad.append(
            Bad(where, "video with labelled frames that have no picture", f"{lost} of {labelled.sum()} frames", "rule")
        )
    if lost := int((~labelled[number - 1]).sum()):
        bad.append(
            Bad(where, "video with pictures marked as not labelled", f"{lost} of {len(number)} pictures", "rule")
        )
    videos, splits = np.full(len(number), file.video, object), np.full(len(number), file.split, object)
    return FrameLabels(paths, videos, number, splits, {task: values[number - 1]}, labels), bad


# --- test lists --------------------------------------------------------------------------------------------------


def _lists(tree: Tree, task: Tasks) -> dict[str, dict[str, str]]:
    """Video -> frames (paths) -> where it is listed, of the test lists of the tasks that are read, in their order.

    Where a list names the video alone there are no frames but "".
    """
    found: dict[str, dict[str, str]] = {}
    for path in tree.texts:
        match = _LIST.fullmatch(path.stem)
        if not match or SPLIT_NAMES.get(path.parent.name.lower()) in ("train", "valid"):
            continue
        if task not in ("all", _LISTED[match[1].lower()]):
            continue
        with path.open("rb") as opened:
            for number, line in enumerate(decoded(opened, str(path)), 1):
                name = line.partition(",")[0].strip()
                if name and not (number == 1 and name.lower() in ("image", "image_location")):
                    video = name.rpartition("/")[0]
                    found.setdefault(video or name, {}).setdefault(name if video else "", f"{path}, line {number}")
    return found


def _listed_frames(tree: Tree, lists: dict[str, dict[str, str]]) -> dict[str, str]:
    """Path of every frame that is tested -> where it is listed."""
    listed: dict[str, str] = {}
    for video, frames in lists.items():
        if where := frames.get(""):
            count = _length(tree, video)
            listed |= {f"{video}/{number:05d}.jpg": where for number in range(1, max(count, 1) + 1)}
        listed |= {path: where for path, where in frames.items() if path and path not in listed}
    return listed


def _length(tree: Tree, video: str) -> int:
    """Number of frames to test: those that the video file states and one, or up to the last picture.

    Source: as Deng et al. count them, except that no picture is ever left out.
    """
    last = max(tree.frames(video), default=0)
    file = tree.video_file(subject(video))
    stated = open_media(file).length if file else None
    return last if stated is None else max(stated + 1, last)
