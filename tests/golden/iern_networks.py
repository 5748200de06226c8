"""Blocks of IERN, and the sizes and initial weights of the full model."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from iern_training import as_state, method, ours, within
from torch import Tensor, nn

from honne.methods.iern import Iern, IernOptions
from honne.networks.intervention import Decoder, Discriminator, Encoder, Interventional, initialise

Arrays = dict[str, np.ndarray]


def entries(golden: Arrays, start: str) -> dict[str, Tensor]:
    """What begins with `start`, by our names."""
    return as_state({within(key.removeprefix(start)): golden[key] for key in golden if key.startswith(start)})


def count(state: dict[str, Tensor], pattern: str) -> int:
    return len({found[0] for name in state if (found := re.search(pattern, name))})


class _HandsOn(nn.Module):
    """A decoder that gives the emotion feature back in every stratum."""

    def strata(self, emotion: Tensor, prototypes: Tensor, pooled: bool) -> Tensor:
        assert pooled
        return emotion.mean((2, 3)).repeat_interleave(len(prototypes), 0)


class Classifier(nn.Module):
    """The head's classifier and averages, of two strata that do not differ."""

    def __init__(self, state: dict[str, Tensor], maps: np.ndarray) -> None:
        super().__init__()
        classes, channels = state["fc.weight"].shape
        self.head = Interventional(channels, classes, strata=["a", "b"], side=maps.shape[2:], channels=channels)
        self.head.classifier.load_state_dict({name.removeprefix("fc."): value for name, value in state.items()})
        self.head.decoder = _HandsOn()  # type: ignore[assignment]

    def forward(self, maps: Tensor) -> Tensor:
        return self.head.adjusted(self.head.intervene(maps))


