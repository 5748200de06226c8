"""DISFA (Mavadati et al., IEEE Trans. Affective Computing, 2013): twelve action units of 27 people on video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from honne.codes import ACTION_UNIT_SETS
from honne.data.mixbasic import Fold
from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.archive import Archive
from honne.data.readers.frame_tables import FrameTable, fold_notes, fold_split, read_frame_table
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.faces.media import VIDEOS, open_media
from honne.labels import LabelSchema

UNITS = ACTION_UNIT_SETS["disfa"]
LABELS = "ActionUnit_Labels"
COPIES = "report"
RATE = 20
"""Frames a second."""
TOP = 5
PRESENT_FROM = 2
FOLDS = (
    ("SN002", "SN010", "SN001", "SN026", "SN027", "SN032", "SN030", "SN009", "SN016"),
    ("SN013", "SN018", "SN011", "SN028", "SN012", "SN006", "SN031", "SN021", "SN024"),
    ("SN003", "SN029", "SN023", "SN025", "SN008", "SN005", "SN007", "SN017", "SN004"),
)
"""Subjects that each of the three folds tests, as in ME-GraphAU (Luo et al., IJCAI 2022) and others."""

SUBJECT = re.compile(r"SN\d{3}")
LABEL_FILE = re.compile(r"(SN\d{3})_au(\d+)\.txt$", re.IGNORECASE)
FRAME = re.compile(r"(?:^|\D)(\d+)$")
RIGHT = re.compile(r"right[ _]?(video|cam)", re.IGNORECASE)
ALIGNED = "aligned"

INFO = ReaderInfo(
    name="disfa",
    summary="DISFA: 27 people on video, twelve action units a frame with intensities of 0 to 5",
    expects=f"{LABELS}/SN001/SN001_au1.txt and so on, and the frames: LeftVideoSN001_comp/LeftVideoSN001_comp_aligned/"
    "*_000001.bmp as OpenFace writes them, or any pictures with the subject in their path and the frame's number (from "
    "1) at the end of their name, or the videos LeftVideoSN001_comp.avi; or a zip of it.",
    contact="mohammadmahoor.com/disfa, on request from an academic address",
    licence="non-commercial research only, by signed agreement",
    label_files=(f"{LABELS}/*/*.txt",),
)


def present(intensities: np.ndarray, from_: int = PRESENT_FROM) -> np.ndarray:
    """1 where an action unit is coded as present, 0 where not, NaN where it is not coded; float32 of the same shape.

    Args:
        intensities: 0..5 or NaN, any shape.
        from_: the least intensity that counts, 1..5.
    """
    intensities = np.asarray(intensities, float)
    return np.where(np.isnan(intensities), np.nan, intensities >= from_).astype(np.float32)


def schema(root: Path) -> LabelSchema:
    """The twelve action units."""
    return LabelSchema(action_units=UNITS)


def alignment(root: Path) -> Alignment:
    """Aligned pictures as they are, 112 px; whole frames: the largest face, by five points."""
    return Alignment("none", 112) if _pictures(_open(Path(root))[0]).aligned else Alignment("points", 224)


def notes(root: Path, *, fold: Fold | None = None) -> list[str]:
    """Whom a fold tests and validates on."""
    return fold_notes(fold, FOLDS)


def read(root: Path, *, fold: Fold | None = None, present_from: int = PRESENT_FROM) -> Iterator[Row | Bad]:
    """Rows of all frames with a label and a picture, subject by subject, in order of time.

    Pictures and labels are joined by the number of the frame. Of aligned and whole pictures the aligned are read, of
    two cameras the left; without any picture, the videos.

    Args:
        root: folder or zip.
        fold: 1 to 3, the subjects that are tested; see `FOLDS`. Default: no splits.
        present_from: the least intensity, 1..5, of an action unit that counts as present.

    Raises:
        HonneError: there are no labels or no pictures, or a file of labels is not one frame and one intensity a line.
        WrongCall: no such intensity.
    """
    if not 1 <= present_from <= TOP:
        raise WrongCall(f"--present-from {present_from} is not an intensity.", f"It is 1 to {TOP}.")
    archive, labels = _open(Path(root))
    pictures = _pictures(archive)
    if not pictures.subjects:
        raise missing(archive.root, INFO.expects, "disfa")
    yield from (Bad(archive.path(path), "second picture of a frame", kind="rule") for path in pictures.seconds)
    for subject, files in labels.items():
        split = fold_split(subject, fold, FOLDS) if fold else None
        if fold and split is None:
            yield Bad(archive.path(f"{LABELS}/{subject}"), "subject in none of the folds", kind="rule")
        elif subject not in pictures.subjects:
            yield Bad(archive.path(f"{LABELS}/{subject}"), "subject without a picture", kind="rule")
        else:
            for row in _rows(archive, subject, files, pictures.of(archive, subject), present_from):
                if isinstance(row, Row):
                    row.split = split
                yield row


def _open(root: Path) -> tuple[Archive, dict[str, dict[int, str]]]:
    """The archive, and subject -> action unit -> its file."""
    if not root.exists():
        raise missing(root, INFO.expects, "disfa")
    archive = Archive(root)
    labels: dict[str, dict[int, str]] = {}
    for name in archive.names():
        found = LABEL_FILE.search(name)
        if found and int(found[2]) in UNITS:
            labels.setdefault(found[1].upper(), {})[int(found[2])] = name
    if not labels:
        raise missing(root, INFO.expects, "disfa")
    return archive, labels


# --- labels ------------------------------------------------------------------------------------------------------


def _rows(
    archive: Archive,
    subject: str,
    files: dict[int, str],
    pictures: Iterator[tuple[int, str, Path | bytes | np.ndarray | str]],
    present_from: int,
) -> Iterator[Row | Bad]:
    """Rows of a subject; a picture that is text says why there is none."""
    tables = {unit: read_frame_table(archive, name) for unit, name in files.items()}
    frames = np.unique(np.concatenate([table.frames for table in tables.values()]))
    intensities = np.full((len(frames), len(UNITS)), np.nan)
    for unit, table in tables.items():
        intensities[np.searchsorted(frames, table.frames), UNITS.index(unit)] = table.values[:, 0]
    units, wrong = present(intensities, present_from), _wrong(tables)
    position = {frame: number for number, frame in enumerate(frames.tolist())}
    for frame, where, image in pictures:
        number = position.pop(frame, None)
        if number is None:
            yield Bad(where, "picture without a label", kind="rule")
        elif frame in wrong:
            yield wrong[frame]
        elif isinstance(image, str):
            yield Bad(where, "unreadable frame", image)
        else:
            yield Row(
                f"{subject}/{frame:06d}",
                image,
                subject=subject,
                video=subject,
                time=(frame - 1) / RATE,
                au=units[number],
                au_intensity=intensities[number].astype(np.float32),
            )
    folder = archive.path(f"{LABELS}/{subject}")
    yield from (Bad(f"{folder}, frame {frame}", "label without a picture", kind="rule") for frame in position)


def _wrong(tables: dict[int, FrameTable]) -> dict[int, Bad]:
    """Frame -> what is wrong with its labels."""
    found = {}
    for unit, table in tables.items():
        for row in np.flatnonzero(~np.isin(table.values[:, 0], range(TOP + 1))).tolist():
            frame, value = int(table.frames[row]), table.values[row, 0]
            detail = f"the intensity of AU{unit} is {value:g}, none of 0 to {TOP}"
            found[frame] = Bad(f"{table.where}, frame {frame}", "wrong intensity", detail, "label")
    return found


# --- pictures ----------------------------------------------------------------------------------------------------


@dataclass
class _Pictures:
    """What there is to see.

    Attributes:
        aligned: whether these are aligned faces.
        frames: subject -> frame -> picture; empty where there are only videos.
        videos: subject -> video.
        seconds: pictures of frames that have one already.
    """

    aligned: bool = False
    frames: dict[str, dict[int, str]] = field(default_factory=dict)
    videos: dict[str, str] = field(default_factory=dict)
    seconds: list[str] = field(default_factory=list)

    @property
    def subjects(self) -> set[str]:
        return set(self.frames or self.videos)

    def of(self, archive: Archive, subject: str) -> Iterator[tuple[int, str, Path | bytes | np.ndarray | str]]:
        """Frame, how messages name it, and its picture, in order; or a sentence in place of the picture."""
        for frame, path in sorted(self.frames.get(subject, {}).items()):
            yield frame, archive.path(path), archive.image(path)
        if not self.frames:
            video = archive.path(self.videos[subject])
            for picture in open_media(video).frames():
                frame = picture.index + 1
                yield (
                    frame,
                    f"{video}, frame {frame}",
                    picture.image if picture.image is not None else str(picture.error),
                )


def _pictures(archive: Archive) -> _Pictures:
    images = [path for path in archive.images() if SUBJECT.search(path)]
    kinds = {path: (bool(RIGHT.search(path)), ALIGNED not in path.lower()) for path in images}
    best = min(kinds.values(), default=(False, True))
    found = _Pictures(aligned=not best[1])
    for path in images:
        frame = FRAME.search(PurePosixPath(path).stem)
        if kinds[path] != best or frame is None:
            continue
        frames = found.frames.setdefault(SUBJECT.findall(path)[-1], {})
        if frames.setdefault(int(frame[1]), path) != path:
            found.seconds.append(path)
    if not found.frames:
        videos = [path for path in archive.names() if PurePosixPath(path).suffix.lower() in VIDEOS]
        for path in sorted(filter(SUBJECT.search, videos), key=lambda path: bool(RIGHT.search(path)), reverse=True):
            found.videos[SUBJECT.findall(path)[-1]] = path  # the left camera's last
        if found.videos and archive.zip:
            raise HonneError(f"{archive.root}: the frames are in videos inside a zip.", "Unpack it.")
    return found
