"""What is heard: mel spectra, cepstral coefficients, or openSMILE's descriptors, a few steps a second.

Sources: mel scale 2595 log10(1 + f / 700): O'Shaughnessy, Speech Communication, 1987, as HTK has it (Young et al., The
HTK Book); cepstral coefficients: Davis and Mermelstein, IEEE TASSP, 1980; eGeMAPS: Eyben et al., IEEE TAC, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from honne.errors import HonneError
from honne.features import media
from honne.features.transcript import Utterance

FLOOR = 1e-10
"""Energy that counts as silence; a sine at full scale has 0.25."""


@dataclass(frozen=True)
class AudioSettings:
    """Everything that decides what the features of a sound are.

    Attributes:
        kind: log_mel, mfcc or opensmile.
        rate: samples per second that the sound is brought to (mono).
        hop: s between two windows.
        step: s of a step of the sequence, over whose windows the mean is taken.
        window: s, a Hann window; of log_mel and mfcc.
        bands: of the mel scale between `low` and `high` Hz; likewise.
        low, high: Hz; likewise.
        coefficients: cepstral ones, with as many slopes over time after them; of mfcc.
        set: openSMILE's feature set, whose low-level descriptors x are taken as sign(x) log(1 + |x|), since their
            units (Hz, dB, semitones) differ by thousands; of opensmile.
    """

    kind: str = "log_mel"
    rate: int = 16000
    hop: float = 0.01
    step: float = 0.05
    window: float = 0.025
    bands: int = 40
    low: float = 20.0
    high: float = 7600.0
    coefficients: int = 13
    set: str = "eGeMAPSv02"

    @classmethod
    def of(cls, value: str | Mapping[str, Any]) -> AudioSettings:
        """From `log_mel`, `mfcc`, `opensmile`, `opensmile:SET`, or from settings.

        Raises:
            HonneError: there are no such features.
        """
        if isinstance(value, str):
            kind, _, name = value.partition(":")
            value = {"kind": kind} | ({"set": name} if name else {})
        known = {field.name for field in fields(cls)}
        if value.get("kind") not in _OWN or (unknown := set(value) - known):
            what = f"'{value.get('kind')}'" if value.get("kind") not in _OWN else f"the setting {min(unknown)}"
            raise HonneError(
                f"audio: there are no such features ({what}).", "Choose log_mel, mfcc, opensmile or opensmile:SET."
            )
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        """What decides, and nothing else."""
        kept = {"kind", "rate", "hop", "step", *_OWN[self.kind]}
        return {name: value for name, value in asdict(self).items() if name in kept}


_SPECTRAL = ("window", "bands", "low", "high")
_OWN = {"log_mel": _SPECTRAL, "mfcc": (*_SPECTRAL, "coefficients"), "opensmile": ("set",)}


class Audio:
    """Features of sound.

    Args:
        value: as of `AudioSettings.of`.

    Attributes:
        width: features of a step.
        settings: to do exactly the same later.

    Raises:
        HonneError: no such features, or openSMILE is not installed.
    """

    def __init__(self, value: str | Mapping[str, Any]) -> None:
        self.options = options = AudioSettings.of(value)
        self.settings = options.to_dict()
        if options.kind == "opensmile":
            self._smile = _smile(options.set)
            self.width = len(self._smile.feature_names)
            return
        self._length, self._hop = round(options.window * options.rate), round(options.hop * options.rate)
        self._fft = 2 ** math.ceil(math.log2(self._length))
        self._window = torch.hann_window(self._length)
        self._filters = mel_filters(options.bands, self._fft, options.rate, options.low, options.high)
        self._cosines = dct(options.bands)[: options.coefficients] if options.kind == "mfcc" else None
        self.width = options.bands if self._cosines is None else 2 * options.coefficients

    def utterances(self, clip: Path, utterances: Sequence[Utterance]) -> Iterator[np.ndarray | None]:
        """(T, D) of each utterance of a clip with sound; None where there is none at that time."""
        for samples in media.sounds(clip, utterances, self.options.rate):
            yield None if samples is None else self(samples)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """(T, D) float32 of (N,) mono samples at `rate`; T is N / (rate * step), rounded up, and at least 1."""
        if self.options.kind == "opensmile":
            return self._described(samples)
        steps = self._stepped(self._log_mel(torch.from_numpy(np.asarray(samples, np.float32))))
        if self._cosines is not None:
            cepstrum = steps @ self._cosines.T
            steps = torch.cat([cepstrum, slopes(cepstrum)], 1)
        return steps.numpy()

    def _log_mel(self, samples: Tensor) -> Tensor:
        """(windows, bands): -1 silence, about 0.9 a sine at full scale in the middle of a band."""
        count = max(1, math.ceil(len(samples) / self._hop))
        padded = samples.new_zeros((count - 1) * self._hop + self._length)
        kept = min(len(samples), len(padded))
        padded[:kept] = samples[:kept]
        spectra = torch.fft.rfft(padded.unfold(0, self._length, self._hop) * self._window, self._fft)
        energy = (spectra.abs() / self._window.sum()).square() @ self._filters.T
        return 1 + energy.clamp_min(FLOOR).log10() / 5

    def _stepped(self, windows: Tensor) -> Tensor:
        """(T, D) means of (windows, D) over the windows of each step."""
        return torch.stack([part.mean(0) for part in windows.split(round(self.options.step / self.options.hop))])

    def _described(self, samples: np.ndarray) -> np.ndarray:
        shortest = round(0.1 * self.options.rate)  # one of openSMILE's longest windows
        samples = np.pad(samples, (0, max(shortest - len(samples), 0)))
        table = self._smile.process_signal(samples, self.options.rate)
        values = torch.from_numpy(np.nan_to_num(table.to_numpy(np.float32), posinf=0, neginf=0))
        return self._stepped(values.sign() * values.abs().log1p()).numpy()


def mel(frequency: Tensor) -> Tensor:
    """Hz -> mel."""
    return 2595 * torch.log10(1 + frequency / 700)


def mel_filters(bands: int, fft: int, rate: int, low: float, high: float) -> Tensor:
    """(bands, fft // 2 + 1) triangles of height 1, evenly spaced on the mel scale, each from centre to centre."""
    places = mel(torch.arange(fft // 2 + 1) * rate / fft)
    lowest, highest = mel(torch.tensor([low, high]))
    edges = torch.linspace(float(lowest), float(highest), bands + 2)
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0)


def dct(size: int) -> Tensor:
    """(size, size) orthonormal cosine transform of type II; rows are the coefficients from the zeroth."""
    place = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (place + 0.5) * place[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def slopes(values: Tensor, reach: int = 2) -> Tensor:
    """(T, D) slope over time at every step, by regression over `reach` steps on each side; ends are repeated."""
    padded = torch.cat([values[:1].expand(reach, -1), values, values[-1:].expand(reach, -1)])
    count = len(values)
    total = torch.zeros_like(values)
    for n in range(1, reach + 1):
        total += n * (padded[reach + n : reach + n + count] - padded[reach - n : reach - n + count])
    return total / (2 * sum(n * n for n in range(1, reach + 1)))


def _smile(name: str) -> Any:
    try:
        import opensmile
    except ImportError:
        raise HonneError(
            "audio: the features 'opensmile' need openSMILE.",
            "Install it with: pip install 'honne[audio]' (its licence is for research and non-commercial use).",
        ) from None
    if name not in opensmile.FeatureSet.__members__:
        raise HonneError(
            f"audio: openSMILE has no feature set '{name}'.", f"It has {', '.join(opensmile.FeatureSet.__members__)}."
        )
    try:
        return opensmile.Smile(opensmile.FeatureSet[name], opensmile.FeatureLevel.LowLevelDescriptors)
    except ValueError:
        raise HonneError(
            f"audio: openSMILE's set '{name}' has no low-level descriptors.", "Choose eGeMAPSv02 or ComParE_2016."
        ) from None
