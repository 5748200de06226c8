"""What all fusion networks share: sequences of named modalities in, joint logits and a hidden state out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch, Labels, Prediction
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks.fusion.outputs import Outputs
from honne.networks.fusion.transformer import Steps

Modalities = Mapping[str, int]
"""Name -> number of features."""


@dataclass
class Fused:
    """What a fusion network makes of a batch.

    Attributes:
        logits: (B, K) joint logits.
        hidden: (B, H) state that they are read from.
        own: further parts that only the network's `auxiliary_loss` knows.
    """

    logits: Tensor
    hidden: Tensor
    own: Any = None


class Standardise(nn.Module):
    """Features with mean 0 and deviation 1 over the training steps; a step of nothing but zeros stays so.

    Zeros are what a missing modality, a lost frame and padding are made of, in published data too.

    Args:
        modalities: name -> number of features.
    """

    def __init__(self, modalities: Modalities) -> None:
        super().__init__()
        for name, width in modalities.items():
            self.register_buffer(f"{name}_mean", torch.zeros(width))
            self.register_buffer(f"{name}_std", torch.ones(width))

    def set(self, name: str, mean: Tensor, std: Tensor) -> None:
        """Statistics (D,) of a modality; features that never vary are only shifted."""
        self.get_buffer(f"{name}_mean").copy_(mean)
        self.get_buffer(f"{name}_std").copy_(torch.where(std > 1e-6 * (1 + mean.abs()), std, 1.0))

    def forward(self, name: str, values: Tensor) -> Tensor:
        """(B, T, D) of a modality."""
        there = (values != 0).any(2, keepdim=True)
        return (values - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_std") * there


class FusionNetwork(nn.Module):
    """Base of the networks that fuse modalities.

    A modality that a sample lacks (length 0) is one step of zeros. Nothing depends on how far a batch is padded.

    Args:
        schema: what to predict.
        modalities: name -> number of features, in the order in which the hidden state has them.
        sentiment_classes, valence_arousal_bins: see `Outputs`.
        standardise: whether features are standardised by statistics of the training data.
        modality_dropout: probability, in training, that a sample lacks a modality; one always stays.
        masks: whether lengths are respected; else every sequence counts as full, as in the published code.

    Attributes:
        hidden: H.
        parts: modality -> its columns of the hidden state, where they are apart.
    """

    hidden: int
    parts: dict[str, slice]

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        sentiment_classes: int = 0,
        valence_arousal_bins: int = 0,
        standardise: bool = True,
        modality_dropout: float = 0.0,
        masks: bool = True,
    ) -> None:
        super().__init__()
        if len(modalities) < 2:
            raise HonneError(
                f"a fusion network needs two or more modalities, and there is {', '.join(modalities) or 'none'}.",
                "Choose others: --fusion.modalities, or data that have more.",
            )
        self.widths = dict(modalities)
        self.outputs = Outputs(schema, sentiment_classes, valence_arousal_bins)
        self.standardise = Standardise(modalities) if standardise else None
        self.modality_dropout, self.masks = modality_dropout, masks
        self.parts = {}

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in order."""
        return tuple(self.widths)

    def inputs(self, batch: Batch) -> dict[str, Steps]:
        """The batch's sequences as the network takes them.

        Raises:
            HonneError: a modality is missing from all the data, has other features, or features that are not finite.
        """
        found = {}
        absent = self._dropped(batch)
        for place, (name, width) in enumerate(self.widths.items()):
            values = batch.sequences.get(name)
            if values is None:
                raise HonneError(
                    f"the model takes {', '.join(self.widths)}, and these data have no {name}"
                    f" ({', '.join(batch.sequences) or 'no sequences at all'}).",
                    "A sample may lack a modality, but the data set must know it: prepare it with all of them.",
                )
            if values.shape[2] != width:
                raise HonneError(
                    f"{name}: {values.shape[2]} features, and the model takes {width}.",
                    "Prepare the data with the features that the model was trained on.",
                )
            if not bool(values.isfinite().all()):
                row = int((~values.isfinite().flatten(1).all(1)).nonzero()[0, 0])
                index = "" if batch.index is None else f"manifest row {int(batch.index[row])}: "
                raise HonneError(f"{index}{name}: features that are not finite.", "Prepare the data again.")
            lengths = batch.lengths[name]
            if absent is not None:
                values, lengths = values * ~absent[place][:, None, None], lengths.masked_fill(absent[place], 0)
            if self.standardise is not None:
                values = self.standardise(name, values)
            gone = lengths == 0
            lengths = lengths.clamp_min(1)
            full = not self.masks or bool((lengths == values.shape[1]).all())
            found[name] = Steps(values, None if full else lengths, gone if bool(gone.any()) else None)
        return found

    def _dropped(self, batch: Batch) -> Tensor | None:
        """(M, B) whether a sample loses a modality in this training step."""
        if not self.training or not self.modality_dropout:
            return None
        chance = torch.rand(len(self.widths), len(batch))
        dropped = chance < self.modality_dropout
        dropped[chance.argmax(0), torch.arange(len(batch))] = False
        return dropped.to(next(iter(batch.sequences.values())).device)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """What the network makes of sequences, as `inputs` gives them."""
        raise NotImplementedError

    def read_out(self, hidden: Tensor) -> Tensor:
        """(B, K) joint logits of a hidden state (B, H)."""
        raise NotImplementedError

    def auxiliary_loss(self, fused: Fused, labels: Labels) -> Tensor | None:
        """What the network adds to the loss of its method, if anything."""
        return None

    def forward(self, batch: Batch) -> Prediction:
        """Predictions for a batch of sequences; features are the hidden state."""
        fused = self.fuse(self.inputs(batch))
        return self.outputs.prediction(fused.logits, fused.hidden)


class ReadOut(nn.Module):
    """A residual block and a linear layer, as MulT reads its hidden state.

    Args:
        width: H.
        outputs: K.
        dropout: inside the block, 0..1.

    Source: Tsai et al., ACL 2019, and their released code.
    """

    def __init__(self, width: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.outputs = nn.Linear(width, outputs)

    def block(self, hidden: Tensor) -> Tensor:
        """(B, H) before the last layer."""
        return self.second(F.dropout(self.first(hidden).relu(), self.dropout, self.training)) + hidden

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, K) logits."""
        return self.outputs(self.block(hidden))


class Projection(nn.Module):
    """A convolution over time without padding or bias, from D features to the network's width.

    Args:
        features: D.
        width: of the result.
        kernel: steps that it looks at; shorter sequences count as so long, with zeros.
        skip: leave features as they are where D is the width already, as the published code does.
    """

    def __init__(self, features: int, width: int, kernel: int = 1, skip: bool = False) -> None:
        super().__init__()
        self.kernel = kernel
        skipped = skip and features == width
        self.convolution = None if skipped else nn.Conv1d(features, width, kernel, bias=False)

    def forward(self, steps: Steps) -> Steps:
        """(B, T - kernel + 1, W)."""
        if self.convolution is None:
            return steps
        values = F.pad(steps.values, (0, 0, 0, max(self.kernel - steps.values.shape[1], 0)))
        lengths = None if steps.lengths is None else (steps.lengths - self.kernel + 1).clamp_min(1)
        return Steps(self.convolution(values.mT).mT.contiguous(), lengths)
