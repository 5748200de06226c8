"""One explained face as a picture: the crop, the map, the attention, the codebook's map, and what they say."""

from __future__ import annotations

import math
from functools import cache
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from honne.cues.drawing import GRID
from honne.explain.agreement import PLACES, Region, sentence
from honne.explain.explainer import AU, Explainer, Explanation
from honne.explain.maps import on_image

TILE, GAP, MARGIN = 288, 16, 24  # px
HEAD, CAPTION, FOOT = 66, 92, 92
GROUND, INK, FAINT, RULE = "#ffffff", "#14171c", "#5b6472", "#d8dce2"
COLOURS = "inferno"
STRONGEST = 0.9  # how much of the face the highest values hide
FAINTEST = 0.1  # values below it fade away
DIMMED = 0.8  # the face under a map, so that colours are the map's
EDGE, LINE = 0.5, 0.85  # level of the codebook's map at which its regions are outlined, and how white
NOTE = "predicted apparent expression: what observers would say they see, not what a person feels"


class Tile(NamedTuple):
    """One of the pictures side by side: itself, and three lines below it."""

    picture: Image.Image
    title: str
    line: str
    more: str = ""


def panel(crop: np.ndarray, explained: Explanation, explainer: Explainer, where: str) -> Image.Image:
    """The picture of one face.

    Args:
        crop: (S, S, 3) uint8, as the model saw it.
        explained: what was found.
        explainer: what found it.
        where: source, frame and number of the face.
    """
    tiles = _tiles(crop, explained, explainer)
    width = 2 * MARGIN + len(tiles) * TILE + (len(tiles) - 1) * GAP
    image = Image.new("RGB", (width, HEAD + TILE + CAPTION + FOOT), GROUND)
    draw = ImageDraw.Draw(image)
    _head(draw, explained, where, width)
    for number, tile in enumerate(tiles):
        left = MARGIN + number * (TILE + GAP)
        image.paste(tile.picture, (left, HEAD))
        write(draw, tile.title, left, HEAD + TILE + 10, 16, INK, TILE)
        write(draw, tile.line, left, HEAD + TILE + 31, 14, FAINT, TILE)
        for row, text in enumerate(wrapped(tile.more, TILE, 14)):
            write(draw, text, left, HEAD + TILE + 50 + 19 * row, 14, FAINT, TILE)
    _foot(image, draw, explained, explainer, width)
    return image


def _tiles(crop: np.ndarray, explained: Explanation, explainer: Explainer) -> list[Tile]:
    whole = Image.fromarray(crop).resize((TILE, TILE), Image.Resampling.BICUBIC)
    ground = whole.convert("L").point([round(DIMMED * value) for value in range(256)]).convert("RGB")
    cue = enlarged(explained.cue)
    line = outline(cue)
    side = crop.shape[0]
    tiles = [Tile(whole, "the face as the model sees it", f"{side} x {side} px")]
    if explainer.kind not in (AU, "attention"):
        title = f"{explainer.kind} of {explained.expression}"
        picture = overlay(ground, enlarged(explained.map, "cam"), line)
        tiles.append(Tile(picture, title, *_said(explained.map, explained.cosine, explained.regions)))
    title = f"attention, layer {explainer.attended}" if explainer.attended != "last" else "attention"
    attention = overlay(ground, enlarged(explained.attention, "attention"), line)
    tiles.append(
        Tile(attention, title, *_said(explained.attention, explained.attention_cosine, explained.attention_regions))
    )
    units = explainer.units[explained.expression]
    title = f"codebook {explainer.codebook}: {explained.expression}"
    if not units:
        return [*tiles, Tile(ground, title, "has no action units for it")]
    places = ", ".join(dict.fromkeys(PLACES[unit] for unit in units))
    if not np.isfinite(explained.cue).all():
        return [*tiles, Tile(ground, title, "the face's landmarks are not known", _listed(units))]
    return [*tiles, Tile(overlay(ground, cue, line), title, _listed(units), places)]


def _listed(units: tuple[int, ...]) -> str:
    return f"AU {', '.join(map(str, units))}"


def _said(values: np.ndarray, cosine: float, regions: tuple[Region, ...]) -> tuple[str, str]:
    """The lines below a map."""
    height, width = values.shape
    cells = f"{height} x {width} cells"
    if math.isfinite(cosine):
        cells += f"; cosine with the codebook's {cosine:.2f}"
    return cells, f"sits on AU {', '.join(region.number for region in regions)}" if regions else ""


