"""Windows over videos: which frames they show, how batches hold them, and how their frames are changed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_union_data import module, single_tasks

from honne.batch import Batch
from honne.data.loading import DataModule, window_rows
from honne.data.manifest import PreparedData, write_manifest
from honne.data.sampling import Draw
from honne.data.transforms import Augment
from honne.data.windows import windows
from honne.errors import WrongCall

FRAMES = 6
WINDOW = 4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6), st.integers(1, 6))
def test_every_frame_is_shown_and_only_clips_shorter_than_a_window_are_padded(
    counts: list[int], length: int, stride: int
) -> None:
    stride = min(stride, length)
    videos = np.repeat(np.arange(len(counts)) * 7, counts)
    table = windows(videos, length, stride)
    assert set(table[table >= 0]) == set(range(len(videos)))
    assert len(table) == sum(1 + math.ceil(max(count - length, 0) / stride) for count in counts)
    for row in table:
        shown = row[row >= 0]
        assert (row[len(shown) :] == -1).all()  # at the end only
        assert (np.diff(shown) == 1).all()
        video = videos[shown[0]]
        assert (videos[shown] == video).all()
        assert len(shown) == min(length, counts[video // 7])


def test_videos_that_are_interleaved_and_stills() -> None:
    table = windows(np.array([5, -1, 5, 2, -1, 2, 5]), 2, 2)
    assert {tuple(row) for row in table.tolist()} == {(0, 2), (2, 6), (3, 5), (1, -1), (4, -1)}
    assert windows(np.array([], np.int64), 3, 1).shape == (0, 3)
    for stride in (0, 4):
        with pytest.raises(WrongCall, match="windows of 3 frames"):
            windows(np.zeros(5, np.int64), 3, stride)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return single_tasks(tmp_path_factory.mktemp("clips"), n=48, frames=FRAMES)


def shuffled(source: Path, root: Path) -> Path:
    """The same rows in another order, the videos interleaved."""
    data = PreparedData(source)
    root.mkdir()
    (root / "images").symlink_to(source / "images")
    order = np.random.default_rng(0).permutation(len(data))
    write_manifest(root, data.rows.iloc[order].reset_index(drop=True), data.schema)
    return root


def test_windows_go_by_time_within_a_video_of_one_data_set(sets: list[Path], tmp_path: Path) -> None:
    mixed = PreparedData(shuffled(sets[0], tmp_path / "mixed"))
    data = [mixed, mixed]  # the same names of videos in both
    count = len(mixed)
    table = window_rows(data, np.arange(2 * count), WINDOW, 2)
    videos = np.tile(mixed.rows["video"].to_numpy(), 2)
    times = np.tile(mixed.rows["time"].to_numpy(float), 2)
    for row in table:
        shown = row[row >= 0]
        assert len(set(videos[shown])) == 1
        assert len(set(shown // count)) == 1  # never across data sets
        assert (np.diff(times[shown]) > 0).all()
    assert set(table[table >= 0]) == set(range(2 * count))
    stills = [replace_column(mixed, tmp_path / "stills")]
    with pytest.raises(WrongCall, match="windows need videos"):
        window_rows(stills, np.arange(count), WINDOW, 2)


def replace_column(data: PreparedData, root: Path) -> PreparedData:
    root.mkdir()
    (root / "images").symlink_to(data.root / "images")
    write_manifest(root, data.rows.drop(columns=["video", "time"]), data.schema)
    return PreparedData(root)


def test_batches_of_windows_by_task(sets: list[Path]) -> None:
    data = module(sets, sampling="tasks", window=WINDOW, batch_size=2)
    batches = list(data.train_dataloader())
    rows = data.train_rows()
    assert data.training.windows is not None
    assert set(data.training.windows[data.training.windows >= 0]) == set(rows)
    for batch in batches:
        assert batch.clips is not None
        assert batch.index is not None
        assert batch.images is not None
        assert batch.clips.shape == (6, WINDOW)
        assert len(batch.images) == len(batch.index) == (batch.clips >= 0).sum()
        for part, task in zip(batch.parts(3), data.tasks(), strict=True):
            assert part.clips is not None
            assert part.index is not None
            assert part.clips.shape == (2, WINDOW)
            assert sorted(part.clips[part.clips >= 0].tolist()) == list(range(len(part)))
            assert data.training.known.labelled(task)[part.index.numpy()].all()
    measured = torch.cat([batch.index for batch in data.val_dataloader()])  # type: ignore[misc]
    valid = np.flatnonzero(
        data.measuring.known.usable() & np.isin(np.arange(len(data.measuring)), data.measuring.rows("valid"))
    )
    assert set(measured.tolist()) == set(valid.tolist())


def test_parts_of_windows_with_ragged_padding() -> None:
    clips = torch.tensor([[0, 1, -1], [2, -1, -1], [3, 4, 5], [6, -1, -1]])
    batch = Batch(images=torch.arange(7.0)[:, None], index=torch.arange(10, 17), clips=clips)
    one, other = batch.parts(2)
    assert one.clips is not None
    assert other.clips is not None
    assert one.clips.tolist() == [[0, 1, -1], [2, -1, -1]]
    assert other.clips.tolist() == [[0, 1, 2], [3, -1, -1]]
    assert one.index is not None
    assert other.index is not None
    assert [one.index.tolist(), other.index.tolist()] == [[10, 11, 12], [13, 14, 15, 16]]
    assert [len(part) for part in batch.parts(1)] == [7]


def test_frames_of_a_window_are_changed_alike(sets: list[Path]) -> None:
    """The same picture at each moment of two windows: alike within one, differently in the other."""
    augment = Augment(flip=0.5, warp=0.3, colour=0.4, erase=0.5)
    data = DataModule(sets[:1], size=32, augment=augment, window=3, batch_size=2)
    data.training.windows = np.array([[5, 5, 5], [5, 5, -1]])
    images = data.training.__getitems__(Draw(np.array([0, 1]), np.array([0, 1]))).images
    assert images is not None
    assert len(images) == 5
    assert (images[:3] == images[0]).all()
    assert (images[3:] == images[3]).all()
    assert (images[0] != images[3]).any()
    again = data.training.__getitems__(Draw(np.array([0, 1]), np.array([0, 1]), epoch=1)).images
    assert again is not None
    assert (again[0] != images[0]).any()


def test_windows_are_of_rows_each_once_or_by_task(sets: list[Path]) -> None:
    data = module(sets)
    assert data.training.windows is None
    for options, words in (
        ({"sampling": "class_balanced"}, "draws rows, and windows are shown"),
        ({"sampling": "tasks", "balance": "published"}, "rows that are drawn by task"),
    ):
        with pytest.raises(WrongCall, match=words):
            module(sets, window=WINDOW, **options)
    still = replace(data.training.known, expression=None)
    assert not still.usable("expression").any()
