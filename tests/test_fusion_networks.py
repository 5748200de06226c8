"""Networks that fuse sequences: what they say does not depend on padding, batch, names or number of modalities."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from honne.batch import Batch, Labels
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.networks import build
from honne.networks.fusion.attention import Visible, attend, visible
from honne.networks.fusion.dropout import drawn_seed, drop, generator, kept
from honne.networks.fusion.network import FusionNetwork, Standardise
from honne.networks.fusion.transformer import Drops, Encoder, Steps

SCHEMA = LabelSchema(("neutral", "anger", "fear"))
EVERYTHING = LabelSchema(("neutral", "anger"), (1, 12), True, ("sad", "glad"), 3.0)
WIDTHS = {"text": 5, "audio": 4, "vision": 3}
LONGEST = {"text": 9, "audio": 12, "vision": 7}
SMALL: dict[str, Any] = {"width": 4, "heads": 2, "levels": 2, "kernels": {"text": 3, "audio": 2}}
KINDS: dict[str, dict[str, Any]] = {
    "early_fusion": {"width": 4},
    "late_fusion": {"width": 4},
    "aligned_fusion": {"width": 4, "lengths": LONGEST},
    "mult": SMALL,
    "pmr": SMALL | {"aggregate": "attention", "residual": True},
    "dmd": SMALL | {"lengths": LONGEST},
}
ALL = [*KINDS, "counterfactual"]


def network(kind: str, schema: LabelSchema = SCHEMA, **options: Any) -> Any:
    torch.manual_seed(0)
    if kind == "counterfactual":
        backbone = {"kind": "mult", "options": SMALL}
        return build(kind, {"modalities": WIDTHS, "backbone": backbone, "constant": 0.3} | options, schema).eval()
    return build(kind, {"modalities": WIDTHS} | KINDS[kind] | options, schema).eval()


def batch(lengths: dict[str, list[int]], padding: int = 0) -> Batch:
    """Sequences of random features; those of one sample are the same in every batch."""
    sequences, count = {}, len(lengths["text"])
    for place, (name, sizes) in enumerate(lengths.items()):
        values = torch.zeros(count, max(1, *sizes) + padding, WIDTHS[name])
        for row, size in enumerate(sizes):
            random = torch.Generator().manual_seed(100 * place + 7 * size)
            values[row, :size] = torch.randn(size, WIDTHS[name], generator=random)
        sequences[name] = values
    tensors = {name: torch.tensor(sizes) for name, sizes in lengths.items()}
    return Batch(sequences=sequences, lengths=tensors, index=torch.arange(count))


LENGTHS = {"text": [9, 4, 1, 6], "audio": [5, 12, 7, 0], "vision": [3, 7, 2, 5]}


@pytest.mark.parametrize("kind", ALL)
def test_a_sample_is_judged_alike_in_every_batch(kind: str) -> None:
    net = network(kind)
    with torch.no_grad():
        together = net(batch(LENGTHS)).expression
        padded = net(batch(LENGTHS, padding=3)).expression
        alone = [net(batch({name: [sizes[row]] for name, sizes in LENGTHS.items()})).expression for row in range(4)]
    torch.testing.assert_close(together, padded, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()
    assert together.std(0).min() > 0  # and differently from the others


@pytest.mark.parametrize("kind", ALL)
def test_mixed_precision(kind: str) -> None:
    net = network(kind).train()
    with torch.autocast("cpu", torch.bfloat16):
        fused = net.fuse(net.inputs(batch(LENGTHS)))
        loss = net.outputs.loss(fused.logits, Labels(expression=torch.tensor([0, 1, 2, 1])))
    loss.backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", ["early_fusion", "late_fusion", "mult", "pmr", "dmd"])
@pytest.mark.parametrize("count", [2, 4])
def test_any_modalities(kind: str, count: int) -> None:
    names = ["eeg", "voice_face", "gait", "pulse"][:count]
    options = KINDS[kind] | {"modalities": dict.fromkeys(names, 3), "kernels": {}, "lengths": dict.fromkeys(names, 6)}
    taken = {key: options[key] for key in KINDS[kind] | {"modalities": 0}} | (
        {"lengths": options["lengths"]} if kind == "dmd" else {}
    )
    net: Any = build(kind, taken, SCHEMA)
    given = Batch(
        sequences={name: torch.randn(2, 6, 3) for name in names}, lengths={name: torch.tensor([6, 4]) for name in names}
    )
    fused = net.fuse(net.inputs(given))
    assert fused.logits.shape == (2, 3)
    assert fused.hidden.shape == (2, net.hidden)
    assert set(net.parts) == set(names)
    torch.testing.assert_close(net.eval().read_out(fused.hidden), net.read_out(fused.hidden))


def test_every_task_at_once() -> None:
    net = network("mult", EVERYTHING, sentiment_classes=7, valence_arousal_bins=5)
    said = net(batch(LENGTHS))
    assert net.outputs.width == 2 + 4 + 7 + 10 + 2
    assert [(part.start, part.stop) for part in net.outputs.alternatives] == [
        (0, 2), (2, 4), (4, 6), (6, 13), (13, 18), (18, 23),
    ]  # fmt: skip
    assert said.emotions.shape == (4, 2, 2)
    assert set(said.sentiment.tolist()) <= {-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0}
    assert said.valence_arousal.abs().max() <= 1
    nothing = torch.full((4, 2), math.nan)
    labels = Labels(expression=torch.tensor([0, 1, -1, -1]), emotions=nothing, sentiment=torch.tensor([0.5, -3, 3, 1]))
    losses = net.outputs.losses(net.fuse(net.inputs(batch(LENGTHS))).logits, labels)
    assert set(losses) == {"expression", "emotions", "sentiment"}
    assert losses["emotions"] == 0  # nothing is labelled
    with pytest.raises(HonneError, match="no label of what is learned"):
        net.outputs.losses(torch.zeros(4, net.outputs.width), Labels())


@pytest.mark.parametrize("schema", [SCHEMA, EVERYTHING, LabelSchema(sentiment=3.0)])
def test_losses_of_networks(schema: LabelSchema) -> None:
    labels = Labels(
        expression=torch.tensor([0, 1, 0, -1]),
        emotions=torch.tensor([[0.0, 1], [1, 1], [math.nan, 0], [0, 0]]),
        sentiment=torch.tensor([1.0, -2, 0, math.nan]),
        valence_arousal=torch.rand(4, 2),
        action_units=torch.ones(4, 2),
    )
    for kind in ("dmd", "aligned_fusion"):
        net = network(kind, schema).train()
        loss = net.auxiliary_loss(net.fuse(net.inputs(batch(LENGTHS))), labels)
        assert loss > 0
        loss.backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


def test_dropped_attention_equals_an_explicit_mask() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 3, steps, 4, requires_grad=True) for steps in (5, 9, 9))
    seen = visible(5, 9, True, torch.tensor([5, 3]), torch.tensor([7, 9]))
    torch.manual_seed(1)
    found = attend(q, k, v, seen, 0.3)
    gradient = torch.randn_like(found)
    found.backward(gradient)
    ours = [each.grad.clone() for each in (q, k, v) if each.grad is not None]
    torch.manual_seed(1)
    dropped = round(0.3 * 256)
    keep = kept(generator(drawn_seed()), (6, 5, 9), dropped).unflatten(0, (2, 3))
    for each in (q, k, v):
        each.grad = None
    assert seen.mask is not None
    weights = (q @ k.mT / 2).masked_fill(~seen.mask, -math.inf).softmax(-1) * keep * 256 / (256 - dropped)
    expected = weights @ v
    expected.backward(gradient)
    torch.testing.assert_close(found, expected)
    for mine, each in zip(ours, (q, k, v), strict=True):
        torch.testing.assert_close(mine, each.grad, atol=1e-5, rtol=1e-5)


def test_dropout_by_bytes() -> None:
    torch.manual_seed(3)
    x = torch.ones(200, 500)
    first, second = drop(x, 0.2, True), drop(x, 0.2, True)
    assert (first == 0).float().mean().item() == pytest.approx(51 / 256, abs=0.005)
    assert first.max().item() == pytest.approx(256 / 205)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(drop(x, 0.2, True), first)
    assert drop(x, 0.2, False) is x
    torch.manual_seed(0)
    q = torch.randn(4, 2, 40, 4)
    exact = attend(q, q, q, Visible(causal=True))
    mean = torch.stack([attend(q, q, q, Visible(causal=True), 0.2) for _ in range(300)]).mean(0)
    assert (mean - exact).abs().mean() < 0.03


def test_the_last_step_is_that_of_the_whole() -> None:
    torch.manual_seed(0)
    encoder = Encoder(8, 2, 3, Drops()).eval()
    steps = Steps(torch.randn(3, 7, 8), torch.tensor([7, 2, 5]))
    whole = encoder(steps).values
    for row, length in enumerate([7, 2, 5]):
        torch.testing.assert_close(encoder.last(steps)[row], whole[row, length - 1])


def test_no_step_sees_later_ones() -> None:
    torch.manual_seed(0)
    encoder, free = (Encoder(8, 2, 2, Drops(), causal=causal).eval() for causal in (True, False))
    values = torch.randn(1, 6, 8)
    changed = values.clone()
    changed[:, 4:] = torch.randn(1, 2, 8)
    early = [encoder(Steps(each)).values[:, :4] for each in (values, changed)]
    torch.testing.assert_close(early[0], early[1])
    assert not torch.allclose(free(Steps(values)).values[:, :4], free(Steps(changed)).values[:, :4])


def test_modality_dropout_leaves_one() -> None:
    net: FusionNetwork = network("late_fusion", modality_dropout=0.8).train()
    lengths = {name: [4] * 400 for name in WIDTHS}
    absent = []
    for steps in net.inputs(batch(lengths)).values():
        assert steps.absent is not None
        assert (steps.values[steps.absent] == 0).all()
        absent.append(steps.absent)
    gone = torch.stack(absent)
    assert gone.sum(0).max() == 2
    assert 0.55 < gone.float().mean() < 0.7  # one of three always stays
    assert all(steps.absent is None for steps in net.eval().inputs(batch(lengths)).values())


def test_standardised_features() -> None:
    standardise = Standardise({"audio": 3})
    standardise.set("audio", torch.tensor([1.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 1.0]))
    values: Tensor = standardise("audio", torch.tensor([[[3.0, 2.0, 5.0], [0.0, 0.0, 0.0]]]))
    assert values.tolist() == [[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]]


def test_what_cannot_be() -> None:
    with pytest.raises(WrongCall, match="3 heads do not divide a width of 4"):
        build("mult", {"modalities": WIDTHS, "width": 4, "heads": 3}, SCHEMA)
    with pytest.raises(WrongCall, match="no modality 'smell'"):
        build("mult", {"modalities": WIDTHS, "width": 4, "heads": 2, "kernels": {"smell": 3}}, SCHEMA)
    with pytest.raises(HonneError, match="two or more modalities"):
        build("early_fusion", {"modalities": {"text": 3}}, SCHEMA)
    with pytest.raises(HonneError, match="shorter than the kernel"):
        network("dmd", lengths=LONGEST | {"text": 2})
    net, good = network("mult"), batch(LENGTHS)
    with pytest.raises(HonneError, match="these data have no vision"):
        net(Batch(sequences={k: v for k, v in good.sequences.items() if k != "vision"}, lengths=good.lengths))
    with pytest.raises(HonneError, match="audio: 6 features, and the model takes 4"):
        net(Batch(sequences=good.sequences | {"audio": torch.zeros(4, 2, 6)}, lengths=good.lengths))
    good.sequences["text"][2, 0, 0] = math.nan
    with pytest.raises(HonneError, match="manifest row 2: text: features that are not finite"):
        net(good)
