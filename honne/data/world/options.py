"""The knobs of the synthetic world."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from honne.errors import WrongCall

EXPRESSIONS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
TASKS = ("expression", "au", "va")
DOMAINS = ("studio", "warm", "cold", "faded", "night", "meadow", "film", "haze")
"""Names of the camera styles, in the order of the world's domain numbers."""


@dataclass(frozen=True)
class World:
    """Knobs of the synthetic world.

    Args:
        n: faces in all (moments of sequences count one by one).
        size: side of the pictures in px, 32..512.
        seed: everything follows from it.
        classes: expressions, canonical names; the first 7 of `EXPRESSIONS` by default. Neutral is needed.
        labels: what the manifest shows: "expression", "au", "va", joined by "+". The truth file always has all.
        voters: observers whose votes are counted; 0 leaves the votes out of the manifest.
        annotation: training labels: "truth", the "majority" of the votes, or the word of a "single" observer.
        label_noise: share of training labels replaced by another class, 0..1.
        unlabelled: share of rows whose labels are left out, drawn for each task by itself, 0..1.
        ambiguity: 0: every face shows one expression; 1: the second expression has up to half a share.
        domains: number of camera styles, 1..8; 1 means no confounder.
        bias: how strongly expression and camera style go together in training and validation, 0..1.
        pattern: what full bias means: "paired": each class has one style; "latin": each class lacks one style.
        fold: rotates which class goes with which style.
        test_domains: "even": all styles alike; "reversed": only the combinations that full bias leaves out.
        subjects: identities; each is in one split only.
        valid_share: share of the identities in the validation split, 0..1.
        test_share: share of the identities in the test split, 0..1.
        pose_range: largest yaw in degrees; pitch and roll reach half of it. 0..45.
        frames: moments of each sequence, going neutral, apex, neutral; 1 gives stills.
        fps: moments per second of media time.
    """

    n: int = 2000
    size: int = 64
    seed: int = 0
    classes: tuple[str, ...] = EXPRESSIONS[:7]
    labels: str = "expression+au+va"
    voters: int = 10
    annotation: Literal["truth", "majority", "single"] = "truth"
    label_noise: float = 0.0
    unlabelled: float = 0.0
    ambiguity: float = 0.0
    domains: int = 1
    bias: float = 0.0
    pattern: Literal["paired", "latin"] = "paired"
    fold: int = 0
    test_domains: Literal["even", "reversed"] = "even"
    subjects: int = 60
    valid_share: float = 0.15
    test_share: float = 0.2
    pose_range: float = 15.0
    frames: int = 1
    fps: float = 12.5

    def __post_init__(self) -> None:
        unknown = [name for name in self.classes if name not in EXPRESSIONS]
        if unknown or "neutral" not in self.classes or len(set(self.classes)) != len(self.classes):
            raise WrongCall(
                f"classes {', '.join(self.classes)}: the synthetic world needs neutral and knows each of "
                f"{', '.join(EXPRESSIONS)} once.",
                "Leave --classes out for the usual seven.",
            )
        if len(self.classes) < 2:
            raise WrongCall("classes: the synthetic world needs at least two expressions.")
        if not self.tasks or set(self.tasks) - set(TASKS):
            raise WrongCall(f"labels '{self.labels}': not one or more of expression, au, va joined by '+'.")
        for name, low, high in (
            ("n", self.frames, 10_000_000), ("size", 32, 512), ("domains", 1, len(DOMAINS)), ("frames", 1, 1000),
            ("subjects", 1 + (self.valid_share > 0) + (self.test_share > 0), 1_000_000), ("voters", 0, 1000),
            ("label_noise", 0, 1), ("unlabelled", 0, 1), ("ambiguity", 0, 1), ("bias", 0, 1), ("pose_range", 0, 45),
            ("valid_share", 0, 1), ("test_share", 0, 1), ("fps", 0.1, 1000),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                raise WrongCall(f"{name} {getattr(self, name)}: the synthetic world takes {low} to {high}.")
        if self.valid_share + self.test_share >= 1:
            raise WrongCall("valid_share and test_share leave no identity for training.")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"classes": list(self.classes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> World:
        """The inverse of `to_dict`."""
        return cls(**values | {"classes": tuple(values["classes"])})

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that the manifest shows labels of."""
        return tuple(filter(None, self.labels.split("+")))
