"""MOSI, MOSEI and IEMOCAP as feature sequences, in the files of MulT (Tsai et al., ACL 2019).

A pickle {train, valid, test} -> {text, audio, vision, labels, id}; or the original's caches of it, one a split. Both
are read without running anything in them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from honne.data import padded
from honne.data.manifest import SPLITS
from honne.data.padded import KINDS, Names, Padded, Padding, Timing, text_of
from honne.data.pickles import read_plain_pickle
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import SPLIT_NAMES
from honne.data.tensor_pickles import read_torch_pickle
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

Dataset = Literal["iemocap", "mosei_senti", "mosi"]
DATASETS = get_args(Dataset)
EMOTIONS = ("neutral", "happiness", "sadness", "anger")
"""Of IEMOCAP, in the order of the files."""
SCALE = 3.0
"""Of sentiment in MOSI and MOSEI."""
_CACHED = "src.dataset.Multimodal_Datasets"
_PICKLE = re.compile(r"(iemocap|mosei_senti|mosi)_data(_noalign)?\.pkl")
_CACHE = re.compile(r"(iemocap|mosei_senti|mosi)_(train|valid|test)_(na|a)\.dt")
_HINT = "Only files in the layout of MulT are read."

INFO = ReaderInfo(
    name="mult",
    summary="MOSI, MOSEI and IEMOCAP as sequences of text, audio and vision features, in the files of MulT",
    expects="one of iemocap, mosei_senti or mosi: NAME_data.pkl (aligned) or NAME_data_noalign.pkl, or the caches "
    "NAME_SPLIT_a.dt or NAME_SPLIT_na.dt; or the path of such a file.",
    contact="MulT's authors, https://github.com/yaohungt/Multimodal-Transformer",
    licence="that of CMU-MOSI, CMU-MOSEI (CMU MultiComp Lab) or IEMOCAP (USC SAIL): research only",
    label_files=("*_data.pkl", "*_data_noalign.pkl", "*.dt"),
)


@dataclass(frozen=True)
class _Source:
    dataset: Dataset
    timing: Timing
    files: tuple[Path, ...]


@dataclass
class _Split:
    name: str
    features: Padded
    labels: Any
    ids: Any


def files(root: Path, *, dataset: str | None = None, timing: Timing | None = None) -> list[Path]:
    """Those that are read."""
    return list(_source(Path(root), dataset, timing).files)


def settled(root: Path, *, dataset: str | None = None, timing: Timing | None = None) -> dict[str, Any]:
    """Data set and timing, where ROOT holds one."""
    source = _source(Path(root), dataset, timing)
    return {"dataset": source.dataset, "timing": source.timing}


def schema(root: Path, *, dataset: str | None = None, timing: Timing | None = None) -> LabelSchema:
    """Four emotions of IEMOCAP, each present or absent; else sentiment in [-3, 3]."""
    emotions = _source(Path(root), dataset, timing).dataset == "iemocap"
    return LabelSchema(emotions=EMOTIONS) if emotions else LabelSchema(sentiment=SCALE)


def modalities(root: Path, *, dataset: str | None = None, timing: Timing | None = None) -> dict[str, int]:
    """As wide as the file has them."""
    return padded.widths([split.features for split in _load(Path(root), dataset, timing)])


def features(root: Path) -> dict[str, Any]:
    """What MulT's authors made them of."""
    return {
        "text": "GloVe vector of every word, as published with MulT",
        "audio": "COVAREP, as published with MulT",
        "vision": "FACET, as published with MulT",
    }


def notes(
    root: Path, *, dataset: str | None = None, timing: Timing | None = None, padding: Padding = "strip"
) -> list[str]:
    """Padding, and values that were not finite."""
    return padded.notes([split.features for split in _load(Path(root), dataset, timing)], padding)


def read(
    root: Path, *, dataset: str | None = None, timing: Timing | None = None, padding: Padding = "strip"
) -> Iterator[Row | Bad]:
    """One row per segment, in the splits of the file.

    The id is `video[start-end]` where the file names its segments, else split and number. Features are float32; values
    that are not finite are 0 (the original does so for minus infinity in audio alone).

    Args:
        root: folder, or file.
        dataset: which data set, where there are several or the file's name does not say it.
        timing: whether each step of all modalities is the same word (`aligned`), where both are there.
        padding: `strip` leaves out the zeros in front and behind: of an aligned file the steps that are zero in every
            modality, else of each modality by itself. `keep` gives all steps, as the original has them.

    Raises:
        HonneError: no such files, or something else in them.
        WrongCall: several data sets or timings, or none of that name.
    """
    source, names = _source(Path(root), dataset, timing), Names()
    for split in _load(Path(root), dataset, timing):
        segments = _segments(split)
        labels = _emotions(split) if source.dataset == "iemocap" else _sentiment(split)
        rows = (
            label if isinstance(label, Bad) else Row(names(name), split=split.name, video=video, **label)
            for (name, video), label in zip(segments, labels, strict=True)
        )
        yield from split.features.rows(rows, padding, source.timing)


# --- the files ---------------------------------------------------------------------------------------------------


