"""Charts of a report as SVG and HTML, in the page's own colours, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from honne.report.page import Html, html

COLOURS = ("var(--one)", "var(--two)", "var(--neutral)")
"""Of the first, second and third series."""


def keys(names: Iterable[str]) -> Html:
    """What the colours mean, in the order of the series."""
    return Html("".join(
        f'<span class="key"><i style="--colour:{colour}"></i>{html(name)}</span>'
        for name, colour in zip(names, COLOURS, strict=False)
    ))  # fmt: skip


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]], *, x_label: str, y_label: str, percent: bool = False
) -> Html:
    """Lines over a common axis.

    Args:
        series: name -> (x, y) points; the first series has the first colour.
        x_label: below the axis.
        y_label: above the chart.
        percent: show y in per cent.
    """
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points if math.isfinite(y)]
    if not ys:
        return Html("")
    ticks = _ticks(min(ys), max(ys))
    frame = _Frame((min(xs), max(max(xs), min(xs) + 1)), (ticks[0], ticks[-1]))
    parts = [frame.grid(ticks, percent), frame.x_axis(_ticks(*frame.x, whole=True)), frame.labels(x_label, y_label)]
    for (name, points), colour in zip(series.items(), COLOURS, strict=False):
        path = " ".join(f"{frame.at(x, y)}" for x, y in points if math.isfinite(y))
        last = points[-1]
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.2" stroke-linejoin="round">'
            f"<title>{html(name)}</title></polyline>"
            f'<circle cx="{frame.across(last[0]):.1f}" cy="{frame.up(last[1]):.1f}" r="3.4" fill="{colour}"/>'
        )
    return frame.svg(parts, f"{y_label} over {x_label}")


def reliability(models: Mapping[str, Sequence[Mapping[str, Any]]]) -> Html:
    """Share right against confidence; the area of a dot follows the number of rows.

    Args:
        models: name -> the bins of an evaluation's `calibration`.
    """
    frame = _Frame((0, 1), (0, 1), height=400)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    parts = [
        frame.grid(ticks, percent=True),
        frame.x_axis(ticks, percent=True),
        frame.labels("confidence in the predicted class", "share right"),
        f'<polyline class="ideal" points="{frame.at(0, 0)} {frame.at(1, 1)}"/>',
    ]
    for (name, bins), colour in zip(models.items(), COLOURS, strict=False):
        used = [line for line in bins if line["rows"]]
        total = sum(line["rows"] for line in used) or 1
        path = " ".join(frame.at(line["confidence"], line["accuracy"]) for line in used if line["rows"] > total / 100)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5" opacity=".55"/>')
        for line in used:
            radius = 2.5 + 14 * math.sqrt(line["rows"] / total)
            said = f"{name}: {line['rows']} rows, confidence {line['confidence']:.0%}, right {line['accuracy']:.0%}"
            x, y = frame.across(line["confidence"]), frame.up(line["accuracy"])
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" fill-opacity=".45" '
                f'stroke="{colour}"><title>{html(said)}</title></circle>'
            )
    return frame.svg(parts, "reliability diagram")


def confusion(counts: Sequence[Sequence[float]], names: Sequence[str]) -> Html:
    """Per cent of each labelled class (rows) by predicted class (columns).

    Args:
        counts: (C, C).
        names: of the classes.
    """
    matrix = np.asarray(counts, float)
    shares = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    top = "".join(f'<th class="top" title="predicted {html(name)}">{html(name[:4])}</th>' for name in names)
    lines = []
    for name, row in zip(names, shares, strict=True):
        cells = "".join(_cell(share) for share in row)
        lines.append(f'<tr><th class="side">{html(name)}</th>{cells}</tr>')
    head, body = f'<tr><th class="side"></th>{top}</tr>', "".join(lines)
    return Html(f'<table class="confusion"><thead>{head}</thead><tbody>{body}</tbody></table>')


def _cell(share: float) -> str:
    kind = ' class="full"' if share > 60 else ""
    return f'<td{kind} style="--share:{share:.0f}">{f"{share:.0f}" if share >= 0.5 else ""}</td>'


def intervals(entries: Sequence[Mapping[str, float]], span: tuple[float, float] | None = None) -> Html:
    """Values with their intervals as dots and whiskers, one below the other.

    Args:
        entries: each with `value`, `low`, `high`; the first has the first colour.
        span: ends of the scale; the intervals' own by default.
    """
    low, high = span or (min(e["low"] for e in entries), max(e["high"] for e in entries))
    room = (high - low or 1) * 0.06
    place = lambda value: 4 + 192 * (value - low + room) / (high - low + 2 * room or 1)  # noqa: E731
    parts = []
    for row, (entry, colour) in enumerate(zip(entries, COLOURS, strict=False)):
        y = 9 + 14 * row
        parts.append(
            f'<line x1="{place(entry["low"]):.1f}" x2="{place(entry["high"]):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
            f'stroke-width="2" stroke-linecap="round" opacity=".6"/>'
            f'<circle cx="{place(entry["value"]):.1f}" cy="{y}" r="4.2" fill="{colour}"/>'
        )
    height = 14 * len(entries) + 4
    return Html(f'<svg class="whisker" viewBox="0 0 200 {height}" aria-hidden="true">{"".join(parts)}</svg>')


def bars(names: Sequence[str], series: Sequence[Sequence[float]], *, tall: bool = False) -> Html:
    """Shares of classes as bars, several series per class.

    Args:
        names: of the classes.
        series: each one value 0..1 per class; a single series has the second colour, three have neutral first.
        tall: one thick bar per class.
    """
    colours = {1: COLOURS[1:2], 2: COLOURS[:2], 3: (COLOURS[2], COLOURS[0], COLOURS[1])}[len(series)]
    lines = []
    for place, name in enumerate(names):
        values = [each[place] for each in series]
        track = "".join(
            f'<i style="--value:{100 * value:.1f};--colour:{colour}"></i>'
            for value, colour in zip(values, colours, strict=True)
        )
        shown = " / ".join(f"{value:.0%}" for value in values)
        lines.append(f'<span class="name">{html(name)}</span><span class="track">{track}</span>')
        lines.append(f'<span class="value">{shown}</span>')
    return Html(f'<div class="bars{" tall" if tall else ""}">{"".join(lines)}</div>')


class _Frame:
    """The axes of a chart: data coordinates to a box of 460 px."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: int = 460, height: int = 260) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        self.left, self.right, self.top, self.bottom = 44, width - 12, 26, height - 40

    def across(self, value: float) -> float:
        return self.left + (self.right - self.left) * (value - self.x[0]) / (self.x[1] - self.x[0] or 1)

    def up(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.y[0]) / (self.y[1] - self.y[0] or 1)

    def at(self, x: float, y: float) -> str:
        return f"{self.across(x):.1f},{self.up(y):.1f}"

    def grid(self, ticks: Sequence[float], percent: bool) -> str:
        lines = []
        for tick in ticks:
            y = self.up(tick)
            lines.append(f'<line class="gridline" x1="{self.left}" x2="{self.right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            lines.append(f'<text class="axis" x="{self.left - 8}" y="{y + 4:.1f}" text-anchor="end">')
            lines.append(f"{_tick(tick, percent)}</text>")
        return "".join(lines)

    def x_axis(self, ticks: Sequence[float], percent: bool = False) -> str:
        return "".join(
            f'<text class="axis" x="{self.across(tick):.1f}" y="{self.bottom + 18}" text-anchor="middle">'
            f"{_tick(tick, percent)}</text>"
            for tick in ticks
            if self.x[0] <= tick <= self.x[1]
        )

    def labels(self, x_label: str, y_label: str) -> str:
        return (
            f'<text class="axis" x="{self.right}" y="{self.height - 4}" text-anchor="end">{html(x_label)}</text>'
            f'<text class="axis" x="0" y="11">{html(y_label)}</text>'
        )

    def svg(self, parts: Sequence[str], label: str) -> Html:
        box = f"0 0 {self.width} {self.height}"
        return Html(f'<svg viewBox="{box}" role="img" aria-label="{html(label)}">{"".join(parts)}</svg>')


def _tick(value: float, percent: bool) -> str:
    return f"{value:.0%}" if percent else f"{value:g}"


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round numbers that enclose a range."""
    step = (high - low or 1) / 4
    power = 10 ** math.floor(math.log10(step))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= step - 1e-12)
    if whole:
        step = max(round(step), 1)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(step * place, 10) for place in range(first, last + 1)]
