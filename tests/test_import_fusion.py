"""Checkpoints of MulT, CausalMER and DMD become models that say the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.interop import import_model
from honne.labels import LabelSchema
from honne.models import Model, load
from honne.networks import build

WIDTHS = {"text": 5, "audio": 4, "vision": 3}
LETTERS = {"text": "l", "audio": "a", "vision": "v"}
MULT: dict[str, Any] = {
    "width": 8,
    "heads": 2,
    "levels": 2,
    "kernels": {"text": 3, "audio": 1, "vision": 2},
    "padding": "published",
}
EMOTIONS = LabelSchema(emotions=("neutral", "happiness", "sadness", "anger"))
IN_LAYER = {
    "attention": "self_attn",
    "expand": "fc1",
    "contract": "fc2",
    "norm_attention": "layer_norms.0",
    "norm_feedforward": "layer_norms.1",
}
READ_OUT = {"first": "proj1", "second": "proj2", "outputs": "out_layer"}


def published(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of our MulT under the original's names, with its buffers."""
    found = {}
    for key, value in entries.items():
        for ours, theirs in IN_LAYER.items():
            key = re.sub(rf"(layers\.\d+)\.{ours}\.", rf"\1.{theirs}.", key)
        key = re.sub(r"(crossmodal|memory)(\..*?)\.norm\.", r"\1\2.layer_norm.", key)
        key = re.sub(r"projections\.(\w+)\.convolution", lambda m: f"proj_{LETTERS[m[1]]}", key)
        key = re.sub(r"streams\.crossmodal\.(\w+)\.(\w+)", lambda m: f"trans_{LETTERS[m[1]]}_with_{LETTERS[m[2]]}", key)
        key = re.sub(r"streams\.memory\.(\w+)", lambda m: f"trans_{LETTERS[m[1]]}_mem", key)
        found[re.sub(r"^out\.(\w+)", lambda m: READ_OUT[m[1]], key)] = value
    return found | {"trans_l_with_a.version": torch.ones(1), "trans_l_mem.embed_positions._float_tensor": torch.ones(1)}


def given() -> Batch:
    torch.manual_seed(1)
    sequences = {name: torch.randn(3, 6, width) for name, width in WIDTHS.items()}
    return Batch(sequences=sequences, lengths={name: torch.full((3,), 6) for name in WIDTHS})


def made(kind: str, schema: LabelSchema, **options: Any) -> Any:
    torch.manual_seed(0)
    return build(kind, {"modalities": WIDTHS, "standardise": False} | options, schema).eval()


def imported(system: str, entries: Any, tmp_path: Path, **options: Any) -> Model:
    path = tmp_path / "weights.pt"
    torch.save(entries, path)
    import_model(system, [path], tmp_path / "model", overwrite=True, **options)
    return load(tmp_path / "model")


@pytest.mark.parametrize(
    ("schema", "outputs"), [(EMOTIONS, 0), (LabelSchema(sentiment=3.0), 0), (LabelSchema(sentiment=3.0), 7)]
)
def test_mult(schema: LabelSchema, outputs: int, tmp_path: Path) -> None:
    network = made("mult", schema, sentiment_classes=outputs, **MULT)
    model = imported("mult", {"module." + k: v for k, v in published(network.state_dict()).items()}, tmp_path, heads=2)
    assert model.schema == schema
    said, expected = model.forward_batch(given()), network(given())
    torch.testing.assert_close(said.features, expected.features)
    torch.testing.assert_close(said.emotions, expected.emotions)
    torch.testing.assert_close(said.sentiment, expected.sentiment)
    assert "MIT" in model.config.licence["weights"]
    assert "sequences of text, audio, vision" in (tmp_path / "model" / "card.md").read_text()


