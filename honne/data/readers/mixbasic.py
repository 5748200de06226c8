"""MixBasic: CK+, MMI and Oulu-CASIA pooled, with the published folds of IERN (Chen et al., ACM MM 2022).

CK+: Lucey et al., CVPR Workshops 2010. MMI: Pantic et al., ICME 2005; Valstar & Pantic, LREC Workshops 2010.
Oulu-CASIA: Zhao et al., Image and Vision Computing 2011.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from honne.data.mixbasic import (
    CODES,
    DATASETS,
    EXPRESSIONS,
    PUBLISHED,
    Bias,
    Fold,
    FoldFiles,
    Picture,
    Split,
    file_name,
)
from honne.data.pickles import read_plain_pickle
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import IMAGE_SUFFIXES
from honne.data.readers.mixbasic_sources import FOLDERS, Clip, clips, find_sources
from honne.errors import HonneError, WrongCall
from honne.faces.align import EYE_TEMPLATE, Alignment
from honne.labels import LabelSchema

LABELS = "emotion_labels.pkl"
FRAMING = Alignment("eyes", 256, template=EYE_TEMPLATE)
NO_IMAGE = "row without image"

INFO = ReaderInfo(
    name="mixbasic",
    summary="MixBasic: 997 sequences of CK+, MMI and Oulu-CASIA, three frames each, six expressions, biased folds",
    expects="CKPlus/images, MMI/images and OuluCASIA/images as IERN's authors prepare them; or the three data sets "
    "unpacked: cohn-kanade-images and Emotion, Sessions, VL/Strong. Beside them the fold files, if any.",
    contact="the owners of CK+ (jeffcohn.net), MMI (mmifacedb.eu) and Oulu-CASIA (University of Oulu), each on signed "
    "request; the fold files come with the code of IERN",
    licence="each owner's own agreement: research only, images not to be passed on; fold files MIT",
    label_files=tuple(
        f"{folder}{name}"
        for folder in ("", "MixBasic/")
        for name in (
            LABELS,
            *(f"{dataset}/{LABELS}" for dataset in DATASETS),
            *(file_name(*part) for part in PUBLISHED),
        )
    ),
)


def schema(root: Path) -> LabelSchema:
    """The six expressions in the order of the published codes."""
    return LabelSchema(EXPRESSIONS)


def alignment(root: Path) -> Alignment:
    """Prepared pictures as they are; else by the eye centres, as they were prepared."""
    return FRAMING.as_delivered() if _delivered_at(Path(root)) else FRAMING


def settled(root: Path, *, fold: Fold | None = None, bias: Bias | None = None) -> dict[str, Any]:
    """Options that follow from others: the bias of a fold is 100 unless it is given."""
    if fold is None and bias is not None:
        raise WrongCall("--bias chooses between the files of a fold.", "Name the fold as well: --fold 1, 2 or 3.")
    return {"bias": bias or 100} if fold else {}


def notes(root: Path, *, fold_files: str | None = None) -> list[str]:
    """What to say of the data beside counts: data sets that are not there, and fold files that are not as published."""
    found = [f"{dataset} is not there ({FOLDERS[dataset]})." for dataset in DATASETS if dataset not in _there(root)]
    files, base = _fold_files(root, fold_files), _delivered_at(root)
    if base and not _pickled(base, _there(root)):
        found.append(f"Labels: rebuilt from the fold files, for want of {LABELS}.")
    if files.pictures:
        other, count = files.differences(), len(files.pictures)
        found.append(
            f"{len(other)} of {count} fold files are not as published: {other[0]}{', and more' if other[1:] else ''}."
            if other
            else f"Fold files: {count} of the {len(PUBLISHED)} published ones, row by row."
        )
    return found


def read(
    root: Path, *, fold: Fold | None = None, bias: Bias | None = None, fold_files: str | None = None
) -> Iterator[Row | Bad]:
    """Rows of MixBasic: three pictures of every sequence, by their published names.

    The data set is the `domain`, the sequence the `video`. Prepared pictures (`CKPlus/images/*.png` and so on) go
    before raw data. Labels of prepared pictures are those of `emotion_labels.pkl` (of all, or one in each data set);
    where there is none they are rebuilt from the fold files. A label that the fold files contradict is wrong.

    Args:
        root: folder with either layout, or one that holds it.
        fold: published fold whose training and test rows become the splits. Default: no splits.
        bias: share, in percent, of the tested pairs that is kept out of training: 100 or 90. Default: 100.
        fold_files: folder with the published fold files. Default: where they lie beside the data.

    Raises:
        HonneError: neither layout is there; with a fold, one of the three data sets or a fold file is not; there
            are no labels; or the fold files contradict themselves.
    """
    root, there = Path(root), _there(Path(root))
    files = _fold_files(root, fold_files)
    splits = files.splits(bias or 100, fold) if fold else {}
    if fold and len(there) < len(DATASETS):
        absent = ", ".join(dataset for dataset in DATASETS if dataset not in there)
        hint = "Leave --fold out to prepare what is there."
        raise HonneError(f"{root}: the published folds need all three data sets; {absent} is not there.", hint)
    told = files.labels() if files.tell_labels() else {}
    named = set(splits) or {picture for pictures in files.pictures.values() for picture in pictures}
    named = {picture for picture in named if picture.dataset in there}
    base = _delivered_at(root)
    rows = _delivered(base, there, told, named) if base else _raw(root, there, told, named)
    yield from _in_fold(rows, splits, fold) if fold else rows


def _delivered_at(root: Path) -> Path | None:
    """The folder that holds prepared pictures: ROOT or one in it."""
    for base in (root, *sorted(root.glob("*/"))):
        if any((base / dataset / "images").is_dir() for dataset in DATASETS):
            return base
    return None


def _there(root: Path) -> dict[str, Path]:
    """Data set -> folder of its prepared pictures, or of its raw data."""
    if base := _delivered_at(root):
        folders = {dataset: base / dataset / "images" for dataset in DATASETS}
        return {dataset: folder for dataset, folder in folders.items() if folder.is_dir()}
    if root.is_dir() and (sources := find_sources(root)):
        return sources
    raise missing(root, INFO.expects, INFO.name)


def _fold_files(root: Path, folder: str | None) -> FoldFiles:
    """Those of the folder named, or beside the data; a folder without any is an error only where it was named."""
    if folder is not None:
        if not FoldFiles(Path(folder)).pictures:
            raise HonneError(
                f"{folder}: none of the published fold files.", f"They are named as {file_name('test', 90, 3)}."
            )
        return FoldFiles(Path(folder))
    beside = [files for base in (root, *sorted(root.glob("*/"))) if (files := FoldFiles(base)).pictures]
    return beside[0] if beside else FoldFiles(root)


def _delivered(base: Path, there: dict[str, Path], told: dict[str, str], named: set[Picture]) -> Iterator[Row | Bad]:
    """Rows of prepared pictures, after everything that is wrong with their labels."""
    files: dict[Picture, Path] = {}
    for dataset, folder in there.items():
        for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
            try:
                files[Picture.parse(f"MixBasic/{dataset}/images/{path.name}")] = path
            except ValueError:
                yield Bad(str(path), "not named as a picture of MixBasic", kind="rule")
    given = _pickled(base, there)
    if not given and not told:
        hint = f"Add {LABELS}, or name the folder with the twelve fold files: --fold-files."
        raise HonneError(f"{base}: no labels: neither {LABELS} nor the fold files that they follow from.", hint)
    by_key = {picture.key: picture for picture in (*named, *files)}
    labels: dict[Picture, _Label] = {}
    refused: dict[Picture, Bad] = {}
    for key, (where, text) in given.items():
        picture = by_key.get(key)
        if picture is None:
            yield Bad(f"{where}, {key}", NO_IMAGE, "the file is missing")
            continue
        try:
            labels[picture] = _Label(picture.sequence, str(CODES.parse(text)), f"{where}, {key}")
        except HonneError as error:
            refused[picture] = Bad(f"{where}, {key}", "unknown emotion", error.what, "label")
    refused |= _contradictions(labels, told)
    yield from refused.values()
    for picture in sorted({*files, *named} - set(refused), key=lambda each: each.path):
        expression = labels[picture].expression if picture in labels else told.get(picture.sequence)
        if picture not in files:
            yield Bad(str(base / picture.path), NO_IMAGE, "the file is missing")
        elif expression is None:
            yield Bad(str(files[picture]), "image without a label", kind="rule")
        else:
            yield _row(picture, files[picture], expression)


def _pickled(base: Path, there: dict[str, Path]) -> dict[str, tuple[Path, str]]:
    """Key of a picture -> label file and label: of the file for all, else of those of the data sets."""
    if (base / LABELS).is_file():
        return {key: (base / LABELS, label) for key, label in _labels_of(base / LABELS).items()}
    own = {dataset: base / dataset / LABELS for dataset in there if (base / dataset / LABELS).is_file()}
    return {
        f"{dataset.lower()}_{stem}": (path, label)
        for dataset, path in own.items()
        for stem, label in _labels_of(path).items()
    }


def _labels_of(path: Path) -> dict[str, str]:
    labels = read_plain_pickle(path)
    if not isinstance(labels, dict) or not all(isinstance(text, str) for pair in labels.items() for text in pair):
        raise HonneError(f"{path}: not a dictionary of names and emotions.", "An entry is 'mmi_S001_104_045': 'Anger'.")
    return labels


def _raw(root: Path, there: dict[str, Path], told: dict[str, str], named: set[Picture]) -> Iterator[Row | Bad]:
    """Rows of the owners' layouts, after everything that is wrong with their labels."""
    labels: dict[Clip, _Label] = {}
    for dataset in (dataset for dataset in DATASETS if dataset in there):
        for clip in clips(dataset, there[dataset]):
            if isinstance(clip, Bad):
                yield clip
            else:
                labels[clip] = _Label(clip.name, clip.expression, str(clip.where))
    refused = _contradictions(labels, told)
    yield from refused.values()
    wanted: dict[str, list[Picture]] = {}
    for picture in sorted(named, key=lambda each: each.path):
        wanted.setdefault(picture.sequence, []).append(picture)
    for clip in labels:
        missing = dict.fromkeys(wanted.pop(clip.name, ()))
        for found in () if clip in refused else clip.pictures(list(missing)):
            if isinstance(found, Bad):
                yield found
                break
            missing.pop(found[0], None)
            yield _row(*found, clip.expression)
        else:
            yield from (_absent(picture, root) for picture in missing if clip not in refused)
    yield from (_absent(picture, root) for pictures in wanted.values() for picture in pictures)


