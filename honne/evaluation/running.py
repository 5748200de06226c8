"""A model over one split of a prepared data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Batch, Prediction
from honne.console import progress
from honne.data.loading import batches
from honne.data.manifest import PreparedData
from honne.data.windows import windows
from honne.errors import HonneError, WrongCall
from honne.evaluation.challenge import Edition
from honne.evaluation.scoring import Scored
from honne.evaluation.vocabulary import Vocabulary
from honne.labels import select_action_units
from honne.metrics.emotions import Compat
from honne.models import Model
from honne.smoothing import Smoothing, smoothed


@dataclass
class Outputs:
    """What a model says of N rows, on the CPU; `None` without such a head.

    Attributes:
        rows: (N,) row numbers in the manifest, as loaded.
        expression: (N, C) probabilities.
        units: (N, A) probabilities of presence.
        affect: (N, 2).
        emotions: (N, E) probabilities of presence.
        sentiment: (N,).
        uncertainty: (N,) in 0..1.
    """

    rows: np.ndarray
    expression: Tensor | None
    units: Tensor | None
    affect: Tensor | None
    emotions: Tensor | None
    sentiment: Tensor | None
    uncertainty: Tensor | None


FRAMES_AT_ONCE = 1 << 14
"""Frames of whole videos that a temporal model goes over at once, about."""


def run_model(
    model: Model,
    data: PreparedData,
    split: str,
    *,
    batch_size: int = 32,
    workers: int = 0,
    flips: bool = False,
    change: Callable[[Batch], Batch] | None = None,
) -> Outputs:
    """Predictions for every row of a split.

    A temporal model sees the rows of each video in time order, in windows of its length that overlap by half; a row
    without a video stands for itself.

    Args:
        model: on any device.
        data: prepared data set.
        split: train, valid or test.
        batch_size: rows at once; does not change the result.
        workers: loading processes.
        flips: average over every image and its mirror image.
        change: what is done to every batch before the model sees it.

    Raises:
        HonneError: the data lack what the model reads.
        WrongCall: `flips` without images.
    """
    _require_inputs(model, data)
    wanted, crop = data.split(split), model.alignment
    shown = batches(data, split, size=crop.size, batch_size=batch_size, workers=workers, centre=crop.centre)
    parts: list[list[Outputs]] = []  # of every batch, each view
    features: list[list[Tensor]] = []
    rows: list[np.ndarray] = []
    with progress() as bar:
        task = bar.add_task(f"{model.name} on {data.schema.name} {split}", total=len(wanted))
        for batch in shown if change is None else map(change, shown):
            rows.append(np.zeros(0, np.int64) if batch.index is None else batch.index.cpu().numpy())
            if model.length:
                features.append([_features(model, each) for each in _views(batch, flips)])
            else:
                parts.append([_outputs(model, model.forward_batch(each), rows[-1]) for each in _views(batch, flips)])
            bar.advance(task, len(batch))
    if not np.array_equal(np.concatenate(rows), wanted):
        raise RuntimeError(f"the loader gave other rows than the {len(wanted)} of split '{split}'")
    if model.length:
        timed = in_time(data.rows.iloc[wanted])
        seen = [_over_time(model, torch.cat(view), wanted, *timed) for view in zip(*features, strict=True)]
    else:
        seen = [_join(list(view)) for view in zip(*parts, strict=True)]
    return seen[0] if len(seen) == 1 else _mean(*seen)


def _require_inputs(model: Model, data: PreparedData) -> None:
    read = getattr(model, "modalities", None)
    if read == () and "image" not in data.rows:
        raise HonneError(f"Model '{model.name}' reads images; {data.root} has none.", "Give data with images.")
    there = sorted(path.name for path in (data.root / "sequences").glob("*"))
    if missing := [name for name in read or () if name not in there]:
        raise HonneError(
            f"Model '{model.name}' reads {', '.join(missing)}, which {data.root} does not have"
            f" ({', '.join(there) or 'no feature sequences'}).",
            "Give data with these modalities.",
        )


def in_time(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """The rows of every video beside each other, in time order; in the order of the manifest where no time is known.

    Args:
        rows: manifest rows.

    Returns:
        (N,) places of the rows in that order, and (N,) the video of each, in that order; a row without one is a video
        of its own.
    """
    videos = pd.factorize(rows["video"])[0] if "video" in rows else np.full(len(rows), -1)
    videos = np.where(videos < 0, videos.max(initial=-1) + 1 + np.arange(len(rows)), videos)
    times = rows["time"].to_numpy(np.float64, na_value=np.nan) if "time" in rows else np.zeros(len(rows))
    order = np.lexsort((times, videos))
    return order, videos[order]


def videos_named(rows: pd.DataFrame) -> bool:
    """Whether any of some manifest rows names its video."""
    return "video" in rows and bool(rows["video"].notna().any())


def smooth_outputs(outputs: Outputs, known: pd.DataFrame, smoothing: Smoothing) -> Outputs:
    """Everything that is said, smoothed along the videos; class probabilities sum to 1 again.

    Args:
        outputs: of N rows.
        known: (N) their manifest rows.
        smoothing: what to do.
    """
    order, videos = in_time(known)

    def smooth(values: list[Tensor]) -> Tensor:
        raw = values[0].numpy()
        result = np.empty_like(raw)
        result[order] = smoothed(raw[order].reshape(len(order), -1), videos, smoothing).reshape(raw.shape)
        return torch.from_numpy(result)

    result = _combined([outputs], smooth, outputs.rows)
    if result.expression is not None:
        result.expression = result.expression / result.expression.sum(1, keepdim=True)
    return result


def _views(batch: Batch, flips: bool) -> Iterator[Batch]:
    yield batch
    if flips:
        if batch.images is None:
            raise WrongCall(
                "Averaging over mirror images needs images; these are feature sequences.", "Leave --flips out."
            )
        yield replace(batch, images=batch.images.flip(-1))


def _features(model: Model, batch: Batch) -> Tensor:
    if batch.images is None:
        raise HonneError(f"Model '{model.name}' reads images; these data have none.", "Give data with images.")
    return model.features_batch(batch.images).float().cpu()


def _over_time(model: Model, features: Tensor, rows: np.ndarray, order: np.ndarray, videos: np.ndarray) -> Outputs:
    """What a temporal model says of the features (N, F) of N rows, with their order and videos of `in_time`."""
    starts = np.flatnonzero(np.diff(videos, prepend=-1))
    parcels = starts // FRAMES_AT_ONCE  # of whole videos
    parts = []
    for places in np.split(np.arange(len(order)), starts[1:][np.diff(parcels) > 0]):
        clips = windows(videos[places], model.length, max(1, model.length // 2))
        prediction = model.over_time(features[order[places]], torch.from_numpy(clips))
        parts.append(_outputs(model, prediction, rows[order[places]]))
    back = torch.from_numpy(np.argsort(order))
    return _combined(parts, lambda values: torch.cat(values)[back], rows)


def _outputs(model: Model, prediction: Prediction, rows: np.ndarray) -> Outputs:
    says = prediction.expression is not None or prediction.uncertainty is not None
    uncertainty = model.uncertainty(prediction).cpu() if says else None
    prediction = prediction.to("cpu", torch.float32)
    expression, units, emotions = prediction.expression, prediction.action_units, prediction.emotions
    return Outputs(
        rows,
        None if expression is None else expression.softmax(1),
        None if units is None else units.sigmoid(),
        prediction.valence_arousal,
        None if emotions is None else emotions.softmax(-1)[..., 1],
        prediction.sentiment,
        uncertainty,
    )


def _mean(one: Outputs, other: Outputs) -> Outputs:
    return _combined([one, other], lambda values: (values[0] + values[1]) / 2, one.rows)


def _join(parts: list[Outputs]) -> Outputs:
    return _combined(parts, torch.cat, np.concatenate([part.rows for part in parts]))


def _combined(parts: list[Outputs], how: Callable[[list[Tensor]], Tensor], rows: np.ndarray) -> Outputs:
    def combined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else how(values)

    return Outputs(rows, *map(combined, ("expression", "units", "affect", "emotions", "sentiment", "uncertainty")))


def beside_labels(
    outputs: Outputs,
    model: Model,
    data: PreparedData,
    vocabulary: Vocabulary,
    clusters: np.ndarray,
    abaw: Edition = "none",
    compat: Compat | None = None,
) -> Scored:
    """Predictions and labels in the vocabulary in which they are measured, without kinds of labels that no row has."""
    schema, rows = vocabulary.schema, outputs.rows
    known = data.rows.iloc[rows]
    scored = Scored(
        schema,
        ids=known["id"].to_numpy(),
        subjects=known["subject"].to_numpy() if "subject" in known else None,
        clusters=clusters,
        uncertainty=outputs.uncertainty,
        abaw=abaw,
        compat=compat,
    )
    if schema.expressions:
        _add_expressions(scored, _needed(outputs.expression, "expressions", model), data, vocabulary, rows)
    if schema.action_units:
        probabilities = _needed(outputs.units, "action units", model).numpy()
        scored.units = _units(probabilities, model.schema.action_units, schema.action_units)
        coded = data.stack("au", rows)
        if coded is not None and coded.size:
            scored.unit_labels = _units(coded, data.schema.labels.action_units, schema.action_units)
        scored.thresholds = torch.tensor([model.thresholds.get(unit, 0.5) for unit in schema.action_units])
    if schema.valence_arousal:
        scored.affect = _needed(outputs.affect, "valence and arousal", model)
        valence, arousal = data.stack("valence", rows), data.stack("arousal", rows)
        if valence is not None and arousal is not None:
            scored.affect_labels = torch.from_numpy(np.stack([valence, arousal], 1))
    if schema.emotions:
        columns = [model.schema.emotions.index(name) for name in schema.emotions]
        scored.emotion_probabilities = _needed(outputs.emotions, "emotions", model)[:, columns]
        labels = data.stack("emotions", rows)
        scored.emotion_labels = torch.from_numpy(labels) if labels is not None and labels.size else None
    if schema.sentiment:
        scored.sentiment = _needed(outputs.sentiment, "sentiment", model)
        numbers = data.stack("sentiment", rows)
        scored.sentiment_labels = None if numbers is None else torch.tensor(numbers)
    scored.drop_unlabelled()
    return scored


def _add_expressions(
    scored: Scored, probabilities: Tensor, data: PreparedData, vocabulary: Vocabulary, rows: np.ndarray
) -> None:
    converted = vocabulary.outputs.apply_distribution(probabilities.numpy())
    scored.probabilities = torch.from_numpy(converted)
    if "expression" in data.rows:
        place = {name: number for number, name in enumerate(data.schema.labels.expressions)}
        names = data.rows["expression"].to_numpy()[rows]
        unknown = sorted({name for name in names if isinstance(name, str)} - set(place))
        if unknown:
            raise HonneError(
                f"{data.root}: the manifest has expression '{unknown[0]}', which its schema has not.",
                "Prepare the data set again.",
            )
        codes = np.array([place.get(name, NOT_LABELLED) for name in names], np.int64)
        scored.expression = torch.from_numpy(vocabulary.labels.apply(codes))
    votes = data.stack("votes", rows)
    if votes is not None and votes.size:
        scored.votes = torch.from_numpy(vocabulary.labels.apply_votes(votes))


def _units(values: np.ndarray, source: tuple[int, ...], target: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(select_action_units(values, source, target))


def _needed(values: Tensor | None, task: str, model: Model) -> Tensor:
    if values is None:
        raise HonneError(
            f"Model '{model.name}' says that it predicts {task}, but gave none.", "The model is damaged; make it again."
        )
    if broken := int(values.reshape(len(values), -1).isnan().any(1).sum()):
        raise HonneError(
            f"Model '{model.name}' predicts {task} of {broken:,} of {len(values):,} rows that are not numbers.",
            "Its weights, or the features of these rows, are damaged.",
        )
    return values
