"""Losses of teacher and students, their gradients, and the bins of valence and arousal, as recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from honne.batch import Batch, Labels, Prediction
from honne.data.transforms import Normalise
from honne.labels import LabelSchema
from honne.losses import binary_focal_loss
from honne.methods.multitask import Multitask, MultitaskOptions, affect_loss, distillation, expression_focal_loss
from honne.networks.affect_bins import bin_edges, bin_index, bin_values, expectation
from honne.schedules import OptimOptions

Arrays = dict[str, np.ndarray]
TASKS = ("EXPR", "AU", "VA")
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}


class Heads(torch.nn.Module):
    """A network that says what was recorded, part by part."""

    def __init__(self, outputs: list[Prediction]) -> None:
        super().__init__()
        self.outputs = list(outputs)

    def forward(self, batch: Batch) -> Prediction:
        return self.outputs.pop(0)


def spoken(expression: Tensor | None, units: Tensor | None, affect: Tensor | None) -> Prediction:
    """Logits of 2 K values for valence and arousal become bins, and the numbers that these expect."""
    said = Prediction(expression, units)
    if affect is not None:
        bins = affect.unflatten(1, (2, -1))
        values = bin_values(bins.shape[2]).float()
        said.valence_arousal, said.valence_arousal_bins = expectation(bins, values), bins
    return said


def labelled(golden: Arrays, task: int) -> Labels:
    """Labels of one task alone; sequences flattened."""
    if task == 0:
        return Labels(expression=torch.from_numpy(golden["y_expr"].reshape(-1)).long())
    name = "y_au" if task == 1 else "y_va"
    values = torch.from_numpy(golden[name].reshape(-1, golden[name].shape[-1])).float()
    return Labels(action_units=values) if task == 1 else Labels(valence_arousal=values)


def method(golden: Arrays, outputs: list[Prediction], teacher: list[Prediction] | None = None) -> Multitask:
    classes, units = golden_width(golden, 0), golden_width(golden, 1)
    recorded = {"teacher_weight": "lambda_teacher", "temperature": "temperature"}
    made = Multitask(
        MultitaskOptions(**{ours: float(golden[name]) for ours, name in recorded.items() if name in golden}),
        parts=3,
        network=Heads(outputs),
        schema=LabelSchema(tuple(f"class {i}" for i in range(classes)), tuple(range(1, units + 1)), True),
        normalise=Normalise([0.5], [0.5]),
        optim=OptimOptions(),
    )
    if teacher is not None:
        made.teacher.append(Heads(teacher))
    return made


def golden_width(golden: Arrays, task: int) -> int:
    name = f"student_{TASKS[task]}_0" if f"student_{TASKS[task]}_0" in golden else f"logits_{TASKS[task].lower()}"
    return golden[name].shape[-1]


def total(made: Multitask, golden: Arrays) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a step over three parts, as `training_step` adds it up, and its terms."""
    parts = [Batch(labels=labelled(golden, task)) for task in range(3)]
    weights = made._part_weights(parts)
    terms: dict[str, Tensor] = {}
    for part, weight in zip(parts, weights, strict=True):
        for name, value in made.weighted(made.loss(part), weight).items():
            terms[name] = terms.get(name, torch.zeros(())) + value
    return torch.stack(list(terms.values())).sum(), terms


def tensor(golden: Arrays, name: str) -> Tensor:
    return torch.from_numpy(golden[name].reshape(-1, golden[name].shape[-1])).float().requires_grad_()


@pytest.mark.golden("multitask", "losses_teacher.npz")
def test_teacher_loss(golden: Arrays) -> None:
    logits = [tensor(golden, f"logits_{name.lower()}") for name in TASKS]
    silent: list[Tensor | None] = [None, None, None]
    outputs = [spoken(*silent[:t], logits[t], *silent[t + 1 :]) for t in range(3)]
    made = method(golden, outputs)
    loss, terms = total(made, golden)
    assert loss.item() == pytest.approx(float(golden["teacher_total"]), rel=1e-5)
    named = {"expression": "loss_expr_ce", "valence": "loss_valence", "arousal": "loss_arousal"}
    for ours, theirs in named.items():
        assert terms[ours].item() == pytest.approx(float(golden[theirs]), rel=1e-5)
    weight = made.options.action_unit_weight
    assert terms["action_units"].item() == pytest.approx(weight * float(golden["loss_au_bce"]), rel=1e-5)
    loss.backward()
    for name, entry in zip(TASKS, logits, strict=True):
        np.testing.assert_allclose(entry.grad, golden[f"grad_{name.lower()}"].reshape(entry.shape), **TOLERANCE)


