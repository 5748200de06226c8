"""PMR: modalities reinforce each other through a common message.

    Z_c^0 = [Z_1^0 ... Z_M^0] along time, the message hub
    Z_k^i = MRU(source Z_c^(i-1), target Z_k^(i-1))           the hub speaks to every modality
    Z_c^i = sum_k MRU(source Z_k^i, target Z_c^(i-1))         and every modality to the hub

    MRU(S, T): A_s = attention(T, T, T), A_c = attention(T, S, S), G = sigmoid(W_s A_s + W_c A_c + b),
               X = LN(G A_c + (1 - G) A_s), out = LN(X + FFN(X))

Source: Lv, Chen, Huang, Duan, Lin, "Progressive Modality Reinforcement for Human Multimodal Emotion Recognition from
Unaligned Multimodal Sequences", CVPR 2021. There is no released code; what the paper leaves open is said below.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from honne.labels import LabelSchema
from honne.networks.fusion.attention import Attention, Visible
from honne.networks.fusion.dropout import DropoutMode, drop
from honne.networks.fusion.network import Fused, FusionNetwork, Modalities, Projection, ReadOut
from honne.networks.fusion.transformer import Steps, embedded


class Reinforcement(nn.Module):
    """A modality reinforcement unit (MRU).

    Args:
        width: d.
        heads: of both attentions.
        attention_dropout, relu_dropout, residual_dropout: probabilities in training, 0..1.
        residual: whether the target is added to the gated attention; the paper does not say.
        mode: see `honne.networks.fusion.dropout`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        attention_dropout: float,
        relu_dropout: float,
        residual_dropout: float,
        residual: bool,
        mode: DropoutMode,
    ) -> None:
        super().__init__()
        self.itself, self.across = (Attention(width, heads, attention_dropout, mode) for _ in range(2))
        self.gate = nn.Linear(2 * width, width)
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.relu_dropout, self.residual_dropout, self.residual = relu_dropout, residual_dropout, residual
        self.mode: DropoutMode = mode

    def forward(self, target: Tensor, source: Tensor, own: Visible, other: Visible) -> Tensor:
        """(B, T, d) of the target after looking at the source (B, S, d)."""
        itself, across = self.itself(target, None, own), self.across(target, source, other)
        gate = self.gate(torch.cat([itself, across], 2)).sigmoid()
        found = gate * across + (1 - gate) * itself
        x = self.norm_attention(target + found if self.residual else found)
        inner = drop(self.expand(x).relu(), self.relu_dropout, self.training, self.mode)
        return self.norm_feedforward(x + drop(self.contract(inner), self.residual_dropout, self.training, self.mode))


class PMR(FusionNetwork):
    """See the module's text.

    What is read out is the mean over the real steps of each modality, into a residual block as MulT has it.

    Args:
        schema: what to predict.
        modalities: name -> number of features.
        width: d.
        heads: of every attention; they divide d.
        levels: layers.
        kernels: modality -> steps that its convolution looks at; 1 where none is named.
        aggregate: of what the modalities say to the hub: sum, or attention, a weighted sum whose weights are learned.
        residual: see `Reinforcement`.
        input_dropout: modality -> dropout of its features in training, 0..1.
        attention_dropout, relu_dropout, residual_dropout, embed_dropout, output_dropout: probabilities, 0..1.
        dropout_mode: see `honne.networks.fusion.dropout`.
        shared: arguments of `FusionNetwork`.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        width: int = 40,
        heads: int = 4,
        levels: int = 4,
        kernels: Mapping[str, int] | None = None,
        aggregate: Literal["sum", "attention"] = "sum",
        residual: bool = False,
        input_dropout: Mapping[str, float] | None = None,
        attention_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        output_dropout: float = 0.0,
        dropout_mode: DropoutMode = "byte",
        **shared: Any,
    ) -> None:
        super().__init__(schema, modalities, **shared)
        self.input_dropout, self.embed_dropout = dict(input_dropout or {}), embed_dropout
        self.dropout_mode: DropoutMode = dropout_mode
        kernels = kernels or {}
        self.projections: Any = nn.ModuleDict(
            {name: Projection(features, width, kernels.get(name, 1)) for name, features in modalities.items()}
        )

        def units() -> nn.ModuleDict:
            drops = (attention_dropout, relu_dropout, residual_dropout)
            return nn.ModuleDict(
                {name: Reinforcement(width, heads, *drops, residual, dropout_mode) for name in modalities}
            )

        self.to_modality: Any = nn.ModuleList(units() for _ in range(levels))
        self.to_hub: Any = nn.ModuleList(units() for _ in range(levels))
        self.scores: Any = None
        if aggregate == "attention":
            self.scores = nn.ModuleList(
                nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))
                for _ in range(levels)
            )
        self.parts = {name: slice(i * width, (i + 1) * width) for i, name in enumerate(modalities)}
        self.hidden = width * len(modalities)
        self.out = ReadOut(self.hidden, self.outputs.width, output_dropout)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The hidden state has d numbers of each modality."""
        streams, lengths, masks = {}, {}, {}
        for name, steps in sequences.items():
            values = drop(steps.values, self.input_dropout.get(name, 0.0), self.training, self.dropout_mode)
            steps = self.projections[name](Steps(values, steps.lengths))
            lengths[name], masks[name] = steps.lengths, steps.mask()
            streams[name] = drop(embedded(steps, "masks"), self.embed_dropout, self.training, self.dropout_mode)
        hub = torch.cat(list(streams.values()), 1)
        whole = None
        if any(mask is not None for mask in masks.values()):
            every = [
                streams[name].new_ones(streams[name].shape[:2], dtype=torch.bool) if mask is None else mask
                for name, mask in masks.items()
            ]
            whole = torch.cat(every, 1)
        seen, hub_seen = {name: _keys(mask) for name, mask in masks.items()}, _keys(whole)
        for level, (to_modality, to_hub) in enumerate(zip(self.to_modality, self.to_hub, strict=True)):
            streams = {name: to_modality[name](stream, hub, seen[name], hub_seen) for name, stream in streams.items()}
            said = torch.stack([to_hub[name](hub, stream, hub_seen, seen[name]) for name, stream in streams.items()])
            hub = said.sum(0) if self.scores is None else (self.scores[level](said).softmax(0) * said).sum(0)
        hidden = torch.cat([Steps(stream, lengths[name]).mean() for name, stream in streams.items()], 1)
        return Fused(self.read_out(hidden), hidden)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)


def _keys(mask: Tensor | None) -> Visible:
    """Every real step is seen, later ones too."""
    return Visible(None if mask is None else mask[:, None, None])
