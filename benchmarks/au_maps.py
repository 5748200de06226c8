"""What a heat map of action units or landmarks costs on one core, beside its goal and the original's way.

    python benchmarks/au_maps.py [--side 224] [--batch 64] [--rounds 15]

ms of processor time per map, of one thread, so that other jobs on the machine disturb little: least, median and most of
the rounds, in which all take turns. "Own class" is the mean over the six expressions with action units. "Original" is
an imitation of its way, to maps of full size: a canvas of float64 and a chain of resizings for every action unit, a
density of SciPy for every landmark; "gain" is its median over ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from scipy.stats import multivariate_normal

from honne.console import say, table
from honne.cues.codebook import UNITS, codebook
from honne.cues.drawing import GRID, action_unit_maps, landmark_maps
from honne.cues.reference import BACKGROUND, FOREGROUND, action_unit_map, ellipses, landmark_map
from honne.data.world.geometry import TEMPLATE

EXPRESSIONS = ("happiness", "surprise", "fear", "anger", "disgust", "sadness")
OWN = codebook("reference").table(EXPRESSIONS)
ALL = np.ones((1, len(UNITS)), bool)
GOALS = {"28 px, batched": (0.25, 0.9, 0.3), "28 px, exact": (0.4, 0.9, 0.3), "whole, exact": (0.8, 1.5, 2.5)}
"""ms for the own class, all action units, landmarks."""


def original_units(landmarks: np.ndarray, units: np.ndarray, side: int) -> np.ndarray:
    """Heat map of action units, each on a canvas of its own."""
    maps = []
    for shape, shown in zip(ellipses(landmarks, side, side), units, strict=True):
        if shown:
            background = np.full((side, side), BACKGROUND)
            canvas = background.copy()
            for x, y, wide, high in shape:
                cv2.ellipse(canvas, (x, y), (wide, high), 0, 0, 360, FOREGROUND, cv2.FILLED)
            if (canvas - background).sum() > 0:
                smooth = cv2.blur(cv2.resize(canvas, (GRID, GRID)), (3, 3))
                maps.append(cv2.resize(smooth, (side, side)))
    largest = np.stack(maps).max(0)
    return ((largest - largest.min()) / (largest.max() - largest.min())).astype(np.float32)


def original_landmarks(landmarks: np.ndarray, side: int) -> np.ndarray:
    """Heat map of landmarks, one density each."""
    places = np.dstack(np.mgrid[:side, :side])
    largest = np.max([multivariate_normal(point[::-1], 64.0).pdf(places) for point in landmarks[17:]], axis=0)
    return ((largest - largest.min()) / (largest.max() - largest.min())).astype(np.float32)


def each_class(draw: Callable[[np.ndarray], np.ndarray]) -> None:
    for units in OWN:
        draw(units)


def cases(side: int, batch: int) -> dict[tuple[str, str], tuple[int, Callable[[], object]]]:
    """Per kind of drawing and map: how many maps a call makes, and the call."""
    generator = np.random.default_rng(0)
    faces = (TEMPLATE[:68, :2] * 0.39 + (0.5, 0.4)) * side + generator.normal(0, side / 150, (batch, 68, 2))
    points, one = torch.from_numpy(faces).float(), faces[0]
    own = torch.from_numpy(OWN)[torch.arange(batch) % len(OWN)]
    every = torch.from_numpy(ALL).expand(batch, -1)
    found: dict[tuple[str, str], tuple[int, Callable[[], object]]] = {
        ("28 px, batched", "own class"): (batch, partial(action_unit_maps, points, own, side)),
        ("28 px, batched", "all units"): (batch, partial(action_unit_maps, points, every, side)),
        ("28 px, batched", "landmarks"): (batch, partial(landmark_maps, points, side)),
    }
    for kind, resolution in (("28 px, exact", "grid"), ("whole, exact", "image")):
        draw = partial(action_unit_map, one, height=side, width=side, resolution=resolution)
        whole = partial(landmark_map, one, side, side, resolution=resolution)
        found[kind, "own class"] = len(OWN), partial(each_class, draw)
        found[kind, "all units"] = 1, partial(draw, ALL[0])
        found[kind, "landmarks"] = 1, whole
    original = partial(original_units, one, side=side)
    found["original", "own class"] = len(OWN), partial(each_class, original)
    found["original", "all units"] = 1, partial(original, ALL[0])
    found["original", "landmarks"] = 1, partial(original_landmarks, one, side)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="of the images, px (default 224)")
    parser.add_argument("--batch", type=int, default=64, help="faces that are drawn at once (default 64)")
    parser.add_argument("--rounds", type=int, default=15, help="after a warm-up (default 15)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    runs = cases(options.side, options.batch)
    times: dict[tuple[str, str], list[float]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, (count, run) in runs.items():
            begun = time.process_time()
            run()
            if number:  # the first round warms up
                times[name].append((time.process_time() - begun) / count * 1000)
    rows = []
    for kind, goals in GOALS.items():
        for goal, shows in zip(goals, ("own class", "all units", "landmarks"), strict=True):
            took, before = times[kind, shows], statistics.median(times["original", shows])
            median = statistics.median(took)
            shown = [min(took), median, max(took), goal]
            rows.append((kind, shows, *(f"{ms:.2f}" for ms in shown), f"{before:.1f}", f"{before / median:.0f}"))
    columns = ("drawing", "shows", "least", "median", "most", "goal", "original", "gain")
    versions = f"torch {torch.__version__}, OpenCV {cv2.__version__}"
    title = f"ms per map: {options.side} px, batches of {options.batch}, one core, {versions}"
    say(table(title, columns, rows))


if __name__ == "__main__":
    main()
