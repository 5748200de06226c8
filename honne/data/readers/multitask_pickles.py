"""The merged training files of the original multi-task work (Deng, Chen & Shi, FG 2020), pickled.

`mixed_AU_annotations.pkl`, `mixed_EXPR_annotations.pkl` and `mixed_VA_annotations.pkl`, or what they were merged from:
`annotations.pkl` of Aff-Wild2 and the files of DISFA, ExpW and AFEW-VA; and `test_set.pkl`. Nothing in them is run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from honne.codes import ACTION_UNIT_SETS
from honne.data.affwild2 import (
    FPS,
    INVALID_VALENCE_AROUSAL,
    TASKS,
    FrameLabels,
    Task,
    Tasks,
    joined,
    require_fps,
    rows_of,
    valid_values,
)
from honne.data.frames_pickles import read_tables_pickle
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.afewva import scaled
from honne.data.readers.archive import SPLIT_NAMES
from honne.data.readers.disfa import present
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import EXPRESSION_SETS, LabelSchema, expression_set

Paths = Literal["below", "given"]
COPIES = "report"
EXPRESSIONS = EXPRESSION_SETS["affwild2"].expressions
_SETS: dict[str, Task] = {"AU_Set": "action_units", "EXPR_Set": "expression", "VA_Set": "valence_arousal"}
_UNITS = {len(ACTION_UNIT_SETS[name]): ACTION_UNIT_SETS[name] for name in ("affwild2", "abaw")}
_NUMBERED = re.compile(r"(?:.*_)?(\d{5,6})")
_HINT = "Only the files that the original's own scripts write are read."

INFO = ReaderInfo(
    name="multitask_pickles",
    summary="the merged label files of the original multi-task work: expression, action units, valence and arousal",
    expects="mixed_*_annotations.pkl, or annotations.pkl and the files of DISFA, ExpW and AFEW-VA, and test_set.pkl if "
    "there is one, beside the pictures; or --pickles FILE.",
    contact="whoever made the files; the owners of Aff-Wild2, DISFA, ExpW and AFEW-VA for the pictures",
    licence="that of the pictures: each owner's own, research only",
    label_files=("*.pkl",),
)


def schema(root: Path, *, task: Tasks = "all", pickles: str | None = None, label_set: str | None = None) -> LabelSchema:
    """The seven expressions and eight action units of 2020's Aff-Wild2, valence and arousal: what the files hold."""
    return _schema(_found(Path(root), task, pickles, label_set))


def alignment(root: Path) -> Alignment:
    """The cropped faces as they are, 112 px."""
    return Alignment("none", 112)


def read(
    root: Path,
    *,
    task: Tasks = "all",
    pickles: str | None = None,
    paths: Paths = "below",
    label_set: str | None = None,
    fps: float = FPS,
) -> Iterator[Row | Bad]:
    """One row per picture, with the labels that any of the files has for it; then those of the test set, without.

    Pictures in folders and with a number of five or six digits at the end of their name are frames of the video of that
    folder. A picture with two labels of one kind, as faces of ExpW that were stored under one name, is left out. A
    video that is training data of one task and validation data of another is `valid`, without its training labels.

    Args:
        root: folder with the pictures.
        task: which labels are read.
        pickles: file, or folder of files. Default: ROOT; if that has files `mixed_*`, these and `test_set.pkl`.
        paths: `below`: a picture is looked for below ROOT by as much of the end of its path as is there. `given`: the
            paths are taken as they are.
        label_set: what the codes of a file without splits, as that of ExpW, mean. Default: expw.
        fps: frames per second, for the times.

    Raises:
        HonneError: no such files, or something else in them.
    """
    require_fps(fps)
    found = _found(Path(root), task, pickles, label_set)
    finder, labels = _Finder(Path(root), paths), _schema(found)
    known = [part for part in found if part.split != "test"]
    pictures, code = np.unique(
        np.array([finder(path) for part in known for path in part.paths], str), return_inverse=True
    )
    codes = np.split(code, np.cumsum([len(part.paths) for part in known])[:-1])
    tables: dict[Task, FrameLabels] = {}
    for name in TASKS:
        own = [(part, codes[i]) for i, part in enumerate(known) if part.task == name]
        if own:
            tables[name], bad = _checked(name, own, labels, pictures)
            yield from bad
    if tables:
        table, left_out = joined(tables)
        yield from left_out
        yield from _rows(table[table.labelled], finder, fps)
    for part in {part.name: part for part in found if part.split == "test"}.values():
        yield from _test_rows(part, finder, fps)


