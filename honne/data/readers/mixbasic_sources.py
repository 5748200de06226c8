"""The three data sets of MixBasic in their owners' layouts: sequences, their labels, and three pictures of each."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from honne.data.mixbasic import CODES, EXPRESSIONS, FRAMES, Picture
from honne.data.readers import Bad
from honne.errors import HonneError
from honne.faces.geometry import turned_right
from honne.faces.media import Media, open_media
from honne.labels import EXPRESSION_SETS

FOLDERS = {"CKPlus": "cohn-kanade-images", "MMI": "Sessions", "OuluCASIA": "VL/Strong"}
"""What a data set is known by."""
CKPLUS_CODES = EXPRESSION_SETS["ckplus"]
MMI_LEFT_OUT = "S021"
MMI_RIGHT_HALF = ("S001", "S002", "S017")
MMI_LEFT_HALF = ("S003", "S005", "S006", "S015", "S016")
MMI_WHOLE = ("S053", "S054")
NO_LABEL = "sequence without an emotion label"


@dataclass(frozen=True)
class Clip:
    """A labelled sequence.

    Attributes:
        dataset: one of `honne.data.mixbasic.DATASETS`.
        stem: subject and sequence joined by "_", as S010_004.
        expression: class name.
        where: file (or folder) with the label.
        files: the three pictures, or one video.
    """

    dataset: str
    stem: str
    expression: str
    where: Path
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """As `Picture.sequence`."""
        return f"{self.dataset}/{self.stem}"

    def pictures(self, wanted: Sequence[Picture] = ()) -> Iterator[tuple[Picture, Path | np.ndarray] | Bad]:
        """Its three pictures by their published names.

        Args:
            wanted: those that the published folds name. Of a video just these are taken: programs that count its
                frames otherwise would name others.
        """
        if len(self.files) == FRAMES:
            for path in self.files:
                frame = path.stem.rpartition("_")[2]
                yield Picture(self.dataset, f"{self.stem}_{frame}"), path
            return
        (video,) = self.files
        try:
            for index, image in _frames(video, [int(picture.stem.rpartition("_")[2]) for picture in wanted]):
                yield Picture(self.dataset, f"{self.stem}_{index:03d}"), mmi_view(image, self.stem.partition("_")[0])
        except HonneError as error:
            yield Bad(str(video), "unreadable video", error.what)


def find_sources(root: Path) -> dict[str, Path]:
    """Data set -> the folder that holds its characteristic one, at ROOT or up to two levels below."""
    found: dict[str, Path] = {}
    for pattern in ("", "*", "*/*"):
        for base in sorted(root.glob(pattern)) if pattern else [root]:
            for dataset, folder in FOLDERS.items():
                if dataset not in found and (base / folder).is_dir():
                    found[dataset] = base
    return found


def clips(dataset: str, base: Path) -> Iterator[Clip | Bad]:
    """The labelled sequences of one data set; `Bad` for every one that has no label, or a wrong one.

    Raises:
        HonneError: CK+ without its labels, or MMI without PyAV.
    """
    readers: dict[str, Callable[[Path], Iterator[Clip | Bad]]] = {
        "CKPlus": _ckplus,
        "MMI": _mmi,
        "OuluCASIA": _oulucasia,
    }
    yield from readers[dataset](base)


def mmi_view(image: np.ndarray, subject: str) -> np.ndarray:
    """The frontal face of MMI, upright: some subjects are filmed from two sides at once, most lying on their side."""
    middle = image.shape[1] // 2
    if subject in MMI_RIGHT_HALF:
        return np.ascontiguousarray(image[:, middle:])
    if subject in MMI_LEFT_HALF:
        return np.ascontiguousarray(image[:, :middle])
    return image if subject in MMI_WHOLE else turned_right(image)


def _ckplus(base: Path) -> Iterator[Clip | Bad]:
    """`cohn-kanade-images/S010/004/*.png`; `Emotion/S010/004/*_emotion.txt`: one number, or no file."""
    labels = base / "Emotion"
    if not labels.is_dir():
        raise HonneError(f"{labels}: no such folder.", "The labels of CK+ are a download of their own, 'Emotion'.")
    for folder in _folders(base / FOLDERS["CKPlus"], 2):
        files = _files(labels / folder.parent.name / folder.name, "_emotion.txt")
        if len(files) != 1:
            few = Bad(str(folder), NO_LABEL, kind="rule")
            yield Bad(str(files[0].parent), "several emotion files", kind="label") if files else few
            continue
        expression = _ckplus_emotion(files[0])
        if isinstance(expression, Bad):
            yield expression
        else:
            stem = f"{folder.parent.name}_{folder.name}"
            yield _with_last("CKPlus", stem, expression, files[0], _files(folder, ".png"))


def _ckplus_emotion(path: Path) -> str | Bad:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        return Bad(str(path), "unreadable label file", f"cannot be read ({error.strerror})", "label")
    try:
        expression = CKPLUS_CODES.parse(float(text))
    except (ValueError, HonneError):
        expression = None
    if expression in (None, "neutral"):
        return Bad(str(path), "unknown emotion code", f"'{text[:20]}' is not one of CK+'s codes 1 to 7", "label")
    if expression == "contempt":
        return Bad(str(path), "not one of the six emotions", "contempt", "rule")
    return str(expression)


def _mmi(base: Path) -> Iterator[Clip | Bad]:
    """`Sessions/*/S001-104.avi` with an .xml of the same name."""
    if importlib.util.find_spec("av") is None:
        raise HonneError("Reading the videos of MMI needs PyAV.", "Install it with: pip install 'honne[video]'")
    for folder in _folders(base / FOLDERS["MMI"], 1):
        videos = _files(folder, ".avi")
        if len(videos) != 1 or videos[0].stem.count("-") != 1:
            what = "a session has one video, named as S001-104.avi"
            yield Bad(str(folder), "session without its video", what)
            continue
        (video,) = videos
        if video.stem.startswith(f"{MMI_LEFT_OUT}-"):
            yield Bad(str(video), f"subject {MMI_LEFT_OUT} is left out, as published", kind="rule")
            continue
        emotion = _mmi_emotion(video.with_suffix(".xml"))
        if isinstance(emotion, Bad):
            yield emotion
        else:
            yield Clip("MMI", video.stem.replace("-", "_"), emotion, video.with_suffix(".xml"), (video,))


def _mmi_emotion(path: Path) -> str | Bad:
    """Class name by `<... Name="Emotion" Value="3"/>` right below the root: 1 anger, in the order of the codes."""
    try:
        marks = [mark for mark in ElementTree.parse(path).getroot() if mark.get("Name") == "Emotion"]
    except FileNotFoundError:
        marks = []
    except (OSError, ElementTree.ParseError) as error:
        return Bad(str(path), "unreadable label file", f"cannot be read as XML ({error})", "label")
    if not marks:
        return Bad(str(path), NO_LABEL, "no Emotion in it", "rule")
    value = (marks[0].get("Value") or "").strip()
    if not value.isdecimal() or value == "0":
        return Bad(str(path), "unknown emotion code", f"'{value}' is not an emotion code of MMI, 1 or more", "label")
    if int(value) > len(EXPRESSIONS):
        return Bad(str(path), "not one of the six emotions", f"code {value}", "rule")
    return EXPRESSIONS[int(value) - 1]


def _oulucasia(base: Path) -> Iterator[Clip | Bad]:
    """`VL/Strong/P037/Surprise/018.jpeg`."""
    for folder in _folders(base / FOLDERS["OuluCASIA"], 2):
        try:
            expression = str(CODES.parse(folder.name))
        except HonneError as error:
            yield Bad(str(folder), "unknown emotion folder", error.what, "label")
            continue
        stem = f"{folder.parent.name}_{expression.capitalize()}"
        yield _with_last("OuluCASIA", stem, expression, folder, _files(folder, ".jpeg", ".jpg"))


def _with_last(dataset: str, stem: str, expression: str, where: Path, files: Sequence[Path]) -> Clip | Bad:
    """The clip of the last three pictures."""
    if len(files) < FRAMES:
        return Bad(f"{dataset}/{stem}", "fewer than three frames", f"{len(files)} pictures")
    return Clip(dataset, stem, expression, where, tuple(files[-FRAMES:]))


def _frames(video: Path, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Number and pixels of the wanted frames, or of the middle three; one frame at a time is in memory.

    Raises:
        HonneError: the video is damaged or too short.
    """
    media = open_media(video)
    if not wanted:
        count = sum(1 for _ in _sound(media))
        if count < FRAMES:
            raise HonneError(f"{video}: {count} frames, fewer than {FRAMES}.")
        wanted = range(count // 2 - 1, count // 2 + 2)
    for index, image in _sound(media, min(wanted)):
        if index in wanted:
            yield index, image
        if index >= max(wanted):
            return


def _sound(media: Media, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    for frame in media.frames(start):
        if frame.image is None:
            raise HonneError(frame.error or f"{media.name}: a frame cannot be read.")
        yield frame.index, frame.image


def _folders(base: Path, depth: int) -> Iterator[Path]:
    """Folders so many levels below, sorted by path; hidden ones apart."""
    for path in sorted(base.iterdir()):
        if path.is_dir() and not path.name.startswith("."):
            yield from _folders(path, depth - 1) if depth > 1 else [path]


def _files(folder: Path, *endings: str) -> list[Path]:
    """Files of a folder by name; hidden ones apart."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.name.endswith(endings) and not path.name.startswith("."))
