"""Confounder strata of training data: which there are, and which expressions go with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from honne.batch import NOT_LABELLED, Batch
from honne.data.loading import DataModule
from honne.errors import HonneError

NO_STRATA = "Each training row needs its stratum in the column `domain`: the camera, the data set, the kind of scene."


@dataclass(frozen=True)
class Strata:
    """The strata of training rows.

    Attributes:
        names: K of them.
        places: (D,) stratum of every domain of the data, `NOT_LABELLED` for those without a training row.
        pairs: (C, K) training rows of every expression in every stratum.
    """

    names: tuple[str, ...]
    places: Tensor
    pairs: Tensor

    @classmethod
    def of(cls, data: DataModule) -> Strata:
        """Those of the training rows of data with expressions.

        Raises:
            HonneError: there are fewer than two.
        """
        known, rows = data.training.known, data.train_rows()
        domain, expression = known.domain, known.expression
        codes = np.array([], int) if domain is None else domain[rows]
        both = codes != NOT_LABELLED
        present = np.unique(codes[both])
        if len(present) < 2 or expression is None:
            found = f"one confounder stratum, {known.domains[present[0]]}" if len(present) else "no confounder stratum"
            raise HonneError(f"{data.data[0].root}: the training rows have {found}; two or more are needed.", NO_STRATA)
        places = np.full(len(known.domains), NOT_LABELLED)
        places[present] = np.arange(len(present))
        labelled = both & (expression[rows] != NOT_LABELLED)
        pairs = np.zeros((len(data.labels.expressions), len(present)), np.float32)
        np.add.at(pairs, (expression[rows][labelled], places[codes[labelled]]), 1)
        return cls(tuple(known.domains[place] for place in present), torch.from_numpy(places), torch.from_numpy(pairs))

    def frequency(self) -> list[float]:
        """Share of each stratum among the rows."""
        return (self.pairs.sum(0) / self.pairs.sum()).tolist()


class StratumOf(nn.Module):
    """The stratum of each face of a batch, and how much more often expressions and strata meet than by chance.

    Args:
        strata: of the training rows.
        adjust: whether logits are to be adjusted; else the adjustments are 0.

    Source: logit adjustment, Menon et al., ICLR 2021, here within each stratum and relative to the whole: for
    expressions log P(y | d) / P(y), for strata log P(d | y) / P(d), which are the same number.
    """

    places: Tensor
    pairing: Tensor

    def __init__(self, strata: Strata, adjust: bool) -> None:
        super().__init__()
        self.register_buffer("places", strata.places, persistent=False)
        shares = (strata.pairs + 1e-3) / (strata.pairs + 1e-3).sum()  # a pair that never occurs keeps a logarithm
        pairing = (shares / (shares.sum(0) * shares.sum(1, keepdim=True))).log() * adjust
        unknown = torch.zeros_like(pairing[:, :1])  # for NOT_LABELLED, the last entry
        self.register_buffer("pairing", torch.cat([pairing, unknown], 1), persistent=False)

    def forward(self, batch: Batch) -> Tensor:
        """(B,) strata of a batch, `NOT_LABELLED` where unknown.

        Raises:
            HonneError: the batch has no strata, or others than the training rows.
        """
        domain = batch.domain
        if domain is None or bool((domain >= len(self.places)).any()):
            raise HonneError("a batch without the confounder strata of the training rows.", NO_STRATA)
        return torch.where(domain >= 0, self.places[domain.clamp_min(0)], NOT_LABELLED)

    def of_expressions(self, strata: Tensor) -> Tensor:
        """(B, C) to be added in training to the logits of the expressions of faces in the strata (B,)."""
        return self.pairing.T[strata]

    def of_strata(self, expressions: Tensor) -> Tensor:
        """(B, K) to be added in training to the logits of the strata of faces with the expressions (B,)."""
        return self.pairing[expressions, :-1]
