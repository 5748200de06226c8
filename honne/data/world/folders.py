"""A folder that appears only when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from honne.errors import HonneError


@contextmanager
def building(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its place when the block ends without an error.

    Raises:
        HonneError: `out` is there already, and not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HonneError(f"{out}: is not empty; a synthetic world wants a new folder.", "Choose another, or remove it.")
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        if out.exists():
            out.rmdir()
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
