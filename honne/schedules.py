"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from honne.errors import WrongCall

LEAST_CHANGE = 1e-8
"""The plateau schedule leaves a rate alone that would change by no more, as PyTorch's does."""


@dataclass
class OptimOptions:
    """How weights are learned.

    Args:
        optimizer: adamw, adam or sgd (momentum 0.9, Nesterov).
        lr: peak learning rate.
        head_lr: learning rate of everything outside the backbone; unset = `lr`.
        weight_decay: see `decayed`; decoupled in adamw, part of the gradient in adam and sgd.
        decayed: what decays: weights (of two or more dimensions: not biases and norms), or all.
        beta1: decay of the running mean of the gradient in adam and adamw, 0..1.
        schedule: shape of the learning rate after the warm-up: cosine (down to 0), step (times `step_factor` every
            `step_epochs`), linear (epoch by epoch, to 0 one epoch after the last), plateau (times `step_factor` when
            the validation loss no longer falls), table (`table` and `head_table` instead of `lr` and `head_lr`),
            constant.
        warmup: share of all steps in which the rate rises linearly from lr/25, 0..1.
        warmup_epochs: instead of `warmup`: so many epochs at 1/n, 2/n ... n/n of the rate; the epochs of step, linear
            and `cosine_epochs` count from their end. 0 = `warmup`.
        hold_epochs: epochs at the full rate before the linear schedule falls.
        cosine_epochs: of half a wave, epoch by epoch; after so many the rate rises again. 0 = half a wave over the
            whole run, step by step.
        step_epochs: epochs between steps of the step schedule.
        step_factor: factor at each step, and of the plateau schedule.
        step_floor: the step and plateau schedules go no lower than this learning rate.
        plateau_patience: validations without a lower loss that the plateau schedule waits, once warmed up; it falls at
            the next.
        plateau_threshold: share of the lowest loss by which one must be lower to count, 0..1.
        table: pairs (epoch, rate) for the table schedule: the rate holds while fewer than so many epochs are done, the
            last one for ever.
        head_table: the same for everything outside the backbone; empty = `table`.
        clip: largest norm of the gradient; 0 = no clipping.
        clip_kind: norm, of all gradients together; or value, of each entry.
    """

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr: float | None = None
    weight_decay: float = 0.05
    decayed: Literal["weights", "all"] = "weights"
    beta1: float = 0.9
    schedule: Literal["cosine", "step", "linear", "plateau", "table", "constant"] = "cosine"
    warmup: float = 0.1
    warmup_epochs: int = 0
    hold_epochs: int = 0
    cosine_epochs: int = 0
    step_epochs: int = 10
    step_factor: float = 0.1
    step_floor: float = 0.0
    plateau_patience: int = 5
    plateau_threshold: float = 0.01
    table: list[tuple[float, float]] = field(default_factory=list)
    head_table: list[tuple[float, float]] = field(default_factory=list)
    clip: float = 5.0
    clip_kind: Literal["norm", "value"] = "norm"

    def __post_init__(self) -> None:
        if (self.schedule == "table") != bool(self.table):
            raise WrongCall("optim.table and optim.schedule table go together.", "Give both, or neither.")
        for name, shape in (("hold_epochs", "linear"), ("cosine_epochs", "cosine")):
            if getattr(self, name) and self.schedule != shape:
                raise WrongCall(f"optim.{name} belongs to optim.schedule {shape}.", "Give both, or neither.")
        for name in ("table", "head_table"):
            bounds = [bound for bound, _ in getattr(self, name)]
            if bounds != sorted(bounds):
                raise WrongCall(f"optim.{name}: its epochs {bounds} do not rise.", "Order the pairs by epoch.")


