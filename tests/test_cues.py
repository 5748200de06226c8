"""AU cues: codebooks, and heat maps that turn, grow and mirror with their face."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from honne.cues import reference
from honne.cues.codebook import UNITS, codebook
from honne.cues.drawing import GRID, action_unit_maps, landmark_maps
from honne.data.flips import flip_landmarks
from honne.data.world.geometry import TEMPLATE
from honne.errors import HonneError

SIDE = 224
FACE = torch.from_numpy(TEMPLATE[:68, :2] * 87 + (SIDE / 2, 90)).float()
EVERY = torch.ones(1, len(UNITS), dtype=torch.bool)
EXPRESSIONS = ("neutral", "happiness", "surprise", "fear", "anger", "disgust", "sadness")
TABLE = torch.from_numpy(codebook("reference").table(EXPRESSIONS))


def shown(name: str) -> Tensor:
    return TABLE[EXPRESSIONS.index(name), None]


@pytest.fixture(scope="module")
def faces() -> Tensor:
    """The template's face, and irregular ones."""
    return FACE + 3 * torch.randn(8, 68, 2, generator=torch.manual_seed(0)) * (torch.arange(8) > 0)[:, None, None]


@pytest.fixture(scope="module")
def units() -> Tensor:
    return torch.cat([TABLE[1:], EVERY, torch.eye(len(UNITS)).bool()[:1]])


def at(maps: Tensor, point: Tensor) -> float:
    """Value of the first map at a point, px."""
    column, row = (point * GRID / SIDE).long().tolist()
    return maps[0, row, column].item()


def test_every_unit_is_drawn() -> None:
    maps = action_unit_maps(FACE.expand(len(UNITS), -1, -1), torch.eye(len(UNITS)).bool(), SIDE)
    assert maps.shape == (len(UNITS), GRID, GRID)
    assert maps.amin((1, 2)).eq(0).all()
    assert maps.amax((1, 2)).eq(1).all()
    assert (maps > 0.5).float().mean((1, 2)).max() < 0.25


def test_maps_show_where_an_expression_is_read() -> None:
    happy, surprised = (action_unit_maps(FACE[None], shown(name), SIDE) for name in ("happiness", "surprise"))
    forehead, brow, cheek, mouth = (
        FACE[27] - torch.tensor([0, 60]),
        FACE[20],
        FACE[41] + torch.tensor([0, 30]),
        FACE[54],
    )
    for point in (cheek, mouth):
        assert at(happy, point) > 0.9
    for point in (forehead, brow):
        assert at(happy, point) < 0.1
    assert at(surprised, brow) > 0.9
    assert at(surprised, FACE[66]) > 0.9
    assert at(surprised, cheek) < 0.1


