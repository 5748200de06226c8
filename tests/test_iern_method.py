"""IERN beside its recordings: what each of its steps may change, prototypes, strata that are unknown, whole runs."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import honne
from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.loading import lightning
from honne.data.manifest import PreparedData, write_manifest
from honne.data.transforms import Normalise
from honne.data.world import World, make_world
from honne.data.world.labels import sample
from honne.errors import HonneError, WrongCall
from honne.explain.maps import class_activation_map
from honne.labels import LabelSchema
from honne.methods.au_cues import AuCues, AuCuesOptions
from honne.methods.iern import Iern, IernOptions, center_loss, known_cross_entropy
from honne.methods.strata import Strata
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions

pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")
CLASSES = ("neutral", "happiness", "sadness")
BODY = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}
SMALL = {"channels": 6, "encoder_blocks": 1, "decoder_blocks": 2, "discriminator_blocks": 1, "init_gain": 0.3}


def new_method(
    strata: int = 3, classes: tuple[str, ...] = CLASSES, au_cues: AuCues | None = None, **options: Any
) -> Iern:
    torch.manual_seed(0)
    names = [f"stratum {number}" for number in range(strata)]
    sizes = {name: SMALL[name] for name in ("channels", "encoder_blocks", "decoder_blocks")}
    schema = LabelSchema(classes)
    head = {"strata": names, "side": [2, 2], **sizes}
    return Iern(
        IernOptions(**SMALL | options),
        strata=Strata(tuple(names), torch.arange(strata), 1 + torch.rand(len(classes), strata)),
        network=FaceNetwork(schema, "face_resnet", BODY, head="interventional", head_options=head),
        schema=schema,
        normalise=Normalise([0.5] * 3, [0.5] * 3),
        optim=OptimOptions("adam", lr=1e-3, schedule="constant", warmup=0, clip=0, weight_decay=0),
        au_cues=au_cues,
    )


def batch(count: int = 6, strata: int = 3, classes: int = len(CLASSES), seed: int = 1) -> Batch:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    labels = Labels(expression=torch.arange(count) % classes)
    return Batch(images=images, labels=labels, domain=torch.randint(strata, (count,), generator=random))


class Steps(lightning.Callback):
    """Figures of every step, and the state after it."""

    def __init__(self, method: Iern) -> None:
        self.figures: list[dict[str, Tensor]] = []
        self.states: list[dict[str, Tensor]] = []
        log_dict = method.log_dict

        def log(values: dict[str, Tensor], **how: Any) -> None:
            self.figures.append({name.removeprefix("train/"): value.clone() for name, value in values.items()})
            log_dict(values, **how)

        method.log_dict = log  # type: ignore[method-assign, assignment]

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Iern, *_: Any) -> None:  # type: ignore[override]
        self.states.append({name: value.detach().clone() for name, value in module.state_dict().items()})


def fit(method: Iern, *batches: Batch) -> Steps:
    steps = Steps(method)
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        callbacks=[steps],
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return steps


# --- one step ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["fresh", "recompute", "legacy"])
def test_gradients_go_only_where_a_step_needs_them(update: str) -> None:
    """The classifier's step has no gradient for the decoder's weights, the features' none for the backbone."""
    method, stage, reached = new_method(update=update), [""], set()
    descend = method._descend

    def named(terms: dict[str, Tensor], *rest: Any, **how: Any) -> None:
        stage[0] = next(iter(terms))
        descend(terms, *rest, **how)

    method._descend = named  # type: ignore[method-assign]
    for name, entry in method.named_parameters():
        part = name.removeprefix("network.").removeprefix("expression.").split(".")[0]
        entry.register_hook(lambda _, part=part: reached.add((stage[0], part)))
    fit(method, batch())
    assert reached == {
        *{("emotion_discriminator", part) for part in ("emotion_discriminator", "stratum_discriminator")},
        *{("emotion_encoder", part) for part in ("emotion", "context", "centers", "decoder")},
        *{("expression", part) for part in ("backbone", "projection", "emotion", "classifier")},
    }


@pytest.mark.parametrize("update", ["fresh", "recompute", "legacy"])
def test_everything_learns_and_prototypes_are_the_centres(update: str) -> None:
    method = new_method(update=update)
    before = {name: value.clone() for name, value in method.named_parameters()}
    fit(method, batch(), batch(seed=2))  # the first step wakes branches of the backbone that begin at 0
    assert [name for name, value in method.named_parameters() if torch.equal(value, before[name])] == []
    torch.testing.assert_close(method.head.prototypes.flatten(1), method.centers)