# --- what the files hold -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """Labels of N pictures: `values` (N, K), class codes of Aff-Wild2 where K is 1; `name` of the video if any."""

    where: str
    task: Task
    split: str
    name: str
    paths: list[str]
    values: np.ndarray

    @property
    def largest(self) -> float:
        """Largest absolute value that is not a code for no label."""
        return float(np.abs(self.values[self.values != INVALID_VALENCE_AROUSAL]).max(initial=0))


def _files(root: Path, pickles: str | None) -> list[Path]:
    place = Path(pickles) if pickles else root
    if place.is_file():
        return [place]
    found = sorted(place.glob("*.pkl"))
    mixed = [path for path in found if path.name.startswith("mixed_") or path.name == "test_set.pkl"]
    if not found or not root.is_dir():
        raise missing(place if root.is_dir() else root, INFO.expects, INFO.name)
    return mixed if any(path.name.startswith("mixed_") for path in mixed) else found


def _found(root: Path, task: Tasks, pickles: str | None, label_set: str | None) -> list[_Part]:
    """What all files hold of the tasks that are read."""
    parts = [part for path in _files(root, pickles) for part in _parts(path, label_set or "expw")]
    if wanted := [part for part in parts if task in ("all", part.task)]:
        return wanted
    raise HonneError(f"{pickles or root}: no labels of {task}.", "Leave --task out to read what is there.")


def _schema(parts: list[_Part]) -> LabelSchema:
    tasks = {part.task for part in parts}
    units = {part.values.shape[1] for part in parts if part.task == "action_units"}
    if len(units) > 1:
        raise HonneError(f"{parts[0].where}: other action units than in other files.", "Read one with --pickles.")
    expressions = EXPRESSIONS if "expression" in tasks else ()
    return LabelSchema(expressions, _UNITS[units.pop()] if units else (), "valence_arousal" in tasks)


def _parts(path: Path, label_set: str) -> list[_Part]:
    """What a file holds; intensities of DISFA become present or not, AFEW-VA's -10..10 becomes -1..1."""
    parts = list(_below(read_tables_pickle(path), str(path), None, None, "", label_set))
    if not parts:
        raise HonneError(f"{path}: no labels with paths of pictures.", _HINT)
    recorded: dict[Task, Callable[[np.ndarray], np.ndarray]] = {"action_units": present, "valence_arousal": scaled}
    for task, made in recorded.items():
        if max((part.largest for part in parts if part.task == task), default=0) > 1:
            parts = [replace(part, values=made(part.values)) if part.task == task else part for part in parts]
    return parts


def _below(value: Any, where: str, task: Task | None, split: str | None, name: str, codes: str) -> Iterator[_Part]:
    if not isinstance(value, dict):
        raise HonneError(f"{where}: a {type(value).__name__} where labels are expected.", _HINT)
    if "path" in value:
        part = _part(value, where, task, split, name, codes)
        if len(part.paths):
            yield part
        return
    for key, below in value.items():
        if key in _SETS:
            yield from _below(below, f"{where}, {key}", _SETS[key], split, name, codes)
        elif str(key).lower() in SPLIT_NAMES:
            yield from _below(below, f"{where}, {key}", task, SPLIT_NAMES[str(key).lower()], name, codes)
        else:
            yield from _below(below, f"{where}, {key}", task, split, str(key), codes)


