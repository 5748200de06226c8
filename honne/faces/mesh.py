"""What MediaPipe's 478-point mesh says in other terms: five points, 68 landmarks, box, head pose."""

from __future__ import annotations

import numpy as np

from honne.faces.face import Face
from honne.faces.geometry import similarity

FIVE_POINTS = (468, 473, 1, 61, 291)
"""Image-left iris, image-right iris, nose tip, image-left and image-right mouth corner."""

# fmt: off
LANDMARKS_68 = (
    127, 93, 132, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 361, 323, 356,  # jaw
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 75, 97, 2, 326, 305,  # nose
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # outer lips
    78, 82, 13, 312, 308, 317, 14, 87,  # inner lips
)
# fmt: on
"""Mesh vertices that lie closest to the iBUG 68 points (`benchmarks/landmarks68.py`). Approximate: where a cheek turns
away, iBUG's jaw follows the outline in the picture and the mesh the skin."""

FRONTAL = {
    2: (0.000, 0.470, -0.254),
    4: (0.000, 0.343, -0.454),
    6: (0.000, 0.016, -0.263),
    9: (0.000, -0.253, -0.243),
    10: (0.000, -0.599, -0.191),
    33: (-0.500, -0.045, 0.025),
    54: (-0.663, -0.422, 0.168),
    67: (-0.395, -0.568, -0.098),
    98: (-0.193, 0.440, -0.163),
    117: (-0.579, 0.136, 0.034),
    127: (-0.772, -0.034, 0.567),
    129: (-0.234, 0.365, -0.126),
    133: (-0.200, -0.024, -0.034),
    168: (0.000, -0.076, -0.219),
    195: (0.000, 0.171, -0.371),
    234: (-0.765, 0.116, 0.624),
    263: (0.500, -0.045, 0.025),
    284: (0.663, -0.422, 0.168),
    297: (0.395, -0.568, -0.098),
    327: (0.193, 0.440, -0.163),
    346: (0.579, 0.136, 0.034),
    356: (0.772, -0.034, 0.567),
    358: (0.234, 0.365, -0.126),
    362: (0.200, -0.024, -0.034),
    454: (0.765, 0.116, 0.624),
}
"""Vertices that expressions hardly move, on a face that looks into the camera; unit: distance of the outer eye corners.

The mean of 1,349 meshes found in FER2013 pictures, after generalised Procrustes analysis, made symmetrical. Zero pitch
is the median of the 726 of them with less than 10 degrees of yaw and roll."""


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
        pose=head_pose(mesh),
    )


def head_pose(mesh: np.ndarray) -> np.ndarray:
    """Yaw, pitch and roll of a mesh.

    The rotation that brings a frontal face closest to the mesh (weak perspective, least squares), as yaw about the
    picture's vertical axis, after pitch about the head's horizontal one, after roll about the nose. So yaw and pitch
    are where the nose points, as on a globe.

    Args:
        mesh: (478, 3) or (468, 3) px: x to the right, y down, z away from the camera.

    Returns:
        (3,) degrees with the signs of `Face.pose`.
    """
    _, rotation, _ = similarity(np.array(list(FRONTAL.values())), mesh[list(FRONTAL)])
    yaw = np.arctan2(-rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = np.arctan2(rotation[1, 0], rotation[1, 1])
    return np.degrees([yaw, pitch, roll])
