"""Heads on the last map, large maps, attention dropout and APViT, as parts of a network that learns and is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import honne
from honne.batch import Batch, Labels
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks.class_maps import HEADS, unit_range
from honne.networks.face import FaceNetwork
from honne.networks.layers import watched

CLASSES = ("happiness", "sadness", "anger")
SCHEMA = LabelSchema(CLASSES, action_units=(1, 12), valence_arousal=True)
RESNET = {"layers": [1, 1, 1, 2], "channels": [8, 8, 8, 16]}
VIT = {"img_size": 48, "embed_dim": 12, "depth": 2}
APVIT = {"img_size": 48, "channels": [4, 4, 8], "units": [1, 1, 1], "width": 16, "depth": 2, "heads": 2, "keep": 20}
SPATIAL = [name for name in HEADS if name not in ("linear", "interventional")]  # the latter: test_intervention.py


def resnet(**options: Any) -> FaceNetwork:
    torch.manual_seed(0)
    return FaceNetwork(SCHEMA, "face_resnet", RESNET, **options)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 48, 48, generator=generator)
    return Batch(images=images, labels=Labels(expression=torch.tensor([0, 1, 2, -1])))


def last_map(network: FaceNetwork, given: Batch) -> Tensor:
    with watched(network, ["last"]) as seen:
        network(given)
    return seen["last"]


@pytest.mark.parametrize("head", SPATIAL)
def test_heads_on_the_last_map_learn_and_their_maps_have_the_size_of_it(head: str) -> None:
    small = {"hidden": 8} if head == "acol" else {}
    for network in (
        resnet(head=head, head_options=small, dropout=0.1),
        FaceNetwork(SCHEMA, "vit_tiny_patch16_224", VIT, head=head, head_options=small),
    ):
        prediction = network.train()(batch())
        assert prediction.expression.shape == (4, 3)
        assert prediction.action_units.shape == (4, 2)
        assert (prediction.auxiliary is not None) == (head == "acol")
        loss = prediction.expression.square().sum()
        if prediction.auxiliary is not None:
            loss = loss + prediction.auxiliary.square().sum()
        loss.backward()
        assert all(entry.grad is not None and entry.grad.any() for entry in network.expression.parameters())
        assert next(network.backbone.parameters()).grad.any()
        maps = last_map(network.eval(), batch())
        assert network.class_maps(maps).shape == (4, 3, *maps.shape[2:])
        assert network(batch()).auxiliary is None


def test_mean_and_maximum_of_the_class_maps_are_the_logits() -> None:
    for head, pooled in (("gap", torch.mean), ("tscam", torch.mean), ("max", torch.amax)):
        network = resnet(head=head).eval()
        maps = network.class_maps(last_map(network, batch()))
        torch.testing.assert_close(pooled(maps, (2, 3)), network(batch()).expression)


@pytest.mark.parametrize("neck", [False, True])
def test_class_maps_of_the_linear_head_average_to_its_logits_but_for_what_is_constant(neck: bool) -> None:
    network = resnet(neck=neck, head_bias=False)
    network(batch())  # statistics of the neck
    network.eval()
    found = network.class_maps(last_map(network, batch())).mean((2, 3))
    logits = network(batch()).expression
    torch.testing.assert_close(found - found[:1], logits - logits[:1])


def test_wildcat_with_its_lowest_positions_and_without() -> None:
    network = resnet(head="wildcat", head_options={"kmax": 0.25, "kmin": 0.5, "alpha": 2.0}, large_maps=True).eval()
    flat = network.class_maps(last_map(network, batch())).flatten(2).sort(2).values
    n = flat.shape[2]
    highest, lowest = flat[:, :, -round(n / 4) :].mean(2), flat[:, :, : round(n / 2)].mean(2)
    torch.testing.assert_close(network(batch()).expression, highest + 2 * lowest)
    network.expression = HEADS["wildcat"](16, 3, kmax=0.25, lowest="dropped")
    flat = network.class_maps(last_map(network, batch())).flatten(2).sort(2).values
    torch.testing.assert_close(network(batch()).expression, flat[:, :, -round(n / 4) :].mean(2))


def test_acol_erases_the_labelled_class_and_where_there_is_none_the_predicted() -> None:
    network = resnet(head="acol", head_options={"hidden": 8}, large_maps=True).eval()
    maps, labels = last_map(network, batch()), batch().labels.expression
    first, second = network.expression.branches(maps, labels)
    target = torch.where(labels < 0, first.mean((2, 3)).argmax(1), labels)
    hidden = unit_range(first[torch.arange(4), target]) >= 0.1
    torch.testing.assert_close(second, network.expression.b(maps * ~hidden[:, None]))
    assert hidden.any()
    assert (network.class_maps(maps, labels) >= unit_range(first)).all()
    assert not unit_range(torch.ones(2, 3, 3)).any()


def test_large_maps_do_not_shrink_and_have_the_same_entries() -> None:
    small, large = resnet().eval(), resnet(large_maps=True).eval()
    large.load_state_dict(small.state_dict())
    assert last_map(small, batch()).shape[2:] == (3, 3)
    assert last_map(large, batch()).shape[2:] == (12, 12)
    assert [info["reduction"] for info in large.backbone.feature_info][-3:] == [4, 4, 4]


def test_attention_dropout_acts_in_training_only_and_adds_no_entries() -> None:
    plain, cured = resnet(), resnet(attention_dropout=1.0)
    cured.load_state_dict(plain.state_dict())
    plain.eval(), cured.eval()
    torch.testing.assert_close(last_map(cured, batch()), last_map(plain, batch()))
    hidden = (last_map(cured.train(), batch()) == 0).all(1).float().mean()
    assert hidden > 0.5 > (last_map(plain.train(), batch()) == 0).all(1).float().mean()

    draws = resnet(attention_dropout=0.4).train()
    found = []
    for _ in range(2):
        torch.manual_seed(1)
        found.append(draws(batch()).expression)
    assert torch.equal(*found)


def test_apvit_learns_and_its_one_layer_is_the_map_between_trunk_and_transformer() -> None:
    network = FaceNetwork(SCHEMA, "apvit", APVIT)
    assert not network.expression.weight.any()
    with watched(network, ["1", "last"]) as seen:
        prediction = network(batch())
    assert seen["1"].shape == (4, 8, 6, 6)
    assert torch.equal(seen["1"], seen["last"])
    assert prediction.features.shape == (4, 16)
    prediction.features.square().sum().backward()
    assert all(entry.grad is not None for entry in network.backbone.parameters())
    with pytest.raises(HonneError, match="no class maps"):
        network.class_maps(seen["last"])
    with pytest.raises(HonneError, match="6 x 6 positions, not for 8 x 8"):
        network(Batch(images=torch.zeros(1, 3, 64, 64)))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"large_maps": True}, "large maps are for ResNets, not for VisionTransformer"),
        ({"attention_dropout": 0.4}, "attention dropout is for ResNets, not for VisionTransformer"),
        ({"head": "tscam", "neck": True}, "a neck is for pooled features"),
        ({"head": "gab"}, "unknown head 'gab'"),
        ({"head": "gap", "head_options": {"kmax": 1}}, "head 'gap' has no option 'kmax'.*\n.*background"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HonneError, match=sentence):
        FaceNetwork(SCHEMA, "vit_tiny_patch16_224", VIT, **options)


def test_what_needs_another_head_or_map_is_refused_in_a_sentence() -> None:
    with pytest.raises(HonneError, match="works on the last map, not on pooled features"):
        resnet(head="gap").heads(torch.zeros(2, 16))
    for network in (resnet(head="gap"), resnet(head_options={"dense": [4]})):
        with pytest.raises(HonneError, match="needs a linear head"):
            _ = network.linear
    vit = FaceNetwork(SCHEMA, "vit_tiny_patch16_224", VIT)
    with pytest.raises(HonneError, match="VisionTransformer has no class maps"):
        vit.class_maps(last_map(vit, batch()))
    with pytest.raises(HonneError, match="1 x 1 positions"):
        resnet(head="prm").eval()(Batch(images=torch.zeros(1, 3, 16, 16)))


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("face_resnet", {"head": "acol", "head_options": {"hidden": 8}, "large_maps": True, "attention_dropout": 0.4}),
        ("face_resnet", {"head": "linear", "head_options": {"dense": [6, 5], "dropout": 0.1}}),
        ("apvit", {"dropout": 0.1}),
    ],
)
def test_such_a_network_is_stored_and_loaded(backbone: str, options: dict[str, Any], tmp_path: Path) -> None:
    options = {"backbone": backbone, "backbone_options": RESNET if backbone == "face_resnet" else APVIT, **options}
    config = ModelConfig(
        name="cues",
        method="erm",
        network={"kind": "face", "options": options},
        labels=SCHEMA,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        alignment={"size": 48},
    )
    model = Model(config, FaceNetwork(SCHEMA, **options))
    model.save(tmp_path, metrics={}, card="")
    loaded = honne.load(tmp_path)
    torch.testing.assert_close(loaded.network(batch()).expression, model.network(batch()).expression)
