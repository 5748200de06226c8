"""Heads that turn the last map into one map per class and those into logits; and hidden layers on pooled features.

A background class, where there is one, is the first map. It has no logit.

Source: Belharbi et al., FG 2024, arXiv 2402.00281, who compare them; each head's own paper is named with it.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from honne.errors import WrongCall
from honne.networks.intervention import Interventional

HeadName = Literal["linear", "gap", "max", "lse", "prm", "wildcat", "tscam", "acol", "interventional"]


def xavier(head: nn.Module) -> None:
    """Xavier-uniform weights and zero biases for every layer of a head."""
    for layer in head.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def unit_range(maps: Tensor) -> Tensor:
    """Each map (..., H, W) moved and scaled to 0..1; a constant one becomes 0."""
    lowest, highest = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    extent = highest - lowest
    return (maps - lowest) / torch.where(extent > 0, extent, 1)


class Dense(nn.Module):
    """Linear layers on pooled features, with ReLU and dropout between them.

    Args:
        width: D.
        classes: C.
        bias: whether the layers have one.
        dense: widths of the hidden layers.
        dropout: probability after each hidden layer.
        background: one more class, which has no logit.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        bias: bool = True,
        dense: Sequence[int] = (),
        dropout: float = 0.0,
        background: bool = False,
    ) -> None:
        super().__init__()
        self.first = int(background)
        widths = (width, *dense, self.first + classes)
        self.layers = nn.ModuleList(nn.Linear(*pair, bias=bias) for pair in pairwise(widths))
        self.dropout = nn.Dropout(dropout)
        xavier(self)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C) of pooled features (B, D)."""
        for layer in self.layers[:-1]:
            features = self.dropout(layer(features).relu())
        return self.layers[-1](features)[:, self.first :]


class ClassMaps(nn.Module):
    """One convolution to class maps, and their mean: GAP, or with a 3 x 3 convolution TS-CAM.

    Other heads differ in `every_map` or in `pool`.

    Args:
        width: D, channels of the last map.
        classes: C.
        bias: whether the convolution has one.
        background: one more map, which has no logit.

    Source: Zhou et al., CVPR 2016; Gao et al., ICCV 2021 (TS-CAM).
    """

    kernel = 1

    def __init__(self, width: int, classes: int, bias: bool = True, background: bool = False) -> None:
        super().__init__()
        self.first = int(background)
        self.conv = nn.Conv2d(width, self.first + classes, self.kernel, padding=self.kernel // 2, bias=bias)
        xavier(self)

    def every_map(self, maps: Tensor) -> Tensor:
        """Maps of all classes, the background first if there is one, from the last map (B, D, H, W)."""
        return self.conv(maps)

    def pool(self, maps: Tensor) -> Tensor:
        """(B, K) scores of maps (B, K, H, W)."""
        return maps.mean((2, 3))

    def class_maps(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) from the last map (B, D, H, W)."""
        return self.every_map(maps)[:, self.first :]

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (B, C) of the last map (B, D, H, W)."""
        return self.pool(self.class_maps(maps))


class TsCam(ClassMaps):
    """`ClassMaps` by a 3 x 3 convolution, made for the patch tokens of a transformer."""

    kernel = 3


class MaxPool(ClassMaps):
    """The highest value of each class map.

    Source: Oquab et al., CVPR 2015.
    """

    def pool(self, maps: Tensor) -> Tensor:
        return maps.amax((2, 3))


class LogSumExp(ClassMaps):
    """(1/r) ln mean exp(r x) of each class map: between mean and maximum.

    Args:
        width, classes, bias, background: as of `ClassMaps`.
        r: above 0; towards 0 it is the mean, large values approach the maximum.

    Source: Pinheiro and Collobert, CVPR 2015.
    """

    def __init__(self, width: int, classes: int, bias: bool = True, background: bool = False, r: float = 10.0) -> None:
        super().__init__(width, classes, bias, background)
        self.r = r

    def pool(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(2)
        return ((self.r * flat).logsumexp(2) - math.log(flat.shape[2])) / self.r


class PeakResponse(ClassMaps):
    """Mean of the highest values in all 3 x 3 windows of each class map.

    Source: Zhou et al., CVPR 2018 (PRM), as Belharbi et al. use it: without weighting peaks.
    """

    def pool(self, maps: Tensor) -> Tensor:
        if min(maps.shape[2:]) < 3:
            raise WrongCall(
                f"head prm: the last map has {maps.shape[2]} x {maps.shape[3]} positions, fewer than 3 x 3.",
                "Take larger images, --model.large_maps true, or another head.",
            )
        return nn.functional.max_pool2d(maps, 3, 1).mean((2, 3))


class Wildcat(ClassMaps):
    """Several maps per class, their mean, and of that the highest positions plus alpha times the lowest.

    Args:
        width, classes, bias, background: as of `ClassMaps`.
        modalities: maps per class.
        kmax: share of the positions that count as the highest, 0..1.
        kmin: share that count as the lowest, 0..1.
        alpha: weight of the lowest.
        lowest: used, or dropped as in the released code of Belharbi et al., which forgets to add them.

    Source: Durand et al., CVPR 2017.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        bias: bool = True,
        background: bool = False,
        modalities: int = 5,
        kmax: float = 0.5,
        kmin: float = 0.1,
        alpha: float = 0.6,
        lowest: Literal["used", "dropped"] = "used",
    ) -> None:
        super().__init__(width, (classes + background) * modalities, bias)
        self.first, self.modalities = int(background), modalities
        self.kmax, self.kmin, self.alpha = kmax, kmin, alpha if lowest == "used" else 0.0

    def every_map(self, maps: Tensor) -> Tensor:
        return self.conv(maps).unflatten(1, (-1, self.modalities)).mean(2)

    def pool(self, maps: Tensor) -> Tensor:
        flat = maps.flatten(2)
        highest, lowest = (round(share * flat.shape[2]) for share in (self.kmax, self.kmin))
        score = flat.topk(max(highest, 1)).values.mean(2)
        if self.alpha and lowest:
            score = score + self.alpha * flat.topk(lowest, largest=False).values.mean(2)
        return score


