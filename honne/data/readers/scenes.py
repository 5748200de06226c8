"""Pictures labelled as negative or positive, confounded by their scene (data of Chen et al., ACM MM 2022).

ROOT has the folder `images`, a list of training and one of test pictures, `emotion_labels.pkl` with the polarity of
every picture and `scene_labels.pkl` with its scene (or .csv, .json), by a key that is made from the picture's path.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from honne.data.label_files import find_labels
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import IMAGE_SUFFIXES, Archive, decoded, require_columns
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.labels import LabelSchema

DataSet = Literal["emotion6", "webemo", "sentiment"]
STRATA: dict[DataSet, tuple[str, ...]] = {
    "emotion6": (
        *("beauty_salon", "veterinarians_office", "hospital_room", "martial_arts_gym"),
        *("shower", "wheat_field", "cemetery", "stage/indoor", "indoor", "outdoor"),
    ),
    "webemo": (
        *("sky", "veterinarians_office", "wheat_field", "park", "beauty_salon"),
        *("nursery", "martial_arts_gym", "hospital_room", "indoor", "outdoor"),
    ),
    "sentiment": (
        *("beauty_salon", "nursery", "delicatessen", "volcano", "slum"),
        *("wheat_field", "hospital_room", "veterinarians_office", "indoor", "outdoor"),
    ),
}
"""The scenes that were told apart in each data set; the last two are for all other scenes."""
POLARITIES = ("negative", "positive")
NAMED_SCENES, LEAST_ROWS = 8, 20
SETTINGS = ("indoor", "outdoor")
REST = "other"
"""Stratum of the scenes without a name of their own, where it is not known which of them are indoors."""

INFO = ReaderInfo(
    name="scenes",
    summary="Emotion-6, WEBEmo or Deep Sentiment: whole pictures, negative or positive, with their scene as domain",
    expects="images/, one *train*.csv and one *test*.csv with a path a line, emotion_labels.pkl and scene_labels.pkl "
    "(or .csv, .json), or --scenes FILE; with --dataset emotion6, webemo or sentiment.",
    contact="the authors of the three sets for the pictures; the lists and label files of 'Towards Unbiased Visual "
    "Emotion Recognition via Causal Intervention' were not released: ask its authors, or make your own",
    licence="that of the pictures, which are their photographers'",
    label_files=("*.csv", "*.txt", "*.json", "*.pkl"),
)


def schema(root: Path) -> LabelSchema:
    """Negative and positive, for all three: a model of one is measured on the others as it is."""
    return LabelSchema(POLARITIES)


def alignment(root: Path) -> Alignment:
    """The whole picture, its sides not kept in proportion, 256 px."""
    return Alignment("none", 256)


def read(root: Path, *, dataset: DataSet | None = None, scenes: str | None = None) -> Iterator[Row | Bad]:
    """Rows of the lists, each with its scene as `domain`.

    Args:
        root: folder or zip.
        dataset: which of the three; it decides on paths, keys and scenes.
        scenes: table with what a scene classifier says of every picture, in place of `scene_labels`; see `read_scenes`.
            The strata are then those of `scene_strata`, from the training rows.

    Raises:
        HonneError: the lists or label files are not there, or no such files.
        WrongCall: no such data set.
    """
    if dataset not in STRATA:
        raise WrongCall(f"--dataset is {dataset or 'not given'}.", f"Say which it is: {', '.join(STRATA)}.")
    if not Path(root).exists():
        raise missing(Path(root), INFO.expects, "scenes")
    archive = Archive(Path(root))
    names = set(archive.names())
    files = _lists(archive, names, scenes)
    labels = find_labels(archive, "emotion_labels")
    if not files or labels is None:
        raise missing(Path(root), INFO.expects, "scenes")
    where, emotions = labels[0], {name: emotion.strip().lower() for name, emotion in labels[1].items()}
    lines = [line for split, file in files.items() for line in _lines(archive, dataset, split, file)]
    known = _strata(archive, dataset, scenes, lines, emotions)
    taken: dict[str, str] = {}
    for line in lines:
        if isinstance(line, Bad):
            yield line
        elif first := taken.get(line.path):
            yield Bad(line.where, "picture named twice", f"{line.path} stands in {first} too", "label")
        elif problem := _problem(line, where, emotions, known) or _absent(line, names):
            yield problem
        else:
            taken[line.path] = line.where
            image, domain, expression = archive.image(line.path), known.of[line.key], emotions[line.key]
            yield Row(line.path, image, line.split, domain=domain, expression=expression)


def picture(dataset: DataSet, row: str, file: str) -> str:
    """Where a row of a list has its picture, below `images`; `file` is the name of the list."""
    folder = "" if dataset != "webemo" else "train/" if "train" in file else "test/"
    return folder + row


def key(dataset: DataSet, path: str) -> str:
    """What a picture, named by its path below `images`, is called in the label files."""
    place = PurePosixPath(path)
    if dataset == "emotion6":
        return "_".join(place.parts).partition(".")[0]
    return place.stem if dataset == "sentiment" else f"{place.parent.name}_{place.stem}"


# --- scenes ------------------------------------------------------------------------------------------------------


def scene_strata(
    scenes: Sequence[str], positive: np.ndarray, named: int = NAMED_SCENES, least: int = LEAST_ROWS
) -> tuple[str, ...]:
    """The scenes that go most one-sidedly with one polarity, most one-sided first.

    One-sided is a scene whose log odds of being positive, with half a picture added to either side, lie far from those
    of all pictures. The authors' own rule is not known.

    Args:
        scenes: of N training pictures.
        positive: (N,) bool.
        named: how many at most.
        least: pictures that a scene must have.

    Source: the log odds ratio with Haldane's correction (Annals of Human Genetics, 1956).
    """
    names, which = np.unique(np.array(scenes, str), return_inverse=True)
    both = np.stack([np.bincount(which, positive, len(names)), np.bincount(which, ~positive, len(names))], 1)
    odds = np.log(both + 0.5) @ [1, -1]
    overall = np.log(both.sum(0) + 0.5) @ [1, -1]
    order = np.lexsort((names, -both.sum(1), -np.abs(odds - overall)))
    return tuple(names[order[both.sum(1)[order] >= least]][:named].tolist())


@dataclass(frozen=True)
class Scene:
    """What a classifier says of a picture: a scene, and `indoor`, `outdoor` or, where it does not say, `other`."""

    name: str
    setting: str = REST


def read_scenes(path: Path, dataset: DataSet) -> dict[str, Scene]:
    """Key -> scene of a table with the columns path, scene and, if there, probability and setting.

    Of several rows of a picture the most probable counts, or the first. Paths are below ROOT, below `images`, or
    anything before that. Scenes may be written as Places365 does (/s/stage/indoor).

    Raises:
        HonneError: no such table, or a wrong cell, naming the line.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise HonneError(f"{path}: cannot be read ({error.strerror}).", "Check --scenes.") from None
    table = csv.DictReader(decoded(lines, str(path)))
    columns = table.fieldnames = [column.strip() for column in table.fieldnames or ()]
    require_columns(columns, ("path", "scene"), str(path))
    best: dict[str, tuple[float, Scene]] = {}
    for cells in table:
        where = f"{path}, line {table.line_num}"
        if None in cells or None in cells.values():
            raise HonneError(f"{where}: not as many cells as columns.", "Mend the line.")
        probability = _number(cells.get("probability", "0"), where)
        name = key(dataset, _below_images(cells["path"].strip()))
        if name not in best or probability > best[name][0]:
            best[name] = probability, _scene(cells, where)
    return {name: scene for name, (_, scene) in best.items()}


