"""From prepared data sets to batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from honne.batch import Batch
from honne.data.balancing import ml_ros_weights, valence_arousal_weights
from honne.data.dataset import FaceData, Targets
from honne.data.known import TASKS, Known, Learns, Task
from honne.data.manifest import PreparedData
from honne.data.noise import LabelNoise
from honne.data.sampling import (
    Draw,
    EpochBatches,
    EqualClasses,
    EveryClass,
    OnceBatches,
    Order,
    Shuffled,
    SideBySide,
    Weighted,
    class_balanced,
    class_weights,
)
from honne.data.transforms import Augment
from honne.data.windows import windows
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

Sampling = Literal["uniform", "class_balanced", "every_class", "every_class_balanced", "equal_classes", "tasks"]
"""How training rows are drawn: each once; classes equally often in expectation; each once, but with two rows of every
class in every batch; equally many rows of every class in every batch; as many rows of each class as the smallest has,
drawn afresh every epoch; equally many rows of every task in every batch."""
Balance = Literal["none", "published"]
"""How the rows of each task are drawn, with sampling by tasks: each once; or so that expressions, cells of valence and
arousal, and rare action units come equally often in expectation."""


def open_data(
    roots: str | Path | PreparedData | Sequence[str | Path | PreparedData], labels: Literal["same", "union"] = "same"
) -> list[PreparedData]:
    """Open one or several prepared data sets.

    Args:
        roots: folders, or data sets that are open already.
        labels: whether they must all be labelled with the same.

    Raises:
        HonneError: a folder is not a prepared data set, or their label schemas differ and must not.
    """
    several = [roots] if isinstance(roots, (str, Path, PreparedData)) else list(roots)
    data = [root if isinstance(root, PreparedData) else PreparedData(root) for root in several]
    if not data:
        raise WrongCall("No data set was named.", "Give at least one folder written by `honne prepare`.")
    for other in data[1:] if labels == "same" else ():
        other.schema.labels.require_same(data[0].schema.labels, str(other.root), str(data[0].root))
    return data


class _Fetch(Dataset[Any]):
    """Hands an error over as a value: raised in a worker it would come out wrapped in a traceback."""

    def __init__(self, data: FaceData) -> None:
        self.data = data

    def __getitems__(self, draw: Draw) -> Batch | HonneError:
        try:
            return self.data.__getitems__(draw)
        except HonneError as error:
            return error


def _as_is(batch: Any) -> Any:
    return batch


class Loader:
    """Batches of a data set, in worker processes if wanted.

    Not a `DataLoader`, so that Lightning leaves the sampler alone: honne's are distributed already.

    Args:
        data: what is loaded.
        batches: what each batch holds.
        workers: processes; 0 loads in this one.
        place: gives epoch and number of batches of it already seen, asked when the first batch is wanted. By
            default the epoch and skip of `batches`.
        pin_memory: page-locked memory, for copying to a GPU.
    """

    def __init__(
        self,
        data: FaceData,
        batches: EpochBatches | OnceBatches,
        workers: int = 0,
        place: Callable[[], tuple[int, int]] | None = None,
        pin_memory: bool = False,
    ) -> None:
        self.dataset, self.batches, self.place = data, batches, place
        self._loader: DataLoader[Any] = DataLoader(
            _Fetch(data),
            batch_sampler=batches,  # type: ignore[arg-type]
            collate_fn=_as_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        if self.place is not None and isinstance(self.batches, EpochBatches):
            self.batches.epoch, self.batches.skip = self.place()
        for batch in self._loader:
            if isinstance(batch, HonneError):
                raise batch
            yield batch

    @property
    def _iterator(self) -> Any:
        """Where Lightning looks for worker processes to end when a run is over or has failed."""
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator

    def state_dict(self) -> dict[str, Any]:
        """Empty. Lightning asks for it before it goes on in mid-epoch; `place` knows where."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def batches(
    data: PreparedData | Sequence[PreparedData],
    split: str,
    *,
    size: int,
    batch_size: int = 32,
    workers: int = 0,
    centre: float = 1.0,
) -> Iterator[Batch]:
    """Batches of a split as they are, in manifest order.

    Args:
        data: prepared data set, or several of one label schema.
        split: train, valid or test.
        size: side of the images, px.
        batch_size: images in a batch.
        workers: loading processes.
        centre: share of the stored pictures' side, about their centre, that is shown.
    """
    faces = FaceData(open_data(data), size, targets="votes", centre=centre)
    return iter(Loader(faces, OnceBatches(faces.rows(split), batch_size), workers))


def task_weights(known: Known, task: Task, rows: np.ndarray, labels: LabelSchema, seed: int) -> np.ndarray:
    """(N,) weights with which the rows of a task are drawn; see `Balance`.

    Source: Deng et al., FG 2020: ML-ROS for action units, equal classes, equal cells of valence and arousal.
    """
    if task == "action_units":
        assert known.action_units is not None
        return ml_ros_weights(known.action_units[rows], seed=seed, action_units=labels.action_units)
    if task == "valence_arousal":
        assert known.valence_arousal is not None
        return valence_arousal_weights(known.valence_arousal[rows])
    assert known.expression is not None
    return class_weights(known.expression[rows])


