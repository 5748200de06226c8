"""Annotated pictures: boxes, track numbers, expressions and uncertainty drawn into the frames of an analysis."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image, ImageColor, ImageDraw, ImageFont

from honne.analysis.table import OUTPUTS_ARE, POSITION, Layout
from honne.errors import HonneError
from honne.faces.media import Frame

CLOCK = 90_000  # ticks a second, as MP4 usually has
SHORT_SIDE = (480, 1080)  # px: smaller frames are enlarged so that the writing can be read, larger ones shrunk
TRACK_COLOURS = ("#4cc9f0", "#f9a03f", "#7bd389", "#f06595", "#b197fc", "#ffd43b", "#63e6be", "#ff8787")
INK, FAINT, NOTE, GREY = "#ffffff", "#c9ced6", "#ffd43b", "#9aa0a8"
GROUND = (15, 18, 24, 185)  # dark, and the picture shows through
BARS = 3  # most probable expressions shown
UNITS = 12  # most action units shown
TRAIL = 0.5  # s of valence and arousal before a frame that are drawn into it

Row = dict[str, Any]
Box = tuple[float, float, float, float]  # x, y, width, height
Trail = list[tuple[float, float]]  # (valence, arousal), oldest first


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
    trails = _Trails(layout)
    drawn = (
        (annotate(frame.image, rows, layout, caption, frame.time, trails.after(rows, frame.time)), frame.time)
        for frame, rows in _paired(frames, parts)
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


class _Trails:
    """Where each face's valence and arousal were during the last `TRAIL` seconds."""

    def __init__(self, layout: Layout) -> None:
        self.wanted = layout.labels.valence_arousal
        self.found: dict[int, list[tuple[float, float, float]]] = {}

    def after(self, rows: list[Row], time: float) -> dict[int, Trail]:
        """Face -> its trail with the next frame, which is `rows` at `time` (s)."""
        for row in rows if self.wanted else ():
            if row["face"] is not None:
                self.found.setdefault(row["face"], []).append((time, row["valence"], row["arousal"]))
        recent = {face: [each for each in trail if time - each[0] <= TRAIL] for face, trail in self.found.items()}
        self.found = {face: trail for face, trail in recent.items() if trail}
        return {face: [each[1:] for each in trail] for face, trail in self.found.items()}


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
    image: np.ndarray,
    rows: list[Row],
    layout: Layout,
    caption: str,
    time: float | None = None,
    trails: dict[int, Trail] | None = None,
) -> Image.Image:
    """One annotated picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        rows: its finished rows.
        layout: of the rows.
        caption: what stands at the foot.
        time: s, shown at the foot of a video's frame.
        trails: face -> its valence and arousal up to this frame.
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
        canvas.frame(row, scale)
    for row in found:  # after all boxes, which would cross the writing
        canvas.say(row, layout, scale, (trails or {}).get(row["face"], []), crowded=len(found) > 3)
    canvas.foot(f"{OUTPUTS_ARE} · {caption}", "" if found else "no face", time)
    return picture


@dataclass
class _Said:
    """What a panel shows of a face.

    Attributes:
        bars: (name, 0..1) of the best expressions and the uncertainty.
        units: (action unit, probability, whether it counts as visible).
        affect: valence and arousal.
    """

    bars: list[tuple[str, float]]
    units: list[tuple[int, float, bool]]
    affect: tuple[float, float] | None

    @classmethod
    def of(cls, row: Row, layout: Layout) -> _Said:
        best = sorted(((row[f"p_{name}"], name) for name in layout.labels.expressions), reverse=True)[:BARS]
        bars = [(name, share) for share, name in best]
        if row.get("uncertainty") is not None:
            bars.append(("uncertainty", row["uncertainty"]))
        units = [(unit, row[f"au{unit:02d}"], row[f"au{unit:02d}_on"]) for unit in layout.labels.action_units]
        strongest = sorted(units, key=lambda unit: (unit[2], unit[1]), reverse=True)[:UNITS]
        affect = (row["valence"], row["arousal"]) if layout.labels.valence_arousal else None
        return cls(bars, [unit for unit in units if unit in strongest], affect)

    @property
    def height(self) -> float:
        """Of the panel, in units of the canvas."""
        return 32 + 19 * len(self.bars) + 50 * bool(self.units) + 76 * (self.affect is not None)

    @property
    def short(self) -> str:
        """The best expression; of models that name none the visible action units, or valence and arousal."""
        if self.bars:
            return "{} {:.0%}".format(*self.bars[0])
        if self.units:
            return "AU " + (" ".join(str(unit) for unit, _, on in self.units if on) or "none")
        return "valence {:+.2f} arousal {:+.2f}".format(*self.affect) if self.affect else ""


class _Canvas:
    """Drawing on one picture; lengths in px of the picture, type sizes by its short side."""

    def __init__(self, picture: Image.Image) -> None:
        self.width, self.height = picture.size
        self.draw = ImageDraw.Draw(picture, "RGBA")
        self.unit = min(picture.size) / 480  # 1 at 480 px
        self.font = ImageFont.load_default(round(15 * self.unit))
        self.small = ImageFont.load_default(round(12.5 * self.unit))
        self.tiny = ImageFont.load_default(round(10.5 * self.unit))
        self.taken: list[Box] = []  # by faces and panels

    def say(self, row: Row, layout: Layout, scale: float, trail: Trail, crowded: bool) -> None:
        """A panel beside the box, or a short label where faces are many or small, or there is no room."""
        x, y, w, h, colour = _place(row, scale)
        u, said = self.unit, _Said.of(row, layout)
        width, height = 206 * u, said.height * u
        top = max(min(y, self.height - height - 30 * u), 4 * u)
        free = [left for left in (x + w + 8 * u, x - width - 8 * u) if self._free((left, top, width, height))]
        if crowded or h < 110 * u or not free:
            self._label(row, said, x, y, colour)
        else:
            self.taken.append((free[0], top, width, height))
            self._panel(row, said, self.taken[-1], trail, colour)

    def _free(self, place: Box) -> bool:
        """Whether a panel there would lie in the picture, and on no face and no other panel."""
        x, y, w, h = place
        if x < 0 or x + w > self.width or y + h > self.height - 26 * self.unit:
            return False
        return not any(x < a + c and a < x + w and y < b + d and b < y + h for a, b, c, d in self.taken)

    def frame(self, row: Row, scale: float) -> None:
        """Only the corners of the box, so that it does not cover the face."""
        x, y, w, h, colour = _place(row, scale)
        self.taken.append((x, y, w, h))
        arm, line = min(w, h) * 0.22, max(2, round(2.5 * self.unit))
        for cx, sx in ((x, 1), (x + w, -1)):
            for cy, sy in ((y, 1), (y + h, -1)):
                points = [(cx + sx * arm, cy), (cx, cy), (cx, cy + sy * arm)]
                self.draw.line(points, fill=(0, 0, 0, 110), width=line + 2, joint="curve")
                self.draw.line(points, fill=colour, width=line, joint="curve")

    def _plate(self, x: float, y: float, width: float, height: float, radius: float) -> None:
        corners = [round(value) for value in (x, y, x + width, y + height)]  # fractions would show at round corners
        self.draw.rounded_rectangle(corners, round(radius * self.unit), fill=GROUND)

    def _panel(self, row: Row, said: _Said, place: Box, trail: Trail, colour: str) -> None:
        u = self.unit
        x, y, width, height = place
        self._plate(x, y, width, height, 7)
        self.draw.ellipse((x + 10 * u, y + 10 * u, x + 19 * u, y + 19 * u), fill=colour)
        self.draw.text((x + 26 * u, y + 14.5 * u), f"face {row['face']}", INK, self.font, anchor="lm")
        if row["status"] != "ok":
            self.draw.text((x + width - 10 * u, y + 14.5 * u), _spoken(row["status"]), NOTE, self.small, anchor="rm")
            colour = GREY
        x, width, y = x + 10 * u, width - 20 * u, y + 37 * u
        for name, share in said.bars:
            self._bar(name, share, x, y, width, GREY if name == "uncertainty" else colour)
            y += 19 * u
        y -= 5 * u
        if said.units:
            self._units(said.units, x, y, width, colour)
            y += 50 * u
        if said.affect:
            self._affect(said.affect, trail, x, y, width, colour)

    def _bar(self, text: str, share: float, x: float, y: float, width: float, colour: str) -> None:
        u = self.unit
        self.draw.text((x, y), text, FAINT, self.small, anchor="lm")
        left, right = x + 82 * u, x + width - 38 * u
        for end, fill in ((right, (255, 255, 255, 45)), (left + (right - left) * share, colour)):
            corners = [round(value) for value in (left, y - 3.5 * u, end, y + 3.5 * u)]
            if end - left > 2 * u:
                self.draw.rounded_rectangle(corners, round(3 * u), fill=fill)
        self.draw.text((x + width, y), f"{share:.0%}", INK, self.small, anchor="rm")

    def _units(self, units: list[tuple[int, float, bool]], x: float, y: float, width: float, colour: str) -> None:
        """A column for each action unit over its number, bright where the unit counts as visible."""
        u = self.unit
        self.draw.text((x, y + 37 * u), "AU", FAINT, self.tiny, anchor="lm")
        left, step, foot = x + 20 * u, (width - 20 * u) / len(units), round(y + 29 * u)
        fits = min(1.0, 0.85 * step / self.draw.textlength("26", self.tiny))
        font = self.tiny if fits == 1 else ImageFont.load_default(10.5 * u * fits)
        for number, (unit, share, on) in enumerate(units):
            middle, half = left + step * (number + 0.5), min(step * 0.3, 6 * u)
            sides = round(middle - half), round(middle + half)
            self.draw.rectangle((sides[0], round(y + 3 * u), sides[1], foot), (255, 255, 255, 30))
            self.draw.rectangle((sides[0], round(foot - 26 * u * share), sides[1], foot), colour if on else GREY)
            self.draw.text((middle, y + 37 * u), f"{unit}", INK if on else GREY, font, anchor="mm")

    def _affect(self, affect: tuple[float, float], trail: Trail, x: float, y: float, width: float, colour: str) -> None:
        """Valence across and arousal upwards: a dot, and where it came from."""
        u, half = self.unit, 33 * self.unit
        across, up = x + half, y + half + 2 * u
        corners = [round(value) for value in (across - half, up - half, across + half, up + half)]
        self.draw.rounded_rectangle(corners, round(4 * u), fill=(255, 255, 255, 24))
        self.draw.line((across - half, up, across + half, up), (255, 255, 255, 90), max(1, round(u)))
        self.draw.line((across, up - half, across, up + half), (255, 255, 255, 90), max(1, round(u)))
        reach = half - 5 * u
        points = [(across + valence * reach, up - arousal * reach) for valence, arousal in [*trail, affect]]
        self.draw.line(points, (*ImageColor.getrgb(colour), 150), max(1, round(1.5 * u)), joint="curve")
        end, dot = points[-1], 4 * u
        self.draw.ellipse((end[0] - dot, end[1] - dot, end[0] + dot, end[1] + dot), INK, colour, max(1, round(1.5 * u)))
        for name, value, line in (("valence", affect[0], up - 9.5 * u), ("arousal", affect[1], up + 9.5 * u)):
            self.draw.text((x + 82 * u, line), name, FAINT, self.small, anchor="lm")
            self.draw.text((x + width, line), f"{value:+.2f}", INK, self.small, anchor="rm")

    def _label(self, row: Row, said: _Said, x: float, y: float, colour: str) -> None:
        """Number and what matters most in one line above the box, a thin bar for the uncertainty under it."""
        u = self.unit
        text = f"{row['face']}  {said.short}"
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


def _spoken(status: str) -> str:
    return status.replace("_", " ")
