"""Data for AU cues: masking by heat maps, class weights, the even sampler, learning rates, validations in an epoch."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from honne.data.loading import lightning
from honne.data.masking import mask_images, otsu_threshold
from honne.data.sampling import EpochBatches, EqualClasses, inverse_frequency
from honne.schedules import OptimOptions, optimizer, schedule

Arrays = dict[str, np.ndarray]
SIGMAS = (3.0, *(step / 2 for step in range(1, 61)))
"""Of the blur: no array says which; the set's description says 3. It also says the least rate of a schedule that names
none, and the share of an epoch."""
LEAST_RATE = 1e-7
SHARE = 0.0437


@pytest.mark.golden("au_cues", "heatmap_masking*.npz")
def test_masking(golden: Arrays) -> None:
    image = torch.from_numpy(golden["image"]).permute(2, 0, 1)[None]
    heatmap = torch.from_numpy(golden["heatmap"])[None, None]
    np.testing.assert_allclose(otsu_threshold(heatmap), golden["otsu_threshold"], rtol=1e-5)
    hidden = (golden["out_bg_f_black"] == 0).all(2) & (golden["image"] != 0).all(2)
    average = tuple(golden["out_bg_f_im_avg"][hidden][0].tolist())

    def error(key: str, fill: Any, sigma: float = 1.0) -> int:
        found = mask_images(image, heatmap, fill, average=average, sigma=sigma)[0].permute(1, 2, 0)
        return int(np.abs(found.numpy().astype(int) - golden[key]).max())

    assert error("out_bg_f_black", "black") == 0
    assert error("out_bg_f_im_avg", "average") == 0
    assert any(error("out_bg_f_gaussian_blur", "blur", sigma) <= 1 for sigma in SIGMAS)


def learning_rates(name: str, epochs: int) -> list[float]:
    """Rates at the start of every epoch, by the options that a name like step_lr0_002_step4_gamma0_9_min1e4 spells."""
    said = dict(re.findall(r"(lr|step|gamma|min)([0-9][0-9_e]*?)(?=_[a-z]|$)", name.removeprefix("step_")))
    options = OptimOptions(
        optimizer="sgd",
        lr=float(said["lr"].replace("_", ".")),
        schedule="step",
        warmup=0.0,
        step_epochs=int(said["step"]),
        step_factor=float(said["gamma"].replace("_", ".")),
        step_floor=float(said["min"].replace("e", "e-")) if "min" in said else LEAST_RATE,
    )
    chosen, steps = optimizer(nn.Linear(2, 2), options), 7
    rates = schedule(chosen, options, epochs * steps, epochs)
    found = []
    for _ in range(epochs):
        found.append(chosen.param_groups[0]["lr"])
        for _ in range(steps):
            chosen.step()
            rates.step()
    return found


@pytest.mark.golden("au_cues", "schedules_samplers*.npz")
def test_learning_rates(golden: Arrays) -> None:
    names = [key for key in golden if key.startswith("step_lr")]
    assert names
    for name in names:
        np.testing.assert_allclose(learning_rates(name, len(golden[name])), golden[name], rtol=1e-6, err_msg=name)


@pytest.mark.golden("au_cues", "schedules_samplers*.npz")
def test_class_weights(golden: Arrays) -> None:
    for key, kind in (("w_tech1", "balanced"), ("w_tech2", "largest")):
        np.testing.assert_allclose(inverse_frequency(golden["class_counts"], kind), golden[key], rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.golden("au_cues", "schedules_samplers*.npz")
def test_even_sampler(golden: Arrays) -> None:
    labels = golden["sampler_labels"]
    order = EqualClasses(np.arange(len(labels)), labels)
    drawn = order(0)
    assert len(drawn) == len(set(drawn.tolist())) == EpochBatches(order, 8).rows == golden["sampler_len"]
    histogram = np.bincount(labels[drawn], minlength=len(golden["sampler_class_histogram"]))
    np.testing.assert_array_equal(histogram, golden["sampler_class_histogram"])
    assert set(histogram[histogram > 0]) == {golden["sampler_n_per_class"].item()}


class _Recorder(lightning.LightningModule):
    """Learns nothing; notes after how many batches it is validated."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.validated: list[int] = []

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        return self.weight * 0.0

    def validation_step(self, batch: Any, index: int) -> None:
        self.validated.append(self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.golden("au_cues", "schedules_samplers*.npz")
def test_validations_within_an_epoch(golden: Arrays, tmp_path: Path) -> None:
    key = next(key for key in golden if key.startswith("intern_validation_batches_of_"))
    batches, recorder = int(key.rpartition("_")[2]), _Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=1,
            val_check_interval=SHARE,
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        data = DataLoader(torch.zeros(batches, 1))  # type: ignore[arg-type]
        trainer.fit(recorder, data, DataLoader(torch.zeros(1, 1)))  # type: ignore[arg-type]
    np.testing.assert_array_equal(recorder.validated, golden[key])
