"""Similarity transforms between point sets, and points through an affine matrix.

Coordinates are continuous px: (0, 0) is the outer corner of the first pixel, (0.5, 0.5) its centre.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from honne.errors import HonneError

Rounding = Literal["none", "released"]
Shift = Literal["none", "released"]


def similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation and shift that bring points closest to others (least squares, no reflection).

    Args:
        source: (N, D) points.
        target: (N, D) points.

    Returns:
        scale, (D, D) rotation, (D,) shift, so that `target` is about `scale * source @ rotation.T + shift`.
        The scale is 0 where the source points coincide.

    Source: Umeyama, PAMI 1991, equations 39-43.
    """
    source_mean, target_mean = source.mean(0), target.mean(0)
    source, target = source - source_mean, target - target_mean
    left, strength, right = np.linalg.svd(target.T @ source)
    proper = np.ones(len(strength))
    proper[-1] = np.sign(np.linalg.det(left) * np.linalg.det(right)) or 1.0
    rotation = (left * proper) @ right
    spread = float((source**2).sum())
    scale = float((strength * proper).sum()) / spread if spread else 0.0
    return scale, rotation, target_mean - scale * rotation @ source_mean


def similarity_matrix(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) matrix of `similarity` for (N, 2) points."""
    scale, rotation, shift = similarity(source, target)
    return np.column_stack([scale * rotation, shift])


def upright_matrix(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(2, 3) matrix of the best scale and shift, without rotation, that bring (N, 2) points to others."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    spread = float(((source - source_mean) ** 2).sum())
    scale = float(((source - source_mean) * (target - target_mean)).sum()) / spread if spread else 0.0
    return np.column_stack([scale * np.eye(2), target_mean - scale * source_mean])


def transform_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) points through a (2, 3) affine matrix, such as landmarks into a crop with `Alignment.matrix`."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def inverted(matrix: np.ndarray) -> np.ndarray:
    """The (2, 3) affine matrix that undoes another."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def eye_centres(landmarks: np.ndarray) -> np.ndarray:
    """(2, 2) centres of the image-left and the image-right eye of (68, 2) iBUG landmarks."""
    return np.stack([landmarks[36:42].mean(0), landmarks[42:48].mean(0)])


def eye_matrix(eyes: np.ndarray, target: np.ndarray, rounding: Rounding = "none") -> np.ndarray:
    """(2, 3) similarity that brings two eye centres to a level pair of points.

    Args:
        eyes: (2, 2) px: image-left eye, image-right eye.
        target: (2, 2) px; both of the same height.
        rounding: `released` cuts the fractions off the eye centres, and off the point between them, before it turns
            and scales about that point, as the released preprocessing of MixBasic does: the eyes end up to a pixel of
            the image away from the target, and up to half a pixel more by the point between.

    Raises:
        HonneError: the eyes coincide.
    """
    if rounding == "released":
        eyes = np.trunc(eyes)
    across = eyes[1] - eyes[0]
    distance = float(np.hypot(*across))
    if not distance:
        raise HonneError("The centres of the two eyes coincide.", "Check the landmarks.")
    scale = (target[1, 0] - target[0, 0]) / distance
    cosine, sine = scale * across / distance
    linear = np.array([[cosine, sine], [-sine, cosine]])
    middle = np.floor(eyes.mean(0)) if rounding == "released" else eyes.mean(0)
    return np.column_stack([linear, target.mean(0) - linear @ middle])


def eyes_mouth_matrix(eyes: np.ndarray, mouth: np.ndarray, size: int) -> np.ndarray:
    """(2, 3) similarity that levels the eyes and frames eyes and mouth by a square.

    Its side is twice the distance of the eyes, or twice that from the eyes down to the mouth if this is more; its
    centre is midway between the middle of the eyes and the middle of the mouth.

    Args:
        eyes: (2, 2) px: centres of the image-left and the image-right eye.
        mouth: (2, 2) px: corners of the mouth.
        size: side of the crop, px.

    Raises:
        HonneError: the eyes coincide.

    Source: the preprocessing of Deng et al., FG 2020, for any rotation (atan2 in place of atan).
    """
    across, down = eyes[1] - eyes[0], mouth.mean(0) - eyes.mean(0)
    distance = float(np.hypot(*across))
    if not distance:
        raise HonneError("The centres of the two eyes coincide.", "Check the landmarks.")
    cosine, sine = across / distance
    turn = np.array([[cosine, sine], [-sine, cosine]])
    linear = turn * (size / (2 * max(distance, float((turn @ down)[1]))))
    return np.column_stack([linear, size / 2 - linear @ (eyes.mean(0) + down / 2)])


def published_turn_matrix(
    eyes: np.ndarray, width: int, height: int, expand: Literal["yes", "no"] = "yes"
) -> np.ndarray:
    """(2, 3) matrix from px of a picture to px of the picture turned until the eyes are level.

    As Deng et al. (FG 2020) compute it: turned about the middle of the picture; where this grows, its new sides are
    rounded otherwise than Pillow rounds them, so that points come out up to half a pixel beside their pixels.

    Args:
        eyes: (2, 2) px: centres of the image-left and the image-right eye.
        width: of the picture, px.
        height: likewise.
        expand: whether the picture grows until its corners are inside.
    """
    angle = np.arctan2(*(eyes[1] - eyes[0])[::-1])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    sides = np.array([width, height])
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) * sides @ turn.T
    grown = np.ceil(corners.max(0)) - np.floor(corners.min(0)) if expand == "yes" else sides
    return np.column_stack([turn, grown / 2 - turn @ sides / 2])


def turned_right(image: np.ndarray, shift: Shift = "none") -> np.ndarray:
    """(W, H, ...) picture: an (H, W, ...) one turned clockwise by 90 degrees.

    Args:
        image: pixels.
        shift: `released`: one pixel further right, the last column lost and the first one black, as the released
            preprocessing of MixBasic turns MMI's videos.
    """
    turned = np.ascontiguousarray(np.rot90(image, -1))
    if shift == "released":
        turned = np.roll(turned, 1, axis=1)
        turned[:, 0] = 0
    return turned
