"""What a user named -> inputs, each of which becomes one table.

A video, a camera or a still is one input. A folder's stills are one input together; its videos are one each.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from honne.data.manifest import sha256
from honne.errors import HonneError, WrongCall
from honne.faces.media import STILLS, Frame, list_inputs, open_media

Kind = Literal["stills", "video", "camera"]


@dataclass(frozen=True)
class Input:
    """What one table is made of.

    Args:
        name: of the table's file, without suffix.
        kind: stills, video or camera.
        sources: the pictures in order, or the one video or camera, as the user named them.
        folder: for a folder of stills.
        problem: why there is nothing to read, in one sentence; such an input is one row.
    """

    name: str
    kind: Kind
    sources: tuple[str, ...]
    folder: str = ""
    problem: str = ""

    @property
    def title(self) -> str:
        """What to call it in messages."""
        return self.folder or self.sources[0]

    def sha256(self) -> str | None:
        """Digest of the content: a file's own; for a folder that of its stills' names and digests. None if unknown."""
        try:
            if self.kind == "camera":
                return None
            if not self.folder:
                return sha256(Path(self.sources[0]))
            files = map(Path, self.sources)
            lines = (f"{file.relative_to(self.folder).as_posix()}\0{sha256(file)}\n" for file in files)
            return hashlib.sha256("".join(lines).encode()).hexdigest()
        except OSError:
            return None

    def frames(self, fps: float | None, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, Frame]]:
        """(source, frame) in order; an input that cannot be read is one frame with an error.

        Args:
            fps: frames per second of media time to keep at most.
            start: stills: number of the first picture; videos: index of the first frame.
            stop: stills: number of the first picture left out.
        """
        if self.problem:
            yield self.title, Frame(0, 0.0, None, self.problem)
        elif self.kind == "stills":
            for source in self.sources[start:stop]:
                yield from ((source, frame) for frame in _frames(source, None, 0))
        else:
            yield from ((self.sources[0], frame) for frame in _frames(self.sources[0], fps, start))


def _frames(source: str, fps: float | None, start: int) -> Iterator[Frame]:
    try:
        yield from open_media(source, fps).frames(start)
    except HonneError as error:
        yield Frame(0, 0.0, None, error.what)


def plan(arguments: Sequence[str | Path]) -> list[Input]:
    """The inputs that a user named, each with a name of its own.

    Raises:
        WrongCall: nothing was named.
    """
    if not arguments:
        raise WrongCall("there is nothing to analyse.", "Name pictures, videos, folders or camera:0.")
    found: dict[tuple[str, ...], Input] = {}
    for argument in map(str, arguments):
        for entry in _expand(argument):
            found.setdefault(entry.sources, entry)
    names = unique_names([entry.title for entry in found.values()])
    return [replace(entry, name=name) for name, entry in zip(names, found.values(), strict=True)]


def _expand(argument: str) -> Iterator[Input]:
    """The inputs, still nameless, of one argument."""
    if argument.startswith("camera:"):
        if not re.fullmatch(r"camera:\d+", argument):
            raise WrongCall(f"{argument}: a camera is named by its number, as in camera:0.")
        yield Input("", "camera", (argument,))
    elif Path(argument).is_dir():
        yield from _expand_folder(argument)
    else:
        yield Input("", _kind(argument), (argument,))


def _expand_folder(folder: str) -> Iterator[Input]:
    try:
        files = list_inputs([folder])
    except HonneError as error:
        yield Input("", "stills", (folder,), folder, error.what)
        return
    stills = tuple(file for file in files if Path(file).suffix.lower() in STILLS)
    if stills:
        yield Input("", "stills", stills, folder)
    yield from (Input("", "video", (file,)) for file in files if Path(file).suffix.lower() not in STILLS)


def _kind(file: str) -> Kind:
    if Path(file).suffix.lower() in STILLS:
        return "stills"
    try:
        return "stills" if open_media(file).kind == "still" else "video"
    except HonneError:
        return "video"


def unique_names(titles: Sequence[str]) -> list[str]:
    """A file name for each: its stem; where that is taken, its whole name; then with its folder; then with a number.

    Every input of a clash gets the longer name, so that names do not depend on the order on the command line.
    """
    forms = [_forms(title) for title in titles]
    names = [form[0] for form in forms]
    for level in (1, 2):
        counts = Counter(name.casefold() for name in names)
        names = [form[level] if counts[name.casefold()] > 1 else name for name, form in zip(names, forms, strict=True)]
    taken: Counter[str] = Counter()
    for position, name in enumerate(names):
        taken[name.casefold()] += 1
        if taken[name.casefold()] > 1:
            names[position] = f"{name}_{taken[name.casefold()]}"
    return names


def _forms(title: str) -> tuple[str, str, str]:
    path = Path(title.replace(":", "_") if title.startswith("camera:") else title)
    folder = path.is_dir()
    path = path.resolve() if path.name in ("", "..") else path
    whole = path.name.replace(".", "_")
    return path.name if folder else path.stem, whole, f"{path.resolve().parent.name}_{whole}"
