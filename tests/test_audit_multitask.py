"""`honne audit` of ensembles: confidences of their members, and data with only some of the tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from honne.audit import audit
from honne.audit.mining import mine
from honne.batch import Batch, Labels
from honne.data.loading import batches
from honne.data.manifest import PreparedData, write_manifest
from honne.data.transforms import Normalise
from honne.data.world import World, make_world
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.methods.confidence import CONFIDENCE, Confidence, class_similarity, load_confidence, store_confidence
from honne.methods.multitask import Multitask, MultitaskOptions
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.schedules import OptimOptions

SIDE = 32
CLASSES = ("neutral", "happiness", "sadness")
SCHEMA = LabelSchema(CLASSES, (1, 12), True)
FACE: dict[str, Any] = {
    "backbone": "face_resnet",
    "backbone_options": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4},
    "hidden": 8,
}


def members(count: int, folder: Path) -> Model:
    torch.manual_seed(0)
    network = build("ensemble", {"kind": "face", "options": FACE, "members": count}, SCHEMA)
    network.requires_grad_(False)
    config = ModelConfig("tiny", "multitask", {}, SCHEMA, [0.5] * 3, [0.25] * 3, {"kind": "none", "size": SIDE})
    return Model(config, network, folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    knobs = World(n=60, size=SIDE, seed=3, classes=CLASSES, labels="expression", subjects=12, test_share=0.3)
    root = make_world(tmp_path_factory.mktemp("multitask") / "world", knobs).root
    data = PreparedData(root)
    write_manifest(root, data.rows.assign(domain=np.where(np.arange(len(data)) % 2, "one", "other")), data.schema)
    return root


def test_the_confidence_learns_from_labelled_faces_alone_and_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    given: dict[str, Any] = {"network": build("face", FACE, SCHEMA), "schema": SCHEMA, "optim": OptimOptions()}
    method = Multitask(MultitaskOptions(uncertainty="pairwise"), normalise=Normalise([0.5] * 3, [0.25] * 3), **given)
    images, units = torch.rand(6, 3, SIDE, SIDE), torch.full((6, 2), torch.nan)
    some = Labels(expression=torch.tensor([0, 1, 2, -1, 1, -1]), action_units=units)
    terms = method.loss(Batch(images, some))
    torch.stack(list(terms.values())).sum().backward()
    assert method.confidence is not None
    assert all(entry.grad is not None and entry.grad.any() for entry in method.confidence.parameters())
    assert "confidence" not in method.loss(Batch(images, Labels(torch.full((6,), -1), action_units=units + 1)))
    voted = Labels(torch.full((6,), -1), distribution=torch.full((6, 3), 1 / 3))  # votes without a majority
    assert all(value.isfinite() for value in method.loss(Batch(images, voted)).values())

    method.finish(tmp_path)
    stored = load_confidence(tmp_path / CONFIDENCE)
    similarity, labels = torch.rand(4, 3), torch.tensor([0, 1, 2, 1])
    torch.testing.assert_close(stored(similarity, labels), method.confidence(similarity, labels))


def test_the_confidence_of_an_ensemble_is_the_mean_of_its_students(world: Path, tmp_path: Path) -> None:
    data, model = PreparedData(world), members(2, tmp_path / "model")
    assert mine(model, data, "test") is None
    torch.manual_seed(1)
    confidences = [Confidence(3).requires_grad_(False) for _ in range(11)]
    for number, confidence in enumerate(confidences):  # the ensemble is of the last generation: students 9 and 10
        (tmp_path / f"student_{number}").mkdir()
        store_confidence(confidence, tmp_path / f"student_{number}" / CONFIDENCE)
    found = mine(model, data, "test", batch_size=100)
    assert found is not None
    assert found.distribution is None
    (batch,) = batches(data, "test", size=SIDE, batch_size=100)
    labels = batch.labels.expression
    assert labels is not None
    assert batch.images is not None
    wanted = [
        confidence(class_similarity(member(Batch(model.normalise(batch.images))).features, labels, 3), labels)
        for confidence, member in zip(confidences[-2:], model.network.members, strict=True)  # type: ignore[arg-type]
    ]
    np.testing.assert_allclose(found.confidence, (wanted[0] + wanted[1]) / 2, atol=1e-5)
    (tmp_path / "student_9" / CONFIDENCE).write_bytes(b"\0" * 64)
    with pytest.raises(HonneError, match=CONFIDENCE):
        mine(model, data, "test")


def test_an_ensemble_is_audited_whatever_the_data_are_labelled_with(world: Path, tmp_path: Path) -> None:
    data, model = PreparedData(world), members(2, tmp_path / "model")
    for number in range(2):
        (tmp_path / f"student_{number}").mkdir()
        store_confidence(Confidence(3), tmp_path / f"student_{number}" / CONFIDENCE)
    found = audit(model, data, out=tmp_path / "faces", replicates=5, split="test", show=False)
    assert found["ambiguity"]["splits"]["test"]["mined"] == 0
    assert pd.read_parquet(tmp_path / "faces" / "ambiguity.parquet")["confidence"].between(0, 1).all()
    assert "stratum read from backbone features" in (tmp_path / "faces" / "audit.html").read_text()

    unlabelled = tmp_path / "affect"
    unlabelled.mkdir()
    (unlabelled / "images").symlink_to(world / "images")
    rows = data.rows.drop(columns=["expression", "votes", "target"], errors="ignore")
    data.schema.labels = LabelSchema((), (), True)
    write_manifest(unlabelled, rows.assign(valence=0.1, arousal=0.2), data.schema)
    found = audit(model, unlabelled, out=tmp_path / "unlabelled", replicates=5, split="test", show=False)
    assert list(found) == ["ambiguity"]
    assert found["ambiguity"]["splits"]["test"]["labelled"] == 0
