"""Plain ways to fuse modalities, for comparison: early, by features, word by word or as summaries; late, by scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Labels
from honne.labels import LabelSchema
from honne.networks.fusion.alignment import CTCAlignment
from honne.networks.fusion.network import Fused, FusionNetwork, Modalities, ReadOut
from honne.networks.fusion.transformer import Steps


class Summary(nn.Module):
    """A sequence as one vector: two convolutions over time and the mean over the real steps.

    Args:
        features: D.
        width: of the vector.
        kernel: steps that each convolution looks at; odd.
    """

    def __init__(self, features: int, width: int, kernel: int = 3) -> None:
        super().__init__()
        self.inner = nn.Conv1d(features, width, kernel, padding=kernel // 2)
        self.outer = nn.Conv1d(width, width, kernel, padding=kernel // 2)

    def forward(self, steps: Steps) -> Tensor:
        """(B, W) of (B, T, D); what lies beyond a sequence's length is zero for every convolution."""
        mask = steps.mask()
        values = steps.values.mT
        for convolution in (self.inner, self.outer):
            values = values if mask is None else values * mask[:, None]
            values = convolution(values).relu()
        return Steps(values.mT, steps.lengths).mean()


class EarlyFusion(FusionNetwork):
    """A summary of each modality, side by side, into one residual block.

    Args:
        schema: what to predict.
        modalities: name -> number of features.
        width: of a summary.
        output_dropout: of the summaries and inside the block, 0..1.
        shared: arguments of `FusionNetwork`.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        width: int = 40,
        output_dropout: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(schema, modalities, **shared)
        self.dropout = output_dropout
        self.summaries: Any = nn.ModuleDict({name: Summary(size, width) for name, size in modalities.items()})
        self.parts = {name: slice(i * width, (i + 1) * width) for i, name in enumerate(modalities)}
        self.hidden = width * len(modalities)
        self.out = ReadOut(self.hidden, self.outputs.width, output_dropout)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The hidden state is the summaries side by side."""
        hidden = torch.cat([self.summaries[name](steps) for name, steps in sequences.items()], 1)
        return Fused(self.read_out(hidden), hidden)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.out(F.dropout(hidden, self.dropout, self.training))


class LateFusion(FusionNetwork):
    """A network of each modality by itself; the mean of their logits.

    Arguments as of `EarlyFusion`.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        width: int = 40,
        output_dropout: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(schema, modalities, **shared)
        self.dropout = output_dropout
        self.summaries: Any = nn.ModuleDict({name: Summary(size, width) for name, size in modalities.items()})
        self.outs: Any = nn.ModuleDict({name: nn.Linear(width, self.outputs.width) for name in modalities})
        self.parts = {name: slice(i * width, (i + 1) * width) for i, name in enumerate(modalities)}
        self.hidden = width * len(modalities)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The hidden state is the summaries side by side."""
        hidden = torch.cat([self.summaries[name](steps) for name, steps in sequences.items()], 1)
        return Fused(self.read_out(hidden), hidden)

    def read_out(self, hidden: Tensor) -> Tensor:
        hidden = F.dropout(hidden, self.dropout, self.training)
        return torch.stack([self.outs[name](hidden[:, part]) for name, part in self.parts.items()]).mean(0)


class AlignedFusion(FusionNetwork):
    """Every modality brought to the words' steps, side by side, into one summary and a residual block.

    Args:
        schema: what to predict.
        modalities: name -> number of features; the first gives the steps, as words do.
        lengths: modality -> steps; sequences of the first are brought to its number, others to no fewer.
        width: of the summary.
        output_dropout: of the summary and inside the block, 0..1.
        alignment_weight: of the loss of the alignment (`honne.networks.fusion.alignment`).
        shared: arguments of `FusionNetwork`.

    Source: the early fusion LSTM baselines of Tsai et al., ACL 2019, with CTC; here with a convolution.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        lengths: Mapping[str, int],
        width: int = 40,
        output_dropout: float = 0.0,
        alignment_weight: float = 0.1,
        **shared: Any,
    ) -> None:
        super().__init__(schema, modalities, **shared)
        first, *others = self.modalities
        self.words, self.dropout, self.alignment_weight = lengths[first], output_dropout, alignment_weight
        self.alignments: Any = nn.ModuleDict({name: CTCAlignment(modalities[name], self.words) for name in others})
        self.summary = Summary(sum(modalities.values()), width)
        self.hidden = width
        self.out = ReadOut(width, self.outputs.width, output_dropout)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The hidden state is the summary; no modality has columns of its own."""
        found, scores = [], []
        for name, steps in sequences.items():
            mask = steps.mask()
            values = steps.values if mask is None else steps.values * mask[:, :, None]
            values = F.pad(values, (0, 0, 0, max(self.words - values.shape[1], 0)))
            if name in self.alignments:
                values, said = self.alignments[name](values)
                scores.append((name, said))
            found.append(values[:, : self.words])
        hidden = self.summary(Steps(torch.cat(found, 2)))
        return Fused(self.read_out(hidden), hidden, scores)

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.out(F.dropout(hidden, self.dropout, self.training))

    def auxiliary_loss(self, fused: Fused, labels: Labels) -> Tensor:
        """That of the alignments."""
        losses = [self.alignments[name].loss(scores) for name, scores in fused.own]
        return self.alignment_weight * torch.stack(losses).sum()
