"""MixBasic: pictures of CK+, MMI and Oulu-CASIA, pooled so that emotion and data set go together (IERN's benchmark).

Emotions form three pairs, and pairs and data sets a Latin square. In fold 1, 2 or 3 one pair of every data set is not
trained on and is all that the data set is tested on (`bias` 100); or a tenth of it is trained on (`bias` 90). The folds
are published as lists of names. Labels are not published, but follow from the lists.

Source: Chen et al., "Towards Unbiased Visual Emotion Recognition via Causal Intervention", ACM Multimedia 2022.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from honne.data.readers.archive import decoded
from honne.errors import HonneError
from honne.labels import EXPRESSION_SETS

Fold = Literal[1, 2, 3]
Bias = Literal[100, 90]
Split = Literal["train", "test"]
Part = tuple[Split, Bias, Fold]

DATASETS = ("CKPlus", "MMI", "OuluCASIA")
FOLDS: tuple[Fold, ...] = (1, 2, 3)
SPLITS: tuple[Split, ...] = ("train", "test")
CODES = EXPRESSION_SETS["oulucasia"]
EXPRESSIONS = CODES.expressions
"""In the order of the published codes; there they are capitalised."""
PAIRS = 3
"""Anger and happiness are pair 0, disgust and sadness 1, fear and surprise 2: the code modulo 3."""
FRAMES = 3
"""Pictures of every sequence; they always stay together."""
SEQUENCES = np.array([[45, 59, 25, 69, 28, 83], [33, 32, 28, 42, 32, 41], [80] * 6])
"""(data sets, expressions) published sequences."""

PUBLISHED: dict[Part, str] = {
    ("train", 100, 1): "a00746a3fbfddfb1001c89c187155f783bbf5b30b62fdba916ed8d60f83221b2",
    ("train", 100, 2): "c897f3f577fa0a8870168bf0ae3039792ecb65c9606eb3282442ff24bd495323",
    ("train", 100, 3): "6d01665d917045c046b72ff0a9bca80795f2fa98d39770ac3ac691f60c281335",
    ("train", 90, 1): "9ff6448003f44b4bb8972f798d9abd02b10864d8439aaff6d2b558a2627785a9",
    ("train", 90, 2): "d9625a2706d817c4c7e21e980acd126c2e6e5881dd0f9e0927ce322d40f8ead1",
    ("train", 90, 3): "b23a30d63e1575e336c31212ab7ad376c14d657fc09828b5a62d16236a048ffa",
    ("test", 100, 1): "7a853d30e17d83f722b3485f918f1f64f82eefa92c197415a705c9cc8183dcda",
    ("test", 100, 2): "eec58f68f852a64d5a0cd163113116a0867f3c87d0202c0d83ba75787278f1c6",
    ("test", 100, 3): "18a17c625a5076bb9a048e31d37c7e448e8cd132584bd45e653bf913f97ef39d",
    ("test", 90, 1): "197173742012e493b1db9079fcacfd1153fe9dfc98d78e86bdb1ebc637f52ec9",
    ("test", 90, 2): "2280323a6ccbe6a0f9b6f218b68d638d5c3e8be612d4d82a7bba27c25f30ad5a",
    ("test", 90, 3): "14063602fd376d4a4829d5fd5913c6c11b15c17c67e4e2e783963aba6a9f2d85",
}
"""sha256 of the published files: of their rows, one a line, no line end after the last."""

_ROW = re.compile(rf"[^/]+/({'|'.join(DATASETS)})/images/([^/]+_[^/]+_\d+)(\.\w+)")
_RELEASE = "Take all files from one copy of the published folds."


@dataclass(frozen=True)
class Picture:
    """One picture by its published name.

    Attributes:
        dataset: one of `DATASETS`.
        stem: subject, sequence and frame joined by "_", as S010_004_00000017 or P037_Surprise_018.
        suffix: of the file.
    """

    dataset: str
    stem: str
    suffix: str = ".png"

    @classmethod
    def parse(cls, row: str) -> Picture:
        """The picture that a row of a fold file names.

        Raises:
            ValueError: it is no such row.
        """
        match = _ROW.fullmatch(row)
        if not match:
            raise ValueError(row)
        return cls(*match.groups())

    @property
    def path(self) -> str:
        """Below the folder MixBasic."""
        return f"{self.dataset}/images/{self.stem}{self.suffix}"

    @property
    def id(self) -> str:
        """The row of a fold file."""
        return f"MixBasic/{self.path}"

    @property
    def key(self) -> str:
        """What the published code looks the label up by."""
        return f"{self.dataset.lower()}_{self.stem}"

    @property
    def sequence(self) -> str:
        """Unique over the data sets, as CKPlus/S010_004."""
        return f"{self.dataset}/{self.stem.rpartition('_')[0]}"

    @property
    def subject(self) -> str:
        """Unique over the data sets, as CKPlus/S010."""
        return f"{self.dataset}/{self.stem.partition('_')[0]}"


def held_out(fold: Fold) -> np.ndarray:
    """(data sets, expressions) whether the cell is what the fold tests."""
    dataset, expression = np.indices(SEQUENCES.shape)
    return expression % PAIRS == (dataset + fold - 1) % PAIRS


def published_counts(split: Split, bias: Bias, fold: Fold) -> np.ndarray:
    """(data sets, expressions) sequences of a published file; each has three pictures."""
    tested = SEQUENCES * held_out(fold)
    if bias == 90:
        tested = tested - np.rint(0.1 * tested).astype(int)  # half to even, as Python's round
    return tested if split == "test" else SEQUENCES - tested


def file_name(split: Split, bias: Bias, fold: Fold) -> str:
    """Of the published file."""
    return f"{split}_ids_bias{bias}v{fold}.csv"


@dataclass(frozen=True)
class FoldFiles:
    """The fold files that lie in a folder; of the twelve published ones any number may be missing.

    Every method raises a `HonneError` for a file that names no such pictures, a picture twice, or a sequence in part.
    """

    folder: Path

    @cached_property
    def pictures(self) -> dict[Part, tuple[Picture, ...]]:
        """The pictures of every file that is there, in its order."""
        there = {part: self.folder / file_name(*part) for part in PUBLISHED}
        return {part: _pictures(path) for part, path in there.items() if path.is_file()}

    def splits(self, bias: Bias, fold: Fold) -> dict[Picture, Split]:
        """Which part of a fold every picture is in, by data set and name.

        Raises:
            HonneError: a file is missing, or a sequence stands in both.
        """
        files = {split: self._file(split, bias, fold) for split in SPLITS}
        trained = {picture.sequence for picture in files["train"]}
        if both := next((picture.sequence for picture in files["test"] if picture.sequence in trained), None):
            names = " and in ".join(file_name(split, bias, fold) for split in SPLITS)
            raise HonneError(f"{self.folder}: {both} stands in {names}.", _RELEASE)
        parts = {picture: split for split, pictures in files.items() for picture in pictures}
        return dict(sorted(parts.items(), key=lambda entry: entry[0].path))

    def tell_labels(self) -> bool:
        """Whether the six files are there that `labels` needs."""
        return all(part in self.pictures for fold in FOLDS for part in (("test", 100, fold), ("train", 90, fold)))

    def labels(self) -> dict[str, str]:
        """Expression of every sequence, from the files alone.

        What a fold with bias 100 tests of a data set is one pair. A training file with bias 90 lists each data set
        emotion by emotion in the order of their codes: of a pair that it trains on, the first run is the first
        emotion. So two folds tell of every sequence, and in Oulu-CASIA its name as well.

        Raises:
            HonneError: a file is missing, or they contradict each other.
        """
        pair: dict[str, int] = {}
        for fold in FOLDS:
            for picture in self._file("test", 100, fold):
                held = (DATASETS.index(picture.dataset) + fold - 1) % PAIRS
                if pair.setdefault(picture.sequence, held) != held:
                    raise HonneError(f"{self.folder}: two folds with bias 100 test {picture.sequence}.", _RELEASE)
        told: dict[str, str] = {}
        for sequence, expression in (each for fold in FOLDS for each in self._told_by(fold, pair)):
            if (other := told.setdefault(sequence, expression)) != expression:
                raise HonneError(
                    f"{self.folder}: {sequence} is {other} by one fold, {expression} by another.", _RELEASE
                )
        if untold := sorted(set(pair) - set(told)):
            raise HonneError(f"{self.folder}: no fold tells the label of {untold[0]}.", _RELEASE)
        return told

    def _told_by(self, fold: Fold, pair: dict[str, int]) -> Iterator[tuple[str, str]]:
        """Sequences and expressions of the pairs that one fold trains on."""
        listed = list(dict.fromkeys(picture.sequence for picture in self._file("train", 90, fold)))
        where = self.folder / file_name("train", 90, fold)
        if strange := next((sequence for sequence in listed if sequence not in pair), None):
            raise HonneError(f"{where}: no fold with bias 100 tests {strange}.", _RELEASE)
        for number, dataset in enumerate(DATASETS):
            held = (number + fold - 1) % PAIRS
            mine = (each for each in listed if each.startswith(f"{dataset}/") and pair[each] != held)
            runs = [(key, list(run)) for key, run in groupby(mine, pair.__getitem__)]
            if [key for key, _ in runs] not in ([], [key for key in range(PAIRS) if key != held] * 2):
                what = f"{dataset} is not listed emotion by emotion, so that labels do not follow from it"
                raise HonneError(f"{where}: {what}.", _RELEASE)
            for place, (key, run) in enumerate(runs):
                expression = EXPRESSIONS[key + PAIRS * (2 * place // len(runs))]
                if dataset == "OuluCASIA":
                    _require_named(run, expression, where)
                yield from ((sequence, expression) for sequence in run)

    def _file(self, split: Split, bias: Bias, fold: Fold) -> tuple[Picture, ...]:
        part = split, bias, fold
        if part not in self.pictures:
            hint = "The twelve fold files come with the code of IERN; --fold-files names their folder."
            raise HonneError(f"{self.folder / file_name(*part)}: no such file.", hint)
        return self.pictures[part]

    def differences(self) -> list[str]:
        """How the files that are there differ from the published ones, one phrase a file; empty if they do not."""
        found = []
        for part, pictures in self.pictures.items():
            rows = FRAMES * int(published_counts(*part).sum())
            if len(pictures) != rows:
                found.append(f"{file_name(*part)} has {len(pictures)} rows instead of {rows}")
            elif _digest(pictures) != PUBLISHED[part]:
                found.append(f"{file_name(*part)} has other rows, or in another order")
        return found


def _pictures(path: Path) -> tuple[Picture, ...]:
    lines: dict[Picture, int] = {}
    with path.open("rb") as file:
        for number, line in enumerate(decoded(file, str(path)), 1):
            where, row = f"{path}, line {number}", line.strip()
            if not row:
                continue
            try:
                picture = Picture.parse(row)
            except ValueError:
                form = "MixBasic/CKPlus/images/S010_004_00000017.png"
                raise HonneError(f"{where}: '{row}' is not a picture of MixBasic.", f"A row is as {form}.") from None
            if picture in lines:
                raise HonneError(f"{where}: {row} stands on line {lines[picture]} too.", _RELEASE)
            lines[picture] = number
    for sequence, count in Counter(picture.sequence for picture in lines).items():
        if count != FRAMES:
            what = f"{count} pictures of the sequence {sequence}, not {FRAMES}: a sequence must not be split"
            raise HonneError(f"{path}: {what}.", _RELEASE)
    return tuple(lines)


def _digest(pictures: Iterable[Picture]) -> str:
    return hashlib.sha256("\n".join(picture.id for picture in pictures).encode()).hexdigest()


def _require_named(sequences: Iterable[str], expression: str, where: Path) -> None:
    for sequence in sequences:
        if sequence.rpartition("_")[2].lower() != expression:
            raise HonneError(f"{where}: {sequence} stands where {expression} is listed.", _RELEASE)
