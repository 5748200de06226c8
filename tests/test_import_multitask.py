"""Released multitask files become models, several their ensemble; and the recipes of the published runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import honne
from honne import cli
from honne import recipe as recipes
from honne.batch import Batch, Prediction
from honne.data.transforms import Augment
from honne.errors import HonneError, WrongCall
from honne.faces.align import framed
from honne.interop import multitask
from honne.interop.multitask import MEAN, STD, Kind, backbone_name, published_name, read
from honne.labels import LabelSchema
from honne.methods.multitask import MultitaskOptions
from honne.models import Model
from honne.networks import build
from honne.networks.face import FaceNetwork

Entries = dict[str, Tensor]
SCHEMA = LabelSchema(
    ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise"), (1, 2, 4, 6, 12, 15, 20, 25), True
)
BINS = {"valence_arousal_bins": 20, "bin_values": "ends"}
FACE: dict[str, Any] = {"backbone": "resnet50_caffe", "hidden": 128} | BINS
CLIPS: dict[str, Any] = {"frames": FACE, "length": 32, "hidden": 64, "frozen": "whole"} | BINS
STEM, CLIP_STEM = "backbone.model.conv1_7x7_s2.weight", "backbone.backbone.model.conv1_7x7_s2.weight"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255 - 128


def published(network: nn.Module, kind: Kind) -> Entries:
    return {published_name(key, kind): value for key, value in network.state_dict().items()}


def moved(entries: Entries, start: str) -> Entries:
    """Another network: some weights differ."""
    return {key: value + 0.01 if key.startswith(start) else value for key, value in entries.items()}


@pytest.fixture(scope="module")
def clip_network() -> nn.Module:
    """The network of the original's size, its statistics unlike those of a fresh one."""
    torch.manual_seed(0)
    made = build("clips", CLIPS, SCHEMA).eval()
    for name, buffer in made.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            nn.init.uniform_(buffer, 0.5, 1.5)
    return made


@pytest.fixture(scope="module")
def frames(clip_network: nn.Module) -> nn.Module:
    return clip_network.get_submodule("frames")


