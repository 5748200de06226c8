"""Alignment, crops, heat maps and margin heads of DMUE, as its original code made them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from honne.faces.face import Face
from honne.faces.geometry import similarity, similarity_matrix
from honne.faces.templates import CANVAS, WFLW_ALIGNMENT, WFLW_TEMPLATE, enlarged_crop, heatmap_landmarks
from honne.methods.identity import IdentityOptions, cosines

RECORDED = {
    "mv_am": IdentityOptions("mv_softmax", mode="am"),
    "mv_arc": IdentityOptions("mv_softmax", mode="arc"),
    "arcface_easy": IdentityOptions("arcface", mode="easy"),
    "arcface": IdentityOptions("arcface", mode="normal"),
    "cosface": IdentityOptions("cosface"),
}


@pytest.mark.golden("dmue", "alignment*.npz")
def test_alignment_to_98_points(golden: dict[str, np.ndarray]) -> None:
    np.testing.assert_array_equal(WFLW_TEMPLATE - 0.5, golden["template"])
    matrix = similarity_matrix(golden["landmarks"], golden["template"].astype(float))
    np.testing.assert_allclose(matrix, golden["matrix"][:2], rtol=1e-6, atol=1e-6)
    scale, rotation, shift = similarity(golden["landmarks"], golden["template"].astype(float))
    np.testing.assert_allclose(scale, golden["scale"], rtol=1e-6)
    np.testing.assert_allclose(np.arctan2(rotation[1, 0], rotation[0, 0]), golden["rotation"], rtol=1e-6)
    np.testing.assert_allclose(shift, golden["translation"], rtol=1e-6)
    face = Face(np.zeros(4), points=golden["landmarks"] + 0.5)  # our coordinates count from the corner of a pixel
    warped = WFLW_ALIGNMENT.crop(golden["image"], face)
    assert warped.shape[:2] == (CANVAS, CANVAS)
    stride = CANVAS // len(golden["warped_stride10"])
    difference = np.abs(warped[::stride, ::stride].astype(int) - golden["warped_stride10"])
    assert difference.max() <= 2


@pytest.mark.golden("dmue", "large_crop*.npz")
def test_enlarged_crop(golden: dict[str, np.ndarray]) -> None:
    for box, shape, crop in zip(golden["boxes_xyxy"], golden["image_hw"], golden["crop_rows_cols"], strict=True):
        np.testing.assert_array_equal(enlarged_crop(box, tuple(shape), clip="released"), crop)


@pytest.mark.golden("dmue", "heatmap_decode*.npz")
def test_landmarks_from_heat_maps(golden: dict[str, np.ndarray]) -> None:
    maps = golden["heatmaps"][0]
    np.testing.assert_allclose(heatmap_landmarks(maps, scale=1), golden["preds"], atol=1e-6)
    np.testing.assert_array_equal(heatmap_landmarks(maps, rounding="released"), golden["landmarks_256"])


@pytest.mark.golden("dmue", "margin_heads*.npz")
@pytest.mark.parametrize("name", RECORDED)
def test_margin_heads(golden: dict[str, np.ndarray], name: str) -> None:
    features = torch.from_numpy(golden["features"]).requires_grad_()
    weight = torch.from_numpy(golden["weight"]).requires_grad_()
    labels, options = torch.from_numpy(golden["labels"]), RECORDED[name]
    logits = options.logits(cosines(features, weight, "as_they_are"), labels)
    loss = torch.nn.functional.cross_entropy(logits, labels)
    loss.backward()
    np.testing.assert_allclose(logits.detach(), golden[f"{name}_logits"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(loss.detach(), golden[f"{name}_ce"], rtol=1e-4)
    np.testing.assert_allclose(weight.grad, golden[f"{name}_grad_weight"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(features.grad, golden[f"{name}_grad_features"], rtol=1e-3, atol=1e-5)
    again = options.logits(cosines(features, weight), labels)  # the recorded features have length 1
    np.testing.assert_allclose(again.detach(), golden[f"{name}_logits"], rtol=1e-4, atol=1e-4)
