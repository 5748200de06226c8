"""AFEW-VA (Kossaifi et al., Image and Vision Computing, 2017): clips of films with valence and arousal a frame."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from honne.data.readers import Bad, ReaderInfo, Row, Splits, drawn_split, missing
from honne.data.readers.archive import Archive
from honne.faces.align import Alignment
from honne.labels import LabelSchema

COPIES = "report"
RATE = 25
"""Frames a second that times are counted with. The files do not say it; films have about as many."""
TOP = 10
"""Valence and arousal are -10..10."""
NO_ACTOR = ("", "?", "none", "unknown")

INFO = ReaderInfo(
    name="afewva",
    summary="AFEW-VA: 600 clips of films, valence and arousal and 68 landmarks a frame",
    expects="the folders 01 to 12 unpacked, with CLIP/CLIP.json beside CLIP/00000.png and so on; or a zip of them.",
    contact="ibug.doc.ic.ac.uk/resources/afew-va-database",
    licence="non-commercial research only; pictures are from films",
    label_files=("*/*/*.json",),
)


def scaled(values: np.ndarray) -> np.ndarray:
    """Valence and arousal as annotated, -10..10 in any shape, as -1..1; float64."""
    return np.asarray(values, float) / TOP


def schema(root: Path) -> LabelSchema:
    """Valence and arousal."""
    return LabelSchema(valence_arousal=True)


def alignment(root: Path) -> Alignment:
    """By eyes and mouth of the landmarks, 112 px, as in the multitask work (Deng et al., FG 2020)."""
    return Alignment("eyes_mouth", 112)


def notes(root: Path, *, splits: Splits = "drawn") -> list[str]:
    """How many clips there are, and where the splits are from."""
    archive = _open(Path(root))
    clips = list(_clips(archive))
    actors = sum(clip.actor is not None for clip in clips if isinstance(clip, _Clip))
    drawn = ["Splits are honne's own, by a hash of the actor's name, or of the clip's where there is none."]
    return [f"{len(clips):,} clips, {actors:,} with the actor's name."] + drawn * (splits == "drawn")


def read(root: Path, *, splits: Splits = "drawn") -> Iterator[Row | Bad]:
    """Rows of all frames that a clip's file names, in order of time.

    Args:
        root: folder or zip.
        splits: `drawn`: by a hash of the actor's name, or of the clip's where there is none, since there are no
            official ones. `train`: all for training.

    Raises:
        HonneError: there is no clip.
    """
    archive = _open(Path(root))
    images = {str(PurePosixPath(path).with_suffix("")): path for path in archive.images()}
    for clip in _clips(archive):
        if isinstance(clip, Bad):
            yield clip
            continue
        split = drawn_split(clip.actor or clip.name) if splits == "drawn" else "train"
        for key, frame in sorted(clip.frames.items()):
            row, path = _row(clip, key, frame), images.get(f"{clip.folder}/{key}")
            if isinstance(row, Row) and path is None:
                yield Bad(f"{clip.where}, frame {key}", "row without image", f"{clip.folder}/{key}.png is missing")
                continue
            if isinstance(row, Row) and path:
                row.image, row.split = archive.image(path), split
            yield row


@dataclass(frozen=True)
class _Clip:
    """One clip: its file, name, folder, whom it shows, and what is annotated by frame."""

    where: str
    name: str
    folder: str
    actor: str | None
    frames: dict[str, Any]


def _open(root: Path) -> Archive:
    if not root.exists():
        raise missing(root, INFO.expects, "afewva")
    archive = Archive(root)
    if not _files(archive):
        raise missing(root, INFO.expects, "afewva")
    return archive


def _files(archive: Archive) -> list[PurePosixPath]:
    """CLIP/CLIP.json, at any depth."""
    paths = map(PurePosixPath, archive.names())
    return [path for path in paths if path.suffix == ".json" and path.stem == path.parent.name]


def _clips(archive: Archive) -> Iterator[_Clip | Bad]:
    for path in _files(archive):
        where = archive.path(str(path))
        try:
            annotated = json.loads(archive.read(str(path)))
            frames = annotated["frames"].items()
            actor = str(annotated.get("actor") or "").strip()
        except (ValueError, KeyError, TypeError, AttributeError):
            yield Bad(where, "broken file", "not a JSON file with 'frames'", "label")
            continue
        known = None if actor.lower() in NO_ACTOR else actor
        yield _Clip(where, path.stem, str(path.parent), known, dict(frames))


def _row(clip: _Clip, key: str, frame: Any) -> Row | Bad:
    """A row without its image and split."""
    where = f"{clip.where}, frame {key}"
    try:
        values = np.array([frame["valence"], frame["arousal"]], float)
        landmarks = np.array(frame["landmarks"], np.float32) if "landmarks" in frame else None
    except (KeyError, TypeError, ValueError):
        return Bad(where, "broken frame", "no numbers for valence, arousal and landmarks", "label")
    if not (np.abs(values) <= TOP).all():
        detail = f"valence {values[0]:g}, arousal {values[1]:g}: not in [-{TOP}, {TOP}]"
        return Bad(where, "wrong valence or arousal", detail, "label")
    if landmarks is not None and (landmarks.shape != (68, 2) or not np.isfinite(landmarks).all()):
        return Bad(where, "wrong landmarks", f"landmarks are {landmarks.shape}, not 68 pairs of numbers", "label")
    valence, arousal = scaled(values).tolist()
    return Row(
        f"{clip.name}/{key}",
        b"",
        subject=clip.actor,
        video=clip.name,
        time=int(key) / RATE if key.isdecimal() else None,
        landmarks=landmarks,
        valence=valence,
        arousal=arousal,
    )
