"""Published files of DMUE (She et al., CVPR 2021): training checkpoints, converted ones, face pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from torch import Tensor

from honne.citations import CITATIONS
from honne.data.cropping import DMUE_TEMPLATE
from honne.data.manifest import sha256
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.interop.classes import classes
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.networks.checkpoints import plain_tensors, require_finite, require_fit, some

Entry = TypeVar("Entry")
Kind = Literal["training checkpoint", "converted checkpoint", "face pre-training"]

PUBLISHED = "affectnet8"
"""The order of the classes in the published weights."""
ALIGNMENT = Alignment("points", 224, template=DMUE_TEMPLATE, centre=224 / 256)
OURS = {"base.": "backbone.", "bottleneck.": "neck.", "classifiers.0.": "expression."}
EXPONENT = "backbone.global_pool.p"


def read(
    files: list[Path], name: str, *, labels: str | None = None, stem: Literal["released", "standard"] | None = None
) -> Model:
    """The target branch of a checkpoint as a model; of face pre-training, a backbone without classes.

    Three kinds of file are told apart by their entries, each with or without `module.` in front: training checkpoints
    (C + 1 last stages), converted ones (one), and face pre-training (`feat_net.*`). So are ResNet-18, ResNet-50-IBN-a
    and, in pre-training, plain ResNet-50; the neck; biases; a learned exponent of GeM pooling.

    Faces are cropped nearly as in training: the original stretches the box of a face to a square, a box that depends on
    its detector; here five points go to fixed places and nothing is stretched (`honne.data.cropping.DMUE_SQUARE`).

    Args:
        files: one checkpoint.
        name: of the model.
        labels: set or names of the classes in the order of the outputs. Default: affectnet8, for eight classes.
        stem: of a ResNet-18, which the entries do not tell. Default: released.

    Raises:
        HonneError: not a file of plain tensors, not of this system, of another network, or another number of classes.
        WrongCall: several files, or an option that does not go with this checkpoint.
    """
    if len(files) != 1:
        raise WrongCall(f"dmue: a model comes from one checkpoint, {len(files)} were given.", "Import one at a time.")
    path = files[0]
    kind, entries = _opened(path)
    expressions = _expressions(path, entries.get("classifiers.0.weight"), labels)
    options: dict[str, Any] = {
        "backbone": _backbone(entries, stem),
        "backbone_options": {},
        "dropout": 0.5,
        "pooling": "gem" if _exponents(entries) else "default",
        "neck": "bottleneck.weight" in entries,
        "head_bias": "classifiers.0.bias" in entries,
    }
    schema = LabelSchema(expressions)
    network = build("face", options, schema)
    renamed = own_names(entries)
    require_fit(path, renamed, network.state_dict(), options["backbone"], _READS, _theirs)
    network.load_state_dict(renamed, strict=False)
    config = ModelConfig(
        name=name,
        method="dmue",
        network={"kind": "face", "options": options},
        labels=schema,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        alignment=ALIGNMENT.to_dict(),
        training={"imported": f"{kind} of DMUE, {path.name}", "sha256": sha256(path)},
        licence={
            "code": "Apache-2.0",
            "weights": "weights of the original authors, terms unknown: research only",
            "data": "of the original authors' training data: non-commercial research only",
        },
        cite=[CITATIONS["dmue"]],
    )
    return Model(config, network)


def to_target(entries: Mapping[str, Entry], classes: int) -> dict[str, Entry]:
    """Training checkpoint -> target model, in the original's names (`base.layer4_8.x` -> `base.layer4.x`).

    Args:
        entries: of C + 1 branches, without `module.`; usually tensors.
        classes: C, which is also the index of the target branch.
    """
    keys = {key: _target_key(key.split("."), classes) for key in entries}
    return {new: entries[old] for old, new in keys.items() if new is not None}


def _target_key(segments: list[str], target: int) -> str | None:
    match segments:
        case ["project_w", *_]:
            return None
        case ["base", stage, *rest] if stage.startswith("layer4_"):
            return ".".join(["base", "layer4", *rest]) if stage == f"layer4_{target}" else None
        case ["classifiers", branch, *rest]:
            return ".".join(["classifiers", "0", *rest]) if branch == str(target) else None
    return ".".join(segments)


def own_names(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of a target model under the names of `FaceNetwork`."""
    exponents = _exponents(entries)
    renamed = {}
    for key, value in entries.items():
        start = next((start for start in OURS if key.startswith(start)), "")
        renamed[EXPONENT if key in exponents else OURS.get(start, "") + key.removeprefix(start)] = value
    return renamed


def _exponents(entries: Mapping[str, Tensor]) -> list[str]:
    """The learned exponent of GeM pooling, wherever the pooling hangs."""
    return [key for key, value in entries.items() if key.endswith(".p") and value.shape == (1,)]


def _opened(path: Path) -> tuple[Kind, dict[str, Tensor]]:
    """What the file is, and its target model in the original's names."""
    entries = {key.removeprefix("module."): value for key, value in plain_tensors(path).items()}
    require_finite(path, entries)
    if any(key.startswith("feat_net.") for key in entries):
        trunk = [key for key in entries if key.startswith("feat_net.") and "fc" not in key.split(".")]
        return "face pre-training", {f"base.{key.removeprefix('feat_net.')}": entries[key] for key in trunk}
    if not any(key.startswith("base.") for key in entries):
        raise HonneError(f"{path}: not a checkpoint of DMUE; it holds {some(list(entries))}.", _READS)
    if not any(key.startswith("base.layer4_") for key in entries):
        if "classifiers.0.weight" not in entries:
            raise HonneError(f"{path}: not a whole checkpoint of DMUE; it has no classifier.", _READS)
        return "converted checkpoint", entries
    numbers = [key.split(".")[1] for key in entries if key.startswith("classifiers.")]
    classes = max((int(number) for number in numbers if number.isdigit()), default=0)
    target = entries.get(f"classifiers.{classes}.weight")
    if target is None or len(target) != classes:
        found = "has no classifiers" if target is None else f"'classifiers.{classes}' has {len(target)} outputs"
        raise HonneError(f"{path}: the last of C + 1 branches has C outputs, but this file {found}.", _READS)
    return "training checkpoint", to_target(entries, classes)


def _expressions(path: Path, classifier: Tensor | None, labels: str | None) -> tuple[str, ...]:
    if classifier is not None:
        return classes(path, len(classifier), labels, PUBLISHED)
    if labels is not None:
        raise WrongCall(f"--labels: {path} has no classes.", "Leave it out.")
    return ()


def _backbone(entries: Mapping[str, Tensor], stem: Literal["released", "standard"] | None) -> str:
    if "base.layer1.0.conv3.weight" not in entries:
        return "resnet18" if stem == "standard" else "dmue_resnet18"
    if stem is not None:
        raise WrongCall("--stem is for ResNet-18; this checkpoint is a ResNet-50.", "Leave it out.")
    return "resnet50_ibn_a" if "base.layer1.0.bn1.IN.weight" in entries else "resnet50"


def _theirs(key: str) -> str:
    """The original's name of one of our entries."""
    start = next((start for start, ours in OURS.items() if key.startswith(ours)), "")
    return start + key.removeprefix(OURS.get(start, ""))


_READS = "DMUE's training, conversion and pre-training write ResNet-18 and ResNet-50-IBN-a; only these are read."
