"""Cosines by class and layer, accuracy and the choice of the best epoch, against recordings of the original."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from honne import metrics
from honne.data.loading import lightning
from honne.metrics.attention import attention_cosine, class_means, mean_over_classes

NONE = -1  # what the recording has for a class without a face; NaN with us


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


@pytest.mark.golden("au_cues", "cosine_metric*.npz")
def test_cosines_by_class_and_layer(golden: dict[str, np.ndarray]) -> None:
    recorded = golden["matrix_class_by_layer_cam"]
    heatmaps = tensor(golden["heatmap"]).clone()
    heatmaps[~tensor(golden["valid"])] = torch.nan
    layers = sorted(name for name in golden if name.startswith("layer"))  # 0, the image, comes first
    maps = [tensor(golden[name]).mean(1) for name in layers] + [tensor(golden["cam"])]
    cosines = torch.stack([attention_cosine(each, heatmaps) for each in maps], 1)
    found = class_means(cosines, tensor(golden["labels"]), len(recorded))
    filled = torch.where(found.isnan(), NONE, found)
    np.testing.assert_allclose(filled, recorded, rtol=1e-5)
    reported = mean_over_classes(filled[1:, 1:])  # class 0 is neutral, which has no cue
    np.testing.assert_allclose(reported, golden["reported_average_nonneutral_drop_layer0"], rtol=1e-5)
    selection = mean_over_classes(filled[:, 1:]).mean(0, keepdim=True)
    np.testing.assert_allclose(selection, golden["selection_scalar"], rtol=1e-5)
    measured = found[1:][~found[1:].isnan().any(1)]
    np.testing.assert_allclose(mean_over_classes(found[1:]), measured.mean(0))  # ours: missing classes do not count


@pytest.mark.golden("au_cues", "cosine_metric*.npz")
def test_accuracy_and_confusion(golden: dict[str, np.ndarray]) -> None:
    shares, true = tensor(golden["confusion_row_normalised"]), tensor(golden["true"])
    predicted = F.one_hot(tensor(golden["pred"]), len(shares)).float()
    confusion = metrics.confusion_matrix(predicted, true)
    scores = metrics.class_scores(confusion)
    np.testing.assert_allclose(100 * scores.accuracy, golden["accuracy"], rtol=1e-5)
    np.testing.assert_allclose(scores.recall.nan_to_num(), shares.diagonal().nan_to_num(), rtol=1e-5)
    np.testing.assert_allclose(confusion, shares.nan_to_num() * confusion.sum(1, keepdim=True), rtol=1e-5, atol=1e-9)


class Recorded(lightning.LightningModule):
    """Learns nothing and is as good in each epoch as it was recorded."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__()
        self.scores, self.weight = scores, torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any) -> Tensor:
        return self.weight

    def validation_step(self, batch: Any) -> None:
        self.log("valid/score", torch.tensor(self.scores[self.current_epoch], dtype=torch.float32), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Kept(lightning.Callback):
    """Which epoch's weights are kept after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path, self.epochs = path, list[int]()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs.append(int(torch.load(self.path, weights_only=True)["epoch"]))


@pytest.mark.golden("au_cues", "cosine_metric*.npz")
@pytest.mark.filterwarnings("ignore")
def test_the_first_of_equally_good_epochs_is_kept(golden: dict[str, np.ndarray], tmp_path: Path) -> None:
    scores, (best, is_best) = golden["meter_sequence"], golden["meter_best_iter_and_is_best"].T
    keep = lightning.pytorch.callbacks.ModelCheckpoint(  # as `honne train` asks for it
        tmp_path, "best", monitor="valid/score", mode="max", enable_version_counter=False, save_on_train_epoch_end=False
    )
    kept = Kept(tmp_path / "best.ckpt")
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=len(scores),
        callbacks=[keep, kept],
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Recorded(scores), [0], [0])
    np.testing.assert_array_equal(kept.epochs, best)
    saved = np.array(kept.epochs) == np.arange(len(scores))
    tie = ~saved & (
        scores == np.maximum.accumulate(scores)
    )  # the original overwrites the weights there, and only there
    np.testing.assert_array_equal(saved | tie, is_best)
