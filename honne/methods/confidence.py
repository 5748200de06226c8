"""How much a face sides with its label: the confidence of pairwise uncertainty estimation, for any method of images.

Source: She et al., "Dive into Ambiguity", CVPR 2021, section 3.3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def class_similarity(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(B, C) mean cosine of each row to the rows of each class, brought to 0..1 over the classes.

    Args:
        features: (B, D).
        labels: (B,).
        classes: C; the similarity to a class without a row is the row's smallest.
    """
    unit = F.normalize(features, eps=1e-8)
    members = F.one_hot(labels, classes).to(unit.dtype)
    counts = members.sum(0)
    mean = unit @ (unit.T @ members) / counts.clamp_min(1)
    lowest = mean.masked_fill(counts == 0, torch.inf).amin(1, keepdim=True)
    shifted = torch.where(counts > 0, mean - lowest, 0)
    return shifted / shifted.amax(1, keepdim=True).clamp_min(1e-8)


class Confidence(nn.Module):
    """s in (0, 1) from similarities to the classes and the label, in two layers: 2C -> C -> 1.

    Args:
        classes: C.
        kind: `DmueOptions.confidence_input`.
    """

    def __init__(self, classes: int, kind: Literal["label", "own"] = "label") -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.Sequential(nn.Linear(2 * classes, classes), nn.PReLU(), nn.Linear(classes, 1))

    def forward(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """(B,) from (B, C) of `class_similarity` and (B,) labels."""
        label = F.one_hot(labels, similarity.shape[1])
        label = label * similarity if self.kind == "own" else label
        return self.layers(torch.cat([similarity, label], 1)).sigmoid()[:, 0]
