"""Similarity transforms between point sets, and points through an affine matrix.

Coordinates are continuous px: (0, 0) is the outer corner of the first pixel, (0.5, 0.5) its centre.
"""

from __future__ import annotations

import numpy as np


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
