"""The folds and landmarks that the authors of the AU-cue work hand out for two data sets (Belharbi et al., FG 2024).

Below `folds/wsol-done-right-splits/RAF-DB` (or `AffectNet`) lie `class_id.yaml` and, in each of `train`, `val` and
`test`, the files `image_ids.txt`, `class_labels.txt` and `landmarks.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml

from honne.data.landmarks import read_landmarks
from honne.data.readers import Bad, Protocol, ReaderInfo, Row, missing, selected_on_test
from honne.data.readers.archive import Archive
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.labels import LabelSchema, canonical, known_set

FOLDS = "folds/wsol-done-right-splits"
FOLDERS = {"rafdb": "RAF-DB", "affectnet": "AffectNet"}
SPLITS = {"train": "train", "val": "valid", "test": "test"}
DataSet = Literal["rafdb", "affectnet"]

INFO = ReaderInfo(
    name="au_cues",
    summary="RAF-DB or AffectNet with the folds and landmarks of the AU-cue work: seven expressions",
    expects=f"{FOLDS}/RAF-DB (or AffectNet) beside the folder RAF-DB (or AffectNet) with the images; or a zip of both.",
    contact="the authors of 'Guided Interpretable Facial Expression Recognition via Spatial Action Unit Cues' for the "
    "folds; those of the data set for the images",
    licence="non-commercial research only; images not to be passed on",
    label_files=(f"{FOLDS}/*/class_id.yaml", f"{FOLDS}/*/*/*.txt"),
)


def schema(root: Path, *, dataset: DataSet | None = None) -> LabelSchema:
    """The expressions of `class_id.yaml`, by code."""
    return LabelSchema(tuple(_open(Path(root), dataset).classes.values()))


def alignment(root: Path) -> Alignment:
    """The aligned images as they are, 224 px: the landmarks are px of these."""
    return Alignment("none", 224)


def read(root: Path, *, dataset: DataSet | None = None, protocol: Protocol = "clean") -> Iterator[Row | Bad]:
    """Rows of the published folds, with landmarks where there is a file of them.

    Args:
        root: folder (or zip) with the folds and the images.
        dataset: which of the two. Default: the only one there.
        protocol: `clean`: the validation part is left out where it is the test part, as in the published folds.
            `published`: the test rows are the validation rows too.

    Raises:
        HonneError: the folds are not there, or their files contradict each other, naming file and line.
    """
    folds = _open(Path(root), dataset)
    listed = {split: _paths(folds, name) for name, split in SPLITS.items() if folds.has(name)}
    if set(listed.get("valid", ())) == set(listed["test"]):
        del listed["valid"]
    elif "valid" in listed and protocol == "published":
        raise WrongCall(f"{root}: these folds have a validation part of their own.", "Leave --protocol out.")
    rows = (row for name, split in SPLITS.items() if split in listed for row in _rows(folds, name, listed[split]))
    yield from selected_on_test(rows) if protocol == "published" else rows


@dataclass(frozen=True)
class _Folds:
    """One data set's folds: files are named below `folder`; `classes` maps code -> expression, by code."""

    archive: Archive
    folder: str
    classes: dict[int, str]

    def has(self, split: str) -> bool:
        return self.archive.exists(f"{self.folder}/{split}/image_ids.txt")

    def lines(self, split: str, file: str) -> tuple[str, Iterator[str]]:
        """How messages name a file, and its lines."""
        name = f"{self.folder}/{split}/{file}"
        if not self.archive.exists(name):
            raise HonneError(f"{self.archive.path(name)}: no such file.", "Unpack the published folds again.")
        return self.archive.path(name), self.archive.lines(name)


def settled(root: Path, *, dataset: DataSet | None = None) -> dict[str, Any]:
    """Options that follow from what is there: which data set it is."""
    folder = PurePosixPath(_open(Path(root), dataset).folder).name
    return {"dataset": next(name for name, own in FOLDERS.items() if own == folder)}


