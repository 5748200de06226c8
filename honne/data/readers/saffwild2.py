"""s-Aff-Wild2: the frames of the multi-task challenges of ABAW, one label file per split (2022, 2024)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from honne.data.affwild2 import (
    FPS,
    FrameLabels,
    Partial,
    Task,
    numbers,
    require_fps,
    rows_of,
    valid_values,
)
from honne.data.frame_folders import Tree, listed_rows
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import decoded
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import ACTION_UNIT_SETS, EXPRESSION_SETS, LabelSchema

COPIES = "report"
FILES = {
    "train_set.txt": "train",
    "training_set_annotations.txt": "train",
    "validation_set.txt": "valid",
    "validation_set_annotations.txt": "valid",
    "mtl_challenge_test_set_release.txt": "test",
    "mtl.txt": "test",
}
"""Names of the files (lower case) -> split."""
_FIRST = "image,valence,arousal,expression"

INFO = ReaderInfo(
    name="saffwild2",
    summary="s-Aff-Wild2: frames of Aff-Wild2 with valence, arousal, expression or action units (ABAW, multi-task)",
    expects="train_set.txt and validation_set.txt (or training_set_annotations.txt and "
    "validation_set_annotations.txt), the test list if any, and the cropped and aligned faces, a folder per video, all "
    "at any depth.",
    contact="ibug.doc.ic.ac.uk/resources/aff-wild2, on request from an academic address",
    licence="non-commercial research only; images not to be passed on",
    label_files=("**/*rain*_set*.txt", "**/*alidation_set*.txt", "**/MTL*.txt"),
)


def schema(root: Path) -> LabelSchema:
    """Eight expressions, the twelve action units and valence and arousal, as many as the first line of labels has."""
    path = next(path for split, path in _files(_tree(root)).items() if split != "test")
    return _schema(path)


def alignment(root: Path) -> Alignment:
    """The official cropped and aligned faces as they are, 112 px."""
    return Alignment("none", 112)


def read(root: Path, *, partial: Partial = "keep", fps: float = FPS) -> Iterator[Row | Bad]:
    """One row per line with any valid label; then one per line of the test list, in its order, without labels.

    A listed test frame without a picture shows the one before it of its video.

    Args:
        root: folder.
        partial: `keep`: a row keeps the action units that are coded; `drop`: only all of them count, as the challenge
            scores.
        fps: frames per second, for the times.

    Raises:
        HonneError: the files are not there, or contradict each other.
    """
    require_fps(fps)
    tree = _tree(root)
    files = _files(tree)
    if "test" in files:
        listed = _listed(files.pop("test"))
    else:
        listed = {}
    for split, path in files.items():
        labels, lines, bad = _read(path, split, partial)
        yield from bad
        there = _there(tree, labels)
        for i in np.flatnonzero(~there).tolist():
            yield Bad(f"{path}, line {lines[i]}", "row without image", f"{labels.path[i]} is missing")
        if unlabelled := int((~labels.labelled & there).sum()):
            yield Bad(str(path), "list with frames marked as not labelled", f"{unlabelled} frames", "rule")
        labels = labels[labels.labelled & there]
        yield from rows_of(labels, tree.images(labels.path), fps)
    yield from listed_rows(tree, listed, fps)


def read_saffwild2(file: Path, partial: Partial = "keep") -> FrameLabels:
    """All lines of a label file, in its order.

    Args:
        file: with the header `image,valence,arousal,expression,aus`.
        partial: `drop`: action units count only where all of a line are coded.

    Raises:
        HonneError: no such file, or a label is wrong, naming the line.
    """
    labels, _, bad = _read(Path(file), FILES.get(Path(file).name.lower(), "train"), partial)
    if bad:
        raise HonneError(f"{bad[0].where}: {bad[0].detail}.", "Mend the line.")
    return labels


def _tree(root: Path) -> Tree:
    root = Path(root)
    if not root.is_dir():
        raise missing(root, INFO.expects, INFO.name)
    return Tree(root)


def _files(tree: Tree) -> dict[str, Path]:
    """Split -> its file."""
    found: dict[str, Path] = {}
    for path in tree.texts:
        split = FILES.get(path.name.lower())
        if split in found:
            raise HonneError(f"{found[split]} and {path}: both may be the {split} list.", "Move one away.")
        if split:
            found[split] = path
    if not {"train", "valid"} & set(found):
        raise missing(tree.root, INFO.expects, INFO.name)
    return {split: found[split] for split in ("train", "valid", "test") if split in found}


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as opened:
            lines = list(decoded(opened, str(path)))
    except OSError as error:
        raise HonneError(f"{path}: cannot be read ({error.strerror}).", "Check the path.") from None
    if not lines or not lines[0].replace(" ", "").lower().startswith(_FIRST[:5]):
        raise HonneError(f"{path}, line 1: not the header {_FIRST},aus.", "Is it a file of the MTL challenge?")
    while not lines[-1].strip():
        lines.pop()
    return lines


def _schema(path: Path) -> LabelSchema:
    """What a label file holds: twelve action units and eight expressions, or the eight and seven of 2020."""
    lines = _lines(path)
    units = (lines[1].count(",") if len(lines) > 1 else 0) - 3
    named = {len(units): name for name, units in ACTION_UNIT_SETS.items() if name in ("affwild2", "abaw")}
    if units not in named or not lines[0].replace(" ", "").lower().startswith(_FIRST):
        raise HonneError(
            f"{path}, line 2: {units} action units below the header '{lines[0].strip()}'.",
            f"A line is video/00001.jpg, valence, arousal, expression and {' or '.join(map(str, named))} action units.",
        )
    return LabelSchema(EXPRESSION_SETS[named[units]].expressions, ACTION_UNIT_SETS[named[units]], True)


def _read(path: Path, split: str, partial: Partial) -> tuple[FrameLabels, np.ndarray, list[Bad]]:
    """The labels of a file, the lines they stand on, and wrong lines."""
    labels, lines = _schema(path), _lines(path)[1:]
    named = [line.partition(",") for line in lines]
    paths = np.array([name.strip() for name, _, _ in named], object)
    raw, bad = numbers([rest for _, _, rest in named], 3 + len(labels.action_units), str(path), 2)
    columns: dict[Task, slice] = {
        "expression": slice(2, 3),
        "action_units": slice(3, None),
        "valence_arousal": slice(0, 2),
    }
    values = {}
    for task, own in columns.items():
        values[task], wrong = valid_values(task, raw[:, own], len(labels.expressions), partial, str(path), 2)
        bad += wrong
    wrong_lines = {problem.where for problem in bad}
    number = np.arange(2, len(lines) + 2)
    fits = np.array([f"{path}, line {i}" not in wrong_lines for i in number.tolist()], bool) if bad else number > 0
    frames = []
    for i, name in zip(number.tolist(), paths.tolist(), strict=True):
        video, _, picture = name.rpartition("/")
        stem = picture.rpartition(".")[0]
        frames.append(int(stem) if video and stem.isdecimal() else -1)
        if frames[-1] < 0:
            bad.append(Bad(f"{path}, line {i}", "not a frame", f"'{name}' is not named as video/00001.jpg", "label"))
    frame = np.array(frames, np.int64)
    fits &= frame >= 0
    video = np.array([name.rpartition("/")[0] for name in paths.tolist()], object)
    splits = np.full(len(paths), split, object)
    return FrameLabels(paths, video, frame, splits, values, labels)[fits], number[fits], bad


def _there(tree: Tree, labels: FrameLabels) -> np.ndarray:
    """(N,) bool: the picture is there."""
    files = {video: set(tree.frames(video).values()) for video in dict.fromkeys(labels.video.tolist())}
    pairs = zip(labels.path.tolist(), labels.video.tolist(), strict=True)
    return np.array([path in files[video] for path, video in pairs], bool)


def _listed(path: Path) -> dict[str, str]:
    """Path of a frame -> where the test list names it."""
    listed: dict[str, str] = {}
    for number, line in enumerate(_lines(path)[1:], 2):
        name = line.partition(",")[0].strip()
        if name in listed:
            raise HonneError(f"{path}, line {number}: {name} is listed twice ({listed[name]}).", "Remove one line.")
        if name:
            listed[name] = f"{path}, line {number}"
    return listed
