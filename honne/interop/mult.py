"""Checkpoints of MulT (Tsai et al., ACL 2019): the state dict of its `MULTModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from honne.citations import citations
from honne.data.manifest import sha256
from honne.errors import HonneError, WrongCall
from honne.interop.fusion_names import MODALITIES, mult_name
from honne.labels import LabelSchema, canonical
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.networks.checkpoints import plain_tensors, require_finite, require_fit, some

HEADS = 5
"""Of the released code unless told otherwise; weights do not tell."""
EMOTIONS = ("neutral", "happiness", "sadness", "anger")
"""IEMOCAP's, in the order of the outputs: two of each, absent and present."""
FEATURES = {
    "text": "word vectors of the original's files (GloVe, 300 numbers)",
    "audio": "acoustic features of the original's files (COVAREP)",
    "vision": "face features of the original's files (FACET)",
}
WAY_OUT = (
    "A whole model that was pickled is never loaded. In the original's environment: "
    "torch.save(torch.load('FILE').state_dict(), 'weights.pt'), and import that."
)


def read(files: list[Path], name: str, *, labels: str | None = None, heads: int | None = None) -> Model:
    """One file, of any sizes; sequences were padded with zeros in training, so the model sees them so.

    Args:
        files: one state dict.
        name: of the model.
        labels: names of the emotions in the order of the outputs, of a model with two outputs for each. Default: the
            four of IEMOCAP.
        heads: of every attention; weights do not tell. Default: 5.

    Raises:
        HonneError: not a file of plain tensors, or of another network.
        WrongCall: more than one file, or an option that does not fit.
    """
    path = only(files, "mult")
    entries = opened(path)
    if any(key.startswith("tav_branch.") for key in entries):
        raise HonneError(f"{path}: is a checkpoint of CausalMER.", "honne import causalmer FILE ...")
    require_mult(path, entries)
    schema, classes = schema_of(path, len(entries["out_layer.bias"]), labels)
    entries = targeted(entries)
    network = {
        "kind": "mult",
        "options": {
            "modalities": modalities_of(entries),
            "sentiment_classes": classes,
            "standardise": False,
            **mult_options(entries, heads or HEADS),
        },
    }
    named = {mult_name(key): value for key, value in entries.items()}
    return model_of(path, name, "erm", schema, network, {key: v for key, v in named.items() if key}, "MIT")


def only(files: list[Path], system: str) -> Path:
    """The one file.

    Raises:
        WrongCall: there are several.
    """
    if len(files) != 1:
        raise WrongCall(f"{system}: a model comes from one file, not {len(files)}.", "Import one at a time.")
    return files[0]


def opened(path: Path) -> dict[str, Tensor]:
    """Entries of a file, without `module.`.

    Raises:
        HonneError: it is no file of plain tensors, or holds values that are not finite.
    """
    try:
        entries = {key.removeprefix("module."): value for key, value in plain_tensors(path).items()}
    except HonneError as error:
        raise HonneError(error.what, WAY_OUT) from None
    require_finite(path, entries)
    return entries


def require_mult(path: Path, entries: Mapping[str, Tensor]) -> None:
    """Refuse entries that are not those of MulT.

    Raises:
        HonneError: they are not.
    """
    needed = ("proj_l.weight", "proj_a.weight", "proj_v.weight", "proj1.weight", "out_layer.bias")
    if lacking := [key for key in needed if key not in entries]:
        raise HonneError(
            f"{path}: not a checkpoint of MulT, it lacks {lacking[0]} and holds {some(list(entries))}.",
            "Read are state dicts of MULTModel whose features are projected (not as wide as the network).",
        )


def modalities_of(entries: Mapping[str, Tensor]) -> dict[str, int]:
    """Modality -> number of features."""
    return {MODALITIES[letter]: entries[f"proj_{letter}.weight"].shape[1] for letter in "lav"}


def targeted(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries without encoders of modalities that look at nothing, which partial modes keep."""
    targets = _targets(entries)
    return {
        key: value for key, value in entries.items() if not key.startswith("trans_") or key[len("trans_")] in targets
    }


def _targets(entries: Mapping[str, Tensor]) -> set[str]:
    """Letters of the modalities that look at others."""
    return {match[1] for key in entries if (match := re.match(r"trans_([lav])_with_[lav]\.layers\.", key))}


def mult_options(entries: Mapping[str, Tensor], heads: int) -> dict[str, Any]:
    """Options of MulT by the shapes of its entries."""
    targets = _targets(entries)
    crossed = {match[1] for key in entries if (match := re.match(r"trans_[lav]_with_[lav]\.layers\.(\d+)\.", key))}
    kernels = {MODALITIES[letter]: entries[f"proj_{letter}.weight"].shape[2] for letter in "lav"}
    width = len(entries["proj_l.weight"])
    if heads < 1 or width % heads:
        raise WrongCall(f"--heads {heads} does not divide the width {width} of the network.", "Give another number.")
    return {
        "width": width,
        "heads": heads,
        "levels": len(crossed),
        "kernels": kernels,
        "targets": [MODALITIES[letter] for letter in "lav" if letter in targets] if len(targets) < 3 else [],
        "padding": "published",
    }


def schema_of(path: Path, outputs: int, labels: str | None) -> tuple[LabelSchema, int]:
    """What K outputs predict, and classes of sentiment: 1 a number, 7 classes, an even number pairs of emotions.

    Raises:
        HonneError: any other number.
        WrongCall: names that do not fit.
    """
    if outputs % 2:
        if labels is not None:
            raise WrongCall(f"--labels: {path} predicts sentiment.", "Leave it out.")
        if outputs not in (1, 7):
            raise HonneError(f"{path}: {outputs} outputs are neither sentiment nor emotions.", "1, 7, or 2 an emotion.")
        return LabelSchema(sentiment=3.0), 0 if outputs == 1 else outputs
    names = tuple(canonical(word) for word in labels.split(",")) if labels else EMOTIONS
    if 2 * len(names) != outputs:
        raise WrongCall(
            f"{path}: {outputs} outputs are two for each of {outputs // 2} emotions, and {len(names)} are named.",
            "--labels names them in the order of the outputs: neutral,happiness,sadness,anger.",
        )
    return LabelSchema(emotions=names), 0


def model_of(
    path: Path,
    name: str,
    method: str,
    schema: LabelSchema,
    network: dict[str, Any],
    weights: Mapping[str, Tensor],
    licence: str,
) -> Model:
    """The model of imported weights.

    Raises:
        HonneError: they do not fit the network.
    """
    body = build(network["kind"], network["options"], schema)
    own = body.state_dict()
    require_fit(path, weights, own, f"{method} on {network['kind']}", WAY_OUT)
    with torch.no_grad():
        body.load_state_dict(weights, strict=False)
    config = ModelConfig(
        name=name,
        method=method,
        network=network,
        labels=schema,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        alignment={},
        features=dict(FEATURES),
        training={
            "imported": f"{network['kind']}, {path.name}",
            "sha256": [sha256(path)],
            "limits": ["It takes the features of the original's files (honne prepare mult), not clips."],
        },
        licence={
            "code": "Apache-2.0",
            "weights": f"of the original authors: {licence}",
            "data": "of the original authors' training data: research only",
        },
        cite=citations(method, network),
    )
    return Model(config, body)
