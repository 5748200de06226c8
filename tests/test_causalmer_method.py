"""CausalMER: effects, what each loss trains, what is inert, and whole runs."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import honne
from honne.batch import Batch, Labels
from honne.data.manifest import PreparedData
from honne.data.transforms import Normalise
from honne.data.world import World, make_world
from honne.data.world.talks import Talks, make_sequences
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.causalmer import Causalmer, CausalmerOptions, constants_loss, cross_entropy
from honne.methods.erm import Erm, ErmOptions
from honne.models import load
from honne.networks import build
from honne.networks.counterfactual import effects, fuse_scores
from honne.schedules import OptimOptions, optimizer

WIDTHS = {"text": 5, "audio": 4, "vision": 3}
EXPRESSIONS = LabelSchema(("neutral", "anger", "fear"))
EMOTIONS = LabelSchema(emotions=("sad", "glad"))
SENTIMENT = LabelSchema(sentiment=3.0)
TINY: dict[str, Any] = {
    "fusion.width": 4,
    "fusion.heads": 2,
    "fusion.levels": 1,
    "trainer.epochs": 2,
    "trainer.patience": 0,
    "data.batch_size": 16,
}


def method(schema: LabelSchema = EXPRESSIONS, outputs: dict[str, Any] | None = None, **options: Any) -> Causalmer:
    torch.manual_seed(0)
    chosen = CausalmerOptions(**options)
    backbone = {"kind": "early_fusion", "options": {"width": 4}}
    given = {"fusion": chosen.fusion, "constant": chosen.constant, "branches": chosen.branches}
    network = build("counterfactual", {"modalities": WIDTHS, "backbone": backbone} | given | (outputs or {}), schema)
    plain = Normalise([0.5] * 3, [0.5] * 3)
    return Causalmer(chosen, network=network, schema=schema, normalise=plain, optim=OptimOptions())


def batch(labels: Labels, count: int = 6) -> Batch:
    torch.manual_seed(1)
    sequences = {name: torch.randn(count, 4, width) for name, width in WIDTHS.items()}
    return Batch(labels=labels, sequences=sequences, lengths={name: torch.full((count,), 4) for name in WIDTHS})


CLASSES = Labels(expression=torch.tensor([0, 1, 2, 0, 1, -1]))


def test_effects_are_those_of_their_definitions() -> None:
    torch.manual_seed(0)
    joint, branches, c = torch.randn(4, 3), torch.randn(2, 4, 3), torch.tensor([0.3, -0.7])
    for fusion in ("mask", "sum", "hm", "tanh"):
        found = effects(fusion, joint, branches, c)  # type: ignore[arg-type]

        def answer(m: Tensor, *slots: Tensor, kind: Any = fusion) -> Tensor:
            return fuse_scores(kind, m, torch.stack(slots))

        def blank(value: Tensor) -> Tensor:
            return value.expand(4, 3)

        reference = answer(*[blank(c.sum())] * 3)
        first = answer(blank(c[0]), branches[0], blank(c[0]))
        second = answer(blank(c[1]), blank(c[1]), branches[1])
        torch.testing.assert_close(found.total, answer(joint, *branches) - reference)
        torch.testing.assert_close(found.direct, torch.stack([first - reference, second - reference]))
        indirect = answer(joint, *branches) - first - second + reference
        torch.testing.assert_close(found.indirect(), indirect)
        half = found.indirect(torch.tensor([0.5, 0.0]))
        torch.testing.assert_close(half, found.total - 0.5 * (first - reference))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_with_constants_of_zero_a_mask_subtracts_nothing(count: int) -> None:
    joint, branches = torch.randn(4, 8), torch.randn(count, 4, 8)
    found = effects("mask", joint, branches, torch.zeros(count))
    assert torch.equal(found.indirect(), found.fused)
    loss = constants_loss(found, [slice(0, 8)])
    assert loss.item() == pytest.approx((count + 2) * math.log(8), rel=1e-5)


def test_cross_entropy_by_groups() -> None:
    p, q = torch.randn(5, 4), torch.randn(5, 4)
    pairs = cross_entropy(p, q, [slice(0, 2), slice(2, 4)])
    each = [-(p[:, s].softmax(1) * q[:, s].log_softmax(1)).sum(1).mean() for s in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(pairs, each[0] + each[1])
    assert [len(method(EMOTIONS, grouping=name).groups) for name in ("flat", "task")] == [1, 2]


def test_the_constants_learn_from_their_own_loss_alone() -> None:
    chosen = method()
    terms = chosen.loss(batch(CLASSES))
    terms["task"].backward(retain_graph=True)
    network = chosen.network
    assert network.constants.grad is None
    assert all(p.grad is not None for name, p in network.named_parameters() if name != "constants")
    network.zero_grad()
    terms["constants"].backward()
    assert network.constants.grad is not None
    assert network.constants.grad.abs().min() > 0
    assert all(p.grad is None for name, p in network.named_parameters() if name != "constants")


def test_what_is_predicted() -> None:
    chosen = method(constant=0.5)
    network = chosen.network.eval()
    given = network.inputs(batch(CLASSES))
    scores = network.scores(given)
    found = network.effects(scores)
    expected = {
        "tie": found.indirect(),
        "te": found.fused,
        "backbone": scores.backbone.logits,
        "audio": scores.branches[1],
    }
    for name, logits in expected.items():
        network.predict_with = name
        assert torch.equal(network.fuse(given).logits, logits)
    with pytest.raises(WrongCall, match="'smell' is not one of tie, te, backbone, text, audio, vision"):
        method(outputs={"predict_with": "smell"})
    with pytest.raises(WrongCall, match="no modality 'smell'"):
        method(outputs={"direct_weights": {"smell": 1.0}})


def test_a_missing_modality_may_be_untreated() -> None:
    network = method(constant=0.5).network.eval()
    given = batch(CLASSES)
    given.lengths["audio"] = torch.tensor([4, 0, 4, 0, 4, 4])
    given.sequences["audio"][[1, 3]] = 0
    zeros = network.scores(network.inputs(given)).branches
    network.absent = "constant"
    constant = network.scores(network.inputs(given)).branches
    assert (constant[1, [1, 3]] == 0.5).all()
    assert torch.equal(constant[:, [0, 2, 4, 5]], zeros[:, [0, 2, 4, 5]])


def test_what_has_no_effect_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "honne"):
        chosen = method(SENTIMENT)
        assert "the loss of the constants is always 0" in caplog.text
        assert "TIE equals TE" in caplog.text
        assert "--fusion.sentiment_classes 7" in caplog.text
        assert chosen.loss(batch(Labels(sentiment=torch.randn(6))))["constants"] == 0
        caplog.clear()
        method(fusion="tanh")
        assert "the constants never learn" in caplog.text
        caplog.clear()
        classes = method(SENTIMENT, {"sentiment_classes": 7})
        assert not caplog.text
        assert classes.loss(batch(Labels(sentiment=torch.randn(6))))["constants"] > 0
        bins = method(LabelSchema(valence_arousal=True), {"valence_arousal_bins": 5})
        assert not caplog.text
        assert len(bins.groups) == 1


def test_tanh_predicts_as_the_fusion_network() -> None:
    network = method(fusion="tanh", constant=0.4).network.eval()
    scores = network.scores(network.inputs(batch(CLASSES)))
    shift = network.answer(scores) - scores.backbone.logits
    torch.testing.assert_close(shift, shift[:1, :1].expand_as(shift), atol=1e-5, rtol=1e-5)


def test_a_batch_without_labels() -> None:
    with pytest.raises(HonneError, match="no label of what is learned"):
        method().loss(batch(Labels()))


def test_rates() -> None:
    chosen = method(branch_lr={"text": 1e-6}, constants_lr=0.1, new_layers_lr={"text": 0.2})
    groups = chosen.rates()
    optimiser = optimizer(chosen, OptimOptions(lr=1e-3), rates=groups)
    rate = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    network = chosen.network
    assert rate[id(network.constants)] == 0.1
    assert rate[id(network.branches["text"].fc.weight)] == 0.2
    assert rate[id(network.branches["text"].summary.inner.weight)] == 1e-6
    assert rate[id(network.branches["audio"].fc.weight)] == 1e-3


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("talks") / "data"
    lengths = {"text": (2, 5), "audio": (3, 6), "vision": (3, 6)}
    make_sequences(out, Talks(n=160, lengths=lengths, missing=0.1, subjects=16))
    return out


@pytest.mark.parametrize("network", ["mult", "pmr", "dmd", "late_fusion"])
@pytest.mark.parametrize("chosen", ["erm", "causalmer"])
def test_runs_end_to_end(chosen: str, network: str, talks: Path, tmp_path: Path) -> None:
    extra = {"fusion.valence_arousal_bins": 5, "fusion.modality_dropout": 0.2} if network == "mult" else {}
    options = TINY | {"method": chosen, "fusion.network": network, "trainer.epochs": 1} | extra
    model = load(honne.train("causalmer", data=talks, out=tmp_path / "run", overrides=options))
    assert len(model.config.cite) == (chosen == "causalmer") + (network in ("mult", "pmr", "dmd"))
    assert model.modalities == ("text", "audio", "vision")
    assert model.config.alignment == {}
    found = honne.evaluate(model, data=talks, replicates=20, show=False)
    assert {"accuracy", "ccc"} <= found["metrics"].keys()
    standardise: Any = model.network.standardise  # type: ignore[union-attr]
    assert standardise.text_std.min() > 0.1
    assert not torch.equal(standardise.text_mean, torch.zeros(32))


def test_an_interrupted_run_gives_the_same_weights(talks: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def run(out: Path) -> dict[str, Tensor]:
        folder = honne.train("causalmer", data=talks, out=out, overrides=TINY | {"trainer.checkpoint_steps": 2})
        return load(folder).network.state_dict()

    whole = run(tmp_path / "whole")
    steps = iter(range(9))
    usual = Causalmer.loss

    def stops(self: Causalmer, given: Batch) -> dict[str, Tensor]:
        if next(steps) == 8:
            raise KeyboardInterrupt
        return usual(self, given)

    monkeypatch.setattr(Causalmer, "loss", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(Causalmer, "loss", usual)
    again = run(tmp_path / "parts")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_methods_say_what_they_learn_from(talks: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongCall, match="method dmue learns from images"):
        honne.train("causalmer", data=talks, out=tmp_path / "a", overrides=TINY | {"method": "dmue"})
    faces = make_world(tmp_path / "faces", World(n=40, size=32, subjects=6)).root
    with pytest.raises(WrongCall, match="method causalmer learns from feature sequences"):
        honne.train("causalmer", data=faces, out=tmp_path / "b", overrides=TINY)
    smell = TINY | {"fusion.modalities": ["text", "smell"]}
    with pytest.raises(WrongCall, match="no modality 'smell'"):
        honne.train("causalmer", data=talks, out=tmp_path / "c", overrides=smell)
    with pytest.raises(HonneError, match="no labels of emotions"):
        honne.train("causalmer", data=talks, out=tmp_path / "d", overrides=TINY | {"data.tasks": ["emotions"]})


def test_a_subset_of_modalities_and_tasks(talks: Path, tmp_path: Path) -> None:
    options = TINY | {
        "fusion.network": "early_fusion",
        "fusion.modalities": ["vision", "audio"],
        "data.tasks": ["expressions"],
        "trainer.epochs": 1,
    }
    model = load(honne.train("causalmer", data=talks, out=tmp_path / "run", overrides=options))
    assert model.modalities == ("vision", "audio")
    assert model.schema == LabelSchema(PreparedData(talks).schema.labels.expressions)
    assert np.isfinite(honne.evaluate(model, data=talks, replicates=20, show=False)["metrics"]["accuracy"]["value"])


def test_plain_training_weighs_its_tasks() -> None:
    schema = LabelSchema(("neutral", "anger", "fear"), (), True, ("sad", "glad"), 3.0)
    network = build("early_fusion", {"modalities": WIDTHS, "width": 4, "valence_arousal_bins": 5}, schema)
    options = ErmOptions(expression_weight=2, emotion_weight=3, sentiment_weight=4, valence_arousal_weight=5)
    plain = Normalise([0.5] * 3, [0.5] * 3)
    chosen = Erm(options, network=network, schema=schema, normalise=plain, optim=OptimOptions())
    labels = Labels(
        expression=CLASSES.expression,
        emotions=torch.randint(0, 2, (6, 2)).float(),
        sentiment=torch.randn(6),
        valence_arousal=torch.rand(6, 2),
    )
    given = batch(labels)
    terms = chosen.loss(given)
    losses = network.outputs.losses(network.fuse(network.inputs(given)).logits, labels)  # type: ignore[union-attr, operator]
    for task, weight in (("expression", 2), ("emotions", 3), ("sentiment", 4), ("valence_arousal", 5)):
        torch.testing.assert_close(terms[task], weight * losses[task])
