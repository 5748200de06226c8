"""FER+ votes -> targets, as the published FER+ code makes them."""

from __future__ import annotations

import numpy as np
import pytest

from honne.data.votes import chosen_votes, multi_target, vote_targets

pytestmark = pytest.mark.golden("dmue", "ferplus_votes*.npz")
ALSO = {"probability": ("probability", "crossentropy")}
"""Modes with the same numbers as a recorded one."""


def modes(golden: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    recorded = [key.removesuffix("_raw10") for key in golden if key.endswith("_raw10")]
    assert recorded
    return [(name, mode) for name in recorded for mode in ALSO.get(name, (name,))]


def test_chosen_votes(golden: dict[str, np.ndarray]) -> None:
    for recorded, mode in modes(golden):
        np.testing.assert_allclose(chosen_votes(golden["votes"], mode), golden[f"{recorded}_raw10"], atol=1e-9)


def test_targets_and_kept_images(golden: dict[str, np.ndarray]) -> None:
    for recorded, mode in modes(golden):
        targets, keep = vote_targets(golden["votes"], mode)
        np.testing.assert_array_equal(keep, golden[f"{recorded}_keep"])
        np.testing.assert_allclose(targets, golden[f"{recorded}_target8"], atol=1e-9)


def test_vector_of_the_multi_target_loss(golden: dict[str, np.ndarray]) -> None:
    targets, keep = vote_targets(golden["votes"], "multi_target")
    np.testing.assert_allclose(multi_target(targets[keep]), golden["multi_target_final8"][keep], atol=1e-9)
