"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from honne.errors import WrongCall


@dataclass
class OptimOptions:
    """How weights are learned.

    Args:
        optimizer: adamw, adam or sgd (momentum 0.9, Nesterov).
        lr: peak learning rate.
        head_lr: learning rate of everything outside the backbone; unset = `lr`.
        weight_decay: see `decayed`; decoupled in adamw, part of the gradient in adam and sgd.
        decayed: what decays: weights (of two or more dimensions: not biases and norms), or all.
        schedule: shape of the learning rate after the warm-up: cosine (down to 0), step (times `step_factor` every
            `step_epochs`), table (`table` and `head_table` instead of `lr` and `head_lr`), constant.
        warmup: share of all steps in which the rate rises linearly from lr/25, 0..1.
        step_epochs: epochs between steps of the step schedule.
        step_factor: factor at each step.
        step_floor: the step schedule goes no lower than this learning rate.
        table: pairs (epoch, rate) for the table schedule: the rate holds while fewer than so many epochs are done, the
            last one for ever.
        head_table: the same for everything outside the backbone; empty = `table`.
        clip: largest norm of the gradient; 0 = no clipping.
    """

    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 1e-3
    head_lr: float | None = None
    weight_decay: float = 0.05
    decayed: Literal["weights", "all"] = "weights"
    schedule: Literal["cosine", "step", "table", "constant"] = "cosine"
    warmup: float = 0.1
    step_epochs: int = 10
    step_factor: float = 0.1
    step_floor: float = 0.0
    table: list[tuple[float, float]] = field(default_factory=list)
    head_table: list[tuple[float, float]] = field(default_factory=list)
    clip: float = 5.0

    def __post_init__(self) -> None:
        if (self.schedule == "table") != bool(self.table):
            raise WrongCall("optim.table and optim.schedule table go together.", "Give both, or neither.")
        for name in ("table", "head_table"):
            bounds = [bound for bound, _ in getattr(self, name)]
            if bounds != sorted(bounds):
                raise WrongCall(f"optim.{name}: its epochs {bounds} do not rise.", "Order the pairs by epoch.")


def optimizer(
    module: nn.Module, options: OptimOptions, fused: bool = True, backbone: Sequence[str] = ("backbone",)
) -> Optimizer:
    """Optimiser over the parameters of `module` that require a gradient.

    Args:
        module: what is learned.
        options: `OptimOptions`.
        fused: use the fused kernels where the device has them: 4 to 6 times faster on CPU; not with loss scaling.
        backbone: names of the children whose parameters take `lr`; all others take `head_lr`.
    """
    fused = fused and all(parameter.device.type in ("cpu", "cuda") for parameter in module.parameters())
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            key = (not set(backbone).isdisjoint(name.split(".")), parameter.ndim > 1 or options.decayed == "all")
            groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": members,
            "lr": _rate(options, in_backbone, 0),
            "weight_decay": options.weight_decay if decayed else 0.0,
            "in_backbone": in_backbone,
        }
        for (in_backbone, decayed), members in groups.items()
    ]
    if options.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=options.lr, momentum=0.9, nesterov=True, fused=fused)
    kind = torch.optim.AdamW if options.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=options.lr, fused=fused)


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


def schedule(optimizer: Optimizer, options: OptimOptions, steps: int, epochs: int) -> LambdaLR:
    """Learning-rate schedule, to be stepped once per optimiser step.

    Args:
        optimizer: as `optimizer` made it.
        options: `OptimOptions`.
        steps: optimiser steps of the whole run.
        epochs: epochs of the whole run.
    """
    warm = int(options.warmup * steps)
    per_epoch = max(steps / max(epochs, 1), 1)

    def factor(step: int, in_backbone: bool) -> float:
        if step < warm:
            return 1 / 25 + (1 - 1 / 25) * step / warm
        if options.schedule == "constant":
            return 1.0
        if options.schedule == "step":
            steps_taken = int(step / per_epoch / options.step_epochs + 1e-9)
            return max(options.step_factor**steps_taken, options.step_floor / _rate(options, in_backbone, 0))
        if options.schedule == "table":
            epoch = int(step / per_epoch + 1e-9)
            return _rate(options, in_backbone, epoch) / _rate(options, in_backbone, 0)
        return 0.5 * (1 + math.cos(math.pi * min((step - warm) / max(steps - warm, 1), 1.0)))

    return LambdaLR(optimizer, [partial(factor, in_backbone=group["in_backbone"]) for group in optimizer.param_groups])
