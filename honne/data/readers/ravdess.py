"""RAVDESS in its official layout: `Actor_NN/MM-VV-EE-II-SS-RR-AA.mp4` or `.wav`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.clip_files import best_of_each, clip_files
from honne.labels import EXPRESSION_SETS, LabelSchema

INFO = ReaderInfo(
    name="ravdess",
    summary="RAVDESS: 24 actors speak and sing 2 sentences in 8 emotions, video and sound (Livingstone & Russo 2018)",
    expects="Actor_01/01-01-03-01-01-01-01.mp4 (02: video alone, 03: sound alone), or such files anywhere below ROOT.",
    contact="https://zenodo.org/records/1188976",
    licence="CC BY-NC-SA 4.0",
)
CLIPS = True
Channel = Literal["speech", "song", "all"]
SET = EXPRESSION_SETS["ravdess"]
SENTENCES = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
CHANNELS = {"01": "speech", "02": "song"}
_NAME = re.compile(r"(0[123])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)")
MODALITIES = {"01": 0, "03": 1, "02": 2}
"""First number of a name (whole, sound alone, video alone) -> rank: the whole clip is taken where it is there."""


def schema(root: Path) -> LabelSchema:
    """The eight emotions that were played."""
    return LabelSchema(SET.expressions)


def read(root: Path, *, channel: Channel = "speech") -> Iterator[Row | Bad]:
    """A row per clip; where a clip is there whole and in parts, the whole one.

    Args:
        root: folder.
        channel: speech, song, or all.

    Raises:
        HonneError: there is no clip.
    """
    root = Path(root)
    files = list(clip_files(root)) if root.is_dir() else []
    named = [(path, match) for path in files if (match := _NAME.fullmatch(path.stem))]
    if not named:
        raise missing(root, INFO.expects, "ravdess")
    known = {path for path, _ in named}
    yield from (
        Bad(str(path), "name is not of the form 01-01-03-01-01-01-01", kind="rule")
        for path in files
        if path not in known
    )
    wanted = [(path, match) for path, match in named if channel in ("all", CHANNELS[match[2]])]
    ranked = ((path.stem[3:], MODALITIES[match[1]], path) for path, match in wanted)
    for name, path in best_of_each(ranked).items():
        _, emotion, _, sentence, _, actor = name.split("-")
        yield Row(path.stem, subject=actor, expression=SET.parse(emotion), text=SENTENCES[sentence], clip=path)


def notes(root: Path) -> list[str]:
    """What the labels are."""
    return ["Labels are the emotions that the actors were asked to play, not what raters saw."]