def test_faces_one_by_one_a_rest_many_strata_and_two_classes() -> None:
    for count in (1, 5):
        method = new_method(strata=10, classes=CLASSES[:2])
        steps = fit(method, batch(count, 10, 2), batch(1, 10, 2), batch(count, 10, 2))
        assert all(value.isfinite() for figures in steps.figures for value in figures.values())
        assert steps.figures[0]["expression"] > 0
        method.eval()
        with torch.inference_mode():
            prediction, alone = method.predict(batch(3, 10, 2)), method.predict(batch(1, 10, 2))
        assert prediction.strata is not None
        assert prediction.strata.shape == (3, 10, 2)
        assert alone.expression is not None
        assert alone.expression.shape == (1, 2)


def test_the_logged_shares_say_what_the_discriminators_find() -> None:
    method, shown = new_method(), batch()
    for name in ("emotion", "stratum"):
        last = getattr(method, f"{name}_discriminator").layers[-1]
        nn.init.zeros_(last.weight)  # all logits alike: number 0 is found
    figures = fit(method, shown).figures[0]
    assert shown.domain is not None
    assert shown.labels.expression is not None
    assert figures["stratum_in_context"] == (shown.domain == 0).float().mean()
    assert figures["emotion_in_emotion"] == (shown.labels.expression == 0).float().mean()
    terms = ["emotion_discriminator", "stratum_discriminator", "emotion_encoder", "context_encoder"]
    terms += ["prototypes", "reconstruction", "expression"]
    torch.testing.assert_close(figures["loss"], torch.stack([figures[name] for name in terms]).sum())


def test_switches_that_are_off_as_published() -> None:
    published = fit(new_method(), batch()).figures[0]
    for options, terms in (
        ({"encoder_cross_entropy": 0.5}, {"encoders"}),
        ({"logit_adjustment": "stratum"}, {"expression", "stratum_discriminator"}),
    ):
        figures = fit(new_method(**options), batch()).figures[0]
        assert all(value.isfinite() for value in figures.values())
        assert all(figures[name] != published.get(name) for name in terms), options


# --- strata ------------------------------------------------------------------------------------------------------


def test_running_means_are_the_means_of_the_context_features() -> None:
    method, contexts = new_method(prototypes="running_mean", prototype_momentum=0.25), []
    method.context.register_forward_hook(lambda module, inputs, output: contexts.append(output.detach()))
    first, second = batch(), batch(seed=2)
    first.domain, second.domain = torch.tensor([0, 0, 1, 1, 1, NOT_LABELLED]), torch.tensor([0, 2, 2, 2, 0, 0])
    assert not method.centers.requires_grad
    steps = fit(method, first, second)
    one, two = (state["network.expression.prototypes"] for state in steps.states)
    torch.testing.assert_close(one[0], contexts[0][:2].mean(0))
    torch.testing.assert_close(one[1], contexts[0][2:5].mean(0))
    assert not one[2].any()  # of a stratum not met yet
    torch.testing.assert_close(two[0], 0.75 * one[0] + 0.25 * contexts[1][[0, 4, 5]].mean(0))
    assert torch.equal(two[1], one[1])
    torch.testing.assert_close(two[2], contexts[1][1:4].mean(0))


def test_unknown_strata_do_not_count_where_a_stratum_is_asked_for() -> None:
    features, centers, logits = torch.randn(4, 6), torch.randn(3, 6), torch.randn(4, 3)
    labels, known = torch.tensor([2, NOT_LABELLED, 0, NOT_LABELLED]), [0, 2]
    apart = center_loss(features[known], centers, labels[known])
    torch.testing.assert_close(center_loss(features, centers, labels), apart)
    torch.testing.assert_close(known_cross_entropy(logits, labels), F.cross_entropy(logits[known], labels[known]))

    method, shown = new_method(), batch()
    centers = method.centers.detach().clone()
    shown.domain = torch.full((6,), NOT_LABELLED)
    figures = fit(method, shown).figures[0]
    for name in ("stratum_discriminator", "prototypes", "stratum_in_context", "stratum_in_emotion"):
        assert figures[name] == 0, name
    assert figures["emotion_encoder"] > 0  # it hides the stratum whichever that is
    assert figures["expression"] > 0
    torch.testing.assert_close(method.centers.detach(), centers)

    method = new_method()  # a stratum of the data without a training row is as unknown as no stratum
    method.stratum_of.places = torch.tensor([0, NOT_LABELLED, 1, 2])
    shown.domain = torch.tensor([3, 1, 0, 2, -1, 1])
    assert method._labels(shown)[1].tolist() == [2, NOT_LABELLED, 0, 1, NOT_LABELLED, NOT_LABELLED]


# --- what does not fit -------------------------------------------------------------------------------------------


