"""The two networks of DMUE and their blocks; conversion of a multi-branch checkpoint to the target model."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from seeding import key_seeded
from torch import nn

from honne.interop.dmue import own_names, to_target
from honne.labels import LabelSchema
from honne.networks.dmue_resnets import IBN, BasicBlock, Bottleneck, GeM, IBNBottleneck
from honne.networks.face import FaceNetwork

Arrays = dict[str, np.ndarray]


def assert_close(found: torch.Tensor | np.ndarray, wanted: np.ndarray, what: str = "") -> None:
    """Up to rounding, which grows with the largest value."""
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max(), err_msg=what)


def block(kind: type[BasicBlock] | type[Bottleneck], parameters: Arrays, stride: int) -> nn.Module:
    """The recorded residual block: its widths from its first convolution, a projection where it has one."""
    planes, inputs = parameters["conv1.weight"].shape[:2]
    outputs = planes * kind.expansion
    projection = None
    if "downsample.0.weight" in parameters:
        projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    return kind(inputs, planes, stride, projection)


def built(tag: str, parameters: Arrays, maps: np.ndarray, out: np.ndarray) -> nn.Module:
    stride = maps.shape[-1] // out.shape[-1]
    builders: dict[str, Callable[[], nn.Module]] = {
        "ibn_block": lambda: block(IBNBottleneck, parameters, stride),
        "ibn_layer": lambda: IBN(maps.shape[1]),
        "basic_block": lambda: block(BasicBlock, parameters, stride),
        "gem_pool": GeM,
    }
    return builders[tag.removesuffix("_train")]()


@pytest.mark.golden("dmue", "blocks*.npz")
def test_blocks(golden: Arrays) -> None:
    tags = sorted({key.partition("/")[0] for key in golden})
    assert tags
    for tag in tags:
        start = f"{tag}/param/"
        parameters = {key.removeprefix(start): value for key, value in golden.items() if key.startswith(start)}
        maps, wanted = golden[f"{tag}/in"], golden[f"{tag}/out"]
        module = built(tag, parameters, maps, wanted).train(bool(golden[f"{tag}/train_mode"]))
        left = module.load_state_dict({key: torch.from_numpy(value) for key, value in parameters.items()}, strict=False)
        assert not left.unexpected_keys
        assert all(key.endswith("num_batches_tracked") or tag == "gem_pool" for key in left.missing_keys)
        out = module(torch.from_numpy(maps)).detach().numpy()
        assert_close(out.reshape(wanted.shape), wanted, tag)


@pytest.mark.golden("dmue", "full_resnet18*.npz")
def test_resnet18_multi_branch_checkpoint_becomes_the_target_model(golden: Arrays) -> None:
    classes = int(golden["num_classes"])
    shapes = dict(zip(golden["keys_multibranch"].tolist(), golden["shapes_multibranch"].tolist(), strict=True))
    source = to_target({key: key for key in shapes}, classes)
    wanted = dict(zip(golden["keys_target"].tolist(), golden["shapes_target"].tolist(), strict=True))
    assert {key: shapes[old] for key, old in source.items()} == wanted

    seeded = key_seeded(source.values(), [shapes[old] for old in source.values()], str(golden["salt"]))
    target = {key: seeded[old] for key, old in source.items()}
    network = target_network("dmue_resnet18", classes, neck=True)
    network.load_state_dict(own_names(target))
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["n_params_target"]
    with torch.inference_mode():
        logits = network.heads(network.backbone(torch.from_numpy(golden["images"]))).expression
    for name in ("target_logits_normal", "target_logits", "converted_target_logits"):
        assert_close(logits, golden[name], name)
    trained = [ast.literal_eval(shape) for key, shape in shapes.items() if key.rpartition(".")[2] not in BUFFERS]
    assert sum(math.prod(shape) for shape in trained) == golden["n_params_multibranch"]


@pytest.mark.golden("dmue", "full_resnet50_ibn_a*.npz")
def test_resnet50_ibn_a(golden: Arrays) -> None:
    entries = key_seeded(golden["keys_target"], golden["shapes_target"], str(golden["salt"]))
    network = target_network("resnet50_ibn_a", len(entries["classifiers.0.weight"]), neck=False)
    network.load_state_dict(own_names(entries))
    assert sum(parameter.numel() for parameter in network.parameters()) == golden["n_params_target"]
    images = torch.from_numpy(golden["images"])
    with torch.inference_mode():
        prediction = network.heads(network.backbone(images))
        maps = network.feature_maps(images)
        last = network.backbone.forward_features(images)
    assert_close(prediction.features, golden["pooled"])
    assert_close(prediction.expression, golden["logits"])
    assert torch.equal(maps[-1], last)
    assert [one.shape[1] for one in maps] == [64, 256, 512, 1024, 2048]


BUFFERS = {"running_mean", "running_var", "num_batches_tracked"}


def target_network(backbone: str, classes: int, neck: bool) -> FaceNetwork:
    schema = LabelSchema(tuple(f"class {k}" for k in range(classes)))
    return FaceNetwork(schema, backbone, neck=neck, head_bias=False).eval()
