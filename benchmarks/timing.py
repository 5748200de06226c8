"""Timing by ratios: what is compared takes turns in one process, so that other jobs disturb both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from torch.utils.flop_counter import FlopCounterMode


def timed(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median over rounds of (wall, processor) time in those of the first run."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        times = {}
        for name in runs if number % 2 else reversed(runs):
            wall, processor = time.perf_counter(), time.process_time()
            runs[name]()
            times[name] = time.perf_counter() - wall, time.process_time() - processor
        if number:  # the first round warms up
            first = times[next(iter(runs))]
            for name, (wall, processor) in times.items():
                found[name].append((wall / first[0], processor / first[1]))
    return {
        name: (statistics.median(a for a, _ in ratios), statistics.median(b for _, b in ratios))
        for name, ratios in found.items()
    }


def operations(run: Callable[[], object]) -> float:
    """GFLOP of one call."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return counter.get_total_flops() / 1e9
