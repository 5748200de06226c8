"""CausalMER: no modality rules, since what each says by itself is subtracted from what they say together.

The network (`honne.networks.counterfactual`) has a fusion network with scores z_m, a branch per modality with scores
z_k, and a constant c_k per modality. With l the task's loss, H(p, q) the cross-entropy of the softmax of two scores,
and sg no gradient:

    L_cls = l(F(z), y) + sum_k l(z_k, y)                                          trains networks and branches
    L_kl  = H(te, nde) + sum_k H(te, nde_k) + 1/M sum_k H(nde_k, nde_(k+1))       of sg(z): trains the constants alone
    L     = alpha L_cls + beta L_kl + gamma L_backbone                            L_backbone: what DMD adds of its own

Source: Kim, Hong, Choi, "Causal Inference for Modality Debiasing in Multimodal Emotion Recognition", Applied Sciences
14 (23) 11397, 2024, and the released code.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from honne.batch import Batch
from honne.data.loading import DataModule
from honne.methods.base import Method
from honne.networks.counterfactual import CounterfactualNetwork, Effects, Scores, effects
from honne.networks.fusion.branches import Branch
from honne.networks.fusion.outputs import Outputs

log = logging.getLogger("honne")


@dataclass
class CausalmerOptions:
    """CausalMER, around the network of `fusion.network`.

    Args:
        fusion: of joint and branch scores: mask (published), sum, hm or tanh; see the documentation.
        constant: what an untreated slot holds at the start.
        alpha: weight of the task's losses.
        beta: weight of the cross-entropies of effects, which train the constants.
        gamma: weight of what the fusion network adds of its own (DMD).
        grouping: over what the softmax of effects goes: flat, all outputs at once (published), or task, expressions and
            each emotion's pair by themselves.
        branches: modality -> light, mean, resnet18 (published for audio and vision) or albert (published for text).
        direct_weights: modality -> weight of its direct effect in the prediction; 1 where none is named.
        predict_with: tie, te (scores fused, nothing subtracted), backbone (the fusion network alone), or a modality.
        absent: what the branch of a modality that a sample lacks counts as: zeros, what it makes of zeros (published),
            or constant, untreated.
        branch_lr: modality -> learning rate of its branch; optim.lr where none is named.
        new_layers_lr: modality -> learning rate of what is not pre-trained in an albert branch.
        constants_lr: learning rate of the constants; unset = optim.lr.
    """

    fusion: Literal["mask", "sum", "hm", "tanh"] = "mask"
    constant: float = 0.0
    alpha: float = 0.1
    beta: float = 1.0
    gamma: float = 1.0
    grouping: Literal["flat", "task"] = "flat"
    branches: dict[str, Branch] = field(default_factory=dict)
    direct_weights: dict[str, float] = field(default_factory=dict)
    predict_with: str = "tie"
    absent: Literal["zeros", "constant"] = "zeros"
    branch_lr: dict[str, float] = field(default_factory=dict)
    new_layers_lr: dict[str, float] = field(default_factory=dict)
    constants_lr: float | None = None


def cross_entropy(p: Tensor, q: Tensor, groups: Sequence[slice]) -> Tensor:
    """H(p, q): mean over B of sum -softmax(p) log softmax(q), the softmax in each group of columns, summed over groups.

    Args:
        p: (B, K) scores.
        q: (B, K) scores.
        groups: columns of K.
    """
    return torch.stack([-(p[:, part].softmax(1) * q[:, part].log_softmax(1)).sum(1).mean() for part in groups]).sum()


def constants_loss(found: Effects, groups: Sequence[slice]) -> Tensor:
    """L_kl of effects, M + 1 cross-entropies of the total effect and the mean of M between direct ones.

    Args:
        found: of scores without a gradient and constants with one.
        groups: columns that the softmax goes over.

    Source: Kim et al. 2024; the released code calls it KL, and subtracts no entropy.
    """
    total, direct = found.total, found.direct
    neighbours = [cross_entropy(one, other, groups) for one, other in zip(direct, direct.roll(-1, 0), strict=True)]
    to_each = [cross_entropy(total, each, groups) for each in direct]
    return torch.stack([cross_entropy(total, direct.sum(0), groups), *to_each]).sum() + torch.stack(neighbours).mean()


class Causalmer(Method):
    """See the module's text.

    Args:
        options: `CausalmerOptions`.
        shared: arguments of `Method`.
    """

    Options = CausalmerOptions
    takes: ClassVar[tuple[str, ...]] = ("sequences",)
    network: CounterfactualNetwork

    def __init__(self, options: CausalmerOptions, **shared: Any) -> None:
        super().__init__(**shared)
        self.options = options
        outputs = self.network.outputs
        self.groups = outputs.alternatives
        if options.grouping == "flat" and self.groups:
            self.groups = [slice(0, self.groups[-1].stop)]
        for sentence in inert(options, outputs):
            log.warning("%s", sentence)

    @classmethod
    def fusion_network(
        cls, options: CausalmerOptions, kind: str, given: dict[str, Any], data: DataModule
    ) -> tuple[str, dict[str, Any]]:
        """The network as given with branches and constants around it."""
        outside = ("modalities", "sentiment_classes", "valence_arousal_bins", "modality_dropout", "standardise")
        backbone = {name: value for name, value in given.items() if name not in outside}
        return "counterfactual", {
            **{name: given[name] for name in outside},
            "backbone": {"kind": kind, "options": backbone},
            "fusion": options.fusion,
            "constant": options.constant,
            "branches": options.branches,
            "direct_weights": options.direct_weights,
            "predict_with": options.predict_with,
            "absent": options.absent,
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        scores: Scores = self.network.scores(self.network.inputs(batch))
        fused = self.network.effects(scores).fused
        outputs, options = self.network.outputs, self.options
        every = [outputs.loss(logits, batch.labels) for logits in (fused, *scores.branches)]
        terms = {"task": options.alpha * torch.stack(every).sum(), "constants": options.beta * self._constants(scores)}
        own = self.network.backbone.auxiliary_loss(scores.backbone, batch.labels)
        return terms if own is None else terms | {"backbone": options.gamma * own}

    def validation_step(self, batch: Batch, step: int) -> None:
        """As every method's; the loss that is watched is that of training, as published."""
        super().validation_step(batch, step)
        total = torch.stack(list(self.loss(batch).values())).sum()
        self._figures.append({"loss": total.expand(len(batch)).cpu()})

    def _constants(self, scores: Scores) -> Tensor:
        joint, branches = scores.backbone.logits.detach().float(), scores.branches.detach().float()
        if not self.groups:  # of a single number every softmax is 1
            return self.network.constants.sum() * 0
        return constants_loss(effects(self.options.fusion, joint, branches, self.network.constants), self.groups)

    def rates(self) -> dict[str, float]:
        """Beginning of a parameter's name -> its learning rate, where that is not the recipe's."""
        options = self.options
        found: dict[str, float] = {}
        for name, rate in options.new_layers_lr.items():
            found |= {f"network.branches.{name}.{part}.": rate for part in ("inputs", "fc")}
        found |= {f"network.branches.{name}.": rate for name, rate in options.branch_lr.items()}
        if options.constants_lr is not None:
            found["network.constants"] = options.constants_lr
        return found


