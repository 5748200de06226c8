"""What the branches of a DMUE run say of faces after training: mined distributions and confidences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED
from honne.data.loading import batches
from honne.data.manifest import PreparedData
from honne.methods.dmue import BRANCHES, Branches, DmueOptions, class_similarity, load_branches, mined_distribution
from honne.models import Model


@dataclass(frozen=True)
class Mined:
    """What was mined of N labelled faces; C classes.

    Attributes:
        index: (N,) row numbers in the manifest.
        label: (N,) class index.
        distribution: (N, C) q: what a face would be if not what it is labelled; 0 at the label, rows sum to 1.
        confidence: (N,) s in (0, 1), against the class members among these N faces.
    """

    index: np.ndarray
    label: np.ndarray
    distribution: np.ndarray
    confidence: np.ndarray


def mine(model: Model, data: PreparedData, split: str, *, batch_size: int = 64, workers: int = 0) -> Mined | None:
    """Ask, of every labelled face of a split, the branch that does not know its label.

    Args:
        model: loaded from RUN/model, with `branches.safetensors` in RUN.
        data: prepared data.
        split: train, valid or test.
        batch_size: images at a time.
        workers: loading processes.

    Returns:
        What was mined, in manifest order; `None` without branches beside the model, or without a labelled row.

    Raises:
        HonneError: the branches belong to another model.
    """
    file = model.folder.parent / BRANCHES if model.folder else None
    if file is None or not file.is_file():
        return None
    branches, confidence, options = load_branches(file, model.network)  # type: ignore[arg-type]
    branches.to(model.device)
    crop = model.alignment
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for batch in batches(data, split, size=crop.size, centre=crop.centre, batch_size=batch_size, workers=workers):
        assert batch.images is not None
        labels = batch.labels.expression
        known = torch.empty(0, dtype=torch.long) if labels is None else (labels != NOT_LABELLED).nonzero()[:, 0]
        if labels is not None and len(known):
            assert batch.index is not None
            mined, features = _asked(model, branches, options, batch.images[known], labels[known])
            parts.append((batch.index[known], labels[known], mined, features))
    if not parts:
        return None
    index, labels, distribution, features = (torch.cat(part) for part in zip(*parts, strict=True))
    similarity = class_similarity(features, labels, distribution.shape[1])
    return Mined(index.numpy(), labels.numpy(), distribution.numpy(), confidence(similarity, labels).numpy())


@torch.inference_mode()
def _asked(
    model: Model, branches: Branches, options: DmueOptions, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, C) mined distributions and (B, D) features of the network, on the CPU."""
    images, labels = model.normalise(images.to(model.device)), labels.to(model.device)
    features, own = branches.features(model.network, images, labels, learn=False)  # type: ignore[arg-type]
    answers = branches.answers(model.network, features, own, labels)  # type: ignore[arg-type]
    logits = answers.branch_logits[labels, torch.arange(len(labels), device=labels.device)]
    return mined_distribution(logits, labels, options.temperature).cpu(), features.cpu()
