"""MOSI, MOSEI, SIMS and SIMSv2 as feature sequences, in the files of MMSA (Mao et al., ACL 2022) and DMD."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from honne.data import padded
from honne.data.manifest import SPLITS
from honne.data.padded import KINDS, Names, Padded, Padding, Timing, text_of
from honne.data.pickles import read_plain_pickle
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

_HINT = "Only files in the layout of MMSA are read."
_TOKENS = "The tokens of `text_bert` are left out: honne runs no BERT. Text is what the file has as `text`."

INFO = ReaderInfo(
    name="mmsa",
    summary="MOSI, MOSEI, SIMS and SIMSv2 as sequences of text, audio and vision features, in the files of MMSA",
    expects="aligned_50.pkl, unaligned_50.pkl, unaligned_39.pkl or sims_unaligned.pkl, in it or in its folder "
    "Processed; or the path of such a file.",
    contact="MMSA's authors, https://github.com/thuiar/MMSA",
    licence="that of CMU-MOSI, CMU-MOSEI (CMU MultiComp Lab) or CH-SIMS (THUIAR): research only",
    label_files=("*.pkl", "Processed/*.pkl"),
)


@dataclass
class _Split:
    name: str
    features: Padded
    arrays: dict[str, Any]


def files(root: Path, *, timing: Timing | None = None) -> list[Path]:
    """The one that is read."""
    return [_file(Path(root), timing)]


def settled(root: Path, *, timing: Timing | None = None) -> dict[str, Any]:
    """Timing, where ROOT holds one."""
    return {"timing": _timing(_file(Path(root), timing))}


def schema(root: Path, *, timing: Timing | None = None) -> LabelSchema:
    """Sentiment in [-3, 3]; of SIMS in [-1, 1]."""
    file = _file(Path(root), timing)
    return LabelSchema(sentiment=_scale(file, _load(file)))


def modalities(root: Path, *, timing: Timing | None = None) -> dict[str, int]:
    """As wide as the file has them."""
    return padded.widths([split.features for split in _load(_file(Path(root), timing))])


def features(root: Path, *, timing: Timing | None = None) -> dict[str, Any]:
    """What MMSA's authors made them of."""
    found = modalities(root, timing=timing)
    made = {"text": "BERT's last hidden state" if found["text"] == 768 else "word vectors"}
    return {name: f"{made.get(name, 'features')}, as published with MMSA" for name in found}


def notes(root: Path, *, timing: Timing | None = None, padding: Padding = "strip") -> list[str]:
    """Padding, values that were not finite, and what is left out."""
    splits = _load(_file(Path(root), timing))
    tokens = [_TOKENS] if any("text_bert" in split.arrays for split in splits) else []
    return padded.notes([split.features for split in splits], padding) + tokens


def read(root: Path, *, timing: Timing | None = None, padding: Padding = "strip") -> Iterator[Row | Bad]:
    """One row per clip, in the splits of the file, with its transcript.

    Features are float32; values that are not finite are 0 (the original does so for minus infinity in audio alone).

    Args:
        root: folder, or file.
        timing: whether each step of all modalities is the same word (`aligned`), where both files are there.
        padding: `strip` leaves out what is padding by `audio_lengths`, `vision_lengths` and the mask in `text_bert`,
            else zeros in front and behind: of an aligned file steps that are padding in every modality, else of each
            modality by itself. `keep` gives all steps.

    Raises:
        HonneError: no such file, something else in it, or text as tokens alone.
        WrongCall: several files.
    """
    file, names = _file(Path(root), timing), Names()
    splits = _load(file)
    scale = _scale(file, splits)
    for split in splits:
        features, where = split.features, split.features.where
        labels = padded.sentiment(split.arrays["regression_labels"], len(features), scale, where)
        clips, texts = (_texts(split, key) for key in ("id", "raw_text"))
        rows = (
            label
            if isinstance(label, Bad)
            else Row(
                names(clip or f"{split.name}/{i:05d}"),
                split=split.name,
                video=clip.partition("$_$")[0] if clip else None,
                text=text,
                **label,
            )
            for i, (clip, text, label) in enumerate(zip(clips, texts, labels, strict=True))
        )
        yield from features.rows(rows, padding, _timing(file))


