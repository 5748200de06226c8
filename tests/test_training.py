"""Training end to end on a tiny data set: the result, resuming, several processes, what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import honne
from honne.data.manifest import DataSchema, ImageWriter, write_manifest
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.methods.dmue import Dmue
from honne.methods.erm import Erm

CLASSES = ("neutral", "happiness", "surprise")
SMALL: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
    "model.dropout": 0.2,
    "data.batch_size": 8,
    "data.workers": 0,
    "trainer.epochs": 2,
    "trainer.accelerator": "cpu",
    "trainer.checkpoint_steps": 2,
    "trainer.patience": 0,
    "erm.mixup": 0.4,
}


def write_data(root: Path, rows: int = 64, seed: int = 0) -> Path:
    """Pictures whose brightness tells the class; two action units, valence and arousal, some of them unlabelled."""
    random = np.random.default_rng(seed)
    table = []
    with ImageWriter(root / "images") as images:
        for row in range(rows):
            label = row % len(CLASSES)
            pixels = random.integers(0, 60, (16, 16), np.uint8) + np.uint8(70 * label)
            path = root / "pixels.png"
            Image.fromarray(pixels).save(path)
            table.append(
                {
                    "id": f"{row}",
                    "split": "train" if row < rows * 3 // 4 else "valid",
                    "image": images.add(path.read_bytes()),
                    "expression": CLASSES[label] if row % 5 else None,
                    "au": [float(label == 1), np.nan if row % 3 == 0 else float(label == 2)],
                    "valence": label - 1.0,
                    "arousal": np.nan if row % 4 == 0 else 0.5 * label,
                }
            )
            path.unlink()
    labels = LabelSchema(CLASSES, (12, 26), True)
    write_manifest(root, pd.DataFrame(table), DataSchema("bright", "test", labels, {"kind": "none", "size": 16}))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("bright"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.parametrize(
    ("recipe", "method", "step_of_death"),
    [("erm", Erm, 10), ("dmue", Dmue, 6)],  # in the second epoch, one step after the last checkpoint
)
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, method: type[Method], step_of_death: int
) -> None:
    options = SMALL | {"trainer.ema": 0.9} | ({"trainer.validate_every": 0.4} if recipe == "erm" else {})
    honne.train(recipe, data=data, out=tmp_path / "whole", overrides=options)

    original, steps = method.training_step, []

    def dies(self: Method, batch: Any, step: int) -> Any:
        steps.append(step)
        if len(steps) == step_of_death:
            raise MemoryError
        return original(self, batch, step)

    monkeypatch.setattr(method, "training_step", dies)
    with pytest.raises(MemoryError):
        honne.train(recipe, data=data, out=tmp_path / "killed", overrides=options)
    assert not (tmp_path / "killed" / "model").exists()
    monkeypatch.setattr(method, "training_step", original)
    honne.train(recipe, data=data, out=tmp_path / "killed", overrides=options)

    whole, killed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    logs = [pd.read_csv(tmp_path / run / "logs" / "metrics.csv") for run in ("whole", "killed")]
    scores = [log[["step", "valid/score"]].dropna().reset_index(drop=True) for log in logs]
    pd.testing.assert_frame_equal(*scores)


def test_ctrl_c_keeps_the_step_it_stopped_at(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = Erm.training_step, []

    def interrupted(self: Erm, batch: Any, step: int) -> Any:
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(self, batch, step)

    monkeypatch.setattr(Erm, "training_step", interrupted)
    options = SMALL | {"trainer.checkpoint_steps": 1000}
    with pytest.raises(KeyboardInterrupt):
        honne.train("erm", data=data, out=tmp_path / "run", overrides=options)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    calls.clear()
    monkeypatch.setattr(
        Erm, "training_step", lambda self, batch, step: (calls.append(step), original(self, batch, step))[1]
    )
    honne.train("erm", data=data, out=tmp_path / "run", overrides=options)
    assert calls == [3, 4, 5, *range(6)]


def test_a_run_leaves_model_recipe_logs_and_curves_and_is_not_repeated(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    model = honne.load(honne.train("erm", data=data, out=run, overrides=SMALL))
    assert model.schema == LabelSchema(CLASSES, (12, 26), True)
    for name in ("recipe.yaml", "curves.png", "logs/metrics.csv", "model/card.md", "model/metrics.json"):
        assert (run / name).stat().st_size > 0, name
    crops = np.random.default_rng(0).integers(0, 255, (5, 16, 16, 3), np.uint8)
    prediction = model.predict(crops)
    assert prediction.expression is not None
    assert prediction.expression.shape == (5, 3)
    assert torch.allclose(prediction.expression[:2], model.predict(crops[:2]).expression, atol=1e-6)
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    honne.train("erm", data=data, out=run, overrides=SMALL)
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(WrongCall, match="another recipe"):
        honne.train("erm", data=data, out=run, overrides=SMALL | {"optim.lr": 0.5})


def test_it_learns_what_can_be_learned(data: Path, tmp_path: Path) -> None:
    options = SMALL | {"trainer.epochs": 12, "erm.mixup": 0.0, "data.augment.colour": 0.0, "optim.lr": 0.01}
    run = tmp_path / "run"
    honne.train("erm", data=data, out=run, overrides=options)
    log = pd.read_csv(run / "logs" / "metrics.csv")
    assert log["valid/accuracy"].max() > 0.9
    assert log["valid/ccc"].max() > 0.5


def test_accumulated_batches_step_as_one_large_batch(data: Path, tmp_path: Path) -> None:
    options = SMALL | {"trainer.epochs": 1, "erm.mixup": 0.0, "trainer.accumulate": 2, "optim.optimizer": "sgd"}
    honne.train("erm", data=data, out=tmp_path / "run", overrides=options)
    log = pd.read_csv(tmp_path / "run" / "logs" / "metrics.csv")
    assert log["step"].max() == 2  # 48 rows, 6 batches, 3 steps, counted from 0


def test_two_processes_train_one_model(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["train", "erm", "--data", str(data), "--out", str(run), "--trainer.devices", "2", "--data.batch_size", "4"]
    for name, value in (SMALL | {"trainer.epochs": 1}).items():
        if name != "data.batch_size":
            words.append(f"--{name}={value}")
    done = subprocess.run(
        [sys.executable, "-m", "honne", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    log = pd.read_csv(run / "logs" / "metrics.csv")
    assert np.isfinite(log["valid/loss"].dropna()).all()
    assert honne.load(run / "model").schema.expressions == CLASSES


def test_what_does_not_fit_is_refused_with_a_sentence(data: Path, tmp_path: Path) -> None:
    for overrides, text in (
        ({"model.backbone": "resnt18"}, "unknown backbone"),
        ({"optim.lrr": 1.0}, "lrr"),
        ({"data.size": "large"}, "size"),
    ):
        with pytest.raises(HonneError, match=text):
            honne.train("erm", data=data, out=tmp_path / "a", overrides=SMALL | overrides)
    with pytest.raises(WrongCall, match="no recipe"):
        honne.train("nothing", data=data, out=tmp_path / "b")
    with pytest.raises(HonneError, match="not a prepared data set"):
        honne.train("erm", data=tmp_path, out=tmp_path / "c")
