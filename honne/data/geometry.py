"""Where the pixels of a changed image come from: one affine matrix per image, applied once to everything in it.

Coordinates are continuous: an image covers [0, W] x [0, H], the centre of its first pixel is (0.5, 0.5). Matrices are
(B, 2, 3) and lead from px of the image to px of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from honne.data.flips import FLIP_68

Edge = Literal["replicate", "black"]

_PIXELS_AT_ONCE = 1 << 16  # images are warped in chunks that stay in the cache


@dataclass(frozen=True)
class Moves:
    """How the B images of a batch are moved, each to a square of `size` px.

    Attributes:
        boxes: (B, 4) whole px: left, top, width, height of what is kept before turning.
        matrices: (B, 2, 3).
        flipped: (B,) bool, mirrored.
        warped: (B,) bool, more than cut out, resized and mirrored.
        size: side of the result, px.
    """

    boxes: np.ndarray
    matrices: np.ndarray
    flipped: np.ndarray
    warped: np.ndarray
    size: int


def move_images(images: Sequence[np.ndarray], moves: Moves, edge: Edge) -> np.ndarray:
    """Moved images: copied or resized with antialiasing where they are not warped, else read once, bilinearly.

    Args:
        images: B of (H, W) or (H, W, 3), uint8, of any sizes.
        moves: of every image.
        edge: what lies outside an image: its border pixels, or black.

    Returns:
        (B, C, size, size) uint8, C = 1 if all are grey, else 3.
    """
    channels = 1 if all(image.ndim == 2 for image in images) else 3
    moved = np.empty((len(images), channels, moves.size, moves.size), np.uint8)
    for i in np.flatnonzero(~moves.warped):
        left, top, width, height = moves.boxes[i].astype(int)
        part = _planes(images[i])[:, top : top + height, left : left + width]
        part = part if (height, width) == (moves.size, moves.size) else _resized(part, moves.size, moves.size)
        moved[i] = part[:, :, :: -1 if moves.flipped[i] else 1]

    # Four neighbours alias when an image shrinks much: then it is halved (or more) with antialiasing first.
    shrink = np.maximum(1, np.rint(moves.boxes[:, 2:].min(1) / moves.size / 1.25)).astype(int)
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in np.flatnonzero(moves.warped):
        height, width = images[i].shape[:2]
        groups.setdefault((height, width, max(1, height // shrink[i]), max(1, width // shrink[i])), []).append(i)
    for (height, width, low, narrow), members in groups.items():
        chunk = max(1, _PIXELS_AT_ONCE // max(moves.size**2, low * narrow))
        for some in (members[start : start + chunk] for start in range(0, len(members), chunk)):
            planes = [_planes(images[i]) for i in some]
            if (low, narrow) != (height, width):
                planes = [_resized(part, low, narrow) for part in planes]
            stacked = np.stack([np.broadcast_to(part, (channels, low, narrow)) for part in planes])
            matrices = scaled(moves.matrices[some], np.array([narrow / width, low / height]), np.ones(2))
            result = warp(torch.from_numpy(stacked).float(), matrices, (moves.size, moves.size), edge)
            moved[some] = result.add_(0.5).to(torch.uint8).numpy()
    return moved


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) as (1, H, W) or (3, H, W), without a copy."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _resized(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    tensor = torch.from_numpy(np.require(planes.transpose(1, 2, 0), requirements=["C", "W"])).permute(2, 0, 1)[None]
    return F.interpolate(tensor, size=(height, width), mode="bilinear", antialias=True)[0].numpy()


def scaled(matrices: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The same maps between images whose sides (x, y) are `source` and `target` times as long."""
    linear = matrices[:, :, :2] / source[..., None, :] * target[..., :, None]
    return np.concatenate([linear, (matrices[:, :, 2] * target)[:, :, None]], 2)


def warp(images: Tensor, matrices: np.ndarray, size: tuple[int, int], edge: Edge = "black") -> Tensor:
    """Affine maps of images, read bilinearly.

    Args:
        images: (B, C, H, W) float.
        matrices: (B, 2, 3) from px of the image to px of the result.
        size: height and width of the result.
        edge: what lies outside.

    Returns:
        (B, C, *size).
    """
    inverse = np.linalg.inv(matrices[:, :, :2])
    offset = -np.einsum("bij,bj->bi", inverse, matrices[:, :, 2])
    sides = np.array(images.shape[:1:-1])
    inverse, offset = inverse * 2 / sides[:, None], offset * 2 / sides - 1  # grid_sample counts from -1 to 1
    steps, offsets = torch.from_numpy(inverse).float(), torch.from_numpy(offset).float()
    across, down = (torch.arange(side, dtype=torch.float32) + 0.5 for side in (size[1], size[0]))
    grid = torch.empty(len(images), *size, 2)
    for axis in range(2):
        along = (steps[:, axis, 1, None] * down + offsets[:, axis, None])[:, :, None]
        torch.add(along, (steps[:, axis, 0, None] * across)[:, None], out=grid[..., axis])
    padding = "border" if edge == "replicate" else "zeros"
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def move_points(points: np.ndarray, moves: Moves) -> Tensor:
    """(B, 68, 2) landmarks, px, moved with their images; left and right trade names in mirrored ones."""
    moved = np.einsum("bij,bpj->bpi", moves.matrices[:, :, :2], points) + moves.matrices[:, None, :, 2]
    moved[moves.flipped] = moved[moves.flipped][:, FLIP_68]
    return torch.from_numpy(moved.astype(np.float32))


def move_maps(maps: np.ndarray, moves: Moves, sides: np.ndarray) -> Tensor:
    """Heat maps moved with their images, 0 outside them.

    Args:
        maps: (B, K, h, w) in [0, 1] over the whole image; one that is not finite everywhere stays as it is.
        moves: of every image.
        sides: (B, 2) height and width of the images, px.
    """
    before = torch.from_numpy(np.asarray(maps, np.float32))
    grid = np.array(maps.shape[:1:-1], np.float64)
    matrices = scaled(moves.matrices, grid / sides[:, ::-1], grid / moves.size)
    known = before.isfinite().all(3).all(2)[:, :, None, None]
    return torch.where(known, warp(before, matrices, (maps.shape[2], maps.shape[3])).clamp(0, 1), before)
