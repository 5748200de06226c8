"""What DMUE's network sees, and FER+'s own input and targets, as the original code makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from honne.data.planes import without_plane
from honne.data.transforms import Normalise, transform, with_noise
from honne.data.votes import chosen_votes, multi_target, vote_targets

SIZE, CENTRE, VARIANCE = 224, 224 / 256, 30
STRIDE = 4  # of the recorded tensor, in px of the 224


@pytest.mark.golden("dmue", "input_pipeline*.npz")
def test_evaluation_shows_the_centre_of_the_resized_picture(golden: dict[str, np.ndarray]) -> None:
    image = golden["image"]
    shown = Normalise([0.5] * 3, [0.5] * 3)(transform([image], SIZE, centre=CENTRE).images)[0]
    # Enlarged pictures come out equal to the bit; a shrunk one may differ by one grey level, 1/127.5, here and there.
    each, mean = (1e-6, 1e-6) if max(image.shape[:2]) <= SIZE / CENTRE else (1 / 127.4, 1e-4)
    np.testing.assert_allclose(shown[:, ::STRIDE, ::STRIDE], golden["tensor_stride4"], rtol=0, atol=each)
    np.testing.assert_allclose(shown.mean((1, 2)), golden["tensor_mean"], rtol=0, atol=mean)
    np.testing.assert_allclose(torch.std(shown, (1, 2)), golden["tensor_std"], rtol=0, atol=mean)


@pytest.mark.golden("dmue", "input_pipeline*.npz")
def test_noise(golden: dict[str, np.ndarray]) -> None:
    image = golden["noise_in"]
    normal = np.random.RandomState(int(golden["noise_seed"])).standard_normal(image.shape)
    np.testing.assert_array_equal(with_noise(image, normal, VARIANCE**0.5), golden["noise_out"])


@pytest.mark.golden("dmue", "ferplus_votes*.npz")
def test_plane_normalisation(golden: dict[str, np.ndarray]) -> None:
    image, wanted = golden["plane_norm_in"], golden["plane_norm_out"]
    np.testing.assert_allclose(without_plane(image), wanted, atol=1e-9)
    several = np.stack([image, image.T[::-1], image])
    np.testing.assert_allclose(without_plane(several)[2], wanted, atol=1e-9)


ALSO = {"probability": ("probability", "crossentropy")}
"""Modes with the same numbers as a recorded one."""


def modes(golden: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    recorded = [key.removesuffix("_raw10") for key in golden if key.endswith("_raw10")]
    assert recorded
    return [(name, mode) for name in recorded for mode in ALSO.get(name, (name,))]


@pytest.mark.golden("dmue", "ferplus_votes*.npz")
def test_chosen_votes(golden: dict[str, np.ndarray]) -> None:
    for recorded, mode in modes(golden):
        np.testing.assert_allclose(chosen_votes(golden["votes"], mode), golden[f"{recorded}_raw10"], atol=1e-9)


@pytest.mark.golden("dmue", "ferplus_votes*.npz")
def test_targets_and_kept_images(golden: dict[str, np.ndarray]) -> None:
    for recorded, mode in modes(golden):
        targets, keep = vote_targets(golden["votes"], mode)
        np.testing.assert_array_equal(keep, golden[f"{recorded}_keep"])
        np.testing.assert_allclose(targets, golden[f"{recorded}_target8"], atol=1e-9)


@pytest.mark.golden("dmue", "ferplus_votes*.npz")
def test_vector_of_the_multi_target_loss(golden: dict[str, np.ndarray]) -> None:
    targets, keep = vote_targets(golden["votes"], "multi_target")
    np.testing.assert_allclose(multi_target(targets[keep]), golden["multi_target_final8"][keep], atol=1e-9)
