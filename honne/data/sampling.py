"""Which rows an epoch shows, in which order: a function of seed and epoch alone, computed at once for the whole epoch.

An *order* is any callable `epoch -> (N,) row numbers`. `EpochBatches` deals it out to processes and batches, and can
start in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch.utils.data import Sampler

from honne.batch import NOT_LABELLED
from honne.errors import HonneError, WrongCall

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
class EqualClasses:
    """Of every class as many rows as the smallest one has, without replacement, drawn afresh every epoch.

    Args:
        rows: (N,) row numbers.
        labels: (N,) their class indices, `NOT_LABELLED` for none; such rows, and classes without rows, do not count.
        seed: of the draws.

    Raises:
        HonneError: no row is labelled.

    Source: the second sampler of Belharbi et al., FG 2024 (whose wrapper for several processes undoes the draw).
    """

    rows: np.ndarray
    labels: np.ndarray
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.labels != NOT_LABELLED).any():
            raise HonneError("No row has an expression label.", "Sampling by class needs them; sample uniformly.")

    def __call__(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, epoch))
        order = generator.permutation(np.flatnonzero(self.labels != NOT_LABELLED))
        order = order[np.argsort(self.labels[order], kind="stable")]
        _, first, counts = np.unique(self.labels[order], return_index=True, return_counts=True)
        chosen = order[first[:, None] + np.arange(counts.min())]
        return self.rows[generator.permutation(chosen.ravel())]


def inverse_frequency(counts: np.ndarray, kind: Literal["balanced", "largest"] = "balanced") -> np.ndarray:
    """(C,) weights of classes for a loss, inverse to their sizes; 0 for a class without rows.

    The kinds differ by a factor only, which a loss that is a weighted mean does not see.

    Args:
        counts: (C,) rows of each class.
        kind: `balanced`: mean size over own size; `largest`: largest size over own size.

    Example:
        >>> inverse_frequency(np.array([30, 10]), "largest").tolist()
        [1.0, 3.0]

    Source: Belharbi et al., FG 2024, class weights `tech1` and `tech2` of their code.
    """
    there = counts > 0
    reference = counts[there].mean() if kind == "balanced" else counts.max()
    return np.where(there, reference / np.maximum(counts, 1), 0.0)


@dataclass(frozen=True)
class EveryClass:
    """Batches in which every class occurs at least `least` times.

    Unbalanced: every row once in random order; where a batch lacks a class, surplus rows of the batch make way for rows
    of it. Balanced: every class equally often, so that rare classes repeat within an epoch.

    Args:
        rows: (N,) row numbers.
        labels: (N,) their class indices, `NOT_LABELLED` for none.
        batch: rows in the batch of all processes together.
        seed: of the draws.
        least: rows of each class in every batch.
        balanced: equally many rows of each class (up to one) in every batch.
        classes: names of all classes; by default those up to the highest index, by number.

    Raises:
        HonneError: no labelled row, or a class without one.
        WrongCall: a batch too small for all classes.

    Source: She et al., CVPR 2021: the original instead draws balanced batches and skips those that lack a class.
    """

    rows: np.ndarray
    labels: np.ndarray
    batch: int
    seed: int = 0
    least: int = 2
    balanced: bool = False
    classes: Sequence[str] = ()

    def __post_init__(self) -> None:
        counts = np.bincount(self.labels[self.labels != NOT_LABELLED], minlength=len(self.classes))
        if not counts.any():
            raise HonneError("No row has an expression label.", "Sampling by class needs them; sample uniformly.")
        if not counts.all():
            missing = int(counts.argmin())
            raise HonneError(
                f"class {self.classes[missing] if self.classes else missing} has no training row, so no batch can hold "
                "every class.",
                "Prepare the data without that class, or sample uniformly.",
            )
        if self.batch < self.least * len(counts):
            raise WrongCall(
                f"a batch of {self.batch} cannot hold {self.least} rows of each of {len(counts)} classes.",
                f"Use at least {self.least * len(counts)} rows a batch.",
            )

    def __call__(self, epoch: int) -> np.ndarray:
        generator = np.random.default_rng((self.seed, epoch))
        batches = max(len(self.rows) // self.batch, 1)
        members = [generator.permutation(np.flatnonzero(self.labels == c)) for c in range(self.labels.max() + 1)]
        if self.balanced:
            chosen = self._balanced(members, batches)
        else:
            order = np.resize(generator.permutation(len(self.rows)), batches * self.batch)
            chosen = self._completed(order.reshape(batches, self.batch), members)
        return self.rows[generator.permuted(chosen, axis=1).ravel()]

    def _balanced(self, members: list[np.ndarray], batches: int) -> np.ndarray:
        """(batches, batch) positions; the classes that get one row more take turns."""
        each, over = divmod(self.batch, len(members))
        turn = (np.arange(batches)[:, None] + np.arange(len(members))) % len(members) < over
        classes = np.tile(np.repeat(np.arange(len(members)), each), (batches, 1))
        extra = np.nonzero(turn)[1].reshape(batches, over)
        classes = np.concatenate([classes, extra], 1)
        chosen = np.empty_like(classes)
        for label, rows in enumerate(members):
            wanted = classes == label
            chosen[wanted] = np.resize(rows, wanted.sum())
        return chosen

    def _completed(self, chosen: np.ndarray, members: list[np.ndarray]) -> np.ndarray:
        """Surplus rows of each batch, of classes that occur more than `least` times, replaced by what it lacks."""
        labels = self.labels[chosen]
        counts = (labels[:, :, None] == np.arange(len(members))).sum(1)
        lacking = (self.least - counts).clip(min=0)
        order = np.argsort(labels, axis=1, kind="stable")
        first = np.concatenate([(labels == NOT_LABELLED).sum(1, keepdims=True), counts], 1).cumsum(1)[:, :-1]
        within = np.arange(self.batch) - np.take_along_axis(first, np.take_along_axis(labels, order, 1), 1)
        # The most surplus rows first: those that stand farthest back in their class.
        surplus = np.where(np.take_along_axis(labels, order, 1) == NOT_LABELLED, self.batch, within)
        freed = np.take_along_axis(order, np.argsort(-surplus, axis=1, kind="stable"), 1)
        slots = np.arange(self.batch) < lacking.sum(1, keepdims=True)
        needed = np.repeat(np.tile(np.arange(len(members)), len(chosen)), lacking.ravel())
        fill = np.empty(len(needed), np.int64)
        for label, rows in enumerate(members):
            fill[needed == label] = np.resize(rows, (needed == label).sum())
        completed = chosen.copy()
        batch_index = np.repeat(np.arange(len(chosen)), lacking.sum(1))
        completed[batch_index, freed[slots]] = fill
        return completed


@dataclass(frozen=True)
class SideBySide:
    """Several orders in one: every batch has equally many rows of each, in the order of the orders.

    Args:
        orders: one for each task, for example.
        rows: of each order in the batch of all processes together.
        names: of the orders, for what is said when one is too short.
        until: an epoch ends with the shortest order (published), or with the longest: then the others begin anew, in
            another order, as often as need be.

    Raises:
        HonneError: an order makes no batch.

    Source: Deng et al., FG 2020: a loader for each task.
    """

    orders: Sequence[Order]
    rows: int
    names: Sequence[str] = ()
    until: Literal["shortest", "longest"] = "shortest"

    def __post_init__(self) -> None:
        for order, name in zip(self.orders, self.names, strict=False):
            if len(order(0)) < self.rows:
                raise HonneError(
                    f"{len(order(0))} training rows with {name} make no batch of {self.rows}.",
                    "Lower --data.batch_size, or add data of that task.",
                )

    def __call__(self, epoch: int) -> np.ndarray:
        shown = [order(epoch) for order in self.orders]
        if self.until == "longest":
            longest = max(map(len, shown))
            times = [-(-longest // len(each)) for each in shown]
            shown = [
                np.concatenate([order(epoch * count + turn) for turn in range(count)])
                for order, count in zip(self.orders, times, strict=True)
            ]
            batches = longest // self.rows
        else:
            batches = min(map(len, shown)) // self.rows
        return np.concatenate([each[: batches * self.rows].reshape(batches, -1) for each in shown], 1).ravel()


@dataclass(frozen=True)
class Draw:
    """One batch to fetch.

    Attributes:
        rows: (B,) row numbers; numbers of windows where a data set shows windows.
        positions: (B,) in the epoch's order.
        epoch: in which they are shown.
        alike: (B,) row numbers on which depends what is random, in place of `rows`: frames of one window are changed
            alike.
    """

    rows: np.ndarray
    positions: np.ndarray
    epoch: int = 0
    alike: np.ndarray | None = None


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
