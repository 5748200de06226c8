"""MulT: every modality looks at every other one by crossmodal attention.

    X_k  = Conv1d(x_k)                                        k = text, audio, vision, or any other names
    Z_kj = CrossmodalTransformer(query X_k, key X_j)          j != k
    h_k  = last step of Transformer([Z_kj ...])
    y    = W (MLP(h) + h), h = [h_k ...]

Source: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
Sequences", ACL 2019, section 3, and the released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from honne.errors import WrongCall
from honne.labels import LabelSchema
from honne.networks.fusion.dropout import DropoutMode, drop
from honne.networks.fusion.network import Fused, FusionNetwork, Modalities, Projection, ReadOut
from honne.networks.fusion.transformer import Drops, Encoder, Padding, Steps

LEAST_MEMORY = 3
"""Layers of the encoders over what was found, at least."""


class Crossmodal(nn.Module):
    """The streams of MulT: for each target modality, what it finds in the others, remembered in one vector.

    Args:
        names: the modalities.
        targets: those that look at the others.
        width: d of a stream; a memory has d for every other modality.
        heads: of every attention.
        levels: layers of a crossmodal encoder.
        drops: probabilities; of the attention where `attention_dropouts` names none.
        attention_dropouts: source modality -> dropout of the attention on it.
        causal: whether steps see no later ones.
        padding: see `honne.networks.fusion.transformer`.
    """

    def __init__(
        self,
        names: Sequence[str],
        targets: Sequence[str],
        width: int,
        heads: int,
        levels: int,
        drops: Drops,
        attention_dropouts: Mapping[str, float],
        causal: bool,
        padding: Padding,
    ) -> None:
        super().__init__()

        def encoder(source: str) -> Encoder:
            own = replace(drops, attention=attention_dropouts.get(source, drops.attention))
            return Encoder(width, heads, levels, own, causal, padding)

        self.crossmodal: Any = nn.ModuleDict(
            {t: nn.ModuleDict({source: encoder(source) for source in names if source != t}) for t in targets}
        )
        around = width * (len(names) - 1)
        self.memory: Any = nn.ModuleDict(
            {t: Encoder(around, heads, max(levels, LEAST_MEMORY), drops, causal, padding) for t in targets}
        )

    def forward(self, streams: Mapping[str, Steps]) -> list[Tensor]:
        """(B, d (M - 1)) of each target."""
        found = []
        for target, encoders in self.crossmodal.items():
            seen = [encoder(streams[target], streams[source]) for source, encoder in encoders.items()]
            together = Steps(torch.cat([each.values for each in seen], 2), streams[target].lengths)
            found.append(self.memory[target].last(together))
        return found


class MulT(FusionNetwork):
    """See the module's text.

    Args:
        schema: what to predict.
        modalities: name -> number of features.
        width: d of a stream.
        heads: of every attention; they divide d, and d times the other modalities.
        levels: layers of the crossmodal encoders; the memories have as many, and three at least.
        kernels: modality -> steps that its convolution looks at; 1 where none is named.
        targets: modalities that look at the others; empty = all. One alone is the original's partial mode.
        input_dropout: modality -> dropout of its features in training, 0..1; published for text.
        attention_dropout, attention_dropouts, relu_dropout, residual_dropout, embed_dropout: see `Crossmodal`, `Drops`.
        output_dropout: in the last residual block.
        dropout_mode: see `honne.networks.fusion.dropout`.
        causal: whether steps see no later ones (the published setting).
        padding: `masks` respects lengths; `published`: zeros beyond them are seen, and features of the network's own
            width are not projected.
        shared: arguments of `FusionNetwork`.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        width: int = 40,
        heads: int = 10,
        levels: int = 5,
        kernels: Mapping[str, int] | None = None,
        targets: Sequence[str] = (),
        input_dropout: Mapping[str, float] | None = None,
        attention_dropout: float = 0.0,
        attention_dropouts: Mapping[str, float] | None = None,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        embed_dropout: float = 0.0,
        output_dropout: float = 0.0,
        dropout_mode: DropoutMode = "byte",
        causal: bool = True,
        padding: Padding = "masks",
        **shared: Any,
    ) -> None:
        super().__init__(schema, modalities, masks=padding == "masks", **shared)
        self.input_dropout = dict(input_dropout or {})
        self.dropout_mode: DropoutMode = dropout_mode
        kernels, targets = kernels or {}, targets or self.modalities
        for name in (*kernels, *targets, *self.input_dropout, *(attention_dropouts or {})):
            if name not in modalities:
                raise WrongCall(f"there is no modality '{name}'.", f"The data have {', '.join(modalities)}.")
        self.projections: Any = nn.ModuleDict(
            {
                name: Projection(features, width, kernels.get(name, 1), padding == "published")
                for name, features in modalities.items()
            }
        )
        drops = Drops(attention_dropout, relu_dropout, residual_dropout, embed_dropout, dropout_mode)
        self.streams = Crossmodal(
            self.modalities, targets, width, heads, levels, drops, attention_dropouts or {}, causal, padding
        )
        around = width * (len(modalities) - 1)
        self.parts = {name: slice(i * around, (i + 1) * around) for i, name in enumerate(targets)}
        self.hidden = around * len(targets)
        self.out = ReadOut(self.hidden, self.outputs.width, output_dropout)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The hidden state has d (M - 1) numbers of each target."""
        hidden = torch.cat(self.streams(self.projected(sequences)), 1)
        return Fused(self.out(hidden), hidden)

    def projected(self, sequences: Mapping[str, Steps]) -> dict[str, Steps]:
        """The streams (B, T', d)."""
        found = {}
        for name, steps in sequences.items():
            values = drop(steps.values, self.input_dropout.get(name, 0.0), self.training, self.dropout_mode)
            found[name] = self.projections[name](Steps(values, steps.lengths))
        return found

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.out(hidden)
