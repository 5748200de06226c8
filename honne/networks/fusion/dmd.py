"""DMD: what modalities have in common and what each has alone are taken apart, and each part is distilled by itself.

    s_k = E_k(x_k), c_k = E_c(x_k)                            exclusive, common
    common:     read alone (low), and fused by self-attention -> c
    exclusive:  fused by MulT's crossmodal attention -> h_k, read alone (high)
    y = W (MLP(u) + u), u = [sigmoid(W_k h_k) ..., sigmoid(W_c c)]

Source: Li, Wang, Cui, "Decoupled Multimodal Distilling for Emotion Recognition", CVPR 2023, and the released code; any
number of outputs in place of one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Labels
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks.fusion.distillation import GraphDistillation, margin_loss, orthogonality
from honne.networks.fusion.dropout import DropoutMode, drop
from honne.networks.fusion.mult import Crossmodal
from honne.networks.fusion.network import Fused, FusionNetwork, Modalities, Projection, ReadOut
from honne.networks.fusion.transformer import Drops, Encoder, Padding, Steps

PUBLISHED_ORDER = ("text", "vision", "audio")
HOMOGENEOUS, HETEROGENEOUS, SEPARATION, APART = 0.05, 0.05, 0.1, 0.1
"""Weights of both distillations, of taking apart, and in this of the margin and orthogonality losses."""


@dataclass
class Decoupled:
    """Parts of a batch, by modality in the network's order.

    Attributes:
        projected, exclusive, common, rebuilt, again: (B, d, n) x, s, c, decoded [s, c], and s encoded from that.
        found: (B, 2 d) h of each modality.
        shared: (B, M d) fused common part.
    """

    projected: dict[str, Tensor]
    exclusive: dict[str, Tensor]
    common: dict[str, Tensor]
    rebuilt: dict[str, Tensor]
    again: dict[str, Tensor]
    found: dict[str, Tensor]
    shared: Tensor


class LowHead(nn.Module):
    """Reads a common part alone: a bottleneck around which the whole sequence is led.

    Args:
        size: n d, of the sequence laid flat, step by step.
        width: of the bottleneck.
        outputs: K.
        dropout: after the bottleneck, 0..1.
    """

    def __init__(self, size: int, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.second = nn.Linear(size, width), nn.Linear(width, size)
        self.outputs = nn.Linear(size, outputs)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and representation (B, width) of (B, d, n)."""
        flat = sequence.mT.flatten(1)
        seen = self.first(flat).relu()
        around = self.second(F.dropout(seen, self.dropout, self.training)) + flat
        return self.outputs(around), seen


