"""Networks of several tasks: bins of valence and arousal, hidden heads, Caffe's ResNet, clips, ensembles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import honne
from honne.batch import Batch, Prediction
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.networks.affect_bins import bin_edges, bin_index, bin_values, expectation
from honne.networks.clips import ClipNetwork
from honne.networks.ensemble import joined, log_mean_softmax, logit_of_mean_sigmoid

SCHEMA = LabelSchema(("neutral", "happiness", "surprise"), (1, 12), True)
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "stem_width": 8}
FACE: dict[str, Any] = {"backbone": "face_resnet", "backbone_options": SMALL, "hidden": 6, "valence_arousal_bins": 20}
CLIPS: dict[str, Any] = {"frames": FACE, "length": 5, "hidden": 4, "valence_arousal_bins": 20}
TINY_CAFFE = {"layers": [1, 1, 1, 2], "channels": [8, 8, 8, 8]}


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(kind: str, options: dict[str, Any], seed: int = 0) -> Any:
    """A network with statistics of BatchNorm that are not the first ones."""
    torch.manual_seed(seed)
    network = build(kind, options, SCHEMA).eval()
    for name, value in network.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return network


def answers(prediction: Prediction) -> dict[str, Tensor]:
    names = ("expression", "action_units", "valence_arousal", "valence_arousal_bins")
    return {name: value for name in names if (value := getattr(prediction, name)) is not None}


def assert_same(found: Prediction, wanted: Prediction, rows: slice = slice(None)) -> None:
    """Found is what was wanted, or these rows of it."""
    assert answers(found).keys() == answers(wanted).keys()
    for name, value in answers(wanted).items():
        torch.testing.assert_close(answers(found)[name], value[rows], msg=name)


# --- bins of valence and arousal -----------------------------------------------------------------------------------


def test_bins_hold_the_labels_from_their_lower_edge_on() -> None:
    labels = torch.tensor([-1, -0.95, -0.9, -0.3, 0, 0.1, 0.3, 0.7, 0.9999, 1, torch.nan])
    assert bin_index(labels, 20).tolist() == [0, 0, 1, 7, 10, 11, 13, 17, 19, 19, -1]
    assert bin_index(labels.double().view(1, -1), 20).tolist() == [bin_index(labels, 20).tolist()]
    tenths = torch.arange(-10, 10) / 10  # as annotators write them
    assert bin_index(tenths, 20).tolist() == list(range(20))
    assert bin_edges(4).tolist() == [-1, -0.5, 0, 0.5, 1]


@pytest.mark.parametrize("wrong", [1.01, -5.0, torch.inf])
def test_a_label_beyond_the_bins_is_refused(wrong: float) -> None:
    with pytest.raises(HonneError, match="not between -1 and 1"):
        bin_index(torch.tensor([[0.1, wrong]]), 20)


def test_both_kinds_of_bin_values() -> None:
    assert bin_values(5).tolist() == [-1, -0.5, 0, 0.5, 1]
    assert bin_values(2).tolist() == [-1, 1]
    assert bin_values(4, "centres").tolist() == [-0.75, -0.25, 0.25, 0.75]
    logits = torch.full((2, 4), -1e4)
    logits[0, 0], logits[1, 2:] = 1e4, 0
    torch.testing.assert_close(expectation(logits, bin_values(4)), torch.tensor([-1, 2 / 3]))
    torch.testing.assert_close(expectation(logits, bin_values(4, "centres")), torch.tensor([-0.75, 0.5]))
    for call in (lambda: bin_edges(1), lambda: bin_values(20, "medians")):  # type: ignore[arg-type]
        with pytest.raises(WrongCall):
            call()


# --- hidden heads ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neck", [False, True])
def test_hidden_heads_answer_from_their_own_features(neck: bool) -> None:
    network = made("face", FACE | {"neck": neck, "bin_values": "centres"})
    images = drawn(4, 3, 24, 24)
    prediction, features = network(Batch(images=images)), network.task_features(images)
    assert features.shape == (4, 18)
    parts = network.feature_slices()
    assert list(parts) == ["expression", "action_units", "valence_arousal"]
    outputs = {task: getattr(network, task).outputs(features[:, part]) for task, part in parts.items()}
    torch.testing.assert_close(prediction.expression, outputs["expression"])
    torch.testing.assert_close(prediction.action_units, outputs["action_units"])
    bins = outputs["valence_arousal"].view(4, 2, 20)
    torch.testing.assert_close(prediction.valence_arousal_bins, bins)
    wanted = expectation(bins, bin_values(20, "centres"))
    torch.testing.assert_close(prediction.valence_arousal, wanted)
    assert {"expression.norm_in.weight", "action_units.hidden.weight", "valence_arousal.outputs.bias"} <= set(
        network.state_dict()
    )


def test_without_hidden_layers_and_bins_all_is_as_it_was() -> None:
    network = made("face", {"backbone": "face_resnet", "backbone_options": SMALL})
    assert {name for name in network.state_dict() if not name.startswith("backbone.")} == {
        f"{task}.{entry}" for task in network.tasks for entry in ("weight", "bias")
    }
    images = drawn(2, 3, 24, 24)
    prediction = network(Batch(images=images))
    assert prediction.valence_arousal_bins is None
    pooled = network.task_features(images)
    torch.testing.assert_close(prediction.valence_arousal, network.valence_arousal(pooled).tanh())
    assert network.feature_slices()["action_units"] == slice(0, network.width)


def test_hidden_heads_refuse_what_needs_another_head() -> None:
    network = made("face", FACE)
    for ask in (lambda: network.linear, lambda: network.class_maps(drawn(1, 16, 3, 3))):
        with pytest.raises(HonneError, match="linear head"):
            ask()
    for option in ({"head": "gap"}, {"head_options": {"dense": [4]}}):
        with pytest.raises(WrongCall, match="hidden layers of 6"):
            build("face", FACE | option, SCHEMA)
    with pytest.raises(WrongCall, match="1 bins"):
        build("face", FACE | {"valence_arousal_bins": 1}, SCHEMA)


def test_a_training_batch_of_one_row_is_one_sentence() -> None:
    network = made("face", FACE).train()
    with pytest.raises(HonneError, match="one row"):
        network(Batch(images=drawn(1, 3, 24, 24)))
    network.eval()(Batch(images=drawn(1, 3, 24, 24)))


# --- Caffe's ResNet ----------------------------------------------------------------------------------------------


def test_caffe_resnet_is_a_timm_resnet_with_strides_of_its_own() -> None:
    network = made("face", {"backbone": "resnet50_caffe", "backbone_options": TINY_CAFFE})
    plain = made("face", {"backbone": "resnet50", "backbone_options": TINY_CAFFE}).backbone
    backbone = network.backbone
    assert {name: value.shape for name, value in backbone.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    assert [stage[0].conv1.stride[0] for stage in (backbone.layer1, backbone.layer2, backbone.layer4)] == [1, 2, 2]
    assert all(module.stride == (1, 1) for name, module in backbone.named_modules() if name.endswith("conv2"))
    images = drawn(2, 3, 48, 48)
    maps = network.feature_maps(images)
    assert [one.shape[-1] for one in maps] == [24, 12, 6, 3, 2]  # pooled from 24 to 12: the last window is cut off
    assert [one.shape[1] for one in maps] == [each["num_chs"] for each in backbone.feature_info]
    last = network.maps(images)
    torch.testing.assert_close(maps[-1], last)
    logits = network.class_maps(last).mean((2, 3)) + network.linear.bias
    torch.testing.assert_close(logits, network(Batch(images=images)).expression)
    large = made("face", {"backbone": "resnet50_caffe", "backbone_options": TINY_CAFFE, "large_maps": True})
    assert large.maps(images).shape[-1] == 6


@pytest.mark.parametrize("rate", [0.5, 0.0])
def test_caffe_resnet_drops_inside_its_last_block_only(rate: float) -> None:
    options = {"backbone": "resnet50_caffe", "backbone_options": TINY_CAFFE | {"block_dropout": rate}}
    network = made("face", options).train()
    nn.init.ones_(network.backbone.layer4[-1].bn3.weight)  # at first the block gives nothing
    seen: list[Tensor] = []
    for block in (*network.backbone.layer4, network.backbone.layer4[-1].conv3):
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    for _ in range(2):
        network.maps(drawn(2, 3, 48, 48))
    same = [torch.equal(*pair) for pair in zip(seen[:3], seen[3:], strict=True)]
    assert same == [True, rate == 0, rate == 0]  # the first block; before the second dropout; the last block


# --- clips -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 6])
def test_a_padded_short_clip_gives_what_the_clip_alone_gives(hidden: int) -> None:
    network = made("clips", CLIPS | {"frames": FACE | {"hidden": hidden}})
    features = drawn(8, network.width)
    clips = torch.tensor([[0, 1, 2, 3, 4], [5, 6, 7, -1, -1]])
    together = network.over_time(features, clips)
    assert_same(network.over_time(features[:5], clips[:1]), together, slice(0, 5))
    assert_same(network.over_time(features[5:], torch.tensor([[0, 1, 2]])), together, slice(5, 8))


def test_a_row_in_several_windows_has_the_mean_of_its_logits() -> None:
    network = made("clips", CLIPS)
    features = drawn(6, network.width)
    first, second = torch.tensor([[0, 1, 2, 3]]), torch.tensor([[2, 3, 4, -1]])
    both = network.over_time(features, torch.cat([first, second]))
    one, other = network.over_time(features, first), network.over_time(features, second)
    for name in ("expression", "action_units", "valence_arousal_bins"):
        found, mean = getattr(both, name), (getattr(one, name) + getattr(other, name)) / 2
        torch.testing.assert_close(found[2:4], mean[2:4])
        torch.testing.assert_close(found[:2], getattr(one, name)[:2])
        torch.testing.assert_close(found[4], getattr(other, name)[4])
        assert found[5].isnan().all()  # it stands in no window
    torch.testing.assert_close(
        both.valence_arousal[:5],
        expectation(both.valence_arousal_bins[:5], bin_values(20)),  # type: ignore[index]
    )


def test_rows_in_no_window_have_no_gradient() -> None:
    network = made("clips", CLIPS).train()
    features = drawn(4, network.width).requires_grad_()
    prediction = network.over_time(features, torch.tensor([[0, 1, -1], [1, 2, 0]]))
    assert prediction.expression is not None
    prediction.expression[:3].sum().backward()
    assert features.grad is not None
    assert features.grad[:3].abs().sum() > 0
    assert (features.grad[3] == 0).all()
    assert all(each.grad.isfinite().all() for each in network.recurrent.expression.parameters())


def test_without_windows_each_row_is_for_itself() -> None:
    network = made("clips", CLIPS)
    images = drawn(3, 3, 24, 24)
    whole = network(Batch(images=images))
    assert_same(network(Batch(features=network.features(images))), whole)
    assert_same(network(Batch(images=images[1:2])), whole, slice(1, 2))
    windows = torch.arange(3)[:, None]
    assert_same(network(Batch(images=images, clips=windows)), whole)


@pytest.mark.parametrize("frozen", ["whole", "weights", "none"])
def test_frozen_frames(frozen: str) -> None:
    network: ClipNetwork = made("clips", CLIPS | {"frozen": frozen}).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prediction = network(Batch(images=drawn(4, 3, 24, 24), clips=torch.tensor([[0, 1, 2, 3]])))
    assert prediction.expression is not None
    prediction.expression.sum().backward()
    assert network.frames is not None
    learns = {each.grad is not None for each in network.frames.expression.hidden.parameters()}  # type: ignore[union-attr]
    assert learns == {frozen == "none"}
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert bool(moved) == (frozen != "whole")
    assert all(name.startswith("frames.") for name in moved)


@pytest.mark.parametrize("kind", ["clips", "ensemble"])
def test_bad_features_are_one_sentence(kind: str) -> None:
    network = made(kind, CLIPS if kind == "clips" else {"kind": "clips", "options": CLIPS, "members": 2})
    features = network.features(drawn(3, 3, 24, 24))
    spoiled = features.clone()
    spoiled[1, 2] = torch.nan
    with pytest.raises(HonneError, match=r"frame 1 \(of 3, from 0\) hold NaN"):
        network.over_time(spoiled)
    with pytest.raises(HonneError, match=f"7 numbers a frame, but this network takes {features.shape[1]}"):
        network.over_time(features[:, :7])


# --- ensembles ---------------------------------------------------------------------------------------------------


def test_means_of_probabilities_as_logits() -> None:
    logits = 30 * drawn(4, 5, 3)
    torch.testing.assert_close(log_mean_softmax(logits).exp(), logits.softmax(-1).mean(0))
    torch.testing.assert_close(
        logit_of_mean_sigmoid(logits).double().sigmoid(), logits.double().sigmoid().mean(0), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("bins", [0, 20])
def test_ensembles_of_single_faces(average: str, bins: int) -> None:
    options = FACE | {"valence_arousal_bins": bins}
    ensemble = made("ensemble", {"kind": "face", "options": options, "members": 3, "average": average})
    batch = Batch(images=drawn(4, 3, 24, 24))
    found, members = ensemble(batch), [member(batch) for member in ensemble.members]
    assert found.uncertainty is None
    assert ensemble.length == 0

    def mean(name: str, kind: Any) -> Tensor:
        return torch.stack([kind(getattr(each, name)) for each in members]).mean(0)

    if average == "logits":
        torch.testing.assert_close(found.expression, mean("expression", nn.Identity()))
        torch.testing.assert_close(found.action_units, mean("action_units", nn.Identity()))
        if bins:
            wanted = expectation(mean("valence_arousal_bins", nn.Identity()), bin_values(20))
            torch.testing.assert_close(found.valence_arousal, wanted)
        return
    torch.testing.assert_close(found.expression.softmax(1), mean("expression", nn.Softmax(1)))
    torch.testing.assert_close(found.action_units.sigmoid(), mean("action_units", nn.Sigmoid()))
    torch.testing.assert_close(found.valence_arousal, mean("valence_arousal", nn.Identity()))
    if bins:
        torch.testing.assert_close(found.valence_arousal, expectation(found.valence_arousal_bins, bin_values(20)))


def test_members_may_share_the_network_of_frames() -> None:
    members = [made("clips", CLIPS, seed) for seed in range(3)]
    for member in members[1:]:
        member.frames.load_state_dict(members[0].frames.state_dict())
    options = {"kind": "clips", "options": CLIPS, "members": 3}
    apart, shared = (build("ensemble", options | {"shared_frames": each}, SCHEMA).eval() for each in (False, True))
    states = [member.state_dict() for member in members]
    apart.load_state_dict(joined(states))
    shared.load_state_dict(joined(states, shared_frames=True))
    assert {name.split(".")[0] for name in shared.state_dict()} == {"frames", "members"}
    assert not any(".frames." in name for name in shared.state_dict())
    assert apart.length == shared.length == 5
    images, clips = drawn(7, 3, 24, 24), torch.tensor([[0, 1, 2, 3, 4], [4, 5, 6, -1, -1]])
    batch = Batch(images=images, clips=clips)
    assert shared.features(images).shape[1] * 3 == apart.features(images).shape[1]
    assert_same(shared(batch), apart(batch))
    assert_same(shared(Batch(features=shared.features(images), clips=clips)), apart(batch))
    wanted = torch.stack([member(batch).expression.softmax(1) for member in members]).mean(0)
    torch.testing.assert_close(shared(batch).expression.softmax(1), wanted)
    other = made("clips", CLIPS, 9).state_dict()
    with pytest.raises(HonneError, match="members 0 and 1 cannot share"):
        joined([states[0], other], shared_frames=True)


@pytest.mark.parametrize(
    "options",
    [
        FACE,
        CLIPS,
        {"kind": "face", "options": FACE, "members": 2},
        {"kind": "clips", "options": CLIPS, "members": 2, "shared_frames": True},
    ],
)
def test_they_are_saved_and_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    kind = "ensemble" if "members" in options else "clips" if "frames" in options else "face"
    config = ModelConfig(
        name="tiny",
        method="multitask",
        network={"kind": kind, "options": options},
        labels=SCHEMA,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        alignment={"kind": "none", "size": 24},
    )
    model = Model(config, made(kind, options))
    loaded = honne.load(model.save(tmp_path / "model", metrics={}, card=""))
    crops = np.random.default_rng(0).integers(0, 255, (3, 24, 24, 3), np.uint8)
    assert_same(loaded.predict(crops), model.predict(crops))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "ensemble", "members": 2}, "no ensemble"),
        ({"kind": "face", "members": 0}, "no ensemble"),
        ({"kind": "face", "members": 2, "shared_frames": True}, "no frames to share"),
    ],
)
def test_what_is_no_ensemble(options: dict[str, Any], said: str) -> None:
    with pytest.raises(WrongCall, match=said):
        build("ensemble", {"options": FACE} | options, SCHEMA)
