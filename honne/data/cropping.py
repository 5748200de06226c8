"""From a reader's row to the bytes that are stored: decode, find the face, crop, encode."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from honne.data.readers import Bad, Row
from honne.errors import HonneError
from honne.faces.align import EYE_TEMPLATE, Alignment
from honne.faces.face import Face, FaceFinder
from honne.faces.geometry import eye_centres, transform_points
from honne.faces.media import read_image
from honne.faces.templates import FIVE_POINTS, WFLW_TEMPLATE

SMALLEST = 16
"""px; an image with a shorter side cannot show a face."""
LOSSLESS_SIDE = 64
"""px; crops up to this side are stored as PNG, larger ones as JPEG."""
JPEG_QUALITY = 95
CHUNK = 32
NO_FACE = "no face found"
EXIF_ORIENTATION = 0x0112
ARCFACE_TEMPLATE = tuple(
    (x / 112, y / 112)
    for x, y in (
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    )
)
"""Five points of the face-recognition crop that most published expression networks were trained on."""
DMUE_SQUARE = (138, 154, 514)
"""Left, top and side, px, of a square of the canvas about as high as DMUE's crops: 256/224 of an MTCNN face box.

Measured on 387 of 500 pictures drawn from FER2013's training part (the others have no face that is found, or it is
turned by more than 20 degrees), brought to the canvas by five points; MTCNN of facenet-pytorch 2.6. In the median the
box is centred at (395, 411), 351 wide and 450 high (10th to 90th percentile: 324 to 380 and 415 to 485). DMUE stretches
its boxes to a square; here nothing is stretched, so a face is about a fifth narrower in its crop than there."""
DMUE_TEMPLATE = tuple(
    ((x - DMUE_SQUARE[0]) / DMUE_SQUARE[2], (y - DMUE_SQUARE[1]) / DMUE_SQUARE[2])
    for x, y in WFLW_TEMPLATE[list(FIVE_POINTS)].tolist()
)
"""The five points where DMUE's alignment brings them, in a crop framed about as theirs."""
TEMPLATES: dict[str, tuple[tuple[float, float], ...]] = {
    "points": ARCFACE_TEMPLATE,
    "upright": ARCFACE_TEMPLATE,
    "dmue": DMUE_TEMPLATE,
    "eyes": EYE_TEMPLATE,
}

Encoding = Literal["auto", "png", "jpeg"]
Fallback = Literal["none", "box", "swapped"]
Made = TypeVar("Made")


@dataclass
class Stored:
    """A row whose image is ready to be written.

    Attributes:
        row: the row without its image; box and landmarks in px of the stored image.
        encoded: PNG or JPEG bytes.
        fingerprint: equal for equal pixels.
        source: path of the picture where it was a file of its own, else the row's id.
    """

    row: Row
    encoded: bytes
    fingerprint: bytes
    source: str = ""


