"""APViT, registered with timm as `apvit`: a face-recognition trunk and a transformer that drops what it need not see.

The first three stages of ArcFace's IR-50 give a map of 14 x 14 positions of a 112 px face. Of these the positions with
the strongest features enter the transformer, and half of its blocks drop the tokens to which the class token attends
least.

Source: Xue et al., IEEE Trans. Affective Computing 2022, arXiv 2212.05463; Deng et al., CVPR 2019 (IR-50).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import Mlp
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from honne.errors import HonneError

default_cfgs = generate_default_cfgs(
    {"apvit": {"input_size": (3, 112, 112), "mean": (0.5,) * 3, "std": (0.5,) * 3, "num_classes": 0}}
)


class ResidualUnit(nn.Module):
    """Norm, convolution, PReLU, convolution, norm; beside it the input, shrunk and widened as needed."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, outputs, H / stride, W / stride)."""
        return self.res_layer(maps) + self.shortcut_layer(maps)


class IR50(nn.Module):
    """The stem and the first stages of IR-50; entries are named as in published weights.

    Args:
        channels: of the stages; each shrinks the map twofold.
        units: of the stages.
        in_chans: channels of the images.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256), units: Sequence[int] = (3, 4, 14), in_chans: int = 3):
        super().__init__()
        width = channels[0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_chans, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        body = []
        for outputs, count in zip(channels, units, strict=True):
            body.append(ResidualUnit(width, outputs, 2))
            body += [ResidualUnit(outputs, outputs, 1) for _ in range(count - 1)]
            width = outputs
        self.body = nn.Sequential(*body)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, C, H / 8, W / 8) of images (B, 3, H, W)."""
        return self.body(self.input_layer(images))


def strength(maps: Tensor) -> Tensor:
    """(B, 1, H, W) of each position of maps (B, D, H, W): the sum of its magnitudes."""
    return maps.abs().sum(1, keepdim=True)


def strongest(weights: Tensor, count: int) -> Tensor:
    """(B, count) places of the highest of weights (B, N), in ascending order."""
    return weights.topk(count, 1, sorted=False).indices.sort(1).values


def strongest_but_first(weights: Tensor, share: float) -> Tensor:
    """Places of the first (the class token's) and of a share of the others, rounded down, of weights (B, N)."""
    kept = strongest(weights[:, 1:], max(int((weights.shape[1] - 1) * share), 1)) + 1
    return F.pad(kept, (1, 0))


def taken(tokens: Tensor, places: Tensor) -> Tensor:
    """(B, K, D) of tokens (B, N, D) at places (B, K)."""
    return tokens.gather(1, places[:, :, None].expand(-1, -1, tokens.shape[2]))


class PoolingBlock(nn.Module):
    """A transformer block that keeps, between attention and MLP, the tokens its class token attends to most.

    Attention is the sum over heads of the scores before the softmax.

    Args:
        width: D.
        heads: of the attention; no bias on queries, keys and values.
        mlp_ratio: width of the MLP over D.
        share: of the patch tokens that are kept, 0..1.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, share: float) -> None:
        super().__init__()
        self.heads, self.share = heads, share
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(mlp_ratio * width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, K, D) of (B, N, D), the class token first."""
        queries, keys, values = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        tokens = tokens + self.proj(mixed)
        if self.share < 1:
            scores = (queries[:, :, :1] @ keys.mT).sum((1, 2))
            tokens = taken(tokens, strongest_but_first(scores, self.share))
        return tokens + self.mlp(self.norm2(tokens))


class PoolingTransformer(nn.Module):
    """From a map to the class token of a transformer that sees its strongest positions only.

    Args:
        channels: C of the map.
        side: H = W of the map.
        width: D of the tokens.
        heads: of every block.
        mlp_ratio: width of the MLPs over D.
        keep: positions that enter.
        shares: of the tokens that each block keeps; as many as there are blocks.
    """

    def __init__(
        self, channels: int, side: int, width: int, heads: int, mlp_ratio: float, keep: int, shares: Sequence[float]
    ) -> None:
        super().__init__()
        self.side, self.keep = side, keep
        self.projection = nn.Conv2d(channels, width, 1)
        self.cls_token, self.cls_pos_embed = (nn.Parameter(torch.zeros(1, 1, width)) for _ in range(2))
        self.patch_pos_embed = nn.Parameter(torch.zeros(1, side * side, width))
        self.blocks = nn.Sequential(*(PoolingBlock(width, heads, mlp_ratio, share) for share in shares))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for entry in (self.cls_token, self.cls_pos_embed, self.patch_pos_embed):
            nn.init.trunc_normal_(entry, std=0.02)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Class token (B, D) of maps (B, C, side, side).

        Raises:
            HonneError: the map has another size.
        """
        if maps.shape[2:] != (self.side, self.side):
            raise HonneError(
                f"apvit was built for {self.side} x {self.side} positions, not for {maps.shape[2]} x {maps.shape[3]}.",
                f"Add --data.size {8 * self.side}, or set img_size in --model.backbone_options.",
            )
        projected = self.projection(maps)
        tokens = projected.flatten(2).mT + self.patch_pos_embed
        tokens = taken(tokens, strongest(strength(projected).flatten(1), self.keep))
        first = (self.cls_token + self.cls_pos_embed).expand(len(maps), -1, -1)
        return self.norm(self.blocks(torch.cat([first, tokens], 1)))[:, 0]


class APViT(nn.Module):
    """Trunk and transformer, as a timm model; its one layer, and the last map, is the map between the two.

    Args:
        num_classes: 0; heads are made elsewhere.
        in_chans: channels of the images.
        img_size: side of the images in px, a multiple of 8.
        channels: of the trunk's stages.
        units: of the trunk's stages.
        width: of the tokens.
        depth: blocks; the second half of them drops tokens.
        heads: of every block.
        mlp_ratio: width of the MLPs over that of the tokens.
        keep: positions of the map that enter the transformer.
        share: of its tokens that each block of the second half keeps.
    """

    def __init__(
        self,
        num_classes: int = 0,
        in_chans: int = 3,
        img_size: int = 112,
        channels: Sequence[int] = (64, 128, 256),
        units: Sequence[int] = (3, 4, 14),
        width: int = 768,
        depth: int = 8,
        heads: int = 8,
        mlp_ratio: float = 3.0,
        keep: int = 160,
        share: float = 0.9,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features, self.head_hidden_size = channels[-1], width
        self.feature_info = [{"num_chs": channels[-1], "reduction": 8, "module": "trunk"}]
        shares = [1.0] * (depth - depth // 2) + [share] * (depth // 2)
        self.trunk = IR50(channels, units, in_chans)
        self.transformer = PoolingTransformer(channels[-1], img_size // 8, width, heads, mlp_ratio, keep, shares)

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps (B, 256, 14, 14) of images (B, 3, 112, 112)."""
        return self.trunk(images)

    def forward_head(self, maps: Tensor, pre_logits: bool = False) -> Tensor:
        """Class tokens (B, 768) of those maps."""
        return self.transformer(maps)

    def forward(self, images: Tensor) -> Tensor:
        """Class tokens of images."""
        return self.forward_head(self.forward_features(images))


@register_model
def apvit(pretrained: bool = False, **options: Any) -> APViT:
    """65.2 million parameters: 17.6 of the trunk, 47.6 of the transformer."""
    return build_model_with_cfg(APViT, "apvit", pretrained, **options)
