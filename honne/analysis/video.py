"""Annotated pictures: boxes, track numbers, expressions and uncertainty drawn into the frames of an analysis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from honne.analysis.table import OUTPUTS_ARE, POSITION, Layout
from honne.errors import HonneError
from honne.faces.media import Frame

CLOCK = 90_000  # ticks a second, as MP4 usually has
SHORT_SIDE = (480, 1080)  # px: smaller frames are enlarged so that the writing can be read, larger ones shrunk
TRACK_COLOURS = ("#4cc9f0", "#f9a03f", "#7bd389", "#f06595", "#b197fc", "#ffd43b", "#63e6be", "#ff8787")
INK, FAINT, NOTE, GREY = "#ffffff", "#c9ced6", "#ffd43b", "#9aa0a8"
GROUND = (15, 18, 24, 185)  # dark, and the picture shows through
BARS = 3  # most probable expressions shown

Row = dict[str, Any]


class ClipWriter:
    """Writes frames as an H.264 MP4 at their own times.

    Args:
        path: of the clip; MP4 whatever its suffix.

    Use as a context manager. Frames must have one size; odd sides lose their last row or column.
    """

    def __init__(self, path: Path) -> None:
        try:
            import av
        except ImportError:
            raise HonneError("Writing videos needs PyAV.", "Install it with: pip install 'honne[video]'") from None
        self._av = av
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> ClipWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def add(self, image: np.ndarray, time: float) -> None:
        """Append one (H, W, 3) uint8 RGB frame shown from `time` (s) on."""
        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "20"})
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
            self._stream.codec_context.time_base = Fraction(1, CLOCK)
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
        self._last = max(round(time * CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(frame))


def annotate_clip(
    frames: Iterable[tuple[str, Frame]], parts: Iterable[pa.Table], path: Path, layout: Layout, caption: str
) -> bool:
    """Write the annotated clip of one video.

    Args:
        frames: the frames that were analysed, in order.
        parts: their finished rows.
        path: of the MP4.
        layout: of the rows.
        caption: what stands at the foot of every frame.

    Returns:
        False if there was no frame to write.
    """
    drawn = (
        (annotate(frame.image, rows, layout, caption, frame.time), frame.time) for frame, rows in _paired(frames, parts)
    )
    first = next(drawn, None)
    if first is None:
        return False
    size = first[0].size
    with ClipWriter(path) as clip:
        clip.add(np.asarray(first[0]), first[1])
        for image, time in drawn:
            clip.add(np.asarray(image if image.size == size else image.resize(size)), time)
    return True


def annotate_stills(
    frames: Iterable[tuple[str, Frame]], parts: Iterable[pa.Table], folder: Path, layout: Layout, caption: str
) -> bool:
    """Write an annotated JPEG for every still into a folder; the same arguments and result as `annotate_clip`."""
    number = -1
    for number, (frame, rows) in enumerate(_paired(frames, parts)):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{number:05d}_{Path(rows[0]['source']).stem}.jpg"
        annotate(frame.image, rows, layout, caption).save(folder / name, quality=92)
    return number >= 0


class _Drawn(NamedTuple):
    """A decoded frame to draw on."""

    image: np.ndarray
    time: float


def _paired(frames: Iterable[tuple[str, Frame]], parts: Iterable[pa.Table]) -> Iterator[tuple[_Drawn, list[Row]]]:
    """Every decoded frame with its rows."""
    rows = (row for part in parts for row in part.to_pylist())
    grouped = groupby(rows, key=lambda row: row[POSITION])
    for (_, frame), (_, group) in zip(frames, grouped, strict=False):
        here = list(group)
        if frame.image is not None:
            yield _Drawn(frame.image, frame.time), here


def annotate(
    image: np.ndarray, rows: list[Row], layout: Layout, caption: str, time: float | None = None
) -> Image.Image:
    """One annotated picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        rows: its finished rows.
        layout: of the rows.
        caption: what stands at the foot.
        time: s, shown at the foot of a video's frame.
    """
    picture = Image.fromarray(image)
    short = min(picture.size)
    scale = float(np.clip(short, *SHORT_SIDE)) / short
    if scale != 1:
        size = round(picture.width * scale), round(picture.height * scale)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    canvas = _Canvas(picture)
    found = [row for row in rows if row["face"] is not None]
    for row in found:
        canvas.box(row, scale)
    for row in found:  # after all boxes, which would cross the writing
        canvas.say(row, layout, scale, crowded=len(found) > 3)
    canvas.foot(f"{OUTPUTS_ARE} · {caption}", "" if found else "no face", time)
    return picture


class _Canvas:
    """Drawing on one picture; lengths in px of the picture, type sizes by its short side."""

    def __init__(self, picture: Image.Image) -> None:
        self.width, self.height = picture.size
        self.draw = ImageDraw.Draw(picture, "RGBA")
        self.unit = min(picture.size) / 480  # 1 at 480 px
        self.font = ImageFont.load_default(round(15 * self.unit))
        self.small = ImageFont.load_default(round(12.5 * self.unit))

    def say(self, row: Row, layout: Layout, scale: float, crowded: bool) -> None:
        """A panel beside the box, or a short label where faces are many or small."""
        x, y, w, h, colour = _place(row, scale)
        lines = _lines(row, layout)
        width, height = self._panel_size(lines)
        room = [left for left in (x + w + 8 * self.unit, x - width - 8 * self.unit) if 0 <= left <= self.width - width]
        if crowded or h < height * 0.8 or not room:
            self._label(row, lines, x, y, colour)
        else:
            top = min(max(y, 4 * self.unit), self.height - height - 30 * self.unit)
            self._panel(row, lines, room[0], top, colour)

    def box(self, row: Row, scale: float) -> None:
        """Only the corners of the box, so that it does not cover the face."""
        x, y, w, h, colour = _place(row, scale)
        arm, line = min(w, h) * 0.22, max(2, round(2.5 * self.unit))
        for cx, sx in ((x, 1), (x + w, -1)):
            for cy, sy in ((y, 1), (y + h, -1)):
                points = [(cx + sx * arm, cy), (cx, cy), (cx, cy + sy * arm)]
                self.draw.line(points, fill=(0, 0, 0, 110), width=line + 2, joint="curve")
                self.draw.line(points, fill=colour, width=line, joint="curve")

    def _plate(self, x: float, y: float, width: float, height: float, radius: float) -> None:
        corners = [round(value) for value in (x, y, x + width, y + height)]  # fractions would show at round corners
        self.draw.rounded_rectangle(corners, round(radius * self.unit), fill=GROUND)

    def _panel_size(self, lines: list[tuple[str, float | None]]) -> tuple[float, float]:
        return 206 * self.unit, (32 + 21 * len(lines)) * self.unit

    def _panel(self, row: Row, lines: list[tuple[str, float | None]], x: float, y: float, colour: str) -> None:
        u = self.unit
        width, height = self._panel_size(lines)
        self._plate(x, y, width, height, 7)
        self.draw.ellipse((x + 10 * u, y + 10 * u, x + 19 * u, y + 19 * u), fill=colour)
        self.draw.text((x + 26 * u, y + 14.5 * u), f"face {row['face']}", INK, self.font, anchor="lm")
        if row["status"] != "ok":
            self.draw.text((x + width - 10 * u, y + 14.5 * u), _spoken(row["status"]), NOTE, self.small, anchor="rm")
        for number, (text, share) in enumerate(lines):
            self._bar(text, share, x + 10 * u, y + (37 + 21 * number) * u, width - 20 * u, row, colour)

    def _bar(self, text: str, share: float | None, x: float, y: float, width: float, row: Row, colour: str) -> None:
        u = self.unit
        self.draw.text((x, y), text, FAINT, self.small, anchor="lm")
        if share is None:
            return
        left, right = x + 82 * u, x + width - 38 * u
        if text == "uncertainty" or row["status"] != "ok":
            colour = GREY
        for end, fill in ((right, (255, 255, 255, 45)), (left + (right - left) * share, colour)):
            corners = [round(value) for value in (left, y - 3.5 * u, end, y + 3.5 * u)]
            if end - left > 2 * u:
                self.draw.rounded_rectangle(corners, round(3 * u), fill=fill)
        self.draw.text((x + width, y), f"{share:.0%}", INK, self.small, anchor="rm")

    def _label(self, row: Row, lines: list[tuple[str, float | None]], x: float, y: float, colour: str) -> None:
        """Number and best expression in one line above the box, a thin bar for the uncertainty under it."""
        u = self.unit
        name, share = lines[0] if lines else ("", None)
        text = f"{row['face']}  {name}" + (f" {share:.0%}" if share is not None else "")
        text = text if row["status"] == "ok" else f"{row['face']}  {_spoken(row['status'])}"
        width, height = self.draw.textlength(text, self.small) + 12 * u, 19 * u
        left = min(max(x, 0), self.width - width)
        top = max(y - height - 4 * u, 0)
        self._plate(left, top, width, height, 5)
        self.draw.text((left + 6 * u, top + height / 2 - u), text, colour, self.small, anchor="lm")
        if row.get("uncertainty") is not None:
            start, line = left + 6 * u, top + height - 2.5 * u
            end = start + (width - 12 * u) * row["uncertainty"]
            self.draw.line((start, line, end, line), GREY, max(1, round(1.5 * u)))

    def foot(self, caption: str, note: str, time: float | None) -> None:
        """A strip with what the picture shows, a note and the time."""
        u, height = self.unit, 26 * self.unit
        self.draw.rectangle((0, self.height - height, self.width, self.height), fill=GROUND)
        middle = self.height - height / 2
        self.draw.text((10 * u, middle), caption, FAINT, self.small, anchor="lm")
        right = self.width - 10 * u
        if time is not None:
            self.draw.text((right, middle), f"{int(time // 60):02d}:{time % 60:05.2f}", INK, self.small, anchor="rm")
            right -= 68 * u
        self.draw.text((right, middle), note, NOTE, self.small, anchor="rm")


def _place(row: Row, scale: float) -> tuple[float, float, float, float, str]:
    """Box in px of the picture, and the colour of its track."""
    x, y, w, h = (row[f"box_{side}"] * scale for side in "xywh")
    return x, y, w, h, TRACK_COLOURS[row["face"] % len(TRACK_COLOURS)]


def _lines(row: Row, layout: Layout) -> list[tuple[str, float | None]]:
    """(name, 0..1) of what a panel shows: best expressions, uncertainty, valence and arousal, visible action units."""
    best = sorted(((row[f"p_{name}"], name) for name in layout.labels.expressions), reverse=True)[:BARS]
    lines: list[tuple[str, float | None]] = [(name, share) for share, name in best]
    if row.get("uncertainty") is not None:
        lines.append(("uncertainty", row["uncertainty"]))
    if layout.labels.valence_arousal:
        lines.append((f"valence {row['valence']:+.2f}   arousal {row['arousal']:+.2f}", None))
    visible = [f"{unit}" for unit in layout.labels.action_units if row[f"au{unit:02d}_on"]]
    if layout.labels.action_units:
        lines.append((f"AU {' '.join(visible) or '-'}", None))
    return lines


def _spoken(status: str) -> str:
    return status.replace("_", " ")