def _file(root: Path, timing: Timing | None) -> Path:
    """The one that is meant."""
    if root.is_file():
        found = [root]
    else:
        found = sorted(root.glob("*.pkl")) or sorted(root.glob("Processed/*.pkl"))
    if not found:
        raise missing(root, INFO.expects, INFO.name)
    chosen = [file for file in found if timing in (None, _timing(file))]
    if not chosen:
        raise WrongCall(f"{root}: holds {found[0].name}, which is not {timing}.", "Leave --timing out.")
    if len(chosen) > 1:
        listed = " and ".join(file.name for file in chosen)
        raise WrongCall(f"{root}: holds {listed}.", "Choose --timing, or give the path of one as ROOT.")
    return chosen[0]


def _timing(file: Path) -> Timing:
    return "aligned" if re.search(r"(?<!un)aligned", file.stem.lower()) else "unaligned"


def _scale(file: Path, splits: tuple[_Split, ...]) -> float:
    named = any("sims" in part.lower() for part in file.resolve().parts[-3:])
    return 1.0 if named or any("regression_labels_T" in split.arrays for split in splits) else 3.0


def _load(file: Path) -> tuple[_Split, ...]:
    return _loaded(file, (file.stat().st_mtime_ns, file.stat().st_size))


@lru_cache(maxsize=1)  # files of some GB, asked for by each of the functions above
def _loaded(file: Path, state: tuple[int, int]) -> tuple[_Split, ...]:
    held = read_plain_pickle(file, objects=True)
    splits: dict[str, _Split] = {}
    for key, arrays in held.items() if isinstance(held, dict) else ():
        name = SPLIT_NAMES.get(text_of(key).lower())
        if name and isinstance(arrays, dict):
            splits[name] = _split(f"{file}, {name}", name, {text_of(k): v for k, v in arrays.items()})
    if not any(len(split.features) for split in splits.values()):
        raise HonneError(f"{file}: no splits of features in it.", _HINT)
    return tuple(splits[name] for name in SPLITS if name in splits)


def _split(where: str, name: str, arrays: dict[str, Any]) -> _Split:
    if "labels" in arrays and "regression_labels" not in arrays:
        raise HonneError(f"{where}: a file in the layout of MulT.", "Read it with the reader mult.")
    if "text" not in arrays and "text_bert" in arrays:
        raise HonneError(
            f"{where}: text as BERT's tokens alone (`text_bert`), and honne runs no BERT.",
            "Use a file that has `text`, as MMSA's and DMD's own do.",
        )
    if lacking := [key for key in (*KINDS, "regression_labels") if key not in arrays]:
        raise HonneError(f"{where}: no '{lacking[0]}'; there are {', '.join(sorted(arrays)) or 'none'}.", _HINT)
    values = {kind: np.asarray(arrays[kind]) for kind in KINDS}
    there = {}
    for kind, array in values.items():
        if array.ndim == 3 and f"{kind}_lengths" in arrays:
            there[kind] = _within(arrays[f"{kind}_lengths"], array, f"{where}, {kind}_lengths")
    tokens = np.asarray(arrays.get("text_bert", ()))
    if tokens.ndim == 3 and tokens.shape == (len(values["text"]), 3, values["text"].shape[1]):
        there["text"] = tokens[:, 1] != 0
    kept = {key: value for key, value in arrays.items() if key not in KINDS}
    return _Split(name, Padded(where, values, there), kept)


def _within(lengths: Any, array: np.ndarray, where: str) -> np.ndarray:
    """(N, T) whether a step is within the length of its sample."""
    found = np.asarray(lengths)
    if found.dtype.kind not in "iuf" or found.size != len(array):
        raise HonneError(f"{where}: not a number for each of {len(array)} samples.", _HINT)
    found = found.reshape(len(array))
    wrong = ~((found >= 0) & (found <= array.shape[1]))
    if wrong.any():
        i = int(wrong.argmax())
        raise HonneError(f"{where}, sample {i}: {found[i]:g} steps of {array.shape[1]}.", _HINT)
    return np.arange(array.shape[1]) < found[:, None]


def _texts(split: _Split, key: str) -> list[str | None]:
    """One text for each sample; None without."""
    count, given = len(split.features), split.arrays.get(key)
    if given is None:
        return [None] * count
    texts: list[str | None] = [text_of(text) for text in np.ravel(np.asarray(given, object)).tolist()]
    if len(texts) != count:
        raise HonneError(f"{split.features.where}: {len(texts)} of '{key}' for {count} samples.", _HINT)
    return texts
