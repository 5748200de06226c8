"""What training left beside a model to say of labelled faces: mined distributions and confidences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED, Batch
from honne.data.loading import batches
from honne.data.manifest import PreparedData
from honne.methods.confidence import CONFIDENCE, class_similarity, load_confidence
from honne.methods.dmue import BRANCHES, Branches, DmueOptions, load_branches, mined_distribution
from honne.models import Model
from honne.networks.ensemble import Ensemble


@dataclass(frozen=True)
class Mined:
    """What was mined of N labelled faces; C classes.

    Attributes:
        index: (N,) row numbers in the manifest.
        label: (N,) class index.
        distribution: (N, C) q: what a face would be if not what it is labelled; 0 at the label, rows sum to 1. `None`
            of a model without branches.
        confidence: (N,) s in (0, 1), against the class members among these N faces; of an ensemble the members' mean.
    """

    index: np.ndarray
    label: np.ndarray
    distribution: np.ndarray | None
    confidence: np.ndarray


def mine(model: Model, data: PreparedData, split: str, *, batch_size: int = 64, workers: int = 0) -> Mined | None:
    """Ask of every labelled face of a split how much it sides with its label, and the branch that does not know it.

    Args:
        model: loaded from RUN/model, with `branches.safetensors` or `confidence.safetensors` in RUN; of an ensemble in
            the runs of its members.
        data: prepared data.
        split: train, valid or test.
        batch_size: images at a time.
        workers: loading processes.

    Returns:
        What was mined, in manifest order; `None` with no such file beside the model, of a temporal model, or without a
        labelled row.

    Raises:
        HonneError: the files belong to another model.
    """
    if model.folder is None or model.length:
        return None
    faces = _labelled(model, data, split, batch_size, workers)
    if (file := model.folder.parent / BRANCHES).is_file():
        return _by_branches(model, file, faces)
    files = _confidences(model, model.folder.parent)
    return _by_confidence(model, files, faces) if files else None


def _labelled(
    model: Model, data: PreparedData, split: str, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Row numbers, labels and normalised images of the labelled faces, on the model's device."""
    crop = model.alignment
    for batch in batches(data, split, size=crop.size, centre=crop.centre, batch_size=batch_size, workers=workers):
        labels = batch.labels.expression
        known = torch.empty(0, dtype=torch.long) if labels is None else (labels != NOT_LABELLED).nonzero()[:, 0]
        if labels is not None and len(known):
            assert batch.images is not None
            assert batch.index is not None
            images = model.normalise(batch.images[known].to(model.device))
            yield batch.index[known], labels[known].to(model.device), images


@torch.inference_mode()
def _by_branches(model: Model, file: Path, faces: Iterator[tuple[Tensor, Tensor, Tensor]]) -> Mined | None:
    branches, confidence, options = load_branches(file, model.network)  # type: ignore[arg-type]
    branches.to(model.device)
    parts = [
        (index, labels.cpu(), *_asked(model, branches, options, images, labels)) for index, labels, images in faces
    ]
    if not parts:
        return None
    index, labels, distribution, features = (torch.cat(part) for part in zip(*parts, strict=True))
    similarity = class_similarity(features, labels, distribution.shape[1])
    return Mined(index.numpy(), labels.numpy(), distribution.numpy(), confidence(similarity, labels).numpy())


def _asked(
    model: Model, branches: Branches, options: DmueOptions, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, C) mined distributions and (B, D) features of the network, on the CPU."""
    features, own = branches.features(model.network, images, labels, learn=False)  # type: ignore[arg-type]
    answers = branches.answers(model.network, features, own, labels)  # type: ignore[arg-type]
    logits = answers.branch_logits[labels, torch.arange(len(labels), device=labels.device)]
    return mined_distribution(logits, labels, options.temperature).cpu(), features.cpu()


def _members(model: Model) -> list[Any]:
    return list(model.network.members) if isinstance(model.network, Ensemble) else [model.network]


def _confidences(model: Model, run: Path) -> list[Path]:
    """Files of a model's members, in their order: beside the model, or in the last stages of its run; none = []."""
    if (run / CONFIDENCE).is_file():
        return [run / CONFIDENCE]
    students = sorted(run.glob("student_*"), key=lambda path: int(path.name.removeprefix("student_")))
    count = len(_members(model))
    files = [stage / CONFIDENCE for stage in (students or [run / "teacher"])][-count:]
    return files if len(files) == count and all(file.is_file() for file in files) else []


@torch.inference_mode()
def _by_confidence(model: Model, files: list[Path], faces: Iterator[tuple[Tensor, Tensor, Tensor]]) -> Mined | None:
    confidences, members = [load_confidence(file) for file in files], _members(model)
    parts = [
        (index, labels.cpu(), *(member(Batch(images=images)).features.cpu() for member in members))
        for index, labels, images in faces
    ]
    if not parts:
        return None
    index, labels, *features = (torch.cat(part) for part in zip(*parts, strict=True))
    classes = len(model.schema.expressions)
    scores = [
        confidence(class_similarity(each, labels, classes), labels)
        for confidence, each in zip(confidences, features, strict=True)
    ]
    return Mined(index.numpy(), labels.numpy(), None, torch.stack(scores).mean(0).numpy())