def _open(root: Path, dataset: DataSet | None) -> _Folds:
    if not root.exists():
        raise missing(root, INFO.expects, "au_cues")
    archive = Archive(root)
    there = [name for name, folder in FOLDERS.items() if archive.exists(f"{FOLDS}/{folder}/train/image_ids.txt")]
    if not there or (dataset and dataset not in there):
        raise missing(root, INFO.expects, "au_cues")
    if not dataset and len(there) > 1:
        raise WrongCall(f"{root}: holds the folds of {' and '.join(there)}.", "Choose one, as --dataset rafdb.")
    folder = f"{FOLDS}/{FOLDERS[dataset or there[0]]}"
    return _Folds(archive, folder, _classes(archive, folder))


def _classes(archive: Archive, folder: str) -> dict[int, str]:
    names = [f"{folder}/class_id.yaml", f"{folder}/train/class_id.yaml"]
    name = next((name for name in names if archive.exists(name)), names[0])
    where = archive.path(name)
    if not archive.exists(name):
        raise HonneError(f"{where}: no such file.", "Unpack the published folds again.")
    try:
        codes = {str(label): int(code) for label, code in yaml.safe_load(archive.read(name)).items()}
    except (yaml.YAMLError, AttributeError, TypeError, ValueError):
        raise HonneError(f"{where}: not a list of names and codes.", "A line is `Happiness: 1`.") from None
    known_set(codes, where)
    if sorted(codes.values()) != list(range(len(codes))):
        raise HonneError(f"{where}: the codes are not 0 to {len(codes) - 1}, each once.", "Mend the file.")
    return {code: canonical(label) for label, code in sorted(codes.items(), key=lambda entry: entry[1])}


def _paths(folds: _Folds, split: str) -> dict[str, int]:
    """Path -> line of `image_ids.txt`."""
    where, lines = folds.lines(split, "image_ids.txt")
    paths: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        path = line.strip()
        if path in paths:
            raise HonneError(f"{where}, line {number}: {path} stands on line {paths[path]} too.", "Mend the file.")
        if path:
            paths[path] = number
    return paths


def _rows(folds: _Folds, split: str, paths: dict[str, int]) -> Iterator[Row | Bad]:
    labels, landmarks = _labels(folds, split, paths), _landmarks(folds, split, paths)
    for path, number in paths.items():
        if not folds.archive.exists(path):
            where = folds.archive.path(f"{folds.folder}/{split}/image_ids.txt")
            yield Bad(f"{where}, line {number}", "row without image", f"{path} is missing")
            continue
        yield Row(
            path, folds.archive.image(path), SPLITS[split], expression=labels[path], landmarks=landmarks.get(path)
        )


def _labels(folds: _Folds, split: str, paths: dict[str, int]) -> dict[str, str]:
    where, lines = folds.lines(split, "class_labels.txt")
    labels = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        path, _, code = line.strip().rpartition(",")
        if not code.isdecimal() or int(code) not in folds.classes:
            raise HonneError(
                f"{where}, line {number}: '{code}' is not one of the codes 0 to {len(folds.classes) - 1}.",
                "class_id.yaml says what they mean.",
            )
        labels[path] = folds.classes[int(code)]
        _require_listed(path, paths, f"{where}, line {number}")
    _require_all(labels, paths, where)
    return labels


def _landmarks(folds: _Folds, split: str, paths: dict[str, int]) -> dict[str, np.ndarray | None]:
    """Landmarks by path; {} where the split has no such file."""
    if not folds.archive.exists(f"{folds.folder}/{split}/landmarks.txt"):
        return {}
    where, lines = folds.lines(split, "landmarks.txt")
    landmarks = dict(read_landmarks(lines, where))
    for path in landmarks:
        _require_listed(path, paths, where)
    _require_all(landmarks, paths, where)
    return landmarks


def _require_listed(path: str, paths: dict[str, int], where: str) -> None:
    if path not in paths:
        raise HonneError(f"{where}: {path} does not stand in image_ids.txt.", "Take both files from one release.")


def _require_all(found: dict[str, str] | dict[str, np.ndarray | None], paths: dict[str, int], where: str) -> None:
    if lacking := [path for path in paths if path not in found]:
        raise HonneError(
            f"{where}: no line for {lacking[0]} (image_ids.txt, line {paths[lacking[0]]}; {len(lacking)} in all).",
            "Take both files from one release.",
        )
