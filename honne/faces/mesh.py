"""What MediaPipe's 478-point mesh says in other terms: five points, 68 landmarks, box, head pose."""

from __future__ import annotations

import numpy as np

from honne.faces.face import Face

FIVE_POINTS = (468, 473, 1, 61, 291)
"""Image-left iris, image-right iris, nose tip, image-left and image-right mouth corner."""

# fmt: off
LANDMARKS_68 = (
    162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389,
    71, 63, 105, 66, 107, 336, 296, 334, 293, 301,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87,
)
# fmt: on


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """(5, 2) points of (68, 2) landmarks; the eyes are the means of their corners and lids."""
    eyes = [landmarks[36:42].mean(0), landmarks[42:48].mean(0)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def face_from_mesh(mesh: np.ndarray, score: float = 1.0) -> Face:
    """The face of a (478, 3) mesh in px: its box is the smallest around all points."""
    corner = mesh[:, :2].min(0)
    return Face(
        box=np.concatenate([corner, mesh[:, :2].max(0) - corner]),
        score=score,
        mesh=mesh,
        landmarks=mesh[list(LANDMARKS_68), :2],
        points=mesh[list(FIVE_POINTS), :2],
    )