@dataclass
class Cropper:
    """Turns rows into stored images; what it cannot use becomes a `Bad`.

    Args:
        alignment: how the face is cropped.
        finder: name for `honne.faces.finders.finder`, used where a row lacks the box or points the alignment needs.
        encoding: `auto` keeps the original bytes where no pixel changes, else PNG up to 64 px and JPEG (quality 95)
            above; `png` and `jpeg` encode everything.
        fallback: what a row becomes whose face is not found: nothing, or its box, stretched to the crop (with x and y
            exchanged, as in the original of the AU-cue work).
        landmarks: gives (68, 2) px of a crop, or None; asked where neither the row nor the finder gave landmarks.
    """

    alignment: Alignment
    finder: str = "mediapipe"
    encoding: Encoding = "auto"
    fallback: Fallback = "none"
    landmarks: Callable[[np.ndarray], np.ndarray | None] | None = None
    _finder: FaceFinder | None = None

    def __call__(self, row: Row | Bad) -> Stored | Bad:
        """Store one row; a `Bad` passes through."""
        if isinstance(row, Bad):
            return row
        if row.image is None:
            return Bad(row.id, "row without image")
        where = str(row.image) if isinstance(row.image, Path) else row.id
        try:
            data, image = _decoded(row.image)
        except FileNotFoundError:
            return Bad(where, "row without image", "the file is missing")
        except OSError as error:
            return Bad(where, "unreadable image", error.strerror or str(error))
        except HonneError as error:
            return Bad(where, "unreadable image", error.what)
        if min(image.shape[:2]) < SMALLEST:
            return Bad(where, "image too small", f"{image.shape[1]} x {image.shape[0]} px, less than {SMALLEST}")
        if self.encoding == "auto" and data and _keeps_every_pixel(data, self.alignment):
            row.image = b""
            return self._stored(row, data, image, where)
        face = self._face(row, image, where)  # without the package it needs, a finder ends the run
        if face is None and row.box is not None and self.fallback != "none":
            crop = _stretched(image, row.box, self.alignment.size, self.fallback)
            row = replace(row, image=b"", box=None, landmarks=None, points=None)
            return self._stored(row, self._encoded(crop), crop, where)
        if face is None:
            return Bad(where, NO_FACE, f"by '{self.finder}'")
        try:
            crop = self.alignment.crop(image, face)
        except HonneError as error:
            return Bad(where, "face that cannot be cropped", error.what)
        return self._stored(self._moved(row, image, face), self._encoded(crop), crop, where)

    def _stored(self, row: Row, encoded: bytes, pixels: np.ndarray, source: str) -> Stored:
        if self.landmarks is not None and row.landmarks is None:
            row.landmarks = self.landmarks(pixels)
        return Stored(row, encoded, _fingerprint(pixels), source)

    def _face(self, row: Row, image: np.ndarray, where: str) -> Face | None:
        """The row's own face where it says enough, else the found one that fits its box best, or the largest."""
        height, width = image.shape[:2]
        points = points_of(row.landmarks) if row.points is None and row.landmarks is not None else row.points
        known = {"none": True, "box": row.box is not None}.get(self.alignment.kind, points is not None)
        if known:
            box = np.array([0, 0, width, height], float) if row.box is None else np.asarray(row.box, float)
            return Face(box, landmarks=row.landmarks, points=points)
        faces, wanted = self._find(image, where), row.box
        if wanted is None:
            return faces[0] if faces else None
        faces = [face for face in faces if overlap(face.box, wanted) > 0]
        pixel = np.array([0, 0, 1, 1])  # as published: the last row and column of a box belong to it
        return max(faces, key=lambda face: overlap(face.box + pixel, wanted + pixel), default=None)

    def _find(self, image: np.ndarray, where: str) -> list[Face]:
        if self._finder is None:
            from honne.faces.finders import finder  # optional extras

            self._finder = finder(self.finder)
        look_up = getattr(self._finder, "find_in", None)  # in a table of faces, by the name of the picture
        if look_up is None:
            return self._finder.find(image)
        try:
            return look_up(where, 0, image)
        except HonneError:  # not in the table
            return []

    def _moved(self, row: Row, image: np.ndarray, face: Face) -> Row:
        """The row with box and landmarks in px of the crop, and without its image."""
        matrix = self.alignment.matrix(image, face)
        landmarks = face.landmarks if row.landmarks is None else row.landmarks
        if landmarks is not None:
            landmarks = transform_points(matrix, np.asarray(landmarks, float)).astype(np.float32)
        box = row.box
        if box is not None:
            x, y, w, h = np.asarray(box, float)
            corners = transform_points(matrix, np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]]))
            box = np.concatenate([corners.min(0), np.ptp(corners, axis=0)]).astype(np.float32)
        return replace(row, image=b"", box=box, landmarks=landmarks)

    def _encoded(self, crop: np.ndarray) -> bytes:
        image = Image.fromarray(crop[..., 0] if self.alignment.grey else crop)
        lossless = self.encoding == "png" or (self.encoding == "auto" and max(crop.shape) <= LOSSLESS_SIDE)
        buffer = io.BytesIO()
        if lossless:
            image.save(buffer, "png")
        else:
            image.save(buffer, "jpeg", quality=JPEG_QUALITY, subsampling=0)
        return buffer.getvalue()


