"""Checkpoints of IERN (Chen et al., ACM MM 2022): `160_net_Base.pth` and so on, one file a part of the network."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from honne.citations import CITATIONS
from honne.console import say
from honne.data.manifest import replacing, sha256
from honne.data.mixbasic import DATASETS
from honne.data.readers.scenes import POLARITIES
from honne.data.readers.scenes import STRATA as SCENES
from honne.errors import HonneError
from honne.faces.align import EYE_TEMPLATE, Alignment
from honne.interop.classes import classes
from honne.labels import LabelSchema
from honne.methods.iern_start import TRAINING, TRAINING_ONLY
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.networks.checkpoints import plain_tensors, require_finite, require_fit, some
from honne.networks.intervention import Discriminator, Encoder

NEEDED = ("Base", "EmoGen", "Recons", "Cnfnd", "Cls")
TRAINED_WITH = ("ConGen", "EmoDis", "ConDis")
"""Parts that only training needs."""
FILE = re.compile(rf"(\d+|latest)_net_({'|'.join((*NEEDED, *TRAINED_WITH))})\.(?:pth|pt|safetensors)")
PUBLISHED = {6: "oulucasia", 2: ",".join(POLARITIES)}
"""Number of classes -> their order in the original's code."""
STRATA = {"mixbasic": DATASETS} | {str(data): names for data, names in SCENES.items()}
BACKBONES: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 64): "resnet50",
    ((3, 4, 23, 3), 64): "resnet101",
    ((3, 8, 36, 3), 64): "resnet152",
    ((3, 4, 6, 3), 128): "wide_resnet50_2",
    ((3, 4, 23, 3), 128): "wide_resnet101_2",
}
"""Blocks of the four stages, and width of the first one -> network."""
SHRINKING = 32
"""Side of the picture over that of the last map."""
CENTRE = 224 / 256
PLACES = {
    "backbone.conv1": "Base 0",
    "backbone.bn1": "Base 1",
    **{f"backbone.layer{stage}": f"Base {stage + 3}" for stage in (1, 2, 3, 4)},
    "expression.projection": "Base 8",
    "expression.emotion": "EmoGen feat_encoder",
    "expression.decoder": "Recons feat_decoder",
    "expression.prototypes": "Cnfnd mem_tensors",
    "expression.classifier": "Cls fc",
    "context": "ConGen feat_encoder",
    "emotion_discriminator.layers": "EmoDis model",
    "stratum_discriminator.layers": "ConDis model",
}
"""Module of ours -> part and module of theirs."""
IN_BLOCK = {"conv1": "conv_block.0", "norm1": "conv_block.1", "conv2": "conv_block.3", "norm2": "conv_block.4"}
_READS = "Read are the files that IERN's training writes, of ResNet-50, -101 and -152 and the wide ones."


