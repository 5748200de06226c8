"""Cropping a face the same way when data are prepared and when a picture is analysed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from honne.errors import HonneError, WrongCall
from honne.faces.face import Face
from honne.faces.geometry import (
    Rounding,
    eye_centres,
    eye_matrix,
    eyes_mouth_matrix,
    inverted,
    published_turn_matrix,
    similarity_matrix,
    transform_points,
    upright_matrix,
)

LARGEST = 10
"""A crop is at most this many times as wide as its image; more is a wrong box, not a face."""

FER2013_TEMPLATE = ((0.305, 0.377), (0.695, 0.377), (0.5, 0.626), (0.348, 0.784), (0.652, 0.784))
"""Where FER2013 pictures have the five points; `Alignment("upright", template=FER2013_TEMPLATE)` frames alike.

Measured on 2,000 training pictures drawn at random: enlarged four times, set on black, points by the default finder
(1,921 found). Medians over the pictures and their mirror images (scatter: 0.07 to 0.11 of the side), then scaled by
1.045, so that bringing the pictures themselves to the template with `upright` keeps their size in the median."""


EYE_TEMPLATE = ((0.35, 0.35), (0.65, 0.35))
"""Where the eye centres are in a crop of MixBasic as published (Chen et al., ACM MM 2022)."""


def framed(size: int, centre: float) -> int:
    """Side in px of a frame whose central share `centre` has `size` px: `framed(224, 0.875)` is 256.

    Raises:
        WrongCall: `centre` is not above 0 and at most 1.
    """
    if not 0 < centre <= 1:
        raise WrongCall(f"centre is {centre:g}.", "It is a share of the side: above 0, at most 1.")
    return round(size / centre)


@dataclass(frozen=True)
class Alignment:
    """How a face becomes a square crop; stored with data sets and models.

    Args:
        kind: `none`: the whole image is the face, resized to `size`. `box`: the square around the face box, its side
            `margin` times the longer box side. `points`: similarity transform (no reflection) that brings the five
            points to `template`; `upright`: the same without rotation, so that head roll stays in the crop. `eyes`:
            a similarity transform that brings the eye centres (of 68 landmarks, else the first two points) to
            `template`; nose and mouth may be anywhere. `eyes_mouth`: the eyes level, in a square about eyes and mouth
            of twice the larger of their distances (of 68 landmarks, else the five points), see `eyes_mouth_matrix`.
        size: side of the crop in px.
        margin: only for `box`.
        template: five (x, y) in crop units (0..1), for `points` and `upright`; two for `eyes`.
        grey: whether the crop is turned to grey (as three equal channels).
        centre: share of the side, about the centre, that is kept of what all the above frame: cropped at
            `framed(size, centre)` px, of which the central `size` are cut out.
    """

    kind: Literal["none", "box", "points", "upright", "eyes", "eyes_mouth"] = "none"
    size: int = 224
    margin: float = 1.2
    template: tuple[tuple[float, float], ...] = ()
    grey: bool = False
    centre: float = 1.0

    def as_delivered(self) -> Alignment:
        """For pictures that are framed like this already: take the whole image."""
        return Alignment(kind="none", size=self.size, grey=self.grey, centre=self.centre)

    def to_dict(self) -> dict[str, Any]:
        """For JSON and YAML."""
        return asdict(self) | {"template": [list(point) for point in self.template]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Alignment:
        """The inverse of `to_dict`."""
        return cls(**values | {"template": tuple((float(x), float(y)) for x, y in values.get("template", ()))})

    def matrix(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(2, 3) affine matrix from image px to crop px.

        A face without points (a picture that is a crop already, a table of boxes) counts as framed by its box.

        Raises:
            HonneError: the box or the points are not finite, without extent or far larger than the image; for `eyes`
                and `eyes_mouth`: the eyes coincide.
        """
        if self.centre != 1:
            frame, margin = self._frame()
            return frame.matrix(image, face) - [[0, 0, margin], [0, 0, margin]]
        height, width = image.shape[:2]
        if self.kind == "none":
            return np.array([[self.size / width, 0, 0], [0, self.size / height, 0]])
        target = np.array(self.template) * self.size
        if self.kind == "eyes_mouth" and (marks := eyes_mouth(face)) is not None:
            return eyes_mouth_matrix(*marks, self.size)
        if self.kind == "eyes" and face.landmarks is not None:
            return eye_matrix(eye_centres(np.asarray(face.landmarks, float)), target)
        if self.kind == "box" or face.points is None:
            return self._box_matrix(face.box, self.margin if self.kind == "box" else 1.0)
        points = np.asarray(face.points, float)
        if self.kind == "eyes":
            return eye_matrix(points[:2], target)
        return (similarity_matrix if self.kind == "points" else upright_matrix)(points, target)

    def _box_matrix(self, box: np.ndarray, margin: float) -> np.ndarray:
        x, y, width, height = np.asarray(box, float)
        side = margin * max(width, height)
        scale = self.size / side if side > 0 else 0.0
        return np.array(
            [[scale, 0, self.size / 2 - scale * (x + width / 2)], [0, scale, self.size / 2 - scale * (y + height / 2)]]
        )

    def crop(self, image: np.ndarray, face: Face) -> np.ndarray:
        """(size, size, 3) uint8 crop of an (H, W, 3) uint8 image; black outside it, antialiased when shrinking.

        Raises:
            HonneError: as `matrix`.
        """
        if self.centre != 1:
            frame, margin = self._frame()
            inner = slice(margin, margin + self.size)
            return np.ascontiguousarray(frame.crop(image, face)[inner, inner])
        crop = _whole(image, self.size) if self.kind == "none" else self._cut(image, self.matrix(image, face))
        if self.grey:
            crop = np.asarray(Image.fromarray(crop).convert("L"))[..., None].repeat(3, axis=2)
        return np.ascontiguousarray(crop)

    def _frame(self) -> tuple[Alignment, int]:
        """What this is the central part of, and the px left out of it at the left and at the top."""
        frame = replace(self, size=framed(self.size, self.centre), centre=1.0)
        return frame, (frame.size - self.size) // 2

    def _cut(self, image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        scale = float(np.hypot(*matrix[:, 0]))
        side = self.size / scale if scale > 0 else 0.0
        if not (np.isfinite(matrix).all() and 1 <= side <= LARGEST * max(image.shape[:2])):
            height, width = image.shape[:2]
            raise HonneError(
                f"A face needs a crop {side:.3g} px wide out of a picture of {width} x {height} px.",
                "Check the boxes or landmarks.",
            )
        corners = transform_points(inverted(matrix), self.size * np.array([[0, 0], [1, 0], [0, 1], [1, 1.0]]))
        if not matrix[0, 1]:
            return np.asarray(_resized(image, (*corners[0], *corners[3]), self.size, self.size))
        # Shrink the surroundings first, upright and antialiased, so that only the rotation is left to interpolate.
        start = np.floor(corners.min(0) - 1)
        extent = np.ceil(corners.max(0) + 1) - start
        small = np.ceil(extent * min(scale, 1.0)).astype(int)
        surroundings = _resized(image, (*start, *(start + extent)), *small)
        shrunk = np.diag(small / extent)
        back = inverted(matrix)
        back = np.column_stack([shrunk @ back[:, :2], shrunk @ (back[:, 2] - start)])
        size = (self.size, self.size)
        return np.asarray(
            surroundings.transform(size, Image.Transform.AFFINE, back.ravel().tolist(), Image.Resampling.BILINEAR)
        )


def eyes_mouth(face: Face) -> tuple[np.ndarray, np.ndarray] | None:
    """(2, 2) eye centres and (2, 2) mouth corners, px; None of a face without points.

    The eye centres of 68 landmarks are midway between the corners of the eyes.
    """
    if face.landmarks is not None:
        landmarks = np.asarray(face.landmarks, float)
        return landmarks[[[36, 39], [42, 45]]].mean(1), landmarks[[48, 54]]
    if face.points is not None:
        points = np.asarray(face.points, float)
        return points[:2], points[3:]
    return None


def published_eye_crop(
    image: np.ndarray, landmarks: np.ndarray, size: int = 256, rounding: Rounding = "released"
) -> np.ndarray:
    """The crop of `Alignment("eyes", size, template=EYE_TEMPLATE)` resampled as MixBasic was: bicubic, no antialiasing.

    Args:
        image: (H, W, 3) uint8, channels in any order.
        landmarks: (68, 2) indices of pixels, as the original counts: half a pixel less than ours.
        size: side of the crop, px.
        rounding: of the eye centres, see `eye_matrix`.

    Returns:
        (size, size, 3) uint8, black outside the image.

    Raises:
        HonneError: OpenCV is not installed, or the eyes coincide.
    """
    try:
        import cv2
    except ImportError:
        raise HonneError("Cropping as published needs OpenCV.", "Install it with: pip install 'honne[face]'") from None
    matrix = eye_matrix(eye_centres(landmarks), size * np.array(EYE_TEMPLATE), rounding)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC)