def _stretched(image: np.ndarray, box: np.ndarray, size: int, reading: Fallback) -> np.ndarray:
    """(size, size, 3) of a box (x, y, width, height), black outside the image."""
    left, top = box[:2]
    right, bottom = np.minimum(box[:2] + box[2:], image.shape[1::-1])
    if reading == "swapped":
        left, top = top, left
        right, bottom = np.minimum((box[:2] + box[2:])[::-1], image.shape[:2])
    edges = np.rint([left, top, max(right, left + 1), max(bottom, top + 1)]).astype(int).tolist()
    return np.asarray(Image.fromarray(image).crop(edges).resize((size, size), Image.Resampling.LANCZOS))


def _decoded(image: Path | bytes | np.ndarray) -> tuple[bytes, np.ndarray]:
    """Encoded bytes (empty if there are none) and (H, W, 3) pixels."""
    if isinstance(image, np.ndarray):
        return b"", image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    data = image.read_bytes() if isinstance(image, Path) else image
    try:
        return data, read_image(data)
    except HonneError as error:
        raise HonneError(error.what.removeprefix(f"picture of {len(data)} bytes: ")) from None


def _keeps_every_pixel(data: bytes, alignment: Alignment) -> bool:
    """Whether the encoded image is already what would be stored. (Asking a PNG for EXIF decodes it once more.)"""
    with Image.open(io.BytesIO(data)) as header:
        return (
            alignment.kind == "none"
            and header.size == (alignment.size, alignment.size)
            and header.format in ("PNG", "JPEG")
            and header.mode in (("L",) if alignment.grey else ("L", "RGB"))
            and "transparency" not in header.info
            and ((header.format == "PNG" and b"eXIf" not in data) or header.getexif().get(EXIF_ORIENTATION, 1) == 1)
        )


def _fingerprint(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(str(pixels.shape).encode() + pixels.tobytes(), digest_size=16).digest()


def points_of(landmarks: np.ndarray) -> np.ndarray:
    """(5, 2) eye centres, nose tip and mouth corners of (68, 2) iBUG landmarks."""
    return np.stack([*eye_centres(landmarks), landmarks[30], landmarks[48], landmarks[54]])


def overlap(box: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (x, y, width, height)."""
    low = np.maximum(box[:2], other[:2])
    high = np.minimum(box[:2] + box[2:], other[:2] + other[2:])
    common = float(np.prod((high - low).clip(0)))
    return common / float(np.prod(box[2:]) + np.prod(other[2:]) - common) if common else 0.0


def cropped(rows: Iterable[Row | Bad], cropper: Callable[[Row | Bad], Made], workers: int = 0) -> Iterator[Made]:
    """Rows through the cropper, in order; only a few chunks are in memory at any time.

    Args:
        rows: of a reader.
        cropper: what is done with each; any callable that can be pickled, a `Cropper` as a rule.
        workers: processes; 0 works in this one.
    """
    if not workers:
        yield from map(cropper, rows)
        return
    rows = iter(rows)
    pending: deque[Future[list[Made]]] = deque()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (cropper,)) as pool:
        while chunk := list(islice(rows, CHUNK)):
            pending.append(pool.submit(_crop_chunk, chunk))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


_worker: Callable[[Row | Bad], Any]


def _start(cropper: Callable[[Row | Bad], Any]) -> None:
    """Keep the cropper, and with it the face finder, for the life of a worker process."""
    global _worker
    _worker = cropper


def _crop_chunk(rows: list[Row | Bad]) -> list[Any]:
    return [_worker(row) for row in rows]