@pytest.mark.golden("iern", "blocks*.npz")
def test_blocks(golden: Arrays) -> None:
    state = {part: entries(golden, f"{part}.sd.") for part in ("enc", "dec", "dis", "cls")}
    outputs = golden["dis.y_eval"].shape[1]
    modules: dict[str, nn.Module] = {
        "enc": Encoder(golden["enc.x1"].shape[1], count(state["enc"], r"^\d+(?=\.conv1)")),
        "dec": Decoder(golden["dec.x1"].shape[1], count(state["dec"], r"^blocks\.\d+")),
        "dis": Discriminator(
            golden["dis.x1"].shape[1], outputs, count(state["dis"], r"^layers\.\d+") - 2, golden["dis.x1"].shape[2:]
        ),
        "cls": Classifier(state["cls"], golden["cls.x1"]),
    }
    for part, module in modules.items():
        if part != "cls":
            module.load_state_dict(state[part])
        inputs = [torch.from_numpy(golden[name]) for name in (f"{part}.x1", f"{part}.x2") if name in golden]
        with torch.no_grad():
            found = {"y_train": module.train()(*inputs)}
            after = entries(golden, f"{part}.sd_after_train.")
            buffers = {name: value for name, value in module.named_buffers() if "running" in name}
            found["y_eval"] = module.eval()(*inputs)
            if part == "dis":  # the reference drops the axis of a batch of one
                found["y_batch1"] = module(inputs[0][:1])[0]
        if part != "cls":
            assert set(after) == set(buffers)
        for name, value in after.items():
            np.testing.assert_allclose(buffers[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{part} {name}")
        assert set(found) == {name.removeprefix(f"{part}.") for name in golden if name.startswith(f"{part}.y")}
        for name, value in found.items():
            np.testing.assert_allclose(value, golden[f"{part}.{name}"], rtol=1e-4, atol=1e-5, err_msg=f"{part} {name}")


# --- the full model ----------------------------------------------------------------------------------------------

BASE = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def full_name(part: str, key: str) -> str:
    """Our name of an entry of the full model: its backbone is a ResNet, whose layers the reference counts."""
    number, _, rest = key.partition(".")
    if part == "Base":
        return f"network.backbone.{BASE[number]}.{rest}" if number in BASE else f"network.expression.projection.{rest}"
    return ours(f"net{part}.{key}")


def sizes(text: str) -> tuple[int, ...]:
    return tuple(int(side) for side in text.split(",") if side)


def full_method(golden: Arrays) -> Iern:
    """The method around a ResNet-50 as large as recorded, without memory for it."""
    named = {
        part: dict(zip(golden[f"keys.{part}"].tolist(), golden[f"shapes.{part}"].tolist(), strict=True))
        for part in golden["names"].tolist()
    }
    strata, *shape = sizes(named["Cnfnd"]["mem_tensors"])
    options = IernOptions(
        channels=shape[0],
        encoder_blocks=sum(key.endswith("conv_block.0.weight") for key in named["EmoGen"]),
        decoder_blocks=sum(key.endswith("conv_block.0.weight") for key in named["Recons"]),
        discriminator_blocks=sum(key.endswith(".weight") for key in named["EmoDis"]) - 2,
    )
    with torch.device("meta"):
        return method(tuple(shape), strata, sizes(named["Cls"]["fc.bias"])[0], options, backbone="resnet50")


@pytest.mark.golden("iern", "architecture*.npz")
def test_full_model(golden: Arrays) -> None:
    made = full_method(golden)
    state, trained = made.state_dict(), dict(made.named_parameters())
    seen = {"centers", "met"}  # the running means' own, which the reference does not know
    parts = golden["names"].tolist()
    for part, parameters, buffers in zip(parts, golden["n_params"], golden["n_buffers"], strict=True):
        keys, shapes = golden[f"keys.{part}"].tolist(), golden[f"shapes.{part}"].tolist()
        names = [full_name(part, key) for key in keys]
        assert [tuple(state[name].shape) for name in names] == [sizes(shape) for shape in shapes], part
        assert sum(state[name].numel() for name in names if name in trained) == parameters, part
        assert sum(state[name].numel() for name in names if name not in trained) == buffers, part
        seen.update(names)
    assert seen == set(state)
    assert trained["centers"].numel() == golden["center_params"]
    kept = dict(zip(parts, golden["n_params"].tolist(), strict=True))
    saved = sum(entry.numel() for entry in made.network.parameters())
    assert saved == sum(kept[part] for part in ("Base", "EmoGen", "Recons", "Cls"))


@pytest.mark.golden("iern", "architecture*.npz")
def test_shapes_of_the_full_model(golden: Arrays) -> None:
    made, wanted = full_method(golden), {key.removeprefix("shape."): golden[key] for key in golden if "shape." in key}
    head = made.head
    base = head.projection(made.network.maps(torch.empty(2, 3, 224, 224, device="meta")))
    emotion, context = head.emotion(base), made.context(base)
    found: dict[str, Any] = {
        "base": base,
        "emo": emotion,
        "recons": head.decoder(emotion, context),
        "emodis": made.emotion_discriminator(emotion),
        "condis": made.stratum_discriminator(context),
        "cls": head.adjusted(head.intervene(emotion)),
        "mem": head.prototypes,
    }
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        name: tuple(value.tolist()) for name, value in wanted.items()
    }


@pytest.mark.golden("iern", "architecture*.npz")
def test_initial_weights(golden: Arrays) -> None:
    """Mean and deviation within what the number of weights drawn allows; the reference's own are draws too."""
    columns = golden["init.stats_cols"].tolist()
    assert [name.partition(".")[2] for name in columns[1:]] == ["std", "weight.mean", "weight.std", "bias.absmax"]
    found = re.search(r"(\d+)x(\d+)x(\d+)x\d+", columns[0])
    assert found is not None
    outputs, inputs, side = map(int, found.groups())
    for kind, recorded in zip(golden["init.types"].tolist(), golden["init.stats"].tolist(), strict=True):
        torch.manual_seed(0)
        conv, norm = nn.Conv2d(inputs, outputs, side), nn.BatchNorm2d(outputs)
        initialise(nn.Sequential(conv, norm), kind, float(golden["init.gain"]))
        mean, deviation, norm_mean, norm_deviation, bias = recorded
        weights, scales = conv.weight.detach(), norm.weight.detach()
        assert weights.std().item() == pytest.approx(deviation, rel=6 / (2 * weights.numel()) ** 0.5), kind
        assert weights.mean().item() == pytest.approx(mean, abs=6 * deviation / weights.numel() ** 0.5), kind
        drawn = float(golden["init.gain"])
        assert scales.std().item() == pytest.approx(norm_deviation, abs=6 * drawn / (2 * len(scales)) ** 0.5), kind
        assert scales.mean().item() == pytest.approx(norm_mean, abs=8 * drawn / len(scales) ** 0.5), kind
        assert conv.bias is not None
        assert conv.bias.abs().max().item() == bias
        assert not norm.bias.any()