def _head(draw: ImageDraw.ImageDraw, explained: Explanation, where: str, width: int) -> None:
    text = explained.predicted
    if explained.expression != text:
        text += f"; explained: {explained.expression}"
    text += f"  {explained.probability:.0%}"
    write(draw, "predicted apparent expression", MARGIN, 14, 14, FAINT)
    write(draw, text, MARGIN, 31, 24, INK)
    write(draw, where, width - MARGIN, 14, 14, FAINT, width / 2, "ra")


def _foot(
    image: Image.Image, draw: ImageDraw.ImageDraw, explained: Explanation, explainer: Explainer, width: int
) -> None:
    top = HEAD + TILE + CAPTION + 8
    draw.line((MARGIN, top, width - MARGIN, top), RULE)
    subject = "attention" if explainer.kind in (AU, "attention") else explainer.kind
    write(draw, sentence(subject, explained.regions), MARGIN, top + 10, 18, INK, width - 2 * MARGIN - 160)
    if math.isfinite(explained.cosine):
        text = f"cosine with the codebook's map {explained.cosine:.2f}; to compare: a blob in the middle would have "
        text += f"{explained.blob:.2f}, and with the maps of other expressions this one has {explained.others:.2f}"
        write(draw, text, MARGIN, top + 37, 14, FAINT, width - 2 * MARGIN)
    write(draw, f"{NOTE} · model {explainer.model.name}", MARGIN, top + 60, 13, FAINT, width - 2 * MARGIN)
    _scale(image, draw, width - MARGIN - 130, top + 14)


def _scale(image: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    bar = Image.fromarray(np.repeat(colours()[None], 9, 0)).resize((66, 9))
    write(draw, "low", left, top + 4, 13, FAINT, anchor="lm")
    image.paste(bar, (left + 30, top))
    write(draw, "high", left + 102, top + 4, 13, FAINT, anchor="lm")


def write(
    draw: ImageDraw.ImageDraw,
    text: str,
    x: float,
    y: float,
    size: int,
    colour: str,
    room: float = math.inf,
    anchor: str = "la",
) -> None:
    """One line of text, smaller or cut where it would not fit into `room` px."""
    while draw.textlength(text, font(size)) > room and size > 11:
        size -= 1
    while draw.textlength(text, font(size)) > room and len(text) > 2:
        text = f"{text[:-2]}…"
    draw.text((x, y), text, colour, font(size), anchor)


def wrapped(text: str, room: float, size: int) -> list[str]:
    """Text in two lines of at most `room` px, broken between words."""
    words = text.split()
    fits = [n for n in range(len(words) + 1) if font(size).getlength(" ".join(words[:n])) <= room]
    return [" ".join(words[: fits[-1]]), " ".join(words[fits[-1] :])]


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font that Pillow brings, in px."""
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))


@cache
def colours() -> np.ndarray:
    """(256, 3) uint8, a scale whose steps look alike."""
    import matplotlib

    return (matplotlib.colormaps[COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def enlarged(values: np.ndarray, kind: Literal["cam", "attention"] = "cam") -> np.ndarray:
    """A (h, w) map in [0, 1] at the size of a tile: as it is compared with the codebook's, then smoothly; NaN stays."""
    if not np.isfinite(values).all():
        return np.full((TILE, TILE), np.nan, np.float32)
    compared = on_image(torch.from_numpy(values)[None], GRID, kind)[0].numpy()
    image = Image.fromarray(compared).resize((TILE, TILE), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)


def overlay(ground: Image.Image, values: np.ndarray, line: np.ndarray) -> Image.Image:
    """A map over a face: high values hide it, low ones let it through; the codebook's regions are outlined.

    Args:
        ground: the face, `TILE` px.
        values: (`TILE`, `TILE`) in [0, 1].
        line: (`TILE`, `TILE`) in [0, 1], how white the outline makes each pixel.
    """
    alpha = (STRONGEST * np.sqrt(values) * (values / FAINTEST).clip(max=1))[..., None]
    mixed = np.asarray(ground) * (1 - alpha) + colours()[(values * 255).astype(int)] * alpha
    mixed += (255 - mixed) * line[..., None]
    return Image.fromarray(mixed.round().astype(np.uint8))


def outline(cue: np.ndarray) -> np.ndarray:
    """(H, W) in [0, 1]: a line, about 1.5 px wide, where a map passes `EDGE`; none for a map that is NaN."""
    steep = np.hypot(*np.gradient(cue)) + 1e-6
    return np.nan_to_num((1.25 - np.abs(cue - EDGE) / steep).clip(0, 1) * LINE)
