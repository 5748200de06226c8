"""Models on disk: what is saved comes back, and what is damaged or foreign is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import honne
from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig, device
from honne.networks import build
from honne.networks.face import FaceNetwork, load_weights

SCHEMA = LabelSchema(("neutral", "happiness"), (12,), True)
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    options = {"backbone": "face_resnet", "backbone_options": SMALL}
    config = ModelConfig(
        name="tiny",
        method="erm",
        network={"kind": "face", "options": options},
        labels=SCHEMA,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        alignment={"kind": "none", "size": 24},
        temperature=2.0,
        thresholds={12: 0.3},
    )
    model = Model(config, build("face", options, SCHEMA))
    return model.save(tmp_path / "model", metrics={}, card="# tiny\n")


def test_a_saved_model_predicts_the_same_whatever_the_chunk(folder: Path) -> None:
    model = honne.load(folder)
    crops = np.random.default_rng(0).integers(0, 255, (70, 24, 24, 3), np.uint8)
    prediction = model.predict(crops)
    assert prediction.expression is not None
    assert prediction.valence_arousal is not None
    one_by_one = torch.cat([model.predict(crops[i : i + 1]).expression for i in range(70)])  # type: ignore[misc]
    assert torch.allclose(prediction.expression, one_by_one, atol=1e-5)
    assert prediction.valence_arousal.abs().max() <= 1
    assert model.thresholds == {12: 0.3}
    uncertainty = model.uncertainty(prediction)
    assert ((uncertainty >= 0) & (uncertainty <= 1)).all()
    half = model.save(folder.parent / "half", metrics={}, card="", half=True)
    assert torch.allclose(honne.load(half).predict(crops).expression, prediction.expression, atol=0.05)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
def test_one_flipped_byte_is_noticed(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    at = content.index(b"temperature: 2") + 13 if name == "config.yaml" else len(content) - 7
    content[at] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(HonneError, match="damaged or edited"):
        honne.load(folder)


def test_what_is_not_a_model_is_refused_without_being_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.yaml").write_text("a: [1")
    (tmp_path / "folder" / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    for path, text in (
        (tmp_path / "evil.pt", "a model is a folder"),
        (tmp_path / "folder", "not a model configuration"),
        (tmp_path / "nowhere", "no such model"),
    ):
        with pytest.raises(HonneError, match=text):
            honne.load(path)
    network = FaceNetwork(SCHEMA, "face_resnet", SMALL)
    with pytest.raises(HonneError, match="not a file of plain tensors"):
        load_weights(network.backbone, tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_backbone_weights_from_a_file(tmp_path: Path) -> None:
    donor, network = FaceNetwork(SCHEMA, "face_resnet", SMALL), FaceNetwork(SCHEMA, "face_resnet", SMALL)
    save_file(donor.backbone.state_dict() | {"fc.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    assert load_weights(network.backbone, tmp_path / "weights.safetensors") == []
    assert torch.equal(network.backbone.layer3[0].conv1.weight, donor.backbone.layer3[0].conv1.weight)
    save_file({"other": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(HonneError, match="none of its 1 entries fits"):
        load_weights(network.backbone, tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("backbone", "options", "size"),
    [
        ("face_resnet", {}, 48),
        ("resnet18", {}, 64),
        ("vit_tiny_patch16_224", {"img_size": 64}, 64),
        ("swin_tiny_patch4_window7_224", {"img_size": 112}, 112),
        ("mobilenetv3_small_100", {}, 64),
    ],
)
def test_any_backbone_gives_predictions_and_feature_maps(backbone: str, options: dict[str, int], size: int) -> None:
    network = FaceNetwork(SCHEMA, backbone, options).eval()
    images = torch.randn(2, 3, size, size)
    prediction = network(Batch(images=images))
    assert prediction.expression.shape == (2, 2)
    assert prediction.action_units.shape == (2, 1)
    maps = network.feature_maps(images)
    assert len(maps) >= 4
    assert all(one.ndim == 4 and one.shape[0] == 2 for one in maps)
    assert maps[-1].shape[2] <= size // 8  # channels first: the sides are what shrinks


def test_unknown_backbones_get_a_suggestion() -> None:
    with pytest.raises(HonneError, match=r"unknown backbone 'resnet1888'.*\n.*Did you mean"):
        FaceNetwork(SCHEMA, "resnet1888")


def test_a_trunk_without_labels_is_refused_in_one_sentence(folder: Path) -> None:
    model = honne.load(folder)
    model.require_labels()
    model.config.labels = LabelSchema()
    with pytest.raises(HonneError, match="'tiny' names no expression and nothing else") as refused:
        model.require_labels()
    assert "--model.weights" in refused.value.hint


def test_devices_by_name() -> None:
    assert device("cpu") == torch.device("cpu")
    assert device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(WrongCall, match="'gpu7' is not a device"):
        device("gpu7")
    if not torch.cuda.is_available():
        with pytest.raises(HonneError, match="no GPU for 'cuda:0'"):
            device("cuda:0")
