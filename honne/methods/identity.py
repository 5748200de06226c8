"""Face pre-training: tell people apart, so that the trunk knows faces before it is shown expressions.

The labels are the manifest's subjects. Embedding and class weight meet as a cosine, from which the head takes a margin
at the right identity before the cross-entropy. The head stays with the run; the model is the trunk, to be loaded into
expression training with `--model.weights`. Validation is verification on people whom no training picture shows.

Sources: MV-softmax, Wang et al., AAAI 2020; ArcFace, Deng et al., CVPR 2019; CosFace, Wang et al., CVPR 2018; the
pre-training of She et al., CVPR 2021.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch, Prediction
from honne.data.loading import DataModule
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.metrics.verification import verification

log = logging.getLogger("honne")

PUBLISHED: dict[str, dict[str, Any]] = {
    "mv_softmax": {"mode": "am", "margin": 0.35, "mask": 1.12, "scale": 32.0},
    "arcface": {"mode": "normal", "margin": 0.5, "scale": 64.0},
    "cosface": {"margin": 0.35, "scale": 30.0},
}
"""Head -> the options it has, at their published values."""
MODES = {"mv_softmax": ("am", "arc"), "arcface": ("normal", "easy"), "cosface": ()}


@dataclass
class IdentityOptions:
    """Face pre-training.

    Args:
        head: margin loss: mv_softmax (harder on identities that are mistaken for the right one), arcface or cosface.
        mode: mv_softmax: am (margin on the cosine) or arc (on the angle), am by default. arcface: normal or easy (no
            margin beyond 90 degrees), normal by default.
        margin: of the cosine, or the angle in radians. Default: 0.35; arcface 0.5.
        mask: mv_softmax: how much harder mistaken identities count, 1 = not. Default: 1.12.
        scale: factor of the cosines. Default: mv_softmax 32, arcface 64, cosface 30.
        features: normalised to length 1, as the heads assume; or as_they_are, as in the code released with DMUE.
    """

    head: Literal["mv_softmax", "arcface", "cosface"] = "mv_softmax"
    mode: Literal["am", "arc", "normal", "easy"] | None = None
    margin: float | None = None
    mask: float | None = None
    scale: float | None = None
    features: Literal["normalised", "as_they_are"] = "normalised"

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES[self.head]:
            modes = " or ".join(MODES[self.head]) or "no modes"
            raise WrongCall(f"identity.mode {self.mode} does not go with {self.head}.", f"It has {modes}.")
        if self.mask is not None and self.head != "mv_softmax":
            raise WrongCall(f"identity.mask does not go with {self.head}.", "Only mv_softmax has a mask.")
        if self.scale is not None and self.scale <= 0:
            raise WrongCall(f"identity.scale is {self.scale}.", "Give a positive factor.")

    def logits(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """(B, K) logits of the chosen head for (B, K) cosines and (B,) labels."""
        given = {name: getattr(self, name) for name in PUBLISHED[self.head] if getattr(self, name) is not None}
        return HEADS[self.head](cosines, labels, **PUBLISHED[self.head] | given)


# --- heads: cosines and labels to logits -------------------------------------------------------------------------


def mv_softmax(
    cosines: Tensor, labels: Tensor, margin: float, mask: float, scale: float, mode: Literal["am", "arc"]
) -> Tensor:
    """Mis-classified vector softmax: a margin at the label, and more weight on identities within it.

    Args:
        cosines: (B, K) of embeddings and class weights.
        labels: (B,) 0..K-1.
        margin: m, of the cosine (am) or the angle (arc).
        mask: t; an identity that comes within the margin gets cosine t * cos + t - 1.
        scale: factor at the end.
        mode: where the margin is.

    Returns:
        (B, K) logits.

    Source: Wang et al., AAAI 2020, equation 8 with a fixed t.
    """
    right = cosines.gather(1, labels[:, None])
    bound = right - margin if mode == "am" else _turned(right, margin)
    logits = torch.where(cosines > bound, mask * cosines + mask - 1, cosines)
    kept = torch.where(right > (margin if mode == "am" else 0), bound, right)
    return scale * logits.scatter(1, labels[:, None], kept)


def arcface(cosines: Tensor, labels: Tensor, margin: float, scale: float, mode: Literal["normal", "easy"]) -> Tensor:
    """Additive angular margin: cos(theta + m) at the label.

    Where theta + m would pass 180 degrees, `normal` takes cos - m sin(m) instead; `easy` leaves the cosine as it is
    from 90 degrees on.

    Args and result as of `mv_softmax`.

    Source: Deng et al., CVPR 2019, equation 3 and their code.
    """
    right = cosines.gather(1, labels[:, None])
    turned = _turned(right, margin)
    if mode == "easy":
        kept = torch.where(right > 0, turned, right)
    else:
        kept = torch.where(right > math.cos(math.pi - margin), turned, right - margin * math.sin(margin))
    return scale * cosines.scatter(1, labels[:, None], kept)


def cosface(cosines: Tensor, labels: Tensor, margin: float, scale: float) -> Tensor:
    """Additive cosine margin: cos(theta) - m at the label. Args and result as of `mv_softmax`.

    Source: Wang et al., CVPR 2018, equation 4.
    """
    return scale * cosines.scatter_add(1, labels[:, None], torch.full_like(cosines[:, :1], -margin))


HEADS: dict[str, Callable[..., Tensor]] = {"mv_softmax": mv_softmax, "arcface": arcface, "cosface": cosface}


def _turned(cosine: Tensor, angle: float) -> Tensor:
    """cos(theta + angle); the root is kept off 0, where its slope has no end."""
    sine = (1 - cosine**2).clamp_min(1e-12).sqrt()
    return cosine * math.cos(angle) - sine * math.sin(angle)


def cosines(features: Tensor, weight: Tensor, normalise: Literal["normalised", "as_they_are"] = "normalised") -> Tensor:
    """(B, K) cosines of embeddings (B, D) and the columns of a weight (D, K), in single precision.

    With `as_they_are` only the columns are brought to length 1, so that the result may leave [-1, 1].
    """
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        return (F.normalize(features) if normalise == "normalised" else features) @ F.normalize(weight.float(), dim=0)


# --- the method --------------------------------------------------------------------------------------------------


class Identity(Method):
    """Face pre-training; see the module's text.

    Args:
        options: `IdentityOptions`.
        places: (S,) class of every subject of the data, `NOT_LABELLED` for those that are not trained on.
        shared: arguments of `Method`.
    """

    Options = IdentityOptions
    learns: ClassVar[Literal["labels", "subject"]] = "subject"
    places: Tensor

    def __init__(self, options: IdentityOptions, *, places: Tensor, **shared: Any) -> None:
        super().__init__(**shared)
        self.options = options
        self.register_buffer("places", places, persistent=False)
        weight = torch.empty(int(self.network.width), int(places.max()) + 1).uniform_(-1, 1)  # type: ignore[arg-type]
        self.weight = nn.Parameter(F.normalize(weight, dim=0))
        self.verified: dict[str, float] = {}

    @classmethod
    def learned(cls, schema: LabelSchema) -> LabelSchema:
        """Nothing: the trunk alone is kept."""
        return LabelSchema()

    @classmethod
    def facts(cls, options: Any, data: DataModule) -> dict[str, Any]:
        """Which subjects are trained on.

        Raises:
            HonneError: fewer than two identities to learn, or no pairs to verify.
        """
        known, rows = data.training.known, data.train_rows()
        assert known.subject is not None
        learned = np.unique(known.subject[rows])
        if len(learned) < 2:
            raise HonneError(
                f"{data.data[0].root}: all training rows show one subject, {known.subjects[learned[0]]}.",
                "Method identity needs two identities or more to tell apart.",
            )
        valid = known.subject[data.measuring.rows("valid")]
        _, pictures = np.unique(valid[valid != NOT_LABELLED], return_counts=True)
        if len(pictures) < 2 or pictures.max() < 2:
            raise HonneError(
                f"{data.data[0].root}: the {len(valid)} validation rows show {len(pictures)} subjects.",
                "Verification needs two people, and one of them on two pictures: prepare a larger --valid-share.",
            )
        if both := len(np.intersect1d(valid, learned)):
            log.warning("%d validation subjects are trained on too: the verification figures are too good.", both)
        places = np.full(len(known.subjects), NOT_LABELLED)
        places[learned] = np.arange(len(learned))
        return {"places": torch.from_numpy(places)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        target = None if batch.subject is None else self.places[batch.subject]
        known = None if target is None else (batch.subject != NOT_LABELLED) & (target != NOT_LABELLED)
        if target is None or known is None or not known.any():
            raise HonneError(
                "a batch without subjects: method identity needs to know who is on each picture.",
                "Prepare data with a subject column, or with the reader `identities`.",
            )
        features = self.network(batch).features
        cosine = cosines(features[known], self.weight, self.options.features)
        loss = F.cross_entropy(self.options.logits(cosine, target[known]), target[known])
        if not loss.isfinite():
            raise HonneError(
                f"the loss is {loss.item()} at step {self.global_step}: training has diverged, or the features are "
                "not finite. Nothing was changed in this step.",
                "Lower optim.lr, set optim.clip, or leave identity.features normalised; last.ckpt is intact.",
            )
        return {"identity": loss}

    def validation_step(self, batch: Batch, step: int) -> None:
        features = self.predict(batch).features
        kept = Batch(subject=batch.subject, index=batch.index)
        self._seen.append((Prediction(features=features).to("cpu", torch.float32), kept.to("cpu")))

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Verification over all pairs of validation rows; the area under the curve is the score."""
        assert prediction.features is not None
        assert batch.subject is not None
        found = verification(prediction.features, batch.subject)
        self.verified = {"auc": found.auc, "accuracy": found.accuracy, "eer": found.eer}
        figures = {"score": found.auc, "verification_accuracy": found.accuracy, "verification_eer": found.eer}
        return {name: torch.tensor(value) for name, value in figures.items()}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the figures with the weights that they are of."""
        checkpoint["figures"] = {"verification": self.verified}
