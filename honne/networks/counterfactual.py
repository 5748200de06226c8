"""CausalMER's inference: what a fusion network says through its fused state, without what modalities say alone.

The causal graph has edges from every modality k to the answer Y, directly and through the fused state m. Y(m, k, ...)
is a fusion F of the scores z_m of a fusion network and z_k of a branch per modality; a slot without treatment holds a
learned constant in place of its scores.

    TE    = Y(m, t, a, v) - Y*                 total effect;                   Y* = Y(no slot treated)
    NDE_k = Y_k - Y*                           natural direct effect of k;     Y_k = Y(only k treated)
    TIE   = TE - sum_k NDE_k                   total indirect effect: the prediction

A slot without treatment holds c_k in Y_k and c_1 + c_2 + ... in Y*, as published.

Source: Kim, Hong, Choi, "Causal Inference for Modality Debiasing in Multimodal Emotion Recognition", Applied Sciences
14 (23) 11397, 2024, and the released code. How methods train it: `honne.methods.causalmer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from honne.batch import Labels
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.networks.fusion.branches import BRANCHES, Branch
from honne.networks.fusion.dmd import DMD
from honne.networks.fusion.mult import MulT
from honne.networks.fusion.network import Fused, FusionNetwork, Modalities
from honne.networks.fusion.plain import AlignedFusion, EarlyFusion, LateFusion
from honne.networks.fusion.pmr import PMR
from honne.networks.fusion.transformer import Steps

BACKBONES: dict[str, type[FusionNetwork]] = {
    "early_fusion": EarlyFusion,
    "late_fusion": LateFusion,
    "aligned_fusion": AlignedFusion,
    "mult": MulT,
    "pmr": PMR,
    "dmd": DMD,
}
"""Fusion networks by kind, as a model's `config.yaml` has it."""

Fusion = Literal["mask", "sum", "hm", "tanh"]
EPSILON = 1e-12


def fuse_scores(fusion: Fusion, joint: Tensor, branches: Tensor) -> Tensor:
    """F(z_m, z_1, ..., z_M), element by element.

    Args:
        fusion: `mask`: z_m sigmoid(sum z_k); `sum`: log sigmoid(z_m + sum z_k); `hm`: log p - log(1 + p) with p the
            product of all sigmoids; `tanh`: z_m + sum tanh z_k.
        joint: (...) z_m.
        branches: (M, ...) z_k.

    Source: the released code; `sum` and `hm` are those of CF-VQA (Niu et al., CVPR 2021).
    """
    if fusion == "mask":
        return joint * branches.sum(0).sigmoid()
    if fusion == "sum":
        return ((joint + branches.sum(0)).sigmoid() + EPSILON).log()
    if fusion == "hm":
        product = joint.sigmoid() * branches.sigmoid().prod(0)
        return (product + EPSILON).log() - product.log1p()
    return joint + branches.tanh().sum(0)


@dataclass
class Effects:
    """What follows from joint and branch scores.

    Attributes:
        fused: (B, K) Y(m, t, a, v), all slots treated.
        reference: (B, K) Y*, none treated.
        direct: (M, B, K) NDE of each modality.
    """

    fused: Tensor
    reference: Tensor
    direct: Tensor

    @property
    def total(self) -> Tensor:
        """(B, K) TE."""
        return self.fused - self.reference

    def indirect(self, weights: Tensor | None = None) -> Tensor:
        """(B, K) TIE; with weights (M,) of the direct effects, 1 each as published."""
        direct = self.direct if weights is None else self.direct * weights[:, None, None]
        return self.total - direct.sum(0)


def effects(fusion: Fusion, joint: Tensor, branches: Tensor, constants: Tensor) -> Effects:
    """The effects of (B, K) joint scores, (M, B, K) branch scores and (M,) constants.

    All evaluations but the factual one are one batched call: M + 1 of them, the last of which treats nothing.
    """
    count = len(branches)
    filler = torch.cat([constants, constants.sum()[None]])[:, None, None].to(joint.dtype)
    untreated = filler.expand(-1, *joint.shape)
    treated = torch.eye(count, count + 1, dtype=torch.bool, device=joint.device)[:, :, None, None]
    slots = torch.where(treated, branches[:, None], untreated)
    answers = fuse_scores(fusion, untreated, slots)
    reference = answers[-1]
    return Effects(fuse_scores(fusion, joint, branches), reference, answers[:-1] - reference)


@dataclass
class Scores:
    """What the networks say of a batch, before any effect.

    Attributes:
        backbone: of the fusion network, z_m with its hidden state.
        branches: (M, B, K) z_k.
    """

    backbone: Fused
    branches: Tensor


