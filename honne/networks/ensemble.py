"""Several networks of one kind that answer together.

Source: Deng, Chen, Shi, "Multitask Emotion Recognition with Incomplete Labels", FG 2020, whose students are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from honne.batch import Batch, Prediction
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.networks.affect_bins import expectation
from honne.networks.clips import ClipNetwork, require_features
from honne.networks.face import FaceNetwork
from honne.networks.layers import View, views

MEMBERS: dict[str, type[nn.Module]] = {"face": FaceNetwork, "clips": ClipNetwork}
"""Kinds of network that an ensemble can have."""
Average = Literal["probabilities", "logits"]


def log_mean_softmax(logits: Tensor) -> Tensor:
    """Logarithm of the mean over M of the softmax of (M, ..., C)."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def logit_of_mean_sigmoid(logits: Tensor) -> Tensor:
    """Logit of the mean over M of the sigmoid of (M, ...)."""
    return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)


def merged(predictions: Sequence[Prediction], average: Average, bin_values: Tensor | None = None) -> Prediction:
    """One prediction of M of the same rows.

    Args:
        predictions: of the members.
        average: `probabilities`: means of softmax and sigmoid, again as logits; `logits`: means of the logits, as the
            released interface does. Valence and arousal are means over members, and with `logits` of bins the
            expectation of the mean logits.
        bin_values: (K,) of members that have bins.
    """

    def every(name: str) -> Tensor | None:
        values = [getattr(prediction, name) for prediction in predictions]
        return None if values[0] is None else torch.stack(values)

    expression, units, bins = map(every, ("expression", "action_units", "valence_arousal_bins"))
    affect = every("valence_arousal")
    result = Prediction(valence_arousal=None if affect is None else affect.mean(0))
    by_class, by_unit = _mean, _mean
    if average == "probabilities":
        by_class, by_unit = log_mean_softmax, logit_of_mean_sigmoid
    result.expression = None if expression is None else by_class(expression)
    result.action_units = None if units is None else by_unit(units)
    result.valence_arousal_bins = None if bins is None else by_class(bins)
    if average == "logits" and result.valence_arousal_bins is not None:
        assert bin_values is not None
        result.valence_arousal = expectation(result.valence_arousal_bins, bin_values)
    return result


def _mean(logits: Tensor) -> Tensor:
    return logits.mean(0)


def joined(states: Sequence[Mapping[str, Tensor]], shared_frames: bool = False) -> dict[str, Tensor]:
    """State dict of an ensemble, from those of its members in order.

    Raises:
        HonneError: the members are to share the network of frames, and theirs differ.
    """
    entries: dict[str, Tensor] = {}
    for number, state in enumerate(states):
        for name, value in state.items():
            if not (shared_frames and name.startswith("frames.")):
                entries[f"members.{number}.{name}"] = value
            elif not torch.equal(value, entries.setdefault(name, value)):
                raise HonneError(
                    f"members 0 and {number} cannot share the network of frames: '{name}' differs.",
                    "Train them with frozen frames, or keep one network of frames for each member.",
                )
    return entries


class Ensemble(nn.Module):
    """Networks of one kind with the same options; their mean is the answer.

    Args:
        schema: what to predict.
        kind: of the members: face, clips.
        options: of each member.
        members: how many.
        average: see `merged`.
        shared_frames: members of kind clips have one network of frames, which looks at each frame once.

    Attributes:
        length: frames in a window of temporal members, else 0.

    Raises:
        WrongCall: no member, a kind that cannot be a member, or shared frames of members that have none.
    """

    def __init__(
        self,
        schema: LabelSchema,
        kind: str,
        options: dict[str, Any],
        members: int,
        average: Average = "probabilities",
        shared_frames: bool = False,
    ) -> None:
        super().__init__()
        if kind not in MEMBERS or members < 1:
            raise WrongCall(f"{members} networks of kind '{kind}' are no ensemble.", f"Kinds: {', '.join(MEMBERS)}.")
        if shared_frames and kind != "clips":
            raise WrongCall(f"networks of kind '{kind}' have no frames to share.", "Leave shared_frames out.")
        self.average = average
        self.frames: FaceNetwork | None = None
        if shared_frames:
            self.frames = FaceNetwork(schema, **options["frames"])
            options = options | {"frames": self.frames}
        self.members = nn.ModuleList(MEMBERS[kind](schema, **options) for _ in range(members))
        for member in self._temporal() if shared_frames else ():
            member.frames = None
        self.length = int(getattr(self.members[0], "length", 0))

    def features(self, images: Tensor) -> Tensor:
        """(B, F) what temporal members take of normalised images (B, 3, H, W): once if shared, else side by side."""
        if self.frames is not None:
            return self.frames.task_features(images)
        return torch.cat([member.features(images) for member in self._temporal()], 1)

    def views(self) -> list[View]:
        """One for each member, but only one where they share the network of frames."""
        if self.frames is not None:
            return [View(self.frames, self)]
        return [view for member in self.members for view in views(member)]

    def over_time(self, features: Tensor, clips: Tensor | None = None) -> Prediction:
        """As `ClipNetwork.over_time`, of `features` of the ensemble."""
        members = self._temporal()
        apart = 1 if self.frames is not None else len(members)
        require_features(features, apart * members[0].width)
        parts = features.chunk(apart, 1) * (len(members) // apart)
        return self._merged([member.over_time(part, clips) for member, part in zip(members, parts, strict=True)])

    def forward(self, batch: Batch) -> Prediction:
        """Predictions for a batch of images, or of features of temporal members."""
        if not self.length:
            return self._merged([member(batch) for member in self.members])
        if batch.features is not None:
            return self.over_time(batch.features, batch.clips)
        assert batch.images is not None
        return self.over_time(self.features(batch.images), batch.clips)

    def _temporal(self) -> list[ClipNetwork]:
        return [member for member in self.members if isinstance(member, ClipNetwork)]

    def _merged(self, predictions: list[Prediction]) -> Prediction:
        values: Any = self.members[0].bin_values
        return merged(predictions, self.average, values)
