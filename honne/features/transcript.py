"""What is said in a clip: text beside it, whole or as captions with times."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from honne.data.readers.archive import decoded
from honne.errors import HonneError

CAPTIONS = (".srt", ".vtt")
_TIME = r"(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:[.,]\d+)?)"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}(?:\s.*)?")
_MARKUP = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True)
class Utterance:
    """A stretch of a clip that is judged as one.

    Attributes:
        text: what is said; None where that is not known.
        start: s of media time, counted from the first stored frame (of a sound file: from its first sample).
        stop: s, not included; None = to the end of the clip.
    """

    text: str | None = None
    start: float = 0.0
    stop: float | None = None

    @property
    def end(self) -> float:
        """`stop` as a number: infinity for the end of the clip."""
        return math.inf if self.stop is None else self.stop


def beside(clip: Path) -> Path | None:
    """The transcript that lies beside a clip under its name: `clip.srt`, `clip.vtt` or, without times, `clip.txt`."""
    return next((file for suffix in (*CAPTIONS, ".txt") if (file := clip.with_suffix(suffix)).is_file()), None)


def read_transcript(path: Path) -> list[Utterance]:
    """Utterances of a `.srt` or `.vtt` file, in order of their starts; any other text file is one, of the whole clip.

    Captions without text, and such of no duration, are left out; markup (`<i>`, `{\\an8}`) is removed.

    Raises:
        HonneError: the file cannot be read, is neither UTF-8 nor Windows-1252, or has a caption without times.
    """
    try:
        with path.open("rb") as file:
            lines = [line.rstrip("\r\n") for line in decoded(file, str(path))]
    except OSError as error:
        raise HonneError(f"{path}: cannot be read ({error.strerror}).", "Check the transcript's path.") from None
    if path.suffix.lower() not in CAPTIONS:
        return [Utterance(" ".join(" ".join(lines).split()) or None)]
    return sorted(_captions(path, lines), key=lambda caption: (caption.start, caption.end))


def _captions(path: Path, lines: list[str]) -> Iterator[Utterance]:
    for number, block in _blocks(lines):
        # Above the times may stand a number or name; blocks without times are WebVTT's header, notes and styles.
        place = next((i for i, line in enumerate(block[:2]) if "-->" in line), None)
        if place is None:
            if path.suffix.lower() == ".srt":
                raise HonneError(
                    f"{path}, line {number}: a caption without times ('{block[0][:40]}').",
                    "Write them as 00:00:01,000 --> 00:00:02,500.",
                )
            continue
        times = _TIMES.fullmatch(block[place])
        if times is None:
            raise HonneError(
                f"{path}, line {number + place}: '{block[place][:60]}' are not the times of a caption.",
                "Write them as 00:00:01,000 --> 00:00:02,500.",
            )
        start, stop = (_seconds(*times.groups()[i : i + 3]) for i in (0, 3))
        text = " ".join(_MARKUP.sub("", " ".join(block[place + 1 :])).split())
        if text and stop > start:
            yield Utterance(text, start, stop)


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number of the first line, and lines, of every stretch between empty lines."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _seconds(hours: str | None, minutes: str, seconds: str) -> float:
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(seconds.replace(",", "."))
