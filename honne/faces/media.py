"""Pictures, videos and cameras as one stream of frames in media time."""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from honne.errors import HonneError, WrongCall

STILLS = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2"})
VIDEOS = frozenset(
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".mts", ".m2ts", ".ts", ".3gp"}
    | {".ogv", ".gif", ".mxf", ".vob"}
)
MAX_PIXELS = 160_000_000
"""Larger pictures are refused: as RGB they would take more than half a gigabyte."""
LOST_FRAMES = 5
LOST_SECONDS = 1.0
"""A video is called cut off when it ends by more than this before the frames or seconds that its header promises."""

# `read_image` has its own, larger bound, and says it in a sentence instead of a warning.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Frame:
    """One picture of a medium.

    Attributes:
        index: number of the frame in the medium, from 0; sub-sampling does not renumber.
        time: s of media time, counted from the first frame stored in the file; 0 for a still.
        image: (H, W, 3) uint8 RGB, upright; None where `error` says why it could not be decoded.
        error: one sentence, or None.
    """

    index: int
    time: float
    image: np.ndarray | None
    error: str | None = None


@dataclass(frozen=True)
class Media:
    """Something that yields frames; made by `open_media`.

    Attributes:
        name: the source as the user gave it.
        kind: still, video or camera.
        length: number of frames the medium says it has (before sub-sampling); None if it does not say.
        rate: mean frames per second as the medium states it, or None.
        fps: frames per second of media time to keep at most; None keeps all.
    """

    name: str
    kind: Literal["still", "video", "camera"]
    length: int | None = None
    rate: float | None = None
    fps: float | None = None

    def frames(self, start_index: int = 0) -> Iterator[Frame]:
        """Frames in presentation order, from frame `start_index` on (earlier ones are decoded and dropped).

        Never raises for damaged content: what could be decoded comes first, then one Frame with `error`.
        """
        source = {"still": _still, "video": _video, "camera": _camera}[self.kind]
        return _thinned(source(self.name), self.fps, start_index)


def open_media(source: str | Path, fps: float | None = None) -> Media:
    """Open a picture, a video or a camera.

    Args:
        source: a file, or `camera:N` for the machine's camera number N.
        fps: keep at most this many frames per second of media time.

    Raises:
        HonneError: there is no such file or camera, it is empty, or it is no picture and no video with pictures.
    """
    name = str(source)
    if fps is not None and not fps > 0:
        raise WrongCall(f"fps must be more than 0, not {fps}.")
    if re.fullmatch(r"camera:\d+", name):
        _close(_open_camera(name))
        return Media(name, "camera", fps=fps)
    path = Path(name)
    _require_file(path)
    if path.suffix.lower() in STILLS or (path.suffix.lower() not in VIDEOS and _is_picture(path)):
        return Media(name, "still", length=1)
    container, stream = _open_video(name)
    with container:
        length = stream.frames or _counted(container, stream)
        return Media(name, "video", length, float(stream.average_rate or 0) or None, fps)


def list_inputs(paths: Iterable[str | Path]) -> list[str]:
    """The media that a user named: folders are searched (recursively, sorted by path), doubles dropped.

    Files named one by one are kept whatever their suffix; hidden files inside folders are not.

    Raises:
        HonneError: something named is not there, or nothing to read was found.
    """
    found: dict[str, None] = {}
    names = [str(path) for path in paths]
    for name in names:
        path = Path(name)
        if re.fullmatch(r"camera:\d+", name) or path.is_file():
            found[name] = None
        elif path.is_dir():
            found |= dict.fromkeys(str(file) for file in sorted(path.rglob("*")) if _is_media(file, path))
        elif name.startswith("camera:"):
            raise WrongCall(f"{name}: a camera is named by its number, as in camera:0.")
        else:
            raise HonneError(f"{name}: no such file or folder.", "Check the path.")
    if not found:
        raise HonneError(
            f"{', '.join(names) or 'No input'}: no pictures or videos found.",
            f"Known suffixes: {' '.join(sorted(STILLS | VIDEOS))}.",
        )
    return list(found)


