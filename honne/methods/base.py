"""What all methods share: normalising, validating, optimising."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from honne.batch import NOT_LABELLED, Batch, Prediction
from honne.data.known import Learns
from honne.data.loading import DataModule
from honne.data.transforms import Normalise
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.losses import concordance, emotion_loss, expression_loss, sentiment_class_loss, sentiment_loss
from honne.methods.au_cues import AuCues
from honne.methods.stages import Stage
from honne.metrics.abaw import abaw_expression, abaw_units
from honne.metrics.action_units import au_f1
from honne.metrics.emotions import emotion_scores
from honne.metrics.expression import class_scores, confusion_matrix
from honne.metrics.sentiment import sentiment_scores
from honne.schedules import OptimOptions, Schedule, optimizer, schedule


class Method(LightningModule):
    """A way to train a network.

    A method says which labels it `needs`, what one training step is, and how its network predicts. Methods with one
    optimiser override `loss`; methods with several override `training_step` and `configure_optimizers`.

    Args:
        network: turns a batch of normalised images into a `Prediction`; what is saved as the model.
        schema: labels of the data.
        normalise: from uint8 images to what the network takes.
        optim: optimiser and schedule.
        steps: optimiser steps of the whole run.
        epochs: epochs of the whole run.
        au_cues: aligns attention to action units, whatever the method; `None` does not.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    """Tasks that the data must be labelled with: any of expressions, action_units, valence_arousal."""

    backbone: ClassVar[tuple[str, ...]] = ("backbone",)
    """Names of the children that learn at the backbone's rate (`OptimOptions.lr`)."""

    learns: ClassVar[Learns] = "labels"
    """Which rows it is trained and validated on: those with a label, with an expression, or that name their subject."""

    takes: ClassVar[tuple[str, ...]] = ("images",)
    """What it can learn from: images, feature sequences."""

    windows: ClassVar[bool] = False
    """Whether it can train a network that sees windows of a video."""

    @classmethod
    def facts(cls, options: Any, data: DataModule) -> dict[str, Any]:
        """What it must know of the training data: further arguments of its constructor."""
        return {}

    @classmethod
    def network_options(cls, options: Any, given: dict[str, Any], data: DataModule) -> dict[str, Any]:
        """Options of the network: those given, or what the method makes of them for these data."""
        return given

    @classmethod
    def fusion_network(
        cls, options: Any, kind: str, given: dict[str, Any], data: DataModule
    ) -> tuple[str, dict[str, Any]]:
        """Kind and options of a network of feature sequences: those given, or what the method puts around them."""
        return kind, given

    @classmethod
    def stages(cls, options: Any, seed: int) -> list[Stage]:
        """Trainings that a run consists of, one after the other; none = only its own."""
        return []

    @classmethod
    def learned(cls, schema: LabelSchema) -> LabelSchema:
        """The part of the data's labels that the method learns, and its model predicts: all of it by default."""
        return schema

    def __init__(
        self,
        network: nn.Module,
        schema: LabelSchema,
        normalise: Normalise,
        optim: OptimOptions,
        steps: int = 1,
        epochs: int = 1,
        au_cues: AuCues | None = None,
    ) -> None:
        super().__init__()
        missing = [task for task in self.needs if not getattr(schema, task)]
        if missing:
            raise HonneError(
                f"method {type(self).__name__.lower()} needs {' and '.join(missing)}, which these data do not have.",
                "Choose other data or another method.",
            )
        self.network = network
        self.schema = schema
        self.normalise = normalise
        self.optim = optim
        self.steps = steps
        self.epochs = epochs
        self.au_cues = au_cues
        self._seen: list[tuple[Prediction, Batch]] = []
        self._figures: list[dict[str, Tensor]] = []

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of one training step on a prepared batch; their sum is minimised, each is logged."""
        raise NotImplementedError

    def prepared(self, batch: Batch) -> Batch:
        """What a training step sees of a batch as loaded: with heat maps where there are AU cues, and normalised."""
        return self.normalised(batch if self.au_cues is None else self.au_cues.drawn(batch))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and that of AU cues beside it."""
        if self.au_cues is None:
            return self.loss(batch)
        with self.au_cues.watching(self.network) as seen:
            terms = self.loss(batch)
        return terms | self.au_cues.losses(self.network, seen, batch, self.current_epoch)

    def normalised(self, batch: Batch) -> Batch:
        """The batch with images as the network takes them."""
        return batch if batch.images is None else replace(batch, images=self.normalise(batch.images))

    def predict(self, batch: Batch) -> Prediction:
        """Predictions for a batch as loaded (uint8 images)."""
        return self.network(self.normalised(batch))

    def training_step(self, batch: Batch, step: int) -> Tensor:
        terms = self.terms(self.prepared(batch))
        self.require_finite(terms)
        total = torch.stack(list(terms.values())).sum()
        logged = {f"train/{name}": value.detach() for name, value in terms.items()}
        self.log_dict(logged | {"train/loss": total.detach()}, batch_size=len(batch), on_step=False, on_epoch=True)
        return total

    def require_finite(self, terms: dict[str, Tensor]) -> None:
        """Stop before a step that would spoil the weights.

        Raises:
            HonneError: the sum of the terms is not a number.
        """
        if not torch.stack(list(terms.values())).sum().isfinite():
            raise HonneError(
                f"the loss of epoch {self.current_epoch}, step {self.global_step} is not a number "
                f"({', '.join(f'{name} {value.item():.3g}' for name, value in terms.items())}).",
                "Lower --optim.lr, or look at the features for NaN; the last checkpoint is as it was.",
            )

    def validation_step(self, batch: Batch, step: int) -> None:
        prediction = self.predict(batch) if self.au_cues is None else self._watched(self.au_cues, batch)
        prediction.features = None
        kept = Batch(labels=batch.labels, index=batch.index)
        self._seen.append((prediction.to("cpu", torch.float32), kept.to("cpu")))

    def _watched(self, cues: AuCues, batch: Batch) -> Prediction:
        """`predict`, keeping how well attention and heat maps agree."""
        with cues.watching(self.network) as seen:
            prediction = self.predict(batch)
        figures = cues.figures(self.network, seen, batch)
        self._figures.append({name: values.cpu() for name, values in figures.items()})
        return prediction

    def on_validation_epoch_end(self) -> None:
        seen, self._seen = self._seen, []
        figures, self._figures = self._figures, []
        prediction, batch = gather(seen)
        if self.trainer.world_size > 1:
            shares: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, (prediction, batch, figures))
            prediction, batch = gather([share[:2] for share in shares])
            figures = [each for share in shares for each in share[2]]
        scores = self.scores(prediction, batch)
        for name in figures[0] if figures else ():
            scores[name] = torch.cat([each[name] for each in figures]).nanmean()
        self.log_dict({f"valid/{name}": value for name, value in scores.items()}, rank_zero_only=False)
        if self.optim.schedule == "plateau":
            if "loss" not in scores:
                raise HonneError(
                    "optim.schedule plateau watches a validation loss, and this method or these labels give none.",
                    "Choose another optim.schedule.",
                )
            for config in self.trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, Schedule):
                    config.scheduler.observe(scores["loss"].item())

    def scores(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Figures of the validation rows, logged as `valid/NAME`."""
        return validation_scores(prediction, batch, self.schema)

    def rates(self) -> dict[str, float]:
        """Beginning of a parameter's name -> its learning rate, where that is not the recipe's."""
        return {}

    def configure_optimizers(self) -> Any:
        fused = self.trainer.precision != "16-mixed"
        chosen = optimizer(self, self.optim, fused, self.backbone, self.rates())
        return {
            "optimizer": chosen,
            "lr_scheduler": {"scheduler": schedule(chosen, self.optim, self.steps, self.epochs), "interval": "step"},
        }

    def finish(self, run: Path) -> None:
        """Write into the run's folder what is worth keeping beside the model; called with the selected weights."""

    def configure_gradient_clipping(
        self, chosen: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        # Lightning refuses to clip for fused optimisers under mixed precision, though only loss scaling forbids it.
        if gradient_clip_val and self.trainer.precision != "16-mixed":
            by_value = self.optim.clip_kind == "value"
            clip = torch.nn.utils.clip_grad_value_ if by_value else torch.nn.utils.clip_grad_norm_
            clip(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(chosen, gradient_clip_val, self.optim.clip_kind)


def gather(seen: list[tuple[Prediction, Batch]]) -> tuple[Prediction, Batch]:
    """Batches joined into one in manifest order; rows that padding repeated are counted once."""
    order = torch.cat([batch.index for _, batch in seen if batch.index is not None])
    rows = torch.from_numpy(np.unique(order.numpy(), return_index=True)[1])

    def join(parts: list[Any]) -> Tensor | None:
        return None if parts[0] is None else torch.cat(parts)[rows]

    prediction = Prediction(**{name: join([getattr(p, name) for p, _ in seen]) for name in vars(seen[0][0])})
    labels = type(seen[0][1].labels)(
        **{name: join([getattr(b.labels, name) for _, b in seen]) for name in vars(seen[0][1].labels)}
    )
    return prediction, Batch(labels=labels, subject=join([b.subject for _, b in seen]), index=order[rows])


def validation_scores(prediction: Prediction, batch: Batch, schema: LabelSchema) -> dict[str, Tensor]:
    """Figures by which a run is watched and selected, over the labelled rows of the validation split.

    `score` is the mean of those there are of `macro_f1`, `au_f1`, `ccc`, `emotion_f1` (weighted by rows; "absent" for
    everyone does not do so well there as in accuracy) and, of sentiment, `corr`. `loss` is the cross-entropy of
    expressions; of models without any that of emotions plus the loss of sentiment: cross-entropy of its classes, else
    mean absolute error.
    """
    labels, scores = batch.labels, {}
    if prediction.expression is not None:
        target = labels.expression_target(len(schema.expressions))
        if target is not None:
            scores["loss"] = expression_loss(prediction.expression, target)
        if labels.expression is not None and (labels.expression != NOT_LABELLED).any():
            shown = class_scores(confusion_matrix(prediction.expression, labels.expression))
            scores["accuracy"], scores["macro_f1"] = shown.accuracy, shown.macro_f1
    if prediction.action_units is not None and labels.action_units is not None:
        scores["au_f1"] = au_f1(prediction.action_units.sigmoid(), labels.action_units).nanmean()
    if prediction.valence_arousal is not None and labels.valence_arousal is not None:
        scores["ccc"] = concordance(prediction.valence_arousal, labels.valence_arousal).mean()
    scores = _of_sequences(prediction, batch, schema) | scores
    tasks = [scores[name] for name in ("macro_f1", "au_f1", "ccc", "emotion_f1", "corr") if name in scores]
    challenge = torch.zeros(())
    if prediction.expression is not None and "macro_f1" in scores and labels.expression is not None:
        challenge = challenge + abaw_expression(prediction.expression, labels.expression)
    if prediction.action_units is not None and labels.action_units is not None:
        challenge = challenge + abaw_units(prediction.action_units.sigmoid(), labels.action_units)
    if prediction.valence_arousal is not None and labels.valence_arousal is not None:
        challenge = challenge + concordance(prediction.valence_arousal, labels.valence_arousal).sum()
    scores["abaw"] = challenge
    scores["score"] = torch.stack([value.float() for value in tasks]).mean() if tasks else -scores["loss"]
    return scores


def _of_sequences(prediction: Prediction, batch: Batch, schema: LabelSchema) -> dict[str, Tensor]:
    """Figures of emotions and sentiment, and the sum of their losses."""
    labels, losses = batch.labels, []
    scores: dict[str, Tensor] = {}
    if prediction.emotions is not None and labels.emotions is not None and not labels.emotions.isnan().all():
        found = emotion_scores(prediction.emotions.softmax(-1)[..., 1], labels.emotions)
        scores |= {f"emotion_{name}": found[name].nanmean() for name in ("accuracy", "f1")}
        losses.append(emotion_loss(prediction.emotions, labels.emotions))
    if prediction.sentiment is not None and labels.sentiment is not None and not labels.sentiment.isnan().all():
        every = torch.ones_like(labels.sentiment)  # given, so that nobody is warned of a constant in the first epochs
        found = sentiment_scores(prediction.sentiment, labels.sentiment, schema.sentiment, every)
        scores |= {name: found[name] for name in ("mae", "corr", "acc7", "acc2") if name in found}
        logits = prediction.sentiment_classes
        if logits is None:
            losses.append(sentiment_loss(prediction.sentiment, labels.sentiment))
        else:
            step = 2 * schema.sentiment / (logits.shape[1] - 1)
            losses.append(sentiment_class_loss(logits, labels.sentiment, step))
    return scores | ({"loss": torch.stack(losses).sum()} if losses else {})
