"""The figures of a run by step, whole though the run was interrupted, and its learning curves as a picture."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from honne.data.manifest import replacing

_SHOWN = {
    "loss": "loss",
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "au_f1": "action-unit F1",
    "ccc": "CCC of valence and arousal",
    "att_cos": "attention on action units (ATT-COS)",
    "verification_accuracy": "unseen people told apart",
}


def keep_log(logs: Path) -> None:
    """Put aside what an interrupted run has logged; Lightning's logger would delete it.

    Args:
        logs: folder with `metrics.csv`.
    """
    log = logs / "metrics.csv"
    if log.is_file():
        log.replace(logs / f"metrics.{len(_earlier(logs)):03d}.csv")


def join_logs(logs: Path) -> None:
    """One `metrics.csv` of all sittings of a run: each counts until the step at which the next one began."""
    parts = _earlier(logs)
    if not parts:
        return
    paths = (*parts, logs / "metrics.csv")
    sittings = [pd.read_csv(path) for path in paths if path.is_file()]  # the last one may have had no step left
    begins = [sitting["step"].min() for sitting in sittings[1:]] + [float("inf")]
    kept = [sitting[sitting["step"] < begin] for sitting, begin in zip(sittings, begins, strict=True)]
    with replacing(logs / "metrics.csv") as path:
        pd.concat(kept, ignore_index=True).to_csv(path, index=False)
    for part in parts:
        part.unlink()


def _earlier(logs: Path) -> list[Path]:
    return sorted(logs.glob("metrics.*.csv"))


def draw_curves(metrics: Path, out: Path) -> None:
    """Draw training and validation figures by epoch.

    Args:
        metrics: `metrics.csv` of the run.
        out: PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = pd.read_csv(metrics)
    shown = [name for name in _SHOWN if f"valid/{name}" in rows or f"train/{name}" in rows]
    rates = next((name for name in map(str, rows) if name.startswith("lr-")), None)
    panels = len(shown) + (rates is not None)
    figure = Figure(figsize=(3.6 * panels, 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for name, axis in zip(shown, axes, strict=False):
        for split, colour in (("train", "#9aa5b1"), ("valid", "#2457a7")):
            if f"{split}/{name}" in rows:
                values = rows[["epoch", f"{split}/{name}"]].dropna()
                axis.plot(values["epoch"] + 1, values[f"{split}/{name}"], color=colour, label=split, linewidth=1.8)
        axis.set_title(_SHOWN[name], loc="left", fontsize=10)
        axis.set_xlabel("epoch")
        axis.legend(frameon=False, fontsize=8)
    if rates is not None:
        values = rows[["step", rates]].dropna()
        axes[-1].plot(values["step"], values[rates], color="#b3541e", linewidth=1.8)
        axes[-1].set_title("learning rate", loc="left", fontsize=10)
        axes[-1].set_xlabel("step")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
    with replacing(out) as path:
        figure.savefig(path, dpi=130, format="png")
