"""CREMA-D in its official layout: clips named `1001_DFA_ANG_XX`, videos in VideoFlash, sound alone in AudioWAV."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.clip_files import SOUNDS, best_of_each, clip_files
from honne.labels import EXPRESSION_SETS, LabelSchema

INFO = ReaderInfo(
    name="crema_d",
    summary="CREMA-D: 91 actors say 12 sentences in 6 emotions, video and sound (Cao et al. 2014)",
    expects="VideoFlash/1001_DFA_ANG_XX.flv or AudioWAV/1001_DFA_ANG_XX.wav, or such files anywhere below ROOT.",
    contact="https://github.com/CheyneyComputerScience/CREMA-D",
    licence="Open Database License (ODbL) 1.0; contents Database Contents License 1.0",
)
CLIPS = True
SET = EXPRESSION_SETS["cremad"]
SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
_NAME = re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_(LO|MD|HI|XX|X)")


def schema(root: Path) -> LabelSchema:
    """The six emotions that were played."""
    return LabelSchema(SET.expressions)


def read(root: Path) -> Iterator[Row | Bad]:
    """A row per clip; where a clip is there as video and as sound, the video, which has both.

    Args:
        root: folder.

    Raises:
        HonneError: there is no clip.
    """
    root = Path(root)
    files = list(clip_files(root)) if root.is_dir() else []
    named = [path for path in files if _NAME.fullmatch(path.stem)]
    if not named:
        raise missing(root, INFO.expects, "crema_d")
    yield from (
        Bad(str(path), "name is not of the form 1001_DFA_ANG_XX", kind="rule")
        for path in files
        if path not in set(named)
    )
    ranked = ((path.stem, int(path.suffix.lower() in SOUNDS), path) for path in named)
    for name, path in best_of_each(ranked).items():
        actor, sentence, emotion, _ = name.split("_")
        if emotion not in SET.codes or sentence not in SENTENCES:
            code = emotion if emotion not in SET.codes else sentence
            yield Bad(str(path), "unknown code", f"'{code}' is no emotion or sentence of CREMA-D", "label")
            continue
        yield Row(name, subject=actor, expression=SET.parse(emotion), text=SENTENCES[sentence], clip=path)


def notes(root: Path) -> list[str]:
    """What the labels are."""
    return ["Labels are the emotions that the actors were asked to play, not what raters saw."]
