"""Rows of prepared data sets, fetched as whole batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.decoding import fast_pixels
from honne.data.known import Known, known
from honne.data.manifest import PreparedData
from honne.data.sampling import Draw
from honne.data.sequences import SequenceReader
from honne.data.transforms import Augment, Transformed, transform
from honne.errors import HonneError
from honne.faces.align import framed
from honne.labels import LabelSchema

Targets = Literal["label", "distribution", "sampled", "votes"]

_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class StoredImage:
    """An image of a prepared data set; its header is read at once, its pixels when they are asked for.

    A JPEG of at least twice the side that is needed is decoded at a half, a quarter or an eighth.

    Args:
        data: the data set.
        row: number in its manifest.
        needed: px that its shorter side must have.

    Attributes:
        shape: (H, W) for grey or (H, W, 3) for RGB.
        shrunk: its side as decoded in sides of the stored image.

    Raises:
        HonneError: it cannot be read, here or in `pixels`.
    """

    def __init__(self, data: PreparedData, row: int, needed: int) -> None:
        self.data, self.row = data, row
        try:
            self._encoded: memoryview | None = data.image_bytes(row)
            self._image: Image.Image | None = Image.open(io.BytesIO(self._encoded))
        except _UNREADABLE as error:
            raise self._unreadable(error) from None
        image, width = self._image, self._image.width
        if width >= 2 * needed:
            image.draft(None, (needed, needed))
        self.shrunk = image.width / width
        self.shape = image.size[::-1] if image.mode == "L" else (*image.size[::-1], 3)

    def pixels(self) -> np.ndarray:
        """Of `shape`, uint8, not to be written to; only once, since nothing is kept."""
        image, self._image = self._image, None
        encoded, self._encoded = self._encoded, None
        assert image is not None
        assert encoded is not None
        pixels = fast_pixels(image, encoded) if self.shrunk == 1 else None
        if pixels is not None:
            return pixels
        try:
            return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        except _UNREADABLE as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> HonneError:
        rows = self.data.rows
        name = str(rows["id"].iat[self.row]) if "id" in rows else "?"
        return HonneError(
            f"{self.data.root}: manifest row {self.row} (id {name}): the image cannot be decoded: {error}.",
            "Prepare the data set again; images that cannot be read are left out there.",
        )


class FaceData(Dataset[Batch]):
    """Rows of one or several prepared data sets as batches: images, feature sequences or both, whatever they have.

    Row numbers run through all data sets, one after the other. A whole batch is fetched at once by a `Draw`; what is
    random depends on seed, epoch, row and position alone.

    Args:
        data: prepared data sets of one label schema.
        size: side of the images, px.
        augment: random changes; `None` for none.
        seed: of the changes.
        targets: `label`: class labels only; `distribution`: also target distributions; `sampled`: a class drawn
            from the target distribution whenever a row is shown; `votes`: the votes themselves, to measure against.
        heatmaps: from what is known of all rows and (B,) row numbers to (B, K, h, w) float maps in [0, 1] over the
            stored images.
        sides: (A,) order of the action-unit columns after a flip, where they carry a side
            (see `honne.data.flips.sided_units`).
        centre: share of the stored images' side, about their centre, that is shown; see `transform`.
        labels: classes and units of the labels, where the data sets have different ones; unset = those of the first.

    Attributes:
        known: labels of all rows.
        windows: (W, N) row numbers of windows, -1 where padded; where set, a `Draw` names windows.
        features: (rows, F) what a frozen network said of every image; where set, images are not loaded.

    Raises:
        HonneError: some data sets have images (or sequences) and others do not.
        WrongCall: `centre` is no share.
    """

    def __init__(
        self,
        data: Sequence[PreparedData],
        size: int,
        augment: Augment | None = None,
        seed: int = 0,
        targets: Targets = "label",
        heatmaps: Callable[[Known, np.ndarray], np.ndarray] | None = None,
        sides: np.ndarray | None = None,
        centre: float = 1.0,
        labels: LabelSchema | None = None,
    ) -> None:
        self.frame, self.centre = framed(size, centre), centre
        self.labels = data[0].schema.labels if labels is None else labels
        self.windows: np.ndarray | None = None
        self.features: np.ndarray | None = None
        self.data, self.size, self.augment, self.seed = list(data), size, augment, seed
        self.targets, self.heatmaps, self.sides = targets, heatmaps, sides
        self.starts = np.cumsum([0, *(len(part) for part in self.data)])
        self.known = known(self.data, {"label": "none", "votes": "votes"}.get(targets, "target"), self.labels)  # type: ignore[arg-type]
        self.has_images = self._all_have("image")
        self.readers = [SequenceReader(part.root / "sequences") for part in data] if self._all_have("sequence") else []
        for part, reader in zip(data[1:], self.readers[1:], strict=False):
            if reader.widths() != self.readers[0].widths():
                raise HonneError(
                    f"{part.root}: its sequences are {_listed(reader.widths())}, those of {data[0].root} are"
                    f" {_listed(self.readers[0].widths())}.",
                    "Train on data sets that were prepared with the same features.",
                )

    def _all_have(self, column: str) -> bool:
        having = [column in part.rows for part in self.data]
        if any(having) and not all(having):
            first, other = self.data[having.index(True)], self.data[having.index(False)]
            raise HonneError(
                f"{first.root} has {column}s, {other.root} has none.", "Train on data sets that have the same inputs."
            )
        return all(having)

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

    def source(self, row: int) -> tuple[int, int]:
        """Position of a row's data set, and the row's number there."""
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return part, int(row - self.starts[part])

    def image(self, row: int) -> StoredImage:
        """A stored image, not decoded yet.

        Raises:
            HonneError: it cannot be read.
        """
        part, own = self.source(row)
        needed = self.frame if self.augment is None else round(self.frame / self.augment.crop[0] ** 0.5)
        return StoredImage(self.data[part], own, needed)

    def __getitem__(self, row: int) -> Batch:
        """A batch of one row, as in epoch 0."""
        return self.__getitems__(Draw(np.array([row]), np.array([row])))

    def __getitems__(self, draw: Draw) -> Batch:
        """The batch of a draw."""
        clips = None
        if self.windows is not None:
            draw, clips = self._frames(draw, self.windows)
        rows, labels = draw.rows, self._labels(draw)
        batch = Batch(labels=labels, domain=_rows(self.known.domain, rows), index=torch.from_numpy(rows))
        batch.subject = _rows(self.known.subject, rows)
        batch.clips = clips
        if self.features is not None:
            batch.features = torch.from_numpy(self.features[rows].astype(np.float32))
        elif self.has_images:
            moved = self._moved(draw)
            batch.images, batch.landmarks, batch.heatmaps = moved.images, moved.landmarks, moved.heatmaps
            for units in (labels.action_units, labels.au_intensity):
                if units is not None and self.sides is not None:
                    units[moved.flipped] = units[moved.flipped][:, self.sides]
        if self.readers:
            batch.sequences, batch.lengths = self._sequences(rows)
        return batch

    def _frames(self, draw: Draw, windows: np.ndarray) -> tuple[Draw, Tensor]:
        """The draw of the frames of windows, and the place of each frame in the windows, (W, N)."""
        shown = windows[draw.rows]
        there = shown >= 0
        clips = np.full(shown.shape, -1)
        clips[there] = np.arange(there.sum())
        first = np.repeat(shown[:, 0], there.sum(1))
        return Draw(shown[there], np.repeat(draw.positions, there.sum(1)), draw.epoch, first), torch.from_numpy(clips)

    def _moved(self, draw: Draw) -> Transformed:
        images = [self.image(row) for row in draw.rows.tolist()]
        shrunk = np.array([image.shrunk for image in images])
        points = self.known.landmarks
        return transform(
            (image.pixels() for image in images),
            self.size,
            self.augment,
            self._chance(draw, "image") if self.augment else (),
            None if points is None else points[draw.rows] * shrunk[:, None, None],
            None if self.heatmaps is None else self.heatmaps(self.known, draw.rows),
            [image.shape for image in images],
            self.centre,
        )

    def _sequences(self, rows: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return pad_sequences([self.sample(row) for row in rows.tolist()])

    def sample(self, row: int) -> dict[str, np.ndarray]:
        """Modality -> (T, D) features of a row, not to be written to; T is 0 where it lacks the modality."""
        part, own = self.source(row)
        return self.readers[part].read(str(self._sequence_references[part][own]))

    @cached_property
    def _sequence_references(self) -> list[list[str]]:
        return [part.rows["sequence"].tolist() for part in self.data]  # many times faster to index than the frame

    def _labels(self, draw: Draw) -> Labels:
        rows, known = draw.rows, self.known
        labels = Labels(
            _rows(known.expression, rows),
            _rows(known.distribution, rows),
            _rows(known.action_units, rows),
            _rows(known.au_intensity, rows),
            _rows(known.valence_arousal, rows),
            _rows(known.emotions, rows),
            _rows(known.sentiment, rows),
        )
        if self.targets == "sampled" and known.distribution is not None:
            edges = np.cumsum(known.distribution[rows], 1)
            chance = np.array([generator.random() for generator in self._chance(draw, "target")])[:, None]
            drawn = (chance * edges[:, -1:] >= edges).sum(1)
            labels.expression = torch.from_numpy(np.where(np.isnan(edges[:, -1]), NOT_LABELLED, drawn))
            labels.distribution = None
        return labels

    def _chance(self, draw: Draw, use: Literal["image", "target"]) -> list[np.random.Generator]:
        """One generator per row, the same whoever asks: the counter of a keyed generator says which row it is."""
        key = np.array([self.seed, draw.epoch], np.uint64)
        alike = draw.rows if draw.alike is None else draw.alike
        return [
            np.random.Generator(np.random.Philox(key=key, counter=[0, int(use == "target"), row, position]))
            for row, position in zip(alike.tolist(), draw.positions.tolist(), strict=True)
        ]


def _listed(widths: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({width} features)" for name, width in widths.items())


def _rows(values: np.ndarray | None, rows: np.ndarray) -> Any:
    return None if values is None else torch.from_numpy(values[rows])


def pad_sequences(samples: Sequence[Mapping[str, np.ndarray]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Feature sequences of one batch, zero beyond their ends.

    Args:
        samples: B of modality -> (T, D) features; T is 0 where a sample lacks the modality.

    Returns:
        Modality -> (B, longest T or 1, D) float32; modality -> (B,) int64 true lengths.
    """
    padded, lengths = {}, {}
    for name, first in samples[0].items():
        lengths[name] = torch.tensor([len(sample[name]) for sample in samples])
        padded[name] = torch.zeros(len(samples), max(1, int(lengths[name].max())), first.shape[1])
        for row, sample in zip(padded[name].numpy(), samples, strict=True):
            row[: len(sample[name])] = sample[name]
    return padded, lengths