def changed(shown: Batch, expression: int | None = None, **parts: Any) -> Batch:
    if expression is not None:
        parts["labels"] = Labels(expression=torch.full((len(shown),), expression))
    return replace(shown, **parts)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"labels": Labels()}, "no expression label"),
        ({"expression": NOT_LABELLED}, "no expression label"),
        ({"images": None}, "no expression label"),
        ({"expression": 3}, "label of 3 is out of range for 3 expressions"),
        ({"expression": -7}, "label of -7 is out of range for 3 expressions"),
        ({"domain": None}, "without the confounder strata"),
        ({"domain": torch.full((6,), 3)}, "without the confounder strata"),
    ],
)
def test_a_batch_it_cannot_learn_from_is_one_sentence(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(HonneError, match=words):
        new_method()._labels(changed(batch(), **parts))


def test_nan_stops_before_anything_is_changed() -> None:
    method = new_method()
    method.network.last_map.register_forward_hook(lambda module, inputs, output: output * torch.nan)
    before = {name: value.clone() for name, value in method.named_parameters()}
    with pytest.raises(HonneError, match="not a number"):
        fit(method, batch())
    assert all(torch.equal(value, before[name]) for name, value in method.named_parameters())


def test_options_that_make_no_sense_are_refused() -> None:
    for options, words in (
        ({"channels": 0}, "iern.channels is 0"),
        ({"decoder_blocks": 0}, "iern.decoder_blocks is 0"),
        ({"prototype_momentum": 0.0}, "iern.prototype_momentum is 0"),
    ):
        with pytest.raises(WrongCall, match=words):
            IernOptions(**options)
    method = new_method()
    method.trainer = SimpleNamespace(precision="16-mixed")  # type: ignore[assignment]
    with pytest.raises(WrongCall, match="16-mixed cannot scale"):
        method.configure_optimizers()


# --- AU cues beside it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", ["fresh", "recompute", "legacy"])
def test_au_cues_pull_on_the_backbone(update: str) -> None:
    shown = batch()
    points = sample(World(n=6, size=32, seed=1, classes=CLASSES)).points[:, :68]
    shown.landmarks = torch.from_numpy(points).float()
    gradients = []
    for weight in (1e-6, 10.0):
        cues = AuCues(AuCuesOptions(weight=weight), LabelSchema(CLASSES))
        method = new_method(update=update, au_cues=cues)
        assert fit(method, shown).figures[0]["au_cues"] > 0
        gradients.append(method.network.backbone.conv1[0].weight.grad)
    assert (gradients[0] - gradients[1]).norm() > 0.1 * gradients[0].norm()


# --- whole runs --------------------------------------------------------------------------------------------------

RUN: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": BODY,
    "model.dropout": 0.2,
    "data.batch_size": 16,
    "data.workers": 0,
    "trainer.epochs": 2,
    "trainer.patience": 0,
    "trainer.accelerator": "cpu",
    "trainer.checkpoint_steps": 2,
    **{f"iern.{name}": value for name, value in SMALL.items()},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    knobs = World(n=80, size=32, classes=CLASSES, labels="expression", domains=3, subjects=16)
    return make_world(tmp_path_factory.mktemp("strata") / "world", knobs).root


def state_at_the_end(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        pairs: Any = value.items()
    elif isinstance(value, (list, tuple)):
        pairs = enumerate(value)
    else:
        return {name: value}
    return {key: entry for part, each in pairs for key, entry in flat(each, f"{name}.{part}").items()}


def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = RUN | {"trainer.ema": 0.9, "optim.clip": 1.0, "iern.prior": "frequency", "au_cues.weight": 1.0}
    made = honne.train("iern", data=world, out=tmp_path / "whole", overrides=options)
    original, steps = Iern.training_step, []

    def dies(self: Iern, batch: Batch, step: int) -> None:
        steps.append(step)
        if len(steps) == 6:  # in the second epoch, one step after the last checkpoint
            raise MemoryError
        original(self, batch, step)

    monkeypatch.setattr(Iern, "training_step", dies)
    with pytest.raises(MemoryError):
        honne.train("iern", data=world, out=tmp_path / "killed", overrides=options)
    monkeypatch.setattr(Iern, "training_step", original)
    honne.train("iern", data=world, out=tmp_path / "killed", overrides=options)

    states = [state_at_the_end(tmp_path / run) for run in ("whole", "killed")]
    assert len(states[0]["optimizer_states"]) == len(states[0]["lr_schedulers"]) == 3
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        whole, killed = (flat(state[part]) for state in states)
        assert whole.keys() == killed.keys()
        for name, value in whole.items():
            assert torch.equal(value, killed[name]) if isinstance(value, Tensor) else value == killed[name], name
    logs = [pd.read_csv(tmp_path / run / "logs" / "metrics.csv") for run in ("whole", "killed")]
    scores = [log[["step", "valid/score"]].dropna().reset_index(drop=True) for log in logs]
    pd.testing.assert_frame_equal(scores[0], scores[1])
    assert_a_model(made, world, logs[0])


def assert_a_model(made: Path, world: Path, log: pd.DataFrame) -> None:
    """Of a run with AU cues, and the frequency of the strata as their prior."""
    model, again = honne.load(made), honne.load(made)
    rows = PreparedData(world).rows.query("split == 'train'")
    shares = rows["domain"].value_counts(normalize=True).sort_index()
    head: Any = model.network.expression
    assert head.strata == tuple(shares.index)
    torch.testing.assert_close(head.prior, torch.tensor(shares.to_numpy(np.float32)))
    assert head.prototypes.any()
    named = yaml.safe_load((made / "config.yaml").read_text())["network"]["options"]["head_options"]
    assert list(named["strata"]) == list(shares.index)

    crops = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    prediction, alone = model.predict(crops), again.predict(crops[:1])
    assert prediction.strata is not None
    assert prediction.strata.shape == (5, 3, len(CLASSES))
    torch.testing.assert_close(prediction.expression, torch.einsum("bkc,k->bc", prediction.strata, head.prior))
    torch.testing.assert_close(alone.expression, prediction.expression[:1])  # type: ignore[index]
    images = torch.from_numpy(crops).permute(0, 3, 1, 2)
    for kind in ("class_map", "layercam"):
        maps = class_activation_map(model, images, kind=kind).maps
        assert maps.shape == (5, 2, 2)
        assert maps.isfinite().all()
    for name in ("au_cues", "prototypes", "reconstruction", "stratum_in_emotion"):
        assert np.isfinite(log[f"train/{name}"].dropna()).all()


SCRIPT = """
import json, sys
from pathlib import Path
import honne, torch
from honne.methods.iern import Iern

def agree(method):
    own = {name: value.detach() for name, value in method.named_parameters()}
    own["prototypes"], own["met"] = method.head.prototypes, method.met
    shares = [None] * method.trainer.world_size
    torch.distributed.all_gather_object(shares, own)
    unlike = [name for name in own if not torch.equal(shares[0][name], shares[1][name])]
    if method.global_rank == 0:
        Path(sys.argv[2], "unlike.json").write_text(json.dumps([len(own), unlike, bool(method.met.all())]))

Iern.on_train_end = agree
honne.train("iern", data=sys.argv[1], out=sys.argv[2], overrides=json.loads(sys.argv[3]))
"""


def test_two_processes_stay_alike(world: Path, tmp_path: Path) -> None:
    options = RUN | {"trainer.devices": 2, "trainer.epochs": 1, "data.batch_size": 8, "optim.clip": 1.0}
    options |= {"iern.prototypes": "running_mean"}
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    words = [sys.executable, str(script), str(world), str(tmp_path / "run"), json.dumps(options)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    count, unlike, met = json.loads((tmp_path / "run" / "unlike.json").read_text())
    assert count > 50
    assert not unlike
    assert met
    assert honne.load(tmp_path / "run" / "model").predict(np.zeros((1, 32, 32, 3), np.uint8)).strata is not None


def without(world: Path, root: Path, **columns: Any) -> Path:
    """The world with other columns; `None` leaves one out."""
    data = PreparedData(world)
    root.mkdir()
    (root / "images").symlink_to(world / "images")
    gone = [name for name, value in columns.items() if value is None]
    kept = {name: value for name, value in columns.items() if value is not None}
    write_manifest(root, data.rows.drop(columns=gone).assign(**kept), data.schema)
    return root


def test_what_does_not_fit_is_refused_with_a_sentence(world: Path, tmp_path: Path) -> None:
    for name, columns, options, words in (
        ("none", {"domain": None}, {}, "the training rows have no confounder stratum; two or more are needed"),
        ("one", {"domain": "street"}, {}, "the training rows have one confounder stratum, street; two or more"),
        ("head", {}, {"model.head": "gap"}, "brings a head of its own"),
        ("neck", {}, {"model.neck": True}, "brings a head of its own"),
        ("small", {}, {"data.size": 16}, "the last map has 1 x 1 positions"),
        ("share", {}, {"trainer.accumulate": 2}, "method iern steps after every batch"),
    ):
        data = without(world, tmp_path / name, **columns)
        with pytest.raises(HonneError, match=words) as raised:
            honne.train("iern", data=data, out=tmp_path / f"{name}-run", overrides=RUN | options)
        assert raised.value.hint
