"""Maps and AU cues of what method multitask makes: hidden heads, networks of clips, ensembles of either."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from honne.batch import Batch, Labels
from honne.data.transforms import Normalise
from honne.data.world import World
from honne.data.world.labels import sample
from honne.errors import HonneError
from honne.explain.checking import STAGES, redrawn
from honne.explain.maps import class_activation_map
from honne.labels import LabelSchema
from honne.methods.au_cues import AuCues, AuCuesOptions
from honne.methods.multitask import Multitask, MultitaskOptions
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.schedules import OptimOptions

SIDE, ROWS = 48, 4
SCHEMA = LabelSchema(("neutral", "happiness", "sadness"), (1, 12), True)
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8, "output_stride": 16}
FACE: dict[str, Any] = {"backbone": "face_resnet", "backbone_options": SMALL, "hidden": 12}
PLAIN = FACE | {"hidden": 0}
CLIPS: dict[str, Any] = {"frames": FACE, "length": 4, "hidden": 6, "frozen": "whole"}
IMAGES = torch.randint(0, 256, (ROWS, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def network(kind: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(3)
    return build(kind, options, SCHEMA)


def model(made: nn.Module) -> Model:
    config = ModelConfig("tiny", "multitask", {}, SCHEMA, [0.5] * 3, [0.25] * 3, {"size": SIDE}, temperature=2.0)
    return Model(config, made)


def ensemble(kind: str, options: dict[str, Any], members: int = 2, shared: bool = False) -> Any:
    given = {"kind": kind, "options": options, "members": members, "shared_frames": shared}
    return network("ensemble", given)


@pytest.mark.parametrize("members", [("face", FACE), ("clips", CLIPS)])
def test_the_map_of_an_ensemble_is_the_mean_of_its_members(members: tuple[str, dict[str, Any]]) -> None:
    whole = model(ensemble(*members))
    found = class_activation_map(whole, IMAGES, attended=("4", "last"))
    torch.testing.assert_close(found.probabilities, whole.forward_batch(Batch(IMAGES)).expression.softmax(1))  # type: ignore[union-attr]
    assert torch.equal(found.target, found.probabilities.argmax(1))
    each: Any = whole.network.members
    parts = [class_activation_map(model(one), IMAGES, found.target, attended=("4", "last")) for one in each]
    torch.testing.assert_close(found.maps, (parts[0].maps + parts[1].maps) / 2)
    assert all(part.maps.amax((1, 2)).eq(1).all() for part in parts)
    for name in ("4", "last"):
        scaled = [part.attention[name] / part.attention[name].abs().amax((1, 2), keepdim=True) for part in parts]
        torch.testing.assert_close(found.attention[name], (scaled[0] + scaled[1]) / 2)


def test_the_map_of_clips_follows_the_gradient_through_a_window_of_one_frame() -> None:
    whole = model(network("clips", CLIPS))
    made: Any = whole.network
    frames = made.frames
    pixels = whole.normalise(IMAGES)
    last = frames.backbone.forward_features(pixels).requires_grad_()
    shared = frames.neck(frames.backbone.forward_head(last))
    seen = torch.cat([getattr(frames, task).features(shared) for task in frames.tasks], 1)
    logits = made.over_time(seen).expression
    target = logits.argmax(1)
    (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), last)
    raw = (gradient.relu() * last.detach()).sum(1)
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    found = class_activation_map(whole, IMAGES)
    torch.testing.assert_close(found.maps, (raw - low) / (high - low))
    assert torch.equal(found.target, target)
    shared_frames = ensemble("clips", CLIPS, shared=True)
    assert class_activation_map(model(shared_frames), IMAGES, kind="gradcam++").maps.any()


@pytest.mark.parametrize("kind", ["cam", "class_map", "tscam"])
def test_maps_of_linear_heads_are_refused_where_there_is_none(kind: str) -> None:
    frames = CLIPS | {"frames": PLAIN}
    for made in (network("face", FACE), network("clips", frames), ensemble("face", FACE)):
        with pytest.raises(HonneError, match=f"map '{kind}' needs a head that is linear"):
            class_activation_map(model(made), IMAGES, kind=kind)


def test_linear_heads_of_an_ensemble_have_class_maps() -> None:
    whole = model(ensemble("face", PLAIN))
    maps = [class_activation_map(whole, IMAGES, kind=kind).maps for kind in ("cam", "class_map")]
    torch.testing.assert_close(*maps, rtol=1e-3, atol=1e-4)


def test_weights_of_clips_are_drawn_anew_from_the_recurrent_layers_down() -> None:
    whole = model(ensemble("clips", CLIPS, shared=True))
    before = whole.network.state_dict()
    changed = {}
    for stage in STAGES:
        after = redrawn(whole, stage, [Batch(IMAGES)], 0).network.state_dict()
        changed[stage] = {name for name in before if not torch.equal(before[name], after[name])}
    backbone = [sum(name.startswith("frames.backbone") for name in changed[stage]) for stage in STAGES]
    assert 0 == backbone[0] < backbone[1] < backbone[2]
    assert {"members.0.recurrent.expression.gru.weight_hh_l0", "frames.expression.hidden.weight"} <= changed["head"]


def part(labelled: bool) -> Batch:
    """Faces of one part of a batch: with expressions, or with none."""
    truth = sample(World(n=ROWS, size=SIDE, seed=1, classes=SCHEMA.expressions))
    labels = Labels(
        expression=torch.tensor([1, 2, 1, 0]) if labelled else torch.full((ROWS,), -1),
        action_units=torch.full((ROWS, 2), torch.nan if labelled else 1.0),
        valence_arousal=torch.full((ROWS, 2), torch.nan),
    )
    return Batch(IMAGES, labels, landmarks=torch.from_numpy(truth.points[:, :68]).float())


def method(made: Any, **options: Any) -> Multitask:
    normalise = Normalise([0.5] * 3, [0.25] * 3)
    cues = AuCues(AuCuesOptions(**options), SCHEMA)
    given = {"network": made, "schema": SCHEMA, "normalise": normalise, "optim": OptimOptions(), "au_cues": cues}
    return Multitask(MultitaskOptions(uncertainty="pairwise"), **given).train()


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("kind", ["face", "clips"])
def test_au_cues_teach_the_network_that_looks(kind: str) -> None:
    options = FACE | {"regions": True}
    made = (
        network("face", options) if kind == "face" else network("clips", CLIPS | {"frames": options, "frozen": "none"})
    )
    trained = method(made, weight=4.0, segmentation=1.0)
    step = torch.optim.Adam(trained.parameters(), 1e-3)
    for _ in range(2):
        terms = [trained.terms(trained.prepared(part(labelled))) for labelled in (True, False)]
        assert terms[0]["au_cues"] > 0
        assert terms[1]["au_cues"] == 0  # faces without expression have no heat map
        assert terms[1]["segmentation"] == 0
        assert total(terms[0]).isfinite()
        assert total(terms[1]).isfinite()
        step.zero_grad()
        (total(terms[0]) + total(terms[1])).backward()
        assert all(entry.grad is None or bool(entry.grad.isfinite().all()) for entry in trained.parameters())
        step.step()
    trained.validation_step(part(True), 0)
    (figures,) = trained._figures
    assert figures["att_cos"][:3].isfinite().all()
    assert figures["att_cos"][3].isnan()  # neutral
    assert "region_iou" in figures
