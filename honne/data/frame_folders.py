"""Folders of face crops, one per video: `<video>/00001.jpg` and so on, numbered from 1, with gaps."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from honne.data.affwild2 import FrameLabels, rows_of
from honne.data.readers import Bad, Row
from honne.errors import HonneError
from honne.faces.media import VIDEOS
from honne.labels import LabelSchema

_FRAME = re.compile(r"(\d+)\.(?:jpe?g|png|bmp)", re.IGNORECASE)


@dataclass(frozen=True)
class Tree:
    """What lies below a folder: text files, and folders by their name. Links are followed.

    Attributes:
        root: the folder.
    """

    root: Path

    @cached_property
    def _found(self) -> tuple[list[Path], dict[str, list[Path]], dict[str, Path]]:
        texts: list[Path] = []
        videos: dict[str, Path] = {}
        folders: dict[str, list[Path]] = {}
        seen = set()
        for place, below, files in os.walk(self.root, followlinks=True):
            here = Path(place).stat()
            if (here.st_dev, here.st_ino) in seen:  # a link back
                below.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            below.sort()
            folders.setdefault(Path(place).name, []).append(Path(place))
            texts += [Path(place) / name for name in sorted(files) if name.lower().endswith(".txt")]
            for name in files:
                stem, suffix = os.path.splitext(name)  # noqa: PTH122 - millions of them
                if suffix.lower() in VIDEOS:
                    videos.setdefault(stem, Path(place) / name)
        return texts, folders, videos

    @property
    def texts(self) -> list[Path]:
        """All .txt files, sorted within their folders."""
        return self._found[0]

    def folder(self, video: str) -> Path | None:
        """The folder of a video's crops: of several the one below an `aligned` one.

        Raises:
            HonneError: several that could be it.
        """
        found = self._found[1].get(video, [])
        found = [folder for folder in found if "aligned" in str(folder.relative_to(self.root)).lower()] or found
        if len(found) > 1:
            raise HonneError(f"{found[0]} and {found[1]}: both may hold the faces of {video}.", "Move one away.")
        return found[0] if found else None

    def video_file(self, video: str) -> Path | None:
        """The file of a video, if there."""
        return self._found[2].get(video)

    def images(self, paths: np.ndarray) -> Iterator[Path]:
        """The files of paths `<video>/<picture>`, whose folders are there."""
        folders: dict[str, Path] = {}
        for path in paths.tolist():
            video = path.rpartition("/")[0]
            if video not in folders and (folder := self.folder(video)):
                folders[video] = folder.parent
            yield folders[video] / path

    def frames(self, video: str) -> dict[int, str]:
        """Frame number -> path of its picture below the folder of all videos, ascending; {} without a folder.

        Raises:
            HonneError: two pictures of one frame.
        """
        folder = self.folder(video)
        files: dict[int, str] = {}
        for name in sorted(entry.name for entry in os.scandir(folder)) if folder else ():
            if match := _FRAME.fullmatch(name):
                if other := files.get(int(match[1])):
                    raise HonneError(f"{folder}: {Path(other).name} and {name} are one frame.", "Remove one.")
                files[int(match[1])] = f"{video}/{name}"
        return dict(sorted(files.items()))


def stand_ins(available: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(N,) frame numbers whose picture stands in for the wanted frames: their own, else the one before.

    Args:
        available: (M,) numbers of the frames that have a picture, ascending.
        wanted: (N,) numbers. Before the first picture the first stands in.
    """
    return np.asarray(available[(np.searchsorted(available, wanted, side="right") - 1).clip(0)])


def listed_rows(tree: Tree, listed: dict[str, str], fps: float) -> Iterator[Row | Bad]:
    """A test row, without labels, for every frame that is listed, in that order.

    A frame without a picture shows that of the frame before it, at the start of a video the first.

    Args:
        tree: where the pictures are.
        listed: path `<video>/00001.jpg` -> where it is listed.
        fps: frames per second.
    """
    paths = np.array(list(listed), object)
    found = [re.fullmatch(r"(.+)/(\d+)\.\w+", path) for path in paths.tolist()]
    for i in (i for i, match in enumerate(found) if match is None):
        yield Bad(listed[paths[i]], "not a frame", f"'{paths[i]}' is not named as video/00001.jpg", "label")
    paths = paths[[match is not None for match in found]]
    video = np.array([match[1] for match in found if match], object)
    frame = np.array([int(match[2]) for match in found if match], np.int64)
    shown = np.full(len(paths), None, object)
    names, code = np.unique(video.astype(str), return_inverse=True)
    for i, rows in enumerate(np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])):
        if frames := tree.frames(str(names[i])) if len(rows) else {}:
            number = stand_ins(np.fromiter(frames, np.int64, len(frames)), frame[rows])
            shown[rows] = np.array(list(frames.values()), object)[np.searchsorted(list(frames), number)]
        elif len(rows):
            where, detail = listed[paths[rows[0]]], f"no pictures of {names[i]} below {tree.root}"
            yield Bad(where, "video without pictures", detail)
    there = shown != None  # noqa: E711 - element by element
    split = np.full(len(paths), "test", object)
    labels = FrameLabels(paths, video, frame, split, {}, LabelSchema())[there]
    yield from rows_of(labels, tree.images(shown[there]), fps)
