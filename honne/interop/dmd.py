"""Checkpoints of DMD (Li, Wang, Cui, CVPR 2023): the state dict of its model, without the distillation units."""

from __future__ import annotations

import re
from pathlib import Path

from honne.errors import HonneError, WrongCall
from honne.interop import mult
from honne.interop.fusion_names import MODALITIES, dmd_name
from honne.models import Model
from honne.networks import build
from honne.networks.checkpoints import some

HEADS = 10
"""Of the published configuration for MOSI; 6 for MOSEI."""


def read(files: list[Path], name: str, *, heads: int | None = None) -> Model:
    """One file, of a model on word vectors or on BERT's features; BERT itself is left out.

    Args:
        files: one state dict.
        name: of the model.
        heads: of every attention; weights do not tell. Default: 10, as published for MOSI.

    Raises:
        HonneError: not a file of plain tensors, or of another network.
        WrongCall: more than one file, or heads that do not fit.
    """
    path = mult.only(files, "dmd")
    entries = {re.sub(r"^(Model|model)\.", "", key): value for key, value in mult.opened(path).items()}
    if "encoder_c.weight" not in entries or "proj_l.weight" not in entries:
        raise HonneError(f"{path}: not a checkpoint of DMD; it holds {some(list(entries))}.", mult.WAY_OUT)
    projections = {letter: entries[f"proj_{letter}.weight"] for letter in "lav"}
    width = len(entries["encoder_c.weight"])
    heads = heads or HEADS
    if width % heads:
        raise WrongCall(f"--heads {heads} does not divide the width {width} of the network.", "Give another number.")
    kernels = {MODALITIES[letter]: weight.shape[2] for letter, weight in projections.items()}
    steps = {letter: entries[f"align_c_{letter}.weight"].shape[1] // width for letter in "lav"}
    levels = {match[1] for key in entries if (match := re.match(r"trans_l_with_a\.layers\.(\d+)\.", key))}
    schema, classes = mult.schema_of(path, len(entries["out_layer.bias"]), None)
    network = {
        "kind": "dmd",
        "options": {
            "modalities": {MODALITIES[letter]: weight.shape[1] for letter, weight in projections.items()},
            "sentiment_classes": classes,
            "standardise": False,
            "lengths": {MODALITIES[letter]: steps[letter] + kernels[MODALITIES[letter]] - 1 for letter in "lav"},
            "width": width,
            "heads": heads,
            "levels": len(levels),
            "kernels": kernels,
            "padding": "published",
        },
    }
    named = {ours: value for key, value in entries.items() if (ours := dmd_name(key))}
    fresh = build("dmd", network["options"], schema).state_dict()  # type: ignore[arg-type]
    units = {key: value for key, value in fresh.items() if key.startswith(("homogeneous.", "heterogeneous."))}
    return mult.model_of(path, name, "erm", schema, network, named | units, "MIT")
