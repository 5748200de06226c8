"""Tracks and quality: numbers stay with faces, and a worse picture is never judged better."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageFilter

from honne.faces.face import Face
from honne.faces.quality import quality
from honne.faces.track import Tracker


def at(x: float, y: float = 100.0, side: float = 60.0) -> Face:
    return Face(np.array([x - side / 2, y - side / 2, side, side]))


def test_faces_that_cross_in_different_order_keep_their_numbers() -> None:
    tracker, seen = Tracker(), []
    for frame in range(60):
        left, right = at(50 + 8 * frame, 90), at(522 - 8 * frame, 190)
        numbers = tracker.update([left, right] if frame % 2 else [right, left], frame / 25)
        seen.append(tuple(numbers if frame % 2 else numbers[::-1]))
    assert len(set(seen)) == 1


def test_a_short_gap_keeps_the_number_and_a_long_one_ends_it() -> None:
    tracker = Tracker()
    assert tracker.update([at(100)], 0.0) == [0]
    assert tracker.update([], 0.4) == []
    assert tracker.update([at(110)], 0.8) == [0]
    assert tracker.update([at(110)], 2.5) == [1]


def test_slow_sampling_keeps_numbers() -> None:
    tracker = Tracker()
    assert [tracker.update([at(100 + step)], 4.0 * step) for step in range(4)] == [[0]] * 4


def test_a_jump_across_the_picture_is_another_face() -> None:
    tracker = Tracker()
    tracker.update([at(100)], 0.0)
    assert tracker.update([at(500)], 0.04) == [1]
    assert tracker.update([at(500, side=200)], 0.08) == [2]


def test_the_state_goes_on_exactly() -> None:
    random = np.random.default_rng(0)
    frames = [[at(*random.uniform(0, 400, 2)) for _ in range(random.integers(0, 4))] for _ in range(40)]
    whole, numbers = Tracker(), []
    for frame, faces in enumerate(frames):
        numbers.append(whole.update(faces, frame / 25))
    first = Tracker()
    again = [first.update(faces, frame / 25) for frame, faces in enumerate(frames[:20])]
    second = Tracker.from_state(json.loads(json.dumps(first.state())))
    again += [second.update(faces, (20 + frame) / 25) for frame, faces in enumerate(frames[20:])]
    assert again == numbers


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """A face-like pattern with fine detail."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(60, 200, (12, 12), np.uint8)).resize((200, 200), Image.Resampling.BICUBIC)
    fine = random.normal(0, 12, (200, 200))
    grey = np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8)
    return np.stack([grey] * 3, 2)


def test_blur_darkness_distance_and_pose_lower_quality(portrait: np.ndarray) -> None:
    face = Face(np.array([0.0, 0.0, 200.0, 200.0]), pose=np.zeros(3))
    best = quality(portrait, face)
    assert 0.6 < best <= 1
    blurred = [
        quality(np.asarray(Image.fromarray(portrait).filter(ImageFilter.GaussianBlur(sigma))), face)
        for sigma in (1, 3, 6, 12)
    ]
    assert [best, *blurred] == sorted([best, *blurred], reverse=True)
    assert blurred[-1] < best / 2
    dark = [quality((portrait * share).astype(np.uint8), face) for share in (0.3, 0.1, 0.02)]
    assert dark == sorted(dark, reverse=True)
    assert dark[-1] < 0.1
    assert quality(np.full_like(portrait, 255), face) == 0
    turned = [quality(portrait, Face(face.box, pose=np.array([yaw, 0.0, 0.0]))) for yaw in (0, 30, 60, 90)]
    assert turned == sorted(turned, reverse=True)
    small = np.asarray(Image.fromarray(portrait).resize((30, 30)))
    assert quality(small, Face(np.array([0.0, 0.0, 30.0, 30.0]))) < best / 2
    assert quality(portrait, Face(np.array([300.0, 0.0, 50.0, 50.0]))) == 0