def read_image(source: str | Path | bytes) -> np.ndarray:
    """Decode one picture.

    EXIF orientation is applied. 16-bit grey keeps its upper 8 bits. Transparent parts become white, the ground most
    cut-out portraits are drawn for and viewers show; black would put a hard dark rim around hair and chin.

    Args:
        source: a file, or the encoded bytes.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        HonneError: missing, empty, not a picture, cut off, or more than `MAX_PIXELS`.
    """
    name = f"picture of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes):
        if not source:
            raise HonneError("The picture is empty (0 bytes).", "Copy it again.")
    else:
        _require_file(Path(source))
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise Image.DecompressionBombError
            ImageOps.exif_transpose(image, in_place=True)
            return _pixels(_as_rgb(image))
    except UnidentifiedImageError:
        raise HonneError(f"{name}: this is not a picture.", "Convert it to JPEG or PNG.") from None
    except Image.DecompressionBombError:
        raise HonneError(
            f"{name}: the picture has more than {MAX_PIXELS // 1_000_000} million pixels.", "Shrink it first."
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise HonneError(f"{name}: the picture is damaged or cut off ({reason}).", "Copy it again.") from None


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bit(np.asarray(image)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _pixels(image: Image.Image, rows: int = 512) -> np.ndarray:
    """Like `np.array(image)`, which for a moment holds large pictures four times over; by strips it does not."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _eight_bit(values: np.ndarray) -> Image.Image:
    """Grey of more than 8 bits by the range its numbers use: 0..1 (floats), 0..255, 0..65535 or the full 32 bits."""
    top = float(np.nanmax(values, initial=0))
    if values.dtype.kind == "f":
        scale = 255.0 if top <= 1 else 1.0
    elif values.dtype.itemsize == 2 or 255 < top < 65536:
        scale = 1 / 256
    else:
        scale = 1.0 if top <= 255 else 255 / top
    return Image.fromarray(np.nan_to_num(values * scale).clip(0, 255).astype(np.uint8))


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise HonneError(f"{path}: this is a folder, not a picture or video.", "Name a file in it.")
    if not path.exists():
        raise HonneError(f"{path}: no such file.", "Check the path.")
    if path.is_file() and not path.stat().st_size:
        raise HonneError(f"{path}: the file is empty (0 bytes).", "Copy it again.")


def _is_media(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in STILLS | VIDEOS and file.is_file()


def _is_picture(path: Path) -> bool:
    try:
        with Image.open(path):
            return True
    except Image.DecompressionBombError:
        return True
    except (OSError, SyntaxError, ValueError):
        return False


def _still(name: str) -> Iterator[Frame]:
    try:
        yield Frame(0, 0.0, read_image(name))
    except HonneError as error:
        yield Frame(0, 0.0, None, error.what)


def _thinned(frames: Iterator[Frame | _Undrawn], fps: float | None, start_index: int) -> Iterator[Frame]:
    """The first frame at or after each 1/fps of media time; errors always pass."""
    last = -1
    for frame in frames:
        # Stamps are rounded to the container's time base, so a frame due now may carry a stamp a little early.
        slot = frame.index if fps is None else int((frame.time + 1e-3) * fps)
        if isinstance(frame, Frame) and frame.error is not None:
            yield frame
        elif slot > last:
            last = slot
            if frame.index >= start_index:
                yield frame.drawn() if isinstance(frame, _Undrawn) else frame


@dataclass(frozen=True)
class _Undrawn:
    """A decoded video frame not yet turned to RGB: frames that are dropped never are."""

    index: int
    time: float
    picture: Any
    to_rgb: Callable[[Any], Any]

    def drawn(self) -> Frame:
        image = self.to_rgb(self.picture).to_ndarray()
        turns = round(self.picture.rotation / 90) % 4
        return Frame(self.index, self.time, np.ascontiguousarray(np.rot90(image, turns)))


def _rgb_converter() -> Callable[[Any], Any]:
    """One converter per video: making one per frame, or letting it start threads, costs more than the conversion."""
    reformat = _av().video.reformatter.VideoReformatter().reformat
    threads = {"threads": 1} if "threads" in reformat.__doc__ else {}  # not yet an option in PyAV 14
    return partial(reformat, format="rgb24", **threads)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise HonneError("Reading videos needs PyAV.", "Install it with: pip install 'honne[video]'") from None
    return av


def _open_video(name: str) -> tuple[Any, Any]:
    """Container and its first video stream."""
    av = _av()
    try:
        # An edit list can hide frames that are in the file; every stored frame is a row of the table.
        container = av.open(name, options={"ignore_editlist": "1"}, metadata_errors="replace")
        if not container.streams:
            raise ValueError("no streams in it")
    except (av.FFmpegError, ValueError) as error:
        raise HonneError(
            f"{name}: this is no picture or video that can be read ({_reason(error)}).",
            "A cut-off MP4 or MOV has lost the index at its end; copy it again, or convert it.",
        ) from None
    if not container.streams.video:
        container.close()
        raise HonneError(f"{name}: there is no video stream in it.", "A sound file has no faces to find.")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, stream


def _counted(container: Any, stream: Any) -> int | None:
    """Frames that a container which does not store their number should have, from duration and rate."""
    seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
    return round(seconds * float(stream.average_rate)) or None if stream.average_rate else None


def _video(name: str) -> Iterator[Frame | _Undrawn]:
    container, stream = _open_video(name)
    with container:
        yield from _decoded(name, container, stream)


def _decoded(name: str, container: Any, stream: Any) -> Iterator[Frame | _Undrawn]:
    """All frames that can be decoded; then, if anything was lost, one Frame that says so."""
    av = _av()
    step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
    index, start, now, end, damaged, problem = 0, None, -step, 0.0, 0, ""
    to_rgb = _rgb_converter()
    packets = container.demux()
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            problem, packet = _reason(error), None
        if packet is None:
            break
        if packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is not stream:
            continue
        try:
            pictures = packet.decode()
        except av.FFmpegError as error:
            damaged, problem, pictures = damaged + 1, _reason(error), []
        for picture in pictures:
            if start is None:
                start = picture.time or 0.0
            # Containers without stamps (raw streams, some AVI) go by their nominal rate.
            now = now + step if picture.time is None else picture.time - start
            yield _Undrawn(index, now, picture, to_rgb)
            index += 1
    lost = max(stream.frames - index, 0)
    promised = ((container.start_time or 0) + (container.duration or 0)) / 1e6
    if problem or not index or lost > LOST_FRAMES or promised - end > LOST_SECONDS:
        yield Frame(index, now + step, None, _loss(name, index, lost, damaged, problem))


def _loss(name: str, index: int, lost: int, damaged: int, problem: str) -> str:
    if not index:
        return f"{name}: no frame of the video could be decoded{f' ({problem})' if problem else ''}."
    what = f"{damaged} packets are damaged" if damaged else "the video is cut off"
    missing = f", {lost} are missing" if lost else ""
    return f"{name}: {what} ({problem or 'the file ends early'}); {index} frames were read{missing}."


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _open_camera(name: str) -> Any:
    """A PyAV container or a cv2 capture, whichever this machine's build can do."""
    number = int(name.partition(":")[2])
    missing = HonneError(
        f"{name}: there is no such camera, or it cannot be opened.",
        "Check that it is plugged in, that no other program uses it and that this one is allowed to.",
    )
    if sys.platform == "linux":
        device = f"/dev/video{number}"
        if not Path(device).exists():
            raise missing
        av = _av()
        try:
            return av.open(device, format="v4l2")
        except (av.FFmpegError, ValueError):
            raise missing from None
    try:
        import cv2
    except ImportError:
        raise HonneError("Reading a camera needs OpenCV.", "Install it with: pip install 'honne[face]'") from None
    capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise missing
    return capture


def _close(camera: Any) -> None:
    (camera.release if hasattr(camera, "release") else camera.close)()


def _camera(name: str) -> Iterator[Frame | _Undrawn]:
    """Frames as they come, in seconds since the first one, until the camera stops."""
    camera, start, index = _open_camera(name), None, 0
    try:
        for frame in _shots(camera):
            start = time.monotonic() if start is None else start
            yield replace(frame, index=index, time=time.monotonic() - start)
            index += 1
    except (OSError, ValueError) as error:
        now = 0.0 if start is None else time.monotonic() - start
        yield Frame(index, now, None, f"{name}: the camera stopped after {index} frames ({_reason(error)}).")
    finally:
        _close(camera)


def _shots(camera: Any) -> Iterator[Frame | _Undrawn]:
    if not hasattr(camera, "read"):
        to_rgb = _rgb_converter()
        yield from (_Undrawn(0, 0.0, picture, to_rgb) for picture in camera.decode(video=0))
        return
    while True:
        good, image = camera.read()
        if not good:
            return
        yield Frame(0, 0.0, image[:, :, ::-1].copy())
