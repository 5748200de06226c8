"""A data set's folder, or the zip of one, read the same way."""

from __future__ import annotations

import csv
import difflib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from honne.errors import HonneError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "train_set", "training_set"), "train"),
    **dict.fromkeys(("valid", "val", "dev", "validation", "val_set", "validation_set", "publictest"), "valid"),
    **dict.fromkeys(("test", "testing", "test_set", "privatetest"), "test"),
}
"""What folders and table cells call the splits (lower case) -> our name."""


class Archive:
    """Files below a folder or inside a zip file, named by their path with "/" relative to `root`.

    Args:
        root: folder or .zip file. A zip may hold everything inside one top folder of any name.
        marker: file, relative to the data set's root, that must be there; "" for none.

    Raises:
        HonneError: `root` is a file, but no readable zip.
        FileNotFoundError: there is no `root`, or no `marker` in it.
    """

    def __init__(self, root: Path, marker: str = "") -> None:
        self.root = Path(root)
        self.zip: zipfile.ZipFile | None = None
        self.prefix = ""
        if self.root.is_file():
            try:
                self.zip = zipfile.ZipFile(self.root)
            except zipfile.BadZipFile as error:
                raise HonneError(
                    f"{self.root}: not a folder and not a readable zip file ({error}).", "Download it again."
                ) from None
            self._find_prefix(marker)
        elif not self.root.is_dir():
            raise FileNotFoundError(self.root)
        elif marker and not (self.root / marker).is_file():
            raise FileNotFoundError(marker)

    def _find_prefix(self, marker: str) -> None:
        assert self.zip is not None
        if not marker:
            tops = {PurePosixPath(name).parts[0] for name in self.zip.namelist()} - {"__MACOSX"}
            top = tops.pop() if len(tops) == 1 else ""
            if top and top not in self.zip.NameToInfo and top.lower() not in SPLIT_NAMES:
                self.prefix = f"{top}/"
            return
        found = [name for name in self.zip.namelist() if name == marker or name.endswith("/" + marker)]
        if not found:
            raise FileNotFoundError(marker)
        self.prefix = min(found, key=len).removesuffix(marker)

    def path(self, name: str) -> str:
        """How messages name a file."""
        return f"{self.root}!{self.prefix}{name}" if self.zip else str(self.root / name)

    def names(self, folder: str = "") -> list[str]:
        """Sorted names of all files below `folder`."""
        folder = f"{folder.rstrip('/')}/" if folder else ""
        if self.zip:
            start = self.prefix + folder
            inside = (name for name in self.zip.namelist() if name.startswith(start) and not name.endswith("/"))
            return sorted(name.removeprefix(self.prefix) for name in inside)
        below = self.root / folder
        return sorted(path.relative_to(self.root).as_posix() for path in below.rglob("*") if path.is_file())

    def images(self, folder: str = "") -> list[str]:
        """Sorted names of all image files below `folder`, hidden ones apart."""
        return [
            name
            for name in self.names(folder)
            if name[name.rfind(".") :].lower() in IMAGE_SUFFIXES and not _hidden(name)
        ]

    def exists(self, name: str) -> bool:
        """Whether that file is there."""
        if self.zip:
            return self.prefix + name in self.zip.NameToInfo
        return (self.root / name).is_file()

    def has_folder(self, name: str) -> bool:
        """Whether there is a file below that folder, or the folder itself."""
        if self.zip:
            return any(entry.startswith(f"{self.prefix}{name}/") for entry in self.zip.namelist())
        return (self.root / name).is_dir()

    def image(self, name: str) -> Path | bytes:
        """What `Row.image` takes: the path, or the bytes from inside the zip (none where the zip is damaged)."""
        if not self.zip:
            return self.root / name
        try:
            return self.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError):
            return b""

    def read(self, name: str) -> bytes:
        """The file's bytes."""
        return self.zip.read(self.prefix + name) if self.zip else (self.root / name).read_bytes()

    def lines(self, name: str) -> Iterator[str]:
        """Lines of a text file, one by one; see `decoded` for encodings."""
        with self.zip.open(self.prefix + name) if self.zip else (self.root / name).open("rb") as file:
            yield from decoded(file, self.path(name))

    def table(self, name: str, required: Sequence[str], header: Sequence[str] = ()) -> csv.DictReader[str]:
        """Rows of a CSV file, one by one; spaces around column names do not count.

        Args:
            name: of the file.
            required: columns that must be there.
            header: columns of a file whose first line names none of the required ones.

        Raises:
            HonneError: a column is missing.
        """
        reader = csv.DictReader(self.lines(name))
        columns = [column.strip() for column in reader.fieldnames or ()]
        if header and not set(columns) & set(required):
            return csv.DictReader(self.lines(name), header)
        reader.fieldnames = columns
        require_columns(columns, required, self.path(name))
        return reader


def _hidden(name: str) -> bool:
    return "/." in f"/{name}" or "__MACOSX/" in name


def require_columns(columns: Sequence[str], required: Sequence[str], where: str) -> None:
    """Raise `HonneError` naming the first required column that is not there."""
    for column in required:
        if column not in columns:
            near = difflib.get_close_matches(column, columns, 1)
            hint = f"Did you mean '{near[0]}'?" if near else "Is it the right file?"
            raise HonneError(f"{where}: no column '{column}'; it has {', '.join(columns) or 'none'}.", hint)


def decoded(lines: Iterable[bytes], where: str) -> Iterator[str]:
    """Lines of a label file: UTF-8 with or without a byte order mark, or Windows-1252 throughout.

    Raises:
        HonneError: lines of both encodings, or of neither, naming the line.
    """
    hint, encoding = "Save the file as UTF-8.", ""
    for number, line in enumerate(lines, 1):
        if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise HonneError(f"{where}: UTF-16 text.", hint)
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if not line.isascii():
            found = "utf-8" if _decodes(line, "utf-8") else "cp1252"
            if not _decodes(line, found):
                raise HonneError(f"{where}, line {number}: neither UTF-8 nor Windows-1252 text.", hint)
            if encoding not in ("", found):
                raise HonneError(f"{where}, line {number}: the file mixes UTF-8 and Windows-1252 text.", hint)
            encoding = found
        yield line.decode(encoding or "ascii")


def _decodes(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
