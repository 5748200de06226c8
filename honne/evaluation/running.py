"""A model over one split of a prepared data set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Batch, Prediction
from honne.console import progress
from honne.data.loading import batches
from honne.data.manifest import PreparedData
from honne.errors import HonneError, WrongCall
from honne.evaluation.scoring import Scored
from honne.evaluation.vocabulary import Vocabulary
from honne.labels import select_action_units
from honne.models import Model


@dataclass
class Outputs:
    """What a model says of N rows, on the CPU; `None` without such a head.

    Attributes:
        rows: (N,) row numbers in the manifest, as loaded.
        expression: (N, C) probabilities.
        units: (N, A) probabilities of presence.
        affect: (N, 2).
        uncertainty: (N,) in 0..1.
    """

    rows: np.ndarray
    expression: Tensor | None
    units: Tensor | None
    affect: Tensor | None
    uncertainty: Tensor | None


def run_model(
    model: Model, data: PreparedData, split: str, *, batch_size: int = 32, workers: int = 0, flips: bool = False
) -> Outputs:
    """Predictions for every row of a split.

    Args:
        model: on any device.
        data: prepared data set.
        split: train, valid or test.
        batch_size: images at once; does not change the result.
        workers: loading processes.
        flips: average over every image and its mirror image.
    """
    wanted, crop = data.split(split), model.alignment
    shown = batches(data, split, size=crop.size, batch_size=batch_size, workers=workers, centre=crop.centre)
    parts: list[Outputs] = []
    with progress() as bar:
        task = bar.add_task(f"{model.name} on {data.schema.name} {split}", total=len(wanted))
        for batch in shown:
            seen = [_outputs(model, each) for each in _views(batch, flips)]
            parts.append(seen[0] if len(seen) == 1 else _mean(*seen))
            bar.advance(task, len(batch))
    joined = _join(parts)
    if not np.array_equal(joined.rows, wanted):
        raise RuntimeError(f"the loader gave {len(joined.rows)} rows instead of the {len(wanted)} of split '{split}'")
    return joined


def _views(batch: Batch, flips: bool) -> Iterator[Batch]:
    yield batch
    if flips:
        if batch.images is None:
            raise WrongCall(
                "Averaging over mirror images needs images; these are feature sequences.", "Leave --flips out."
            )
        yield replace(batch, images=batch.images.flip(-1))


def _outputs(model: Model, batch: Batch) -> Outputs:
    prediction: Prediction = model.forward_batch(batch)
    says = prediction.expression is not None or prediction.uncertainty is not None
    uncertainty = model.uncertainty(prediction).cpu() if says else None
    prediction = prediction.to("cpu", torch.float32)
    rows = np.zeros(0, np.int64) if batch.index is None else batch.index.cpu().numpy()
    expression, units = prediction.expression, prediction.action_units
    return Outputs(
        rows,
        None if expression is None else expression.softmax(1),
        None if units is None else units.sigmoid(),
        prediction.valence_arousal,
        uncertainty,
    )


def _mean(one: Outputs, other: Outputs) -> Outputs:
    def middle(name: str) -> Tensor | None:
        values = getattr(one, name)
        return None if values is None else (values + getattr(other, name)) / 2

    return Outputs(one.rows, middle("expression"), middle("units"), middle("affect"), middle("uncertainty"))


def _join(parts: list[Outputs]) -> Outputs:
    def join(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    rows = np.concatenate([part.rows for part in parts])
    return Outputs(rows, join("expression"), join("units"), join("affect"), join("uncertainty"))


def beside_labels(
    outputs: Outputs, model: Model, data: PreparedData, vocabulary: Vocabulary, clusters: np.ndarray
) -> Scored:
    """Predictions and labels in the vocabulary in which they are measured."""
    schema, rows = vocabulary.schema, outputs.rows
    known = data.rows.iloc[rows]
    scored = Scored(
        schema,
        ids=known["id"].to_numpy(),
        subjects=known["subject"].to_numpy() if "subject" in known else None,
        clusters=clusters,
        uncertainty=outputs.uncertainty,
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
    return values
