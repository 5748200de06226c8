"""How well a face can be judged: size, sharpness, pose and exposure as one number."""

from __future__ import annotations

import numpy as np
from PIL import Image

from honne.faces.face import Face

LOW_QUALITY = 0.25
"""Below this a row is marked `low_quality`; its probabilities are still there."""

SIDE = 64
"""px; sharpness and exposure are measured on a crop of this side, so that they do not depend on the face's size."""


def quality(image: np.ndarray, face: Face) -> float:
    """Quality of one face, 0 (cannot be judged) to 1; the product of four parts, each 0..1.

    - size: 0 at 16 px between box sides, 1 from 80 px on (geometric mean of the sides);
    - sharpness: spread of the Laplacian over the spread of the picture, which blur lowers and contrast does not;
    - pose: cosine of yaw times cosine of pitch; 1 where the pose is unknown;
    - exposure: share of pixels that are neither black nor white, and enough contrast.

    Args:
        image: (H, W, 3) uint8 RGB.
        face: with its box, and its pose if known.
    """
    x, y, width, height = face.box
    left, top = max(int(x), 0), max(int(y), 0)
    right, bottom = min(int(np.ceil(x + width)), image.shape[1]), min(int(np.ceil(y + height)), image.shape[0])
    if right - left < 2 or bottom - top < 2:
        return 0.0
    grey = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right])).convert("L")
    pixels = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    size = _rising(float(np.sqrt(max(width, 0) * max(height, 0))), 16, 80)
    return float(size * _sharpness(pixels) * _pose(face) * _exposure(pixels))


def _rising(value: float, low: float, high: float) -> float:
    return float(np.clip((value - low) / (high - low), 0, 1))


def _sharpness(pixels: np.ndarray) -> float:
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * pixels[1:-1, 1:-1]
    return _rising(float(laplacian.std() / max(pixels.std(), 1.0)), 0.03, 0.25)


def _pose(face: Face) -> float:
    if face.pose is None:
        return 1.0
    yaw, pitch = np.radians(face.pose[:2])
    return float(max(np.cos(yaw), 0) * max(np.cos(pitch), 0))


def _exposure(pixels: np.ndarray) -> float:
    usable = float(((pixels > 12) & (pixels < 243)).mean())
    return _rising(usable, 0.2, 0.9) * _rising(float(pixels.std()), 4, 20)