class Acol(nn.Module):
    """Two branches; the second sees the map without what the first looked at. The first one's logits count.

    Args:
        width: D, channels of the last map.
        classes: C.
        bias: whether the last convolutions have one.
        hidden: channels inside the branches.
        threshold: of the first branch's map of the target class, in 0..1, from which positions are erased.

    Source: Zhang et al., CVPR 2018.
    """

    def __init__(self, width: int, classes: int, bias: bool = True, hidden: int = 1024, threshold: float = 0.1) -> None:
        super().__init__()

        def branch() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(width, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, classes, 1, bias=bias),
            )

        self.a, self.b = branch(), branch()
        self.threshold = threshold
        xavier(self)

    def branches(self, maps: Tensor, target: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class maps (B, C, H, W) of both branches.

        Args:
            maps: (B, D, H, W).
            target: (B,) classes; negative ones, or all if left out, are what the first branch predicts.
        """
        first = self.a(maps)
        predicted = first.mean((2, 3)).argmax(1)
        target = predicted if target is None else torch.where(target < 0, predicted, target)
        return first, self.b(self.erased(maps, self.attention(first, target)))

    def attention(self, first: Tensor, target: Tensor) -> Tensor:
        """(B, 1, H, W) in 0..1, without gradient: maps (B, C, H, W) of the first branch at the target classes (B,)."""
        rows = torch.arange(len(target), device=target.device)
        return unit_range(first.detach()[rows, target][:, None])

    def erased(self, maps: Tensor, attention: Tensor) -> Tensor:
        """The map (B, D, H, W) without the positions attended to."""
        return maps.masked_fill(attention >= self.threshold, 0)

    def class_maps(self, maps: Tensor, target: Tensor | None = None) -> Tensor:
        """(B, C, H, W) in 0..1, the higher of both branches' maps; arguments as of `branches`."""
        first, second = self.branches(maps, target)
        return torch.maximum(unit_range(first), unit_range(second))

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (B, C) of the last map (B, D, H, W)."""
        return self.a(maps).mean((2, 3))


HEADS: dict[str, type[nn.Module]] = {
    "linear": Dense,
    "gap": ClassMaps,
    "max": MaxPool,
    "lse": LogSumExp,
    "prm": PeakResponse,
    "wildcat": Wildcat,
    "tscam": TsCam,
    "acol": Acol,
    "interventional": Interventional,
}


def build_head(name: str, width: int, classes: int, bias: bool, options: dict[str, Any]) -> nn.Module:
    """A head by name.

    Args:
        name: key of `HEADS`.
        width: channels of the last map, or of the pooled features for `linear`.
        classes: C.
        bias: whether it has one.
        options: its further arguments.

    Raises:
        WrongCall: no such head, or it takes no such option.
    """
    if name not in HEADS:
        raise WrongCall(f"unknown head '{name}'.", f"Choose one of {', '.join(HEADS)}.")
    if name == "linear" and not options:
        return nn.Linear(width, classes, bias=bias)
    takes = list(inspect.signature(HEADS[name]).parameters)[3:]
    unknown = sorted(set(options) - set(takes))
    if unknown:
        raise WrongCall(f"head '{name}' has no option '{unknown[0]}'.", f"It has: {', '.join(takes)}.")
    return HEADS[name](width, classes, bias, **options)
