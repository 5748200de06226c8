"""IERN's networks: an emotion feature, put in turn into every context that was learned, and classified in each.

    f    = P(backbone(x))            base feature, P a 1 x 1 convolution
    e    = g_e(f),  c = g_c(f)       emotion and context feature (`Encoder`)
    f^   = g_r(e, c)                 reconstruction (`Decoder`)
    z_k  = f_c(g_r(e, m_k))          logits with the prototype m_k of confounder stratum k as the context
    z    = sum_k P(d = k) z_k        P(Y | do(X)), by backdoor adjustment

The context encoder g_c and the discriminators are needed in training alone (`honne.methods.iern`); `Interventional` is
what a model keeps.

Source: Chen, Yang, Cham, Cai, "Towards Unbiased Visual Emotion Recognition via Causal Intervention", ACM MM 2022, and
their released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.errors import HonneError, WrongCall

Init = Literal["normal", "xavier", "kaiming", "orthogonal"]
Average = Literal["logits", "probabilities"]


class ResBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), nothing after the sum.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) of the same."""
        return maps + self.norm2(self.conv2(self.norm1(self.conv1(maps)).relu()))


class Encoder(nn.Sequential):
    """g_e and g_c: a 3 x 3 convolution and residual blocks, (B, C, H, W) of the same.

    Args:
        channels: C.
        blocks: how many.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__(nn.Conv2d(channels, channels, 3, padding=1), *(ResBlock(channels) for _ in range(blocks)))


class Decoder(nn.Module):
    """g_r: two features become one, by a 3 x 3 convolution and residual blocks.

    Args:
        channels: C.
        blocks: how many, at least one.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.blocks: Any = nn.Sequential(*(ResBlock(channels) for _ in range(blocks)))
        self._kept: tuple[Tensor, tuple[Any, ...], tuple[Tensor, Tensor]] | None = None

    def forward(self, emotion: Tensor, context: Tensor) -> Tensor:
        """Base feature (B, C, H, W) of an emotion and a context feature of that shape."""
        return self.blocks(self.first(torch.cat([emotion, context], 1)))

    def strata(self, emotion: Tensor, prototypes: Tensor, pooled: bool = False) -> Tensor:
        """Every emotion feature with every prototype, in one batch.

        Up to the first norm all is linear, so emotion and prototypes come that far each by itself: B + K maps, not
        B * K. In training every stratum has BatchNorm statistics of its own, as if it passed alone.

        Args:
            emotion: (B, C, H, W).
            prototypes: (K, C, H, W).
            pooled: only the mean over positions is wanted.

        Returns:
            (B * K, C, H, W), or (B * K, C) where pooled; the strata of a face stand together.
        """
        first = F.conv2d(emotion, self.first.weight[:, : emotion.shape[1]], self.first.bias, padding=1)
        context, hidden_context = self._context_share(prototypes, first.dtype)
        maps, strata = _every_pair(first, context), len(prototypes)
        for number, block in enumerate(self.blocks, 1):
            hidden = block.conv1(maps) if number > 1 else _every_pair(block.conv1(first), hidden_context)
            hidden = norm_of_strata(block.norm1, hidden, strata).relu()
            if pooled and not self.training and number == len(self.blocks):
                added = mean_of_convolution(hidden, block.conv2.weight)
                return maps.mean((2, 3)) + block.norm2(added[:, :, None, None]).flatten(1)
            maps = maps + norm_of_strata(block.norm2, block.conv2(hidden), strata)
        return maps.mean((2, 3)) if pooled else maps

    def _context_share(self, prototypes: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor]:
        """What prototypes come to after the first convolution, and after that of the first block.

        Where only predictions are made it is computed once, then kept until a change of weights or prototypes (`train`
        and `eval` count as one, for fused optimisers leave no trace). For a single face it is 3 tenths of the work.
        """
        of = prototypes, self.first.weight, self.blocks[0].conv1.weight
        lasting = not (self.training or torch.is_grad_enabled() or any(each.is_inference() for each in of))
        state = (kind, *(each._version for each in of)) if lasting else ()
        kept = self._kept
        if lasting and kept is not None and kept[0] is prototypes and kept[1] == state:
            return kept[2]
        context = F.conv2d(prototypes, self.first.weight[:, -prototypes.shape[1] :], padding=1)
        share = context, self.blocks[0].conv1(context)
        if lasting:
            self._kept = prototypes, state, share
        return share

    def train(self, mode: bool = True) -> Decoder:
        """As every module's."""
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is kept: in a copy, changes are counted anew, and could come to the same number."""
        return self.__dict__ | {"_kept": None}


def _every_pair(emotion: Tensor, context: Tensor) -> Tensor:
    """(B * K, C, H, W) sums of (B, C, H, W) and (K, C, H, W)."""
    return (emotion[:, None] + context[None]).flatten(0, 1)


def norm_of_strata(norm: nn.BatchNorm2d, maps: Tensor, strata: int) -> Tensor:
    """BatchNorm of (B * K, C, H, W), in training of every stratum by itself.

    The running statistics take up those of the strata in turn.
    """
    if not norm.training:
        return norm(maps)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    mean, variance = (running.new_zeros(strata * len(running)) for running in (norm.running_mean, norm.running_var))
    apart = maps.reshape(-1, len(mean), *maps.shape[2:])
    weight, bias = norm.weight.repeat(strata), norm.bias.repeat(strata)
    normed = F.batch_norm(apart, mean, variance, weight, bias, training=True, momentum=1.0, eps=norm.eps)
    kept = 1 - norm.momentum
    shares = norm.momentum * kept ** torch.arange(strata - 1, -1, -1, dtype=mean.dtype, device=mean.device)
    with torch.no_grad():
        for running, found in ((norm.running_mean, mean), (norm.running_var, variance)):
            running.mul_(kept**strata).add_(shares @ found.view(strata, -1))
        norm.num_batches_tracked += strata
    return normed.view(len(maps), *maps.shape[1:])


def mean_of_convolution(maps: Tensor, weight: Tensor) -> Tensor:
    """Mean over positions of a 3 x 3 convolution with padding 1, by the nine sums that its weights see.

    Args:
        maps: (B, C, H, W).
        weight: (D, C, 3, 3).

    Returns:
        (B, D), as `conv2d(maps, weight, padding=1).mean((2, 3))`.
    """
    high, wide = maps.shape[2:]
    seen = torch.kron(_seen(high), _seen(wide)).to(maps)
    sums = maps.flatten(2) @ seen.T
    return sums.flatten(1) @ weight.flatten(1).T / (high * wide)


def _seen(side: int) -> Tensor:
    """(3, side) which positions each of a kernel's three columns meets: all but the last, all, all but the first."""
    seen = torch.ones(3, side)
    seen[0, -1] = seen[2, 0] = 0
    return seen


