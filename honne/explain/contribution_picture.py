"""The picture of what modalities contribute; see `honne.explain.modalities`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from honne.data.manifest import replacing
from honne.explain.contributions import Contributions

WORDS = {"prob": "probability", "accuracy": "modalities when right", "neg_loss": "minus the loss", "output": "output"}
COLOURS = ("#4c78a8", "#e08214", "#54a24b", "#b279a2", "#9d755d", "#e45756", "#72b7b2", "#bab0ac")


def draw(path: Path, found: Contributions, summary: dict[str, Any], most: int) -> None:
    """Figures over all samples side by side; below, each sample where there are at most `most`, else their spread."""
    each, names = summary["modalities"], list(found.modalities)
    panels = [("shapley", f"Shapley value ({WORDS[summary['value']]})"), ("permuted", "lost when shuffled")]
    if "direct" in each[names[0]]:
        panels.append(("direct", "natural direct effect (score)"))
    few = len(found.ids) <= most
    height = 0.5 + 0.34 * max(len(found.ids), 3) if few else 2.6
    figure = Figure(figsize=(3.3 * len(panels) + 0.6, 2.5 + height), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2.3, height])
    above, below = parts
    for axis, (key, title) in zip(above.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        values = [each[name][key] for name in names]
        ends = [[v["value"] - v["low"] for v in values], [v["high"] - v["value"] for v in values]]
        middle, whiskers = [v["value"] for v in values], np.maximum(ends, 0)
        axis.barh(range(len(names)), middle, color=COLOURS[: len(names)])
        axis.errorbar(middle, range(len(names)), xerr=whiskers, fmt="none", ecolor="#333333", lw=1)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.axvline(0, color="#333333", lw=0.8)
        axis.set_title(title, fontsize=9.5)
        axis.spines[["top", "right"]].set_visible(False)
    axis = below.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    if few:
        _samples(axis, found)
    else:
        _spread(axis, found)
    where = summary.get("data", ", ".join(summary.get("clips", [])))
    figure.suptitle(f"{summary['model']['name']} on {where}: {len(found.ids):,} samples", fontsize=10)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


def _samples(axis: Axes, found: Contributions) -> None:
    """A group of bars for each sample."""
    width = 0.8 / len(found.modalities)
    for m, name in enumerate(found.modalities):
        places = np.arange(len(found.ids)) + (m - (len(found.modalities) - 1) / 2) * width
        axis.barh(places, found.shapley[m].numpy(), width, color=COLOURS[m], label=name)
    said = [f"{name}: {word}" for name, word in zip(found.ids, found.said, strict=True)]
    axis.set_yticks(range(len(said)), said, fontsize=8)
    axis.invert_yaxis()
    axis.axvline(0, color="#333333", lw=0.8)
    axis.set_xlabel("Shapley value of each sample")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _spread(axis: Axes, found: Contributions) -> None:
    """How the samples' values are spread."""
    values = found.shapley.numpy()
    low, high = np.quantile(values, [0.002, 0.998])
    edges = np.linspace(low, max(high, low + 1e-6), 41)
    for m, name in enumerate(found.modalities):
        axis.hist(
            np.clip(values[m], edges[0], edges[-1]),
            edges.tolist(),
            histtype="step",
            lw=1.8,
            color=COLOURS[m],
            label=name,
        )
    axis.axvline(0, color="#333333", lw=0.8)
    axis.set_xlabel("Shapley value of each sample")
    axis.set_ylabel("samples")
    axis.legend(frameon=False, fontsize=8)
