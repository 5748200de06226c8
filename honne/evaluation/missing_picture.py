"""The picture of what missing modalities and steps cost; see `honne.evaluation.missing`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from honne.data.manifest import replacing


def draw_missing(path: Path, found: dict[str, Any], title: str) -> None:
    """Drops of the first measure by what is missing, and its curve over the share of missing steps."""
    name = next(iter(found["measures"]))
    panels = [key for key in ("subsets", "steps") if key in found]
    figure = Figure(figsize=(4.6 * len(panels) + 0.4, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    label = name.replace("_", " ")
    for axis, panel in zip(axes, panels, strict=True):
        axis.spines[["top", "right"]].set_visible(False)
        entries = [line["measures"][name] for line in found[panel]]
        if panel == "subsets":
            places = range(len(entries))
            middle = [entry["drop"]["value"] for entry in entries]
            ends = [
                [max(0.0, entry["drop"]["value"] - entry["drop"]["low"]) for entry in entries],
                [max(0.0, entry["drop"]["high"] - entry["drop"]["value"]) for entry in entries],
            ]
            axis.barh(places, middle, xerr=ends, color="#4c78a8", ecolor="#333333", error_kw={"lw": 1})
            axis.set_yticks(places, ["no " + ", no ".join(line["without"]) for line in found[panel]])
            axis.invert_yaxis()
            axis.axvline(0, color="#333333", lw=0.8)
            axis.set_xlabel(f"drop of {label}")
        else:
            rates = [0.0, *(line["rate"] for line in found[panel])]
            axis.plot(rates, [found["measures"][name], *(entry["value"] for entry in entries)], "o-", color="#c0504d")
            axis.set_xlabel("share of the steps that is missing")
            axis.set_ylabel(label)
            axis.set_ylim(bottom=min(0.0, *(entry["value"] for entry in entries)))
    figure.suptitle(title, fontsize=10)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")
