"""From prepared data sets to batches: labels, several sets, sequences, errors, and resuming in mid-epoch."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from honne.batch import NOT_LABELLED, Batch
from honne.data.dataset import FaceData
from honne.data.loading import DataModule, Loader, batches, open_data
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.data.sampling import Draw, EpochBatches, Sequential
from honne.data.sequences import SequenceWriter
from honne.data.transforms import Augment
from honne.errors import HonneError
from honne.labels import LabelSchema

CLASSES = ("neutral", "happiness", "anger")
SCHEMA = LabelSchema(CLASSES, (1, 12), True)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind, quality=90)
    return file.getvalue()


def rows(count: int, images: ImageWriter, **columns: Any) -> pd.DataFrame:
    """`count` rows, three quarters of them for training; the last of each split has no expression."""
    made = []
    for row in range(count):
        split, last = ("train", count * 3 // 4) if row < count * 3 // 4 else ("valid", count)
        image = np.random.default_rng(row).integers(0, 256, (16, 16), np.uint8)
        made.append({
            "id": f"face{row}", "split": split, "image": images.add(encoded(image)),
            "expression": None if row == last - 1 else CLASSES[row % 3],
        } | {name: values[row] for name, values in columns.items()})  # fmt: skip
    return pd.DataFrame(made)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    count = 24
    votes = [[3.0, 1.0, 0.0] if row % 2 else None for row in range(count)]
    votes[0] = [0.0, 0.0, 0.0]
    with ImageWriter(tmp_path / "one" / "images") as images:
        table = rows(
            count,
            images,
            votes=votes,
            au=[[1.0, float("nan")] if row % 4 else None for row in range(count)],
            valence=[0.5 if row % 3 else None for row in range(count)],
            arousal=[-0.5 if row % 3 else None for row in range(count)],
            domain=["lab" if row % 2 else None for row in range(count)],
            landmarks=[(np.full(136, 4.0) + row).tolist() for row in range(count)],
        )
    write_manifest(tmp_path / "one", table, DataSchema("one", "made", SCHEMA))
    return tmp_path / "one"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    with ImageWriter(tmp_path / "other" / "images") as images:
        table = rows(8, images, domain=["street"] * 8)
    write_manifest(tmp_path / "other", table, DataSchema("other", "made", SCHEMA))
    return tmp_path / "other"


def test_a_batch_holds_what_the_manifest_says(root: Path) -> None:
    batch = next(batches(PreparedData(root), "train", size=16, batch_size=8))
    assert batch.images is not None
    assert batch.images.shape == (8, 3, 16, 16)
    assert batch.images.dtype == torch.uint8
    stored = np.random.default_rng(3).integers(0, 256, (16, 16), np.uint8)
    assert (batch.images[3, 1].numpy() == stored).all()
    labels = batch.labels
    assert labels.expression is not None
    assert labels.expression.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert labels.distribution is not None
    assert labels.distribution[1].tolist() == [0.75, 0.25, 0.0]
    assert labels.distribution[[0, 2]].isnan().all()  # no votes at all; not voted on
    assert labels.action_units is not None
    assert labels.action_units[0].isnan().all()
    assert labels.action_units[1, 0] == 1
    assert labels.valence_arousal is not None
    assert labels.valence_arousal[1].tolist() == [0.5, -0.5]
    assert labels.valence_arousal[3].isnan().all()
    assert labels.au_intensity is None
    assert batch.domain is not None
    assert batch.domain.tolist()[:2] == [NOT_LABELLED, 0]
    assert batch.landmarks is not None
    assert (batch.landmarks[2] == 6).all()
    assert batch.index is not None
    assert batch.index.tolist() == list(range(8))


def test_landmarks_follow_when_the_size_changes(root: Path) -> None:
    batch = next(batches(PreparedData(root), "train", size=32, batch_size=2))
    assert batch.landmarks is not None
    assert torch.allclose(batch.landmarks[1], torch.tensor(10.0))


def test_evaluation_goes_in_manifest_order(root: Path) -> None:
    seen = torch.cat([batch.index for batch in batches(PreparedData(root), "valid", size=16, batch_size=4)])  # type: ignore[misc]
    assert seen.tolist() == list(range(18, 24))


def test_only_labelled_rows_are_measured_and_learned(root: Path, other: Path) -> None:
    data = DataModule([root, other], size=16)
    assert data.train_rows().tolist() == [*range(18), *range(24, 29)]  # row 17 has other labels; 29 none
    measured = torch.cat([batch.index for batch in data.val_dataloader()])  # type: ignore[misc]
    assert measured.tolist() == [*range(18, 24), 30]


def test_several_sets_keep_their_labels_apart(root: Path, other: Path) -> None:
    data = FaceData(open_data([root, other]), 16, targets="distribution")
    batch = data.__getitems__(Draw(np.array([1, 24]), np.array([0, 1])))
    assert data.known.domains == ("lab", "street")
    assert batch.domain is not None
    assert batch.domain.tolist() == [0, 1]
    assert batch.labels.action_units is not None
    assert batch.labels.action_units[1].isnan().all()
    assert batch.landmarks is not None
    assert batch.landmarks[1].isnan().all()


def test_different_schemas_are_not_mixed(root: Path, tmp_path: Path) -> None:
    with ImageWriter(tmp_path / "third" / "images") as images:
        table = rows(4, images)
    write_manifest(tmp_path / "third", table, DataSchema("third", "made", LabelSchema(CLASSES[::-1])))
    with pytest.raises(HonneError, match="different label schemas"):
        open_data([root, tmp_path / "third"])


def test_sampled_targets_follow_the_votes(root: Path) -> None:
    data = FaceData([PreparedData(root)], 16, targets="sampled")
    drawn = data.__getitems__(Draw(np.full(500, 1), np.arange(500))).labels
    assert drawn.distribution is None
    assert drawn.expression is not None
    shares = torch.bincount(drawn.expression, minlength=3) / 500
    assert shares.tolist() == pytest.approx([0.75, 0.25, 0], abs=0.06)


def test_sided_units_swap_only_in_flipped_images(root: Path) -> None:
    flip = Augment(flip=0.5, warp=0, colour=0, erase=0)
    data = FaceData([PreparedData(root)], 16, flip, sides=np.array([1, 0]))
    batch = data.__getitems__(Draw(np.full(40, 1), np.arange(40)))
    plain = next(batches(PreparedData(root), "train", size=16, batch_size=2)).images
    assert batch.images is not None
    assert plain is not None
    flipped = (batch.images == plain[1].flip(2)).all(3).all(2).all(1)
    assert 5 < flipped.sum() < 35
    assert batch.labels.action_units is not None
    assert (batch.labels.action_units[:, 0].isnan() == flipped).all()


def test_large_jpegs_are_decoded_smaller(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)[None].repeat(256, 0)
    with ImageWriter(tmp_path / "images") as images:
        table = pd.DataFrame(
            [{"split": "test", "image": images.add(encoded(ramp, "JPEG")), "landmarks": [128.0] * 136}]
        )
    write_manifest(tmp_path, table, DataSchema("big", "made", LabelSchema()))
    data = FaceData([PreparedData(tmp_path)], 64)
    image = data.image(0)
    assert image.shape == image.pixels().shape == (64, 64)
    assert image.shrunk == 0.25
    batch = data[0]
    assert batch.landmarks is not None
    assert (batch.landmarks == 32).all()


def test_workers_change_nothing(root: Path) -> None:
    seen = []
    for workers in (0, 1):
        loader = DataModule(root, size=16, batch_size=4, workers=workers, augment=Augment(), seed=5).train_dataloader()
        seen.append([(batch.index, batch.images) for batch in loader])
    assert all(torch.equal(a, b) for one, two in zip(*seen, strict=True) for a, b in zip(one, two, strict=True))


def test_pixels_depend_on_seed_epoch_and_row_only(root: Path) -> None:
    data = FaceData([PreparedData(root)], 16, Augment(), seed=1)
    row, places = np.array([3]), np.array([7])
    one = data.__getitems__(Draw(row, places, 2)).images
    among = data.__getitems__(Draw(np.array([9, 3]), np.array([6, 7]), 2)).images
    assert one is not None
    assert among is not None
    assert torch.equal(one[0], among[1])
    for changed in (Draw(row, places, 3), Draw(row, places + 1, 2)):
        assert not torch.equal(one, data.__getitems__(changed).images)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_decoded_is_named(tmp_path: Path, workers: int) -> None:
    with ImageWriter(tmp_path / "images") as images:
        good = images.add(encoded(np.zeros((8, 8), np.uint8)))
        cut = images.add(encoded(np.zeros((64, 64, 3), np.uint8))[:60])
    table = pd.DataFrame({"id": ["a", "b"], "split": ["train"] * 2, "image": [good, cut], "expression": ["anger"] * 2})
    write_manifest(tmp_path, table, DataSchema("broken", "made", LabelSchema(("anger",))))
    data = FaceData([PreparedData(tmp_path)], 8)
    with pytest.raises(HonneError, match=r"manifest row 1 \(id b\): the image cannot be decoded") as caught:
        list(Loader(data, EpochBatches(Sequential(np.arange(2)), 2), workers))
    assert str(tmp_path) in caught.value.what
    assert caught.value.hint
    assert "Traceback" not in str(caught.value)


def test_labels_that_the_schema_does_not_know(tmp_path: Path) -> None:
    with ImageWriter(tmp_path / "images") as images:
        table = rows(4, images)
    table.loc[2, "expression"] = "hunger"
    write_manifest(tmp_path, table, DataSchema("odd", "made", SCHEMA))
    with pytest.raises(HonneError, match="manifest row 2: expression 'hunger' is not one of neutral"):
        DataModule(tmp_path, size=16)


def test_splits_without_rows_or_labels_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(HonneError, match="split 'test' is empty"):
        DataModule(root, size=16).test_dataloader()
    with ImageWriter(tmp_path / "bare" / "images") as images:
        table = rows(4, images).drop(columns="expression")
    write_manifest(tmp_path / "bare", table, DataSchema("bare", "made", LabelSchema()))
    with pytest.raises(HonneError, match="no training row has a label"):
        DataModule(tmp_path / "bare", size=16).train_dataloader()
    with pytest.raises(HonneError, match="no row of split 'valid' has a label"):
        DataModule(tmp_path / "bare", size=16).val_dataloader()


def test_classes_can_be_drawn_equally_often(root: Path) -> None:
    table = PreparedData(root).rows.assign(expression=["anger"] * 2 + ["neutral"] * 22)
    write_manifest(root, table, DataSchema("skewed", "made", SCHEMA))
    order = DataModule(root, size=16, sampling="class_balanced").order()
    drawn = np.concatenate([order(epoch) for epoch in range(200)])
    assert (drawn < 2).mean() == pytest.approx(0.5, abs=0.03)


def test_sequences_are_padded_and_keep_their_lengths(tmp_path: Path) -> None:
    samples = [{"text": np.ones((3, 2)), "audio": None}, {"text": np.ones((1, 2)), "audio": np.full((4, 5), 2.0)}]
    with SequenceWriter(tmp_path / "sequences", {"text": 2, "audio": 5}) as writer:
        references = [writer.add(sample) for sample in samples]
    table = pd.DataFrame({"split": ["train"] * 2, "sequence": references, "expression": ["anger", "neutral"]})
    write_manifest(tmp_path, table, DataSchema("talk", "made", LabelSchema(CLASSES)))
    batch = next(iter(DataModule(tmp_path, size=0, batch_size=2, seed=1).train_dataloader()))
    order = batch.index.tolist()  # type: ignore[union-attr]
    assert batch.images is None
    assert len(batch) == 2
    assert batch.sequences["text"].shape == (2, 3, 2)
    assert batch.sequences["audio"].shape == (2, 4, 5)
    assert [batch.lengths["text"][order.index(row)] for row in range(2)] == [3, 1]
    assert [batch.lengths["audio"][order.index(row)] for row in range(2)] == [0, 4]
    assert batch.sequences["text"][order.index(1)].sum() == 2


def test_sets_with_other_inputs_are_not_mixed(root: Path, tmp_path: Path) -> None:
    with SequenceWriter(tmp_path / "talk" / "sequences", {"text": 2}) as writer:
        table = pd.DataFrame({"split": ["train"], "sequence": [writer.add({"text": np.ones((3, 2))})]})
    write_manifest(tmp_path / "talk", table, DataSchema("talk", "made", SCHEMA))
    with pytest.raises(HonneError, match=r"has images, .* has none"):
        DataModule([root, tmp_path / "talk"], size=16)


@pytest.fixture
def quiet() -> Iterator[None]:
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


class Killed(Exception):
    pass


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(  # 5 batches in an epoch
    ("every", "killed", "limit"), [(2, 3, {"max_epochs": 2}), (3, 7, {"max_steps": 10}), (5, 6, {"max_epochs": 2})]
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    root: Path, tmp_path: Path, every: int, killed: int, limit: dict[str, Any]
) -> None:
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    class Linear(lightning.LightningModule):
        def __init__(self, killed: int = -1) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.killed = torch.nn.Linear(16 * 16, 3), killed
            self.seen: list[tuple[int, list[int]]] = []

        def training_step(self, batch: Batch, index: int) -> torch.Tensor:
            if self.global_step == self.killed:
                raise Killed
            assert batch.images is not None
            assert batch.index is not None
            assert batch.labels.expression is not None
            self.seen.append((index, batch.index.tolist()))
            logits = self.layer(batch.images[:, 0].flatten(1) / 255)
            return torch.nn.functional.cross_entropy(logits, batch.labels.expression, ignore_index=NOT_LABELLED)

        def validation_step(self, batch: Batch, index: int) -> None:
            pass

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 0.01)

    def run(module: Linear, resume: Path | None, folder: Path) -> Linear:
        keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=every, save_top_k=-1)
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, callbacks=[keep], **limit,
        )  # fmt: skip
        data = DataModule(root, size=16, batch_size=4, augment=Augment(), seed=2)
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
        return module

    whole = run(Linear(), None, tmp_path / "whole")
    with pytest.raises(Killed):
        run(Linear(killed), None, tmp_path / "runs")
    last = killed // every * every
    rest = run(Linear(), tmp_path / "runs" / f"step={last}.ckpt", tmp_path / "again")
    assert rest.seen == whole.seen[last:]
    assert torch.equal(rest.layer.weight, whole.layer.weight)
