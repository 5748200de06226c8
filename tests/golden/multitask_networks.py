"""Networks of multitask recognition: heads, GRU heads, the sequence model, and the whole published network."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from honne.batch import Prediction
from honne.codes import ACTION_UNITS
from honne.interop.multitask import backbone_name
from honne.labels import LabelSchema
from honne.networks.clips import ClipNetwork, Recurrent
from honne.networks.face import FaceNetwork
from honne.networks.ferplus_resnet import register_model
from honne.networks.hidden_head import HiddenHead

Arrays = dict[str, np.ndarray]

TASKS = ("expression", "action_units", "valence_arousal")
RECORDED = ("EXPR", "AU", "VA")
LAYERS = {"bn0": "norm_in", "fc_0": "hidden", "bn1": "norm", "fc_1": "outputs", "GRU_layer": "gru"}


def close(found: Tensor, wanted: np.ndarray, what: str = "") -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=what)


def tensors(golden: Arrays, prefix: str = "sd.") -> dict[str, Tensor]:
    return {key.removeprefix(prefix): torch.from_numpy(golden[key]) for key in golden if key.startswith(prefix)}


def own_name(published: str) -> str:
    """Of an entry of the published CNN, or of a part of it."""
    head = re.fullmatch(r"(?:classifier\.(\d)\.)?(bn0|fc_0|bn1|fc_1|GRU_layer)\.(\w+)", published)
    if head is None:
        return "backbone." + backbone_name(published.removeprefix("backbone.model."))
    task, layer, entry = head.groups()
    return f"{TASKS[int(task)]}.{LAYERS[layer]}.{entry}" if task else f"{LAYERS[layer]}.{entry}"


def logits(prediction: Prediction, task: str) -> Tensor:
    """As recorded: of valence and arousal those of all bins in one row."""
    if task != "valence_arousal":
        return getattr(prediction, task)
    assert prediction.valence_arousal_bins is not None
    return prediction.valence_arousal_bins.flatten(1)


def schema_of(expressions: int, units: int) -> LabelSchema:
    return LabelSchema(tuple(f"class {k}" for k in range(expressions)), tuple(ACTION_UNITS)[:units], True)


@pytest.mark.golden("multitask", "head_cnn*.npz")
def test_head(golden: Arrays) -> None:
    entries = {own_name(key): value for key, value in tensors(golden).items()}
    hidden, width = entries["hidden.weight"].shape
    head = HiddenHead(width, hidden, len(entries["outputs.weight"]))
    head.load_state_dict(entries)
    inputs = torch.from_numpy(golden["x"])
    with torch.no_grad():
        head.eval()
        close(head.features(inputs), golden["feat_eval"])
        close(head(inputs), golden["out_eval"])
        head.train()
        close(head(inputs), golden["out_train"])
        moved = {key: value.clone() for key, value in head.state_dict().items()}
        close(head.features(inputs), golden["feat_train"])
    after = tensors(golden, "sd_after_train.")
    assert after
    for key, value in after.items():
        close(moved[own_name(key)], value.numpy(), key)


@pytest.mark.golden("multitask", "head_gru*.npz")
def test_recurrent_head(golden: Arrays) -> None:
    entries = {own_name(key): value for key, value in tensors(golden).items()}
    windows = torch.from_numpy(golden["x"])
    head = Recurrent(windows.shape[2], entries["gru.weight_hh_l0"].shape[1], len(entries["outputs.weight"]))
    head.load_state_dict(entries)
    with torch.no_grad():
        close(head.features(windows), golden["feat"])
        close(head(windows), golden["out"])
    for outputs, count in zip((7, 8, 40), golden["n_params_gru_heads_128_64"], strict=True):
        assert sum(each.numel() for each in Recurrent(128, 64, outputs).parameters()) == count


class ToyBackbone(nn.Module):
    """The recorded one: the mean of each channel, the channels repeated."""

    def __init__(self, width: int, num_classes: int = 0) -> None:
        super().__init__()
        self.num_features = width

    def forward_features(self, images: Tensor) -> Tensor:
        return images

    def forward_head(self, images: Tensor) -> Tensor:
        pooled = images.mean((2, 3))
        return pooled[:, torch.arange(self.num_features) % pooled.shape[1]]


@register_model
def multitask_toy(pretrained: bool = False, **options: Any) -> ToyBackbone:
    return ToyBackbone(**{key: options[key] for key in ("width", "num_classes")})


@pytest.mark.golden("multitask", "seq_model*.npz")
def test_sequence_model(golden: Arrays) -> None:
    entries = {sequence_name(key): value for key, value in tensors(golden).items()}
    hidden, width = entries["frames.expression.hidden.weight"].shape
    classes, units, affective = (len(entries[f"recurrent.{task}.outputs.weight"]) for task in TASKS)
    bins = affective // 2
    images = torch.from_numpy(golden["x"])
    clips, length = images.shape[:2]
    frames = {
        "backbone": "multitask_toy",
        "backbone_options": {"width": width},
        "hidden": hidden,
        "valence_arousal_bins": bins,
    }
    recurrent = entries["recurrent.expression.gru.weight_hh_l0"].shape[1]
    network = ClipNetwork(schema_of(classes, units), frames, length, recurrent, valence_arousal_bins=bins).eval()
    network.load_state_dict(entries)
    rows = torch.arange(clips * length).view(clips, length)
    with torch.no_grad():
        prediction = network.over_time(network.features(images.flatten(0, 1)), rows)
    for task, name in zip(TASKS, RECORDED, strict=True):
        close(logits(prediction, task).unflatten(0, (clips, length)), golden[f"out_{name}"], name)


def sequence_name(published: str) -> str:
    if published.startswith("backbone."):
        return "frames." + own_name(published.removeprefix("backbone."))
    return "recurrent." + own_name(published)


def procedural(name: str, number: int, shape: tuple[int, ...]) -> Tensor:
    """Weights by formula, as the recording's description defines them; `number` counts the published entries."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith(("running_mean", "running_var")):
        return torch.full(shape, float(name.endswith("running_var")))
    count = int(np.prod(shape))
    q = np.sin(12.9898 * np.arange(1, count + 1) + 78.233 * (number + 1)) * 43758.5453
    u = q - np.floor(q) - 0.5
    if len(shape) == 1:
        values = float(name.endswith("weight")) + 0.2 * u
    else:
        values = u * np.sqrt(12) * np.sqrt(shape[0] / count)
    return torch.from_numpy(values.reshape(shape).astype(np.float32))


