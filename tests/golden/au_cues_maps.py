"""Codebook, region maps and heat maps of the AU cues; how far the batched drawing agrees with them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from honne.cues.codebook import UNITS, codebook
from honne.cues.drawing import GRID, action_unit_maps, face_frame
from honne.cues.reference import action_unit_map, ellipses, landmark_map, region_maps
from honne.data.flips import FLIP_68
from honne.labels import canonical

Arrays = dict[str, np.ndarray]
SIDE = 224
"""px of the images for which the original's fixed radii are meant."""
LOPSIDED = (10, 17, 20)
"""Units whose region in the original is not symmetric even on a symmetric face; the batched one is."""


def with_nan(recorded: np.ndarray) -> np.ndarray:
    """The original marks what is not valid by inf, we by NaN."""
    return np.where(np.isinf(recorded), np.nan, recorded)


def units_of(name: str) -> np.ndarray:
    """(20,) action units of a class of the recordings."""
    if name == "GENERIC":
        return np.ones(len(UNITS), bool)
    return codebook("reference").table([canonical(name)])[0]


def expressions(golden: Arrays) -> list[str]:
    """Classes that have action units in the recorded heat maps."""
    names = dict.fromkeys(key.split("_")[1] for key in golden if key.startswith("case"))
    return [name for name in names if units_of(name).any()]


@pytest.mark.golden("au_cues", "codebook*.npz")
def test_codebook(golden: Arrays) -> None:
    names = [canonical(str(name)) for name in golden["class_order"]]
    np.testing.assert_array_equal(codebook("reference").table(names), golden["index_by_class"])
    assert list(UNITS) == golden["facs_au_number"].tolist()
    np.testing.assert_array_equal(np.flatnonzero(units_of("GENERIC")), golden["generic_indices"])


@pytest.mark.golden("au_cues", "au_region_maps*.npz")
def test_region_maps(golden: Arrays) -> None:
    for face, (height, width) in enumerate(golden["height_width"].tolist()):
        maps, drawn = region_maps(golden["landmarks"][face], height, width)
        np.testing.assert_array_equal(drawn, golden["drawn"][face])
        np.testing.assert_allclose(maps, with_nan(golden["maps_28"][face]), rtol=1e-6, err_msg=f"face {face}")


@pytest.mark.golden("au_cues", "au_heatmaps*.npz")
def test_heat_maps(golden: Arrays) -> None:
    for key in golden.keys() - {"landmarks", "height_width"}:
        wanted = with_nan(golden[key])
        if key == "failed_landmarks_normalized":
            found = action_unit_map(np.full((68, 2), np.inf), units_of("GENERIC"), *wanted.shape)
        else:
            case, name, kind = re.fullmatch(r"case(\d+)_(.+)_(raw|normalized)", key).groups()
            face, normalise = int(case), "none" if kind == "raw" else "minmax"
            assert wanted.shape == tuple(golden["height_width"][face])
            found = action_unit_map(golden["landmarks"][face], units_of(name), *wanted.shape, normalise)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7, err_msg=key)


@pytest.mark.golden("au_cues", "landmark_heatmaps*.npz")
def test_landmark_maps(golden: Arrays) -> None:
    for key in golden.keys() - {"landmarks"}:
        jaw, normalised, variance = re.fullmatch(r"jaw(\d)_norm(\d)_var([\d.]+)", key).groups()
        found = landmark_map(
            golden["landmarks"],
            *golden[key].shape,
            jaw=("without", "with")[int(jaw)],
            variance=float(variance),
            normalise=("none", "minmax")[int(normalised)],
        )
        np.testing.assert_allclose(found, golden[key], rtol=1e-5, atol=1e-6 * golden[key].max(), err_msg=key)


def test_a_failed_landmark_map_is_nan() -> None:
    assert np.isnan(landmark_map(np.full((68, 2), np.inf), 9, 7)).all()


def known_faces(golden: Arrays) -> Tensor:
    return torch.from_numpy(golden["landmarks"][np.isfinite(golden["landmarks"]).all((1, 2))])


def standard(landmarks: Tensor) -> Tensor:
    """The faces upright, symmetric, and as large as the original's fixed radii want them."""
    origin, axes, scale = face_frame(landmarks)
    points = ((landmarks - origin[:, None])[:, :, None] * axes[:, None]).sum(3) / scale[:, None, None]
    points = (points + points[:, FLIP_68] * torch.tensor([-1.0, 1.0])) / 2
    return points + torch.tensor([SIDE / 2, 0.42 * SIDE])


def agreement(landmarks: Tensor, units: Tensor) -> Tensor:
    """(B,) cosine of both drawings of the same units (20,) on the grid of 28 x 28."""
    ours = action_unit_maps(landmarks, units.expand(len(landmarks), -1), SIDE)
    theirs = [action_unit_map(face, units.numpy(), SIDE, SIDE, resolution="grid") for face in landmarks.numpy()]
    return F.cosine_similarity(ours.flatten(1), torch.from_numpy(np.stack(theirs)).flatten(1).to(ours.dtype))


def not_thin(face: np.ndarray) -> np.ndarray:
    """(20,) which units' ellipses are as high and wide as the grid's cells, or the original misses parts of them."""
    return np.array([min(min(one[2:]) for one in shape) >= SIDE / GRID for shape in ellipses(face, SIDE, SIDE)])


@pytest.mark.golden("au_cues", "au_heatmaps*.npz")
def test_batched_maps_of_standard_faces(golden: Arrays) -> None:
    """Where the original's fixed px and image axes do no harm, only whole px and the sharpness of edges differ."""
    faces = standard(known_faces(golden))
    symmetric = torch.tensor([unit not in LOPSIDED for unit in UNITS])
    seen = torch.from_numpy(np.stack([not_thin(face) for face in faces.numpy()])) & symmetric
    for unit, one, shown in zip(UNITS, torch.eye(len(UNITS)).bool(), seen.T, strict=True):
        if shown.any():  # smaller regions, for which whole px matter more, than those of classes
            assert agreement(faces[shown], one).min() > 0.97, f"AU {unit}"
    for name in expressions(golden):
        assert agreement(faces, torch.from_numpy(units_of(name)) & symmetric).min() > 0.98, name


@pytest.mark.golden("au_cues", "au_heatmaps*.npz")
def test_batched_maps_of_recorded_faces(golden: Arrays) -> None:
    """The recorded faces as they are, where they come near the standard."""
    landmarks, sizes = torch.from_numpy(golden["landmarks"]), torch.from_numpy(golden["height_width"])
    _, axes, scale = face_frame(landmarks)
    upright = ((axes - torch.eye(2)).abs() < 0.07).flatten(1).all(1)  # 4 degrees, not mirrored
    fair = upright & ((scale - 1).abs() < 0.1) & (sizes == SIDE).all(1)
    for key in (key for key in golden if key.endswith("_normalized") and key.startswith("case")):
        face, units = int(re.findall(r"\d+", key)[0]), torch.from_numpy(units_of(key.split("_")[1]))
        if fair[face] and units.any() and not units[[UNITS.index(unit) for unit in LOPSIDED]].any():
            ours = action_unit_maps(landmarks[face, None], units[None], SIDE)
            wide = F.interpolate(ours[None], (SIDE, SIDE), mode="bilinear")
            cosine = F.cosine_similarity(wide.flatten(), torch.from_numpy(golden[key]).flatten().to(wide.dtype), 0)
            assert cosine > 0.97, key  # 0.98 where radii fixed in px are not off by up to a tenth
