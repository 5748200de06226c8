"""Released files of multitask emotion recognition with incomplete labels (Deng, Chen, Shi; FG 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from honne.citations import CITATIONS
from honne.codes import ACTION_UNIT_SETS
from honne.data.cropping import ARCFACE_TEMPLATE
from honne.data.manifest import sha256
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.interop.classes import classes
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.networks.checkpoints import plain_tensors, require_finite, require_fit, some
from honne.networks.ensemble import joined

Entry = TypeVar("Entry")
Kind = Literal["CNN", "CNN-RNN", "trunk"]

BACKBONE = "resnet50_caffe"
LABELS = "affwild2"
"""The order of expressions and of action units in the released weights: the 2020 edition of Aff-Wild2."""
TASKS = {"0": "expression", "1": "action_units", "2": "valence_arousal"}
BINS = 20
WINDOW = 32
MEAN = [131.0912 / 255, 103.8827 / 255, 91.4953 / 255]
STD = [1 / 255] * 3
ALIGNMENT = Alignment("points", 112, template=ARCFACE_TEMPLATE, centre=112 / 134)
THRESHOLDS = {
    0: (0.1448537, 0.03918985, 0.13766725, 0.02652811, 0.40589422, 0.15572545, 0.04808964, 0.10848708),
    32: (0.4253935, 0.02641966, 0.1119782, 0.02978198, 0.17256933, 0.06369855, 0.07433069, 0.13828614),
    16: (0.30485213, 0.09509478, 0.59577084, 0.4417419, 0.4396544, 0.0452404, 0.05204154, 0.0633798),
    8: (0.4365209, 0.10177602, 0.2649502, 0.22586018, 0.3772219, 0.07532539, 0.07667687, 0.04306327),
}
"""Window, 0 of single images -> probability from which each action unit counts as present in the released code."""

IN_BLOCK = {
    "1x1_reduce": "conv1",
    "1x1_reduce_bn": "bn1",
    "3x3": "conv2",
    "3x3_bn": "bn2",
    "1x1_increase": "conv3",
    "1x1_increase_bn": "bn3",
    "1x1_proj": "downsample.0",
    "1x1_proj_bn": "downsample.1",
}
IN_HEAD = {"bn0": "norm_in", "fc_0": "hidden", "bn1": "norm", "fc_1": "outputs"}
TRUNK_NAMES = {"conv1_7x7_s2": "conv1", "conv1_7x7_s2_bn": "bn1"} | {
    f"conv{stage + 1}_{block + 1}_{theirs}": f"layer{stage}.{block}.{ours}"
    for stage, blocks in enumerate((3, 4, 6, 3), 1)
    for block in range(blocks)
    for theirs, ours in IN_BLOCK.items()
}
FACE_NAMES = {f"backbone.model.{theirs}": f"backbone.{ours}" for theirs, ours in TRUNK_NAMES.items()} | {
    f"classifier.{i}.{theirs}": f"{task}.{ours}" for i, task in TASKS.items() for theirs, ours in IN_HEAD.items()
}
CLIP_NAMES = {f"backbone.{theirs}": f"frames.{ours}" for theirs, ours in FACE_NAMES.items()} | {
    f"classifier.{i}.{theirs}": f"recurrent.{task}.{ours}"
    for i, task in TASKS.items()
    for theirs, ours in (("GRU_layer", "gru"), ("fc_1", "outputs"))
}
NAMES: dict[Kind, dict[str, str]] = {
    "CNN": FACE_NAMES,
    "CNN-RNN": CLIP_NAMES,
    "trunk": {theirs: f"backbone.{ours}" for theirs, ours in TRUNK_NAMES.items()},
}
"""Module of theirs -> module of ours."""
FIRST: dict[str, Kind] = {
    "backbone.backbone.model.conv1_7x7_s2.weight": "CNN-RNN",
    "backbone.model.conv1_7x7_s2.weight": "CNN",
    "conv1_7x7_s2.weight": "trunk",
}
"""Entry that tells the kind of a file."""
_READS = (
    "Read are the released CNN and CNN-RNN of 7 expressions, 8 action units and 2 x 20 bins, and the FER+ ResNet-50."
)


def read(
    files: list[Path],
    name: str,
    *,
    labels: str | None = None,
    window: int | None = None,
    thresholds: Literal["released", "half"] | None = None,
) -> Model:
    """One file as a model; several of one kind as an ensemble, the mean of their probabilities; or a trunk.

    Three kinds of file are told apart by their entries, each with or without `module.` in front: CNN (single images),
    CNN-RNN (clips), and the FER+ ResNet-50 that training begins with.

    Args:
        files: of teacher or students.
        name: of the model.
        labels: set or names of the expressions in the order of the outputs. Default: affwild2.
        window: frames that a CNN-RNN sees at once, which its entries do not tell. Default: 32.
        thresholds: of the action units: `released`, the constants of the released code, or `half`, 0.5. Default:
            released, where the code has some.

    Raises:
        HonneError: not a file of plain tensors, not of this system, of another network; files of several kinds.
        WrongCall: an option that does not go with this checkpoint.
    """
    if len(set(files)) < len(files):
        raise WrongCall("multitask: a file is named twice.", "Name every network of the ensemble once.")
    opened = [_opened(path) for path in files]
    kind = _one_kind(files, [found for found, _ in opened])
    schema, length = _schema(files[0], kind, opened[0][1], labels), _length(files[0], kind, window)
    constants = _thresholds(kind, length, thresholds)
    network = _network(kind, opened[0][1], length)
    with torch.device("meta"):
        own = build(network["kind"], network["options"], schema).state_dict()
    members = [_fitting(path, kind, entries, own) for path, (_, entries) in zip(files, opened, strict=True)]
    weights = members[0]
    if len(members) > 1:
        shared = kind == "CNN-RNN" and _same_frames(members)
        network = {"kind": "ensemble", "options": network | {"members": len(files), "shared_frames": shared}}
        weights = joined(members, shared)
    body = build(network["kind"], network["options"], schema)
    body.load_state_dict(weights, strict=False)
    config = ModelConfig(
        name=name,
        method="multitask",
        network=network,
        labels=schema,
        mean=MEAN,
        std=STD,
        alignment=ALIGNMENT.to_dict(),
        thresholds=constants,
        training={
            "imported": f"{_KINDS[kind]}, {', '.join(path.name for path in files)}",
            "sha256": [sha256(path) for path in files],
        },
        licence={
            "code": "Apache-2.0",
            "weights": "weights of the original authors, terms unknown: research only",
            "data": "of the original authors' training data: non-commercial research only",
        },
        cite=[CITATIONS["ferplus_trunk" if kind == "trunk" else "multitask"]],
    )
    if constants:
        config.training["limits"] = [_OF_THRESHOLDS]
    return Model(config, body)


def backbone_name(published: str) -> str:
    """timm's name of an entry of the FER+ ResNet-50; of others, the name as it is.

    Example:
        >>> backbone_name("conv5_1_1x1_proj.weight"), backbone_name("conv2_1_1x1_reduce_bn.running_var")
        ('layer4.0.downsample.0.weight', 'layer1.0.bn1.running_var')
    """
    return _renamed(published, TRUNK_NAMES)


def own_names(entries: Mapping[str, Entry], kind: Kind) -> dict[str, Entry]:
    """Entries of a file, without `module.`, under the names of `FaceNetwork` or `ClipNetwork`."""
    return {_renamed(key, NAMES[kind]): entry for key, entry in entries.items()}


def published_name(own: str, kind: Kind) -> str:
    """What the original calls an entry of ours; other names stay."""
    return _renamed(own, {ours: theirs for theirs, ours in NAMES[kind].items()})


def _renamed(key: str, modules: Mapping[str, str]) -> str:
    module, _, entry = key.rpartition(".")
    return f"{modules[module]}.{entry}" if module in modules else key


# --- files -----------------------------------------------------------------------------------------------------------


def _opened(path: Path) -> tuple[Kind, dict[str, Tensor]]:
    """What the file is, and its entries in the original's names; of a trunk, without its classifier."""
    entries = {key.removeprefix("module."): entry for key, entry in plain_tensors(path).items()}
    require_finite(path, entries)
    kind = next((kind for first, kind in FIRST.items() if first in entries), None)
    if kind is None:
        raise HonneError(f"{path}: not a checkpoint of multitask; it holds {some(list(entries))}.", _READS)
    if kind == "trunk":
        entries = {key: entry for key, entry in entries.items() if not key.startswith("classifier.")}
    return kind, entries


