"""Class activation maps: each kind is one small function of a layer's activations A and their gradients g.

A is (B, D, h, w); g has the same shape: the derivative of each sample's own target logit. Every function gives raw maps
(B, h, w); `normalise` brings them to [0, 1]. The variant `released` is what the code published with
Belharbi et al. (FG 2024) computes, slips included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from honne.networks.class_maps import unit_range

Variant = Literal["right", "released"]
ScoreKind = Literal["scorecam", "sscam", "iscam"]

NOISY_MASKS, MASK_NOISE = 35, 2.0  # SS-CAM: masks a channel, their standard deviation
STEPS = 10  # IS-CAM: masks a channel


def normalise(maps: Tensor) -> Tensor:
    """Shifted and scaled to [0, 1], each map by itself; a constant map becomes 0, and so does NaN.

    Args:
        maps: (..., h, w).
    """
    return unit_range(maps).nan_to_num(0.0)


def cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted as the linear head weights them, neither bias nor ReLU (Zhou et al., CVPR 2016).

    With average pooling the gradient is weight / (h w) everywhere, so its sum over the map is the head's weight.
    """
    return _weighted(activations, gradients.sum((2, 3)))


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient (Selvaraju et al., ICCV 2017)."""
    return _weighted(activations, gradients.mean((2, 3))).relu()


def gradcam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by positive gradients, each shared out over its pixels (Chattopadhay et al., WACV 2018)."""
    return smoothgradcam_pp(activations, gradients[None])


def gradcam_pp_released(activations: Tensor, gradients: Tensor) -> Tensor:
    """As released: the division is lost, so that weights grow with the third power of the gradient."""
    return _weighted(activations, (gradients**2 * gradients.relu()).sum((2, 3))).relu()


def smoothgradcam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """GradCAM++ on powers of gradients averaged over noisy copies of the image (Omeiza et al., 2019).

    Args:
        activations: (B, D, h, w) of the image itself.
        gradients: (N, B, D, h, w), those of each copy.
    """
    square, cube = (gradients**2).mean(0), (gradients**3).mean(0)
    denominator = 2 * square + (activations * cube).sum((2, 3), keepdim=True)
    alpha = square / denominator.where(square != 0, 1)
    return _weighted(activations, (alpha * gradients.mean(0).relu()).sum((2, 3))).relu()


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by the mean of their gradient, pixels counted by activation (Fu et al., BMVC 2020)."""
    total = activations.sum((2, 3))
    return _weighted(activations, (gradients * activations).sum((2, 3)) / total.where(total != 0, 1)).relu()


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Every pixel of every channel weighted by its own positive gradient (Jiang et al., TIP 2021)."""
    return (gradients.relu() * activations).sum(1).relu()


GradientMap = Callable[[Tensor, Tensor], Tensor]
GRADIENT_MAPS: dict[str, GradientMap] = {
    "cam": cam,
    "gradcam": gradcam,
    "gradcam++": gradcam_pp,
    "xgradcam": xgradcam,
    "layercam": layercam,
}
"""Name -> function of (activations, gradients)."""

RELEASED_MAPS = GRADIENT_MAPS | {"gradcam++": gradcam_pp_released}


def scorecam(
    activations: Tensor,
    images: Tensor,
    target: Tensor,
    probabilities: Callable[[Tensor], Tensor],
    kind: ScoreKind = "scorecam",
    variant: Variant = "right",
    chunk: int = 64,
) -> Tensor:
    """Channels weighted by the target's probability when the image shows only what the channel responds to.

    Args:
        activations: (B, D, h, w).
        images: (B, 3, H, W) normalised.
        target: (B,) class index.
        probabilities: of normalised images, (N, C).
        kind: `scorecam` (Wang et al., CVPRW 2020); `sscam`: mean over 35 masks with noise (Wang et al., 2020);
            `iscam`: mean over 10 masks of growing strength (Naidu et al., 2020).
        variant: `released` adds up min-max normalised channels; `right` adds up the channels themselves.
        chunk: masked images per forward pass; changes nothing but time and memory.
    """
    masks = normalise(activations)
    flat = masks.flatten(0, 1)[:, None]
    row = torch.arange(len(images), device=images.device).repeat_interleave(masks.shape[1])
    weights = torch.cat(
        [
            _scores(images[rows], mask, probabilities, kind).gather(1, target[rows, None])
            for rows, mask in zip(row.split(chunk), flat.split(chunk), strict=True)
        ]
    )
    return _weighted(masks if variant == "released" else activations, weights.view(masks.shape[:2])).relu()


def _scores(images: Tensor, masks: Tensor, probabilities: Callable[[Tensor], Tensor], kind: ScoreKind) -> Tensor:
    """(N, C) probabilities of N images under N masks (N, 1, h, w), the mean over what the kind does with a mask."""
    masks = F.interpolate(masks, images.shape[2:], mode="bilinear", align_corners=False)
    if kind == "scorecam":
        return probabilities(images * masks)
    if kind == "iscam":
        return torch.stack([probabilities(images * masks * (i / STEPS)) for i in range(1, STEPS + 1)]).mean(0)
    # the same noise for every image and channel, so that results depend neither on batch nor on chunk
    noise = MASK_NOISE * fixed_noise((NOISY_MASKS, 1, *images.shape[2:]), images.device)
    return torch.stack([probabilities(images * (masks + each)) for each in noise]).mean(0)


def fixed_noise(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Normal noise that is the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """(B, h, w) sum over channels (B, D, h, w) times weights (B, D)."""
    return torch.einsum("bdhw,bd->bhw", activations, weights)
