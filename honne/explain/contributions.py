"""What each modality contributes to what a model says, sample by sample and over a data set.

    Shapley   phi_i = sum over S without i of |S|! (M - |S| - 1)! / M! (v(S + i) - v(S)), exact, over all 2^M subsets
    permuted  what a figure loses when a modality's sequences are shuffled among the samples
    direct    the natural direct effect of the causal graph on what is predicted (`honne.networks.counterfactual`)

Sources: Shapley 1953; Wei et al., "Enhancing Multimodal Cooperation via Sample-level Modality Valuation", CVPR 2024 (a
value per sample); Breiman, Machine Learning 2001 (permutation importance); Kim et al., Applied Sciences 14 (23) 11397,
2024 (direct effects).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Batch, Labels, Prediction
from honne.data.dataset import FaceData, pad_sequences
from honne.data.manifest import PreparedData
from honne.data.missing import without_modalities
from honne.data.sampling import Draw
from honne.errors import HonneError, WrongCall
from honne.models import Model

Value = Literal["prob", "accuracy", "neg_loss", "output"]
"""v(S): the probability of the label (of what the whole model predicts, where there is none); |S| if the answer is
right and else 0, as the sample-level valuation has it; minus the loss; or the number that is predicted."""
Level = Literal["input", "hidden"]
"""Where a modality is taken away: its sequence, or its columns of the hidden state."""
MOST = 8
"""Modalities at most: there are 2^M subsets."""


def subsets(count: int) -> Tensor:
    """(2^M, M) bool: row s has modality m where bit m of s is set."""
    return (torch.arange(2**count)[:, None] >> torch.arange(count)) & 1 == 1


def shapley_values(values: Tensor) -> Tensor:
    """Exact Shapley values.

    Args:
        values: (2^M, N) value of every subset, in the order of `subsets`.

    Returns:
        (M, N); they sum to the value of all less that of none.

    Example:
        >>> shapley_values(torch.tensor([[0.0], [1.0], [2.0], [3.0]])).flatten().tolist()
        [1.0, 2.0]
    """
    count = len(values).bit_length() - 1
    there = subsets(count).to(values.device)
    size = there.sum(1)
    weights = torch.tensor(
        [math.factorial(s) * math.factorial(count - s - 1) / math.factorial(count) for s in range(count)] + [0.0],
        dtype=values.dtype,
        device=values.device,
    )[size]
    found = []
    for m in range(count):
        without = torch.nonzero(~there[:, m]).flatten()
        gained = values[without + 2**m] - values[without]
        found.append((weights[without, None] * gained).sum(0))
    return torch.stack(found)


@dataclass
class Samples:
    """N samples that a model is explained on.

    Attributes:
        ids: (N,) names.
        sequences: number of a sample -> modality -> (T, D).
        labels: rows -> `Labels`, or None where nothing is labelled.
    """

    ids: list[str]
    sequences: Callable[[int], Mapping[str, np.ndarray]]
    labels: Callable[[np.ndarray], Labels]

    @classmethod
    def of(cls, model: Model, data: PreparedData, split: str, limit: int | None = None) -> Samples:
        """The rows of a split of a prepared data set, at most `limit` of them."""
        faces = FaceData([data], 64, labels=model.schema)
        if lacking := [name for name in model.modalities if not faces.readers or name not in faces.readers[0].widths()]:
            raise HonneError(
                f"{data.root}: has no sequences of {lacking[0]}, which model '{model.name}' goes by.",
                "Give a data set that was prepared with its modalities.",
            )
        rows = faces.rows(split)[:limit]

        def labels(places: np.ndarray) -> Labels:
            return faces._labels(Draw(rows[places], places))

        names = data.rows["id"].iloc[rows].astype(str).tolist()
        return cls(names, lambda place: faces.sample(int(rows[place])), labels)

    def batch(self, places: np.ndarray, shuffled: Mapping[str, np.ndarray] | None = None) -> Batch:
        """Some of them; of modalities in `shuffled` the sequences of others, (N,) numbers of samples."""
        others = shuffled or {}
        samples = [
            {**self.sequences(int(p)), **{m: self.sequences(int(order[p]))[m] for m, order in others.items()}}
            for p in places
        ]
        sequences, lengths = pad_sequences(samples)
        labels = self.labels(places)
        return Batch(labels=labels, sequences=sequences, lengths=lengths, index=torch.from_numpy(places))


@dataclass
class Contributions:
    """What M modalities contribute to N samples.

    Attributes:
        ids: (N,).
        modalities: (M,).
        value: what v is.
        shapley: (M, N).
        whole: (N,) v of all modalities.
        nothing: (N,) v of none.
        direct: (M, N) natural direct effects, of counterfactual networks.
        permuted: (M, R) what the mean of v loses by each of R shuffles.
        said: (N,) what is predicted, in words.
        labels: (N,) labels in words, empty where there is none.
    """

    ids: list[str]
    modalities: tuple[str, ...]
    value: str
    shapley: Tensor
    whole: Tensor
    nothing: Tensor
    direct: Tensor | None
    permuted: Tensor
    said: list[str]
    labels: list[str]

    @property
    def mean(self) -> Tensor:
        """(M,) mean Shapley values."""
        return self.shapley.mean(1)

    @property
    def shares(self) -> Tensor:
        """(M,) of the sum of the absolute mean Shapley values; equal where that is 0."""
        size = self.mean.abs()
        return size / size.sum() if float(size.sum()) > 0 else torch.full_like(size, 1 / len(size))

    @property
    def imbalance(self) -> float:
        """Standard deviation of the shares: 0 where all count alike."""
        return float(self.shares.std(correction=0))


@torch.inference_mode()
def contributions(
    model: Model,
    data: PreparedData | Samples,
    *,
    split: str = "test",
    value: Value = "prob",
    level: Level = "input",
    repeats: int = 5,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> Contributions:
    """Contributions of a model's modalities to a split of a data set, or to other samples.

    Args:
        model: of several modalities.
        data: prepared data set, or samples.
        split: train, valid or test.
        value: see `Value`.
        level: see `Level`.
        repeats: shuffles of each modality.
        limit: samples at most; unset = all.
        seed: of the shuffles.
        batch_size: samples at once; does not change the result.

    Raises:
        HonneError: the model has one modality, too many, or no hidden state with columns of its own.
        WrongCall: a value that fits no task of the model.
    """
    network: Any = model.network
    names = model.modalities
    if not 2 <= len(names) <= MOST:
        raise HonneError(
            f"Model '{model.name}' has {len(names)} modalities; contributions are of 2 to {MOST}.",
            "Take a model of feature sequences of several modalities.",
        )
    if level == "hidden" and set(network.parts) != set(names):
        raise WrongCall(
            f"the hidden state of model '{model.name}' has no columns of single modalities.", "Leave --level out."
        )
    samples = data if isinstance(data, Samples) else Samples.of(model, data, split, limit)
    task = _Task.of(model, value)
    parts: list[dict[str, Any]] = []
    for places in _chunks(len(samples.ids), batch_size):
        batch = samples.batch(places).to(model.device)
        whole = model.forward_batch(batch)
        answers = [
            task.score(_reduced(model, batch, there, level, whole), batch.labels, whole, int(there.sum()))
            for there in subsets(len(names))
        ]
        parts.append(
            {
                "values": torch.stack(answers).cpu(),
                "direct": _direct(model, batch, whole, task),
                "said": task.words(whole),
                "labels": task.label_words(batch.labels, len(batch)),
            }
        )
    values = torch.cat([part["values"] for part in parts], 1).double()
    direct = None if parts[0]["direct"] is None else torch.cat([part["direct"] for part in parts], 1)
    return Contributions(
        samples.ids,
        names,
        value,
        shapley_values(values),
        values[-1],
        values[0],
        direct,
        _permuted(model, samples, task, values[-1], repeats, seed, batch_size),
        [word for part in parts for word in part["said"]],
        [word for part in parts for word in part["labels"]],
    )


def _chunks(count: int, size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _reduced(model: Model, batch: Batch, there: Tensor, level: Level, whole: Prediction) -> Prediction:
    """What the model says with some modalities only."""
    gone = [name for name, kept in zip(model.modalities, there.tolist(), strict=True) if not kept]
    if not gone:
        return whole
    if level == "input":
        return model.forward_batch(without_modalities(batch, gone))
    network: Any = model.network
    assert whole.features is not None
    hidden = whole.features.clone()
    for name in gone:
        hidden[:, network.parts[name]] = 0
    return model._calibrated(network.outputs.prediction(network.read_out(hidden), hidden))


def _permuted(
    model: Model, samples: Samples, task: _Task, whole: Tensor, repeats: int, seed: int, batch_size: int
) -> Tensor:
    """(M, R) what the mean of v loses when a modality's sequences are shuffled."""
    random = np.random.default_rng(seed)
    lost = torch.zeros(len(model.modalities), repeats, dtype=torch.float64)
    for m, name in enumerate(model.modalities):
        for repeat in range(repeats):
            order = random.permutation(len(samples.ids))
            found = []
            for places in _chunks(len(samples.ids), batch_size):
                batch = samples.batch(places).to(model.device)
                said = model.forward_batch(samples.batch(places, {name: order}).to(model.device))
                reference = said if not task.needs_whole(batch.labels) else model.forward_batch(batch)
                found.append(task.score(said, batch.labels, reference, len(model.modalities)).cpu())
            lost[m, repeat] = (whole - torch.cat(found).double()).mean()
    return lost


