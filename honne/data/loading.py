"""From prepared data sets to batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.manifest import PreparedData
from honne.data.sampling import Draw, EpochBatches, OnceBatches, Order, Shuffled, class_balanced
from honne.data.transforms import Augment, transform
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema

Targets = Literal["label", "distribution", "sampled"]


@dataclass
class Known:
    """Everything but pixels that is known of N rows, NaN or `NOT_LABELLED` where not; `None` if of no row.

    Attributes:
        expression: (N,) class index.
        distribution: (N, C) target distributions.
        action_units: (N, A).
        au_intensity: (N, A).
        valence_arousal: (N, 2).
        landmarks: (N, 68, 2) px of the stored image.
        domain: (N,) index into `domains`.
        domains: names of the strata.
    """

    expression: np.ndarray | None
    distribution: np.ndarray | None
    action_units: np.ndarray | None
    au_intensity: np.ndarray | None
    valence_arousal: np.ndarray | None
    landmarks: np.ndarray | None
    domain: np.ndarray | None
    domains: tuple[str, ...] = ()

    def usable(self) -> np.ndarray:
        """(N,) whether a row has any label."""
        some = [np.asarray(self.expression != NOT_LABELLED)] if self.expression is not None else []
        for values in (self.distribution, self.action_units, self.au_intensity, self.valence_arousal):
            if values is not None:
                some.append(~np.isnan(values).all(1))
        return np.logical_or.reduce(some) if some else np.zeros(0, bool)


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


def known(data: Sequence[PreparedData], distributions: bool = False) -> Known:
    """Read the labels of all rows of all data sets at once.

    Args:
        data: data sets of one label schema.
        distributions: read target distributions: column `target` where a data set has it, else its votes.
    """
    names = tuple(
        sorted({name for part in data if "domain" in part.rows for name in part.rows["domain"].dropna().unique()})
    )
    affect = [_join([part.stack(column) for part in data], data) for column in ("valence", "arousal")]
    points = _join([part.stack("landmarks") for part in data], data)
    return Known(
        expression=_codes(data, "expression", data[0].schema.labels.expressions),
        distribution=_join([_distribution(part) for part in data], data) if distributions else None,
        action_units=_join([part.stack("au") for part in data], data),
        au_intensity=_join([part.stack("au_intensity") for part in data], data),
        valence_arousal=None if affect[0] is None or affect[1] is None else np.stack([affect[0], affect[1]], 1),
        landmarks=None if points is None else points.reshape(len(points), -1, 2),
        domain=_codes(data, "domain", names),
        domains=names,
    )


def _join(parts: list[np.ndarray | None], data: Sequence[PreparedData]) -> np.ndarray | None:
    """Rows of all data sets; NaN where a data set lacks the column."""
    shape = next((part.shape[1:] for part in parts if part is not None and part.size), None)
    if shape is None:
        return None
    blank = [np.full((len(rows), *shape), np.nan, np.float32) for rows in data]
    return np.concatenate([empty if part is None or not part.size else part for part, empty in zip(parts, blank, strict=True)])


def _codes(data: Sequence[PreparedData], column: str, names: Sequence[str]) -> np.ndarray | None:
    if not any(column in part.rows for part in data):
        return None
    place = {name: i for i, name in enumerate(names)}
    codes = []
    for part in data:
        values = part.rows[column].to_numpy() if column in part.rows else np.full(len(part), None)
        for row, value in enumerate(values):
            if isinstance(value, str) and value not in place:
                raise HonneError(
                    f"{part.root}: manifest row {row}: {column} '{value}' is not one of {', '.join(names)}.",
                    "Prepare the data set again.",
                )
        codes.append(np.array([place.get(value, NOT_LABELLED) for value in values], np.int64))
    return np.concatenate(codes)


def _distribution(data: PreparedData) -> np.ndarray | None:
    target = data.stack("target")
    if target is None and (votes := data.stack("votes")) is not None:
        total = votes.sum(1, keepdims=True)
        target = np.divide(votes, total, out=np.full_like(votes, np.nan), where=total > 0)
    return target


class FaceData(Dataset[Batch]):
    """Rows of one or several prepared data sets as batches.

    Row numbers run through all data sets, one after the other. A whole batch is fetched at once by a `Draw`; what is
    random depends on seed, epoch, row and position alone.

    Args:
        data: prepared data sets of one label schema.
        size: side of the images, px.
        augment: random changes; `None` for none.
        seed: of the changes.
        targets: `label`: class labels only; `distribution`: also target distributions; `sampled`: a class drawn
            from the target distribution whenever an image is shown.
        heatmaps: gives (B, K, h, w) float maps in [0, 1] over the stored images for (B,) row numbers.
        sides: (A,) order of the action-unit columns after a flip, where they carry a side
            (see `honne.data.flips.sided_units`).
    """

    def __init__(
        self,
        data: Sequence[PreparedData],
        size: int,
        augment: Augment | None = None,
        seed: int = 0,
        targets: Targets = "label",
        heatmaps: Callable[[np.ndarray], np.ndarray] | None = None,
        sides: np.ndarray | None = None,
    ) -> None:
        self.data, self.size, self.augment, self.seed = list(data), size, augment, seed
        self.targets, self.heatmaps, self.sides = targets, heatmaps, sides
        self.starts = np.cumsum([0, *(len(part) for part in self.data)])
        self.known = known(self.data, targets != "label")

    @property
    def labels(self) -> LabelSchema:
        return self.data[0].schema.labels

    def __len__(self) -> int:
        return int(self.starts[-1])

    def rows(self, split: str) -> np.ndarray:
        """Row numbers of a split over all data sets.

        Raises:
            HonneError: it is empty.
        """
        parts = [np.flatnonzero(part.rows["split"].to_numpy() == split) for part in self.data]
        rows = np.concatenate([part + start for part, start in zip(parts, self.starts, strict=False)])
        if not len(rows):
            self.data[0].split(split)  # says what there is
        return rows

    def source(self, row: int) -> tuple[PreparedData, int]:
        """Data set and its own row number."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.data[part], int(row - self.starts[part])

    def image(self, row: int) -> np.ndarray:
        """(H, W) grey or (H, W, 3) RGB, uint8, as stored.

        Raises:
            HonneError: it cannot be decoded.
        """
        data, own = self.source(row)
        try:
            image = Image.open(io.BytesIO(data.image_bytes(own)))
            image.draft(None, (self.size, self.size))  # lets a JPEG decode at half or a quarter of its size
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            name = data.rows["id"].iat[own] if "id" in data.rows else "?"
            raise HonneError(
                f"{data.root}: manifest row {own} (id {name}): the image cannot be decoded: {error}.",
                "Prepare the data set again; images that cannot be read are left out there.",
            ) from None

    def __getitem__(self, row: int) -> Batch:
        """A batch of one row, as in epoch 0."""
        return self.__getitems__(Draw(np.array([row]), np.array([row])))

    def __getitems__(self, draw: Draw) -> Batch:
        """The batch of a draw."""
        rows, augment = draw.rows, self.augment
        images = [self.image(int(row)) for row in rows]
        chance = [_generator(self.seed, draw.epoch, int(r), int(p)) for r, p in zip(rows, draw.positions, strict=True)]
        moved = transform(
            images,
            self.size,
            augment,
            chance if augment else (),
            None if self.known.landmarks is None else self.known.landmarks[rows],
            None if self.heatmaps is None else self.heatmaps(rows),
        )
        labels = self._labels(rows, chance)
        if self.sides is not None:
            for units in (labels.action_units, labels.au_intensity):
                if units is not None:
                    units[moved.flipped] = units[moved.flipped][:, self.sides]
        return Batch(
            images=moved.images,
            labels=labels,
            landmarks=moved.landmarks,
            heatmaps=moved.heatmaps,
            domain=_rows(self.known.domain, rows),
            index=torch.from_numpy(rows),
        )

    def _labels(self, rows: np.ndarray, chance: Sequence[np.random.Generator]) -> Labels:
        labels = Labels(
            _rows(self.known.expression, rows),
            _rows(self.known.distribution, rows),
            _rows(self.known.action_units, rows),
            _rows(self.known.au_intensity, rows),
            _rows(self.known.valence_arousal, rows),
        )
        if self.targets == "sampled" and self.known.distribution is not None:
            edges = np.cumsum(self.known.distribution[rows], 1)
            drawn = (np.array([generator.random() for generator in chance])[:, None] * edges[:, -1:] >= edges).sum(1)
            labels.expression = torch.from_numpy(np.where(np.isnan(edges[:, -1]), NOT_LABELLED, drawn))
            labels.distribution = None
        return labels


