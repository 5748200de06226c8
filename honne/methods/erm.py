"""Plain training (empirical risk minimisation): the baseline that every cure is measured against.

Loss: cross-entropy against hard labels or vote distributions for expressions, binary cross-entropy for action units,
squared error and 1 - CCC for valence and arousal, each over the rows of the batch that have the label.

Sources: mixup, Zhang et al., ICLR 2018; CutMix, Yun et al., ICCV 2019; vote targets, Barsoum et al., ICMI 2016.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Batch, Prediction
from honne.data.loading import DataModule
from honne.data.sampling import inverse_frequency
from honne.data.transforms import mix_images
from honne.errors import WrongCall
from honne.losses import (
    action_unit_loss,
    expression_loss,
    focal_loss,
    multi_target_loss,
    probability_error,
    valence_arousal_loss,
)
from honne.methods.base import Method
from honne.methods.strata import Strata, StratumOf
from honne.networks.fusion.network import FusionNetwork


@dataclass
class ErmOptions:
    """Plain training.

    Args:
        expression_loss: cross_entropy against the target, or one of these, which take neither class weights nor label
            smoothing: multi_target (-log of the likeliest accepted class, for data prepared with `--target-mode
            multi_target`), focal (exponent 2: easy faces count less), squared or absolute (error of the probabilities).
        label_smoothing: share of each expression target given to the uniform distribution, 0..1.
        class_weights: balanced weights each expression class by the inverse of its share of the training labels, and
            each action unit's presence by its odds of absence; none leaves them equal.
        logit_adjustment: stratum raises the expression logits in training by how much more often each occurs in the
            face's confounder stratum (column `domain`) than by chance, so that nothing is learned from such pairs
            themselves.
        mixup: parameter of the Beta distribution of mixup; 0 = off.
        cutmix: parameter of the Beta distribution of CutMix; 0 = off. With both on, each batch takes one by a coin.
        expression_weight: weight of the expression loss.
        action_unit_weight: weight of the action-unit loss.
        valence_arousal_weight: weight of the valence/arousal loss.
        emotion_weight: weight of the loss of emotions that are present or absent each.
        sentiment_weight: weight of the sentiment loss: absolute error, or cross-entropy of its classes.
    """

    expression_loss: Literal["cross_entropy", "multi_target", "focal", "squared", "absolute"] = "cross_entropy"
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    logit_adjustment: Literal["none", "stratum"] = "none"
    mixup: float = 0.0
    cutmix: float = 0.0
    expression_weight: float = 1.0
    action_unit_weight: float = 1.0
    valence_arousal_weight: float = 1.0
    emotion_weight: float = 1.0
    sentiment_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.logit_adjustment != "none" and (self.mixup or self.cutmix):
            raise WrongCall("erm.logit_adjustment needs faces of one stratum, not mixed ones.", "Leave mixing out.")


class Erm(Method):
    """Plain training; see the module's text.

    Args:
        options: `ErmOptions`.
        class_weights: (C,) of the expressions, where the options ask for them.
        unit_shares: (A,) share of presence among the coded training labels, for `class_weights`.
        strata: of the training rows, for `logit_adjustment`.
        shared: arguments of `Method`.
    """

    Options = ErmOptions
    takes: ClassVar[tuple[str, ...]] = ("images", "sequences")
    class_weights: Tensor | None
    positive_weights: Tensor | None

    def __init__(
        self,
        options: ErmOptions,
        *,
        class_weights: Tensor | None = None,
        unit_shares: Tensor | None = None,
        strata: Strata | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.options = options
        balanced = options.class_weights == "balanced"
        self.register_buffer("class_weights", class_weights if balanced else None, persistent=False)
        self.stratum_of = None if strata is None else StratumOf(strata, adjust=True)
        self.register_buffer("positive_weights", _odds(unit_shares) if balanced else None, persistent=False)

    @classmethod
    def facts(cls, options: ErmOptions, data: DataModule) -> dict[str, Any]:
        """Weights of the expressions, share of presence of each action unit, and strata, by the training rows."""
        known, rows = data.training.known, data.train_rows()
        classes = units = None
        if known.expression is not None:
            labelled = known.expression[rows][known.expression[rows] != NOT_LABELLED]
            counts = np.bincount(labelled, minlength=len(data.labels.expressions))
            classes = torch.from_numpy(inverse_frequency(counts)).float() if counts.any() else None
        if known.action_units is not None:
            present = np.nansum(known.action_units[rows], 0)
            coded = np.maximum((~np.isnan(known.action_units[rows])).sum(0), 1)
            units = torch.from_numpy(present / coded).float()
        strata = Strata.of(data) if options.logit_adjustment == "stratum" else None
        return {"class_weights": classes, "unit_shares": units, "strata": strata}

    def prepared(self, batch: Batch) -> Batch:
        batch = super().prepared(batch)
        if self.options.mixup or self.options.cutmix:
            generator = np.random.default_rng(int(torch.randint(2**31, ())))  # torch is seeded afresh at every step
            classes = len(self.schema.expressions)
            batch = mix_images(batch, generator, classes, self.options.mixup, self.options.cutmix)
        return batch

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if isinstance(self.network, FusionNetwork):
            return self._fused_loss(self.network, batch)
        return self._losses(self.network(batch), batch)

    def _fused_loss(self, network: FusionNetwork, batch: Batch) -> dict[str, Tensor]:
        """Those of joint logits, and what the network adds of its own."""
        fused = network.fuse(network.inputs(batch))
        plain = network.outputs.losses(fused.logits, batch.labels)
        terms = self._losses(network.outputs.prediction(fused.logits), batch)
        weights = {
            "emotions": self.options.emotion_weight,
            "sentiment": self.options.sentiment_weight,
            "valence_arousal": self.options.valence_arousal_weight,
        }
        terms |= {task: weight * plain[task] for task, weight in weights.items() if task in plain}
        own = network.auxiliary_loss(fused, batch.labels)
        return terms if own is None else terms | {"network": own}

    def _losses(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        labels, terms = batch.labels, {}
        target = labels.expression_target(len(self.schema.expressions))
        if prediction.expression is not None and target is not None:
            if self.stratum_of is not None:
                adjustment = self.stratum_of.of_expressions(self.stratum_of(batch))
                prediction.expression = prediction.expression + adjustment
            terms["expression"] = self.options.expression_weight * self._expression_loss(
                prediction.expression.float(), target
            )
            if prediction.auxiliary is not None:
                terms["auxiliary"] = self.options.expression_weight * self._expression_loss(
                    prediction.auxiliary.float(), target
                )
        if prediction.action_units is not None and labels.action_units is not None:
            terms["action_units"] = self.options.action_unit_weight * action_unit_loss(
                prediction.action_units.float(), labels.action_units, self.positive_weights
            )
        if prediction.valence_arousal is not None and labels.valence_arousal is not None:
            terms["valence_arousal"] = self.options.valence_arousal_weight * valence_arousal_loss(
                prediction.valence_arousal.float(), labels.valence_arousal
            )
        return terms

    def _expression_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        match self.options.expression_loss:
            case "multi_target":
                return multi_target_loss(logits, target)
            case "focal":
                return focal_loss(logits, target)
            case "squared":
                return probability_error(logits, target, 2)
            case "absolute":
                return probability_error(logits, target, 1)
        return expression_loss(logits, target, self.class_weights, self.options.label_smoothing)


def _odds(shares: Tensor | None) -> Tensor | None:
    """Odds of absence, at most 20 so that a rare unit cannot rule the step."""
    return None if shares is None else ((1 - shares) / shares.clamp_min(1e-12)).clamp(max=20.0)
