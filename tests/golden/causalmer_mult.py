"""MulT and its parts against recordings of the original code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from honne.interop.fusion_names import MODALITIES, in_encoder, mult_name, renamed
from honne.labels import LabelSchema
from honne.networks.fusion.attention import Attention, Visible, visible
from honne.networks.fusion.mult import MulT
from honne.networks.fusion.network import Fused
from honne.networks.fusion.transformer import Drops, Encoder, Steps, positions, sinusoids

Arrays = Mapping[str, np.ndarray]


def below(golden: Arrays, prefix: str) -> dict[str, Tensor]:
    """Entries that begin with a prefix, without it, as tensors."""
    return {key.removeprefix(prefix): torch.from_numpy(golden[key]) for key in golden if key.startswith(prefix)}


def steps(golden: Arrays, prefix: str = "x_") -> dict[str, Steps]:
    """The sequences of a recording."""
    return {MODALITIES[letter]: Steps(torch.from_numpy(golden[prefix + letter])) for letter in "lav"}


def layers_of(state: Mapping[str, Tensor], prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[1] for key in state if key.startswith(f"{prefix}layers.")})


def mult_of(state: Mapping[str, Tensor], heads: int, targets: tuple[str, ...] = (), **options: Any) -> MulT:
    """MulT as large as the weights of a recording, with these weights."""
    letters = {letter: state[f"proj_{letter}.weight"] for letter in "lav"}
    outputs = len(state["out_layer.bias"])
    emotions = tuple(f"emotion {i}" for i in range(outputs // 2))
    schema = LabelSchema(emotions=emotions) if outputs % 2 == 0 else LabelSchema(sentiment=3.0)
    first = MODALITIES.keys() & {name for name in "lav" if any(key.startswith(f"trans_{name}_with") for key in state)}
    level = next(f"trans_{name}_with_{other}." for name in sorted(first) for other in "lav" if other != name)
    network = MulT(
        schema,
        {MODALITIES[letter]: weight.shape[1] for letter, weight in letters.items()},
        width=len(letters["l"]),
        heads=heads,
        levels=layers_of(state, level),
        kernels={MODALITIES[letter]: weight.shape[2] for letter, weight in letters.items()},
        targets=targets,
        padding="published",
        standardise=False,
        **options,
    )
    network.load_state_dict(renamed(state))
    return network.eval()


def heads_that_give(expected: Tensor, width: int, found: Callable[[int], Tensor], tolerance: float) -> list[int]:
    """Numbers of heads with which something is as recorded; no array says how many there were."""
    divisors = [heads for heads in range(1, width + 1) if width % heads == 0]
    fit = [heads for heads in divisors if torch.allclose(found(heads), expected, rtol=tolerance, atol=tolerance)]
    assert fit
    return fit


def outputs_of(network: MulT) -> dict[str, Tensor]:
    """Module name -> what it gives while the network runs; of memories their last step."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: found.__setitem__(
            name, output.values if isinstance(output, Steps) else output
        )

    for name, module in network.named_modules():
        if isinstance(module, (Encoder, nn.Conv1d)):
            module.register_forward_hook(keep(name))
    return found


@pytest.mark.golden("causalmer", "transformer_units.npz")
def test_positions_and_masks(golden: Arrays) -> None:
    for key in golden:
        if key.startswith("sinusoid_table_d"):
            count, width = golden[key].shape
            assert_close(sinusoids(count, width), torch.from_numpy(golden[key]))
        if key.startswith("future_mask_"):
            queries, keys = golden[key].shape
            seen = visible(queries, keys, True)
            mask = torch.ones(queries, keys, dtype=torch.bool)
            mask = mask.tril() if seen.causal else mask if seen.mask is None else seen.mask[0, 0]
            assert torch.equal(mask, torch.from_numpy(golden[key]) == 0)
    place = positions(Steps(torch.from_numpy(golden["pos_in"])[:, :, None]), "published")
    assert torch.equal(place, torch.from_numpy(golden["pos_index"]))
    embedded = torch.from_numpy(next(golden[key] for key in golden if key.startswith("pos_emb_d")))
    assert_close(sinusoids(place.shape[1] + 1, embedded.shape[2])[place], embedded)