def test_a_mirrored_face_has_the_mirrored_map(faces: Tensor, units: Tensor) -> None:
    mirrored = torch.from_numpy(flip_landmarks(faces.numpy(), SIDE))
    maps = action_unit_maps(faces, units, SIDE)
    torch.testing.assert_close(action_unit_maps(mirrored, units, SIDE), maps.flip(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(landmark_maps(mirrored, SIDE), landmark_maps(faces, SIDE).flip(2), atol=1e-4, rtol=0)
    unnamed = faces * torch.tensor([-1.0, 1.0]) + torch.tensor([SIDE, 0.0])  # as an annotator of a mirrored image names
    torch.testing.assert_close(action_unit_maps(unnamed, units, SIDE), maps.flip(2), atol=1e-3, rtol=0)


def test_a_turned_face_has_the_turned_map(faces: Tensor, units: Tensor) -> None:
    turned = torch.stack([faces[..., 1], SIDE - faces[..., 0]], 2)
    for draw in (lambda points: action_unit_maps(points, units, SIDE), lambda points: landmark_maps(points, SIDE)):
        torch.testing.assert_close(draw(turned), draw(faces).rot90(1, (1, 2)), atol=1e-3, rtol=0)
    angle, middle = torch.tensor(0.5), SIDE / 2
    matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    maps = action_unit_maps((faces - middle) @ matrix.T + middle, units, SIDE)
    grid = F.affine_grid(
        F.pad(matrix.T, (0, 1)).expand(len(faces), -1, -1), [len(faces), 1, GRID, GRID], align_corners=False
    )
    wanted = F.grid_sample(
        action_unit_maps(faces, units, SIDE)[:, None], grid, padding_mode="border", align_corners=False
    )[:, 0]
    assert F.cosine_similarity(maps.flatten(1), wanted.flatten(1)).min() > 0.97


def test_a_map_grows_with_the_face(faces: Tensor, units: Tensor) -> None:
    maps = action_unit_maps(faces, units, SIDE)
    torch.testing.assert_close(action_unit_maps(3 * faces, units, 3 * SIDE), maps, atol=1e-3, rtol=0)
    torch.testing.assert_close(landmark_maps(3 * faces, 3 * SIDE), landmark_maps(faces, SIDE), atol=1e-4, rtol=0)
    small = action_unit_maps(faces / 2 + SIDE / 4, units, SIDE, size=2 * GRID)
    inner = slice(GRID // 2 + 1, -GRID // 2 - 1)  # without the border, where smoothing repeats pixels
    torch.testing.assert_close(small[:, inner, inner], maps[:, 1:-1, 1:-1], atol=1e-2, rtol=0)
    wide = action_unit_maps(faces, units, (SIDE, 2 * SIDE))
    assert not wide[:, :, GRID // 2 + 2 :].any()


def test_no_map_is_nan() -> None:
    wrong = torch.stack([FACE, FACE, FACE, FACE + 1000, FACE[:1].expand(68, -1), FACE])
    wrong[0, 8], wrong[1] = torch.nan, torch.inf
    known = action_unit_maps(wrong, torch.cat([EVERY, EVERY, shown("neutral"), EVERY, EVERY, EVERY]), SIDE)
    assert known.isnan().all(2).all(1).tolist() == [True] * 5 + [False]
    assert known[5].isfinite().all()
    assert action_unit_maps(FACE[None], shown("neutral"), SIDE).isnan().all()
    assert action_unit_maps(FACE[:0].view(0, 68, 2), EVERY[:0], SIDE).shape == (0, GRID, GRID)
    assert landmark_maps(wrong, SIDE)[:2].isnan().all()
    assert landmark_maps(wrong, SIDE)[5].isfinite().all()


def test_a_batch_gives_what_one_by_one_gives(faces: Tensor, units: Tensor) -> None:
    together = action_unit_maps(faces, units, SIDE)
    alone = [action_unit_maps(face[None], shows[None], SIDE) for face, shows in zip(faces, units, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))
    torch.testing.assert_close(
        landmark_maps(faces, SIDE), torch.cat([landmark_maps(face[None], SIDE) for face in faces])
    )


def test_mixed_precision_does_not_move_regions(faces: Tensor, units: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        maps = action_unit_maps(faces, units, SIDE)
    torch.testing.assert_close(maps, action_unit_maps(faces, units, SIDE))


def test_landmark_maps() -> None:
    without, along = landmark_maps(FACE[None], SIDE), landmark_maps(FACE[None], SIDE, jaw="with")
    assert at(without, FACE[30]) > 0.7
    assert at(without, FACE[8]) < 0.1 < 0.7 < at(along, FACE[8])
    assert landmark_maps(FACE[None], SIDE, variance=16.0).mean() < without.mean()


# --- as the original draws ---------------------------------------------------------------------------------------


def test_reference_maps() -> None:
    cv2 = pytest.importorskip("cv2")
    face = FACE.numpy()
    maps, drawn = reference.region_maps(face, SIDE, SIDE)
    assert drawn.all()
    assert maps.min() == reference.BACKGROUND
    assert maps.max() == reference.FOREGROUND
    away, drawn = reference.region_maps(face + 1000, SIDE, SIDE)
    assert np.isnan(away).all()
    assert not drawn.any()
    unit = np.array([unit == 25 for unit in UNITS])
    grid = reference.action_unit_map(face, unit, SIDE, 200, "none", "grid")
    image = reference.action_unit_map(face, unit, SIDE, 200, "none")
    np.testing.assert_allclose(image, cv2.resize(grid, (200, SIDE)), rtol=1e-5, atol=1e-4)
    for missing in (face + 1000, np.full((68, 2), np.inf)):
        assert np.isnan(reference.action_unit_map(missing, unit, 50, 40)).all()
    assert np.isnan(reference.action_unit_map(face, ~unit & False, SIDE, SIDE)).all()


def test_reference_map_of_what_the_grid_misses_is_zero() -> None:
    pytest.importorskip("cv2")
    closed = np.array([unit == 43 for unit in UNITS])
    line = np.full((68, 2), 16.0)  # one pixel wide, between the columns 3, 4, 11, 12, 19, ... that are read
    assert not reference.action_unit_map(line, closed, SIDE, SIDE).any()


def test_reference_landmark_map() -> None:
    face = FACE.numpy()
    density = reference.landmark_map(face, 120, 110, "with", 30.0, "none")
    y, x = np.mgrid[:120, :110]
    nearest = ((x - face[:, 0, None, None]) ** 2 + (y - face[:, 1, None, None]) ** 2).min(0)
    np.testing.assert_allclose(density, np.exp(-nearest / 60) / (60 * np.pi), rtol=1e-4, atol=1e-9)
    grid = reference.landmark_map(face, SIDE, SIDE, resolution="grid")
    assert np.abs(grid - landmark_maps(FACE[None] + 0.5, SIDE)[0].numpy()).max() < 0.1


def test_reference_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(HonneError, match="needs OpenCV"):
        reference.region_maps(FACE.numpy(), SIDE, SIDE)


# --- codebooks ---------------------------------------------------------------------------------------------------


def test_codebooks() -> None:
    expressions = (*EXPRESSIONS, "contempt")
    ours, theirs = (codebook(name).table(expressions) for name in ("facs", "reference"))
    differing = {
        (expressions[row], UNITS[column]): bool(ours[row, column]) for row, column in np.argwhere(ours != theirs)
    }
    contempt = {("contempt", 12): True, ("contempt", 14): True}
    assert differing == {("disgust", 5): False, ("disgust", 10): True} | contempt
    assert not ours[0].any()


def test_table_follows_the_order_of_classes() -> None:
    book = codebook("reference")
    np.testing.assert_array_equal(book.table(EXPRESSIONS[::-1]), book.table(EXPRESSIONS)[::-1])
    assert book.table(["never heard of"]).tolist() == [[False] * len(UNITS)]
    assert book.table([]).shape == (0, len(UNITS))


def test_own_codebook(tmp_path: Path) -> None:
    path = tmp_path / "book.yaml"
    path.write_text("Happy: [AU12, 25]\nboredom: []\n", encoding="utf-8")
    table = codebook(path).table(["boredom", "happiness"])
    assert [unit for unit, one in zip(UNITS, table[1], strict=True) if one] == [12, 25]
    assert not table[0].any()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("happiness: [6, 999]", "book.yaml, 'happiness': '999' is not an action unit"),
        ("happiness: [6, 28]", "book.yaml, 'happiness': AU 28 .lip suck. has no region"),
        ("happiness: 6", "book.yaml, 'happiness': '6' is not a list"),
        ("[6, 12]", "book.yaml: not a mapping"),
        ("", "book.yaml: not a mapping"),
        ("happiness: [6", "book.yaml: not a codebook in YAML"),
    ],
)
def test_wrong_codebooks(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "book.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(HonneError, match=match):
        codebook(path)


def test_unknown_codebook() -> None:
    with pytest.raises(HonneError, match="no codebook 'emfacs'") as caught:
        codebook("emfacs")
    assert "reference, facs" in caught.value.hint