@pytest.fixture(scope="module")
def cnn(frames: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cnn") / "0.pth"
    torch.save({f"module.{key}": value for key, value in published(frames, "CNN").items()}, path)
    return path


@pytest.fixture(scope="module")
def cnn_rnn(clip_network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rnn") / "net_epoch_student_0_id_resnet50_GRU.pth"
    torch.save(published(clip_network, "CNN-RNN"), path)
    return path


def tasks(prediction: Prediction) -> tuple[Tensor | None, ...]:
    return prediction.expression, prediction.action_units, prediction.valence_arousal, prediction.valence_arousal_bins


def require_same(model: Model, network: nn.Module, clips: Tensor | None = None) -> None:
    mine, theirs = model.network.state_dict(), network.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    batch = Batch(images=IMAGES, clips=clips)
    with torch.inference_mode():
        for found, wanted in zip(tasks(model.network(batch)), tasks(network(batch)), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_names_of_the_original() -> None:
    assert backbone_name("conv1_7x7_s2_bn.running_var") == "bn1.running_var"
    assert backbone_name("conv4_6_1x1_increase_bn.bias") == "layer3.5.bn3.bias"
    assert backbone_name("conv2_1_1x1_proj_bn.weight") == "layer1.0.downsample.1.weight"
    assert published_name("valence_arousal.norm.bias", "CNN") == "classifier.2.bn1.bias"
    assert published_name("frames.layer9.bias", "CNN-RNN") == "frames.layer9.bias"
    assert published_name("frames.action_units.norm_in.bias", "CNN-RNN") == "backbone.classifier.1.bn0.bias"
    gru = published_name("recurrent.expression.gru.bias_hh_l0_reverse", "CNN-RNN")
    assert gru == "classifier.0.GRU_layer.bias_hh_l0_reverse"


def test_cnn_becomes_a_model(cnn: Path, frames: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["import", "multitask", str(cnn), "--out", str(tmp_path / "model")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "CNN of multitask, 0.pth, resnet50_caffe. Classes: neutral, anger, disgust" in said
    model = honne.load(tmp_path / "model")
    require_same(model, frames)
    assert model.schema == SCHEMA
    assert (model.thresholds[1], model.thresholds[25]) == (0.1448537, 0.10848708)
    assert (model.alignment.size, round(model.alignment.size / model.alignment.centre)) == (112, 134)
    pixel = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
    torch.testing.assert_close(
        model.normalise(pixel).flatten(), 255 - torch.tensor([131.0912, 103.8827, 91.4953]), rtol=1e-5, atol=1e-3
    )
    card = (tmp_path / "model/card.md").read_text(encoding="utf-8")
    assert "research only" in card
    assert "last of five students" in " ".join(card.split())


def test_cnn_files_become_an_ensemble(cnn: Path, frames: nn.Module, tmp_path: Path) -> None:
    torch.save(moved(published(frames, "CNN"), "classifier"), tmp_path / "1.pth")
    model = read([cnn, tmp_path / "1.pth"], "five", thresholds="half")
    assert set(model.thresholds.values()) == {0.5}
    assert model.config.network["kind"] == "ensemble"
    with torch.inference_mode():
        batch = Batch(images=IMAGES)
        single = [tasks(model.network.get_submodule(f"members.{i}")(batch)) for i in (0, 1)]
        found, (first, second) = model.network(batch), single
    assert not torch.equal(first[0], second[0])  # type: ignore[arg-type]
    mean = (first[0].softmax(1) + second[0].softmax(1)) / 2  # type: ignore[union-attr]
    torch.testing.assert_close(found.expression.softmax(1), mean, rtol=1e-4, atol=1e-5)
    mean = (first[1].sigmoid() + second[1].sigmoid()) / 2  # type: ignore[union-attr]
    torch.testing.assert_close(found.action_units.sigmoid(), mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.valence_arousal, (first[2] + second[2]) / 2)  # type: ignore[operator]


def test_cnn_rnn_becomes_a_model(cnn_rnn: Path, clip_network: nn.Module) -> None:
    model = read([cnn_rnn], "clips")
    require_same(model, clip_network, torch.tensor([[0, 1, -1]]))
    assert model.config.network["options"] == CLIPS
    assert model.thresholds[1] == 0.4253935
    with pytest.raises(WrongCall, match="none for windows of 20 frames"):
        read([cnn_rnn], "clips", window=20, thresholds="released")
    with pytest.raises(WrongCall, match="--window is 0"):
        read([cnn_rnn], "clips", window=0)


def test_cnn_rnn_ensemble_keeps_a_common_cnn_once(cnn_rnn: Path, clip_network: nn.Module, tmp_path: Path) -> None:
    entries = published(clip_network, "CNN-RNN")
    torch.save(moved(entries, "classifier"), tmp_path / "1.pth")
    common = read([cnn_rnn, tmp_path / "1.pth"], "common", window=16)
    names = common.network.state_dict().keys()
    assert "frames.backbone.conv1.weight" in names
    assert not any(name.startswith("members.0.frames.") for name in names)
    assert (common.thresholds[1], common.config.network["options"]["options"]["length"]) == (0.30485213, 16)
    for i, start in enumerate(("nothing", "classifier")):
        bias = moved(entries, start)["classifier.1.fc_1.bias"]
        torch.testing.assert_close(
            common.network.state_dict()[f"members.{i}.recurrent.action_units.outputs.bias"], bias
        )

    torch.save(moved(entries, "backbone.classifier.0.bn0.running"), tmp_path / "1.pth")  # as frozen ones moved
    each = read([cnn_rnn, tmp_path / "1.pth"], "each", window=20)
    assert "members.1.frames.backbone.conv1.weight" in each.network.state_dict()
    assert each.config.thresholds == {}


def test_ferplus_network_becomes_a_trunk_to_train_from(frames: FaceNetwork, tmp_path: Path) -> None:
    trunk = {key.removeprefix("backbone.model."): v for key, v in published(frames, "CNN").items() if "model" in key}
    trunk = {key: value for key, value in trunk.items() if "num_batches" not in key}
    torch.save(trunk | {"classifier.weight": torch.ones(8, 2048, 1, 1)}, tmp_path / "dag.pth")
    model = read([tmp_path / "dag.pth"], "trunk")
    mine, theirs = model.network.state_dict(), frames.backbone.state_dict()
    assert mine.keys() == {f"backbone.{key}" for key in theirs}
    assert all(torch.equal(mine[f"backbone.{key}"], theirs[key]) for key in theirs)
    assert model.config.thresholds == {}
    with pytest.raises(HonneError, match="pre-trained trunk"):
        model.require_labels()
    with pytest.raises(WrongCall, match="no classes"):
        read([tmp_path / "dag.pth"], "x", labels="abaw")
    with pytest.raises(WrongCall, match="none for a trunk"):
        read([tmp_path / "dag.pth"], "x", thresholds="released")


class Runs:
    """Pickled, it would run a command when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("true",)


def test_wrong_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    one = torch.ones(64, 3, 7, 7)

    def saved(name: str, entries: Any) -> Path:
        torch.save(entries, tmp_path / name)
        return tmp_path / name

    with pytest.raises(HonneError, match="not a file of plain tensors"):
        read([saved("code.pth", {STEM: Runs()})], "x")
    with pytest.raises(HonneError, match=r"not a checkpoint of multitask; it holds conv1\.weight"):
        read([saved("other.pth", {"conv1.weight": one})], "x")
    with pytest.raises(HonneError, match="not finite"):
        read([saved("nan.pth", {STEM: one / 0 * 0})], "x")
    with pytest.raises(HonneError, match=r"does not fit CNN of multitask: it lacks backbone\.model\.conv1_7x7_s2_bn"):
        read([saved("part.pth", {STEM: one})], "x")
    with pytest.raises(HonneError, match=r"has besides fusion\.weight; has of other shape backbone\.model\.conv1"):
        read([saved("shape.pth", {STEM: one[:8], "fusion.weight": one})], "x")
    with pytest.raises(HonneError, match="has 8 classes, and does not say which"):
        read([saved("eight.pth", {STEM: one, "classifier.0.fc_1.bias": torch.ones(8)})], "x")
    with pytest.raises(WrongCall, match="--window is for a CNN-RNN"):
        read([tmp_path / "part.pth"], "x", window=16)
    with pytest.raises(HonneError, match=r"is a CNN, .*clips\.pth a CNN-RNN: they do not go together"):
        read([tmp_path / "part.pth", saved("clips.pth", {CLIP_STEM: one})], "x")
    with pytest.raises(WrongCall, match="named twice"):
        read([tmp_path / "part.pth"] * 2, "x")


def test_released_thresholds_are_those_of_eight_action_units() -> None:
    assert {len(values) for values in multitask.THRESHOLDS.values()} == {8}
    assert set(multitask.THRESHOLDS) == {0, 8, 16, 32}


def test_recipes_repeat_the_published_settings(tmp_path: Path) -> None:
    parser = recipes.parser(exit_on_error=False)

    def recipe(name: str) -> recipes.Recipe:
        words = [f"multitask/{name}", "--data", "DATA", "--out", str(tmp_path)]
        return recipes.from_namespace(parser, parser.parse_args(words))

    windows = {"affwild2_cnn_rnn": 32, "affwild2_cnn_rnn_16": 16, "affwild2_cnn_rnn_8": 8}
    made = {name: recipe(name) for name in ("affwild2_cnn", "saffwild2_cnn", *windows)}
    assert {name for name in recipes.names() if name.startswith("multitask/")} == {f"multitask/{name}" for name in made}
    for name, each in made.items():
        model, data, optim, trainer = each.model, each.data, each.optim, each.trainer
        assert vars(each.options) == vars(MultitaskOptions())
        assert (each.options.students, each.options.student_epochs) == (5, 3)
        assert (model.backbone, model.hidden, model.valence_arousal_bins) == ("resnet50_caffe", 128, 20)
        assert (model.window, model.recurrent, model.frozen) == (windows.get(name, 0), 64, "whole")
        torch.testing.assert_close(torch.tensor([model.mean, model.std]), torch.tensor([MEAN, STD]))
        assert (data.size, framed(112, data.centre), data.batch_size, data.labels) == (112, 134, 20, "union")
        assert data.sampling == "tasks"
        assert data.balance == ("none" if model.window else "published")
        side = 112 / 134
        assert data.augment == Augment(crop=(round(side**2, 10),) * 2, warp=0, colour=0, erase=0)
        assert (optim.optimizer, optim.lr, optim.beta1, optim.weight_decay) == ("adam", 1e-4, 0.5, 0)
        assert (optim.schedule, optim.warmup, optim.clip) == ("constant", 0, 0)
        assert trainer.epochs == (3 if model.window else 8)
        labels = "abaw" if name == "saffwild2_cnn" else "affwild2"
        assert (data.expressions, data.action_units) == (labels, labels)
        assert trainer.monitor == ("score" if labels == "abaw" else "abaw")