def _scene(cells: dict[str, str], where: str) -> Scene:
    name, setting = re.sub("^/[a-z]/", "", cells["scene"].strip()), cells.get("setting", REST).strip().lower()
    if not name:
        raise HonneError(f"{where}: no scene.", "Fill the cell.")
    if "setting" in cells and setting not in SETTINGS:
        raise HonneError(f"{where}: setting '{setting}' is neither indoor nor outdoor.", "Mend the cell.")
    return Scene(name, setting)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HonneError(f"{where}: probability '{text}' is no number.", "Mend the cell.") from None


def _below_images(path: str) -> str:
    parts = PurePosixPath(path.replace("\\", "/")).parts
    start = len(parts) - parts[::-1].index("images") if "images" in parts else 0
    return "/".join(parts[start:])


# --- lists and labels --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A picture of a list: `path` is below ROOT."""

    where: str
    split: str
    path: str
    key: str


@dataclass(frozen=True)
class _Strata:
    """Stratum by key, how messages name where that stands, and the strata that there may be."""

    where: str
    of: dict[str, str]
    names: tuple[str, ...]


def _lists(archive: Archive, names: set[str], scenes: str | None) -> dict[str, str]:
    """Split -> its list: a file of ROOT itself with the split in its name."""
    found: dict[str, str] = {}
    for name in sorted(names):
        if "/" in name or not name.endswith((".csv", ".txt")) or (scenes and Path(scenes).name == name):
            continue
        split = next((split for word, split in _SPLITS.items() if word in name.lower()), None)
        if split in found:
            raise HonneError(f"{archive.root}: both {found[split]} and {name} may be the {split} list.", "Move one.")
        if split:
            found[split] = name
    return {split: found[split] for split in _SPLITS.values() if split in found}


