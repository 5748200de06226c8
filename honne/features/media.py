"""Sound and times of a clip, read once from front to back whatever its length and the number of utterances."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from honne.errors import HonneError
from honne.features.transcript import Utterance

Item = TypeVar("Item")
Made = TypeVar("Made")
GAP = 0.05
"""Seconds without stamps from which sound is taken to be missing, not only stamped roughly: it becomes silence."""
DAMAGED = 0.1
"""Share of damaged sound packets up to which they count as silence; with more the clip is an error."""


@dataclass(frozen=True)
class Tracks:
    """What a clip consists of.

    Attributes:
        sound: whether it has a sound track.
        pictures: whether it has a video track; the cover of a sound file is none.
        duration: s as its header says; 0 where it does not.
    """

    sound: bool
    pictures: bool
    duration: float


@dataclass(frozen=True)
class Outline:
    """When a clip's frames are shown, without decoding them.

    Attributes:
        times: (F,) s of media time of each frame, sorted; empty without pictures.
        duration: s from the first frame (or sample) to the end of the longest track.
    """

    times: np.ndarray
    duration: float

    def frame(self, time: float) -> int | None:
        """Number of the first frame shown at or after a time; the last one near the end; None without pictures."""
        if not len(self.times):
            return None
        return min(int(np.searchsorted(self.times, time - 1e-6)), len(self.times) - 1)


def tracks(clip: Path) -> Tracks:
    """What is in a clip.

    Raises:
        HonneError: it cannot be read, PyAV is not installed, or it has neither sound nor pictures.
    """
    with _opened(clip) as container:
        sound, pictures = bool(container.streams.audio), _pictures(container) is not None
        duration = (container.duration or 0) / 1e6
    if not (sound or pictures):
        raise HonneError(f"{clip}: there is neither sound nor video in it.", "Name a video or a sound file.")
    return Tracks(sound, pictures, duration)


def outline(clip: Path) -> Outline:
    """Times of all frames, and the duration.

    Raises:
        HonneError: as `tracks`, or the file is damaged.
    """
    av = _av()
    times: list[float] = []
    end = 0.0
    with _opened(clip, ignore_editlist="1") as container:  # as `honne.faces.media` counts frames
        stream, start = _pictures(container), _start(container)
        try:
            for packet in container.demux():
                if packet.pts is None:
                    continue
                time = float(packet.pts * packet.time_base)
                end = max(end, time + float((packet.duration or 0) * packet.time_base) - start)
                if packet.stream is stream:
                    times.append(time)
        except av.FFmpegError as error:
            raise _damaged(clip, "it", error) from None
    shown = np.sort(np.array(times))
    return Outline(shown - shown[0] if len(shown) else shown, end)


def sounds(clip: Path, utterances: Sequence[Utterance], rate: int) -> Iterator[np.ndarray | None]:
    """The sound of each utterance.

    Samples stand where their stamps say: a track that begins after the pictures begins with silence, a gap is silence.

    Args:
        clip: with a sound track.
        utterances: in order of their starts.
        rate: samples per second to bring the sound to.

    Yields:
        (N,) float32, mono, -1..1; None where the track has ended before or is yet to begin.

    Raises:
        HonneError: the sound is damaged.
    """

    def where(chunk: tuple[int, np.ndarray]) -> tuple[float, float]:
        return chunk[0] / rate, (chunk[0] + len(chunk[1])) / rate

    gathered_chunks = gathered(_chunks(clip, rate), utterances, where, lambda chunk: chunk)
    for utterance, chunks in zip(utterances, gathered_chunks, strict=True):
        yield _joined(chunks, utterance, rate)


def gathered(
    items: Generator[Item, None, None],
    utterances: Sequence[Utterance],
    where: Callable[[Item], tuple[float, float]],
    make: Callable[[Item], Made],
) -> Iterator[list[Made]]:
    """What each utterance needs of a stream, given as soon as later items cannot belong to it.

    Args:
        items: in order of time.
        utterances: in order of their starts.
        where: begin and end of an item, s.
        make: what to keep of an item; called once for each that some utterance needs.
    """
    waiting: deque[tuple[Utterance, list[Made]]] = deque((each, []) for each in utterances)
    with closing(items):
        for item in items:
            begin, end = where(item)
            made: list[Made] = []
            for utterance, found in waiting:
                if utterance.start >= end:
                    break
                if begin < utterance.end:
                    made = made or [make(item)]
                    found += made
            while waiting and waiting[0][0].end <= begin:
                yield waiting.popleft()[1]
            if not waiting:
                return
    yield from (found for _, found in waiting)


def _joined(chunks: Sequence[tuple[int, np.ndarray]], utterance: Utterance, rate: int) -> np.ndarray | None:
    if not chunks:
        return None
    first, end = round(utterance.start * rate), chunks[-1][0] + len(chunks[-1][1])
    if utterance.stop is not None:
        end = min(end, round(utterance.stop * rate))
    if end <= first:
        return None
    samples = np.zeros(end - first, np.float32)
    for position, chunk in chunks:
        left, right = max(position, first), min(position + len(chunk), end)
        if right > left:
            samples[left - first : right - first] = chunk[left - position : right - position]
    return samples


def _chunks(clip: Path, rate: int) -> Generator[tuple[int, np.ndarray], None, None]:
    """(position, samples) of the first sound track, mono, positions counted from the start of the media time."""
    av = _av()
    with _opened(clip) as container:
        start = _start(container)
        resampler = av.AudioResampler("flt", "mono", rate)
        position, expected, packets, damaged, problem = 0, None, 0, 0, None
        try:
            for packet in container.demux(container.streams.audio[0]):
                packets += 1
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    damaged, problem, frames = damaged + 1, error, []
                for frame in frames:
                    time = expected if frame.time is None else frame.time - start
                    if expected is None:
                        expected = time or 0.0
                        position = round(expected * rate)
                    elif time is not None and time - expected > GAP:
                        position += round((time - expected) * rate)
                        expected = time
                    expected += frame.samples / frame.sample_rate
                    frame.pts = None  # the resampler is to convert samples, not to judge stamps
                    for samples in _resampled(resampler, frame):
                        yield position, samples
                        position += len(samples)
            for samples in _resampled(resampler, None) if expected is not None else ():
                yield position, samples
                position += len(samples)
        except (av.FFmpegError, ValueError) as error:
            raise _damaged(clip, "its sound", error) from None
        if problem is not None and damaged > DAMAGED * packets:
            raise _damaged(clip, "its sound", problem)


def _resampled(resampler: Any, frame: Any) -> Iterable[np.ndarray]:
    return [np.ascontiguousarray(each.to_ndarray()[0], np.float32) for each in resampler.resample(frame)]


def _pictures(container: Any) -> Any:
    """The video track; None where there is only the cover of a sound file, or not even that."""
    cover = _av().stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def _start(container: Any) -> float:
    """When media time begins, s by the container's stamps: at the first picture, else at the first sample."""
    stream = _pictures(container) or next(iter(container.streams.audio), None)
    return float(stream.start_time * stream.time_base) if stream is not None and stream.start_time else 0.0


def _opened(clip: Path, **options: str) -> Any:
    av = _av()
    try:
        return av.open(str(clip), options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise HonneError(
            f"{clip}: this is no video or sound file that can be read ({_reason(error)}).",
            "Check the path; copy the file again, or convert it.",
        ) from None


def _damaged(clip: Path, what: str, error: Exception) -> HonneError:
    return HonneError(f"{clip}: {what} is damaged ({_reason(error)}).", "Copy the file again, or convert it.")


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).rstrip(".")


def _av() -> Any:
    try:
        import av
        import av.stream
    except ImportError:
        raise HonneError("Reading clips needs PyAV.", "Install it with: pip install 'honne[video]'") from None
    return av
