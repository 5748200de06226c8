"""Checkpoints of CausalMER (Kim et al., Applied Sciences 2024): the state dict of its model around MulT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from honne.errors import HonneError
from honne.interop import mult
from honne.interop.fusion_names import MODALITIES, mult_name
from honne.models import Model
from honne.networks.checkpoints import some
from honne.networks.fusion.branches import BRANCHES, Branch

HEADS = 10
"""Hard-coded in the released code."""
_RESNET = re.compile(r"(?:^|\.)(layer[1-4]\..+|(?:conv1|bn1|fc)\.\w+)$")
_ALBERT = re.compile(r"(?:.*\.)?((?:embeddings|encoder)\..+)")
_UNUSED = ("word_embeddings", "pooler", "position_ids", "token_type_ids")
"""Parts of ALBERT that word vectors go around."""


def read(files: list[Path], name: str, *, labels: str | None = None, heads: int | None = None) -> Model:
    """One file: `tav_branch` (MulT), `t_branch`, `a_branch`, `v_branch`, and three constants.

    Args:
        files: one state dict.
        name: of the model.
        labels: as of `honne.interop.mult.read`.
        heads: of every attention; weights do not tell. Default: 10, as in the released code.

    Raises:
        HonneError: not a file of plain tensors, or of another network.
        WrongCall: more than one file, or an option that does not fit.
    """
    path = mult.only(files, "causalmer")
    entries = mult.opened(path)
    if not any(key.startswith("tav_branch.") for key in entries):
        other = "honne import mult FILE ..." if "proj_l.weight" in entries else "Read is the state dict of CAUSALMER."
        raise HonneError(f"{path}: not a checkpoint of CausalMER; it holds {some(list(entries))}.", other)
    inside = _below(entries, "tav_branch.")
    mult.require_mult(path, inside)
    inside = mult.targeted(inside)
    outputs = len(inside["out_layer.bias"])
    schema, classes = mult.schema_of(path, outputs, labels)
    sizes = mult.modalities_of(inside)
    weights = {f"backbone.{ours}": value for key, value in inside.items() if (ours := mult_name(key))}
    kinds: dict[str, Branch] = {}
    for letter in "tav":
        modality, own = MODALITIES[letter], _below(entries, f"{letter}_branch.")
        kinds[modality], found = _branch(path, letter, own, sizes[modality], outputs)
        weights |= {f"branches.{modality}.{key}": value for key, value in found.items()}
    lacking = [f"constant_{letter}" for letter in "tav" if f"constant_{letter}" not in entries]
    if lacking:
        raise HonneError(f"{path}: not a checkpoint of CausalMER, it lacks {lacking[0]}.", mult.WAY_OUT)
    weights["constants"] = torch.cat([entries[f"constant_{letter}"].reshape(1) for letter in "tav"])
    network: dict[str, Any] = {
        "kind": "counterfactual",
        "options": {
            "modalities": sizes,
            "sentiment_classes": classes,
            "standardise": False,
            "backbone": {"kind": "mult", "options": mult.mult_options(inside, heads or HEADS)},
            "branches": kinds,
        },
    }
    licence = "not stated (the repository carries no licence)"
    return mult.model_of(path, name, "causalmer", schema, network, weights, licence)


def _below(entries: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}


def _branch(
    path: Path, letter: str, entries: Mapping[str, Tensor], width: int, outputs: int
) -> tuple[Branch, dict[str, Tensor]]:
    """What a branch is, and its entries under our names; told by what they are, wherever in it they stand.

    Raises:
        HonneError: it is none that is known.
    """
    if set(entries) == {"fc.weight", "fc.bias"} and entries["fc.weight"].shape == (outputs, width):
        return "mean", dict(entries)
    if any("albert_layer" in key for key in entries):
        return "albert", _albert(entries, width, outputs)
    if any(re.fullmatch(r"(?:.*\.)?layer4\.1\.conv2\.weight", key) for key in entries):
        return "resnet18", {
            f"resnet.{match[1]}": value for key, value in entries.items() if (match := _RESNET.search(key))
        }
    raise HonneError(
        f"{path}: {letter}_branch is no branch of CausalMER; it holds {some(list(entries))}.",
        "Read are ALBERT for text, ResNet-18 for audio and vision, and a linear layer over the mean.",
    )


def _albert(entries: Mapping[str, Tensor], width: int, outputs: int) -> dict[str, Tensor]:
    """Entries of the text branch; the table of words, which it goes around, is one row of zeros."""
    own = BRANCHES["albert"](width, outputs).state_dict()
    found = {key: torch.zeros_like(value) for key, value in own.items() if "word_embeddings" in key}
    shapes = {"inputs": own["inputs.weight"].shape, "fc": own["fc.weight"].shape}
    for key, value in entries.items():
        if any(word in key for word in _UNUSED):
            continue
        if match := _ALBERT.fullmatch(key):
            found[f"albert.{match[1]}"] = value
            continue
        layer = next((name for name, shape in shapes.items() if value.shape in (shape, shape[:1])), None)
        found[f"{layer or 'unknown'}.{key.rpartition('.')[2]}"] = value
    return found