class Discriminator(nn.Module):
    """d_e and d_c: logits of a feature map, without any norm.

    Args:
        channels: C.
        outputs: how many logits.
        halvings: 1 x 1 convolutions, each to half as many channels.
        side: (h, w) of the map, 2 or more each way.
    """

    def __init__(self, channels: int, outputs: int, halvings: int, side: Sequence[int]) -> None:
        super().__init__()
        widths = [max(channels >> number, 1) for number in range(halvings + 1)]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 4, stride=2, padding=1),
            *(nn.Conv2d(*pair, 1) for pair in pairwise(widths)),
            nn.Conv2d(widths[-1], outputs, (side[0] // 2, side[1] // 2), bias=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (B, outputs) of maps (B, C, h, w)."""
        *before, last = self.layers
        for layer in before:
            maps = F.leaky_relu(layer(maps), 0.01)
        return last(maps).flatten(1)


def initialise(module: nn.Module, kind: Init = "normal", gain: float = 0.02) -> None:
    """Weights as the original draws them: convolutions and linear layers by `kind`, biases 0, norms N(1, gain^2).

    Args:
        module: whose layers.
        kind: normal N(0, gain^2), xavier (normal), kaiming (normal, fan in; knows no gain) or orthogonal.
        gain: scale.
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            if kind == "normal":
                nn.init.normal_(layer.weight, 0.0, gain)
            elif kind == "xavier":
                nn.init.xavier_normal_(layer.weight, gain)
            elif kind == "kaiming":
                nn.init.kaiming_normal_(layer.weight)
            else:
                nn.init.orthogonal_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, gain)
            nn.init.zeros_(layer.bias)


class Interventional(nn.Module):
    """Head of the expressions that averages over what each confounder stratum says.

    Args:
        width: channels of the backbone's last map.
        classes: C.
        bias: whether the classifier has one.
        strata: names of the K confounder strata.
        side: (h, w) of the last map, on which prototypes live.
        channels: of the features.
        encoder_blocks: residual blocks of the emotion encoder.
        decoder_blocks: of the decoder.
        prior: P(d), K shares; unset = uniform.
        average: of the strata's logits (published), or of their probabilities, as the adjustment has it.

    Attributes:
        prototypes: (K, channels, h, w) m_k.
        prior: (K,) P(d).

    Raises:
        WrongCall: fewer than two strata, a prior that does not fit them, or a map of one position.
    """

    prototypes: Tensor
    prior: Tensor

    def __init__(
        self,
        width: int,
        classes: int,
        bias: bool = True,
        *,
        strata: Sequence[str],
        side: Sequence[int] = (7, 7),
        channels: int = 512,
        encoder_blocks: int = 2,
        decoder_blocks: int = 3,
        prior: Sequence[float] | None = None,
        average: Average = "logits",
    ) -> None:
        super().__init__()
        shares = [1.0] * len(strata) if prior is None else list(prior)
        if len(strata) < 2 or len(shares) != len(strata) or min(shares) < 0 or not sum(shares):
            raise WrongCall(
                f"head interventional: strata {', '.join(strata) or 'none'} with prior {shares}.",
                "It needs two strata or more, and one share from 0 for each, not all 0.",
            )
        if min(side) < 2:
            raise WrongCall(
                f"head interventional: the last map has {side[0]} x {side[1]} positions.",
                "It needs 2 x 2 or more: larger images, or a backbone that shrinks them less.",
            )
        self.strata, self.average = tuple(strata), average
        self.projection = nn.Conv2d(width, channels, 1)
        self.emotion = Encoder(channels, encoder_blocks)
        self.decoder = Decoder(channels, decoder_blocks)
        self.classifier = nn.Linear(channels, classes, bias=bias)
        for module in (self.emotion, self.decoder, self.classifier):
            initialise(module)
        self.register_buffer("prototypes", torch.zeros(len(strata), channels, *side))
        self.register_buffer("prior", torch.tensor(shares) / sum(shares), persistent=False)

    def encode(self, maps: Tensor) -> Tensor:
        """Emotion feature (B, channels, h, w) of the last map (B, width, h, w).

        Raises:
            HonneError: the map has other sides than the prototypes.
        """
        if maps.shape[2:] != self.prototypes.shape[2:]:
            raise HonneError(
                f"the last map has {maps.shape[2]} x {maps.shape[3]} positions, the prototypes of the strata have "
                f"{self.prototypes.shape[2]} x {self.prototypes.shape[3]}.",
                "Give images of the size that the model was trained on.",
            )
        return self.emotion(self.projection(maps))

    def intervene(self, emotion: Tensor) -> Tensor:
        """z_k: logits (B, K, C) of emotion features (B, channels, h, w) in the context of every stratum."""
        pooled = self.decoder.strata(emotion, self.prototypes, pooled=True)
        return self.classifier(pooled).unflatten(0, (len(emotion), -1))

    def adjusted(self, logits: Tensor) -> Tensor:
        """z: (B, C) average under P(d) of logits (B, K, C); where probabilities are averaged, their logarithm."""
        if self.average == "logits":
            return torch.einsum("bkc,k->bc", logits, self.prior.to(logits.dtype))
        return (logits.log_softmax(2) + self.prior.log()[:, None]).logsumexp(1)

    def class_maps(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) from the last map (B, width, h, w): the classifier at each position, without its bias."""
        emotion = self.encode(maps)
        decoded = self.decoder.strata(emotion, self.prototypes).unflatten(0, (len(emotion), -1))
        mean = torch.einsum("bkdhw,k->bdhw", decoded, self.prior.to(decoded.dtype))
        return F.conv2d(mean, self.classifier.weight[:, :, None, None])

    def forward(self, maps: Tensor) -> Tensor:
        """Logits (B, C) of the last map (B, width, h, w)."""
        return self.adjusted(self.intervene(self.encode(maps)))
