"""Losses of DMD: graph distillation between modalities, and what keeps exclusive and common parts apart.

Source: Li, Wang, Cui, "Decoupled Multimodal Distilling for Emotion Recognition", CVPR 2023, sections 3.1 to 3.3, and
the released code.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHARPNESS = 0.25
"""Temperature of the prior."""
SCALE = 1 / 8
"""Of the edges before their softmax."""
REGULARISATION, REPRESENTATION = 10.0, 10.0
MARGIN = 0.15
"""Of the similarity of two samples, for each unit that their labels are apart."""


@dataclass
class Distilled:
    """Attributes: the three losses of a unit, scalars."""

    regularisation: Tensor
    logits: Tensor
    representations: Tensor


class GraphDistillation(nn.Module):
    """Edges between modalities along which the student's scores and representations are drawn to the teacher's.

    Args:
        outputs: K of the scores.
        width: H of the representations.
        hidden: of scores and representations each.
        modalities: M; ordered pairs (student, teacher) are those of 0..M-1 in lexical order.
        kind: `homogeneous`: the first modality is expected to teach all others, and representations are drawn together
            by their absolute difference; `heterogeneous`: each is expected to teach those after it, and representations
            are pushed apart where their cosine is positive, as the released code does.
    """

    prior: Tensor

    def __init__(
        self,
        outputs: int,
        width: int,
        hidden: int,
        modalities: int = 3,
        kind: Literal["homogeneous", "heterogeneous"] = "homogeneous",
    ) -> None:
        super().__init__()
        self.kind = kind
        self.of_logit, self.of_representation = nn.Linear(outputs, hidden), nn.Linear(width, hidden)
        self.of_edge = nn.Linear(4 * hidden, 1)
        self.pairs = list(permutations(range(modalities), 2))
        teaches = [float(i < j if kind == "heterogeneous" else i == 0) for j, i in self.pairs]
        self.register_buffer("prior", (torch.tensor(teaches) / SHARPNESS).softmax(0), persistent=False)

    def edges(self, logits: Tensor, representations: Tensor) -> Tensor:
        """(P, B) weights of the pairs, which sum to 1, of scores (M, B, K) and representations (M, B, H)."""
        nodes = torch.cat([self.of_logit(logits), self.of_representation(representations)], 2)
        student, teacher = (list(side) for side in zip(*self.pairs, strict=True))
        raw: Tensor = self.of_edge(torch.cat([nodes[student], nodes[teacher]], 2))[..., 0]
        return (SCALE * raw).softmax(0)

    def forward(self, logits: Tensor, representations: Tensor) -> Distilled:
        """Losses of scores (M, B, K) and representations (M, B, H); no gradient reaches the teachers."""
        edges = self.edges(logits, representations)
        student, teacher = (list(side) for side in zip(*self.pairs, strict=True))
        strength = edges + self.prior[:, None]
        apart = (logits[student] - logits[teacher].detach()).abs().sum(2)
        ours, theirs = representations[student], representations[teacher].detach()
        if self.kind == "homogeneous":
            far = (strength * (ours - theirs).abs().sum(2)).mean(1)
        else:
            far = strength.mean(1) * F.cosine_similarity(ours, theirs, dim=2).clamp_min(0).mean(1)
        return Distilled(
            REGULARISATION * (edges.mean(1) - self.prior).square().sum(),
            (strength * apart).mean(1).sum(),
            REPRESENTATION * far.sum(),
        )


def margin_loss(features: Tensor, targets: Tensor) -> Tensor:
    """max(0, 0.15 |y_i - y_n| - cos(i, p) + cos(i, n)), mean over the pairs (p, n) of each anchor i, then over anchors.

    p are the others with the anchor's label, n those with another; anchors that lack either do not count.

    Args:
        features: (N, D).
        targets: (N, Y) numbers; labels are equal where all Y are. Rows with NaN do not count.
    """
    known = ~targets.isnan().any(1)
    features, targets = features[known], targets[known]
    similar = F.cosine_similarity(features[:, None], features[None], dim=2)
    distance = (targets[:, None] - targets[None]).abs().sum(2)
    same = distance == 0
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    terms = (MARGIN * distance[:, None, :] - similar[:, :, None] + similar[:, None, :]).clamp_min(0)
    pairs = positive[:, :, None] & ~same[:, None, :]
    count = pairs.sum((1, 2))
    means = (terms * pairs).sum((1, 2)) / count.clamp_min(1)
    return means.sum() / (count > 0).sum().clamp_min(1)


def orthogonality(exclusive: Tensor, common: Tensor, axis: int) -> Tensor:
    """Mean of the positive part of the cosine along an axis: that of the features, or of the batch as released."""
    return F.cosine_similarity(exclusive, common, dim=axis).clamp_min(0).mean()
