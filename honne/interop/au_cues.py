"""Released models of the AU-cue work (Belharbi et al., FG 2024): folders with config_model.yaml and model.pt.

FG_FER/DATASET/ENCODER/STD_CL/METHOD/align_atten_to_heatmap_True/DATASET-ENCODER-METHOD-POOLING-cp_best-boxv2_False/
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from honne import recipe as recipes
from honne.citations import CITATIONS
from honne.data.cropping import ARCFACE_TEMPLATE
from honne.data.manifest import sha256
from honne.errors import HonneError, WrongCall
from honne.faces.align import Alignment
from honne.interop.classes import classes
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.networks.checkpoints import plain_tensors, require_finite, require_fit
from honne.recipe import Recipe

CONFIG, WEIGHTS = "config_model.yaml", "model.pt"
PUBLISHED = "au_cues"
"""The order of the classes in the released weights."""
DATA = {"rafdb": "rafdb", "affectnet": "affectnet"}
METHODS = {
    "cam": "cam",
    "wildcat": "wildcat",
    "gradcam": "gradcam",
    "gradcampp": "gradcam_pp",
    "acol": "acol",
    "prm": "prm",
    "adl": "adl",
    "cutmix": "cutmix",
    "layercam": "layercam",
    "tscam": "tscam",
    "apvit": "apvit",
}
POOLINGS = {
    "wgap": "linear",
    "gap": "gap",
    "maxpool": "max",
    "logsumexppool": "lse",
    "lse": "lse",
    "prm": "prm",
    "wildcat": "wildcat",
    "wildcatclhead": "wildcat",
    "acol": "acol",
}
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
MODALITIES = 5
COUNTER = ".num_batches_tracked"
DEPTH = 4  # of nested sections in which a setting is looked for
FOLDER = re.compile(r"(?P<dataset>RAF-DB|AffectNet)-(?P<encoder>[^-]+)-(?P<method>.+)-(?P<pooling>[^-]+)-cp_")
_READS = "Read are the models released with the paper: ResNets, TS-CAM on DeiT, and APViT."


@dataclass(frozen=True)
class Settings:
    """What configuration and path say of a model.

    Attributes:
        data: rafdb or affectnet.
        method: as the recipes name it.
        encoder: as the original names it.
        head: as honne names it; unset = that of the method.
        aligned: whether it was trained with AU cues.
        layers: whose attention was aligned, as the original counts; unset = not said.
        large_maps: of a ResNet.
        background: whether its first output is a background class.
    """

    data: str
    method: str
    encoder: str
    head: str | None
    aligned: bool
    layers: str | None
    large_maps: bool
    background: bool

    @property
    def row(self) -> str:
        """Name of the recipe of the published row."""
        return f"au_cues/{self.data}_{self.method}{'_au' if self.aligned else ''}"


def read(files: list[Path], name: str, *, labels: str | None = None) -> Model:
    """A released model.

    What the file of weights does not tell is taken from config_model.yaml, and what that lacks from the names of the
    folders. Where the released code has a slip that the weights were trained with (WILDCAT forgets the lowest
    positions), the network has it too.

    Args:
        files: one folder.
        name: of the model.
        labels: set or names of the classes in the order of the outputs. Default: au_cues.

    Raises:
        HonneError: not such a folder, a file that could run code, another network, or another number of classes.
        WrongCall: several folders.
    """
    folder = _folder(files)
    settings = _settings(folder)
    row = recipes.read(settings.row, ["released"], "released", {})
    path = folder / WEIGHTS
    entries = {key.removeprefix("module."): value for key, value in plain_tensors(path).items()}
    require_finite(path, entries)
    options = _options(folder, settings, row)
    renamed = entries if settings.method == "apvit" else own_names(entries, settings.method)
    schema = LabelSchema(classes(path, _outputs(path, renamed, settings, options), labels, PUBLISHED))
    network = build("face", options, schema)
    if settings.method == "apvit":
        renamed = matched(path, entries, network.state_dict())
    require_fit(path, renamed, network.state_dict(), options["backbone"], _READS, partial(_theirs, settings.method))
    network.load_state_dict(renamed, strict=False)
    return Model(_config(name, path, settings, row, options, schema), network)


def _config(
    name: str, path: Path, settings: Settings, row: Recipe, options: dict[str, Any], schema: LabelSchema
) -> ModelConfig:
    layers = settings.layers if settings.layers and settings.encoder in RESNETS else row.au_cues.layers
    repeated = (layers, options["backbone"]) == (row.au_cues.layers, row.model.backbone)
    published = {"published": row.published.known()} if repeated else {}
    aligned = {"aligned": layers, "cue": row.au_cues.map} if settings.aligned else {}
    return ModelConfig(
        name=name,
        method=row.method,
        network={"kind": "face", "options": options},
        labels=schema,
        mean=row.model.mean,
        std=row.model.std,
        alignment=_alignment(settings.data, row.data.size or 224).to_dict(),
        explanation={"map": row.model.explanation, "codebook": row.au_cues.codebook} | aligned,
        training={"imported": f"released model of the row {settings.row}, {path.parent.name}", "sha256": sha256(path)}
        | published,
        licence={
            "code": "Apache-2.0",
            "weights": "weights of the original authors, code MIT, trained on research-only data: research only",
            "data": "of the original authors' training data: non-commercial research only",
        },
        cite=[CITATIONS["au_cues"]],
    )


def _folder(files: list[Path]) -> Path:
    if len(files) != 1:
        raise WrongCall(f"au_cues: a model comes from one folder, {len(files)} were given.", "Import one at a time.")
    folder = files[0]
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise HonneError(
                f"{folder}: not the folder of a released model, it has no {name}.",
                f"Name the innermost folder, which holds {CONFIG} and {WEIGHTS}.",
            )
    return folder


# --- what configuration and path say ---------------------------------------------------------------------------------


class _Untagged(yaml.SafeLoader):
    """Reads every value as if it had no tag, so that none makes an object or calls anything."""


def _untagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node) if isinstance(node, yaml.ScalarNode) else None


_Untagged.add_multi_constructor("", _untagged)


def _settings(folder: Path) -> Settings:
    path, whole = folder / CONFIG, folder.resolve()
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), _Untagged)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HonneError(f"{path}: not YAML ({str(error).splitlines()[-1].strip()}).", "Download it again.") from error
    named = FOLDER.match(whole.name)
    parts = named.groupdict() if named else {}
    for part in whole.parts:
        if mark := re.fullmatch("(align_atten_to_heatmap)_(True|False)", part):
            parts[mark[1]] = mark[2]

    def said(*names: str, needed: bool = True) -> str:
        values = (_value(config, name) for name in names)
        found = next((str(value) for value in values if value not in (None, "")), parts.get(names[-1]))
        if found is None and needed:
            raise HonneError(
                f"{path}: does not say {names[0]}, and neither do the names of its folders.",
                f"Add the line `{names[0]}: ...` to it.",
            )
        return found or ""

    method = _known(path, "method", said("method"), METHODS)
    spatial = method not in ("tscam", "apvit")
    pooling = said("spatial_pooling", "pooling", needed=False) if spatial else ""
    return Settings(
        data=_known(path, "dataset", said("dataset"), DATA),
        method=method,
        encoder=said("encoder_name", "encoder"),
        head=_known(path, "spatial_pooling", pooling, POOLINGS) if pooling else None,
        aligned=said("align_atten_to_heatmap").lower() == "true",
        layers=said("align_atten_to_heatmap_layers", needed=False) or None,
        large_maps=spatial and said("large_maps").lower() == "true",
        background=said("support_background", needed=False).lower() == "true",
    )


def _value(config: Any, name: str) -> Any:
    """A setting, in the outermost section that has it."""
    sections = [config]
    for _ in range(DEPTH):
        sections = [section for section in sections if isinstance(section, dict)]
        for section in sections:
            if name in section and not isinstance(section[name], dict):
                return section[name]
        sections = [value for section in sections for value in section.values()]
    return None


def _known(path: Path, setting: str, said: str, names: Mapping[str, str]) -> str:
    key = re.sub("[^a-z0-9]", "", said.lower().replace("+", "p"))
    if key not in names:
        known = ", ".join(dict.fromkeys(names.values()))
        raise HonneError(f"{path}: {setting} '{said}' is not one of {known}.", _READS)
    return names[key]


# --- the network -----------------------------------------------------------------------------------------------------


def _options(folder: Path, settings: Settings, row: Recipe) -> dict[str, Any]:
    """Of `FaceNetwork`."""
    backbone, size = settings.encoder, re.search("tiny|small|base", settings.encoder)
    if settings.method == "apvit":
        backbone = row.model.backbone
    elif settings.method == "tscam" and size:
        backbone = f"deit_{size[0]}_patch16_224"
    elif settings.method == "tscam" or backbone not in RESNETS:
        raise HonneError(f"{folder}: encoder '{settings.encoder}' is not one that honne reads.", _READS)
    head = settings.head or row.model.head
    return {
        "backbone": backbone,
        "head": head,
        "head_options": ({"lowest": "dropped"} if head == "wildcat" else {})
        | ({"background": True} if settings.background else {}),
        "large_maps": settings.large_maps,
        "attention_dropout": row.model.attention_dropout,
    }


def _outputs(path: Path, entries: Mapping[str, Tensor], settings: Settings, options: dict[str, Any]) -> int:
    """How many classes it has. Adds to the options what else the head's entries tell: widths of hidden layers."""
    biases = [entries[key] for key in sorted(entries) if key.startswith("expression.") and key.endswith("bias")]
    if settings.method == "apvit":
        biases = sorted((entry for entry in entries.values() if entry.ndim == 2), key=len)[:1]
    if not biases:
        raise HonneError(f"{path}: has no classification head.", _READS)
    if options["head"] == "linear" and len(biases) > 1:
        options["head_options"]["dense"] = [len(bias) for bias in biases[:-1]]
    return len(biases[-1]) // (MODALITIES if options["head"] == "wildcat" else 1) - settings.background