def inert(options: CausalmerOptions, outputs: Outputs) -> list[str]:
    """What of the method has no effect with these options and tasks, one sentence each.

    With `tanh` the constants cancel; where no outputs exclude each other every softmax is 1, so that the constants have
    no gradient; and a gate (`mask`) or logarithm (`sum`, `hm`) of probabilities is no scale for a number.
    """
    found = []
    if options.fusion == "tanh":
        found.append(
            "causalmer.fusion tanh: what is subtracted only shifts all scores alike, so that the constants never learn "
            "and the prediction is that of the fusion network. Take mask, sum or hm for a debiased one."
        )
    if not outputs.alternatives:
        nothing = (
            ", and nothing is subtracted: TIE equals TE" if options.fusion == "mask" and not options.constant else ""
        )
        found.append(
            "causalmer without classes, as published: the loss of the constants is always 0, so that they stay "
            f"{options.constant:g}{nothing}."
        )
    classes = {
        "sentiment": (outputs.sentiment_classes, "--fusion.sentiment_classes 7"),
        "valence_arousal": (outputs.valence_arousal_bins, "--fusion.valence_arousal_bins 20"),
    }
    found += [
        f"causalmer: fused scores fit numbers badly ({task.replace('_', ' and ')}). Learn classes instead: {way}."
        for task, (count, way) in classes.items()
        if task in outputs.slices and not count
    ]
    return found
