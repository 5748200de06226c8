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
from honne.data.dataset import FaceData, Targets
from honne.data.known import Known, Learns
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
    class_balanced,
)
from honne.data.transforms import Augment
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

Sampling = Literal["uniform", "class_balanced", "every_class", "every_class_balanced", "equal_classes"]
"""How training rows are drawn: each once; classes equally often in expectation; each once, but with two rows of every
class in every batch; equally many rows of every class in every batch; as many rows of each class as the smallest has,
drawn afresh every epoch."""


def open_data(roots: str | Path | PreparedData | Sequence[str | Path | PreparedData]) -> list[PreparedData]:
    """Open one or several prepared data sets.

    Raises:
        HonneError: a folder is not a prepared data set, or their label schemas differ.
    """
    several = [roots] if isinstance(roots, (str, Path, PreparedData)) else list(roots)
    data = [root if isinstance(root, PreparedData) else PreparedData(root) for root in several]
    if not data:
        raise WrongCall("No data set was named.", "Give at least one folder written by `honne prepare`.")
    for other in data[1:]:
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
    ) -> None:
        super().__init__()
        self.data = open_data(data)
        self.size, self.batch_size, self.workers, self.seed = size, batch_size, workers, seed
        self.augment, self.targets, self.sampling, self.drop_last = augment, targets, sampling, drop_last
        self.label_noise, self.centre, self.learns = label_noise, centre, learns
        self.training = FaceData(self.data, size, augment, seed, targets, heatmaps)
        self.flips = self._flip(label_noise) if label_noise else None
        # Measured against the votes whatever is learned.
        self.measuring = FaceData(self.data, size, targets="votes", heatmaps=heatmaps, centre=centre)

    @property
    def labels(self) -> LabelSchema:
        """Label schema of the data sets."""
        return self.data[0].schema.labels

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

    def order(self) -> Order:
        """What a training epoch shows."""
        rows = self.train_rows()
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

    def train_dataloader(self) -> Loader:
        """Training batches; a resumed run goes on where it stopped."""
        batches = EpochBatches(self.order(), self.batch_size, *self._process(), drop_last=self.drop_last)
        return Loader(self.training, batches, self.workers, self._place, torch.cuda.is_available())

    def val_dataloader(self) -> Loader:
        """Labelled rows of the validation split, in manifest order."""
        return self._measured("valid")

    def test_dataloader(self) -> Loader:
        """Labelled rows of the test split, in manifest order."""
        return self._measured("test")

    def _measured(self, split: str) -> Loader:
        known, rows = self.measuring.known, self.measuring.rows(split)
        if known.expression is not None:  # votes alone are no label to measure against
            known = replace(known, distribution=None)
        rows = rows[known.usable(self.learns)[rows]]
        if not len(rows):
            raise HonneError(
                f"{self.data[0].root}: no row of split '{split}' {_HAS[self.learns]}.", "Check the data set's card."
            )
        batches = OnceBatches(rows, self.batch_size, *self._process())
        return Loader(self.measuring, batches, self.workers, pin_memory=torch.cuda.is_available())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _place(self) -> tuple[int, int]:
        """Epoch and batches of it already seen, from the trainer's own progress, which checkpoints keep."""
        if self.trainer is None or not self.trainer.training:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