def own_names(entries: Mapping[str, Tensor], method: str) -> dict[str, Tensor]:
    """Entries of ResNets and of TS-CAM under the names of `FaceNetwork`; unknown ones keep theirs."""
    if method == "tscam":
        return {
            f"expression.conv.{key[5:]}" if key.startswith("head.") else f"backbone.{key}": entry
            for key, entry in entries.items()
        }
    blocks = _places(entries, r"encoder\.layer(\d)\.(\d+)\.") if method == "adl" else {}
    head = _head_names(entries)
    renamed = {}
    for key, entry in entries.items():
        part, _, below = key.partition(".")
        module, _, kind = below.rpartition(".")
        if part == "encoder":
            stage = re.match(r"layer(\d)\.(\d+)\.", below)
            if stage and blocks:  # parameterless modules between the blocks count in the original
                below = f"layer{stage[1]}.{blocks[stage.groups()]}.{below[stage.end() :]}"
            renamed[f"backbone.{below}"] = entry
        elif part == "classification_head" and module in head:
            renamed[f"expression.{head[module]}.{kind}".replace("..", ".")] = entry
        elif part != "segmentation_head":
            renamed[key] = entry
    return renamed


def _head_names(entries: Mapping[str, Tensor]) -> dict[str, str]:
    """Original module of a head -> ours below `expression`."""
    hidden = [name for name in ("fc", "fc1", "fc2") if f"classification_head.{name}.weight" in entries]
    layers = {name: f"layers.{place}" for place, name in enumerate(hidden)} if len(hidden) > 1 else {"fc": ""}
    branches = {
        f"classifier_{branch}.{index}": f"{branch.lower()}.{2 * place}"
        for (branch, index), place in _places(entries, r"classification_head\.classifier_([AB])\.(\d+)\.").items()
    }
    return {"conv": "conv", "to_modalities": "conv"} | layers | branches


