"""CausalMER's scores, effects, losses and training against recordings of the original code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from causalmer_mult import below, steps
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from honne.batch import Batch, Labels
from honne.data.transforms import Normalise
from honne.interop.causalmer import read
from honne.interop.fusion_names import MODALITIES
from honne.labels import LabelSchema
from honne.methods.causalmer import Causalmer, CausalmerOptions
from honne.networks.counterfactual import CounterfactualNetwork, Fusion, Scores
from honne.networks.fusion.network import Fused
from honne.schedules import OptimOptions, optimizer

Arrays = Mapping[str, np.ndarray]
ORDER = "tav"  # of the original's branches and constants
RATES = {"branch_lr": {"text": 1e-6, "audio": 2e-3, "vision": 2e-3}, "constants_lr": 2e-3}
OPTIM = OptimOptions(optimizer="adam", lr=2e-3, weight_decay=0.0, clip=0.8)


def schema_of(task: str, outputs: int) -> LabelSchema:
    if task == "iemocap":
        return LabelSchema(emotions=tuple(f"emotion {i}" for i in range(outputs // 2)))
    return LabelSchema(sentiment=3.0)


def labels_of(task: str, target: np.ndarray, outputs: int) -> Labels:
    values = torch.from_numpy(target)
    if task == "iemocap":
        return Labels(emotions=values.float())
    if outputs > 1:
        return Labels(sentiment=values.flatten().float() - outputs // 2)
    return Labels(sentiment=values.flatten())


def method_of(
    schema: LabelSchema, outputs: int, backbone: dict[str, Any], options: CausalmerOptions, **own: Any
) -> Causalmer:
    network = CounterfactualNetwork(
        schema,
        own.pop("modalities", {MODALITIES[letter]: 1 for letter in ORDER}),
        backbone,
        fusion=options.fusion,
        sentiment_classes=outputs if schema.sentiment and outputs > 1 else 0,
        standardise=False,
        **own,
    )
    return Causalmer(options, network=network, schema=schema, normalise=Normalise([0.5] * 3, [0.5] * 3), optim=OPTIM)


@pytest.mark.golden("causalmer", "fusion_tie_losses.npz")
def test_effects_losses_and_gradients(golden: Arrays) -> None:
    tasks = sorted({key.split("/")[0] for key in golden if "/" in key})
    for task in tasks:
        outputs = golden[f"{task}/z_m"].shape[1]
        labels = labels_of(task, golden[f"{task}/y"], outputs)
        for fusion in get_args(Fusion):
            for tag, constants in (("c0", np.zeros(3, np.float32)), ("c", golden["constants_tav"])):
                plain = {"kind": "late_fusion", "options": {"width": 2}}
                method = method_of(schema_of(task, outputs), outputs, plain, CausalmerOptions(fusion=fusion))
                method.network.constants.data = torch.from_numpy(constants)
                _check(method, labels, golden, task, f"{task}/{fusion}/{tag}/")


def _check(method: Causalmer, labels: Labels, golden: Arrays, task: str, key: str) -> None:
    scores = {letter: torch.from_numpy(golden[f"{task}/z_{letter}"]).requires_grad_() for letter in "m" + ORDER}
    said = Scores(Fused(scores["m"], torch.zeros(0)), torch.stack([scores[letter] for letter in ORDER]))
    network = method.network

    def same(value: Tensor, name: str, tolerance: float = 1e-5) -> None:
        expected = torch.from_numpy(golden[key + name]).to(value.dtype).reshape(value.shape)
        assert_close(value.detach(), expected, atol=tolerance, rtol=tolerance, msg=lambda text: f"{key}{name}: {text}")

    found = network.effects(said)
    same(found.total, "z_te")
    same(found.direct.sum(0), "z_nde")
    for letter, direct in zip(ORDER, found.direct, strict=True):
        same(direct, f"z_nde_{letter}")
    same(found.fused, "logits_te")
    same(network.answer(said), "logits_causal_mer")
    every = [network.outputs.loss(logits, labels) for logits in (found.fused, *said.branches)]
    same(torch.stack(every), "ce_te_t_a_v")
    of_constants = method._constants(said)
    same(of_constants, "kl")
    total = 0.1 * torch.stack(every).sum() + of_constants
    same(total, "total")
    total.backward()
    for letter, each in scores.items():
        same(torch.zeros_like(each) if each.grad is None else each.grad, f"grad_z_{letter}")
    assert network.constants.grad is not None
    same(network.constants.grad, "grad_const_tav", 2e-5)


@pytest.mark.golden("causalmer", "train_5_steps.npz")
def test_five_steps_of_training(golden: Arrays, tmp_path: Path) -> None:
    save_file(below(golden, "sd0/"), tmp_path / "weights.safetensors")
    schema = schema_of("iemocap", len(golden["sd0/tav_branch.out_layer.bias"]))
    model = read([tmp_path / "weights.safetensors"], "tiny", labels=",".join(schema.emotions))
    network: Any = model.network.requires_grad_(True)
    options = CausalmerOptions(**RATES)  # type: ignore[arg-type]
    plain = Normalise([0.5] * 3, [0.5] * 3)
    method = Causalmer(options, network=network, schema=model.schema, normalise=plain, optim=OPTIM)
    sequences = {name: each.values for name, each in steps(golden).items()}
    lengths = {name: torch.full((len(each),), each.shape[1]) for name, each in sequences.items()}
    batch = Batch(labels=Labels(emotions=torch.from_numpy(golden["y"]).float()), sequences=sequences, lengths=lengths)
    constants = network.constants.detach().clone()
    recorded_late = np.allclose(constants, golden["constants_after_step"][-1])
    if recorded_late:
        _check_next_step(method, batch, golden)
    else:
        _check_steps(method, batch, golden)
    network.eval()
    with torch.no_grad():
        scores = network.scores(network.inputs(batch))
    for name, found in (
        ("eval_tie_after", network.answer(scores)),
        ("eval_logits_m_after", scores.backbone.logits),
        ("fc_t_weight_after", network.branches["text"].fc.weight),
        ("fc_a_weight_after", network.branches["audio"].fc.weight),
        ("out_layer_weight_after", network.backbone.out.outputs.weight),
    ):
        assert_close(found.detach(), torch.from_numpy(golden[name]), atol=1e-4, rtol=1e-3)


def _step(method: Causalmer, batch: Batch, chosen: torch.optim.Optimizer) -> tuple[float, float]:
    """Loss and norm of the gradient before it is clipped, in the published order."""
    chosen.zero_grad()
    loss = torch.stack(list(method.loss(batch).values())).sum()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(method.parameters(), OPTIM.clip)
    chosen.step()
    return loss.item(), norm.item()


def _check_steps(method: Causalmer, batch: Batch, golden: Arrays) -> None:
    chosen = optimizer(method, OPTIM, rates=method.rates())
    for step, expected in enumerate(golden["loss_per_step"]):
        loss, norm = _step(method, batch, chosen)
        assert loss == pytest.approx(expected, abs=1e-4, rel=1e-5)
        assert norm == pytest.approx(golden["grad_norm_before_clip"][step], rel=1e-3)
        after = torch.from_numpy(golden["constants_after_step"][step]).float()
        assert_close(method.network.constants.detach(), after, atol=1e-5, rtol=1e-4)


def _check_next_step(method: Causalmer, batch: Batch, golden: Arrays) -> None:
    """Where `sd0` holds the state after the steps (kept by reference while it was trained): what must follow them."""
    state = {name: value.clone() for name, value in method.state_dict().items()}
    loss, norm = _step(method, batch, optimizer(method, OPTIM, rates=method.rates()))
    before = golden["loss_per_step"]
    assert before[-1] - 1.5 * (before[-2] - before[-1]) < loss < before[-1]
    assert norm == pytest.approx(golden["grad_norm_before_clip"][-1], rel=0.15)
    moved = {name: (value - state[name]).abs().max().item() for name, value in method.state_dict().items()}
    assert moved["network.branches.text.fc.weight"] == pytest.approx(1e-6, rel=0.1)
    assert moved["network.branches.audio.fc.weight"] == pytest.approx(2e-3, rel=0.01)
    assert moved["network.constants"] == pytest.approx(2e-3, rel=0.01)
    method.load_state_dict(state)
