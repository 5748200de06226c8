"""What is fitted to the validation split once a model's weights are chosen: temperature, and thresholds of units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Batch, Labels, Prediction
from honne.calibration import fit_temperature
from honne.data.loading import DataModule
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.methods.base import gather
from honne.thresholds import search_thresholds

Search = Literal["f1", "break_even", "half"]


@dataclass
class Fitted:
    """Attributes: the temperature of the expression logits, or without any of those of emotions; and unit ->
    probability from which it counts as present.
    """

    temperature: float = 1.0
    thresholds: dict[int, float] = field(default_factory=dict)


@torch.inference_mode()
def fit(predict: Callable[[Batch], Prediction], schema: LabelSchema, data: DataModule, search: Search = "f1") -> Fitted:
    """Fit what can be fitted to the rows of the validation split.

    Args:
        predict: from batches as loaded to predictions.
        schema: of the predictions.
        data: with a validation split.
        search: of the thresholds; see `honne.thresholds`. half leaves them at 0.5.

    Raises:
        HonneError: expressions are predicted, or if none are emotions, and no validation row is labelled with any.
    """
    seen = []
    for batch in data.whole("valid"):
        prediction = predict(batch)
        prediction.features = None
        kept = Batch(labels=batch.labels, index=batch.index)
        seen.append((prediction.to("cpu", torch.float32), kept))
    prediction, batch = gather(seen)
    return Fitted(
        _temperature(prediction, batch.labels, len(schema.expressions)),
        {} if search == "half" else _thresholds(prediction.action_units, batch.labels, schema, search),
    )


def _temperature(prediction: Prediction, labels: Labels, classes: int) -> float:
    """Against the class labels where there are any: a probability of 0.8 then means that eight of ten such faces are
    labelled so. Data with nothing but votes are calibrated against these. Emotions share one temperature.
    """
    if prediction.expression is not None:
        logits, task = prediction.expression, "expression"
        if labels.expression is not None and (labels.expression != NOT_LABELLED).any():
            labels.distribution = None
        target = labels.expression_target(classes)
    elif prediction.emotions is not None:
        logits, task = prediction.emotions.flatten(0, 1), "emotion"
        present = labels.emotions
        target = None if present is None else torch.stack([1 - present, present], -1).flatten(0, 1)
    else:
        return 1.0
    if target is None:
        return 1.0
    known = ~target.isnan().any(1)
    if not known.any():
        raise HonneError(f"no validation row has an {task} label to calibrate on.", "Prepare a validation split.")
    return fit_temperature(logits[known], target[known])


def _thresholds(
    logits: Tensor | None, labels: Labels, schema: LabelSchema, search: Literal["break_even", "f1"]
) -> dict[int, float]:
    if logits is None or labels.action_units is None:
        return {}
    found = search_thresholds(logits.sigmoid(), labels.action_units, search)
    return {unit: round(float(value), 6) for unit, value in zip(schema.action_units, found, strict=True)}
