"""Train a model: recipe and prepared data in, RUN/model out. Reads top to bottom.

RUN/recipe.yaml         the recipe with every option written out
RUN/checkpoints/        what an interrupted run resumes from
RUN/logs/metrics.csv    every figure by step; TensorBoard files beside it where tensorboard is installed
RUN/curves.png          learning curves
RUN/model/              the result (honne.models)
"""

from __future__ import annotations

import importlib.util
import logging
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import (
    Checkpoint,
    EarlyStopping,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from honne import recipe as recipes
from honne.building import network_of
from honne.card import write_card
from honne.citations import citations
from honne.console import say
from honne.curves import draw_curves, join_logs, keep_log
from honne.data.loading import DataModule, open_data
from honne.data.manifest import PreparedData, replacing, sha256
from honne.data.noise import LabelNoise
from honne.data.sequences import sequence_statistics
from honne.data.transforms import Normalise
from honne.errors import WrongCall
from honne.faces.align import Alignment
from honne.fitting import fit
from honne.methods import method
from honne.methods.au_cues import AuCues, ReferenceMaps
from honne.methods.base import Method
from honne.methods.frame_cache import cache_frames
from honne.models import Model, ModelConfig, device, load
from honne.networks import build
from honne.networks.clips import ClipNetwork
from honne.networks.face import load_weights
from honne.networks.fusion.network import FusionNetwork
from honne.networks.stored import Stored
from honne.recipe import Recipe
from honne.runs import begin
from honne.staging import measure, report_labels, run_stages

log = logging.getLogger("honne")

LESS_IS_BETTER = ("loss", "mae")


def train(
    recipe: str | Path,
    *,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train a model; the same call again resumes an interrupted run.

    Args:
        recipe: name of a packaged recipe, or a YAML file.
        data: one or several prepared data sets with the same label schema.
        out: folder of the run.
        overrides: dotted options, e.g. {"optim.lr": 1e-3, "trainer.epochs": 5}.

    Returns:
        The folder of the trained model, `out/model`.

    Raises:
        HonneError: data or options that do not fit, or a run folder that holds another recipe.
    """
    folders = [data] if isinstance(data, (str, Path)) else list(data)
    return run(recipes.read(recipe, folders, out, dict(overrides or {})), Path(out))


def parser(**options: Any) -> recipes.RecipeParser:
    """Parser of the command; see `honne.recipe`."""
    return recipes.parser(**options)


def command(namespace: Namespace) -> None:
    """`honne train RECIPE [--data DATA] [overrides] --out RUN`."""
    run(recipes.from_namespace(recipes.parser(), namespace), Path(namespace.out))


def run(recipe: Recipe, out: Path) -> Path:
    """Train what a recipe says, in `out`: one model, or several stages one after the other."""
    stages = method(recipe.method).stages(recipe.options, recipe.trainer.seed)
    return run_stages(recipe, stages, out, run_one, open_module) if stages else run_one(recipe, out)


def run_one(recipe: Recipe, out: Path, shared: Path | None = None) -> Path:
    """Train one model in `out`; what frozen networks see is kept in `shared`, by default `out` too."""
    if begin(recipe, out):
        say(f"{out} is finished: its model is {out / 'model'}.")
        return out / "model"
    _quiet()
    seed_everything(recipe.trainer.seed, verbose=False)
    data = open_module(recipe)
    if data.flips is not None:
        with replacing(out / "label_noise.csv") as path:
            data.flips.to_csv(path, index=False)
    steps = _steps(recipe, data)
    kind, network = network_of(recipe, data)
    trained = new_method(recipe, data, steps, kind, network)
    if recipe.trainer.accumulate > 1 and not trained.automatic_optimization:
        raise WrongCall(f"method {recipe.method} steps after every batch.", "Leave out --trainer.accumulate.")
    if recipe.data.labels == "union" and shared is None:
        report_labels(data, out)
    if isinstance(trained.network, ClipNetwork) and recipe.model.frozen == "whole":
        cache_frames(trained.network, data, trained.normalise, shared or out, _place(recipe))
    checkpoints = out / "checkpoints"
    best = ModelCheckpoint(
        checkpoints,
        "best",
        monitor="epoch" if recipe.trainer.monitor == "last" else f"valid/{recipe.trainer.monitor}",
        mode="min" if recipe.trainer.monitor in LESS_IS_BETTER else "max",
        enable_version_counter=False,
        save_on_train_epoch_end=False,  # right after validation, so that `last` knows the best figure
    )
    last = LastCheckpoint(checkpoints, recipe.trainer.checkpoint_steps)
    rank_zero_only(keep_log)(out / "logs")
    trainer = Trainer(
        accelerator=recipe.trainer.accelerator,
        devices=recipe.trainer.devices,
        strategy="ddp" if recipe.trainer.devices > 1 else "auto",
        precision=recipe.trainer.precision,
        max_epochs=recipe.trainer.epochs,
        accumulate_grad_batches=recipe.trainer.accumulate,
        gradient_clip_val=recipe.optim.clip if trained.automatic_optimization and recipe.optim.clip else None,
        limit_train_batches=recipe.trainer.batches or None,
        val_check_interval=recipe.trainer.validate_every,
        sync_batchnorm=recipe.trainer.sync_batchnorm,
        use_distributed_sampler=False,
        logger=_loggers(out),
        log_every_n_steps=50,
        num_sanity_val_steps=0,
        enable_model_summary=False,
        callbacks=[best, last, SeedEveryStep(recipe.trainer.seed), *_callbacks(recipe)],
    )
    resume = checkpoints / "last.ckpt"
    with _ctrl_c():
        trainer.fit(trained, data, ckpt_path=resume if resume.is_file() else None, weights_only=True)
    if trainer.is_global_zero:
        join_logs(out / "logs")
        draw_curves(out / "logs" / "metrics.csv", out / "curves.png")
        _finish(recipe, out, trained, data, Path(best.best_model_path), {"kind": kind, "options": network})
    trainer.strategy.barrier()
    return out / "model"


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """Lightning answers Ctrl-C by ignoring further ones and leaving the process; here it stays a KeyboardInterrupt."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as left:
        raise KeyboardInterrupt from left
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def open_module(recipe: Recipe) -> DataModule:
    """The data of a recipe.

    Raises:
        HonneError: they do not go together.
        WrongCall: the method cannot learn from them.
    """
    if recipe.model.window and not method(recipe.method).windows:
        raise WrongCall(f"method {recipe.method} takes single faces, not windows.", "Leave out --model.window.")
    sets = open_data(recipe.data.folders, recipe.data.labels)
    inputs = "sequences" if "sequence" in sets[0].rows else "images"
    if inputs not in method(recipe.method).takes:
        what, other = ("feature sequences", "images") if inputs == "sequences" else ("images", "feature sequences")
        raise WrongCall(
            f"method {recipe.method} learns from {other}; {sets[0].root} has {what}.",
            "Take --method erm, which learns from both, or other data.",
        )
    crops = {Alignment.from_dict(each.schema.alignment).kind: each.root for each in sets}
    if len(crops) > 1:
        kinds = ", ".join(f"{kind} ({root})" for kind, root in crops.items())
        log.warning("The data sets are cropped differently: %s. The model will crop like the first of them.", kinds)
    return DataModule(
        sets,
        size=recipe.data.size or round(Alignment.from_dict(sets[0].schema.alignment).size * recipe.data.centre),
        batch_size=recipe.data.batch_size,
        workers=recipe.data.workers,
        seed=recipe.trainer.seed,
        augment=recipe.data.augment,
        targets=recipe.data.targets,
        sampling=recipe.data.sampling,
        drop_last=True,
        label_noise=_label_noise(recipe),
        learns=method(recipe.method).learns,
        centre=recipe.data.centre,
        heatmaps=_reference_maps(recipe, sets),
        labels=recipe.data.learned([each.schema.labels for each in sets]),
        balance=recipe.data.balance,
        epoch=recipe.data.epoch,
        window=recipe.model.window,
    )


def new_method(recipe: Recipe, data: DataModule, steps: int, kind: str, options: dict[str, Any]) -> Method:
    """The method of a recipe with a fresh network of this kind and these options for these data."""
    chosen = method(recipe.method)
    schema = chosen.learned(data.labels)
    network = build(kind, options, schema)
    if recipe.model.frames is not None:
        Stored.of(recipe.model.frames, "model.frames").fill(network.get_submodule("frames"))
    elif recipe.model.weights is not None:
        if kind not in ("face", "clips"):
            raise WrongCall("model.weights is of a network of images.", "Leave it out for feature sequences.")
        backbone = network.get_submodule("frames.backbone" if kind == "clips" else "backbone")
        left = load_weights(backbone, recipe.model.weights)
        log.info("%s: %d entries of the backbone were not in the file.", recipe.model.weights, len(left))
    if isinstance(network, FusionNetwork) and network.standardise is not None:
        for name, (mean, std) in sequence_statistics(map(data.training.sample, data.train_rows().tolist())).items():
            if name in network.widths:
                network.standardise.set(name, torch.from_numpy(mean), torch.from_numpy(std))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return chosen(
        recipe.options,
        **chosen.facts(recipe.options, data),
        network=network,
        schema=schema,
        normalise=Normalise(recipe.model.mean, recipe.model.std, channels_last=True),
        optim=recipe.optim,
        steps=steps,
        epochs=recipe.trainer.epochs,
        au_cues=AuCues(recipe.au_cues, schema) if recipe.au_cues.on else None,
    )


def _place(recipe: Recipe) -> torch.device:
    """Where to compute beside the trainer."""
    return torch.device("cpu") if recipe.trainer.accelerator == "cpu" else device()


def _label_noise(recipe: Recipe) -> LabelNoise | None:
    if not recipe.data.label_noise:
        return None
    seed = recipe.trainer.seed if recipe.data.label_noise_seed is None else recipe.data.label_noise_seed
    return LabelNoise(recipe.data.label_noise, recipe.data.label_noise_kind, seed)


def _reference_maps(recipe: Recipe, sets: list[PreparedData]) -> ReferenceMaps | None:
    if not recipe.au_cues.on or recipe.au_cues.geometry == "face":
        return None
    sides = {Alignment.from_dict(each.schema.alignment).size for each in sets}
    if len(sides) > 1:
        raise WrongCall("au_cues.geometry reference draws on stored pictures of one size.", "Leave the option out.")
    return ReferenceMaps(recipe.au_cues, sets[0].schema.labels.expressions, sides.pop())


def _steps(recipe: Recipe, data: DataModule) -> int:
    """Optimiser steps of the whole run."""
    batches = len(data.order()(0)) // (recipe.data.batch_size * data.parts * recipe.trainer.devices)
    if recipe.trainer.batches:
        batches = min(batches, recipe.trainer.batches)
    return -(-batches // recipe.trainer.accumulate) * recipe.trainer.epochs


class SeedEveryStep(Callback):
    """Seeds dropout, mixing and the like from (seed, step, process), so that a resumed run draws the same numbers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_index: int) -> None:
        drawn = np.random.SeedSequence((self.seed, trainer.current_epoch, batch_index, trainer.global_rank))
        torch.manual_seed(int(drawn.generate_state(1)[0]))


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt` fresh every `steps` optimiser steps, at the end of epochs, and when the user interrupts.

    A `Checkpoint`, so that Lightning calls it after every other callback: averaged weights are up to date by then.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self.path, self.steps, self.saved = folder / "last.ckpt", steps, -1

    def _save(self, trainer: Trainer) -> None:
        self.saved = trainer.global_step
        aside = self.path.with_suffix(".part")
        trainer.save_checkpoint(aside)
        if trainer.is_global_zero:
            aside.replace(self.path)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if trainer.global_step % self.steps == 0 and trainer.global_step != self.saved:  # once while accumulating
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._save(trainer)  # again if this step was saved: now with what the validation found

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1 and trainer.global_step != self.saved:
            self._save(trainer)


def _callbacks(recipe: Recipe) -> list[Callback]:
    chosen: list[Callback] = [LearningRateMonitor("step")]
    if recipe.trainer.ema:
        chosen.append(WeightAveraging(avg_fn=_moving_average(recipe.trainer.ema)))
    if recipe.trainer.patience:
        mode = "min" if recipe.trainer.monitor in LESS_IS_BETTER else "max"
        chosen.append(
            EarlyStopping(f"valid/{recipe.trainer.monitor}", mode=mode, patience=recipe.trainer.patience, strict=True)
        )
    chosen.append(RichProgressBar(leave=True))
    return chosen


def _moving_average(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """Exponential moving average whose decay grows to its value, so that the first steps are soon forgotten."""

    def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
        kept = min(decay, (1 + float(count)) / (10 + float(count)))
        return kept * averaged + (1 - kept) * current

    return average


def _loggers(out: Path) -> list[Logger]:
    chosen: list[Logger] = [CSVLogger(out, name="logs", version="")]
    if importlib.util.find_spec("tensorboard"):
        chosen.append(TensorBoardLogger(out, name="logs", version="", default_hp_metric=False))
    return chosen


def _quiet() -> None:
    """Silence what Lightning says to programmers rather than to users."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (".*does not have many workers.*", ".*smaller than the logging interval.*", ".*is not empty.*"):
        warnings.filterwarnings("ignore", text)


def _finish(recipe: Recipe, out: Path, trained: Method, data: DataModule, best: Path, network: dict[str, Any]) -> None:
    """Best weights -> temperature on validation -> RUN/model with figures and card."""
    state = torch.load(best, map_location="cpu", weights_only=True)
    trained.load_state_dict(state["state_dict"])
    trained.to("cpu").eval()
    trained.finish(out)
    place = _place(recipe)
    trained.to(place)
    fitted = fit(lambda batch: trained.predict(batch.to(place)), trained.schema, data, recipe.model.thresholds)
    trained.to("cpu")
    first, images = data.data[0], data.training.has_images
    config = ModelConfig(
        name=recipe.model.name or out.name,
        method=recipe.method,
        network=network,
        labels=trained.schema,
        mean=recipe.model.mean,
        std=recipe.model.std,
        alignment=first.schema.alignment | ({"size": data.size, "centre": data.centre} if images else {}),
        features=first.schema.features,
        temperature=fitted.temperature,
        thresholds=fitted.thresholds,
        explanation=_explanation(recipe, images),
        training={
            "data": [each.schema.name for each in data.data],
            "data_sha256": [sha256(each.root / "manifest.parquet") for each in data.data],
            "splits": {"train": "train", "selected and calibrated on": "valid"},
            "seed": recipe.trainer.seed,
            "epoch": int(state["epoch"]),
            "recipe": _without_folders(recipe.text),
        }
        | state.get("figures", {})
        | ({"published": recipe.published.known()} if recipe.published.data else {}),
        licence={
            "code": "Apache-2.0",
            "weights": "; ".join(sorted({each.schema.licence for each in data.data})),
            "data": "; ".join(sorted({f"{each.schema.name}: {each.schema.licence}" for each in data.data})),
        },
        cite=citations(recipe.method, network, au_cues=recipe.au_cues.on),
    )
    model = Model(config, trained.network)
    model.save(out / "model", metrics={}, card="", half=recipe.model.half)
    write_card(load(out / "model"), measure(out / "model", data.data), half=recipe.model.half)
    say(f"Model: {out / 'model'} (best epoch {int(state['epoch']) + 1}, temperature {fitted.temperature:.3f})")


def _explanation(recipe: Recipe, images: bool) -> dict[str, str]:
    if not images:
        return {}
    cues = recipe.au_cues
    aligned = {"aligned": cues.layers, "cue": cues.map} if cues.weight else {}
    return {"map": recipe.model.explanation, "codebook": cues.codebook} | aligned


def _without_folders(text: str) -> str:
    """The recipe for the model's record: where the data lay on this machine is nobody's business."""
    options = yaml.safe_load(text)
    options["data"].pop("folders", None)
    return yaml.safe_dump(options, sort_keys=False)
