"""A small ResNet for small faces (48 px and up), registered with timm as `face_resnet`.

timm's ResNets shrink the image fourfold before the first block, which leaves 12 x 12 positions of a 48 px face. Here
the stem shrinks it twofold only; everything else is timm's ResNet with squeeze-and-excitation.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import BasicBlock, ResNet
from torch import nn

default_cfgs = generate_default_cfgs(
    {"face_resnet": {"input_size": (3, 48, 48), "first_conv": "conv1.0", "classifier": "fc"}}
)


class FaceResNet(ResNet):
    """timm's ResNet without the stem's pooling: stages at strides 2, 4, 8, 16."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.maxpool = nn.Identity()  # type: ignore[assignment]
        for info in self.feature_info[1:]:
            info["reduction"] = int(str(info["reduction"])) // 2


@register_model
def face_resnet(pretrained: bool = False, **options: Any) -> FaceResNet:
    """2.9 million parameters, 0.12 GMAC at 48 px; `channels` and `layers` change its width and depth."""
    defaults: dict[str, Any] = {
        "block": BasicBlock,
        "layers": (1, 2, 2, 1),
        "channels": (48, 96, 192, 288),
        "stem_type": "deep",
        "stem_width": 24,
        "avg_down": True,
        "block_args": {"attn_layer": "se"},
    }
    return build_model_with_cfg(FaceResNet, "face_resnet", pretrained, **defaults | options)