def _places(entries: Mapping[str, Tensor], pattern: str) -> dict[tuple[str, ...], int]:
    """(group, number) found in names -> its place, from 0, among the numbers of that group."""
    found = {match.groups() for match in (re.match(pattern, key) for key in entries) if match}
    numbers: dict[str, list[str]] = defaultdict(list)
    for group, number in sorted(found, key=lambda pair: int(pair[1])):
        numbers[group].append(number)
    return {(group, number): place for group, listed in numbers.items() for place, number in enumerate(listed)}


def matched(path: Path, entries: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """APViT's entries under the names of `FaceNetwork`.

    How the original calls its parts is not known. Entries go together whose names end alike and whose shapes agree;
    those left over, by order where equally many of one shape are left on both sides.

    Raises:
        HonneError: that does not give every entry exactly one place.
    """
    theirs = {key.replace("attn.", "").replace("projs.0.", "projection."): key for key in entries}
    ends: dict[str, list[str]] = defaultdict(list)
    for key in theirs:
        parts = key.split(".")
        for start in range(len(parts)):
            ends[".".join(parts[start:])].append(theirs[key])
    renamed: dict[str, str] = {}
    for key, entry in own.items():
        core = re.sub(r"^backbone\.(trunk|transformer)\.", "", key)
        fitting = [other for other in ends[core] if entries[other].shape == entry.shape]
        if len(fitting) == 1:
            renamed[key] = fitting[0]
    taken = set(renamed.values())
    free: dict[torch.Size, list[str]] = defaultdict(list)
    open_places: dict[torch.Size, list[str]] = defaultdict(list)
    for key in entries:
        if key not in taken and not key.endswith(COUNTER):
            free[entries[key].shape].append(key)
    for key in own:
        if key not in renamed and not key.endswith(COUNTER):
            open_places[own[key].shape].append(key)
    for shape in {**free, **open_places}:
        if len(free[shape]) != len(open_places[shape]):
            left = ", ".join(open_places[shape][:1] + free[shape][:1])
            raise HonneError(f"{path}: does not fit apvit: its entries cannot be told apart near {left}.", _READS)
        renamed |= dict(zip(open_places[shape], free[shape], strict=True))
    return {key: entries[other] for key, other in renamed.items()}


def _theirs(method: str, key: str) -> str:
    """The original's name of one of our entries, as far as that can be said."""
    return key.replace("backbone.", "" if method == "tscam" else "encoder.", 1)


def _alignment(data: str, size: int) -> Alignment:
    """RAF-DB's faces were brought to the template of face recognition, AffectNet's taken as they come."""
    return Alignment("points", size, template=ARCFACE_TEMPLATE) if data == "rafdb" else Alignment("none", size)
