"""Data sets made from another one: rows changed or left out, pictures shared without copying."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from honne.data.manifest import PreparedData

SHARED = ("images", "sequences")


@contextmanager
def deriving(out: Path, data: PreparedData) -> Iterator[Path]:
    """A folder with the pictures of a data set, which takes the place of `out` when the block ends without an error.

    The block adds the manifest, the card and whatever else there is.

    Args:
        out: folder, replaced as a whole.
        data: whose pictures and sequences are shared.
    """
    aside, before = (out.with_name(f".{out.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    try:
        aside.mkdir(parents=True)
        for name in SHARED:
            share(data.root / name, aside / name)
        yield aside
        with suppress(FileNotFoundError):
            out.replace(before)
        aside.replace(out)
    finally:
        for folder in (aside, before):
            shutil.rmtree(folder, ignore_errors=True)


def share(source: Path, copy: Path) -> None:
    """Hard links, so that either can go; symbolic ones where the file system of `copy` is another.

    Args:
        source: a file, a folder, or nothing, which gives nothing.
        copy: its other place.
    """
    if source.is_dir():
        copy.mkdir()
        for each in source.iterdir():
            share(each, copy / each.name)
    elif source.is_file():
        try:
            os.link(source.resolve(), copy)
        except OSError:
            copy.symlink_to(source.resolve())
