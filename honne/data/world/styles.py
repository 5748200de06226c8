"""Camera styles: the confounder of the synthetic world. Each changes backdrop, colours, sharpness and grain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Style:
    """How one camera sees.

    Args:
        wall: colour of the backdrop, 0..1.
        pattern: of the backdrop: 0 plain, 1 stripes, 2 checks, 3 dots, 4 gradient.
        gain: factor per colour.
        lift: added brightness.
        contrast: around the middle grey.
        colour: saturation; 0 is grey.
        vignette: darkening of the corners, 0..1.
        blur: share of the blurred picture, 0..1.
        grain: standard deviation of the noise, 0..1.
    """

    wall: tuple[float, float, float]
    pattern: int = 0
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    lift: float = 0.0
    contrast: float = 1.0
    colour: float = 1.0
    vignette: float = 0.0
    blur: float = 0.0
    grain: float = 0.01


STYLES: dict[str, Style] = {
    "studio": Style((0.72, 0.74, 0.77), 4),
    "warm": Style((0.62, 0.48, 0.36), 1, gain=(1.10, 1.0, 0.84), vignette=0.3, grain=0.015),
    "cold": Style((0.45, 0.55, 0.66), 2, gain=(0.87, 0.98, 1.13), grain=0.02),
    "faded": Style((0.82, 0.80, 0.76), 3, lift=0.12, contrast=0.7, colour=0.7, grain=0.02),
    "night": Style((0.24, 0.26, 0.36), 4, gain=(0.85, 0.90, 1.05), lift=-0.03, vignette=0.5, grain=0.035),
    "meadow": Style((0.46, 0.58, 0.40), 3, gain=(0.97, 1.06, 0.90), grain=0.015),
    "film": Style((0.55, 0.55, 0.55), 1, colour=0.0, contrast=1.1, vignette=0.3, grain=0.035),
    "haze": Style((0.78, 0.74, 0.82), 0, gain=(1.04, 0.97, 1.06), lift=0.08, contrast=0.82, blur=0.85),
}
"""In the order of the world's `domain` numbers."""


def _column(name: str, domain: Tensor) -> Tensor:
    """(B, 1, 1, 1) or (B, 3, 1, 1) settings of each picture's style."""
    values = torch.tensor([getattr(style, name) for style in STYLES.values()], dtype=torch.float32)
    return values[domain.long()].reshape(len(domain), -1, 1, 1)


def backdrop(domain: Tensor, seen: Tensor, size: int) -> Tensor:
    """Walls behind the sitters.

    Args:
        domain: (B,) style numbers.
        seen: (B,) -1..1, shifts pattern and brightness from picture to picture.
        size: side in px.

    Returns:
        (B, 3, size, size) in [0, 1].
    """
    line = torch.linspace(0, 1, size)
    y, x = line[:, None], line[None, :]
    shift = seen[:, None, None] * 0.5
    dots = (torch.sin(26 * (x + shift)) * torch.sin(26 * (y - shift))).clamp(0, 1)
    patterns = torch.stack([
        torch.zeros_like(dots),
        (torch.sin(30 * (x + shift)) * 3).clamp(-1, 1) * (y > -1),
        (8 * torch.sin(18 * (x + shift)) * torch.sin(18 * y)).clamp(-1, 1),
        1.6 * dots,
        1.2 - 2.4 * (y + 0.3 * x * shift),
    ], 1)  # fmt: skip
    kind = _column("pattern", domain)[:, 0, 0, 0].long()
    chosen = patterns[torch.arange(len(domain)), kind]
    bright = 1 + 0.12 * torch.sin(7 * seen)[:, None, None]
    return (_column("wall", domain) * (bright + 0.11 * chosen)[:, None]).clamp_(0, 1)


def photograph(pictures: Tensor, domain: Tensor, grain: Tensor) -> Tensor:
    """What the camera makes of it.

    Args:
        pictures: (B, 3, S, S) in [0, 1]; may be changed.
        domain: (B,) style numbers.
        grain: (B, 1, S, S) standard normal noise.

    Returns:
        (B, 3, S, S) in [0, 1].
    """
    blur = _column("blur", domain)
    if blur.any():
        side = 2 * max(pictures.shape[-1] // 48, 1) + 1
        soft = torch.nn.functional.avg_pool2d(pictures, side, 1, side // 2, count_include_pad=False)
        pictures = torch.lerp(pictures, soft, blur)
    weights = torch.tensor([0.30, 0.59, 0.11])[:, None, None]
    grey = (pictures * weights).sum(1, keepdim=True)
    pictures = torch.lerp(grey, pictures, _column("colour", domain)) * _column("gain", domain)
    pictures = (pictures - 0.5) * _column("contrast", domain) + 0.5 + _column("lift", domain)
    line = torch.linspace(-1, 1, pictures.shape[-1])
    corner = (line[:, None] ** 2 + line[None, :] ** 2) / 2
    pictures = pictures * (1 - _column("vignette", domain) * corner) + _column("grain", domain) * grain
    return pictures.clamp_(0, 1)