def _direct(model: Model, batch: Batch, whole: Prediction, task: _Task) -> Tensor | None:
    """(M, B) natural direct effect of each modality on what is predicted."""
    network: Any = model.network
    if not hasattr(network, "effects"):
        return None
    found = network.effects(network.scores(network.inputs(batch)))
    return torch.stack([task.of_prediction(network.outputs.prediction(each), whole) for each in found.direct]).cpu()


@dataclass(frozen=True)
class _Task:
    """The first task of a model: what v is, and its words."""

    model: Model
    kind: Literal["expression", "emotions", "sentiment", "valence_arousal"]
    value: Value

    @classmethod
    def of(cls, model: Model, value: Value) -> _Task:
        schema = model.schema
        kinds = {
            "expression": bool(schema.expressions),
            "emotions": bool(schema.emotions),
            "sentiment": bool(schema.sentiment),
            "valence_arousal": schema.valence_arousal,
        }
        kind: Any = next((name for name, there in kinds.items() if there), None)
        if kind is None:
            raise HonneError(f"Model '{model.name}' predicts action units alone.", "Contributions are of other tasks.")
        if value in ("prob", "accuracy") and kind in ("sentiment", "valence_arousal"):
            value = "neg_loss"
        if value == "output" and kind in ("expression", "emotions"):
            raise WrongCall("--value output is for numbers, not for classes.", "Take prob, accuracy or neg_loss.")
        return cls(model, kind, value)

    def needs_whole(self, labels: Labels) -> bool:
        """Whether some sample has no label, so that what the whole model predicts stands for it."""
        return bool(self._unknown(labels).any()) if self._target(labels) is not None else True

    def _target(self, labels: Labels) -> Tensor | None:
        return getattr(labels, self.kind)

    def _unknown(self, labels: Labels) -> Tensor:
        target = self._target(labels)
        assert target is not None
        return target == NOT_LABELLED if self.kind == "expression" else target.isnan()

    def targets(self, labels: Labels, whole: Prediction) -> Tensor:
        """The label, and where there is none what the whole model predicts."""
        said = self.answer(whole)
        target = self._target(labels)
        return said if target is None else torch.where(self._unknown(labels), said, target.to(said))

    def answer(self, prediction: Prediction) -> Tensor:
        """What is predicted: class, presences (B, E), or numbers."""
        if self.kind in ("expression", "emotions"):
            return getattr(prediction, self.kind).argmax(-1)
        return getattr(prediction, self.kind)

    def score(self, prediction: Prediction, labels: Labels, whole: Prediction, present: int) -> Tensor:
        """(B,) v of what is predicted with `present` modalities."""
        target = self.targets(labels, whole)
        if self.kind in ("sentiment", "valence_arousal"):
            said = self.answer(prediction)
            found = said if self.value == "output" else -(said - target).abs()
            return found.reshape(len(found), -1).mean(1)
        logits = getattr(prediction, self.kind)
        if self.value == "accuracy":
            right = (logits.argmax(-1) == target).float() * present
        else:
            log = logits.log_softmax(-1).gather(-1, target.long()[..., None])[..., 0]
            right = log if self.value == "neg_loss" else log.exp()
        return right.reshape(len(right), -1).mean(1)

    def of_prediction(self, scores: Prediction, whole: Prediction) -> Tensor:
        """(B,) of joint scores those of what the whole model predicts, less the mean of the alternatives."""
        if self.kind in ("expression", "emotions"):
            logits = getattr(scores, self.kind)
            logits = logits - logits.mean(-1, keepdim=True)
            chosen = logits.gather(-1, self.answer(whole)[..., None])[..., 0]
            return chosen.reshape(len(chosen), -1).mean(1)
        numbers = self.answer(scores)
        return numbers.reshape(len(numbers), -1).mean(1)

    def words(self, prediction: Prediction) -> list[str]:
        """What is predicted of each sample."""
        return self._named(self.answer(prediction).cpu())

    def label_words(self, labels: Labels, count: int) -> list[str]:
        """The label of each sample."""
        target = self._target(labels)
        return [""] * count if target is None else self._named(target.cpu())

    def _named(self, values: Tensor) -> list[str]:
        schema = self.model.schema
        if self.kind == "expression":
            return ["" if code == NOT_LABELLED else schema.expressions[int(code)] for code in values.tolist()]
        if self.kind == "emotions":
            return [
                "+".join(name for name, on in zip(schema.emotions, row, strict=True) if on == 1) or "none"
                for row in values.tolist()
            ]
        rows = values.reshape(len(values), -1).tolist()
        return ["" if any(math.isnan(v) for v in row) else ", ".join(f"{v:.2f}" for v in row) for row in rows]
