"""What IERN shows when measuring: the picture squeezed to a square, its centre, values -1 to 1."""

from __future__ import annotations

import re

import numpy as np
import pytest

from honne.data.transforms import Normalise, squeezed, transform

Arrays = dict[str, np.ndarray]
OUTPUT = re.compile(r"out_(\d+)_(\d+)(?:_(sub\d+|mean|shape))?")


@pytest.mark.golden("iern", "preprocess*.npz")
def test_measuring_transform(golden: Arrays) -> None:
    image = golden["image_rgb_uint8"]
    found = {match[0]: match for match in map(OUTPUT.fullmatch, golden) if match}
    assert found
    assert set(golden) == {"image_rgb_uint8", *found}
    for name, match in found.items():
        load, size, part = int(match[1]), int(match[2]), match[3] or ""
        shown = transform([squeezed(image, load)], size, centre=size / load).images
        values = Normalise((0.5,), (0.5,))(shown)[0].numpy()
        if part == "shape":
            assert values.shape == tuple(golden[name])
        elif part == "mean":
            np.testing.assert_allclose(values.mean((1, 2), np.float64), golden[name], rtol=0, atol=1e-6)
        else:
            step = int(part.removeprefix("sub") or 1)
            np.testing.assert_allclose(values[:, ::step, ::step], golden[name], rtol=0, atol=1e-6)
