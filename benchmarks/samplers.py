"""How long the weights of the samplers and the draws of an epoch take, beside their limits and a plain loop.

    python benchmarks/samplers.py [--rows 500000] [--loop-rows 20000] [--repeats 7]

ms of one core on synthetic labels: least and median of the repeats, in which all take turns. The loops go row by row
(ML-ROS: round by round, every count afresh) and are timed once, on fewer rows, beside ours on as many; that
of ML-ROS grows with the square of the rows. The limits are meant for 500,000 rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from honne.console import say, table
from honne.data.balancing import imbalance, ml_ros_weights, valence_arousal_weights
from honne.data.sampling import Weighted, class_weights

PRESENT = (0.30, 0.04, 0.28, 0.12, 0.25, 0.02, 0.04, 0.27)
"""Chances of action units 1, 2, 4, 6, 12, 15, 20, 25."""
EXPRESSIONS = (0.40, 0.20, 0.10, 0.10, 0.10, 0.05, 0.05)
LIMITS = {"ML-ROS": 600, "valence/arousal": 150, "expressions": 100, "epoch drawn": 200}
"""ms for 500,000 rows."""


def ml_ros_loop(labels: np.ndarray) -> np.ndarray:
    drawn: list[int] = []
    generator, grown = np.random.RandomState(0), labels
    for unit in np.flatnonzero(imbalance(labels) > 2):
        pool = list(np.flatnonzero(labels[:, unit]))
        while len(drawn) < 0.5 * len(labels):
            some = generator.choice(pool, 32)
            pool.extend(some)
            drawn.extend(some)
            grown = np.concatenate([grown, labels[some]])
            if imbalance(grown)[unit] <= 2:
                break
    clones = Counter(drawn)
    return np.array([(1 + clones[row]) / len(labels) for row in range(len(labels))])


def valence_arousal_loop(values: np.ndarray) -> np.ndarray:
    counts, *edges = np.histogram2d(values[:, 0], values[:, 1], bins=20)
    cells = [
        tuple(min(int(np.searchsorted(e, v, "right")) - 1, 19) for e, v in zip(edges, row, strict=True))
        for row in values
    ]
    return np.array([1 / counts[cell] for cell in cells])


def class_loop(labels: np.ndarray) -> np.ndarray:
    counts = Counter(labels.tolist())
    return np.array([1 / counts[label] for label in labels.tolist()])


def epoch_loop(weights: np.ndarray) -> np.ndarray:
    edges, generator = np.cumsum(weights), np.random.default_rng(0)
    return np.array([np.searchsorted(edges, generator.random() * edges[-1], "right") for _ in weights])


def cases(rows: int) -> dict[str, tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]]:
    """Ours and the loop of each."""
    generator = np.random.default_rng(0)
    units = (generator.random((rows, len(PRESENT))) < PRESENT).astype(np.float32)
    values = generator.normal(0, 0.4, (rows, 2)).clip(-1, 1)
    labels = generator.choice(len(EXPRESSIONS), rows, p=EXPRESSIONS)
    epoch = Weighted(np.arange(rows), class_weights(labels))
    runs = [
        (partial(ml_ros_weights, units, seed=0), partial(ml_ros_loop, units)),
        (partial(valence_arousal_weights, values), partial(valence_arousal_loop, values)),
        (partial(class_weights, labels), partial(class_loop, labels)),
        (partial(epoch, 0), partial(epoch_loop, epoch.weights)),
    ]
    return dict(zip(LIMITS, runs, strict=True))


def ms(run: Callable[[], np.ndarray]) -> float:
    begun = time.perf_counter()
    run()
    return (time.perf_counter() - begun) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000, help="(default 500,000)")
    parser.add_argument("--loop-rows", type=int, default=20_000, help="beside the loops (default 20,000)")
    parser.add_argument("--repeats", type=int, default=7, help="after a warm-up (default 7)")
    options = parser.parse_args()
    runs, small = cases(options.rows), cases(options.loop_rows)
    times = [{name: ms(ours) for name, (ours, _) in runs.items()} for _ in range(options.repeats + 1)][1:]
    rows = []
    for name, limit in LIMITS.items():
        took = [each[name] for each in times]
        ours, loop = small[name]
        fast, slow = min(ms(ours) for _ in range(options.repeats)), ms(loop)
        shown = (min(took), statistics.median(took))
        rows.append(
            (name, *(f"{t:.1f}" for t in shown), str(limit), f"{fast:.2f}", f"{slow:.0f}", f"{slow / fast:.0f}")
        )
    few = f"{options.loop_rows // 1000}k rows"
    columns = ("weights", "least", "median", "limit", few, "loop", "gain")
    say(table(f"ms for {options.rows:,} rows, one core, NumPy {np.__version__}", columns, rows))


if __name__ == "__main__":
    main()
