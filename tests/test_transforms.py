"""Image, landmarks and heat maps move together; batches are normalised and mixed as the papers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.flips import FLIP_68, flip_landmarks, sided_units
from honne.data.transforms import Augment, Normalise, mix_images, transform
from honne.errors import WrongCall

STILL = Augment.none()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng((seed, i)) for i in range(count)]


def spot(height: int, width: int, x: float, y: float, sigma: float) -> np.ndarray:
    """A bright blob at (x, y) in continuous coordinates."""
    down, across = np.mgrid[:height, :width] + 0.5
    return np.exp(-((across - x) ** 2 + (down - y) ** 2) / (2 * sigma**2))


def centre(image: np.ndarray) -> np.ndarray:
    """(x, y) of the centre of mass, continuous coordinates."""
    down, across = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return np.array([(across * image).sum(), (down * image).sum()]) / image.sum()


def test_flipping_twice_changes_nothing() -> None:
    points = np.random.default_rng(0).uniform(0, 50, (3, 68, 2))
    assert np.allclose(flip_landmarks(flip_landmarks(points, 50), 50), points)
    assert (FLIP_68[FLIP_68] == np.arange(68)).all()


def test_left_parts_become_right_parts() -> None:
    for left, right in ((range(17, 22), range(22, 27)), (range(36, 42), range(42, 48)), (range(8), range(9, 17))):
        assert set(FLIP_68[list(left)]) == set(right)
    assert [i for i in range(68) if FLIP_68[i] == i] == [8, 27, 28, 29, 30, 33, 51, 57, 62, 66]


def test_sided_units_trade_places() -> None:
    assert sided_units(["1", "L12", "R12", "12"]).tolist() == [0, 2, 1, 3]
    assert sided_units(["AU12L", "AU4", "AU12R", "L14"]).tolist() == [2, 1, 0, 3]


def test_nothing_random_is_the_identity() -> None:
    image = noise(40, 40, 3)
    for moved in (transform([image], 40), transform([image], 40, STILL, generators(1))):
        assert (moved.images[0].permute(1, 2, 0).numpy() == image).all()
    grey = transform([image[..., 0]], 40).images
    assert grey.shape == (1, 3, 40, 40)
    assert (grey[0, 2].numpy() == image[..., 0]).all()


def test_a_crop_of_the_right_size_copies_pixels() -> None:
    image = noise(32, 32, 3)
    landmarks = np.random.default_rng(0).uniform(0, 32, (1, 68, 2))
    moved = transform([image], 28, replace(STILL, flip=1, crop=(49 / 64, 49 / 64)), generators(1), landmarks)
    found = moved.images[0].permute(1, 2, 0).numpy()[:, ::-1]
    places = [(y, x) for y in range(5) for x in range(5) if (image[y : y + 28, x : x + 28] == found).all()]
    assert len(places) == 1
    y, x = places[0]
    assert np.allclose(moved.landmarks[0], flip_landmarks(landmarks[0] - (x, y), 28), atol=1e-4)  # type: ignore[index]


MOVES = {
    "flip": replace(STILL, flip=1),
    "crop": replace(STILL, crop=(0.6, 0.9), crop_ratio=1.3),
    "rotation": replace(STILL, warp=1, rotation=40, scale=(1, 1), shift=0),
    "everything": replace(Augment(), shear=15, crop=(0.6, 0.9), crop_ratio=1.2, shift=0.1, colour=0, erase=0),
}


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("shape", [(64, 64), (150, 130), (40, 48)])
def test_landmarks_and_maps_follow_the_pixels(name: str, shape: tuple[int, int]) -> None:
    height, width = shape
    x, y = 0.55 * width, 0.45 * height
    image = (255 * spot(height, width, x, y, 0.04 * width)).astype(np.uint8)
    landmarks = np.full((6, 68, 2), (x, y))
    maps = spot(32, 32, x * 32 / width, y * 32 / height, 1.5)[None, None].repeat(6, 0)
    moved = transform([image] * 6, 64, MOVES[name], generators(6), landmarks, maps)
    assert moved.landmarks is not None
    assert moved.heatmaps is not None
    for i in range(6):
        assert centre(moved.images[i, 0].numpy()) == pytest.approx(moved.landmarks[i, 0].numpy(), abs=0.3)
        assert centre(moved.heatmaps[i, 0].numpy()) * 2 == pytest.approx(moved.landmarks[i, 0].numpy(), abs=0.3)


def test_unknown_maps_and_landmarks_stay_unknown() -> None:
    maps = np.stack([np.full((8, 8), np.inf), np.ones((8, 8))])[None]
    moved = transform([noise(20, 20)], 20, Augment(), generators(1), np.full((1, 68, 2), np.nan), maps)
    assert moved.landmarks is not None
    assert moved.heatmaps is not None
    assert moved.landmarks.isnan().all()
    assert moved.heatmaps[0, 0].isinf().all()
    assert moved.heatmaps[0, 1].isfinite().all()


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_an_image_does_not_depend_on_its_batch(seed: int) -> None:
    options = Augment(crop=(0.7, 1), saturation=0.3, grey=0.3, blur=0.5, noise=0.5, erase=0.5, erase_with="noise")
    images = [noise(24, 24, 3, seed=i) for i in range(3)] + [noise(30, 20, 3, seed=3)]
    together = transform(images, 24, options, generators(4, seed)).images
    alone = [
        transform([image], 24, options, [one]).images[0] for image, one in zip(images, generators(4, seed), strict=True)
    ]
    assert (together == torch.stack(alone)).all()


def test_what_lies_outside() -> None:
    white = np.full((20, 20), 255, np.uint8)
    options = replace(STILL, warp=1, rotation=0, scale=(0.5, 0.5), shift=0)
    assert (transform([white], 20, options, generators(1)).images == 255).all()
    black = transform([white], 20, replace(options, edge="black"), generators(1)).images
    assert (black[0, 0, 5:15, 5:15] == 255).all()
    assert black.float().mean() == pytest.approx(255 / 4, rel=0.02)


def test_shrinking_does_not_alias() -> None:
    board = (np.indices((200, 200)).sum(0) % 2 * 255).astype(np.uint8)
    moved = transform([board], 50, replace(STILL, warp=1, rotation=5, scale=(1, 1), shift=0), generators(1)).images
    assert moved.float().std() < 12


def test_colour_changes_leave_grey_images_grey_and_stay_in_bounds() -> None:
    grey = noise(16, 16)
    options = replace(STILL, colour=1, gamma=0.3, saturation=0.5, grey=0.5, noise=1, erase=1, erase_with="noise")
    moved = transform([grey] * 8, 16, options, generators(8)).images
    assert (moved[:, 0] == moved[:, 2]).all()
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    tones = transform([ramp], 16, replace(STILL, colour=1, gamma=0.3), generators(1)).images[0, 0].numpy().ravel()
    assert (np.diff(tones.astype(int)) >= 0).all()


def test_noise_has_the_given_spread() -> None:
    moved = transform([np.full((64, 64, 3), 128, np.uint8)], 64, replace(STILL, noise=1, noise_sigma=8), generators(1))
    assert moved.images.double().std() == pytest.approx(8, rel=0.05)


def test_erasing_keeps_to_its_area() -> None:
    options = replace(STILL, erase=1, erase_area=(0.1, 0.2), erase_ratio=2)
    moved = transform([np.zeros((50, 50), np.uint8)] * 40, 50, options, generators(40)).images[:, 0]
    area = (moved == 128).double().mean((1, 2))
    assert 0.09 < area.min() < area.max() < 0.21


@pytest.mark.parametrize("options", [{"flip": 1.5}, {"crop": (0.0, 1.0)}, {"crop": (0.9, 0.5)}, {"erase_ratio": 0.5}])
def test_impossible_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(WrongCall, match=next(iter(options))):
        Augment(**options)  # type: ignore[arg-type]


def test_normalise() -> None:
    images = torch.from_numpy(noise(2, 3, 8, 8))
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    expected = (images.double() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    found = Normalise(mean, std, channels_last=True)(images)
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
    kept = images.float()
    Normalise(mean, std)(kept)
    assert (kept == images).all()


def mixable() -> Batch:
    values = torch.tensor([0.0, 1.0, 2.0, 3.0])
    labels = Labels(expression=torch.tensor([0, 1, NOT_LABELLED, 2]), action_units=values[:, None].clone())
    images = values[:, None, None, None].expand(4, 3, 20, 20).clone()
    return Batch(images, labels, landmarks=torch.zeros(4, 68, 2), heatmaps=images[:, :1, :10, :10].clone())


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize("seed", range(4))
def test_targets_are_mixed_as_the_pixels(mixup: float, cutmix: float, seed: int) -> None:
    batch = mixable()
    mixed = mix_images(batch, np.random.default_rng(seed), 3, mixup, cutmix)
    labels = mixed.labels
    assert mixed.images is not None
    assert mixed.heatmaps is not None
    assert labels.distribution is not None
    assert labels.action_units is not None
    assert labels.expression is not None
    assert torch.allclose(mixed.images.mean((1, 2, 3)), labels.action_units[:, 0], atol=1e-5)
    assert torch.allclose(mixed.heatmaps.mean((1, 2, 3)), labels.action_units[:, 0], atol=0.25)  # a coarser box
    unknown = labels.distribution.isnan().any(1)
    assert unknown[2]
    assert ((labels.expression == NOT_LABELLED) == unknown).all()
    assert torch.allclose(labels.distribution[~unknown].sum(1), torch.ones(int((~unknown).sum())))
    assert labels.expression_target(3).isnan().any(1).equal(unknown)  # type: ignore[union-attr]
    assert mixed.landmarks is None
    assert (batch.images == mixable().images).all()  # type: ignore[union-attr]


def test_no_mixing_returns_the_batch() -> None:
    batch = mixable()
    assert mix_images(batch, np.random.default_rng(0), 3) is batch
