"""Which rows an epoch shows, in which order: a function of seed and epoch alone, computed at once for the whole epoch.

An *order* is any callable `epoch -> (N,) row numbers`. `EpochBatches` deals it out to processes and batches, and can
start in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from honne.batch import NOT_LABELLED
from honne.errors import HonneError

Order = Callable[[int], np.ndarray]


@dataclass(frozen=True)
class Sequential:
    """The rows as they are."""

    rows: np.ndarray

    def __call__(self, epoch: int) -> np.ndarray:
        return self.rows


@dataclass(frozen=True)
class Shuffled:
    """Every row once, in random order."""

    rows: np.ndarray
    seed: int = 0

    def __call__(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.rows)


@dataclass(frozen=True)
class Weighted:
    """Rows drawn with replacement.

    Args:
        rows: (N,) row numbers.
        weights: (N,) not negative, not all zero; only their ratios matter.
        seed: of the draws.
        count: draws in an epoch, by default N.
    """

    rows: np.ndarray
    weights: np.ndarray
    seed: int = 0
    count: int | None = None

    def __call__(self, epoch: int) -> np.ndarray:
        edges = np.cumsum(self.weights, dtype=np.float64)
        count = len(self.rows) if self.count is None else self.count
        chance = np.random.default_rng((self.seed, epoch)).random(count) * edges[-1]
        return self.rows[np.searchsorted(edges, chance, side="right")]


def class_weights(labels: np.ndarray) -> np.ndarray:
    """(N,) 1 / size of each row's class, zero for unlabelled rows; the weights of every class sum to 1.

    Args:
        labels: (N,) class indices, `NOT_LABELLED` for none.

    Raises:
        HonneError: no row is labelled.
    """
    known = labels != NOT_LABELLED
    if not known.any():
        raise HonneError("No row has an expression label.", "Class-balanced sampling needs them; turn it off.")
    counts = np.bincount(labels[known])
    return np.where(known, 1 / np.maximum(counts, 1)[labels], 0)


def class_balanced(rows: np.ndarray, labels: np.ndarray, seed: int = 0, count: int | None = None) -> Weighted:
    """Rows drawn with replacement so that every class is equally likely.

    Args:
        rows: (N,) row numbers.
        labels: (N,) their class indices, `NOT_LABELLED` for none; such rows are never drawn.
        seed: of the draws.
        count: draws in an epoch, by default N.

    Source: She et al., CVPR 2021, section on implementation; the sampler of their code.
    """
    return Weighted(rows, class_weights(labels), seed, count)


@dataclass(frozen=True)
class Draw:
    """One batch to fetch: `rows` (B,), their `positions` (B,) in the epoch's order, and the `epoch`."""

    rows: np.ndarray
    positions: np.ndarray
    epoch: int = 0


class EpochBatches(Sampler[Draw]):
    """Deals an order out to processes and batches.

    Process r of W takes every W-th row from r on, so that one step of all processes covers W * `batch_size`
    consecutive rows. All processes get the same number of batches.

    Args:
        order: what an epoch shows.
        batch_size: rows per batch and process.
        rank: of this process.
        world: number of processes.
        drop_last: leave an incomplete last batch out. Otherwise missing rows are filled up from the epoch's start so
            that all processes have equally many.

    Attributes:
        epoch: to show next.
        skip: batches of it to leave out, because they were seen before an interruption.
    """

    def __init__(self, order: Order, batch_size: int, rank: int = 0, world: int = 1, drop_last: bool = False) -> None:
        self.order, self.batch_size, self.rank, self.world, self.drop_last = order, batch_size, rank, world, drop_last
        self.epoch = self.skip = 0
        self.rows = len(order(0))
        if not len(self):
            raise HonneError(
                f"{self.rows} rows make no batch of {batch_size} for each of {world} processes.",
                "Lower the batch size, or keep incomplete batches.",
            )

    def __len__(self) -> int:
        together = self.batch_size * self.world
        return self.rows // together if self.drop_last else -(-self.rows // together)

    def __iter__(self) -> Iterator[Draw]:
        order = self.order(self.epoch)
        order = np.resize(order, -(-len(order) // self.world) * self.world)  # fills up from the start
        positions = np.arange(self.rank, len(order), self.world)
        for start in range(self.skip * self.batch_size, len(self) * self.batch_size, self.batch_size):
            some = positions[start : start + self.batch_size]
            yield Draw(order[some], some, self.epoch)


class OnceBatches(Sampler[Draw]):
    """Every row exactly once over all processes, in order, for measuring; equally many batches in each process.

    Args:
        rows: (N,) row numbers, N at least `world`.
        batch_size: rows per batch and process; several processes may take a few less, or one more.
        rank: of this process.
        world: number of processes.
    """

    def __init__(self, rows: np.ndarray, batch_size: int, rank: int = 0, world: int = 1) -> None:
        mine = np.arange(rank, len(rows), world)
        if len(rows) < world:
            raise HonneError(f"{len(rows)} rows are too few for {world} processes.", "Use fewer processes.")
        if world == 1:
            self.parts = np.split(mine, range(batch_size, len(mine), batch_size))
        else:
            batches = min(-(-len(rows) // (batch_size * world)), len(rows) // world)  # none may be empty
            self.parts = np.array_split(mine, batches)
        self.rows = rows

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Draw]:
        for part in self.parts:
            yield Draw(self.rows[part], part)