def published_eyes_mouth_crop(image: np.ndarray, face: Face, size: int) -> np.ndarray:
    """The crop of `Alignment("eyes_mouth", size)` resampled as by Deng et al. (FG 2020).

    The whole picture is turned by its nearest pixels, the square cut out at whole pixels, and resized bicubically.

    Args:
        image: (H, W, 3) uint8.
        face: with landmarks or points, px.
        size: side of the crop, px.

    Returns:
        (size, size, 3) uint8, black outside the image.

    Raises:
        HonneError: as `Alignment.matrix`.
    """
    marks = eyes_mouth(face)
    if marks is None:
        raise HonneError("A face has neither landmarks nor points.", "Give one of them.")
    back = inverted(eyes_mouth_matrix(*marks, size))
    turned, matrix = published_turn(image, marks[0])
    corners = transform_points(matrix, transform_points(back, np.array([[0, 0], [size, size]])))
    left, upper, right, lower = corners.round().astype(int).ravel().tolist()
    square = Image.fromarray(turned).crop((left, upper, right, lower))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


def published_turn(image: np.ndarray, eyes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An (H, W, 3) picture turned, by its nearest pixels, until the eyes (2, 2) are level, grown to hold its corners.

    Returns:
        The turned picture, black at the corners; (2, 3) matrix to its px, see `published_turn_matrix`.
    """
    height, width = image.shape[:2]
    matrix = published_turn_matrix(eyes, width, height)
    angle = float(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0])))
    return np.asarray(Image.fromarray(image).rotate(angle, expand=True)), matrix


def _whole(image: np.ndarray, size: int) -> np.ndarray:
    if image.shape[:2] == (size, size):
        return image.copy()
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def _resized(image: np.ndarray, box: tuple[float, ...], width: int, height: int) -> Image.Image:
    """The part of an image inside `box` (left, top, right, bottom; px, may reach outside: black), resized."""
    left, top = int(np.floor(box[0])), int(np.floor(box[1]))
    right, bottom = int(np.ceil(box[2])), int(np.ceil(box[3]))
    part = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if part.shape[:2] != (bottom - top, right - left):
        whole = np.zeros((bottom - top, right - left, 3), np.uint8)
        y, x = max(-top, 0), max(-left, 0)
        whole[y : y + part.shape[0], x : x + part.shape[1]] = part
        part = whole
    inner = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return Image.fromarray(part).resize((width, height), Image.Resampling.BILINEAR, inner)