def read(files: list[Path], name: str, *, labels: str | None = None, strata: str | None = None) -> Model:
    """The parts that predict, as a model; prototypes are the last ones of training.

    Backbone, classes, strata, channels, blocks and the side of the last map are found out from the entries.

    Args:
        files: the folder that holds the parts, of which the last epoch is taken, or the parts of one epoch.
        name: of the model.
        labels: set or names of the classes in the order of the outputs. Default: those of MixBasic for six, negative
            and positive for two.
        strata: names of the confounder strata in the order of the prototypes, separated by commas, or the data set:
            mixbasic, emotion6, webemo, sentiment. Default: those of MixBasic for three.

    Raises:
        HonneError: a part is missing or of another epoch, size or network; not a file of plain tensors; other numbers
            of classes or strata than named.
    """
    *others, (epoch, parts) = _epochs(files).items()
    if others:
        known = ", ".join([other for other, _ in others])
        say(f"{parts['Base'].parent}: epoch {epoch} is taken; {known} are there too: name their files.")
    path, entries = parts["Base"].parent, _entries(parts, NEEDED)
    prototypes = _entry(parts, entries, "Cnfnd mem_tensors", 4)
    outputs, (high, wide) = len(_entry(parts, entries, "Cls fc.weight", 2)), prototypes.shape[2:]
    if high != wide:
        raise HonneError(f"{parts['Cnfnd']}: prototypes of {high} x {wide} positions, not of a square.", _READS)
    schema = LabelSchema(classes(parts["Cls"], outputs, labels, PUBLISHED.get(outputs, PUBLISHED[6])))
    names = _strata(parts["Cnfnd"], len(prototypes), strata)
    options: dict[str, Any] = {
        "head": "interventional",
        "head_options": {
            "strata": list(names),
            "side": [high, wide],
            "channels": len(_entry(parts, entries, "Base 8.weight", 4)),
            "encoder_blocks": _last(entries, "EmoGen feat_encoder"),
            "decoder_blocks": _last(entries, "Recons feat_decoder"),
        },
        "backbone": backbone(parts["Base"], entries),
    }
    network = build("face", options, schema)
    renamed = own_names(entries, network.state_dict())
    require_fit(path, renamed, network.state_dict(), options["backbone"], _READS, original)
    network.load_state_dict(renamed, strict=False)
    size = SHRINKING * high
    framing = Alignment("eyes", size, template=EYE_TEMPLATE) if names == DATASETS else Alignment("none", size)
    config = ModelConfig(
        name=name,
        method="iern",
        network={"kind": "face", "options": options},
        labels=schema,
        mean=[0.5] * 3,
        std=[0.5] * 3,
        alignment=framing.to_dict() | {"centre": CENTRE},
        training={
            "imported": f"epoch {epoch} of IERN, {path.resolve().name}",
            "sha256": {part: sha256(parts[part]) for part in NEEDED},
        },
        licence={
            "code": "Apache-2.0",
            "weights": "weights of the original authors, code MIT, trained on research-only data: research only",
            "data": "of the original authors' training data: non-commercial research only",
        },
        cite=[CITATIONS["iern"]],
    )
    return Model(config, network)


def keep(files: list[Path], model: Model, out: Path) -> None:
    """Context encoder and discriminators, where all three are there, for the model's folder: `--iern.start` takes them.

    Raises:
        HonneError: a file is not of plain tensors, or does not fit the model.
    """
    *_, parts = _epochs(files).values()
    (out / TRAINING).unlink(missing_ok=True)
    if not set(TRAINED_WITH) <= set(parts):
        return
    entries = _entries(parts, TRAINED_WITH)
    head = model.config.network["options"]["head_options"]
    channels, sizes = head["channels"], (len(model.schema.expressions), len(head["strata"]))
    with torch.device("meta"):
        own = nn.ModuleDict({"context": Encoder(channels, head["encoder_blocks"])})
        for name, part, outputs in zip(TRAINING_ONLY[1:], TRAINED_WITH[1:], sizes, strict=True):
            halvings = max(_last(entries, f"{part} model") // 2 - 1, 0)
            own[name] = Discriminator(channels, outputs, halvings, head["side"])
    renamed = own_names(entries, own.state_dict())
    require_fit(parts["ConGen"].parent, renamed, own.state_dict(), "the model", _READS, original)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / TRAINING) as path:
        save_file({name: entry.contiguous() for name, entry in renamed.items()}, path)
        path.chmod(0o644)


# --- names -----------------------------------------------------------------------------------------------------------


def original(key: str) -> str:
    """What the original calls an entry of `FaceNetwork` or `Iern`, as `Base 4.0.conv1.weight`; other names stay."""
    ours = next((module for module in PLACES if key == module or key.startswith(f"{module}.")), None)
    if ours is None:
        return key
    below = key.removeprefix(ours).lstrip(".")
    if ours.endswith(".layers"):  # activations between the layers count in the original
        below = re.sub(r"^\d+", lambda number: str(2 * int(number[0])), below)
    if ours == "expression.decoder":
        below = re.sub(r"^first|^blocks\.(\d+)", lambda found: str(int(found[1]) + 1) if found[1] else "0", below)
    if not ours.startswith("backbone."):
        below = re.sub(r"(?<=\.)(conv|norm)[12](?=\.)", lambda layer: IN_BLOCK[layer[0]], below)
    return f"{PLACES[ours]}.{below}".rstrip(".")


