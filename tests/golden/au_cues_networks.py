"""Heads, attention dropout, TS-CAM and APViT against recordings of the original code; sizes of its networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from honne.batch import Batch
from honne.explain.maps import class_token_attention
from honne.labels import LabelSchema
from honne.networks.apvit import PoolingTransformer, strength, strongest, strongest_but_first
from honne.networks.attention_dropout import attention_dropout
from honne.networks.class_maps import HEADS, Acol
from honne.networks.face import FaceNetwork
from honne.networks.layers import layer_names, watched

Golden = dict[str, np.ndarray]

NAMES = {
    "GAP": "gap",
    "WGAP": "linear",
    "MaxPool": "max",
    "LogSumExpPool": "lse",
    "PRM": "prm",
    "WildCatCLHead": "wildcat",
}
SHARE = 0.9  # of the tokens that later blocks of APViT keep: in the text with the recordings, in no array


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values)


def under(golden: Golden, prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor(value) for key, value in golden.items() if key.startswith(prefix)}


def divisors(number: int) -> list[int]:
    """Possible numbers of heads, which no array holds."""
    return [each for each in range(1, number + 1) if number % each == 0]


def fits(found: Tensor, wanted: np.ndarray) -> bool:
    return bool(np.allclose(found.detach(), wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max()))


def close(found: Tensor, wanted: np.ndarray, what: str = "") -> None:
    atol = 1e-5 * np.abs(wanted).max()
    np.testing.assert_allclose(found.detach(), wanted, rtol=1e-5, atol=atol, err_msg=what)


def schema(classes: int) -> LabelSchema:
    return LabelSchema(tuple(f"class {i}" for i in range(classes)))


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.golden("au_cues", "pooling_heads*.npz")
def test_heads(golden: Golden) -> None:
    features = tensor(golden["features"])
    tags = [key.removesuffix("_logits") for key in golden if key.endswith("_logits")]
    assert tags
    for tag in tags:
        recorded, _, variant = tag.partition("_")
        logits, own = golden[f"{tag}_logits"], under(golden, f"{tag}_param.")
        options: dict[str, Any] = {"background": variant == "bg1"}
        if recorded == "WGAP":
            layers = sorted(name.removesuffix(".bias") for name in own if name.endswith(".bias"))  # fc, fc1, fc2
            options["dense"] = [len(own[f"{name}.bias"]) for name in layers[:-1]]
            for place, name in enumerate(layers):
                own |= {f"layers.{place}.{part}": own.pop(f"{name}.{part}") for part in ("weight", "bias")}
        elif recorded == "WildCatCLHead":
            maps = golden[f"{tag}_cams"].shape[1]
            options |= {"lowest": "dropped", "modalities": len(own["to_modalities.bias"]) // maps}
        head: Any = HEADS[NAMES[recorded]](features.shape[1], logits.shape[1], **options)
        head.load_state_dict({name.replace("to_modalities", "conv"): value for name, value in own.items()})
        if recorded == "WGAP":
            close(head(features.mean((2, 3))), logits, tag)
        else:
            close(head(features), logits, tag)
            close(head.every_map(features), golden[f"{tag}_cams"], tag)
            close(head.class_maps(features), golden[f"{tag}_cams"][:, -logits.shape[1] :], tag)


@pytest.mark.golden("au_cues", "acol*.npz")
def test_acol(golden: Golden) -> None:
    maps, labels = tensor(golden["features"]), tensor(golden["labels"])
    head = Acol(maps.shape[1], golden["logits_a"].shape[1], hidden=1, threshold=float(golden["drop_threshold"]))
    for branch in ("a", "b"):  # recorded with a single convolution each
        own = under(golden, f"param.classifier_{branch.upper()}.")
        single = nn.Conv2d(maps.shape[1], len(own["bias"]), own["weight"].shape[2])
        single.load_state_dict(own)
        setattr(head, branch, single)
    first, second = head.branches(maps, labels)
    close(first, golden["cams_a"])
    close(head.attention(first, labels), golden["attention"])
    close(head.erased(maps, head.attention(first, labels)), golden["erased"])
    close(first.mean((2, 3)), golden["logits_a"])
    close(head(maps), golden["logits_a"])
    close(second.mean((2, 3)), golden["logits_b"])
    close(head.class_maps(maps, labels), golden["cams_fused"])


@pytest.mark.golden("au_cues", "adl*.npz")
def test_attention_dropout(golden: Golden) -> None:
    maps, threshold = tensor(golden["features"]), float(golden["drop_threshold"])
    close(attention_dropout(maps, 1.0, threshold), golden["out_drop_branch"])
    close(attention_dropout(maps, 0.0, threshold), golden["out_importance_branch"])
    rate, draws = float(golden["drop_rate"]), 1000
    torch.manual_seed(0)
    hidden = attention_dropout(maps, 1.0, threshold)
    dropped = [torch.equal(attention_dropout(maps, rate, threshold), hidden) for _ in range(draws)]
    assert np.mean(dropped) == pytest.approx(rate, abs=0.05)

    network = FaceNetwork(schema(2), "resnet18", attention_dropout=rate)
    for block in (network.backbone.layer3[0], network.backbone.layer4[0], network.backbone.layer4[-1]):
        (hook,) = block.eval()._forward_hooks.values()
        close(hook(block, (), maps), golden["out_eval"])


@pytest.mark.golden("au_cues", "tscam_small*.npz")
def test_tscam(golden: Golden) -> None:
    own, image = under(golden, "param."), tensor(golden["image"])
    width, _, patch, _ = own["patch_embed.proj.weight"].shape
    blocks = {name.split(".")[1] for name in own if name.startswith("blocks.")}
    sizes = {
        "img_size": image.shape[-1],
        "patch_size": patch,
        "embed_dim": width,
        "depth": len(blocks),
        "mlp_ratio": len(own["blocks.0.mlp.fc1.bias"]) / width,
    }
    state = {f"expression.conv{name[4:]}" if name[:5] == "head." else f"backbone.{name}": own[name] for name in own}

    def build(heads: int) -> FaceNetwork:
        options = sizes | {"num_heads": heads}
        built = FaceNetwork(schema(golden["logits"].shape[1]), "deit_tiny_patch16_224", options, head="tscam").eval()
        built.load_state_dict(state)
        return built

    some = [build(heads) for heads in divisors(width)]
    network = next((each for each in some if fits(each(Batch(images=image)).expression, golden["logits"])), some[0])
    with torch.no_grad(), watched(network, ["last"]) as seen, class_token_attention(network) as attention:
        close(network(Batch(images=image)).expression, golden["logits"])
    close(seen["last"], golden["patch_features"])
    agnostic = torch.stack(attention).sum(0)
    close(agnostic[:, None], golden["semantic_agnostic_attention"])
    close(agnostic * network.class_maps(seen["last"])[0], golden["cams"])


@pytest.mark.golden("au_cues", "apvit_small*.npz")
def test_apvit(golden: Golden) -> None:
    own, maps = under(golden, "apvit."), tensor(golden["apvit_small_in"])
    own = {name.replace("attn.", "").replace("projs.0", "projection"): value for name, value in own.items()}
    blocks = len({name.split(".")[1] for name in own if name.startswith("blocks.")})
    width, channels = own["projection.weight"].shape[:2]
    shares = [1.0] * (blocks - blocks // 2) + [SHARE] * (blocks // 2)
    ratio = len(own["blocks.0.mlp.fc1.bias"]) / width

    def build(heads: int, kept: int) -> PoolingTransformer:
        built = PoolingTransformer(channels, maps.shape[-1], width, heads, ratio, kept, shares).eval()
        built.load_state_dict(own)
        return built

    tokens, wanted = maps.shape[-1] ** 2, golden["apvit_small_out"]
    some = (build(heads, kept) for heads in divisors(width) for kept in range(tokens, 1, -1))
    transformer = next(each for each in some if fits(each(maps), wanted))  # neither number is in an array
    close(strength(transformer.projection(maps)), golden["apvit_small_attn"])

    for key, kept in golden.items():
        if key.startswith("keep") and key[4:].isdecimal():
            np.testing.assert_array_equal(strongest(tensor(golden["w1"])[:, :, 0], int(key[4:])), kept)
    found = strongest_but_first(tensor(golden["w2"])[:, :, 0], SHARE)
    np.testing.assert_array_equal(found, golden["keep_rate0_9_excl_first"])


@pytest.mark.golden("au_cues", "network_shapes*.npz")
def test_sizes(golden: Golden) -> None:
    tags = [key.removesuffix("_nparams") for key in golden if key.startswith("resnet") and key.endswith("_nparams")]
    assert tags
    with torch.device("meta"):
        for tag in tags:
            backbone, _, large = tag.partition("_large")
            network = FaceNetwork(LabelSchema(), backbone, large_maps=large == "1").eval()
            assert parameters(network) == golden[f"{tag}_nparams"], tag
            shapes = golden.get(f"{tag}_feature_shapes")
            if shapes is not None:
                image, *layers = shapes.tolist()
                names = layer_names(network)[:-1]
                with watched(network, names) as seen:
                    network(Batch(images=torch.empty(1, *image)))
                assert [list(seen[name].shape[1:]) for name in names] == layers, tag
        transformer = FaceNetwork(schema(7), "deit_small_patch16_224", head="tscam")
        assert parameters(transformer) == golden["tscam_small_7cls_nparams"]

        network = FaceNetwork(LabelSchema(), "apvit").eval()
        assert parameters(network.backbone.trunk) == golden["ir50_first3stages_nparams"]
        assert parameters(network.backbone.transformer) == golden["apvit_vit_nparams"]
        with watched(network, ["1", "last"]) as seen:
            network(Batch(images=torch.empty(1, 3, 112, 112)))
        for name in ("1", "last"):
            assert list(seen[name].shape[1:]) == golden["ir50_stage3_out_shape_112"].tolist()