def window_rows(data: Sequence[PreparedData], rows: np.ndarray, length: int, stride: int) -> np.ndarray:
    """(W, length) row numbers of windows over the videos of several data sets, -1 where padded.

    Args:
        data: data sets; row numbers run through all of them.
        rows: to show, of any videos; those without a video are windows of their own.
        length: frames in a window.
        stride: frames from one window's start to the next one's.
    """
    frames = pd.concat(
        [part.rows.reindex(columns=["video", "time"]).assign(part=number) for number, part in enumerate(data)],
        ignore_index=True,
    ).loc[rows]
    if frames["video"].isna().all():
        raise WrongCall(
            f"{data[0].root}: windows need videos, and no row says which it is of.", "Leave --model.window out."
        )
    videos = frames.groupby(["part", "video"], sort=False).ngroup().to_numpy()  # -1 where null
    order = np.lexsort((frames["time"].to_numpy(), videos))
    table = windows(videos[order], length, stride)
    return np.where(table < 0, -1, rows[order][table])


_HAS = {"labels": "has a label", "expression": "has an expression label", "subject": "names its subject"}


class DataModule(lightning.LightningDataModule):
    """Train, validation and test batches of prepared data sets.

    Args:
        data: folder or folders written by `honne prepare`; several must have the same label schema.
        size: side of the images, px.
        batch_size: images per batch and process.
        workers: loading processes.
        seed: of order and augmentation.
        augment: random changes of training images.
        targets: see `FaceData`.
        sampling: see `Sampling`.
        label_noise: makes training labels wrong on purpose.
        heatmaps: see `FaceData`.
        learns: which rows count: those with a label, with an expression, or that name their subject.
        centre: share of the stored pictures' side, about their centre, that is shown when measuring.
        drop_last: leave out an incomplete last training batch.
        labels: what is learned of data sets that are labelled with different things, each with some of it; unset =
            all are labelled with the same.
        balance: see `Balance`.
        epoch: with sampling by tasks: ends with the task that has the fewest rows, or the most.
        window: frames of the windows that are shown in place of single rows; 0 = rows. `batch_size` counts windows.
    """

    def __init__(
        self,
        data: str | Path | PreparedData | Sequence[str | Path | PreparedData],
        *,
        size: int,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
        augment: Augment | None = None,
        targets: Targets = "label",
        sampling: Sampling = "uniform",
        drop_last: bool = False,
        label_noise: LabelNoise | None = None,
        centre: float = 1.0,
        learns: Learns = "labels",
        heatmaps: Callable[[Known, np.ndarray], np.ndarray] | None = None,
        labels: LabelSchema | None = None,
        balance: Balance = "none",
        epoch: Literal["shortest", "longest"] = "shortest",
        window: int = 0,
    ) -> None:
        super().__init__()
        self.data = open_data(data, "same" if labels is None else "union")
        self.labels = self.data[0].schema.labels if labels is None else labels
        self.balance, self.epoch, self.window = balance, epoch, window
        self.size, self.batch_size, self.workers, self.seed = size, batch_size, workers, seed
        self.augment, self.targets, self.sampling, self.drop_last = augment, targets, sampling, drop_last
        self.label_noise, self.centre, self.learns = label_noise, centre, learns
        self.training = FaceData(self.data, size, augment, seed, targets, heatmaps, labels=self.labels)
        self.flips = self._flip(label_noise) if label_noise else None
        # Measured against the votes whatever is learned.
        self.measuring = FaceData(
            self.data, size, targets="votes", heatmaps=heatmaps, centre=centre, labels=self.labels
        )
        if balance != "none" and (sampling != "tasks" or window):
            raise WrongCall("data.balance is for rows that are drawn by task.", "Add --data.sampling tasks.")
        if window and sampling not in ("uniform", "tasks"):
            raise WrongCall(f"data.sampling {sampling} draws rows, and windows are shown.", "Leave it out.")

    def _flip(self, noise: LabelNoise) -> pd.DataFrame:
        """Make labels of the training rows wrong; returns which: data set, id, and the classes from and to."""
        labels, names = self.training.known.expression, self.labels.expressions
        if labels is None or self.targets != "label":
            raise WrongCall(
                "data.label_noise changes class labels; these are not what is learned here.",
                "Use data with expression labels, and --data.targets label.",
            )
        rows = self.training.rows("train")
        wrong = labels.copy()
        wrong[rows] = noise.flipped(labels[rows], names)
        self.training.known = replace(self.training.known, expression=wrong)
        places = [(row, *self.training.source(row)) for row in np.flatnonzero(wrong != labels).tolist()]
        return pd.DataFrame(
            [
                (
                    self.data[part].schema.name,
                    self.data[part].rows["id"].iat[own],
                    names[labels[row]],
                    names[wrong[row]],
                )
                for row, part, own in places
            ],
            columns=["data", "id", "from", "to"],
        )

    def train_rows(self) -> np.ndarray:
        """Row numbers to learn from: those of the split that have what is learned.

        Raises:
            HonneError: there is none.
        """
        rows = self.training.rows("train")
        rows = rows[self.training.known.usable(self.learns)[rows]]
        if not len(rows):
            raise HonneError(f"{self.data[0].root}: no training row {_HAS[self.learns]}.", "Check the data set's card.")
        return rows

    def longest(self) -> dict[str, int]:
        """Modality -> steps of the longest sample of any split."""
        every = [reader.longest() for reader in self.training.readers]
        return {name: max(each[name] for each in every) for name in every[0]}

    def tasks(self) -> list[Task]:
        """The tasks that training rows have labels of."""
        rows = self.train_rows()
        return [task for task in TASKS if self.training.known.labelled(task)[rows].any()]

    @property
    def parts(self) -> int:
        """Parts of a training batch, of `batch_size` rows or windows each: one for every task, or only one."""
        return len(self.tasks()) if self.sampling == "tasks" else 1

    def order(self) -> Order:
        """What a training epoch shows: row numbers, or numbers of windows."""
        rows = self.train_rows()
        if self.sampling == "tasks" or self.window:
            return self._by_task(rows) if self.sampling == "tasks" else self._windowed([rows])[0]
        if self.sampling == "uniform":
            return Shuffled(rows, self.seed)
        if self.training.known.expression is None:
            raise WrongCall(f"Sampling {self.sampling} needs expression labels; the data have none.", "Turn it off.")
        labels = self.training.known.expression[rows]
        if self.sampling == "class_balanced":
            return class_balanced(rows, labels, self.seed)
        if self.sampling == "equal_classes":
            return EqualClasses(rows, labels, self.seed)
        together = self.batch_size * self._process()[1]
        balanced = self.sampling == "every_class_balanced"
        return EveryClass(rows, labels, together, self.seed, balanced=balanced, classes=self.labels.expressions)

    def _by_task(self, rows: np.ndarray) -> Order:
        known, tasks = self.training.known, self.tasks()
        own = [rows[known.labelled(task)[rows]] for task in tasks]
        if self.window:
            orders: Sequence[Order] = self._windowed(own)
        elif self.balance == "none":
            orders = [Shuffled(each, self.seed + place) for place, each in enumerate(own)]
        else:
            orders = [
                Weighted(each, task_weights(known, task, each, self.labels, self.seed), self.seed + place)
                for place, (task, each) in enumerate(zip(tasks, own, strict=True))
            ]
        return SideBySide(
            orders, self.batch_size * self._process()[1], [name.replace("_", " ") for name in tasks], self.epoch
        )

    def _windowed(self, pools: Sequence[np.ndarray]) -> list[Order]:
        """Windows over each pool's rows in time order, all in one table; they overlap by a half."""
        tables = [window_rows(self.data, rows, self.window, max(self.window // 2, 1)) for rows in pools]
        self.training.windows = np.concatenate(tables)
        ends = np.cumsum([len(table) for table in tables])
        return [
            Shuffled(np.arange(end - len(t), end), self.seed + k)
            for k, (end, t) in enumerate(zip(ends, tables, strict=True))
        ]

    def train_dataloader(self) -> Loader:
        """Training batches; a resumed run goes on where it stopped."""
        together = self.batch_size * self.parts
        batches = EpochBatches(self.order(), together, *self._process(), drop_last=self.drop_last)
        return Loader(self.training, batches, self.workers, self._place, torch.cuda.is_available())

    def val_dataloader(self) -> Loader:
        """Labelled rows of the validation split, in manifest order."""
        return self._measured("valid")

    def test_dataloader(self) -> Loader:
        """Labelled rows of the test split, in manifest order."""
        return self._measured("test")

    def whole(self, split: str) -> Loader:
        """Labelled rows of a split, all in this process."""
        return self._measured(split, (0, 1))

    def _measured(self, split: str, process: tuple[int, int] | None = None) -> Loader:
        known, rows = self.measuring.known, self.measuring.rows(split)
        if known.expression is not None:  # votes alone are no label to measure against
            known = replace(known, distribution=None)
        rows = rows[known.usable(self.learns)[rows]]
        if not len(rows):
            raise HonneError(
                f"{self.data[0].root}: no row of split '{split}' {_HAS[self.learns]}.", "Check the data set's card."
            )
        if self.window:
            self.measuring.windows = window_rows(self.data, rows, self.window, self.window)
            rows = np.arange(len(self.measuring.windows))
        batches = OnceBatches(rows, self.batch_size * self.parts, *(process or self._process()))
        return Loader(self.measuring, batches, self.workers, pin_memory=torch.cuda.is_available())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _place(self) -> tuple[int, int]:
        """Epoch and batches of it already seen, from the trainer's own progress, which checkpoints keep."""
        if self.trainer is None or not self.trainer.training:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