_SPLITS = {"train": "train", "val": "valid", "test": "test"}
"""What stands in the name of a list -> our name."""


def _lines(archive: Archive, dataset: DataSet, split: str, file: str) -> Iterator[_Line | Bad]:
    for number, text in enumerate(archive.lines(file), 1):
        row, where = text.strip(), f"{archive.path(file)}, line {number}"
        if not row:
            continue
        if PurePosixPath(row).suffix.lower() not in IMAGE_SUFFIXES:
            yield Bad(where, "line that names no picture", row, "rule")
            continue
        path = picture(dataset, row, file)
        yield _Line(where, split, f"images/{path}", key(dataset, path))


def _strata(
    archive: Archive, dataset: DataSet, scenes: str | None, lines: Sequence[_Line | Bad], emotions: dict[str, str]
) -> _Strata:
    if scenes is None:
        labels = find_labels(archive, "scene_labels")
        if labels is None:
            raise HonneError(
                f"{archive.root}: no scene_labels.pkl, .csv or .json.",
                "Pass --scenes FILE with what a scene classifier says of the pictures.",
            )
        return _Strata(*labels, STRATA[dataset])
    found = read_scenes(Path(scenes), dataset)
    training = [line.key for line in lines if isinstance(line, _Line) and line.split == "train" and line.key in found]
    training = [name for name in training if emotions.get(name) in POLARITIES]
    positive = np.array([emotions[name] == "positive" for name in training], bool)
    names = scene_strata([found[name].name for name in training], positive)
    of = {name: scene.name if scene.name in names else scene.setting for name, scene in found.items()}
    return _Strata(scenes, of, (*names, *SETTINGS, REST))


def _problem(line: _Line, where: str, emotions: dict[str, str], known: _Strata) -> Bad | None:
    """What is wrong with the labels of a picture; `where` is the file of the emotions."""
    emotion, scene = emotions.get(line.key), known.of.get(line.key)
    if emotion is None:
        return Bad(line.where, "picture without an emotion", f"{where} has no '{line.key}'", "label")
    if emotion not in POLARITIES:
        detail = f"'{line.key}' is '{emotion}' in {where}, neither Negative nor Positive"
        return Bad(line.where, "unknown emotion", detail, "label")
    if scene is None:
        return Bad(line.where, "picture without a scene", f"{known.where} has no '{line.key}'", "label")
    if scene not in known.names:
        detail = f"the scene of '{line.key}' in {known.where}, '{scene}', is none of {', '.join(known.names)}"
        return Bad(line.where, "unknown scene", detail, "label")
    return None


def _absent(line: _Line, names: set[str]) -> Bad | None:
    return None if line.path in names else Bad(line.where, "row without image", f"{line.path} is missing")
