"""From a raw clip to feature sequences: what is heard, seen and said, made the same way in training and analysis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from honne.errors import HonneError, WrongCall
from honne.features.transcript import Utterance as Utterance

if TYPE_CHECKING:
    import torch

DEFAULTS = {"audio": "log_mel", "vision": "default", "text": "hash"}
"""Modality -> features unless told otherwise; these need no file that honne does not carry."""
LONGEST = 300.0
"""Seconds of one utterance at most: what fuses modalities compares every step with every other."""


class Extractor:
    """Makes the feature sequences of clips.

    Args:
        features: modality -> features: audio `log_mel`, `mfcc`, `opensmile` or `opensmile:SET`; vision `default` or the
            folder of a model of faces; text `hash`, `glove:FILE` or `transformers:FOLDER`. In place of a word also the
            settings of an earlier extractor. Unset = `DEFAULTS`; a modality that is not named is not made.
        files: modality -> file or folder, as FILE or glove:FILE, where settings only name one (they never hold paths).
        device: of the network of faces.

    Attributes:
        widths: modality -> number of features D.
        settings: modality -> plain values from which an extractor that does exactly the same can be made.

    Raises:
        HonneError: features that do not exist, or whose file, folder or package is missing or another one.
        WrongCall: a modality that does not exist.

    Example:
        >>> extractor = Extractor({"audio": "mfcc", "text": "hash"})
        >>> extractor.widths
        {'audio': 26, 'text': 300}
        >>> extractor(None, "it's cold")["text"].shape
        (2, 300)
    """

    def __init__(
        self,
        features: Mapping[str, str | Mapping[str, Any]] | None = None,
        files: Mapping[str, str | Path] | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        chosen = dict(features or DEFAULTS)
        places = {name: _place(str(path)) for name, path in (files or {}).items()}
        for name in (*chosen, *places):
            if name not in DEFAULTS:
                raise WrongCall(f"there is no modality '{name}'.", f"There are {', '.join(DEFAULTS)}.")
        self._makers: dict[str, Any] = {}
        for name, value in chosen.items():
            self._makers[name] = _maker(name, value, places.get(name), device)
        self.widths: dict[str, int] = {name: maker.width for name, maker in self._makers.items()}
        self.settings: dict[str, dict[str, Any]] = {name: maker.settings for name, maker in self._makers.items()}

    def __call__(
        self, clip: Path | None, text: str | None, start: float = 0.0, stop: float | None = None
    ) -> dict[str, np.ndarray | None]:
        """Features of one utterance.

        Args:
            clip: video or sound file; None where there is only text.
            text: what is said; None where that is not known.
            start: s of media time.
            stop: s, not included; None = to the end.

        Returns:
            Modality -> (T, D) float32, finite; None where the clip has no such track, no frame shows a face, or
            nothing is said.

        Raises:
            HonneError: the clip cannot be read or is damaged, or the utterance is longer than `LONGEST`.
        """
        return next(self.utterances(clip, [Utterance(text, start, stop)]))

    def utterances(
        self, clip: Path | None, utterances: Sequence[Utterance], modalities: Sequence[str] | None = None
    ) -> Iterator[dict[str, np.ndarray | None]]:
        """Features of several utterances, the clip being read once; each as if it were asked for alone.

        Args:
            clip: video or sound file; None where there is only text.
            utterances: in order of their starts; they may overlap.
            modalities: what to look at; the others are None. Unset = all.

        Yields:
            As `__call__` returns, in order.
        """
        if any(after.start < before.start for before, after in pairwise(utterances)):
            raise ValueError("utterances must come in order of their starts")
        wanted = [name for name in self._makers if modalities is None or name in modalities]
        streams: dict[str, Iterator[np.ndarray | None]] = {name: repeat(None) for name in self._makers}
        if "text" in wanted:
            streams["text"] = map(self._makers["text"], [each.text for each in utterances])
        if clip is not None and {"audio", "vision"} & set(wanted):
            from honne.features.media import tracks

            there = tracks(clip)
            for each in utterances:
                _require_short(clip, each, there.duration)
            for name, has in (("audio", there.sound), ("vision", there.pictures)):
                if name in wanted and has:
                    streams[name] = self._makers[name].utterances(clip, utterances)
        for _ in utterances:
            yield {name: next(stream) for name, stream in streams.items()}


def _require_short(clip: Path, utterance: Utterance, duration: float) -> None:
    seconds = (duration if utterance.stop is None else utterance.stop) - utterance.start
    if seconds > LONGEST:
        raise HonneError(
            f"{clip}: {seconds / 60:.1f} minutes are too long for one utterance; {LONGEST / 60:g} are the most.",
            "Cut it: captions beside the clip (.srt, .vtt), or --segment 10 of `honne analyze`.",
        )


def _place(path: str) -> Path:
    return Path(path.removeprefix("glove:").removeprefix("transformers:"))


def _maker(name: str, value: str | Mapping[str, Any], file: Path | None, device: str | torch.device) -> Any:
    if name == "audio":
        from honne.features.audio import Audio

        return Audio(value)
    if name == "vision":
        from honne.features.vision import Vision

        return Vision(value, file, device)
    from honne.features.text import Text

    return Text(value, file)
