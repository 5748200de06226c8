"""The page of a report and its plain parts. Parts are `Html`; any other text is escaped."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import honne
from honne.card import RESPONSIBLE_USE
from honne.data.manifest import replacing


class Html(str):
    """Text that is HTML already."""


def html(text: Any) -> Html:
    """Text made safe for a page; `Html` stays as it is."""
    return text if isinstance(text, Html) else Html(escape(str(text)))


def paragraph(text: str | Html, kind: str = "") -> Html:
    """A paragraph; `kind` is a class of the style sheet: `lead`, `quiet` or `note`."""
    return Html(f'<p class="{kind}">{html(text)}</p>' if kind else f"<p>{html(text)}</p>")


def card(*parts: str | Html, title: str = "") -> Html:
    """A box with a title."""
    heading = f"<h3>{html(title)}</h3>" if title else ""
    return Html(f'<div class="card">{heading}{"".join(map(html, parts))}</div>')


def columns(*parts: Html, least: int = 320, stretch: bool = False) -> Html:
    """Parts side by side where there is room.

    Args:
        parts: of the page.
        least: width below which they go under each other, px.
        stretch: give parts of one line the same height.
    """
    kind = "columns stretch" if stretch else "columns"
    return Html(f'<div class="{kind}" style="--least:{least}px">{"".join(parts)}</div>')


def figures(entries: Iterable[tuple[str, str]]) -> Html:
    """The few numbers to remember: pairs of figure and what it is."""
    cells = "".join(f'<div class="card"><b>{html(value)}</b><span>{html(text)}</span></div>' for value, text in entries)
    return Html(f'<div class="figures">{cells}</div>')


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()) -> Html:
    """A table that scrolls sideways on narrow screens.

    Args:
        head: column titles.
        rows: cells.
        numbers: columns to align right.
    """

    def cell(tag: str, place: int, value: Any) -> str:
        kind = ' class="number"' if place in numbers else ""
        return f"<{tag}{kind}>{html(value)}</{tag}>"

    titles = "".join(cell("th", place, title) for place, title in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(cell("td", place, value) for place, value in enumerate(row)) + "</tr>" for row in rows
    )
    return Html(f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>')


def facts(entries: Mapping[str, Any]) -> Html:
    """Names and values, one a line."""
    lines = "".join(f"<tr><td>{html(name)}</td><td>{html(value)}</td></tr>" for name, value in entries.items())
    return Html(f'<table class="facts"><tbody>{lines}</tbody></table>')


def code(text: str) -> Html:
    """Lines to type."""
    return Html(f"<pre>{html(text)}</pre>")


def picture(
    image: np.ndarray | Image.Image | Path, alt: str, caption: str | Html = "", width: int | None = None
) -> Html:
    """A picture inside the page.

    Args:
        image: (H, W, 3) uint8, a Pillow image, or a PNG or JPEG file.
        alt: what it shows, for people who do not see it.
        caption: below it.
        width: shown at most this wide, px.
    """
    if isinstance(image, Path):
        encoded, kind = image.read_bytes(), "png" if image.suffix.lower() == ".png" else "jpeg"
    else:
        stream = io.BytesIO()
        shown = image if isinstance(image, Image.Image) else Image.fromarray(image)
        shown.convert("RGB").save(stream, "JPEG", quality=88, subsampling=0)
        encoded, kind = stream.getvalue(), "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
    style = f' style="width:{width}px"' if width else ""
    drawn = f'<img src="{source}" alt="{escape(alt)}"{style} loading="lazy">'
    return Html(f"<figure>{drawn}<figcaption>{html(caption)}</figcaption></figure>" if caption else drawn)


@dataclass
class Page:
    """A report.

    Args:
        title: headline.
        lead: what this is, in a sentence or two.
        eyebrow: the short line above the title.

    Example:
        page = Page("Audit of my model", "How well it knows what it does not know.")
        page.section("Calibration", paragraph("..."), reliability({"my model": bins}))
        page.write(Path("audit.html"))
    """

    title: str
    lead: str = ""
    eyebrow: str = "honne"
    parts: list[Html] = field(default_factory=list)

    def add(self, *parts: Html) -> None:
        """Parts without a heading."""
        self.parts += parts

    def section(self, heading: str, *parts: Html) -> None:
        """A section with its heading."""
        self.parts.append(Html(f"<section><h2>{html(heading)}</h2>{''.join(parts)}</section>"))

    def render(self) -> str:
        """The whole page, with the sentence on responsible use."""
        style = (resources.files("honne.report") / "style.css").read_text(encoding="utf-8")
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="honne {honne.__version__}">
<title>{html(self.title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<p class="eyebrow">{html(self.eyebrow)}</p>
<h1>{html(self.title)}</h1>
{paragraph(self.lead, "lead") if self.lead else ""}
{paragraph(RESPONSIBLE_USE, "note")}
{"".join(self.parts)}
<footer>Made by honne {honne.__version__}. This page needs no network and sends nothing anywhere.</footer>
</main>
</body>
</html>
"""

    def write(self, path: Path) -> Path:
        """Write the page, whole or not at all."""
        with replacing(path) as aside:
            aside.write_text(self.render(), encoding="utf-8")
        return path
