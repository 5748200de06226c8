"""The alignment loss beside any method: what counts, which layers, mixing and masking, whole runs on drawn faces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import honne
from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.known import known
from honne.data.manifest import PreparedData, write_manifest
from honne.data.transforms import Normalise
from honne.data.world import World, make_world
from honne.data.world.labels import sample
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.au_cues import (
    AuCues,
    AuCuesOptions,
    ReferenceMaps,
    alignment_loss,
    brightest,
    log_barrier,
    segmentation_loss,
    spatial_attention,
)
from honne.methods.base import Method
from honne.methods.dmue import Dmue, DmueOptions
from honne.methods.erm import Erm, ErmOptions
from honne.models import load
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions

CLASSES = ("neutral", "happiness", "sadness")
SCHEMA = LabelSchema(CLASSES)
SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8, "output_stride": 16}
RUN: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": SMALL,
    "data.batch_size": 32,
    "optim.lr": 4e-3,
    "trainer.epochs": 2,
    "trainer.patience": 0,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cues") / "world"
    knobs = World(n=240, size=48, seed=3, classes=CLASSES, labels="expression", subjects=12)
    return make_world(root, knobs).root


def batch(count: int = 9, side: int = 48) -> Batch:
    truth = sample(World(n=count, size=side, seed=1, classes=CLASSES))
    images = torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(count) % len(CLASSES)
    return Batch(images, Labels(expression=labels), landmarks=torch.from_numpy(truth.points[:, :68]).float())


def new_method(kind: type[Method] = Erm, backbone: str = "face_resnet", **options: Any) -> Method:
    torch.manual_seed(0)
    sizes: dict[str, Any] = (
        SMALL if backbone == "face_resnet" else {"img_size": 48, "embed_dim": 12, "depth": 2, "num_heads": 2}
    )
    network = FaceNetwork(SCHEMA, backbone, sizes, regions=options.get("segmentation", 0) > 0)
    method_options = ErmOptions() if kind is Erm else DmueOptions()
    return kind(
        method_options,  # type: ignore[arg-type]
        network=network,
        schema=SCHEMA,
        normalise=Normalise([0.5] * 3, [0.5] * 3),
        optim=OptimOptions(),
        au_cues=AuCues(AuCuesOptions(**{"weight": 9.0} | options), SCHEMA),
    ).train()


# --- losses ------------------------------------------------------------------------------------------------------


def test_attention_that_equals_the_cue_costs_nothing_and_faces_without_a_cue_do_not_count() -> None:
    cue = torch.rand(4, 6, 6)
    assert alignment_loss(3 * cue, cue).item() == pytest.approx(0, abs=1e-6)
    other = cue.clone()
    other[2, 1, 1] = torch.nan
    seen = torch.rand(4, 6, 6)
    rows = [0, 1, 3]
    torch.testing.assert_close(alignment_loss(seen, other), alignment_loss(seen[rows], cue[rows]))


def test_cells_lie_on_the_part_of_the_picture_that_they_cover() -> None:
    cue = torch.zeros(1, 28, 28)
    cue[:, 7:14, 14:21] = 1  # the cell in row 1, column 2 of 4 x 4
    cell = torch.zeros(1, 4, 4)
    cell[:, 1, 2] = 1
    losses = {resize: alignment_loss(cell, cue, resize=resize).item() for resize in ("cells", "corners")}  # type: ignore[arg-type]
    assert losses["cells"] < 0.2 < losses["corners"]


@pytest.mark.parametrize("loss", ["cosine", "standardised_cosine", "l1", "l2", "kl"])
@pytest.mark.parametrize("scale_to", ["attention", "heat_map"])
def test_every_loss_has_a_gradient_whichever_map_is_resized(loss: Any, scale_to: Any) -> None:
    maps = torch.rand(3, 5, 7, 7, requires_grad=True)
    alignment_loss(spatial_attention(maps), torch.rand(3, 28, 28), loss, scale_to=scale_to).backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert maps.grad.abs().sum() > 0


def test_the_log_barrier_is_smooth_at_its_knee_and_rises_without_bound() -> None:
    for temperature in (1.0, 5.0):
        knee = torch.tensor(-1 / temperature**2, dtype=torch.float64, requires_grad=True)
        slopes = [torch.autograd.grad(log_barrier(knee + step, temperature), knee)[0] for step in (-1e-9, 1e-9)]
        assert slopes[0].item() == pytest.approx(slopes[1].item(), rel=1e-5)
        assert log_barrier(torch.tensor(10.0), temperature) > log_barrier(torch.tensor(0.0), temperature)


def test_random_share_keeps_about_that_share_and_all_is_the_mean() -> None:
    maps = torch.eye(400)[None, :, :, None].expand(2, -1, -1, -1)  # each channel lights its own row
    drawn = spatial_attention(maps, "random_share", 0.3)
    assert (drawn[..., 0] > 0).float().mean().item() == pytest.approx(0.3, abs=0.1)
    torch.testing.assert_close(spatial_attention(maps, "random_share", 1.0), maps.mean(1))


# --- the part beside a method ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "backbone"), [(Erm, "face_resnet"), (Dmue, "face_resnet"), (Erm, "vit_tiny_patch16_224")]
)
def test_it_pulls_on_the_trunk_of_any_method(kind: type[Method], backbone: str) -> None:
    method = new_method(kind, backbone, layers="2-last")
    method.trainer = None  # type: ignore[assignment]
    prepared = method.prepared(batch())
    terms = method.terms(prepared)
    assert {"expression", "au_cues"} <= set(terms)
    entries = [p for p in method.network.backbone.parameters() if p.requires_grad]
    pulled = torch.autograd.grad(terms["au_cues"], entries, allow_unused=True)
    assert sum(float(g.abs().sum()) for g in pulled if g is not None) > 0
    method.network.zero_grad()
    assert method.au_cues is not None
    with method.au_cues.watching(method.network) as seen:
        method.network(Batch(images=prepared.images))
    separate = method.au_cues.losses(method.network, seen, prepared, 0)["au_cues"]  # type: ignore[arg-type]
    assert separate.isfinite()


def test_faces_of_neutral_without_landmarks_or_without_a_label_get_no_map() -> None:
    shown = batch()
    shown.landmarks[1] = torch.nan  # type: ignore[index]
    assert shown.labels.expression is not None
    shown.labels.expression[2] = NOT_LABELLED
    maps = AuCues(AuCuesOptions(weight=1), SCHEMA).maps(shown)
    assert torch.arange(9)[maps.isnan().all(2).all(1)].tolist() == [0, 1, 2, 3, 6]
    generic = AuCues(AuCuesOptions(weight=1, map="generic_action_units"), SCHEMA).maps(shown)
    assert torch.arange(9)[generic.isnan().all(2).all(1)].tolist() == [1]


def test_the_loss_is_on_only_in_its_epochs() -> None:
    method = new_method(start=2, end=3)
    prepared = method.prepared(batch())
    assert method.au_cues is not None
    with method.au_cues.watching(method.network) as seen:
        method.network(prepared)
    on = ["au_cues" in method.au_cues.losses(method.network, seen, prepared, epoch) for epoch in range(5)]  # type: ignore[arg-type]
    assert on == [False, False, True, True, False]


def test_cutmix_mixes_the_maps_with_the_images() -> None:
    method = new_method()
    method.options = ErmOptions(cutmix=1.0)  # type: ignore[assignment]
    plain = method.au_cues.drawn(batch()).heatmaps  # type: ignore[union-attr]
    mixed = method.prepared(batch())
    assert mixed.heatmaps is not None
    assert mixed.labels.distribution is not None
    assert plain is not None
    assert not torch.equal(mixed.heatmaps.nan_to_num(-1), plain.nan_to_num(-1))
    assert method.terms(mixed)["au_cues"].isfinite()


def test_masking_hides_what_is_outside_the_brightest_parts() -> None:
    cues = AuCues(AuCuesOptions(mask="black", mask_share=1.0), SCHEMA)
    shown = batch()
    masked = cues.drawn(shown)
    assert masked.images is not None
    assert shown.images is not None
    hidden = (masked.images != shown.images).any(1).float().mean((1, 2))
    assert hidden[0] == 0  # neutral: nothing says what to show
    assert (hidden[1:3] > 0.4).all()


def test_a_head_learns_to_draw_regions() -> None:
    method = new_method(weight=0.0, segmentation=1.0)
    prepared = method.prepared(batch())
    terms = method.terms(prepared)
    assert set(terms) == {"expression", "segmentation"}
    head = method.network.regions
    assert torch.autograd.grad(terms["segmentation"], head.weight)[0].abs().sum() > 0  # type: ignore[union-attr]
    perfect = brightest(prepared.heatmaps[:, 0])  # type: ignore[index]
    assert segmentation_loss(40 * (perfect - 0.5), perfect).item() < 1e-3


def test_maps_of_the_original_are_drawn_on_stored_pictures(world: Path) -> None:
    pytest.importorskip("cv2")
    everything = known([PreparedData(world)])
    drawn = ReferenceMaps(AuCuesOptions(weight=1, geometry="reference"), CLASSES, 48)(everything, np.arange(20))
    assert drawn.shape == (20, 1, 28, 28)
    labels = everything.expression[:20]  # type: ignore[index]
    assert np.isnan(drawn[labels == 0]).all()
    assert np.isfinite(drawn[labels > 0]).all()


# --- whole runs --------------------------------------------------------------------------------------------------


def train(world: Path, out: Path, recipe: str = "erm", **more: Any) -> Path:
    overrides = RUN | {key.replace("__", "."): value for key, value in more.items()}
    return honne.train(recipe, data=world, out=out, overrides=overrides)


def test_a_run_attends_to_action_units_and_says_so(world: Path, tmp_path: Path) -> None:
    more = {"trainer__epochs": 6, "trainer__monitor": "last"}
    plain = train(world, tmp_path / "plain", au_cues__weight=1e-9, **more)
    aligned = train(world, tmp_path / "aligned", au_cues__weight=9, **more)
    cosines = {}
    for model in (plain, aligned):
        log = pd.read_csv(model.parent / "logs" / "metrics.csv")
        cosines[model] = log["valid/att_cos"].dropna().iloc[-1]
    assert cosines[aligned] > cosines[plain] + 0.1
    config = load(aligned).config
    assert config.explanation["aligned"] == "last"
    assert config.explanation["codebook"] == "facs"


def test_every_part_together_resumes_where_it_stopped(world: Path, tmp_path: Path) -> None:
    more = {"au_cues__weight": 3, "au_cues__segmentation": 0.5, "au_cues__mask": "blur", "au_cues__barrier": "log"}
    more |= {"au_cues__geometry": "reference", "trainer__monitor": "att_cos", "model__head": "wildcat"}
    model = train(world, tmp_path / "run", **more)
    again = train(world, tmp_path / "run", **more)
    assert again == model
    assert load(model).network.regions is not None


def test_without_landmarks_it_says_how_to_get_them(world: Path, tmp_path: Path) -> None:
    data = PreparedData(world)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "images").symlink_to(world / "images")
    write_manifest(bare, data.rows.drop(columns="landmarks"), data.schema)
    with pytest.raises(HonneError, match="need landmarks") as raised:
        train(bare, tmp_path / "run", au_cues__weight=1)
    assert "--landmarks mesh" in raised.value.hint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": "4-x"}, "'x' is no layer"),
        ({"layers": "0"}, "'0' is no layer"),
        ({"weight": -1.0}, "at least 0"),
        ({"share": 0.0}, "share of the channels"),
        ({"loss": "l1", "barrier": "log"}, "cosine"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(WrongCall) as raised:
        AuCuesOptions(**options)
    assert words in str(raised.value)


def test_what_it_cannot_draw_is_one_sentence() -> None:
    with pytest.raises(HonneError, match="has no cue for any of: calm"):
        AuCues(AuCuesOptions(weight=1), LabelSchema(("calm", "neutral")))
    cues = AuCues(AuCuesOptions(weight=1), SCHEMA)
    with pytest.raises(HonneError, match="label of 7 is out of range for 3 expressions"):
        cues.maps(replace(batch(), labels=Labels(expression=torch.full((9,), 7))))
    with pytest.raises(HonneError, match="need expression labels"):
        cues.maps(replace(batch(), labels=Labels()))
    method = new_method(layers="9")
    with pytest.raises(WrongCall, match="no layer '9'"):
        method.terms(method.prepared(batch()))


def test_nan_in_features_stops_the_run(world: Path) -> None:
    method = new_method()

    def poison(module: object, inputs: object, output: Tensor) -> Tensor:
        return output * torch.nan

    method.network.backbone.register_forward_hook(poison)
    method.network.last_map.register_forward_hook(poison)
    with pytest.raises(HonneError, match="not a number"):
        method.training_step(batch(), 0)
