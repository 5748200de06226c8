"""What a user may choose about an analysis, checked before any work starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from honne.data.manifest import sha256
from honne.errors import WrongCall
from honne.smoothing import Smoothing as Smoothing

Format = Literal["parquet", "csv", "jsonl"]
Names = Literal["honne", "openface"]


@dataclass(frozen=True)
class Baseline:
    """Which part of each face's track is its own baseline.

    Args:
        length: how much of the track, counted from the face's first row; 0 for no baseline.
        unit: `s` of media time, or analysed `frames`.
    """

    length: float = 0
    unit: Literal["s", "frames"] = "s"

    @classmethod
    def parse(cls, text: str) -> Baseline:
        """From `first:10s`, `first:250frames` or `none`."""
        if text == "none":
            return cls()
        kind, _, length = text.partition(":")
        unit: Literal["s", "frames"] = "frames" if length.endswith("frames") else "s"
        try:
            if kind == "first" and length.endswith(unit) and float(length.removesuffix(unit)) > 0:
                return cls(float(length.removesuffix(unit)), unit)
        except ValueError:
            pass
        raise WrongCall(f"baseline: '{text}' is not a baseline.", "Give first:10s, first:250frames or none.")


@dataclass(frozen=True)
class Settings:
    """The choices that shape a table; `analyze` explains each."""

    format: Format = "parquet"
    fps: float | None = None
    video: bool = False
    finder: str = "mediapipe"
    smooth: str = "none"
    baseline: str = "none"
    names: Names = "honne"
    abstain: float | None = None
    explain: bool = False
    timeline: bool = False
    modalities: str | None = None
    segment: float | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and not self.fps > 0:
            raise WrongCall(f"fps must be more than 0, not {self.fps}.")
        if self.abstain is not None and not 0 <= self.abstain <= 1:
            raise WrongCall(f"abstain must lie in 0..1 (an uncertainty), not {self.abstain}.")
        if self.segment is not None and not self.segment > 0:
            raise WrongCall(f"segment must be more than 0 s, not {self.segment:g}.")
        for name, known in (("format", ("parquet", "csv", "jsonl")), ("names", ("honne", "openface"))):
            if getattr(self, name) not in known:
                raise WrongCall(f"{name}: '{getattr(self, name)}' is not one of {', '.join(known)}.")
        Smoothing.parse(self.smooth)
        Baseline.parse(self.baseline)

    def to_dict(self) -> dict[str, Any]:
        """For the provenance file: every setting, and the hash of a file that the finder reads."""
        path = Path(self.finder.partition(":")[2])
        return asdict(self) | ({"finder_sha256": sha256(path)} if path.is_file() else {})
