"""One face found in one image, and the interface of everything that finds faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass
class Face:
    """One face.

    Attributes:
        box: (4,) x, y, width, height in px.
        score: detector's confidence, 0..1.
        mesh: (478, 3) px (z in px too, smaller is nearer) or None.
        landmarks: (68, 2) px in the iBUG order, or None.
        points: (5, 2) px: image-left eye, image-right eye, nose tip, image-left and image-right mouth corner; or None.
        pose: (3,) yaw, pitch, roll in degrees, or None. Zero faces the camera; positive yaw turns the nose to image
            right, positive pitch lifts it, positive roll turns the head clockwise in the image.
        quality: 0..1, or None before `honne.faces.quality.quality` judged it.
    """

    box: np.ndarray
    score: float = 1.0
    mesh: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    points: np.ndarray | None = None
    pose: np.ndarray | None = None
    quality: float | None = None


class FaceFinder(Protocol):
    """Finds the faces of one image. The answer depends on this image alone, so chunking cannot change results."""

    def find(self, image: np.ndarray) -> list[Face]:
        """Faces of an (H, W, 3) uint8 RGB image, largest first; an empty list if there is none."""
        ...
