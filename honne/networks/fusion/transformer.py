"""MulT's encoder: a transformer whose queries are one sequence and whose keys may be another.

Source: Tsai et al., "Multimodal Transformer for Unaligned Multimodal Language Sequences", ACL 2019, section 3, and its
released code: layer norm first, one norm for queries and keys, keys that stay the same from layer to layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.networks.fusion.attention import Attention, Visible, visible
from honne.networks.fusion.dropout import DropoutMode, drop

Padding = Literal["masks", "published"]
"""`masks`: what lies beyond a sequence's length is never seen; `published`: it is, as zeros, and a step whose first
channel is exactly 0 counts as padding for positions only."""


@dataclass(frozen=True)
class Drops:
    """Dropout probabilities in training, 0..1.

    Args:
        attention: of attention weights.
        relu: in the feed-forward network.
        residual: of what a layer adds.
        embed: of the embedded input.
        mode: how entries are drawn; see `DropoutMode`.
    """

    attention: float = 0.0
    relu: float = 0.0
    residual: float = 0.0
    embed: float = 0.0
    mode: DropoutMode = "byte"


@dataclass(frozen=True)
class Steps:
    """A batch of sequences.

    Attributes:
        values: (B, T, W).
        lengths: (B,) true lengths, at least 1; `None` where all are T.
        absent: (B,) whether a sample lacks the modality, and has a step of zeros in its place; `None` where none does.
    """

    values: Tensor
    lengths: Tensor | None = None
    absent: Tensor | None = None

    def mask(self) -> Tensor | None:
        """(B, T) whether a step is real; `None` where all are."""
        if self.lengths is None:
            return None
        return torch.arange(self.values.shape[1], device=self.values.device) < self.lengths[:, None]

    def true_lengths(self) -> Tensor:
        """(B,) lengths, also where all are T."""
        if self.lengths is not None:
            return self.lengths
        return torch.full((len(self.values),), self.values.shape[1], device=self.values.device)

    def last(self) -> Tensor:
        """(B, 1, W) the last real step."""
        if self.lengths is None:
            return self.values[:, -1:]
        place = (self.lengths - 1)[:, None, None].expand(-1, 1, self.values.shape[2])
        return self.values.gather(1, place)

    def mean(self) -> Tensor:
        """(B, W) mean over the real steps."""
        mask = self.mask()
        if mask is None or self.lengths is None:
            return self.values.mean(1)
        return (self.values * mask[:, :, None]).sum(1) / self.lengths[:, None]


def sees(queries: Steps, keys: Steps, causal: bool) -> Visible:
    """Which keys each query sees; see `visible`."""
    several = queries.lengths is not None or keys.lengths is not None
    return visible(
        queries.values.shape[1],
        keys.values.shape[1],
        causal,
        queries.true_lengths() if several else None,
        keys.true_lengths() if several else None,
        queries.values.device,
    )


def sinusoids(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """(count, width) sine and cosine of positions 0, 1, ...; row 0 is zero, and so is the last column of odd widths.

    Source: Vaswani et al., NeurIPS 2017, section 3.5, as fairseq lays them out: sines first, then cosines.
    """
    half = width // 2
    rates = torch.exp(torch.arange(half, device=device) * -(math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(count, device=device)[:, None] * rates
    table = F.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width % 2))
    table[0] = 0
    return table


def positions(steps: Steps, padding: Padding) -> Tensor:
    """(B, T) or (T,) position of each step, from 1; 0 where it is padding."""
    values = steps.values
    counted = torch.arange(1, values.shape[1] + 1, device=values.device)
    if padding == "published":
        return counted * (values[:, :, 0] != 0)
    mask = steps.mask()
    return counted if mask is None else counted * mask


def embedded(steps: Steps, padding: Padding) -> Tensor:
    """(B, T, W) values times the root of W, with the sinusoids of their positions added."""
    values = steps.values
    width = values.shape[2]
    table = sinusoids(values.shape[1] + 1, width, values.device).to(values.dtype)
    return math.sqrt(width) * values + table[positions(steps, padding)]


class Layer(nn.Module):
    """Attention and a feed-forward network, each after a norm and added to what came in.

    Args:
        width: of the sequences.
        heads: of the attention.
        drops: probabilities.
    """

    def __init__(self, width: int, heads: int, drops: Drops) -> None:
        super().__init__()
        self.drops = drops
        self.attention = Attention(width, heads, drops.attention, drops.mode)
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, source: Tensor | None, seen: Visible) -> Tensor:
        """(B, Tq, W) after looking at the source (B, Tk, W), or at itself."""
        keys = None if source is None else self.norm_attention(source)
        return self._rest(x, self.attention(self.norm_attention(x), keys, seen))

    def last(self, steps: Steps) -> Tensor:
        """(B, 1, W) of self-attention, only the last real step, which sees all real ones."""
        mask, keys = steps.mask(), self.norm_attention(steps.values)
        seen = Visible(None if mask is None else mask[:, None, None])
        query = Steps(keys, steps.lengths).last()
        return self._rest(steps.last(), self.attention(query, keys, seen))

    def _rest(self, x: Tensor, found: Tensor) -> Tensor:
        drops = self.drops
        x = x + drop(found, drops.residual, self.training, drops.mode)
        inner = drop(self.expand(self.norm_feedforward(x)).relu(), drops.relu, self.training, drops.mode)
        return x + drop(self.contract(inner), drops.residual, self.training, drops.mode)


class Encoder(nn.Module):
    """Layers over an embedded sequence, and a last norm.

    Args:
        width: of the sequences.
        heads: of the attention.
        layers: how many.
        drops: probabilities.
        causal: whether steps see no later ones.
        padding: see `Padding`.
    """

    def __init__(
        self, width: int, heads: int, layers: int, drops: Drops, causal: bool = True, padding: Padding = "masks"
    ) -> None:
        super().__init__()
        self.drops, self.causal, self.padding = drops, causal, padding
        self.layers = nn.ModuleList(Layer(width, heads, drops) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def embedded(self, steps: Steps) -> Tensor:
        """(B, T, W) in training with dropout."""
        return drop(embedded(steps, self.padding), self.drops.embed, self.training, self.drops.mode)

    def forward(self, steps: Steps, source: Steps | None = None) -> Steps:
        """What a sequence becomes that looks at a source, or at itself."""
        seen = sees(steps, steps if source is None else source, self.causal)
        x = self.embedded(steps)
        keys = None if source is None else self.embedded(source)
        for layer in self.layers:
            x = layer(x, keys, seen)
        return Steps(self.norm(x), steps.lengths)

    def last(self, steps: Steps) -> Tensor:
        """(B, W) the last real step of self-attention; of the last layer nothing else is computed."""
        seen = sees(steps, steps, self.causal)
        x = self.embedded(steps)
        for layer in self.layers[:-1]:
            x = layer(x, None, seen)
        final: Any = self.layers[-1]
        found: Tensor = self.norm(final.last(Steps(x, steps.lengths)))
        return found[:, 0]