@pytest.mark.golden("causalmer", "transformer_units.npz")
def test_attention(golden: Arrays) -> None:
    q, k = (torch.from_numpy(golden[f"mha_{name}"]).transpose(0, 1) for name in "qk")
    seen = Visible(torch.from_numpy(golden["mha_mask"] == 0)[None, None])
    expected = torch.from_numpy(golden["mha_out"]).transpose(0, 1)

    def found(heads: int) -> Tensor:
        attention = Attention(q.shape[2], heads).eval()
        attention.load_state_dict(below(golden, "mha_sd/"))
        return attention(q, k, seen)

    assert heads_that_give(expected, q.shape[2], found, 1e-5)


@pytest.mark.golden("causalmer", "transformer_units.npz")
def test_encoder(golden: Arrays) -> None:
    state = below(golden, "enc_sd/")
    x, source = (Steps(torch.from_numpy(golden[name]).transpose(0, 1)) for name in ("enc_x", "enc_k"))
    width = x.values.shape[2]

    def of(heads: int) -> Encoder:
        encoder = Encoder(width, heads, layers_of(state, ""), Drops(), padding="published").eval()
        encoder.load_state_dict({in_encoder(name): state[name] for name in state if mult_name(name)})
        return encoder

    alone = torch.from_numpy(golden["enc_self_out"])
    heads = heads_that_give(alone.transpose(0, 1), width, lambda heads: of(heads)(x).values, 1e-5)
    encoder = of(heads[0])
    assert_close(encoder.last(x), alone[-1], atol=1e-5, rtol=1e-5)
    crossed = torch.from_numpy(golden["enc_cross_out"])
    assert_close(encoder(x, source).values.transpose(0, 1), crossed, atol=1e-5, rtol=1e-5)


@pytest.mark.golden("causalmer", "mult_causalmer_tiny.npz")
def test_mult_of_causalmer(golden: Arrays) -> None:
    network = mult_of(below(golden, "sd/"), heads=10)  # hard-coded in the original
    seen = outputs_of(network)
    fused = network.fuse(steps(golden))
    for key, expected in below(golden, "act/").items():
        if not key.endswith("_mem"):  # of which only the last step is computed
            name = mult_name(f"{key}.weight")
            assert name is not None
            found = seen[name.removesuffix(".weight")]
            found = found if key.startswith("proj") else found.transpose(0, 1)
            assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert_close(fused.hidden, torch.from_numpy(golden["last_hs"]), atol=1e-4, rtol=1e-4)
    assert_close(fused.logits, torch.from_numpy(golden["output"]), atol=1e-4, rtol=1e-4)
    assert torch.equal(network.read_out(fused.hidden), fused.logits)


@pytest.mark.golden("causalmer", "mult_original_tiny.npz")
def test_mult_with_and_without_the_mask_of_the_future(golden: Arrays) -> None:
    state = below(golden, "sd/")
    for mode in ("mask", "nomask"):

        def fused(heads: int, causal: bool = mode == "mask") -> Fused:
            return mult_of(state, heads, causal=causal).fuse(steps(golden))

        hidden = torch.from_numpy(golden[f"{mode}/last_hs"])
        heads = heads_that_give(hidden, len(state["proj_l.weight"]), lambda heads: fused(heads).hidden, 1e-4)
        assert_close(fused(heads[0]).logits, torch.from_numpy(golden[f"{mode}/output"]), atol=1e-4, rtol=1e-4)


@pytest.mark.golden("causalmer", "mult_partial_modes.npz")
def test_one_target_alone(golden: Arrays) -> None:
    for letter in "lav":
        own = f"trans_{letter}_"
        state = {
            key: value
            for key, value in below(golden, f"{letter}only/sd/").items()
            if not key.startswith("trans_") or key.startswith(own)
        }

        def fused(heads: int, state: Any = state, target: str = MODALITIES[letter]) -> Fused:
            return mult_of(state, heads, (target,)).fuse(steps(golden))

        hidden = torch.from_numpy(golden[f"{letter}only/last_hs"])
        heads = heads_that_give(hidden, len(state["proj_l.weight"]), lambda heads: fused(heads).hidden, 1e-4)
        expected = torch.from_numpy(golden[f"{letter}only/output"])
        assert_close(fused(heads[0]).logits, expected, atol=1e-4, rtol=1e-4)
