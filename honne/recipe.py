"""Recipes: what `honne train` reads, with every option typed, named and explained."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from honne.data.loading import Sampling
from honne.data.transforms import Augment
from honne.errors import HonneError, WrongCall
from honne.methods import METHODS, method
from honne.schedules import OptimOptions


@dataclass
class ModelOptions:
    """The network.

    Args:
        name: of the model that comes out; unset = name of the run's folder.
        backbone: any timm model, or face_resnet.
        backbone_options: keyword arguments of the backbone, e.g. {channels: [48, 96, 192, 288]}.
        weights: for the backbone: the folder of a model, or a file (.safetensors, or a state dict of plain tensors).
        dropout: probability on the pooled features, 0..1.
        pooling: default as the backbone does it, or gem (generalised mean, exponent 3).
        neck: a BatchNorm between features and heads, its bias fixed at 0.
        head_bias: whether the heads have a bias.
        mean: of the input per channel, of images in [0, 1].
        std: of the input per channel, of images in [0, 1].
        half: store the trained weights in half precision.
    """

    name: str | None = None
    backbone: str = "resnet18"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    weights: Path | None = None
    dropout: float = 0.0
    pooling: Literal["default", "gem"] = "default"
    neck: bool = False
    head_bias: bool = True
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    half: bool = False


@dataclass
class DataOptions:
    """The data.

    Args:
        folders: prepared data sets, all with the same label schema.
        size: side of the network's input in px; unset = as prepared (times `centre`).
        centre: share of the stored pictures' side, about their centre, that is shown when measuring and analysing; goes
            with random crops in training: 0.875 and augment.crop [0.765625, 0.765625] are 224 px of 256.
        batch_size: rows per step and process.
        workers: loading processes; 0 loads in the training process.
        targets: what to learn for expressions: label (the class), distribution (the prepared target, or the votes), or
            sampled (a class drawn from that distribution whenever an image is shown: FER+'s probability mode).
        sampling: uniform, class_balanced (every expression equally often in expectation), every_class (uniform, with at
            least two rows of every expression in every batch), or every_class_balanced (equally many rows of every
            expression in every batch).
        label_noise: share of the training labels of each expression that is made wrong on purpose, 0..1, to see how a
            method stands it. Which ones depends on trainer.seed; OUT/label_noise.csv lists them.
        label_noise_kind: symmetric (any other expression), or asymmetric (the one that it is most often taken for).
        augment: changes to training images.
    """

    folders: list[str] = field(default_factory=list)
    size: int | None = None
    centre: float = 1.0
    batch_size: int = 64
    workers: int = 0
    targets: Literal["label", "distribution", "sampled"] = "label"
    sampling: Sampling = "uniform"
    label_noise: float = 0.0
    label_noise_kind: Literal["symmetric", "asymmetric"] = "symmetric"
    augment: Augment = field(default_factory=Augment)


@dataclass
class TrainerOptions:
    """How the run is done.

    Args:
        epochs: passes over the training split.
        seed: of everything random.
        accelerator: cpu, gpu, mps, or auto.
        devices: how many; with more than one each works on batches of its own (DDP).
        sync_batchnorm: with several GPUs, take BatchNorm statistics over all of them.
        precision: 32-true, bf16-mixed (CPU and GPU) or 16-mixed (GPU).
        accumulate: batches whose gradients are summed for one step.
        ema: decay per step of the averaged weights that are validated and saved, 0..1; 0 = off.
        monitor: validation figure that selects the saved weights: score (mean of macro-F1, AU F1 and CCC), accuracy,
            macro_f1, au_f1, ccc or loss; or last: no selection, the weights after the last epoch.
        patience: epochs without a better figure after which to stop; 0 = never.
        checkpoint_steps: optimiser steps between checkpoints to resume from.
        batches: training batches per epoch at most (for trials); 0 = all.
    """

    epochs: int = 20
    seed: int = 0
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int = 1
    sync_batchnorm: bool = False
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accumulate: int = 1
    ema: float = 0.0
    monitor: Literal["score", "accuracy", "macro_f1", "au_f1", "ccc", "loss", "last"] = "score"
    patience: int = 0
    checkpoint_steps: int = 500
    batches: int = 0

    def __post_init__(self) -> None:
        if self.monitor == "last" and self.patience:
            raise WrongCall("trainer.patience needs a figure to wait for.", "Choose a trainer.monitor other than last.")


@dataclass
class Recipe:
    """One training run, complete.

    Attributes:
        method: name of the method.
        options: the method's own options.
        text: the recipe as YAML, with every default written out.
    """

    method: str
    options: Any
    model: ModelOptions
    data: DataOptions
    optim: OptimOptions
    trainer: TrainerOptions
    text: str


def names() -> list[str]:
    """Names of the recipes that the package carries."""
    root = Path(str(resources.files("honne"))) / "recipes"
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(recipe: str | Path) -> Path:
    """The file of a recipe given by name or path.

    Raises:
        WrongCall: there is none.
    """
    packaged = Path(str(resources.files("honne"))) / "recipes" / f"{recipe}.yaml"
    for path in (Path(recipe), packaged):
        if path.is_file():
            return path
    raise WrongCall(f"no recipe '{recipe}'.", f"Give a YAML file, or one of: {', '.join(names())}.")


class RecipeParser(ArgumentParser):
    """Understands `RECIPE [--data DATA]... [--out RUN] [--dotted.overrides VALUE]`."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """As in argparse; `--data DATA` is short for one more entry of `data.folders`."""
        words = [word for arg in (sys.argv[1:] if args is None else args) for word in _split_data(arg)]
        if words and not words[0].startswith("-"):
            words = ["--config", str(find(words[0])), *words[1:]]
        return super().parse_args(words, *rest, **options)


def _split_data(word: str) -> list[str]:
    if word == "--data":
        return ["--data.folders+"]
    return ["--data.folders+", word.removeprefix("--data=")] if word.startswith("--data=") else [word]


def parser(**options: Any) -> RecipeParser:
    """Parser of `honne train`, built from the options' own types and texts."""
    built = RecipeParser(
        prog="honne train",
        usage="honne train RECIPE --data DATA --out RUN [--model.backbone resnet50 ...]",
        description=f"Train a model; running the same command again resumes. Recipes: {', '.join(names())}.",
        **options,
    )
    built.add_argument(
        "--config", action=ActionConfigFile, help="the recipe (its name or file may stand first instead)"
    )
    built.add_argument("--out", type=str, required=True, help="folder of the run; OUT/model is the result")
    built.add_argument("--method", type=Literal[tuple(METHODS)], required=True, help="how to train")
    for group, kind in (
        ("model", ModelOptions),
        ("data", DataOptions),
        ("optim", OptimOptions),
        ("trainer", TrainerOptions),
    ):
        built.add_class_arguments(kind, group)
    for name in METHODS:
        built.add_class_arguments(method(name).Options, name)
    for action in built._actions:
        if "--data" in action.option_strings:
            action.help, action.metavar = "prepared data set to train on; may be given several times", "DATA"
    return built


def from_namespace(built: ArgumentParser, namespace: Namespace) -> Recipe:
    """Parsed arguments as a `Recipe`.

    Raises:
        HonneError: no data was named.
    """
    if not namespace.data.folders:
        raise WrongCall("no data to train on.", "Add --data DATA, a folder made by `honne prepare`.")
    recorded = namespace.clone()
    for name in ("config", "out", *(name for name in METHODS if name != namespace.method)):
        recorded.pop(name, None)
    text = yaml.safe_dump(_plain(recorded.as_dict()), sort_keys=False)
    chosen = built.instantiate_classes(namespace)
    return Recipe(chosen.method, chosen[chosen.method], chosen.model, chosen.data, chosen.optim, chosen.trainer, text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def read(recipe: str | Path, data: Sequence[str | Path], out: str | Path, overrides: dict[str, Any]) -> Recipe:
    """A recipe from Python; `overrides` has dotted names, e.g. {"optim.lr": 1e-3}.

    Raises:
        HonneError: an option that does not exist, or a value that does not fit.
    """
    built = parser(exit_on_error=False)
    words = [str(find(recipe)), "--out", str(out)]
    for folder in data:
        words += ["--data", str(folder)]
    for name, value in overrides.items():
        words.append(f"--{name}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}")
    try:
        return from_namespace(built, built.parse_args(words))
    except HonneError:
        raise
    except Exception as error:
        raise WrongCall(f"recipe {recipe}: {error}", "`honne train --help` lists the options.") from error
