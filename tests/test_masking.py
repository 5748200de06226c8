"""Masking by heat maps, and the sampling that shows every class equally often."""

from __future__ import annotations

import numpy as np
import torch

from honne.batch import NOT_LABELLED
from honne.data.masking import mask_images, otsu_threshold
from honne.data.sampling import EqualClasses, inverse_frequency


def test_regions_of_every_sample_by_its_own_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (5, 3, 40, 32), dtype=torch.uint8, generator=generator)
    maps = torch.rand(5, 10, 8, generator=generator) * torch.tensor([1, 0.1, 5, 1, 1.0]).view(5, 1, 1)
    maps[2, 3] = float("nan")
    maps[3] = 0.25  # plain: all of it is the region
    masked = mask_images(images, maps)
    assert (masked[2:4] == images[2:4]).all()
    share = (masked == images).float().mean((1, 2, 3))
    assert ((share[:2] > 0.2) & (share[:2] < 0.8)).all()
    alone = torch.cat([mask_images(images[n : n + 1], maps[n : n + 1, None]) for n in range(5)])
    assert (masked == alone).all()


def test_the_threshold_parts_two_humps() -> None:
    values = torch.cat([torch.linspace(0.0, 0.2, 50), torch.linspace(0.7, 1.0, 30)])[None]
    assert 0.2 < otsu_threshold(values).item() < 0.7 + 1e-6
    assert otsu_threshold(torch.full((1, 4), 0.3)).item() == torch.tensor(0.3).item()


def test_regions_grow_by_a_disk() -> None:
    images = torch.full((1, 3, 21, 21), 9, dtype=torch.uint8)
    maps = torch.zeros(1, 1, 21, 21)
    maps[..., 10, 10] = 1
    y, x = np.mgrid[-10:11, -10:11]
    for radius in (0, 1, 4):
        kept = mask_images(images, maps, dilation=radius)[0, 0].numpy() > 0
        np.testing.assert_array_equal(kept, x**2 + y**2 <= radius**2)


def test_fillers() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    images[:, :, :, 16:] = 200
    maps = torch.zeros(1, 1, 32, 32)
    maps[..., :4] = 1
    average = mask_images(images, maps, "average", average=(1, 2, 3))
    assert average[0, :, 0, 31].tolist() == [1, 2, 3]
    blurred = mask_images(images, maps, "blur", sigma=2.0)[0, 0]
    assert (blurred[:, 15] > 0).all()
    assert (blurred[:, 31] == 200).all()  # what lies outside looks like the border
    assert (blurred[0] == blurred[16]).all()


def test_equal_classes_draw_afresh_and_without_replacement() -> None:
    labels = np.repeat([0, 2, 3, NOT_LABELLED], [40, 7, 20, 5])  # class 1 has no rows
    order = EqualClasses(np.arange(100, 172), labels, seed=3)
    first, second = order(0), order(1)
    assert len(first) == len(set(first.tolist())) == 21
    assert np.bincount(labels[first - 100]).tolist() == [7, 0, 7, 7]
    assert set(first.tolist()) != set(second.tolist())
    np.testing.assert_array_equal(first, order(0))
    assert len(np.unique(np.concatenate([order(epoch) for epoch in range(60)]))) == 67


def test_weights_of_absent_classes_are_zero() -> None:
    counts = np.array([30, 0, 10])
    np.testing.assert_allclose(inverse_frequency(counts), [20 / 30, 0, 2])
    np.testing.assert_allclose(inverse_frequency(counts, "largest"), [1, 0, 3])
