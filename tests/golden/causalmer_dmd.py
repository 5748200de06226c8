"""DMD and its losses against recordings of the original code."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from causalmer_mult import below, heads_that_give, layers_of
from torch import Tensor
from torch.testing import assert_close

from honne.interop.fusion_names import MODALITIES, dmd_name
from honne.labels import LabelSchema
from honne.networks.fusion.distillation import GraphDistillation, margin_loss, orthogonality
from honne.networks.fusion.dmd import DMD
from honne.networks.fusion.transformer import Steps

Arrays = Mapping[str, np.ndarray]
UNIT = {"W_logit": "of_logit", "W_repr": "of_representation", "W_edge": "of_edge"}


def dmd_of(golden: Arrays, heads: int) -> DMD:
    """DMD as large as the weights of a recording, with these weights."""
    state = below(golden, "sd/")
    letters = {letter: state[f"proj_{letter}.weight"] for letter in "lav"}
    network = DMD(
        LabelSchema(sentiment=3.0),
        {MODALITIES[letter]: weight.shape[1] for letter, weight in letters.items()},
        {MODALITIES[letter]: golden[MODALITIES[letter]].shape[1] for letter in "lav"},
        width=len(letters["l"]),
        heads=heads,
        levels=layers_of(state, "trans_l_with_a."),
        kernels={MODALITIES[letter]: weight.shape[2] for letter, weight in letters.items()},
        padding="published",
        standardise=False,
    )
    named = {dmd_name(name): value for name, value in state.items()}
    missing, unexpected = network.load_state_dict({name: v for name, v in named.items() if name}, strict=False)
    assert not unexpected
    assert all(name.startswith(("homogeneous.", "heterogeneous.")) for name in missing)
    return network.eval()


@pytest.mark.golden("causalmer", "dmd_tiny.npz")
def test_dmd(golden: Arrays) -> None:
    sequences = {name: Steps(torch.from_numpy(golden[name])) for name in ("text", "audio", "vision")}
    expected = below(golden, "out/")

    def answer(heads: int) -> Tensor:
        return dmd_of(golden, heads).fuse(sequences).logits

    width = golden["sd/encoder_c.weight"].shape[0]
    network = dmd_of(golden, heads_that_give(expected["output_logit"], width, answer, 1e-4)[0])
    parts = network.decoupled(sequences)
    found = {"logits_c": network.common_out(parts.shared), "output_logit": network.fuse(sequences).logits}
    for letter in "lav":
        name = MODALITIES[letter]
        logits, seen = network.low[name](parts.common[name])
        block = network.high[name].block(parts.found[name])
        found |= {
            f"logits_{letter}_homo": logits,
            f"repr_{letter}_homo": seen,
            f"origin_{letter}": parts.projected[name],
            f"s_{letter}": parts.exclusive[name].permute(2, 0, 1),
            f"c_{letter}": parts.common[name].permute(2, 0, 1),
            f"s_{letter}_r": parts.again[name],
            f"recon_{letter}": parts.rebuilt[name],
            f"c_{letter}_sim": network.alignments[name](parts.common[name].flatten(1)),
            f"last_h_{letter}": parts.found[name],
            f"repr_{letter}_hetero": block,
            f"logits_{letter}_hetero": network.high[name].outputs(block),
        }
    left = set(expected) - set(found)
    assert all(name.startswith("proj_s_") for name in left)  # computed there and used nowhere
    for name, value in found.items():
        assert_close(value, expected[name], atol=1e-4, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.golden("causalmer", "dmd_losses.npz")
def test_graph_distillation(golden: Arrays) -> None:
    for part, kind in (("homo", "homogeneous"), ("hetero", "heterogeneous")):
        state = {
            f"{UNIT[module]}.{entry}": value
            for (module, _, entry), value in (
                (key.partition("."), value) for key, value in below(golden, f"{part}/sd/").items()
            )
        }
        logits, representations = (
            torch.from_numpy(golden[f"{part}/{name}"]).requires_grad_() for name in ("logits", "reprs")
        )
        hidden, outputs = state["of_logit.weight"].shape
        unit = GraphDistillation(outputs, representations.shape[2], hidden, len(logits), kind)  # type: ignore[arg-type]
        unit.load_state_dict(state)
        assert_close(unit.prior, torch.from_numpy(golden[f"{part}/prior"]).float(), atol=1e-5, rtol=1e-5)
        edges = unit.edges(logits, representations)
        assert_close(edges, torch.from_numpy(golden[f"{part}/edges"]), atol=1e-5, rtol=1e-5)
        lost = unit(logits, representations)
        for name, value in (("reg", lost.regularisation), ("logit", lost.logits), ("repr", lost.representations)):
            assert_close(value[None], torch.from_numpy(golden[f"{part}/loss_{name}"]), atol=1e-5, rtol=1e-5)
        (lost.regularisation + lost.logits + lost.representations).backward()
        for name, gradient in (
            ("logits", logits.grad),
            ("reprs", representations.grad),
            ("W_edge", unit.of_edge.weight.grad),
        ):
            assert_close(gradient, torch.from_numpy(golden[f"{part}/grad_{name}"]), atol=1e-5, rtol=1e-4)


@pytest.mark.golden("causalmer", "dmd_losses.npz")
def test_margin_and_orthogonality(golden: Arrays) -> None:
    features, targets = (torch.from_numpy(golden[f"hinge/{name}"]) for name in ("feats", "ids"))
    assert_close(margin_loss(features, targets)[None], torch.from_numpy(golden["hinge/loss"]), atol=1e-5, rtol=1e-5)
    exclusive, common = (torch.from_numpy(golden[f"ort/{name}"]) for name in "sc")
    for name, axis in (("legacy_batchdim", 1), ("featuredim", 2)):
        loss = orthogonality(exclusive, common, axis)[None]
        assert_close(loss, torch.from_numpy(golden[f"ort/loss_{name}"]).to(loss.dtype), atol=1e-5, rtol=1e-5)
