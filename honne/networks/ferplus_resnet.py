"""ResNet-50 as Caffe and MatConvNet build it, registered with timm as `resnet50_caffe`.

It is the network of the weights that were trained on VGGFace2 and then on FER+ (`resnet50_ferplus_dag`), from which
multitask emotion recognition starts. Entries are named as those of timm's `resnet50`, and have their shapes, but
whatever was trained in the one does not work in the other: strides and stem pooling differ.

Source: Albanie and Vedaldi's conversions of VGGFace2 (Cao et al., FG 2018); Deng, Chen, Shi, FG 2020.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

_CFG = {"input_size": (3, 224, 224), "num_classes": 0, "first_conv": "conv1", "classifier": "fc"}
default_cfgs = generate_default_cfgs({"resnet50_caffe": _CFG})


class CaffeBottleneck(Bottleneck):
    """timm's bottleneck with the stride in its first convolution, not in that of 3 x 3."""

    def __init__(self, inplanes: int, planes: int, *arguments: Any, **options: Any) -> None:
        super().__init__(inplanes, planes, *arguments, **options)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


class DroppedNorm(nn.BatchNorm2d):
    """BatchNorm of what dropout leaves; the dropout has no entry of its own.

    Args:
        channels: of the (B, channels, H, W) input.
        rate: probability of single values.
    """

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__(channels)
        self.rate = rate

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape."""
        return super().forward(nn.functional.dropout(maps, self.rate, self.training))


class CaffeResNet(ResNet):
    """timm's ResNet; the stem pools without padding, its windows reach over the far edge instead.

    Args:
        block_dropout: probability before the second and third norm of the last block.
        options: of timm's ResNet.
    """

    def __init__(self, block_dropout: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)  # type: ignore[assignment]
        last: Any = self.layer4[-1]  # type: ignore[index]
        for name in ("bn2", "bn3"):
            plain = getattr(last, name)
            dropped = DroppedNorm(plain.num_features, block_dropout)
            dropped.load_state_dict(plain.state_dict())
            setattr(last, name, dropped)


@register_model
def resnet50_caffe(pretrained: bool = False, **options: Any) -> CaffeResNet:
    """23.5 million parameters."""
    defaults: dict[str, Any] = {"block": CaffeBottleneck, "layers": (3, 4, 6, 3)}
    return build_model_with_cfg(CaffeResNet, "resnet50_caffe", pretrained, **defaults | options)
