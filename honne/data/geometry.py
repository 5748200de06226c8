"""Where the pixels of a changed image come from: one affine matrix per image, applied once to everything in it.

Coordinates are continuous: an image covers [0, W] x [0, H], the centre of its first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Iterable
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
        sides: (B, 2) height and width of the images, px.
        boxes: (B, 4) whole px: left, top, width, height of what is kept before turning.
        matrices: (B, 2, 3) from px of the image to px of the result.
        flipped: (B,) bool, mirrored.
        warped: (B,) bool, more than cut out, resized and mirrored.
        size: side of the result, px.
        frame: side of what it is the central part of, px: an image that is not warped is resized to `frame`.
    """

    sides: np.ndarray
    boxes: np.ndarray
    matrices: np.ndarray
    flipped: np.ndarray
    warped: np.ndarray
    size: int
    frame: int

    @property
    def margin(self) -> int:
        """px of the frame that are left out at the left and at the top."""
        return (self.frame - self.size) // 2

    def sources(self) -> np.ndarray:
        """(B, 2, 3) from places in the result, 0 to 1, to places in the image, -1 to 1: the same at any resolution."""
        unit = 2 / self.sides[:, ::-1]
        inverse = np.linalg.inv(self.matrices[:, :, :2])
        offset = -np.einsum("bij,bj->bi", inverse, self.matrices[:, :, 2]) * unit - 1
        return np.concatenate([inverse * unit[:, :, None] * self.size, offset[:, :, None]], 2)


def move_images(images: Iterable[np.ndarray], moves: Moves, channels: int, edge: Edge) -> np.ndarray:
    """Moved images: copied or resized with antialiasing where they are not warped, else read once, bilinearly.

    Enlarged images equal Pillow's, pixel by pixel; shrunk ones differ from its by one grey level at most.

    Args:
        images: B of (H, W) or (H, W, 3), uint8, of any sizes. From an iterator only a few are held at a time.
        moves: of every image.
        channels: C, 1 if all images are grey, else 3.
        edge: what lies outside an image: its border pixels, or black.

    Returns:
        (B, C, size, size) uint8.
    """
    moved = np.empty((len(moves.boxes), channels, moves.size, moves.size), np.uint8)
    # Four neighbours alias when an image shrinks much: then it is halved (or more) with antialiasing first.
    shrink = np.maximum(1, np.rint(moves.boxes[:, 2:].min(1) / moves.frame / 1.25)).astype(int)
    sources = moves.sources() if moves.warped.any() else moves.matrices
    inner = slice(moves.margin, moves.margin + moves.size)

    def warp_group(group: list[tuple[int, np.ndarray]]) -> None:
        chosen = [i for i, _ in group]
        shape = (channels, *group[0][1].shape[1:])
        stacked = torch.from_numpy(np.stack([np.broadcast_to(planes, shape) for _, planes in group])).float()
        moved[chosen] = warp(stacked, sources[chosen], (moves.size, moves.size), edge).numpy() + 0.5

    waiting: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for i, image in enumerate(images):
        planes = _planes(image)
        if not moves.warped[i]:
            left, top, width, height = moves.boxes[i].astype(int)
            part = planes[:, top : top + height, left : left + width]
            part = part if (height, width) == (moves.frame, moves.frame) else _resized(part, moves.frame, moves.frame)
            part = part[:, inner, inner]
            moved[i] = part[:, :, :: -1 if moves.flipped[i] else 1]
            continue
        if shrink[i] > 1:
            planes = _resized(planes, *(max(1, side // shrink[i]) for side in planes.shape[1:]))
        group = waiting.setdefault(planes.shape[1:], [])
        group.append((i, planes))
        if len(group) * max(moves.size**2, planes[0].size) >= _PIXELS_AT_ONCE:
            warp_group(waiting.pop(planes.shape[1:]))
    for group in waiting.values():
        warp_group(group)
    return moved


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) as (1, H, W) or (3, H, W), without a copy."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _resized(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    tensor = torch.from_numpy(np.require(planes.transpose(1, 2, 0), requirements=["C", "W"])).permute(2, 0, 1)[None]
    return F.interpolate(tensor, size=(height, width), mode="bilinear", antialias=True)[0].numpy()


def warp(images: Tensor, sources: np.ndarray, size: tuple[int, int], edge: Edge = "black") -> Tensor:
    """Affine maps of images, read bilinearly.

    Args:
        images: (B, C, H, W) float.
        sources: (B, 2, 3) from places in the result, 0 to 1, to places in the image, -1 to 1.
        size: height and width of the result.
        edge: what lies outside.

    Returns:
        (B, C, *size).
    """
    down, across = ((torch.arange(side) + 0.5) / side for side in size)
    steps = torch.from_numpy(sources).float()[:, None]
    # x and y as one complex number: one addition fills the grid of coordinates.
    along = torch.view_as_complex(steps[..., 1] * down[:, None] + steps[..., 2])
    row = torch.view_as_complex(steps[..., 0] * across[:, None])
    grid = torch.view_as_real(along[:, :, None] + row[:, None])
    padding = "border" if edge == "replicate" else "zeros"
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def move_points(points: np.ndarray, moves: Moves) -> Tensor:
    """(B, 68, 2) landmarks, px, moved with their images; left and right trade names in mirrored ones."""
    moved = np.einsum("bij,bpj->bpi", moves.matrices[:, :, :2], points) + moves.matrices[:, None, :, 2]
    moved[moves.flipped] = moved[moves.flipped][:, FLIP_68]
    return torch.from_numpy(moved.astype(np.float32))


def move_maps(maps: np.ndarray, moves: Moves) -> Tensor:
    """Heat maps moved with their images, 0 outside them.

    Args:
        maps: (B, K, h, w) in [0, 1] over the whole image; one that is not finite everywhere stays as it is.
        moves: of every image.
    """
    before = torch.from_numpy(np.asarray(maps, np.float32))
    known = before.isfinite().all(3).all(2)[:, :, None, None]
    return torch.where(known, warp(before, moves.sources(), (maps.shape[2], maps.shape[3])).clamp(0, 1), before)