def own_names(entries: Mapping[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Entries of the original under the names of ours; unknown ones keep theirs."""
    ours = {original(key): key for key in own}
    return {ours.get(key, key): entry for key, entry in entries.items()}


# --- files and sizes -------------------------------------------------------------------------------------------------


def _epochs(files: list[Path]) -> dict[str, dict[str, Path]]:
    """Epoch -> part -> file, the last epoch, which is whole, at the end."""
    folder = files[0] if len(files) == 1 and files[0].is_dir() else None
    found: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in sorted(folder.iterdir()) if folder else files:
        named = FILE.fullmatch(path.name)
        if not named and not folder:
            raise HonneError(f"{path}: not called as IERN's training calls its files: 160_net_Base.pth.", _ONE_EPOCH)
        if named and (other := found[named[1]].setdefault(named[2], path)) != path:
            raise HonneError(f"{path}: {other} is {named[2]} of epoch {named[1]} too.", _ONE_EPOCH)
    if not found:
        raise HonneError(f"{folder}: holds no file of IERN's training, such as 160_net_Base.pth.", _ONE_EPOCH)
    if len(found) > 1 and not folder:
        each = "; ".join(f"{epoch}: {', '.join(parts)}" for epoch, parts in found.items())
        raise HonneError(f"the files are of several epochs ({each}).", _ONE_EPOCH)
    last = max(found, key=lambda epoch: math.inf if epoch == "latest" else int(epoch))
    if missing := [part for part in NEEDED if part not in found[last]]:
        raise HonneError(f"{folder or files[0].parent}: there is no {last}_net_{missing[0]}.pth.", _ONE_EPOCH)
    return {epoch: found[epoch] for epoch in sorted(found, key=[last].count)}


_ONE_EPOCH = f"A model needs {', '.join(NEEDED[:-1])} and {NEEDED[-1]} of one epoch: their folder, or the files."


def _entries(parts: Mapping[str, Path], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Entries of several parts, as `Base 8.weight`."""
    entries: dict[str, Tensor] = {}
    for part in wanted:
        found = plain_tensors(parts[part])
        require_finite(parts[part], found)
        entries |= {f"{part} {key.removeprefix('module.')}": entry for key, entry in found.items()}
    return entries


def _entry(parts: Mapping[str, Path], entries: Mapping[str, Tensor], key: str, dimensions: int) -> Tensor:
    part, _, name = key.partition(" ")
    entry = entries.get(key)
    if entry is None or entry.ndim != dimensions:
        held = [other.partition(" ")[2] for other in entries if other.startswith(f"{part} ")]
        found = f"it holds {some(held)}" if entry is None else f"{name} has {entry.ndim} dimensions"
        raise HonneError(f"{parts[part]}: not {part} of IERN; {found}.", _READS)
    return entry


def _last(entries: Iterable[str], module: str) -> int:
    """Highest number of a layer in a sequence; 0 if there is none."""
    numbers = (re.match(rf"{re.escape(module)}\.(\d+)\.", key) for key in entries)
    return max((int(number[1]) for number in numbers if number), default=0)


def backbone(path: Path, entries: Mapping[str, Tensor]) -> str:
    """Name of the ResNet that Base holds.

    Raises:
        HonneError: it is another one.
    """
    blocks = tuple(len({key.split(".")[1] for key in entries if key.startswith(f"Base {k}.")}) for k in (4, 5, 6, 7))
    first = entries.get("Base 4.0.conv2.weight")
    known = BACKBONES.get((blocks, 0 if first is None else len(first)))
    if known is None or "Base 4.0.conv3.weight" not in entries:
        raise HonneError(f"{path}: stages of {', '.join(map(str, blocks))} blocks are of another network.", _READS)
    return known


def _strata(path: Path, count: int, strata: str | None) -> tuple[str, ...]:
    if strata is None and count != len(DATASETS):
        raise HonneError(
            f"{path}: has prototypes of {count} strata, and does not say which.",
            f"Say so in their order: --strata {', '.join(STRATA)}, or names separated by commas.",
        )
    names = STRATA.get(strata or "mixbasic") or tuple(part.strip() for part in str(strata).split(","))
    if len(names) != count:
        raise HonneError(
            f"{path}: has prototypes of {count} strata, but --strata names {len(names)}: {', '.join(names)}.",
            "Name them in the order of the prototypes.",
        )
    return names
