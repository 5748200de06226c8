"""An evaluation as a picture: confusion and reliability of expressions, F1 of action units, valence and arousal,
accuracy of emotions, sentiment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator, PercentFormatter, StrMethodFormatter
from scipy import stats

from honne.data.manifest import replacing
from honne.evaluation.printing import name_of, resampled, shown, warnings_of
from honne.evaluation.scoring import Scored

INK, SOFT, ACCENT, WARNING = "#1f2933", "#8795a1", "#1f5f8b", "#b45309"
COLOURS = "GnBu"  # lightness falls steadily from 0 to 100 %: readable in grey and by the colour-blind
HEADLINE = (
    *("accuracy", "balanced_accuracy", "macro_f1", "ece", "au_f1", "au_auc", "ccc_valence", "ccc_arousal"),
    *("emotion_accuracy", "emotion_f1", "acc7", "acc2", "acc2_positive", "mae", "corr"),
)
PANEL = (6.2, 5.4)  # inches

Panel = Callable[[SubFigure], None]


def draw(path: Path, result: dict[str, Any], scored: Scored) -> None:
    """Write the picture of an evaluation.

    Args:
        path: PNG file.
        result: figures, as `honne.evaluate` returns them.
        scored: the rows they come from.
    """
    panels = _panels(result, scored)
    columns = min(len(panels), 2 if len(panels) <= 4 else 3)
    lines = -(-len(panels) // columns)
    heading = 1.15
    size = (PANEL[0] * columns, PANEL[1] * lines + heading)
    figure = Figure(figsize=size, facecolor="white")
    FigureCanvasAgg(figure)
    top, below = figure.subfigures(2, 1, squeeze=False, height_ratios=[heading, size[1] - heading]).flat
    _heading(top, result, columns)
    for place, draw_panel in zip(below.subfigures(lines, columns, squeeze=False).flat, panels, strict=False):
        draw_panel(place)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _panels(result: dict[str, Any], scored: Scored) -> list[Panel]:
    panels: list[Panel] = []
    if "confusion" in result:
        panels += [partial(_confusion, result=result), partial(_reliability, result=result)]
    if "units" in result:
        panels.append(partial(_units, result=result))
    if scored.affect is not None and scored.affect_labels is not None:
        for column, name in enumerate(("valence", "arousal")):
            known = ~scored.affect_labels[:, column].isnan()
            if known.any():
                pair = (scored.affect_labels[known, column].numpy(), scored.affect[known, column].numpy())
                panels.append(partial(_affect, result=result, name=name, pair=pair))
    if "emotions" in result:
        panels.append(partial(_emotions, result=result))
    if scored.sentiment is not None and scored.sentiment_labels is not None:
        known = ~scored.sentiment_labels.isnan()
        pair = (scored.sentiment_labels[known].numpy(), scored.sentiment[known].numpy())
        panels.append(partial(_sentiment, result=result, pair=pair))
    return panels


def _heading(place: SubFigure, result: dict[str, Any], columns: int) -> None:
    title = f"{result['model']['name']} on {result['data']['name']}, {result['split']}"
    place.text(0.02, 0.78, title, size=15, weight="bold", color=INK, va="center")
    found = [f"{name_of(name)} {shown(result['metrics'][name])}" for name in HEADLINE if name in result["metrics"]]
    place.text(0.02, 0.47, "    ".join(found[: 2 * columns]), size=10, color=INK, va="center")
    warnings = warnings_of(result)
    line = f"{result['rows']:,} rows, 95 % intervals over {resampled(result)}. Predicted apparent expression."
    line = warnings[0] if warnings else line
    place.text(0.02, 0.2, line, size=9, color=WARNING if warnings else SOFT, va="center")


def _axes(place: SubFigure, title: str, **box: float) -> Axes:
    axes = place.add_axes((box["left"], box["bottom"], box["width"], box["height"]))
    axes.set_title(title, loc="left", size=11, weight="bold", color=INK, pad=10)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


def _confusion(place: SubFigure, result: dict[str, Any]) -> None:
    """Share of each class's rows by predicted class, in per cent."""
    names = result["schema"]["expressions"]
    counts = np.array(result["confusion"], float)
    rows = counts.sum(1)
    share = np.divide(100 * counts, rows[:, None], out=np.zeros_like(counts), where=rows[:, None] > 0)
    axes = _axes(place, "Confusion, % of each labelled class", left=0.25, bottom=0.2, width=0.7, height=0.7)
    axes.imshow(share, cmap=COLOURS, vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), [f"{name}  ({int(n):,})" for name, n in zip(names, rows, strict=True)])
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("predicted", color=INK, size=9)
    axes.set_ylabel("labelled (rows)", color=INK, size=9)
    size = 9 if len(names) <= 10 else 6.5
    for (line, column), value in np.ndenumerate(share):
        if value >= 0.5:
            weight = "bold" if line == column else "normal"
            colour = "white" if value > 55 else INK
            axes.text(column, line, f"{value:.0f}", ha="center", va="center", size=size, color=colour, weight=weight)


