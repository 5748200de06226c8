"""The three types that data, methods and tools speak: `Labels`, `Batch`, `Prediction`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

NOT_LABELLED = -1
"""Entry of `Labels.expression` for a row without an expression label (tensors of integers have no NaN)."""


def _move(value: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(value, dict):
        return {key: _move(entry, *args, **kwargs) for key, entry in value.items()}
    return value.to(*args, **kwargs) if isinstance(value, (Tensor, Labels)) else value


def _pin(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _pin(entry) for key, entry in value.items()}
    return value.pin_memory() if isinstance(value, (Tensor, Labels)) else value


def _cut(value: Any, rows: slice) -> Any:
    """Some rows of everything."""
    if isinstance(value, dict):
        return {key: _cut(entry, rows) for key, entry in value.items()}
    if isinstance(value, _Movable):
        return type(value)(**{f.name: _cut(getattr(value, f.name), rows) for f in fields(value)})  # type: ignore[arg-type]
    return value[rows] if isinstance(value, Tensor) else value


class _Movable:
    """`to` and `pin_memory` for a dataclass of tensors."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """The same with every tensor moved as by `Tensor.to`."""
        return type(self)(**{f.name: _move(getattr(self, f.name), *args, **kwargs) for f in fields(self)})  # type: ignore[arg-type]

    def pin_memory(self) -> Any:
        """The same with every tensor in page-locked memory."""
        return type(self)(**{f.name: _pin(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]


@dataclass
class Labels(_Movable):
    """What is known of each row; `None` means that the data set has no such label at all.

    Attributes:
        expression: (B,) int64, class index of the schema or `NOT_LABELLED`.
        distribution: (B, C) float, target distribution over the classes (crowd votes, mixed images); rows of NaN where
            none is known. Where present it takes precedence over `expression` as a training target.
        action_units: (B, A) float, 1 present, 0 absent, NaN not coded.
        au_intensity: (B, A) float, 0..5, NaN not coded.
        valence_arousal: (B, 2) float in [-1, 1], NaN not labelled.
        emotions: (B, E) float, 1 present, 0 absent, NaN not labelled.
        sentiment: (B,) float on the schema's scale, NaN not labelled.
    """

    expression: Tensor | None = None
    distribution: Tensor | None = None
    action_units: Tensor | None = None
    au_intensity: Tensor | None = None
    valence_arousal: Tensor | None = None
    emotions: Tensor | None = None
    sentiment: Tensor | None = None

    def expression_target(self, classes: int) -> Tensor | None:
        """(B, C) distribution to learn: votes where known, else one-hot of the class, NaN rows where unlabelled."""
        if self.expression is None:
            return self.distribution
        known = self.expression != NOT_LABELLED
        one_hot = torch.nn.functional.one_hot(self.expression.clamp_min(0), classes).to(torch.get_default_dtype())
        one_hot = one_hot.masked_fill(~known[:, None], torch.nan)
        if self.distribution is None:
            return one_hot
        return torch.where(self.distribution.isnan().any(1, keepdim=True), one_hot, self.distribution)


@dataclass
class Batch(_Movable):
    """A batch of any data set.

    Attributes:
        images: (B, 3, H, W) uint8 as loaded; float after `Normalise`. `None` for pure feature sequences.
        labels: what is known of each row.
        landmarks: (B, 68, 2) px in the images (x, y), NaN where unknown.
        heatmaps: (B, K, h, w) float in [0, 1], moved along with the images.
        domain: (B,) int64 confounder stratum, `NOT_LABELLED` where unknown.
        subject: (B,) int64 who is shown, `NOT_LABELLED` where unknown.
        sequences: modality name -> (B, T, D) float features, zero beyond `lengths`.
        lengths: modality name -> (B,) int64 true lengths.
        index: (B,) int64 row number in the manifest.
        clips: (W, N) int64, the rows of this batch that W windows of a video show at N moments, -1 where padded (only
            at the end). `None`: the rows are stills.
        features: (B, F) float, what a frozen network said of each image, in place of `images`.
    """

    images: Tensor | None = None
    labels: Labels = field(default_factory=Labels)
    landmarks: Tensor | None = None
    heatmaps: Tensor | None = None
    domain: Tensor | None = None
    subject: Tensor | None = None
    sequences: dict[str, Tensor] = field(default_factory=dict)
    lengths: dict[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None
    clips: Tensor | None = None
    features: Tensor | None = None

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into `count` parts of equally many rows, or windows, in order."""
        if count == 1:
            return [self]
        if self.clips is None:
            bounds = torch.arange(count + 1) * (len(self) // count)
            clips: list[Tensor | None] = [None] * count
        else:
            shares = self.clips.chunk(count)
            bounds = torch.tensor([0, *(int(share.max()) + 1 for share in shares)])
            clips = [torch.where(share < 0, share, share - bounds[i]) for i, share in enumerate(shares)]
        rows = [slice(int(low), int(high)) for low, high in itertools.pairwise(bounds)]
        return [replace(_cut(self, some), clips=own) for some, own in zip(rows, clips, strict=True)]

    def __len__(self) -> int:
        for tensor in (self.images, self.index, self.features, *self.sequences.values()):
            if tensor is not None:
                return len(tensor)
        return 0


@dataclass
class Prediction(_Movable):
    """What a network says of a batch; `None` means that it has no such head.

    Attributes:
        expression: (B, C) logits.
        action_units: (B, A) logits.
        valence_arousal: (B, 2) in [-1, 1].
        valence_arousal_bins: (B, 2, K) logits over K bins of [-1, 1], of networks that make the two numbers from bins.
        emotions: (B, E, 2) logits of absence and presence of each emotion.
        sentiment: (B,) on the schema's scale.
        sentiment_classes: (B, K) logits of K classes of sentiment, of networks that make the number from classes.
        uncertainty: (B,) in [0, 1]; only of methods that estimate it themselves.
        features: (B, D) embedding before the heads.
        strata: (B, K, C) expression logits under the intervention on each confounder stratum.
        auxiliary: (B, C) logits of a second classifier that only training looks at.
    """

    expression: Tensor | None = None
    action_units: Tensor | None = None
    valence_arousal: Tensor | None = None
    valence_arousal_bins: Tensor | None = None
    emotions: Tensor | None = None
    sentiment: Tensor | None = None
    sentiment_classes: Tensor | None = None
    uncertainty: Tensor | None = None
    features: Tensor | None = None
    strata: Tensor | None = None
    auxiliary: Tensor | None = None
