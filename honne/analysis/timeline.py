"""What the model says of each face of a video over its media time, as one picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from honne.analysis.table import OUTPUTS_ARE, POSITION, Layout

FACES = 4
"""Most faces drawn: those with most rows."""
MOST_BINS = 800
"""Most moments drawn; more frames than this are averaged in twos, fours, ..."""
STATUSES = ("ok", "low_quality", "abstained")
STATUS_COLOURS = {"low_quality": "#9aa5b1", "abstained": "#1f2933"}
EXPRESSION_COLOURS = {
    "neutral": "#c3cad2",
    "happiness": "#F0E442",
    "surprise": "#E69F00",
    "sadness": "#0072B2",
    "anger": "#D55E00",
    "disgust": "#009E73",
    "fear": "#CC79A7",
    "contempt": "#56B4E9",
}
"""Of Okabe and Ito (2008), told apart by the colour-blind; grey for neutral."""
SPARE_COLOURS = ("#56B4E9", "#4b5563", "#E69F00", "#0072B2", "#CC79A7", "#009E73", "#D55E00", "#F0E442")
VISIBLE, VALENCE, AROUSAL = "#E69F00", "#0072B2", "#D55E00"
INK, SOFT, LINE, GAP = "#1f2933", "#6b7785", "#cbd2d9", "#eceff2"
COLOURS = "Blues"  # lightness falls steadily from 0 to 1: readable in grey and by the colour-blind
WIDTH, LEFT, RIGHT = 13.0, 0.95, 1.75  # inches, as all lengths below
HEADING, FOOT, TITLE, GROUND = 0.52, 0.3, 0.38, 0.34
SPACE = 0.12

Panel = tuple[float, Callable[[Axes], None]]  # height, what draws it


class Timeline:
    """Bins over the analysed frames, for the faces that are seen most.

    Args:
        parts: rows with `POSITION`, time and face, in order; read once, before `fill`.
        layout: of the finished rows.

    Attributes:
        faces: track numbers that are drawn, in order.
        edges: (bins + 1,) s of media time.
    """

    def __init__(self, parts: Iterable[pa.Table], layout: Layout) -> None:
        self.layout = layout
        self.rows: Counter[int] = Counter()
        starts: dict[int, float] = {}
        self.step, last, end = 1, -1, 0.0
        for part in parts:
            self.rows.update(part["face"].drop_null().to_pylist())
            positions, first = np.unique(part[POSITION].to_numpy(), return_index=True)
            times = part["time"].to_numpy()[first]
            kept = positions % self.step == 0
            starts |= dict(zip(positions[kept].tolist(), times[kept].tolist(), strict=True))
            while len(starts) > MOST_BINS:
                self.step *= 2
                starts = {position: time for position, time in starts.items() if position % self.step == 0}
            if len(positions):
                last, end = int(positions[-1]), max(end, float(times[-1]))
        begin = np.maximum.accumulate(np.array(list(starts.values()) or [0.0]))
        frame = (end - begin[0]) / last if last > 0 and end > begin[0] else 0.04
        self.edges = np.append(begin, end + frame)  # the last frame is shown as long as the others on average
        self.x = _steps(self.edges)[1:-1]  # begin and end of every bin
        self.faces = sorted(face for face, _ in self.rows.most_common(FACES))
        shape = len(self.faces), len(begin)
        self.counts = np.zeros((*shape, len(STATUSES)))
        self.totals = np.zeros((*shape, len(layout.signals)))
        self.on = np.zeros((*shape, len(layout.labels.action_units)))

    def fill(self, parts: Iterable[pa.Table]) -> None:
        """Take in the finished rows."""
        units = [f"au{unit:02d}_on" for unit in self.layout.labels.action_units]
        for part in parts:
            drawn = np.flatnonzero(np.isin(part["face"].fill_null(-1).to_numpy(), self.faces))
            rows = part.take(pa.array(drawn))
            place = np.searchsorted(self.faces, rows["face"].to_numpy()), rows[POSITION].to_numpy() // self.step
            np.add.at(self.totals, place, self.layout.matrix(rows))
            if units:
                np.add.at(self.on, place, np.column_stack([rows[unit].to_numpy().astype(float) for unit in units]))
            statuses = rows["status"].to_numpy()
            np.add.at(self.counts, place, np.stack([statuses == status for status in STATUSES], 1))

    def draw(self, path: Path, title: str, caption: str) -> None:
        """Write the picture.

        Args:
            path: of the PNG.
            title: what was analysed.
            caption: what stands at the foot, after what the picture shows.
        """
        faces = [self._panels(number) for number in range(len(self.faces))]
        height = HEADING + FOOT + sum(TITLE + GROUND + sum(tall + SPACE for tall, _ in each) for each in faces)
        figure = Figure(figsize=(WIDTH, height), facecolor="white")
        FigureCanvasAgg(figure)
        figure.text(LEFT / WIDTH, 1 - 0.3 / height, title, size=14, weight="bold", color=INK, va="center")
        top = height - HEADING
        for number, panels in enumerate(faces):
            figure.text(LEFT / WIDTH, (top - 0.22) / height, self._says(number), size=10, color=INK, va="center")
            top -= TITLE
            for tall, draw_panel in panels:
                box = (LEFT / WIDTH, (top - tall) / height, (WIDTH - LEFT - RIGHT) / WIDTH, tall / height)
                axes = figure.add_axes(box)
                self._frame(axes, number, last=draw_panel is panels[-1][1])
                draw_panel(axes)
                top -= tall + SPACE
            top -= GROUND
        figure.text(LEFT / WIDTH, 0.22 / height, self._foot(caption), size=9, color=SOFT, va="center")
        figure.savefig(path, dpi=130, format="png")

    def _says(self, number: int) -> str:
        rows = self.counts[number].sum(0).astype(int)
        said = [f"{count:,} {status.replace('_', ' ')}" for status, count in zip(STATUSES, rows, strict=True) if count]
        return f"face {self.faces[number]}:  {', '.join(said)}"

    def _foot(self, caption: str) -> str:
        parts = [f"{OUTPUTS_ARE[0].upper()}{OUTPUTS_ARE[1:]}: what observers would say they see, not what is felt"]
        if len(self.rows) > len(self.faces):
            parts.append(f"the {len(self.faces)} most seen of {len(self.rows)} faces")
        if self.step > 1:
            parts.append(f"means of {self.step} frames")
        return " · ".join([*parts, caption])

    def _panels(self, number: int) -> list[Panel]:
        """Of one face, from top to bottom; only what the model predicts."""
        counts = self.counts[number].sum(1, keepdims=True)
        seen = np.where(counts > 0, counts, np.nan)
        means = dict(zip((each.name for each in self.layout.signals), (self.totals[number] / seen).T, strict=True))
        labels = self.layout.labels
        panels: list[Panel] = []
        if self.counts[number, :, 1:].any():
            panels.append((0.11, partial(self._status, number)))
        if labels.expressions:
            shares = np.stack([means[f"p_{name}"] for name in labels.expressions])
            panels.append((max(1.5, 0.2 * len(labels.expressions)), partial(self._expressions, shares)))
            panels.append((0.75, partial(self._uncertainty, means["uncertainty"])))
        if labels.action_units:
            units = np.stack([means[f"au{unit:02d}"] for unit in labels.action_units])
            panels.append((0.2 * len(units), partial(self._units, units, (self.on[number] / seen).T)))
        if labels.valence_arousal:
            panels.append((1.1, partial(self._affect, means["valence"], means["arousal"])))
        return panels

    def _frame(self, axes: Axes, number: int, last: bool) -> None:
        """Time axis, and grey where the face is not there."""
        gone = _steps(self.counts[number].sum(1) == 0)
        if gone.any():
            axes.fill_between(self.x, 0, 1, where=gone, transform=axes.get_xaxis_transform(), color=GAP, linewidth=0)
        axes.set_xlim(self.edges[0], self.edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 3, 5, 6, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda time, _: clock(time)))
        axes.tick_params(colors=INK, labelsize=8.5, length=3 if last else 0, labelbottom=last, width=0.6)
        axes.tick_params(axis="y", length=0)
        for side in axes.spines.values():
            side.set(color=LINE, linewidth=0.6)

    def _status(self, number: int, axes: Axes) -> None:
        """The commonest status of every bin."""
        counts = self.counts[number]
        commonest = np.where(counts.sum(1) > 0, counts.argmax(1), -1)
        for place, status in enumerate(STATUSES):
            if status in STATUS_COLOURS:
                here = _steps(commonest == place)
                axes.fill_between(self.x, 0, 1, where=here, color=STATUS_COLOURS[status], linewidth=0)
        axes.set(ylim=(0, 1), yticks=[])
        there = [name for place, name in enumerate(STATUSES) if place and counts[:, place].any()]
        _legend(axes, [(name.replace("_", " "), STATUS_COLOURS[name]) for name in there])

    def _expressions(self, shares: np.ndarray, axes: Axes) -> None:
        """(C, bins) probabilities as stacked areas."""
        names, colours = self.layout.labels.expressions, expression_colours(self.layout.labels.expressions)
        ends = np.concatenate([np.zeros((1, shares.shape[1])), shares.cumsum(0)])
        for low, high, colour in zip(ends[:-1], ends[1:], colours, strict=True):
            axes.fill_between(self.x, _steps(low), _steps(high), facecolor=colour, edgecolor="white", linewidth=0.3)
        axes.set(ylim=(0, 1), yticks=(0, 0.5, 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _name(axes, "expression")
        _legend(axes, list(zip(names, colours, strict=True))[::-1])

    def _uncertainty(self, values: np.ndarray, axes: Axes) -> None:
        axes.fill_between(self.x, 0, _steps(values), color="#9aa5b1", linewidth=0)
        axes.set(ylim=(0, 1), yticks=(0, 1))
        _name(axes, "uncertainty")

    def _units(self, shares: np.ndarray, on: np.ndarray, axes: Axes) -> None:
        """(A, bins) probabilities as shades, a bar under a unit where it counts as visible."""
        rows = np.arange(len(shares) + 1)
        axes.pcolormesh(self.edges, rows, np.ma.masked_invalid(shares), cmap=COLOURS, vmin=0, vmax=1)
        for row, visible in enumerate(on >= 0.5):  # NaN is not
            axes.fill_between(self.x, row + 0.74, row + 0.94, where=_steps(visible), color=VISIBLE, linewidth=0)
        axes.hlines(rows[1:-1], *self.edges[[0, -1]], color="white", linewidth=0.8)
        axes.set(ylim=(len(shares), 0))
        axes.set_yticks(rows[:-1] + 0.5, [f"AU{unit:02d}" for unit in self.layout.labels.action_units])
        shades = [(f"probability {share}", to_hex(colormaps[COLOURS](float(share)))) for share in (0, 0.5, 1)]
        _legend(axes, [*shades, ("counts as visible", VISIBLE)])

    def _affect(self, valence: np.ndarray, arousal: np.ndarray, axes: Axes) -> None:
        axes.axhline(0, color=LINE, linewidth=0.8)
        for values, colour in ((valence, VALENCE), (arousal, AROUSAL)):
            axes.plot(self.x, _steps(values), color=colour, linewidth=1.5, solid_capstyle="butt")
        axes.set(ylim=(-1, 1), yticks=(-1, 0, 1))
        _legend(axes, [("valence", VALENCE), ("arousal", AROUSAL)])


def _steps(values: np.ndarray) -> np.ndarray:
    """Every entry twice: bins as steps, so that a single one between gaps shows too."""
    return np.repeat(values, 2)


def expression_colours(names: Iterable[str]) -> list[str]:
    """One colour an expression: its own, or one of those that no other has, over again when all are taken."""
    names = list(names)
    taken = {EXPRESSION_COLOURS[name] for name in names if name in EXPRESSION_COLOURS}
    spare = [colour for colour in SPARE_COLOURS if colour not in taken] or list(SPARE_COLOURS)
    others = [name for name in names if name not in EXPRESSION_COLOURS]
    free = {name: spare[number % len(spare)] for number, name in enumerate(others)}
    return [EXPRESSION_COLOURS.get(name) or free[name] for name in names]


def clock(time: float) -> str:
    """0:07, 1:02:03, 0:00.5"""
    whole, part = divmod(round(time, 3), 60)
    seconds = f"{part:05.2f}".rstrip("0").rstrip(".")
    return f"{int(whole // 60)}:{int(whole % 60):02d}:{seconds}" if whole >= 60 else f"{int(whole)}:{seconds}"


def _name(axes: Axes, text: str) -> None:
    axes.set_ylabel(text, size=9, color=INK)
    axes.yaxis.set_label_coords(-0.048, 0.5)


def _legend(axes: Axes, entries: list[tuple[str, str]]) -> None:
    axes.legend(
        handles=[Patch(facecolor=colour, edgecolor=LINE, linewidth=0.4, label=name) for name, colour in entries],
        loc="center left",
        bbox_to_anchor=(1.005, 0.5),
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handlelength=1,
        handleheight=1,
        labelspacing=0.25,
        borderpad=0,
    )