class DMD(FusionNetwork):
    """See the module's text.

    Args:
        schema: what to predict.
        modalities: name -> number of features.
        lengths: modality -> steps that every sequence is brought to, with zeros or by leaving out the last ones.
        width: d.
        heads: of every attention; they divide d.
        levels: layers of every encoder; memories have three at least.
        kernels: modality -> steps that its convolution looks at; 1 where none is named.
        order: the modalities, best teacher first; by default text, vision, audio, as published, or as in `modalities`.
        input_dropout: modality -> dropout of its features in training, 0..1.
        attention_dropout, attention_dropouts, relu_dropout, residual_dropout, embed_dropout, output_dropout: see MulT.
        dropout_mode: see `honne.networks.fusion.dropout`.
        distillation: widths of the homogeneous and the heterogeneous unit.
        causal, padding: as of MulT.
        shared: arguments of `FusionNetwork`.

    Raises:
        HonneError: a sequence is to be shorter than a convolution is wide.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        lengths: Mapping[str, int],
        width: int = 30,
        heads: int = 6,
        levels: int = 4,
        kernels: Mapping[str, int] | None = None,
        order: Sequence[str] = (),
        input_dropout: Mapping[str, float] | None = None,
        attention_dropout: float = 0.0,
        attention_dropouts: Mapping[str, float] | None = None,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        output_dropout: float = 0.0,
        dropout_mode: DropoutMode = "byte",
        distillation: tuple[int, int] = (64, 32),
        causal: bool = True,
        padding: Padding = "masks",
        **shared: Any,
    ) -> None:
        super().__init__(schema, modalities, masks=padding == "masks", **shared)
        kernels, names = kernels or {}, self.modalities
        published = set(names) == set(PUBLISHED_ORDER)
        self.order = tuple(order) or (PUBLISHED_ORDER if published else names)
        self.lengths, self.input_dropout = dict(lengths), dict(input_dropout or {})
        self.dropout_mode: DropoutMode = dropout_mode
        steps = {name: lengths[name] - kernels.get(name, 1) + 1 for name in names}
        if short := [name for name in names if steps[name] < 1]:
            raise HonneError(
                f"{short[0]}: sequences of {lengths[short[0]]} steps are shorter than the kernel of its convolution.",
                "Lower fusion.kernels.",
            )
        k, around = self.outputs.width, width * (len(names) - 1)
        self.projections: Any = nn.ModuleDict(
            {
                name: Projection(features, width, kernels.get(name, 1), padding == "published")
                for name, features in modalities.items()
            }
        )

        def pointwise(inputs: int) -> nn.Conv1d:
            return nn.Conv1d(inputs, width, 1, bias=False)

        self.exclusive: Any = nn.ModuleDict({name: pointwise(width) for name in names})
        self.common = pointwise(width)
        self.decoders: Any = nn.ModuleDict({name: pointwise(2 * width) for name in names})
        self.alignments: Any = nn.ModuleDict({name: nn.Linear(width * steps[name], width) for name in names})
        self.low: Any = nn.ModuleDict({name: LowHead(width * steps[name], width, k, output_dropout) for name in names})
        drops = Drops(attention_dropout, relu_dropout, residual_dropout, embed_dropout, dropout_mode)
        self.common_encoders: Any = nn.ModuleDict(
            {name: Encoder(width, heads, levels, drops, causal, padding) for name in names}
        )
        self.common_out = ReadOut(width * len(names), k, output_dropout)
        self.streams = Crossmodal(names, names, width, heads, levels, drops, attention_dropouts or {}, causal, padding)
        self.high: Any = nn.ModuleDict({name: ReadOut(around, k, output_dropout) for name in names})
        self.gates: Any = nn.ModuleDict({name: nn.Linear(around, around) for name in names})
        self.common_gate = nn.Linear(width * len(names), width * len(names))
        self.parts = {name: slice(i * around, (i + 1) * around) for i, name in enumerate(self.order)}
        self.hidden = around * len(names) + width * len(names)
        self.out = ReadOut(self.hidden, k, output_dropout)
        self.homogeneous = GraphDistillation(k, width, distillation[0], len(names))
        self.heterogeneous = GraphDistillation(k, around, distillation[1], len(names), "heterogeneous")

    def _fitted(self, name: str, steps: Steps) -> Steps:
        """Sequences of the length that the network knows."""
        size = self.lengths[name]
        values = F.pad(steps.values[:, :size], (0, 0, 0, max(size - steps.values.shape[1], 0)))
        lengths = steps.true_lengths().clamp(max=size) if self.masks else None
        full = lengths is None or bool((lengths == size).all())
        return Steps(values, None if full else lengths)

    def decoupled(self, sequences: Mapping[str, Steps]) -> Decoupled:
        """The parts of sequences."""
        projected, exclusive, common, ends = {}, {}, {}, {}
        for name, steps in sequences.items():
            steps = self._fitted(name, steps)
            values = drop(steps.values, self.input_dropout.get(name, 0.0), self.training, self.dropout_mode)
            steps = self.projections[name](Steps(values, steps.lengths))
            projected[name], ends[name] = steps.values.mT, steps.lengths
            exclusive[name], common[name] = self.exclusive[name](projected[name]), self.common(projected[name])
        rebuilt = {name: self.decoders[name](torch.cat([exclusive[name], common[name]], 1)) for name in projected}
        again = {name: self.exclusive[name](rebuilt[name]) for name in projected}
        found = self.streams({name: Steps(exclusive[name].mT, ends[name]) for name in projected})
        shared = [self.common_encoders[name].last(Steps(common[name].mT, ends[name])) for name in self.order]
        found = dict(zip(projected, found, strict=True))
        return Decoupled(projected, exclusive, common, rebuilt, again, found, torch.cat(shared, 1))

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The hidden state has d (M - 1) numbers of each modality, best teacher first, and d M of the common part."""
        parts = self.decoupled(sequences)
        gated = [self.gates[name](parts.found[name]) for name in self.order] + [self.common_gate(parts.shared)]
        hidden = torch.cat(gated, 1).sigmoid()
        return Fused(self.read_out(hidden), hidden, parts)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)

    def auxiliary_loss(self, fused: Fused, labels: Labels) -> Tensor:
        """All losses of DMD but that of the final output.

        Source: Li et al., CVPR 2023, equations 1 to 12; weights as released, which leave out the homogeneous loss of
        representations.
        """
        parts: Decoupled = fused.own
        low, seen = zip(*(self.low[name](parts.common[name]) for name in self.order), strict=True)
        blocks = [self.high[name].block(parts.found[name]) for name in self.order]
        high = [self.high[name].outputs(block) for name, block in zip(self.order, blocks, strict=True)]
        shared = self.common_out(parts.shared)
        task = torch.stack([self.outputs.loss(logits, labels) for logits in (*low, *high, shared)]).sum()
        homogeneous = self.homogeneous(torch.stack(low), torch.stack(seen))
        heterogeneous = self.heterogeneous(torch.stack(high), torch.stack(blocks))
        aligned = [self.alignments[name](parts.common[name].flatten(1)) for name in self.order]
        targets = self.outputs.targets(labels)
        margin = margin_loss(torch.cat(aligned), targets.repeat(len(aligned), 1))
        rebuilt = [
            F.mse_loss(parts.rebuilt[name], parts.projected[name])
            + F.mse_loss(parts.exclusive[name], parts.again[name])
            + APART * orthogonality(parts.exclusive[name], parts.common[name], axis=1)
            for name in self.order
        ]
        return (
            task
            + HOMOGENEOUS * (homogeneous.logits + homogeneous.regularisation)
            + HETEROGENEOUS * (heterogeneous.logits + heterogeneous.representations + heterogeneous.regularisation)
            + SEPARATION * (torch.stack(rebuilt).sum() + APART * margin)
        )
