"""Class activation maps of every class of a tiny network, against recordings of the released extractors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch, Prediction
from honne.explain.cams import RELEASED_MAPS, normalise, scorecam
from honne.explain.maps import forward, gradients
from honne.networks.layers import LAST


class TinyNetwork(nn.Module):
    """The recorded network in the shape of ours: two convolutions, mean, linear head."""

    def __init__(self, golden: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.parts = {key.removeprefix("param."): tensor(golden[key]) for key in golden if key.startswith("param.")}
        self.stride = golden["image"].shape[-1] // golden["feature_map"].shape[-1]
        self.backbone, self.last_map = nn.Module(), nn.Identity()

    def forward(self, batch: Batch) -> Prediction:
        assert batch.images is not None
        p = self.parts
        first = F.conv2d(batch.images, p["c1.weight"], p["c1.bias"], self.stride, padding=1).relu()
        maps = self.last_map(F.conv2d(first, p["c2.weight"], p["c2.bias"], padding=1).relu())
        return Prediction(expression=F.linear(maps.mean((2, 3)), p["fc.weight"], p["fc.bias"]))


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


def probabilities(network: TinyNetwork, images: Tensor) -> Tensor:
    logits = network(Batch(images=images)).expression
    assert logits is not None
    return logits.softmax(1)


@pytest.mark.golden("au_cues", "cam_methods*.npz")
def test_every_kind_of_map(golden: dict[str, np.ndarray]) -> None:
    network = TinyNetwork(golden)
    classes = golden["logits"].shape[1]
    images = tensor(golden["image"]).repeat(classes, 1, 1, 1)  # a batch with the same image once for each class
    target = torch.arange(classes)
    activations, logits = forward(network, images, LAST)
    np.testing.assert_allclose(logits.detach(), golden["logits"].repeat(classes, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(activations.detach()[:1], golden["feature_map"], rtol=1e-5, atol=1e-6)
    derivative = gradients(network, activations, logits, target)
    kinds = [key.removesuffix("_normalized0") for key in golden if key.endswith("_normalized0")]
    assert kinds
    for recorded in kinds:
        kind = recorded.lower().replace("pp", "++")
        if kind in RELEASED_MAPS:
            raw = RELEASED_MAPS[kind](activations.detach(), derivative)
        else:
            assert kind == "scorecam"
            raw = scorecam(activations.detach(), images, target, partial(probabilities, network), variant="released")
        for found, wanted in (
            (raw, golden[f"{recorded}_normalized0"]),
            (normalise(raw), golden[f"{recorded}_normalized1"]),
        ):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max(), err_msg=recorded)
