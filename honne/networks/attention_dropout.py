"""Attention-based dropout (ADL): in training, hide what a ResNet attends to most, or else strengthen it.

It is put into the flow by hooks and has no parameters, so a network's layers and the entries of its state dict stay as
they are.

Source: Choe and Shim, CVPR 2019.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from honne.errors import WrongCall


def attention_dropout(maps: Tensor, rate: float, threshold: float = 0.1) -> Tensor:
    """Maps without the positions attended to, or with all positions weighted by attention; one draw per batch.

    Args:
        maps: (B, C, H, W), not below 0; attention is the mean over C.
        rate: probability of hiding, 0..1.
        threshold: share of a sample's highest attention from which a position is hidden.
    """
    attention = maps.mean(1, keepdim=True)
    if torch.rand(()) >= 1 - rate:
        return maps * (attention < threshold * attention.amax((2, 3), keepdim=True))
    return maps * attention.sigmoid()


def add_attention_dropout(backbone: nn.Module, rate: float) -> None:
    """After the first block of the last but one stage of a ResNet, and the first and last of the last stage.

    Raises:
        WrongCall: not a ResNet, or a rate out of range.
    """
    if not isinstance(backbone, ResNet):
        raise WrongCall(
            f"attention dropout is for ResNets, not for {type(backbone).__name__}.",
            "Choose a ResNet as --model.backbone, or leave --model.attention_dropout out.",
        )
    if not 0 <= rate <= 1:
        raise WrongCall(f"attention dropout {rate} is no probability.", "It lies between 0 and 1.")

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return attention_dropout(output, rate) if module.training else output

    before: Any = backbone.layer3
    last: Any = backbone.layer4
    for block in {before[0], last[0], last[-1]}:
        block.register_forward_hook(hook)
