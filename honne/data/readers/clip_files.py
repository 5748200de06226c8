"""Clips named after what is in them: what readers of such data sets share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIXES = {".mp4", ".flv", ".avi", ".mov", ".mkv", ".webm", ".wav", ".flac", ".mp3"}
"""Of videos and sound files."""
SOUNDS = {".wav", ".flac", ".mp3"}


def clip_files(root: Path) -> Iterator[Path]:
    """Videos and sound files below a folder, by path."""
    yield from (path for path in sorted(root.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file())


def best_of_each(files: Iterable[tuple[str, int, Path]]) -> dict[str, Path]:
    """Clip -> its file, of several that of the lowest rank.

    Args:
        files: name of the clip, rank, file.
    """
    found: dict[str, tuple[int, Path]] = {}
    for name, rank, path in files:
        if name not in found or rank < found[name][0]:
            found[name] = (rank, path)
    return {name: path for name, (_, path) in found.items()}