def _source(root: Path, dataset: str | None, timing: Timing | None) -> _Source:
    """The one that is meant."""
    found = _sources(root, dataset, timing)
    if not found:
        raise missing(root, INFO.expects, INFO.name)
    for option, wanted, of in (("dataset", dataset, "data set"), ("timing", timing, "timing")):
        there = list(dict.fromkeys(getattr(source, option) for source in found))
        if wanted is not None and wanted not in there:
            raise WrongCall(f"{root}: holds {' and '.join(there)}, not {wanted}.", f"Choose --{option} {there[0]}.")
        if wanted is None and len(there) > 1:
            raise WrongCall(f"{root}: holds more than one {of}: {' and '.join(there)}.", f"Choose --{option}.")
        found = [source for source in found if wanted in (None, getattr(source, option))]
    return found[0]


def _sources(root: Path, dataset: str | None, timing: Timing | None) -> list[_Source]:
    """Everything that is there; caches only where there is no pickle."""
    pickles: dict[tuple[Dataset, Timing], list[Path]] = {}
    caches: dict[tuple[Dataset, Timing], list[Path]] = {}
    for file in sorted(root.iterdir()) if root.is_dir() else [root] if root.is_file() else []:
        if match := _PICKLE.fullmatch(file.name):
            pickles[cast(Dataset, match[1]), "unaligned" if match[2] else "aligned"] = [file]
        elif match := _CACHE.fullmatch(file.name):
            caches.setdefault((cast(Dataset, match[1]), "unaligned" if match[3] == "na" else "aligned"), []).append(
                file
            )
    if root.is_file() and not pickles and not caches:
        if dataset not in DATASETS:
            raise WrongCall(
                f"{root}: the name does not say which data set it is.", f"Pass --dataset: {', '.join(DATASETS)}."
            )
        pickles[cast(Dataset, dataset), timing or "aligned"] = [root]
    return [_Source(*key, tuple(files)) for key, files in (caches | pickles).items()]


def _load(root: Path, dataset: str | None, timing: Timing | None) -> tuple[_Split, ...]:
    source = _source(root, dataset, timing)
    return _loaded(source, tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in source.files))


@lru_cache(maxsize=1)  # files of some GB, asked for by each of the functions above
def _loaded(source: _Source, state: tuple[tuple[int, int], ...]) -> tuple[_Split, ...]:
    splits: dict[str, _Split] = {}
    for file in source.files:
        match = _CACHE.fullmatch(file.name)
        if match:
            held = {match[2]: read_torch_pickle(file, [_CACHED])}
        else:
            held = read_plain_pickle(file, objects=True)
        for key, arrays in held.items() if isinstance(held, dict) else ():
            name = SPLIT_NAMES.get(text_of(key).lower())
            if name and isinstance(arrays, dict):
                splits[name] = _split(f"{file}, {name}", name, {text_of(k): v for k, v in arrays.items()})
    if not any(len(split.features) for split in splits.values()):
        raise HonneError(f"{source.files[0]}: no splits of text, audio and vision in it.", _HINT)
    return tuple(splits[name] for name in SPLITS if name in splits)


def _split(where: str, name: str, arrays: dict[str, Any]) -> _Split:
    if "regression_labels" in arrays:
        raise HonneError(f"{where}: a file in the layout of MMSA.", "Read it with the reader mmsa.")
    if lacking := [key for key in (*KINDS, "labels") if key not in arrays]:
        raise HonneError(f"{where}: no '{lacking[0]}'; there are {', '.join(sorted(arrays)) or 'none'}.", _HINT)
    features = Padded(where, {kind: arrays[kind] for kind in KINDS})
    return _Split(name, features, np.asarray(arrays["labels"]), arrays.get("id", arrays.get("meta")))


# --- their samples -----------------------------------------------------------------------------------------------


def _segments(split: _Split) -> Iterator[tuple[str, str | None]]:
    """Name and video of every sample."""
    ids = [None] * len(split.features) if split.ids is None else list(split.ids)
    if len(ids) != len(split.features):
        raise HonneError(f"{split.features.where}: {len(ids)} ids for {len(split.features)} samples.", _HINT)
    for i, entry in enumerate(ids):
        parts = [text_of(part) for part in np.ravel(np.asarray(entry, object)).tolist()] if entry is not None else []
        if not parts:
            yield f"{split.name}/{i:05d}", None
        else:
            yield f"{parts[0]}[{'-'.join(parts[1:])}]" if len(parts) > 1 else parts[0], parts[0]


def _sentiment(split: _Split) -> list[dict[str, Any] | Bad]:
    return padded.sentiment(split.labels, len(split.features), SCALE, split.features.where)


def _emotions(split: _Split) -> list[dict[str, Any] | Bad]:
    """The second of each pair (absent, present)."""
    where, shape = split.features.where, (len(split.features), len(EMOTIONS), 2)
    if split.labels.shape != shape or split.labels.dtype.kind not in "fiub":
        raise HonneError(
            f"{where}: labels of shape {split.labels.shape}, not {shape}: absent or present, for four emotions.", _HINT
        )
    pairs = split.labels.astype(float)
    right = (np.isin(pairs, (0, 1)).all(2) & (pairs.sum(2) == 1)).all(1)
    return [
        {"emotions": pairs[i, :, 1].astype(np.float32)}
        if right[i]
        else Bad(
            f"{where}, sample {i}", "wrong label", f"{pairs[i].tolist()} are no pairs of absent and present", "label"
        )
        for i in range(len(pairs))
    ]