def _part(value: dict[str, Any], where: str, task: Task | None, split: str | None, name: str, codes: str) -> _Part:
    """The labels of a dictionary or table with `path`."""
    paths = [str(path).replace("\\", "/") for path in value["path"]]
    if not all(PurePosixPath(path).name for path in paths):
        raise HonneError(f"{where}: a path without the name of a picture.", _HINT)
    units = [key for key in value if re.fullmatch(r"AU\d+", str(key))]
    try:
        if "label" in value:
            values = np.asarray(value["label"], float)
        else:
            values = np.stack([np.asarray(value[key], float) for key in units or ("valence", "arousal")], axis=1)
        values = values.reshape(len(paths), values.size // len(values)) if len(values) else values.reshape(0, 1)
    except (KeyError, TypeError, ValueError):
        raise HonneError(f"{where}: not a label for each of the {len(paths)} paths.", _HINT) from None
    kinds: dict[int, Task] = {1: "expression", 2: "valence_arousal", **dict.fromkeys(_UNITS, "action_units")}
    kind = kinds.get(values.shape[1])
    if kind is None or (task and task != kind):
        raise HonneError(f"{where}: {values.shape[1]} labels a picture, which is no known kind of labels.", _HINT)
    if units and tuple(int(key[2:]) for key in units) != _UNITS[len(units)]:
        raise HonneError(f"{where}: the action units are {', '.join(units)}, not those of Aff-Wild2.", _HINT)
    if kind == "expression" and split is None:
        values = _recoded(values, where, codes)
    return _Part(where, kind, split or "train", name, paths, values)


def _recoded(values: np.ndarray, where: str, codes: str) -> np.ndarray:
    """Codes of another set as those of Aff-Wild2."""
    known = expression_set(codes)
    numbers = [int(code) for code in values.ravel().tolist()]
    for number in sorted({number for number in numbers if str(number) not in known.codes}):
        raise HonneError(f"{where}: label {number} is no code of '{known.name}'.", "Say which set: --label-set.")
    names = {number: known.codes[str(number)] for number in set(numbers)}
    for name in sorted(set(names.values()) - set(EXPRESSIONS)):
        raise HonneError(f"{where}: Aff-Wild2 has no '{name}'.", "Say which set: --label-set.")
    return np.array([EXPRESSIONS.index(names[number]) for number in numbers], float)[:, None]


# --- rows --------------------------------------------------------------------------------------------------------


class _Finder:
    """Where pictures are.

    Args:
        root: folder.
        how: see `read`.
    """

    def __init__(self, root: Path, how: Paths) -> None:
        self.root, self.how = root, how
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        """The path below the root, or as it is."""
        if self.how == "given":
            return path
        folder, _, name = path.rpartition("/")
        if folder not in self._folders:
            parts = [part for part in PurePosixPath(folder).parts if part != "/"]
            ends = ["/".join(parts[start:]) for start in range(len(parts))] if ".." not in parts else []
            self._folders[folder] = next((end for end in ends if (self.root / end).is_dir()), "")
        found = self._folders[folder]
        return f"{found}/{name}" if found else name

    def image(self, path: str) -> Path:
        return self.root / path if self.how == "below" else Path(path)


def _checked(
    task: Task, parts: list[tuple[_Part, np.ndarray]], labels: LabelSchema, pictures: np.ndarray
) -> tuple[FrameLabels, list[Bad]]:
    """Labels of one task by picture, each once, and what is left out.

    Args:
        task: of the parts.
        parts: with (N,) the position of each picture in `pictures`.
        labels: of all tasks.
        pictures: paths, sorted.
    """
    bad: list[Bad] = []
    tables = []
    for part, _ in parts:
        valid, wrong = valid_values(task, part.values, len(labels.expressions), "keep", part.where, 0, "item")
        tables.append(valid)
        bad += wrong
    values, sizes = np.concatenate(tables), [len(part.paths) for part, _ in parts]
    split, where = (
        np.repeat(np.array([getattr(part, name) for part, _ in parts]), sizes) for name in ("split", "where")
    )
    place, first, code = np.unique(
        np.concatenate([codes for _, codes in parts]), return_index=True, return_inverse=True
    )
    same = np.nan_to_num(values, nan=-9) == np.nan_to_num(values[first][code], nan=-9)
    contradicted = np.unique(code[~same.all(1)])
    bad += [
        Bad(str(where[first[i]]), "picture with several labels", str(pictures[place[i]]), "rule")
        for i in contradicted.tolist()
    ]
    kept = np.delete(np.arange(len(place)), contradicted)
    paths, first = pictures[place[kept]].astype(object), first[kept]
    folders = np.array([path.rpartition("/")[0] for path in paths.tolist()], object)
    return FrameLabels(paths, folders, place[kept], split[first].astype(object), {task: values[first]}, labels), bad


def _rows(labels: FrameLabels, finder: _Finder, fps: float) -> Iterator[Row | Bad]:
    """Rows of pictures; those that are frames with their video and time."""
    found = [_NUMBERED.fullmatch(PurePosixPath(path).stem) for path in labels.path.tolist()]
    number = np.array([int(match[1]) + 1 if match else 0 for match in found], np.int64)
    names = np.array([folder.rpartition("/")[2] for folder in labels.video.tolist()], object)
    if len(set(names.tolist())) < len(set(labels.video.tolist())):
        names = labels.video
    images = (finder.image(path) for path in labels.path.tolist())
    for row, match in zip(rows_of(replace(labels, video=names, frame=number), images, fps), found, strict=True):
        if match is None:
            row.video = row.subject = row.time = None
        yield row


def _test_rows(part: _Part, finder: _Finder, fps: float) -> Iterator[Row | Bad]:
    """Every frame of a test video in its order; some show the picture of another."""
    count = len(part.paths)
    paths = np.array([f"{part.name}/{number:05d}.jpg" for number in range(1, count + 1)], object)
    video, split = np.full(count, part.name, object), np.full(count, "test", object)
    labels = FrameLabels(paths, video, np.arange(1, count + 1), split, {}, LabelSchema())
    yield from rows_of(labels, (finder.image(finder(path)) for path in part.paths), fps)