def _absent(picture: Picture, root: Path) -> Bad:
    return Bad(picture.id, NO_IMAGE, f"the fold files name it, but {root} does not give it")


@dataclass(frozen=True)
class _Label:
    """An expression, of which sequence, and the file that says so."""

    sequence: str
    expression: str
    where: str


Labelled = TypeVar("Labelled", Picture, Clip)


def _contradictions(labels: dict[Labelled, _Label], told: dict[str, str]) -> dict[Labelled, Bad]:
    """Everything whose label is not what the fold files tell of its sequence, or not that of its other pictures."""
    known = dict(told)
    said = {each: known.setdefault(label.sequence, label.expression) for each, label in labels.items()}
    wrong = [each for each, label in labels.items() if said[each] != label.expression]
    found = {}
    for number, each in enumerate(wrong, 1):
        label = labels[each]
        by = "by the fold files" if label.sequence in told else "in another picture"
        what = f"labelled {label.expression}, but {label.sequence} is {said[each]} {by}"
        found[each] = Bad(label.where, "label contradicted", f"{what} ({number} of {len(wrong)} such labels)", "label")
    return found


def _row(picture: Picture, image: Path | np.ndarray, expression: str) -> Row:
    return Row(
        picture.id,
        image,
        subject=picture.subject,
        domain=picture.dataset,
        video=picture.sequence,
        expression=expression,
    )


def _in_fold(rows: Iterable[Row | Bad], splits: dict[Picture, Split], fold: Fold) -> Iterator[Row | Bad]:
    for row in rows:
        if isinstance(row, Row):
            row.split = splits.get(Picture.parse(row.id))
        yield row if isinstance(row, Bad) or row.split else Bad(row.id, f"not in fold {fold}", kind="rule")
