"""JPEGs are decoded faster where OpenCV is installed, to the same pixels."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from honne.data import decoding
from honne.data.dataset import FaceData
from honne.data.decoding import fast_pixels
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.errors import HonneError
from honne.labels import LabelSchema


def picture(width: int = 61, height: int = 47) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> memoryview:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getbuffer()


def decoded(data: memoryview) -> np.ndarray | None:
    return fast_pixels(Image.open(io.BytesIO(data)), data)


@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("shape", [(61, 47), (1, 1), (7, 130)])
def test_pixels_are_those_of_pillow(sampling: int, progressive: bool, shape: tuple[int, int]) -> None:
    pytest.importorskip("cv2")
    turned = Image.Exif()
    turned[0x0112] = 6
    data = encoded(picture(*shape), quality=83, subsampling=sampling, progressive=progressive, exif=turned)
    found = decoded(data)
    assert found is not None
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data))))


def test_what_only_pillow_can_tell() -> None:
    for data in (encoded(picture())[:-50], encoded(picture().convert("L")), encoded(picture(), "PNG")):
        assert decoded(data) is None


@pytest.mark.parametrize("decoder", [None, lambda _: None])
def test_without_opencv_pillow_decodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder: decoding.Decoder | None
) -> None:
    with ImageWriter(tmp_path / "images") as images:
        references = [images.add(bytes(encoded(picture(40, 40)))), images.add(bytes(encoded(picture(40, 40))[:-90]))]
    table = pd.DataFrame({"id": ["a", "b"], "split": ["train"] * 2, "image": references})
    write_manifest(tmp_path, table, DataSchema("made up", "test", LabelSchema()))
    data = FaceData([PreparedData(tmp_path)], 40)
    fast = data[0].images
    monkeypatch.setattr(decoding, "_decoder", lambda: decoder)
    slow = data[0].images
    assert fast is not None
    assert slow is not None
    assert (fast == slow).all()
    with pytest.raises(HonneError, match=r"manifest row 1 \(id b\): the image cannot be decoded"):
        data[1]


def test_a_decoder_that_differs_is_not_used() -> None:
    assert not decoding._agrees(lambda data: np.asarray(Image.open(io.BytesIO(data))) ^ 1, 2)
    assert decoding._agrees(lambda data: np.asarray(Image.open(io.BytesIO(data))), 2)
