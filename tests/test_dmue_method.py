"""DMUE beside its recordings: losses against plain loops, what gradients and statistics may not do, whole runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_training import CLASSES, write_data
from torch import Tensor, nn
from torch.nn import functional as F

import honne
from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.manifest import DataSchema, PreparedData, write_manifest
from honne.data.transforms import Normalise
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.dmue import (
    RELEASED,
    Confidence,
    Dmue,
    DmueOptions,
    branch_loss,
    class_similarity,
    full_target,
    load_branches,
    other_labels,
    similarity_loss,
    soft_label_loss,
)
from honne.networks.branches import last_layers
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 0])
TINY: dict[str, dict[str, Any]] = {
    "face_resnet": {"layers": [1, 1, 1, 2], "channels": [4, 4, 8, 8], "stem_width": 4},
    "dmue_resnet18": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8]},
    "resnet50_ibn_a": {"layers": [1, 1, 1, 1], "channels": [4, 4, 4, 8]},
    "convnext_atto": {"depths": [1, 1, 1, 2], "dims": [4, 4, 8, 8]},
    "vit_tiny_patch16_224": {"img_size": 32, "embed_dim": 12, "depth": 4, "num_heads": 2},
    "regnetx_002": {},
}


def new_method(backbone: str = "face_resnet", neck: bool = False, dropout: float = 0.0, **options: Any) -> Dmue:
    torch.manual_seed(0)
    network = FaceNetwork(LabelSchema(CLASSES), backbone, TINY[backbone], dropout, neck=neck, head_bias=False)
    made = Dmue(
        DmueOptions(**options),
        network=network,
        schema=LabelSchema(CLASSES),
        normalise=Normalise([0.5] * 3, [0.5] * 3),
        optim=OptimOptions(),
    )
    nn.init.normal_(made.branches.classifiers)  # so that every loss has a gradient worth the name
    return made.train()


def batch(labels: Tensor = LABELS, seed: int = 1) -> Batch:
    images = torch.randn(len(labels), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(images=images, labels=Labels(expression=labels))


# --- losses against plain loops ----------------------------------------------------------------------------------


def test_similarity_loss_is_the_mean_over_branches_of_the_mean_over_pairs() -> None:
    branches, network = torch.randn(3, 8, 5), torch.randn(8, 6)
    others = F.one_hot(LABELS, 3).T == 0
    terms = []
    for branch in range(3):
        mine, reference = branches[branch][others[branch]], network[others[branch]]
        grams = [F.normalize(rows @ rows.T, dim=1) for rows in (mine, reference)]
        terms.append((grams[0] - grams[1]).square().mean())
    torch.testing.assert_close(similarity_loss(branches, network, others), torch.stack(terms).mean())


def test_branch_loss_is_the_mean_over_branches_of_their_cross_entropies() -> None:
    logits = torch.randn(3, 8, 2)
    terms = []
    for branch in range(3):
        rows = branch != LABELS
        names = [c for c in range(3) if c != branch]
        target = torch.tensor([names.index(c) for c in LABELS[rows].tolist()])
        assert other_labels(LABELS, 3)[branch, rows].tolist() == target.tolist()
        terms.append(F.cross_entropy(logits[branch, rows], target))
    torch.testing.assert_close(branch_loss(logits, LABELS, F.one_hot(LABELS, 3).T == 0), torch.stack(terms).mean())


def test_class_similarity_is_the_scaled_mean_cosine_to_a_class() -> None:
    features = torch.rand(8, 4)
    cosines = F.cosine_similarity(features[:, None], features[None], dim=2)
    mean = torch.stack([cosines[:, c == LABELS].mean(1) for c in range(3)], 1)
    low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    torch.testing.assert_close(class_similarity(features, LABELS, 3), (mean - low) / (high - low))


def test_class_similarity_stands_equal_rows_zero_rows_and_absent_classes() -> None:
    for features in (torch.ones(8, 4), torch.zeros(8, 4)):
        assert class_similarity(features, LABELS, 3).isfinite().all()
    absent = class_similarity(torch.rand(8, 4), LABELS, 5)
    assert absent[:, 3:].eq(0).all()
    torch.testing.assert_close(absent[:, :3].amax(1), torch.ones(8))


def test_confidence_sees_the_similarity_to_the_labels_own_class() -> None:
    torch.manual_seed(0)
    confidence = Confidence(3, "own")
    similarity, labels = torch.rand(2000, 3), torch.randint(3, (2000,))
    right = similarity[torch.arange(2000), labels] > 0.5
    chosen = torch.optim.Adam(confidence.parameters(), 0.05)
    for _ in range(150):
        loss = F.binary_cross_entropy(confidence(similarity, labels), right.float())
        chosen.zero_grad()
        loss.backward()
        chosen.step()
    assert ((confidence(similarity, labels) > 0.5) == right).float().mean() > 0.95


@pytest.mark.parametrize("kind", ["squared", "kl", "plain"])
def test_soft_losses_against_a_loop(kind: str) -> None:
    logits, mined = torch.randn(2, 3), torch.tensor([[0, 0.3, 0.7], [0.6, 0, 0.4]])
    total = 0.0
    for row, label in enumerate((0, 1)):
        p, q = logits[row].softmax(0), mined[row]
        for c in range(3):
            if kind == "squared":
                total += float(((0 if c == label else p[c]) - q[c]) ** 2) / 6
            elif kind == "plain":
                total += float((p[c] - q[c]) ** 2) / 6
            elif kind == "kl" and c != label:
                total += float(q[c] * (q[c] / (p[c] / (1 - p[label]))).log()) / 2
    assert soft_label_loss(logits, torch.tensor([0, 1]), mined, kind).item() == pytest.approx(total, rel=1e-5)


def test_the_full_target_shares_out_what_the_label_leaves() -> None:
    logits, mined = torch.randn(2, 3), torch.tensor([[0, 0.3, 0.7], [0.6, 0, 0.4]])
    target = full_target(logits, torch.tensor([0, 1]), mined)
    torch.testing.assert_close(target.sum(1), torch.ones(2))
    first = logits.softmax(1)[0, 0]
    torch.testing.assert_close(target[0], torch.stack([first, 0.3 * (1 - first), 0.7 * (1 - first)]))


def test_soft_targets_are_remembered_by_row() -> None:
    method = new_method(soft_loss="full", soft_memory=0.75)
    method.memory = torch.full((20, 3), torch.nan)
    shown = batch()
    shown.index = torch.arange(8) + 5
    method.loss(shown)
    first = method.memory.clone()
    assert first[5:13].isfinite().all()
    assert first[:5].isnan().all()
    torch.testing.assert_close(first[5:13].sum(1), torch.ones(8))
    shown.images = -shown.images
    method.loss(shown)
    fresh = new_method(soft_loss="full", soft_memory=0.75)
    fresh.memory = torch.full((20, 3), torch.nan)
    fresh.loss(shown)
    torch.testing.assert_close(method.memory[5:13], 0.75 * first[5:13] + 0.25 * fresh.memory[5:13], atol=0.05, rtol=0)
    with pytest.raises(WrongCall, match="soft_loss full"):
        DmueOptions(soft_memory=0.5)


# --- what one step does ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", ["stage", "block", "head"])
@pytest.mark.parametrize("backbone", TINY)
def test_every_parameter_of_any_backbone_learns(backbone: str, depth: str) -> None:
    method = new_method(backbone, neck=True, branch_depth=depth)
    torch.stack(list(method.loss(batch()).values())).sum().backward()
    still = [name for name, value in method.named_parameters() if value.requires_grad and value.grad is None]
    assert not still
    assert [name for name, value in method.named_parameters() if not value.requires_grad and "neck" not in name] == []


def test_the_trunk_runs_once_and_validation_runs_no_branch() -> None:
    method, calls = new_method(), []
    method.network.backbone.layer1.register_forward_hook(lambda *_: calls.append("trunk"))
    for ending in method.branches.endings:
        ending.register_forward_hook(lambda *_: calls.append("branch"))
    method.loss(batch())
    assert calls.count("trunk") == 1
    assert calls.count("branch") == 6  # learns once, mines once
    calls.clear()
    method.eval().predict(Batch(images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)))
    assert calls == ["trunk"]


def test_mining_leaves_statistics_alone() -> None:
    for statistics, moves in (("running", False), ("batch", True)):
        method = new_method(neck=True, statistics=statistics)
        ending = method.branches.endings[0]
        before = {name: value.clone() for name, value in ending.state_dict().items()}
        rows = LABELS == 0
        method.branches.features(method.network, batch().images[rows], LABELS[rows], learn=False)
        assert ending.training
        after = ending.state_dict()
        assert moves == any(not torch.equal(before[name], value) for name, value in after.items())


def test_the_mined_distribution_is_no_way_back() -> None:
    method = new_method(similarity_weight=0.0, soft_weight=1.0)
    images, labels = batch().images, LABELS
    features, own = method.branches.features(method.network, images, labels, learn=True)
    answers = method.branches.answers(method.network, features, own, labels)
    soft_label_loss(answers.logits, labels, method.mined(answers, labels)).backward()
    assert not any(value.grad is not None and value.grad.any() for value in method.branches.parameters())


def test_compat_is_all_of_the_released_ways() -> None:
    released = DmueOptions(compat="released", soft_loss="full", soft_memory=0.5)
    assert {name: getattr(released, name) for name in RELEASED} == RELEASED
    method = new_method(neck=True, compat="released")
    assert {name for name, value in method.named_parameters() if not value.requires_grad} >= {"network.neck.weight"}
    assert method.training_step(batch(torch.tensor([0, 0, 1, 1, 2])), 0) is None  # class 2 occurs once
    method = new_method(eval_after=3)
    method.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    method.training_step(batch(), 3)
    assert not method.network.training


@pytest.mark.parametrize(
    ("labels", "images", "text"),
    [
        (torch.tensor([0, 1, NOT_LABELLED]), None, "lack an image or an expression label"),
        (LABELS, torch.full((8, 3, 32, 32), torch.nan), "is not a number"),
    ],
)
def test_what_cannot_be_learned_from_is_one_sentence(labels: Tensor, images: Tensor | None, text: str) -> None:
    shown = batch(labels)
    shown.images = shown.images if images is None else images
    method = new_method()
    method.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    method.normalise = nn.Identity()  # type: ignore[assignment]
    with pytest.raises(HonneError, match=text):
        method.training_step(shown, 0)


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(HonneError, match="cannot be split before its last stage"):
        last_layers(nn.Linear(1, 1), "stage")
    with pytest.raises((HonneError, WrongCall), match="temperature is 0"):
        DmueOptions(temperature=0.0)


# --- whole runs --------------------------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "model.backbone": "convnext_atto",  # no BatchNorm: its statistics are each process's own
    "model.backbone_options": {"depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8]},
    "model.dropout": 0.0,
    "data.size": 32,
    "data.workers": 0,
    "data.batch_size": 16,
    "data.augment.erase": 0.0,
    "dmue.ramp": 1,
    "optim.optimizer": "sgd",  # Adam's first step makes full steps of rounding errors
    "optim.lr": 0.05,
    "trainer.epochs": 1,
    "trainer.ema": 0.0,
    "trainer.patience": 0,
    "trainer.accelerator": "cpu",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("bright"))


def test_two_processes_learn_what_one_does(data: Path, tmp_path: Path) -> None:
    honne.train("dmue", data=data, out=tmp_path / "one", overrides=RUN)
    words = ["train", "dmue", "--data", str(data), "--out", str(tmp_path / "two"), "--trainer.devices", "2"]
    for name, value in (RUN | {"data.batch_size": 8}).items():
        words.append(f"--{name}={value}")
    done = subprocess.run(
        [sys.executable, "-m", "honne", *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    logs = [pd.read_csv(tmp_path / run / "logs" / "metrics.csv") for run in ("one", "two")]
    for name in ("expression", "soft", "similarity", "branches"):
        one, two = (log[f"train/{name}"].dropna().to_numpy() for log in logs)
        np.testing.assert_allclose(two, one, rtol=5e-3, err_msg=name)
    one, two = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-2, atol=2e-4, msg=name)


def test_a_run_leaves_a_plain_model_and_its_branches(data: Path, tmp_path: Path) -> None:
    from honne.audit.mining import mine

    noisy = RUN | {"data.label_noise": 0.2}
    model = honne.load(honne.train("dmue", data=data, out=tmp_path / "run", overrides=noisy))
    assert model.schema == LabelSchema(CLASSES)  # of data that have action units, valence and arousal as well
    assert not [name for name in model.network.state_dict() if "branch" in name or "endings" in name]
    flips = pd.read_csv(tmp_path / "run" / "label_noise.csv")
    labelled = PreparedData(data).rows.query("split == 'train'")["expression"].value_counts()
    assert len(flips) == sum(round(0.2 * count) for count in labelled)
    assert (flips["from"] != flips["to"]).all()

    prepared = PreparedData(data)
    found = mine(model, prepared, "train", batch_size=7)
    again = mine(model, prepared, "train", batch_size=48)
    assert found is not None
    assert again is not None
    np.testing.assert_allclose(found.distribution, again.distribution, atol=1e-5)
    np.testing.assert_allclose(found.confidence, again.confidence, atol=1e-5)
    np.testing.assert_allclose(found.distribution.sum(1), 1, rtol=1e-5)
    assert (found.distribution[np.arange(len(found.label)), found.label] == 0).all()
    assert len(found.index) == prepared.rows["expression"][prepared.rows["split"] == "train"].notna().sum()

    (tmp_path / "run" / "branches.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(HonneError, match="not the branches of this model"):
        load_branches(tmp_path / "run" / "branches.safetensors", model.network)  # type: ignore[arg-type]


def test_a_class_without_faces_is_named(data: Path, tmp_path: Path) -> None:
    rows = PreparedData(data).rows
    rows = rows.assign(expression=rows["expression"].where(rows["expression"] != "happiness"))
    (tmp_path / "gap").mkdir()
    (tmp_path / "gap" / "images").symlink_to(data / "images")
    labels = LabelSchema(CLASSES, (12, 26), True)
    write_manifest(tmp_path / "gap", rows, DataSchema("gap", "test", labels, {"kind": "none", "size": 16}))
    with pytest.raises(HonneError, match="class happiness has no training row"):
        honne.train("dmue", data=tmp_path / "gap", out=tmp_path / "run", overrides=RUN)
