"""Windows over the frames of videos, for networks that see several moments at once."""

from __future__ import annotations

from typing import Literal

import numpy as np

from honne.errors import WrongCall

Cover = Literal["all", "train", "valid", "test"]


def windows(videos: np.ndarray, length: int, stride: int, cover: Cover = "all") -> np.ndarray:
    """Which frames each window shows.

    Args:
        videos: (R,) which video each frame belongs to, frames in time order within each; negative: a still by itself.
        length: N, frames in a window.
        stride: frames from one window's start to the next one's; at most `length`.
        cover: all: every frame at least once; the last window of a video is moved back to its end, and a video shorter
            than a window is padded. train, valid, test: as the original has them (with strides of its own: N / 2, N,
            N): train and valid leave out what makes no whole stride at a video's end; test repeats the last window.

    Returns:
        (W, N) positions in `videos`, -1 (only at the end) where padded, video by video.

    Raises:
        WrongCall: no such windows.

    Source: Deng et al., FG 2020, the authors' code; its frames of clips shorter than a window were wrong.

    Example:
        >>> windows(np.array([7, 7, 7, 7, 7, 8]), 3, 2).tolist()
        [[0, 1, 2], [2, 3, 4], [5, -1, -1]]
    """
    if not 1 <= stride <= length:
        raise WrongCall(f"windows of {length} frames every {stride}.", "Let them meet: 1 <= stride <= length.")
    videos = np.where(videos < 0, videos.max(initial=0) + 1 + np.arange(len(videos)), videos)
    order = np.argsort(videos, kind="stable")
    _, first, counts = np.unique(videos[order], return_index=True, return_counts=True)
    if cover == "all":
        number = 1 + -(-np.maximum(counts - length, 0) // stride)
    else:
        stride = max(length // 2, 1) if cover == "train" else length
        number = counts // stride + (cover == "test")
    video = np.repeat(np.arange(len(counts)), number)
    within = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    start = np.minimum(within * stride, np.maximum(counts - length, 0)[video])
    moment = start[:, None] + np.arange(length)
    there = moment < counts[video, None]
    return np.where(there, order[np.where(there, first[video, None] + moment, 0)], -1)