def _one_kind(files: list[Path], kinds: list[Kind]) -> Kind:
    if len(set(kinds)) > 1:
        other = next(i for i, kind in enumerate(kinds) if kind != kinds[0])
        raise HonneError(
            f"{files[0]} is a {kinds[0]}, {files[other]} a {kinds[other]}: they do not go together.",
            "An ensemble is of one kind: the five CNN, or the five CNN-RNN of one window.",
        )
    if kinds[0] == "trunk" and len(files) > 1:
        raise WrongCall("multitask: a trunk comes from one file.", "Import one at a time.")
    return kinds[0]


def _schema(path: Path, kind: Kind, entries: Mapping[str, Tensor], labels: str | None) -> LabelSchema:
    if kind != "trunk":
        head = entries.get("backbone." * (kind == "CNN-RNN") + "classifier.0.fc_1.bias")
        outputs = 7 if head is None else len(head)  # a file without it is refused with all that it lacks
        return LabelSchema(classes(path, outputs, labels, LABELS), ACTION_UNIT_SETS[LABELS], True)
    if labels is not None:
        raise WrongCall(f"--labels: {path} has no classes.", "Leave it out.")
    return LabelSchema()


def _length(path: Path, kind: Kind, window: int | None) -> int:
    """Frames in a window; 0 of networks of single images."""
    if window is not None and kind != "CNN-RNN":
        raise WrongCall(f"--window is for a CNN-RNN; {path} is a {kind}.", "Leave it out.")
    if window is not None and window < 1:
        raise WrongCall(f"--window is {window}.", "It is a number of frames; released are 32, 16 and 8.")
    return 0 if kind != "CNN-RNN" else window or WINDOW


