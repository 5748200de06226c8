"""Where a model looks on average: mean face, cue, attention and class activation map of every expression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from honne.data.manifest import replacing
from honne.explain.measuring import MapOptions, MeanMaps

SIDE = 1.45  # inches
COLOURS = "inferno"


def draw_mean_maps(path: Path, means: MeanMaps, expressions: tuple[str, ...], asked: MapOptions) -> None:
    """One row an expression that has a cue, each map over the mean face.

    Args:
        path: PNG to write.
        means: of labelled faces.
        expressions: of the model.
        asked: which maps they are.
    """
    maps, faces = means.maps, means.faces
    shown = [code for code, count in enumerate(faces.tolist()) if count]
    titles = {
        "face": "mean face",
        "cue": f"cue ({asked.codebook})",
        "attention": f"attention, layer {asked.layers[-1]}",
        "map": asked.kind,
    }
    figure = Figure(figsize=(SIDE * len(titles) + 0.3, SIDE * len(shown) + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), len(titles), squeeze=False)
    for row, code in zip(axes, shown, strict=True):
        face = maps["face"][code].numpy()
        for axis, (name, title) in zip(row, titles.items(), strict=True):
            axis.imshow(face, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0))
            if name != "face":
                each = maps[name][code].numpy()
                each = each / np.maximum(each.max(), 1e-9)
                axis.imshow(each, cmap=COLOURS, alpha=0.6, extent=(0, 1, 1, 0), interpolation="bilinear")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
            if code == shown[0]:
                axis.set_title(title, fontsize=8)
        row[0].set_ylabel(f"{expressions[code]}\n{int(faces[code]):,} faces", fontsize=8)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
