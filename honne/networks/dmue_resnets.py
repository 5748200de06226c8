"""The two networks of DMUE (She et al., CVPR 2021), registered with timm as `dmue_resnet18` and `resnet50_ibn_a`.

Both are timm's ResNets but for the named differences, and their entries are named as in the published checkpoints
(`backbone.` here for `base.` there).
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

_CFG = {"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3, "first_conv": "conv1", "classifier": "fc"}
default_cfgs = generate_default_cfgs({"dmue_resnet18": _CFG, "resnet50_ibn_a": _CFG})


class DmueResNet18(ResNet):
    """timm's ResNet with the stem of the published weights: no ReLU, max-pooling 2 x 2 with stride 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.act1 = nn.Identity()
        self.maxpool = nn.MaxPool2d(2, 2)  # type: ignore[assignment]


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the others.

    Args:
        channels: of the (B, channels, H, W) input; an odd one more is batch-normalised.

    Source: Pan et al., ECCV 2018, IBN-Net, variant a.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = channels // 2
        self.IN = nn.InstanceNorm2d(self.first, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.first)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        return torch.cat([self.IN(maps[:, : self.first]), self.BN(maps[:, self.first :])], 1)


class IBNBottleneck(Bottleneck):
    """timm's bottleneck with `IBN` as its first norm."""

    def __init__(self, inplanes: int, planes: int, *arguments: Any, **options: Any) -> None:
        super().__init__(inplanes, planes, *arguments, **options)
        self.bn1 = IBN(self.conv1.out_channels)


class GeM(nn.Module):
    """Generalised mean of a map: (mean of x^p)^(1/p), with x at least 1e-6.

    Args:
        p: 1 gives the mean, large values approach the maximum.
        learnable: whether p is trained.

    Source: Radenovic et al., TPAMI 2019, equation 2.
    """

    p: Tensor

    def __init__(self, p: float = 3.0, learnable: bool = False) -> None:
        super().__init__()
        value = torch.tensor([p])
        if learnable:
            self.p = nn.Parameter(value)
        else:
            self.register_buffer("p", value)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C) from (B, C, H, W)."""
        return maps.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


@register_model
def dmue_resnet18(pretrained: bool = False, **options: Any) -> DmueResNet18:
    """ResNet-18 with the released stem; 11.2 million parameters. With the standard stem it is timm's `resnet18`."""
    defaults: dict[str, Any] = {"block": BasicBlock, "layers": (2, 2, 2, 2)}
    return build_model_with_cfg(DmueResNet18, "dmue_resnet18", pretrained, **defaults | options)


@register_model
def resnet50_ibn_a(pretrained: bool = False, **options: Any) -> ResNet:
    """ResNet-50 with `IBN` in the first three stages; 23.5 million parameters."""
    blocks = (IBNBottleneck, IBNBottleneck, IBNBottleneck, Bottleneck)
    defaults: dict[str, Any] = {"block": blocks, "layers": (3, 4, 6, 3)}
    return build_model_with_cfg(ResNet, "resnet50_ibn_a", pretrained, **defaults | options)