def optimizer(
    module: nn.Module,
    options: OptimOptions,
    fused: bool = True,
    backbone: Sequence[str] = ("backbone",),
    rates: Mapping[str, float] | None = None,
) -> Optimizer:
    """Optimiser over the parameters of `module` that require a gradient.

    Args:
        module: what is learned.
        options: `OptimOptions`.
        fused: use the fused kernels where the device has them: 4 to 6 times faster on CPU; not with loss scaling.
        backbone: names of the children whose parameters take `lr`; all others take `head_lr`.
        rates: beginning of a parameter's name -> its learning rate; the first that fits counts.
    """
    fused = fused and all(parameter.device.type in ("cpu", "cuda") for parameter in module.parameters())
    groups: dict[tuple[bool, bool, float | None], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            own = next((rate for start, rate in (rates or {}).items() if name.startswith(start)), None)
            decayed = parameter.ndim > 1 or options.decayed == "all"
            key = (not set(backbone).isdisjoint(name.split(".")), decayed, own)
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": members,
            "lr": _rate(options, in_backbone, 0) if own is None else own,
            "weight_decay": options.weight_decay if decayed else 0.0,
            "in_backbone": in_backbone,
        }
        for (in_backbone, decayed, own), members in groups.items()
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=options.lr, momentum=0.9, nesterov=True, fused=fused)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=options.lr, betas=(options.beta1, 0.999), fused=fused)


def _rate(options: OptimOptions, in_backbone: bool, epoch: float) -> float:
    """Learning rate before warm-up and decay."""
    if options.schedule == "table":
        return rate_at(options.table if in_backbone or not options.head_table else options.head_table, epoch)
    return options.lr if in_backbone or options.head_lr is None else options.head_lr


def rate_at(table: Sequence[tuple[float, float]], epoch: float) -> float:
    """Entry of a table of (epoch, rate) in force at an epoch (from 0); past its end the last one.

    Example:
        >>> rate_at([(6, 1e-4), (12, 5e-5)], 6)
        5e-05
    """
    return next((rate for bound, rate in table if epoch < bound), table[-1][1])


class Schedule(LambdaLR):
    """Learning rates by optimiser step; `observe` lowers them for good."""

    def __init__(self, optimizer: Optimizer, factors: list[Callable[[int], float]], options: OptimOptions) -> None:
        self.options, self.best, self.waited = options, math.inf, 0
        super().__init__(optimizer, factors)

    def observe(self, loss: float) -> None:
        """Take note of a validation loss, for the plateau schedule; the next step has the rates that follow from it."""
        warming_up = self.lr_lambdas[0](max(self.last_epoch - 1, 0)) < 1
        if loss < self.best * (1 - self.options.plateau_threshold):
            self.best, self.waited = loss, 0
        elif not warming_up:
            self.waited += 1
        if self.waited <= self.options.plateau_patience:
            return
        self.waited = 0
        for index, group in enumerate(self.optimizer.param_groups):
            rate = float(self.base_lrs[index])
            lower = max(rate * self.options.step_factor, self.options.step_floor)
            if rate - lower > LEAST_CHANGE:
                self.base_lrs[index] = lower
                group["lr"] = lower * self.lr_lambdas[index](self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the recipe has the options."""
        return {name: value for name, value in super().state_dict().items() if name != "options"}


def schedule(optimizer: Optimizer, options: OptimOptions, steps: int, epochs: int) -> Schedule:
    """Learning-rate schedule, to be stepped once per optimiser step.

    Args:
        optimizer: as `optimizer` made it.
        options: `OptimOptions`.
        steps: optimiser steps of the whole run.
        epochs: epochs of the whole run.
    """
    per_epoch = max(steps / max(epochs, 1), 1)
    warm = options.warmup_epochs * per_epoch or int(options.warmup * steps)

    def factor(step: int, in_backbone: bool) -> float:
        epoch = int(step / per_epoch + 1e-9)
        if epoch < options.warmup_epochs:
            return (epoch + 1) / options.warmup_epochs
        if not options.warmup_epochs and step < warm:
            return 1 / 25 + (1 - 1 / 25) * step / warm
        since = epoch - options.warmup_epochs
        if options.schedule == "step":
            fallen = options.step_factor ** (since // options.step_epochs)
            return max(fallen, options.step_floor / _rate(options, in_backbone, 0))
        if options.schedule == "linear":
            falling = max(epochs - options.warmup_epochs - options.hold_epochs, 0)
            return 1 - min(max(since + 1 - options.hold_epochs, 0) / (falling + 1), 1)
        if options.schedule == "table":
            return _rate(options, in_backbone, epoch) / _rate(options, in_backbone, 0)
        if options.schedule == "cosine":
            whole = min((step - warm) / max(steps - warm, 1), 1)
            wave = since / options.cosine_epochs if options.cosine_epochs else whole
            return 0.5 * (1 + math.cos(math.pi * wave))
        return 1.0

    return Schedule(
        optimizer, [partial(factor, in_backbone=group["in_backbone"]) for group in optimizer.param_groups], options
    )
