"""No golden file goes unused."""

from __future__ import annotations

from pathlib import Path


def test_every_file_has_a_test(golden_root: Path, named_files: set[Path]) -> None:
    unused = sorted(str(path.relative_to(golden_root)) for path in set(golden_root.glob("*/*.npz")) - named_files)
    assert not unused
