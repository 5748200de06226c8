"""Joint logits: the outputs of all tasks of a schema side by side, for methods that reason about scores as such."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Labels, Prediction
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.losses import (
    action_unit_loss,
    emotion_loss,
    expression_loss,
    sentiment_class_loss,
    sentiment_loss,
    valence_arousal_loss,
)


@dataclass(frozen=True)
class Outputs:
    """Where each task's outputs stand in joint logits (B, K).

    Args:
        schema: tasks: C logits of expressions; 2 of every emotion, absent and present; sentiment, one number or a logit
            per class; valence and arousal, each one number whose tanh counts, or a logit per bin; a logit of every
            action unit.
        sentiment_classes: classes of sentiment, odd: from end to end of the schema's scale in equal steps; 0 for a
            number.
        valence_arousal_bins: bins of valence and of arousal, from -1 to 1 in equal steps; 0 for numbers.
    """

    schema: LabelSchema
    sentiment_classes: int = 0
    valence_arousal_bins: int = 0

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Task -> its columns."""
        schema = self.schema
        widths = {
            "expression": len(schema.expressions),
            "emotions": 2 * len(schema.emotions),
            "sentiment": (self.sentiment_classes or 1) if schema.sentiment else 0,
            "valence_arousal": 2 * (self.valence_arousal_bins or 1) * schema.valence_arousal,
            "action_units": len(schema.action_units),
        }
        found, start = {}, 0
        for task, width in widths.items():
            if width:
                found[task] = slice(start, start + width)
                start += width
        return found

    @property
    def width(self) -> int:
        """K."""
        return max((part.stop for part in self.slices.values()), default=0)

    @cached_property
    def alternatives(self) -> list[slice]:
        """Columns that exclude each other, group by group: expressions, each emotion's pair, classes and bins."""
        sizes = {
            "expression": len(self.schema.expressions),
            "emotions": 2,
            "sentiment": self.sentiment_classes,
            "valence_arousal": self.valence_arousal_bins,
        }
        return [
            slice(start, start + sizes[task])
            for task, part in self.slices.items()
            if sizes.get(task)
            for start in range(part.start, part.stop, sizes[task])
        ]

    @cached_property
    def numbers(self) -> list[int]:
        """Columns that are numbers by themselves."""
        inside = {column for part in self.alternatives for column in range(part.start, part.stop)}
        return [column for column in range(self.width) if column not in inside]

    def class_values(self) -> Tensor:
        """(K,) what the classes of sentiment stand for."""
        scale = self.schema.sentiment
        return torch.linspace(-scale, scale, self.sentiment_classes)

    def prediction(self, logits: Tensor, features: Tensor | None = None) -> Prediction:
        """What joint logits (B, K) say; of classes of sentiment the likeliest, as published."""
        parts = {task: logits[:, part] for task, part in self.slices.items()}
        found = Prediction(
            expression=parts.get("expression"), action_units=parts.get("action_units"), features=features
        )
        if "emotions" in parts:
            found.emotions = parts["emotions"].unflatten(1, (-1, 2))
        if "valence_arousal" in parts and self.valence_arousal_bins:
            found.valence_arousal_bins = parts["valence_arousal"].unflatten(1, (2, -1))
            values = torch.linspace(-1, 1, self.valence_arousal_bins).to(logits)
            found.valence_arousal = found.valence_arousal_bins.softmax(2) @ values
        elif "valence_arousal" in parts:
            found.valence_arousal = parts["valence_arousal"].tanh()
        if "sentiment" in parts and self.sentiment_classes:
            found.sentiment_classes = parts["sentiment"]
            found.sentiment = self.class_values().to(logits)[parts["sentiment"].argmax(1)]
        elif "sentiment" in parts:
            found.sentiment = parts["sentiment"][:, 0]
        return found

    def losses(self, logits: Tensor, labels: Labels) -> dict[str, Tensor]:
        """Plain losses of joint logits (B, K), by task that labels are there of; rows without a label do not count.

        Raises:
            HonneError: the batch has labels of none of the tasks.
        """
        said, found = self.prediction(logits.float()), {}
        target = labels.expression_target(len(self.schema.expressions)) if said.expression is not None else None
        if said.expression is not None and target is not None:
            found["expression"] = expression_loss(said.expression, target)
        if said.emotions is not None and labels.emotions is not None:
            found["emotions"] = emotion_loss(said.emotions, labels.emotions)
        if said.sentiment_classes is not None and labels.sentiment is not None:
            step = 2 * self.schema.sentiment / (self.sentiment_classes - 1)
            found["sentiment"] = sentiment_class_loss(said.sentiment_classes, labels.sentiment, step)
        elif said.sentiment is not None and labels.sentiment is not None:
            found["sentiment"] = sentiment_loss(said.sentiment, labels.sentiment)
        if said.valence_arousal is not None and labels.valence_arousal is not None:
            found["valence_arousal"] = valence_arousal_loss(said.valence_arousal, labels.valence_arousal)
        if said.valence_arousal_bins is not None and labels.valence_arousal is not None:
            bins, target = said.valence_arousal_bins.flatten(0, 1), labels.valence_arousal.flatten()
            found["valence_arousal"] += sentiment_class_loss(bins, target, 2 / (self.valence_arousal_bins - 1))
        if said.action_units is not None and labels.action_units is not None:
            found["action_units"] = action_unit_loss(said.action_units, labels.action_units)
        if not found:
            raise HonneError(
                f"a batch has no label of what is learned ({', '.join(self.slices).replace('_', ' ')}).",
                "Prepare data that have one, or choose other tasks.",
            )
        return found

    def loss(self, logits: Tensor, labels: Labels) -> Tensor:
        """Sum of `losses`, a scalar."""
        return torch.stack(list(self.losses(logits, labels).values())).sum()

    def targets(self, labels: Labels) -> Tensor:
        """(B, Y) the labels as numbers whose distance says how far two samples are apart; NaN where not labelled.

        Two different expressions are 1 apart.
        """
        columns = []
        if "expression" in self.slices and labels.expression is not None:
            known = labels.expression != NOT_LABELLED
            one_hot = torch.nn.functional.one_hot(labels.expression.clamp_min(0), len(self.schema.expressions)) / 2
            columns.append(one_hot.masked_fill(~known[:, None], torch.nan))
        for task in ("emotions", "sentiment", "valence_arousal"):
            values = getattr(labels, task)
            if task in self.slices and values is not None:
                columns.append(values.reshape(len(values), -1).float())
        return torch.cat(columns, 1)
