"""JPEGs decoded by OpenCV, which is faster than Pillow, where that gives the very pixels Pillow gives."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

Decoder = Callable[[memoryview], np.ndarray | None]

_COMPARED = {"4:4:4": 0, "4:2:2": 1, "4:2:0": 2}
_END = b"\xff\xd9"


def fast_pixels(image: Image.Image, encoded: memoryview) -> np.ndarray | None:
    """Pixels of a complete RGB JPEG.

    Args:
        image: its header, as Pillow opened it; left alone.
        encoded: the whole file.

    Returns:
        (H, W, 3) uint8, not to be written to; None where only Pillow can tell: another kind of image, a cut file, no
        OpenCV, or one whose pixels differ from Pillow's.
    """
    if not (isinstance(image, JpegImageFile) and image.mode == "RGB" and encoded[-2:] == _END):
        return None
    decoder = _decoder() if get_sampling(image) in _COMPARED.values() else None
    pixels = decoder(encoded) if decoder else None
    return pixels if pixels is not None and pixels.shape == (image.height, image.width, 3) else None


@cache
def _decoder() -> Decoder | None:
    """OpenCV's decoder if it is there and agrees with Pillow's; once per process.

    Both use libjpeg-turbo where they come as wheels, but a system's own OpenCV may use another JPEG library, whose
    pixels differ by a grey level; results must not depend on what is installed.
    """
    try:
        import cv2

        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    except (ImportError, AttributeError):  # not installed, or too old to give RGB
        return None

    def decode(encoded: memoryview) -> np.ndarray | None:
        try:
            return cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
        except cv2.error:
            return None

    return decode if all(_agrees(decode, sampling) for sampling in _COMPARED.values()) else None


def _agrees(decode: Decoder, sampling: int) -> bool:
    """Whether a decoder gives Pillow's pixels of a made-up picture, smooth and noisy parts in it."""
    coarse = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((67, 53), Image.Resampling.BICUBIC)
    picture.paste(picture.resize((11, 9), Image.Resampling.NEAREST), (29, 23))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, subsampling=sampling)
    found = decode(file.getbuffer())
    return found is not None and np.array_equal(found, np.asarray(Image.open(file)))
