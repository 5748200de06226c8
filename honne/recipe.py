"""Recipes: what `honne train` reads, with every option typed, named and explained."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from honne.data.loading import Balance, Sampling
from honne.data.transforms import Augment
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema, action_unit_set, expression_set, union
from honne.methods import METHODS, method
from honne.methods.au_cues import AuCuesOptions
from honne.networks.fusion.options import FusionOptions
from honne.recipe_files import chain, families, find
from honne.recipe_files import names as names
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
        head: what makes expressions of the last map: linear, from its pooled features; or maps of every class, which
            are pooled: gap, max, lse, prm, wildcat; tscam, for transformers; acol, two branches, of which the second
            learns from what the first did not look at.
        head_options: of that head, e.g. {kmax: 0.5, alpha: 0.6} of wildcat, or {dense: [128]} of linear.
        large_maps: the last two stages of a ResNet do not shrink the map: 28 x 28 positions of 224 px, not 7 x 7.
        hidden: width of a hidden layer in the head of every task, with BatchNorm before and after it; 0 = none.
        valence_arousal_bins: valence and arousal are each a distribution over so many bins of [-1, 1], of which the
            expectation is taken; 0 = two numbers.
        bin_values: what the bins stand for in the expectation: ends spreads them from -1 to 1, so that both can be
            reached (published); centres takes their middles.
        window: frames that the network sees at once, by a recurrent layer over what it sees in each; 0 = stills.
        recurrent: width of the recurrent layer, each way.
        frames: folder of a trained model whose network sees each frame of a window, in place of `backbone` and the
            other options of a network; unset = a fresh one.
        frozen: of the network of frames: whole, it stays as it is, and what it sees is computed once, from images
            without random changes; weights, as published: its BatchNorm statistics and dropout go on; none, it learns.
        attention_dropout: of a ResNet in training: probability with which the positions that its last stages attend to
            are hidden; else they are strengthened (ADL). 0 = off, 0.4 as published.
        mean: of the input per channel, of images in [0, 1].
        std: of the input per channel, of images in [0, 1].
        thresholds: of action units, searched on validation: f1, where F1 is largest; break_even, where precision and
            recall are nearest to each other (published); or half, 0.5 for all.
        explanation: class activation map that explains the model unless told otherwise: layercam, gradcam, cam,
            class_map (of a head that has one), tscam and the others of `honne explain`.
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
    head: Literal["linear", "gap", "max", "lse", "prm", "wildcat", "tscam", "acol"] = "linear"
    head_options: dict[str, Any] = field(default_factory=dict)
    hidden: int = 0
    valence_arousal_bins: int = 0
    bin_values: Literal["ends", "centres"] = "ends"
    window: int = 0
    recurrent: int = 64
    frames: Path | None = None
    frozen: Literal["whole", "weights", "none"] = "whole"
    large_maps: bool = False
    attention_dropout: float = 0.0
    thresholds: Literal["f1", "break_even", "half"] = "f1"
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    explanation: str = "layercam"
    half: bool = False


@dataclass
class DataOptions:
    """The data.

    Args:
        folders: prepared data sets.
        labels: same: all data sets have the same label schema; union: each is labelled with some of what is learned,
            and its rows count for that.
        expressions: what is learned: names of classes, or of a set of them, like abaw; unset = all in the data. Rows of
            others are not labelled.
        action_units: FACS numbers, or the name of a set, like affwild2; unset = all in the data.
        tasks: what is learned of the labels: any of expressions, action_units, valence_arousal, emotions, sentiment;
            unset = all that there are.
        size: side of the network's input in px; unset = as prepared (times `centre`).
        centre: share of the stored pictures' side, about their centre, that is shown when measuring and analysing; goes
            with random crops in training: 0.875 and augment.crop [0.765625, 0.765625] are 224 px of 256.
        batch_size: rows (or windows, of a network with a window) per step and process; with sampling by tasks, of each
            task.
        workers: loading processes; 0 loads in the training process.
        targets: what to learn for expressions: label (the class), distribution (the prepared target, or the votes), or
            sampled (a class drawn from that distribution whenever an image is shown: FER+'s probability mode).
        sampling: uniform, class_balanced (every expression equally often in expectation), every_class (uniform, with at
            least two rows of every expression in every batch), every_class_balanced (equally many rows of every
            expression in every batch), or equal_classes (of every expression as many rows as the rarest has, drawn
            afresh every epoch), or tasks (equally many rows of every task in every batch).
        epoch: of sampling by tasks: ends with the task that has the fewest rows (shortest, published) or the most
            (longest: the others repeat).
        balance: of sampling by tasks: none, each row once; published, expressions equally often, cells of a 20 x 20
            grid of valence and arousal equally often, rare action units more often (ML-ROS).
        label_noise: share of the training labels of each expression that is made wrong on purpose, 0..1, to see how a
            method stands it. OUT/label_noise.csv lists them.
        label_noise_seed: of the choice of labels that are made wrong; unset = trainer.seed.
        label_noise_kind: symmetric (any other expression), or asymmetric (the one that it is most often taken for).
        augment: changes to training images.
    """

    folders: list[str] = field(default_factory=list)
    labels: Literal["same", "union"] = "same"
    expressions: str | None = None
    action_units: str | None = None
    tasks: list[Literal["expressions", "action_units", "valence_arousal", "emotions", "sentiment"]] = field(
        default_factory=list
    )
    size: int | None = None
    centre: float = 1.0
    batch_size: int = 64
    workers: int = 0
    targets: Literal["label", "distribution", "sampled"] = "label"
    sampling: Sampling = "uniform"
    epoch: Literal["shortest", "longest"] = "shortest"
    balance: Balance = "none"
    label_noise: float = 0.0
    label_noise_seed: int | None = None
    label_noise_kind: Literal["symmetric", "asymmetric"] = "symmetric"
    augment: Augment = field(default_factory=Augment)

    def learned(self, schemas: Sequence[LabelSchema]) -> LabelSchema | None:
        """What is learned of data sets with these schemas; None = what they are all labelled with.

        Raises:
            HonneError: no data set has a class, a unit or a task that is asked for.
            WrongCall: the choice does not go with `labels`.
        """
        if self.labels == "same":
            if self.expressions or self.action_units:
                raise WrongCall("data.expressions and data.action_units choose labels.", "Add --data.labels union.")
            return self._tasks_of(schemas[0]) if self.tasks else None
        classes = expression_set(self.expressions).expressions if self.expressions else None
        whole = union(schemas, classes, action_unit_set(self.action_units) if self.action_units else None)
        return self._tasks_of(whole) if self.tasks else whole

    def _tasks_of(self, schema: LabelSchema) -> LabelSchema:
        """The schema without the tasks that are not learned."""
        if missing := [task for task in self.tasks if not getattr(schema, task)]:
            raise HonneError(
                f"the data have no labels of {missing[0].replace('_', ' ')}.", "Leave it out of data.tasks."
            )
        blank = LabelSchema()
        return replace(schema, **{task: getattr(blank, task) for task in vars(blank) if task not in self.tasks})


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
        monitor: validation figure that selects the saved weights: score (mean of macro-F1, AU F1, CCC, F1 of emotions
            and correlation of sentiment, as far as there are any), abaw (the sum of the challenge of 2020: 0.67
            macro-F1 + 0.33 accuracy, 0.5 F1 + 0.5 accuracy of action units, both CCCs), accuracy, macro_f1, au_f1, ccc,
            emotion_accuracy, emotion_f1, acc7, acc2, corr, mae, att_cos (with AU cues) or loss; or last: no selection,
            the weights after the last epoch.
        validate_every: share of an epoch between two validations, above 0 and at most 1. Below 1, steps after
            the last one of an epoch wait for the first one of the next.
        patience: validations without a better figure after which to stop; 0 = never.
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
    monitor: Literal[
        "score",
        "abaw",
        "accuracy",
        "macro_f1",
        "au_f1",
        "ccc",
        "emotion_accuracy",
        "emotion_f1",
        "acc7",
        "acc2",
        "corr",
        "mae",
        "att_cos",
        "loss",
        "last",
    ] = "score"
    validate_every: float = 1.0
    patience: int = 0
    checkpoint_steps: int = 500
    batches: int = 0

    def __post_init__(self) -> None:
        if self.monitor == "last" and self.patience:
            raise WrongCall("trainer.patience needs a figure to wait for.", "Choose a trainer.monitor other than last.")
        if not 0 < self.validate_every <= 1:
            raise WrongCall(
                f"trainer.validate_every is {self.validate_every}.", "It is a share of an epoch: above 0, at most 1."
            )
        if self.monitor == "last" and self.validate_every < 1:
            raise WrongCall("trainer.monitor last takes the end of an epoch.", "Leave trainer.validate_every out.")


@dataclass
class PublishedOptions:
    """Figures of the published row that a recipe repeats. They change nothing; `honne evaluate` shows them.

    Args:
        data: data set of the row.
        split: honne's name of the part that it was measured on.
        accuracy: 0..1.
        emotion_accuracy: 0..1, mean over the emotions.
        acc7: 0..1, of sentiment in 7 classes.
        acc2_positive: 0..1, negative against positive, without neutral samples.
        f1_positive: 0..1, of the same, weighted by class.
        mae: mean absolute error of sentiment.
        corr: correlation of sentiment.
        cam_cos: CAM-COS, 0..1.
        att_cos: ATT-COS, 0..1.
        source: where it stands.
    """

    data: str | None = None
    split: Literal["valid", "test"] | None = None
    accuracy: float | None = None
    emotion_accuracy: float | None = None
    acc7: float | None = None
    acc2_positive: float | None = None
    f1_positive: float | None = None
    mae: float | None = None
    corr: float | None = None
    cam_cos: float | None = None
    att_cos: float | None = None
    source: str | None = None

    def known(self) -> dict[str, Any]:
        """What is set."""
        return {name: value for name, value in vars(self).items() if value is not None}


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
    au_cues: AuCuesOptions
    fusion: FusionOptions
    published: PublishedOptions
    text: str

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """The recipe with other values of some options, named like "trainer.epochs"; options of its method too."""
        text, groups = yaml.safe_load(self.text), {}
        for group in {name.partition(".")[0] for name in changes}:
            own = {name.partition(".")[2]: value for name, value in changes.items() if name.startswith(f"{group}.")}
            place = "options" if group == self.method else group
            groups[place] = replace(getattr(self, place), **own)
            text[group] |= _plain(own)
        return replace(self, **groups, text=yaml.safe_dump(text, sort_keys=False))


GROUPS: dict[str, type] = {
    "model": ModelOptions,
    "data": DataOptions,
    "optim": OptimOptions,
    "trainer": TrainerOptions,
    "au_cues": AuCuesOptions,
    "fusion": FusionOptions,
    "published": PublishedOptions,
}


class RecipeParser(ArgumentParser):
    """Understands `RECIPE [--data DATA]... [--out RUN] [--dotted.overrides VALUE]`."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:  # type: ignore[override]
        """As in argparse; `--data DATA` is short for one more entry of `data.folders`."""
        words = [word for arg in (sys.argv[1:] if args is None else args) for word in _split_data(arg)]
        if words and not words[0].startswith("-"):
            words = ["--config", str(find(words[0])), *words[1:]]
        return super().parse_args(list(_extended(words)), *rest, **options)


def _extended(words: Sequence[str]) -> Iterator[str]:
    """Words with every `--config FILE` as one `--config TEXT` for each part of its chain."""
    pending = iter(words)
    for word in pending:
        name, equals, value = word.partition("=")
        if name != "--config":
            yield word
            continue
        for text in chain(find(value if equals else next(pending, ""))):
            yield from ("--config", text)


def _split_data(word: str) -> list[str]:
    if word == "--data":
        return ["--data.folders+"]
    return ["--data.folders+", word.removeprefix("--data=")] if word.startswith("--data=") else [word]


def parser(**options: Any) -> RecipeParser:
    """Parser of `honne train`, built from the options' own types and texts."""
    built = RecipeParser(
        prog="honne train",
        usage="honne train RECIPE --data DATA --out RUN [--model.backbone resnet50 ...]",
        description=f"Train a model; running the same command again resumes. Recipes: {families()}.",
        **options,
    )
    built.add_argument(
        "--config", action=ActionConfigFile, help="the recipe (its name or file may stand first instead)"
    )
    built.add_argument("--out", type=str, required=True, help="folder of the run; OUT/model is the result")
    built.add_argument("--method", type=Literal[tuple(METHODS)], required=True, help="how to train")
    for group, kind in GROUPS.items():
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
    groups = {name: chosen[name] for name in GROUPS}
    return Recipe(chosen.method, chosen[chosen.method], text=text, **groups)


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
        text = yaml.safe_dump(value, default_flow_style=True).strip().removesuffix("...").strip()
        words.append(f"--{name}={value if isinstance(value, str) else text}")  # quotes of 'no' would count
    try:
        return from_namespace(built, built.parse_args(words))
    except HonneError:
        raise
    except Exception as error:
        raise WrongCall(f"recipe {recipe}: {error}", "`honne train --help` lists the options.") from error
