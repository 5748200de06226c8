"""Checkpoints of other systems become models; foreign, unsafe and wrong ones are refused in a sentence."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import honne
from honne import cli
from honne.errors import HonneError, WrongCall
from honne.interop.dmue import OURS, read
from honne.labels import LabelSchema
from honne.networks.face import FaceNetwork, load_weights

Entries = dict[str, Tensor]
CROPS = np.random.default_rng(0).integers(0, 255, (1, 224, 224, 3), np.uint8)
TWO = "neutral,happiness"


def network(classes: int, backbone: str = "dmue_resnet18", **options: bool | str) -> FaceNetwork:
    torch.manual_seed(classes)
    schema = LabelSchema(tuple(f"class {k}" for k in range(classes)))
    made = FaceNetwork(schema, backbone, **({"neck": True, "head_bias": False} | options))  # type: ignore[arg-type]
    torch.nn.init.uniform_(made.expression.weight)  # type: ignore[union-attr]
    return made.eval()


def theirs(entries: Entries, start: str = "base.") -> Entries:
    """State dict of a target network under the names of the original."""
    renamed = {}
    for key, value in entries.items():
        old = next(old for old, ours in OURS.items() if key.startswith(ours))
        renamed[(start if old == "base." else old) + key.removeprefix(OURS[old])] = value
    return renamed


def multi_branch(target: Entries, classes: int) -> Entries:
    """The target among C auxiliary branches, with what training keeps besides."""
    entries = {}
    for branch in range(classes + 1):
        for key, value in target.items():
            key = key.replace("base.layer4.", f"base.layer4_{branch}.")
            key = key.replace("classifiers.0.", f"classifiers.{branch}.")
            other = value[:-1] if key.startswith("classifiers.") else torch.zeros_like(value)
            private = "_" in key.partition(".")[2].partition(".")[0] or key.startswith("classifiers.")
            entries[key] = other if private and branch < classes else value
    return {f"module.{key}": value for key, value in (entries | {"project_w.0.weight": torch.ones(2, 4)}).items()}


def logits(made: FaceNetwork) -> Tensor:
    images = torch.from_numpy(CROPS).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        return made.heads(made.backbone(images)).expression  # type: ignore[return-value]


def test_training_checkpoint_gives_its_target_branch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = network(2)
    torch.save(multi_branch(theirs(made.state_dict()), 2), tmp_path / "ep7.pth")
    words = ["import", "dmue", str(tmp_path / "ep7.pth"), "--out", str(tmp_path / "model"), "--labels", TWO]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert "training checkpoint" in capsys.readouterr().out
    model = honne.load(tmp_path / "model")
    assert model.schema.expressions == ("neutral", "happiness")
    torch.testing.assert_close(model.predict(CROPS).expression, logits(made), rtol=1e-4, atol=1e-4)
    assert "research only" in (tmp_path / "model/card.md").read_text()
    assert model.alignment.size == 224
    assert cli.main(words) == 1
    assert "already exists" in capsys.readouterr().err
    assert cli.main([*words, "--overwrite"]) == 0


def test_converted_checkpoint_has_the_published_classes(tmp_path: Path) -> None:
    made = network(8, "resnet18")
    save_file(theirs(made.state_dict()), tmp_path / "target.safetensors")
    model = read([tmp_path / "target.safetensors"], "target", stem="standard")
    assert model.schema.expressions[0] == "neutral"
    assert model.schema.expressions[-1] == "contempt"
    ours = made.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in model.network.state_dict().items())


def test_resnet50_pooling_and_biases_are_found(tmp_path: Path) -> None:
    made = network(2, "resnet50_ibn_a", neck=False, head_bias=True, pooling="gem").half()
    entries = theirs(made.state_dict()) | {"gap.p": torch.tensor([2.5])}
    del entries["base.global_pool.p"]
    torch.save(entries, tmp_path / "target.pth")
    model = read([tmp_path / "target.pth"], "target", labels=TWO)
    options = model.config.network["options"]
    assert options["backbone"] == "resnet50_ibn_a"
    assert (options["neck"], options["head_bias"], options["pooling"]) == (False, True, "gem")
    assert model.network.get_submodule("backbone.global_pool").p == 2.5
    with pytest.raises(WrongCall, match="--stem is for ResNet-18"):
        read([tmp_path / "target.pth"], "target", labels=TWO, stem="released")


def test_face_pretraining_is_a_backbone_to_train_from(tmp_path: Path) -> None:
    made = network(1)
    trunk = {f"module.feat_net.{key}": value for key, value in made.backbone.state_dict().items()}
    state = trunk | {"module.loss_layer.weight": torch.ones(512, 7), "module.feat_net.fc.weight": torch.ones(7, 512)}
    torch.save({"state_dict": state, "epoch": 17, "batch_id": 5}, tmp_path / "mv_epoch_17.pt")
    honne.import_model("dmue", [tmp_path / "mv_epoch_17.pt"], tmp_path / "model")
    model = honne.load(tmp_path / "model")
    assert model.schema == LabelSchema()
    assert model.predict(CROPS).features is not None
    with pytest.raises(WrongCall, match="has no classes"):
        read([tmp_path / "mv_epoch_17.pt"], "other", labels=TWO)
    wanted = made.backbone.conv1.weight.clone()
    torch.nn.init.zeros_(made.backbone.conv1.weight)
    assert not load_weights(made.backbone, tmp_path / "model")
    assert torch.equal(made.backbone.conv1.weight, wanted)


STEM = {"base.conv1.weight": torch.zeros(64, 3, 7, 7), "classifiers.0.weight": torch.zeros(8, 512)}
WRONG = {
    "another network": (
        STEM | {"base.bn1.weight": torch.zeros(9), "base.layer9.weight": torch.zeros(1)},
        r"does not fit dmue_resnet18: it lacks base.bn1.bias, base.bn1.running_mean, base.bn1.running_var and \d+ more"
        r"; has besides base.layer9.weight; has of other shape base.bn1.weight \(9,\) instead of \(64,\)",
    ),
    "another system": ({"conv1.weight": torch.zeros(1)}, "not a checkpoint of DMUE; it holds conv1.weight"),
    "classes unnamed": (STEM | {"classifiers.0.weight": torch.zeros(7, 512)}, "has 7 classes, and does not say which"),
    "branches": (
        STEM | {"base.layer4_1.x": torch.zeros(1), "classifiers.1.weight": torch.zeros(3, 512)},
        "C \\+ 1 branches has C outputs, but this file 'classifiers.1' has 3 outputs",
    ),
    "not finite": (STEM | {"base.bn1.weight": torch.full((64,), torch.nan)}, "'base.bn1.weight' holds values that are"),
    "no classifier": ({"base.conv1.weight": torch.zeros(64, 3, 7, 7)}, "it has no classifier"),
    "no tensors": ({"epoch": 3}, "holds no tensors by name"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_checkpoints_are_refused(tmp_path: Path, case: str) -> None:
    entries, sentence = WRONG[case]
    torch.save(entries, tmp_path / "file.pth")
    with pytest.raises(HonneError, match=sentence):
        honne.import_model("dmue", [tmp_path / "file.pth"], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_labels_must_be_as_many_as_classes(tmp_path: Path) -> None:
    torch.save(STEM, tmp_path / "file.pth")
    with pytest.raises(HonneError, match="has 8 classes, but --labels names 7: surprise"):
        honne.import_model("dmue", [tmp_path / "file.pth"], tmp_path / "model", labels="rafdb")


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must never run",)


def test_a_pickle_never_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"base.conv1.weight": RunsCode()}, protocol=2))
    torch.save({"base.conv1.weight": RunsCode()}, tmp_path / "zipped.pth")
    for name in ("plain.pth", "zipped.pth"):
        with pytest.raises(HonneError, match="not a file of plain tensors"):
            honne.import_model("dmue", [tmp_path / name], tmp_path / "model")
    assert "never run" not in capsys.readouterr().out


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(WrongCall, match=r"no system 'dmeu'.*\n.*Did you mean 'dmue'"):
        honne.import_model("dmeu", [tmp_path], tmp_path / "model")
    with pytest.raises(WrongCall, match="one checkpoint, 2 were given"):
        honne.import_model("dmue", [tmp_path, tmp_path], tmp_path / "model")
    with pytest.raises(HonneError, match="no such weights file"):
        honne.import_model("dmue", [tmp_path / "file.pth"], tmp_path / "model")