def parameters(module: Any) -> int:
    return sum(each.numel() for each in module.parameters())


def sizes(golden: Arrays) -> Iterable[tuple[int, Tensor]]:
    """Recorded side -> images; of a side without its own those of the largest side that divides it, enlarged."""
    images = {int(key[2:]): torch.from_numpy(golden[key]).float() for key in golden if re.fullmatch(r"x_\d+", key)}
    for key in (key for key in golden if re.fullmatch(r"out_EXPR_\d+", key)):
        side, count = int(key.split("_")[-1]), len(golden[key])
        if side not in images:
            own = max(other for other, some in images.items() if side % other == 0 and len(some) == count)
            images[side] = interpolate(images[own], (side, side), mode="nearest")
        yield side, images[side]


@pytest.mark.golden("multitask", "model_full*.npz")
def test_whole_network(golden: Arrays) -> None:
    keys = [str(key) for key in golden["state_keys"]]
    shapes = dict(zip(keys, (ast.literal_eval(str(shape)) for shape in golden["state_shapes"]), strict=True))
    classes, units, affective = (shapes[f"classifier.{task}.fc_1.weight"][0] for task in range(len(TASKS)))
    network = FaceNetwork(
        schema_of(classes, units),
        "resnet50_caffe",
        hidden=shapes["classifier.0.fc_0.weight"][0],
        valence_arousal_bins=affective // 2,
    ).eval()
    state = network.state_dict()
    entries = {own_name(key): procedural(key, number, shapes[key]) for number, key in enumerate(keys)}
    assert len(entries) == len(keys)
    assert {key: tuple(value.shape) for key, value in state.items()} == {own_name(key): shapes[key] for key in keys}
    network.load_state_dict(entries)
    assert parameters(network) == golden["n_params"]
    assert parameters(network.backbone) == golden["n_params_backbone"]
    assert [parameters(getattr(network, task)) for task in TASKS] == golden["n_params_heads"].tolist()
    shown = list(sizes(golden))
    assert shown
    for side, images in shown:
        with torch.inference_mode():
            pooled = network.embedding(images)
            prediction = network.heads(pooled)
            features = network.action_units.features(pooled)  # type: ignore[union-attr, operator]
        found = {f"out_{name}": logits(prediction, task) for task, name in zip(TASKS, RECORDED, strict=True)}
        found |= {"cross_task": pooled, "feat_AU": features}
        for name, values in found.items():
            wanted = golden[f"{name}_{side}"]
            np.testing.assert_allclose(values, wanted, rtol=1e-3, atol=2e-2, err_msg=f"{name} {side}")