class CounterfactualNetwork(FusionNetwork):
    """A fusion network with a branch for every modality; it predicts by the total indirect effect.

    Args:
        schema: what to predict.
        modalities: name -> number of features.
        backbone: {"kind": one of `BACKBONES`, "options": its own}.
        fusion: see `fuse_scores`.
        constant: c_k at the start.
        branches: modality -> kind of branch; light where none is named.
        direct_weights: modality -> weight of its direct effect in TIE; 1 where none is named.
        predict_with: tie, te (the fused scores), backbone (those of the fusion network alone), or a modality (those of
            its branch alone).
        absent: what the branch of a modality that a sample lacks counts as: `zeros`, what it makes of zeros
            (published), or `constant`, untreated.
        shared: arguments of `FusionNetwork`.

    Raises:
        HonneError: no such backbone, fusion or branch.
        WrongCall: a modality that is not there.
    """

    def __init__(
        self,
        schema: LabelSchema,
        modalities: Modalities,
        backbone: dict[str, Any],
        fusion: Fusion = "mask",
        constant: float = 0.0,
        branches: Mapping[str, Branch] | None = None,
        direct_weights: Mapping[str, float] | None = None,
        predict_with: str = "tie",
        absent: Literal["zeros", "constant"] = "zeros",
        **shared: Any,
    ) -> None:
        masks = backbone["options"].get("padding", "masks") == "masks"
        super().__init__(schema, modalities, masks=masks, **shared)
        if backbone["kind"] not in BACKBONES:
            raise HonneError(f"unknown fusion network '{backbone['kind']}'.", f"There are: {', '.join(BACKBONES)}.")
        if fusion not in Fusion.__args__:  # type: ignore[attr-defined]
            raise WrongCall(f"causalmer.fusion: '{fusion}' is not one of mask, sum, hm, tanh.")
        for name in (*(branches or {}), *(direct_weights or {})):
            if name not in modalities:
                raise WrongCall(f"there is no modality '{name}'.", f"The data have {', '.join(modalities)}.")
        if predict_with not in ("tie", "te", "backbone", *modalities):
            choice = ", ".join(("tie", "te", "backbone", *modalities))
            raise WrongCall(f"causalmer.predict_with: '{predict_with}' is not one of {choice}.")
        own: dict[str, Any] = {
            "sentiment_classes": self.outputs.sentiment_classes,
            "valence_arousal_bins": self.outputs.valence_arousal_bins,
            "standardise": False,
        }
        self.backbone = BACKBONES[backbone["kind"]](schema, modalities, **backbone["options"], **own)
        self.hidden, self.parts = self.backbone.hidden, self.backbone.parts
        self.branches: Any = nn.ModuleDict(
            {
                name: BRANCHES[(branches or {}).get(name, "light")](width, self.outputs.width)
                for name, width in modalities.items()
            }
        )
        self.constants = nn.Parameter(torch.full((len(modalities),), constant))
        weights = torch.tensor([(direct_weights or {}).get(name, 1.0) for name in modalities])
        self.direct_weights: Tensor
        self.register_buffer("direct_weights", weights, persistent=False)
        self.fusion: Fusion = fusion
        self.predict_with, self.absent = predict_with, absent

    def scores(self, sequences: Mapping[str, Steps]) -> Scores:
        """What the networks say of sequences, as `inputs` gives them."""
        said = []
        for constant, (name, steps) in zip(self.constants.detach(), sequences.items(), strict=True):
            logits = self.branches[name](steps)
            if self.absent == "constant" and steps.absent is not None:
                logits = torch.where(steps.absent[:, None], constant.to(logits.dtype), logits)
            said.append(logits)
        return Scores(self.backbone.fuse(sequences), torch.stack(said))

    def effects(self, scores: Scores) -> Effects:
        """The effects of scores; no gradient reaches the constants."""
        return effects(self.fusion, scores.backbone.logits, scores.branches, self.constants.detach())

    def answer(self, scores: Scores) -> Tensor:
        """(B, K) joint logits of the prediction, as `predict_with` says."""
        if self.predict_with == "backbone":
            return scores.backbone.logits
        if self.predict_with in self.widths:
            return scores.branches[self.modalities.index(self.predict_with)]
        found = self.effects(scores)
        return found.fused if self.predict_with == "te" else found.indirect(self.direct_weights)

    def fuse(self, sequences: Mapping[str, Steps]) -> Fused:
        """The answer, the fusion network's hidden state, and the `Scores` as the network's own."""
        scores = self.scores(sequences)
        return Fused(self.answer(scores), scores.backbone.hidden, scores)

    def read_out(self, hidden: Tensor) -> Tensor:
        """(B, K) joint scores z_m of a hidden state."""
        return self.backbone.read_out(hidden)

    def auxiliary_loss(self, fused: Fused, labels: Labels) -> Tensor | None:
        """That of the fusion network."""
        return self.backbone.auxiliary_loss(fused.own.backbone, labels)