def _network(kind: Kind, entries: Mapping[str, Tensor], length: int) -> dict[str, Any]:
    """Kind and options of one member; hidden sizes are those of its entries."""

    def width(key: str, axis: int, usual: int) -> int:
        entry = entries.get(key)
        return usual if entry is None or entry.ndim != 2 else entry.shape[axis]

    if kind == "trunk":
        return {"kind": "face", "options": {"backbone": BACKBONE}}
    bins = {"valence_arousal_bins": BINS, "bin_values": "ends"}
    before = "backbone." if kind == "CNN-RNN" else ""
    face = {"backbone": BACKBONE, "hidden": width(f"{before}classifier.0.fc_0.weight", 0, 128)} | bins
    if kind == "CNN":
        return {"kind": "face", "options": face}
    gru = {"length": length, "hidden": width("classifier.0.GRU_layer.weight_hh_l0", 1, 64)}
    return {"kind": "clips", "options": {"frames": face} | gru | bins | {"frozen": "whole"}}


def _fitting(path: Path, kind: Kind, entries: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = own_names(entries, kind)
    require_fit(path, renamed, own, _KINDS[kind], _READS, lambda key: published_name(key, kind))
    return renamed


def _same_frames(members: list[dict[str, Tensor]]) -> bool:
    """Whether all members saw the images through one and the same CNN."""
    first, *others = members
    frames = [key for key in first if key.startswith("frames.")]
    return all(key in other and torch.equal(first[key], other[key]) for other in others for key in frames)


def _thresholds(kind: Kind, length: int, wanted: Literal["released", "half"] | None) -> dict[int, float]:
    released = () if kind == "trunk" else THRESHOLDS.get(length, ())
    if wanted == "released" and not released:
        of = "a trunk" if kind == "trunk" else f"windows of {length} frames"
        raise WrongCall(f"--thresholds: the released code has none for {of}.", "Leave it out.")
    return {} if wanted == "half" or not released else dict(zip(ACTION_UNIT_SETS[LABELS], released, strict=True))


_OF_THRESHOLDS = (
    "The thresholds of the action units are constants of the released code, which it probably found for the last of "
    "five students only, on the validation part of Aff-Wild2, 2020."
)
_KINDS: dict[Kind, str] = {
    "CNN": "CNN of multitask",
    "CNN-RNN": "CNN-RNN of multitask",
    "trunk": "FER+ ResNet-50",
}