def _reliability(place: SubFigure, result: dict[str, Any]) -> None:
    """Accuracy against confidence, and below how many rows have that confidence."""
    bins = [line for line in result["calibration"] if line["rows"]]
    count = np.array([line["rows"] for line in bins])
    confidence, accuracy = (np.array([line[key] for line in bins]) for key in ("confidence", "accuracy"))
    low, high = _wilson(accuracy, count)
    ece = result["metrics"].get("ece")
    title = "Reliability" + (f", ECE {shown(ece)}" if ece else "")
    axes = _axes(place, title, left=0.13, bottom=0.36, width=0.82, height=0.54)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated", zorder=1)
    style: dict[str, Any] = {"color": ACCENT, "linewidth": 1.5, "clip_on": False}
    axes.vlines(confidence, low, high, alpha=0.6, zorder=2, **style)
    axes.plot(confidence, accuracy, "o-", markersize=5, label="this model, 95 % (Wilson)", zorder=3, **style)
    axes.set(xlim=(0, 1), ylim=(0, 1), xticklabels=[])
    axes.set_ylabel("share right", color=INK, size=9)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#e4e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", frameon=False, fontsize=9, labelcolor=INK)
    histogram = _axes(place, "", left=0.13, bottom=0.13, width=0.82, height=0.19)
    edges = [line["low"] for line in result["calibration"]] + [1.0]
    histogram.stairs([line["rows"] for line in result["calibration"]], edges, fill=True, color=ACCENT, alpha=0.75)
    histogram.set_xlim(0, 1)
    histogram.xaxis.set_major_formatter(PercentFormatter(1))
    histogram.set_xlabel("confidence in the predicted class", color=INK, size=9)
    histogram.set_ylabel("rows", color=INK, size=9)
    histogram.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    histogram.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    histogram.tick_params(axis="x", pad=8)
    histogram.grid(axis="y", color="#e4e9ee", linewidth=0.8)
    histogram.set_axisbelow(True)


def _units(place: SubFigure, result: dict[str, Any]) -> None:
    """F1 of every action unit with its interval, and how often it is present."""
    lines = {name: line for name, line in result["units"].items() if line["f1"]["value"] is not None}
    f1 = np.array([[line["f1"][key] for key in ("value", "low", "high")] for line in lines.values()], float)
    axes = _axes(place, "Action units: F1", left=0.2, bottom=0.13, width=0.75, height=0.77)
    height = np.arange(len(lines))
    axes.barh(height, f1[:, 0], color=ACCENT, alpha=0.75, height=0.6)
    axes.hlines(height, f1[:, 1], f1[:, 2], color=INK, linewidth=1.5)
    present = [line["present"] / line["rows"] for line in lines.values()]
    axes.set_yticks(height, [f"{name.upper()}  ({share:.0%})" for name, share in zip(lines, present, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("F1 with 95 % interval", color=INK, size=9)
    axes.set_ylabel("unit (share of rows where it is present)", color=INK, size=9)
    axes.grid(axis="x", color="#e4e9ee", linewidth=0.8)
    axes.set_axisbelow(True)


def _emotions(place: SubFigure, result: dict[str, Any]) -> None:
    """Accuracy of every emotion with its interval, beside what the commoner answer gets."""
    lines = {name: line for name, line in result["emotions"].items() if line["accuracy"]["value"] is not None}
    right = np.array([[line["accuracy"][key] for key in ("value", "low", "high")] for line in lines.values()], float)
    axes = _axes(place, "Emotions: accuracy", left=0.25, bottom=0.13, width=0.7, height=0.77)
    height = np.arange(len(lines))
    axes.barh(height, right[:, 0], color=ACCENT, alpha=0.75, height=0.6)
    axes.hlines(height, right[:, 1], right[:, 2], color=INK, linewidth=1.5)
    commoner = [line["accuracy_majority"]["value"] for line in lines.values()]
    axes.vlines(commoner, height - 0.4, height + 0.4, color=WARNING, linewidth=2, label="always the commoner answer")
    present = [line["present"] / line["rows"] for line in lines.values()]
    axes.set_yticks(height, [f"{name}  ({share:.0%})" for name, share in zip(lines, present, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.01)
    axes.set_xlabel("share of rows told right, with 95 % interval", color=INK, size=9)
    axes.set_ylabel("emotion (share of rows where it is present)", color=INK, size=9)
    axes.grid(axis="x", color="#e4e9ee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9, labelcolor=INK)


def _sentiment(place: SubFigure, result: dict[str, Any], pair: tuple[np.ndarray, np.ndarray]) -> None:
    _density(place, pair, "sentiment", result["metrics"].get("corr"), "correlation", result["schema"]["sentiment"])


def _affect(place: SubFigure, result: dict[str, Any], name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    _density(place, pair, name, result["metrics"].get(f"ccc_{name}"), "CCC", 1.0)


def _density(
    place: SubFigure,
    pair: tuple[np.ndarray, np.ndarray],
    name: str,
    figure: dict[str, float | None] | None,
    measure: str,
    end: float,
) -> None:
    """Predicted against labelled numbers, as density; what is predicted beyond the scale is shown at its end."""
    title = name.capitalize() + (f": {measure} {shown(figure)}" if figure else "")
    axes = _axes(place, title, left=0.13, bottom=0.13, width=0.82, height=0.77)
    inside = (pair[0], pair[1].clip(-end, end))
    seen = LogNorm(vmin=0.2)  # a single row is not white
    axes.hexbin(*inside, gridsize=36, extent=(-end, end, -end, end), cmap=COLOURS, mincnt=1, norm=seen, linewidths=0.2)
    axes.plot([-end, end], [-end, end], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    limits = (-1.05 * end, 1.05 * end)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.set_xlabel(f"labelled {name}", color=INK, size=9)
    axes.set_ylabel(f"predicted {name}", color=INK, size=9)
    axes.grid(color="#e4e9ee", linewidth=0.8)
    axes.set_axisbelow(True)


def _wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share of independent rows (Wilson, 1927)."""
    z = stats.norm.ppf(0.975)
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half