@pytest.mark.golden("multitask", "losses_teacher.npz")
def test_parts_of_the_affect_loss(golden: Arrays) -> None:
    affect = spoken(None, None, tensor(golden, "logits_va"))
    target = labelled(golden, 2).valence_arousal
    assert affect.valence_arousal is not None
    assert target is not None
    agreement = affect_loss(affect.valence_arousal, affect.valence_arousal_bins, target, "ccc")
    both = affect_loss(affect.valence_arousal, affect.valence_arousal_bins, target)
    for place, name in enumerate(("valence", "arousal")):
        assert agreement[place].item() == pytest.approx(float(golden[f"ccc_loss_{name}"]), rel=1e-5)
        assert (both[place] - agreement[place]).item() == pytest.approx(float(golden[f"bin_ce_{name}"]), rel=1e-5)
    count = len(golden["bin_values"])
    np.testing.assert_allclose(bin_edges(count), golden["bin_edges"], atol=1e-12)
    np.testing.assert_allclose(bin_values(count), golden["bin_values"], atol=1e-12)
    np.testing.assert_array_equal(bin_index(target, count), golden["bin_index_va"])


@pytest.mark.golden("multitask", "losses_teacher.npz")
def test_focal_losses(golden: Arrays) -> None:
    units, coded = tensor(golden, "logits_au"), labelled(golden, 1).action_units
    assert coded is not None
    log = torch.nn.functional.logsigmoid
    assert binary_focal_loss(log(units), log(-units), coded).item() == pytest.approx(
        float(golden["focal_au"]), rel=1e-5
    )
    logits = tensor(golden, "logits_expr")
    target = labelled(golden, 0).expression_target(logits.shape[1])
    assert target is not None
    assert expression_focal_loss(logits, target).item() == pytest.approx(float(golden["focal_expr"]), rel=1e-5)


@pytest.mark.golden("multitask", "losses_[sr]*.npz")
def test_student_loss(golden: Arrays) -> None:
    said = {(who, task, part): tensor(golden, f"{who}_{name}_{part}")
            for who in ("student", "teacher") for part in range(3) for task, name in enumerate(TASKS)}  # fmt: skip
    student, teacher = (
        [spoken(*(said[who, task, part] for task in range(3))) for part in range(3)] for who in ("student", "teacher")
    )
    loss, terms = total(method(golden, student, teacher), golden)
    assert loss.item() == pytest.approx(float(golden["logged_student_loss"]), rel=1e-5)
    for ours, theirs in {
        "expression": "EXPR",
        "action_units": "AU",
        "valence": "valence",
        "arousal": "arousal",
    }.items():
        assert terms[ours].item() == pytest.approx(float(golden[f"logged_student_loss_{theirs}"]), rel=1e-5)
    loss.backward()
    for task, name in enumerate(TASKS):
        for part in range(3):
            if f"grad_{name}_{part}" in golden:  # those of sequences were not recorded
                ours = said["student", task, part].grad
                assert ours is not None
                np.testing.assert_allclose(ours, golden[f"grad_{name}_{part}"].reshape(ours.shape), **TOLERANCE)


@pytest.mark.golden("multitask", "losses_student_kd.npz")
def test_distillation_of_each_part(golden: Arrays) -> None:
    for part, batch in enumerate(TASKS):
        for task, name in enumerate(TASKS):
            heads: list[list[Tensor | None]] = [[None, None, None], [None, None, None]]
            for each, who in zip(heads, ("student", "teacher"), strict=True):
                each[task] = tensor(golden, f"{who}_{name}_{part}")
            ours = distillation(spoken(*heads[0]), spoken(*heads[1]), Labels(), float(golden["temperature"]))
            recorded = np.atleast_1d(golden[f"kd_batch{batch}_task{name}"])
            np.testing.assert_allclose([value.item() for value in ours.values()], recorded, **TOLERANCE)


@pytest.mark.golden("multitask", "losses_[sr]*.npz")
def test_supervised_loss_of_a_student(golden: Arrays) -> None:
    logits = [tensor(golden, f"student_{name}_{t}") for t, name in enumerate(TASKS)]
    silent: list[Tensor | None] = [None, None, None]
    outputs = [spoken(*silent[:t], logits[t], *silent[t + 1 :]) for t in range(3)]
    loss, _ = total(method(golden, outputs), golden)
    assert loss.item() == pytest.approx(float(golden["logged_teacherloss_loss"]), rel=1e-5)