def _rows(values: np.ndarray | None, rows: np.ndarray) -> Any:
    return None if values is None else torch.from_numpy(values[rows])


def _generator(seed: int, epoch: int, row: int, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=[0, 0, row, position]))


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

    def state_dict(self) -> dict[str, Any]:
        """Empty. Lightning asks for it before it goes on in mid-epoch; `place` knows where."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def batches(
    data: PreparedData | Sequence[PreparedData], split: str, *, size: int, batch_size: int = 32, workers: int = 0
) -> Iterator[Batch]:
    """Batches of a split as they are, in manifest order.

    Args:
        data: prepared data set, or several of one label schema.
        split: train, valid or test.
        size: side of the images, px.
        batch_size: images in a batch.
        workers: loading processes.
    """
    faces = FaceData(open_data(data), size, targets="distribution")
    return iter(Loader(faces, OnceBatches(faces.rows(split), batch_size), workers))


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
        balanced: draw classes equally often, with replacement.
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
        balanced: bool = False,
        drop_last: bool = False,
    ) -> None:
        super().__init__()
        self.data = open_data(data)
        self.size, self.batch_size, self.workers, self.seed = size, batch_size, workers, seed
        self.augment, self.targets, self.balanced, self.drop_last = augment, targets, balanced, drop_last
        self.training = FaceData(self.data, size, augment, seed, targets)
        # Measured against the votes whatever is learned.
        self.measuring = FaceData(self.data, size, targets="distribution")

    @property
    def labels(self) -> LabelSchema:
        """Label schema of the data sets."""
        return self.data[0].schema.labels

    def train_rows(self) -> np.ndarray:
        """Row numbers to learn from: those of the split that have any label.

        Raises:
            HonneError: there is none.
        """
        rows = self.training.rows("train")
        rows = rows[self.training.known.usable()[rows]]
        if not len(rows):
            raise HonneError(f"{self.data[0].root}: no training row has a label.", "Check the data set's card.")
        return rows

    def order(self) -> Order:
        """What a training epoch shows."""
        rows = self.train_rows()
        if not self.balanced:
            return Shuffled(rows, self.seed)
        if self.training.known.expression is None:
            raise WrongCall("Class-balanced sampling needs expression labels; the data have none.", "Turn it off.")
        return class_balanced(rows, self.training.known.expression[rows], self.seed)

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
        known = known if known.expression is None else Known(**vars(known) | {"distribution": None})
        rows = rows[known.usable()[rows]]
        if not len(rows):
            raise HonneError(f"{self.data[0].root}: no row of split '{split}' has a label.", "Check the data set's card.")
        batches = OnceBatches(rows, self.batch_size, *self._process())
        return Loader(self.measuring, batches, self.workers, pin_memory=torch.cuda.is_available())

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _place(self) -> tuple[int, int]:
        """Epoch and batches of it already seen, from the trainer's own progress, which checkpoints keep."""
        if self.trainer is None:
            return 0, 0
        return self.trainer.current_epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
