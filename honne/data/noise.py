"""Wrong labels on purpose: how a method stands label noise is measured by training it on labels known to be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from honne.batch import NOT_LABELLED
from honne.errors import WrongCall

TAKEN_FOR = {
    "neutral": "sadness",
    "happiness": "neutral",
    "surprise": "fear",
    "sadness": "neutral",
    "anger": "neutral",
    "disgust": "anger",
    "fear": "surprise",
    "contempt": "neutral",
}
"""Expression -> what observers who disagree with the majority most often say (second votes of FER+'s training part)."""


@dataclass(frozen=True)
class LabelNoise:
    """How labels are made wrong.

    Args:
        share: of the labelled rows of each class (rounded), 0..1.
        kind: `symmetric`: any other class, all equally likely. `asymmetric`: the class that it is most often taken for
            (`TAKEN_FOR`; the next class of the schema where that names none).
        seed: of the choice.
    """

    share: float
    kind: Literal["symmetric", "asymmetric"] = "symmetric"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise WrongCall(f"data.label_noise is {self.share}.", "It is a share of the labels: 0 to below 1.")

    def flipped(self, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
        """(N,) labels of which `share` of each class are wrong; a flip never keeps the class.

        Args:
            labels: (N,) class indices, `NOT_LABELLED` rows stay so.
            classes: C names, at least two.
        """
        if len(classes) < 2:
            raise WrongCall("data.label_noise needs at least two expressions.", "Leave it out.")
        generator = np.random.default_rng((self.seed, 0x6E6F697365))
        wrong = labels.copy()
        for label in np.unique(labels[labels != NOT_LABELLED]):
            rows = np.flatnonzero(labels == label)
            chosen = generator.permutation(rows)[: round(self.share * len(rows))]
            if self.kind == "symmetric":
                wrong[chosen] = (label + generator.integers(1, len(classes), len(chosen))) % len(classes)
            else:
                wrong[chosen] = taken_for(int(label), classes)
        return wrong


def taken_for(label: int, classes: Sequence[str]) -> int:
    """Index of the class that a class is most often taken for."""
    other = TAKEN_FOR.get(classes[label], "")
    return classes.index(other) if other in classes else (label + 1) % len(classes)