def test_a_partial_mode(tmp_path: Path) -> None:
    network = made("mult", EMOTIONS, targets=["audio"], **MULT)
    entries = published(network.state_dict())
    entries["trans_l_mem.layer_norm.weight"] = torch.ones(16)  # allocated there, and never used
    model = imported("mult", entries, tmp_path, heads=2)
    torch.testing.assert_close(model.forward_batch(given()).emotions, network(given()).emotions)


def causalmer(branches: dict[str, str]) -> tuple[Any, dict[str, Tensor]]:
    """Our network, and its entries under the original's names; branches stand somewhere deeper there."""
    network = made("counterfactual", EMOTIONS, backbone={"kind": "mult", "options": MULT}, branches=branches)
    network.constants.data = torch.tensor([0.3, -0.2, 0.1])
    entries = {}
    for key, value in network.state_dict().items():
        if key.startswith("branches."):
            _, name, rest = key.split(".", 2)
            rest = re.sub(r"^(resnet|albert)\.", "model.", rest)
            if branches[name] == "albert":
                rest = rest.replace("inputs.", "proj.").replace("fc.", "classifier.")
            entries[f"{'t' if name == 'text' else name[0]}_branch.{rest}"] = value
    entries |= {f"tav_branch.{k}": v for k, v in published(network.backbone.state_dict()).items()}
    return network, entries | {f"constant_{n}": c[None] for n, c in zip("tav", network.constants.detach(), strict=True)}


def test_causalmer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, entries = causalmer({"text": "mean", "audio": "resnet18", "vision": "resnet18"})
    model = imported("causalmer", entries, tmp_path, heads=2)
    torch.testing.assert_close(model.forward_batch(given()).emotions, network(given()).emotions)
    assert model.config.method == "causalmer"
    assert "no licence" in model.config.licence["weights"]


def test_causalmer_with_albert(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    network, entries = causalmer({"text": "albert", "audio": "mean", "vision": "mean"})
    words = next(key for key in entries if "word_embeddings" in key)
    entries[words] = torch.randn(30, 128)
    entries["t_branch.model.pooler.weight"] = torch.randn(4, 4)
    model = imported("causalmer", entries, tmp_path, heads=2)
    torch.testing.assert_close(model.forward_batch(given()).emotions, network(given()).emotions)


def test_refused(tmp_path: Path) -> None:
    network, entries = causalmer({"text": "mean", "audio": "mean", "vision": "mean"})
    plain = published(network.backbone.state_dict())
    with pytest.raises(HonneError, match=r"(?s)checkpoint of CausalMER.*honne import causalmer"):
        imported("mult", entries, tmp_path)
    with pytest.raises(HonneError, match=r"(?s)not a checkpoint of CausalMER.*honne import mult"):
        imported("causalmer", plain, tmp_path)
    with pytest.raises(HonneError, match=r"(?s)not a file of plain tensors.*state_dict"):
        imported("causalmer", nn.Linear(2, 2), tmp_path)
    with pytest.raises(HonneError, match="not finite"):
        imported("mult", plain | {"proj1.bias": plain["proj1.bias"] * torch.nan}, tmp_path)
    with pytest.raises(HonneError, match="lacks"):
        imported("mult", {k: v for k, v in plain.items() if "trans_a_mem.layers.1" not in k}, tmp_path, heads=2)
    with pytest.raises(WrongCall, match="--heads 3 does not divide the width 8"):
        imported("mult", plain, tmp_path, heads=3)
    with pytest.raises(WrongCall, match="two for each of 4 emotions, and 3 are named"):
        imported("mult", plain, tmp_path, heads=2, labels="neutral,happiness,anger")
    with pytest.raises(WrongCall, match="no option --stem"):
        imported("mult", plain, tmp_path, stem="standard")
    with pytest.raises(HonneError, match="a_branch is no branch of CausalMER"):
        imported("causalmer", {k: v for k, v in entries.items() if k != "a_branch.fc.bias"}, tmp_path, heads=2)
    with pytest.raises(HonneError, match="not a checkpoint of DMD"):
        imported("dmd", plain, tmp_path)
