"""DMUE: dive into ambiguity, with latent distribution mining (LDM) and pairwise uncertainty estimation (PUE).

One label stands for what several observers would call differently. For each of C classes an auxiliary branch, a
private copy of the network's last layers, learns from the faces *not* labelled with that class. Asked about a face that
*is*, it says what the face would be if not that: the mined distribution, a soft target for the network itself. And a
face whose embedding sides with other classes than its label gets a low confidence, which tempers its logits in the
cross-entropy.

    L = u(e) [ CE(s z, y) + w L_soft + gamma L_sp ] + d(e) L_aux

z logits, s confidence, L_soft towards the mined distribution, L_sp similarity of the branches' and the network's Gram
matrices, L_aux cross-entropy of the branches, u and d ramps over the epochs. Only the network is kept as the model.

Source: She, Hu, Shi, Wang, Shen, Mei, "Dive into Ambiguity", CVPR 2021, arXiv 2104.00232. Where the authors' released
code does otherwise than the paper, or errs, an option names both ways; `compat: released` chooses all of its ways.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch
from honne.data.loading import DataModule
from honne.data.manifest import replacing
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.methods.confidence import Confidence, class_similarity
from honne.methods.processes import of_all_processes
from honne.networks.branches import Answers, Branches
from honne.networks.face import FaceNetwork

RELEASED = {
    "soft_loss": "squared",
    "soft_memory": 0.0,
    "confidence_input": "label",
    "confidence_prior": 0.0,
    "similarity_source": "logits",
    "statistics": "batch",
    "frozen": "released",
    "incomplete": "skip",
    "gather": "own",
    "eval_after": 200,
}
"""What the authors' released code does."""


@dataclass
class DmueOptions:
    """Latent distribution mining and pairwise uncertainty.

    Args:
        temperature: of the mined distributions: above 1 flattens, below 1 sharpens them.
        soft_weight: w, of the loss towards the mined distribution; 0 = off.
        soft_loss: squared: error of the predicted probabilities of the other classes (published). kl: divergence from
            the mined distribution to the predicted one among the other classes. full: cross-entropy with the
            predicted p_y for the label and 1 - p_y shared out as mined. plain: squared error of all probabilities, the
            label's included.
        soft_memory: share of a face's soft target that is kept from its earlier showings, 0..1 (full only). A network
            that begins to learn a wrong label by heart then contradicts what it said itself before. 0 as published.
        similarity_weight: gamma, of the similarity-preserving loss; 0 = off.
        similarity_source: what the branches' Gram matrices are made of: their embedding (the paper's figure) or their
            logits (the released code).
        uncertainty: pairwise: the logits of a face are tempered by its confidence s; none: they are not.
        confidence_input: what s is made of beside the similarities to all classes. label: the label, one-hot
            (published), from which the small network hardly learns to look up the similarity to the label's own class.
            own: that similarity itself, in the label's place.
        confidence_prior: weight of -log s, the price of doubting a face. 0 as published: then doubt is free once s is
            learned, logits grow without bound and the network learns from ever fewer faces.
        ramp: epochs in which the network's losses rise and after which the branches' falls.
        ramp_height: both ramps' largest value.
        branch_depth: what each branch has of its own: the last stage (published), the last block, or only a small head
            on the network's features, which costs next to nothing.
        statistics: of BatchNorm when faces are mined. running: they are used and stay as they are, and each branch has
            a neck of its own. batch: those of the few faces mined, which then count; one neck for all.
        frozen: none: everything learns. released: confidence and neck stay as they began.
        incomplete: a batch without two rows of every class: used for what it is good for, or skip it.
        gather: pairs are formed over all processes, or each process's own.
        eval_after: batches of an epoch after which BatchNorm and dropout are as in evaluation; 0 = never.
        compat: released: the released code's way in soft_loss, soft_memory, confidence_input, confidence_prior,
            similarity_source, statistics, frozen, incomplete, gather and eval_after; its stem is --model.backbone
            dmue_resnet18, its sampling --data.sampling class_balanced.
    """

    temperature: float = 1.2
    soft_weight: float = 0.5
    soft_loss: Literal["squared", "kl", "full", "plain"] = "squared"
    soft_memory: float = 0.0
    similarity_weight: float = 1000.0
    similarity_source: Literal["embedding", "logits"] = "embedding"
    uncertainty: Literal["pairwise", "none"] = "pairwise"
    confidence_input: Literal["label", "own"] = "label"
    confidence_prior: float = 0.5
    ramp: float = 6.0
    ramp_height: float = 1.0
    branch_depth: Literal["stage", "block", "head"] = "stage"
    statistics: Literal["running", "batch"] = "running"
    frozen: Literal["none", "released"] = "none"
    incomplete: Literal["use", "skip"] = "use"
    gather: Literal["all", "own"] = "all"
    eval_after: int = 0
    compat: Literal["none", "released"] = "none"

    def __post_init__(self) -> None:
        if self.compat == "released":
            vars(self).update(RELEASED)
        if self.temperature <= 0:
            raise WrongCall(f"dmue.temperature is {self.temperature}.", "It must be above 0.")
        if self.soft_memory and self.soft_loss != "full":
            raise WrongCall("dmue.soft_memory is for soft targets of all classes.", "Add --dmue.soft_loss full.")
        if self.soft_memory and self.gather == "own":
            raise WrongCall("dmue.soft_memory needs the faces of all processes.", "Leave out --dmue.gather own.")


# --- schedules ---------------------------------------------------------------------------------------------------


def ramp_up(epoch: int, ramp: float, height: float = 1.0) -> float:
    """u(e): from exp(-5) at epoch 0 to `height` at epoch `ramp` and after."""
    return height if epoch > ramp else height * math.exp(-5 * (1 - epoch / ramp) ** 2) if ramp else height


def ramp_down(epoch: int, ramp: float, height: float = 1.0) -> float:
    """d(e): `height` until epoch `ramp`, then slowly towards exp(-1) of it; the branches never stop learning."""
    return height if epoch < ramp or not epoch else height * math.exp(-((1 - ramp / epoch) ** 2))


# --- routing, mining, losses -------------------------------------------------------------------------------------


def other_labels(labels: Tensor, classes: int) -> Tensor:
    """(C, B) index of each row's label among the C - 1 classes that branch c knows; of no meaning where c is it."""
    branch = torch.arange(classes, device=labels.device)[:, None]
    return labels - (labels > branch).long()


def insert_zero(values: Tensor, labels: Tensor) -> Tensor:
    """(B, C) from (B, C - 1): each row's values with a 0 put in at its label."""
    place = torch.arange(values.shape[1], device=values.device).expand_as(values)
    place = place + (place >= labels[:, None])
    return values.new_zeros(len(values), values.shape[1] + 1).scatter(1, place, values)


def mined_distribution(own_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """q: what a face would be if not what it is labelled.

    Args:
        own_logits: (B, C - 1), row i from branch y_i.
        labels: (B,) y.
        temperature: T; the probabilities are raised to 1/T and normalised.

    Returns:
        (B, C), 0 at the label, rows sum to 1.
    """
    return insert_zero((own_logits.log_softmax(1) / temperature).softmax(1), labels)


def soft_label_loss(logits: Tensor, labels: Tensor, mined: Tensor, kind: str = "squared") -> Tensor:
    """Loss of the network's logits towards the mined distribution; see `full_target` for another.

    Args:
        logits: (B, C).
        labels: (B,).
        mined: (B, C), 0 at the label, rows sum to 1.
        kind: see `DmueOptions.soft_loss`. `squared` alone would drive the label's probability to 0, since the others
            sum to less than the mined ones; `kl` has no such tension.

    Returns:
        Scalar; the squared errors are means over B * C entries.
    """
    own = F.one_hot(labels, logits.shape[1]).bool()
    if kind == "squared":
        return (logits.softmax(1).masked_fill(own, 0) - mined).square().mean()
    if kind == "plain":
        return (logits.softmax(1) - mined).square().mean()
    among_others = logits.masked_fill(own, -torch.inf).log_softmax(1).masked_fill(own, 0)
    return (torch.special.xlogy(mined, mined) - mined * among_others).sum(1).mean()


def full_target(logits: Tensor, labels: Tensor, mined: Tensor) -> Tensor:
    """(B, C) soft target over all classes: p_y for the label, 1 - p_y shared out as mined; without gradient."""
    own = F.one_hot(labels, logits.shape[1]).bool()
    kept = logits.detach().softmax(1)[own][:, None]
    return torch.where(own, kept, (1 - kept) * mined)


def similarity_loss(branches: Tensor, network: Tensor, others: Tensor) -> Tensor:
    """L_sp: Gram matrices of the rows that branch c learns from, with rows of length 1, should agree.

    Args:
        branches: (C, B, D') embeddings or logits of every branch.
        network: (B, D) embedding.
        others: (C, B) which rows branch c learns from.

    Returns:
        Scalar, mean over branches of the mean over n_c^2 entries.
    """
    pairs = others[:, :, None] & others[:, None, :]
    mine = F.normalize((branches @ branches.mT).masked_fill(~pairs, 0), dim=2)
    reference = F.normalize((network @ network.T).masked_fill(~pairs, 0), dim=2)
    entries = others.sum(1).clamp_min(1).square()
    return ((mine - reference).square().sum((1, 2)) / entries).mean()


def branch_loss(logits: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """L_aux: cross-entropy of each branch over the rows it learns from, mean over branches.

    Args:
        logits: (C, B, C - 1).
        labels: (B,).
        others: (C, B) which rows branch c learns from.
    """
    target = other_labels(labels, len(logits)).clamp(0, logits.shape[2] - 1)
    loss = -logits.log_softmax(2).gather(2, target[:, :, None])[:, :, 0]
    return ((loss * others).sum(1) / others.sum(1).clamp_min(1)).mean()


# --- the method --------------------------------------------------------------------------------------------------


class Dmue(Method):
    """Latent distribution mining and pairwise uncertainty; see the module's text.

    Args:
        options: `DmueOptions`.
        rows: of the data sets, for `soft_memory`.
        shared: arguments of `Method`.
    """

    Options = DmueOptions
    needs = ("expressions",)
    learns = "expression"
    backbone = ("backbone", "endings")
    network: FaceNetwork
    memory: Tensor

    @classmethod
    def facts(cls, options: Any, data: DataModule) -> dict[str, Any]:
        """Rows of the data sets."""
        return {"rows": len(data.training)}

    @classmethod
    def learned(cls, schema: LabelSchema) -> LabelSchema:
        """Expressions."""
        return LabelSchema(schema.expressions)

    def __init__(
        self,
        options: DmueOptions,
        *,
        rows: int = 0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.options, self.classes = options, len(self.schema.expressions)
        self.branches = Branches(self.network, self.classes, options.branch_depth, options.statistics == "batch")
        self.confidence = Confidence(self.classes, options.confidence_input)
        self.register_buffer("memory", torch.full((rows if options.soft_memory else 0, self.classes), torch.nan))
        nn.init.normal_(self.network.linear.weight, std=0.001)
        if options.frozen == "released":
            self.confidence.requires_grad_(False)
            self.network.neck.requires_grad_(False)

    def training_step(self, batch: Batch, step: int) -> Tensor | None:  # type: ignore[override]
        if self.options.eval_after:
            self.train(step < self.options.eval_after)
        labels = batch.labels.expression
        if self.options.incomplete == "skip" and labels is not None and not self.complete(labels):
            return None
        return super().training_step(batch, step)

    def complete(self, labels: Tensor) -> bool:
        """Whether every class has at least two of the rows (B,)."""
        return bool((torch.bincount(labels[labels != NOT_LABELLED], minlength=self.classes) >= 2).all())

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        images, labels = batch.images, batch.labels.expression
        if images is None or labels is None or bool((labels == NOT_LABELLED).any()):
            raise HonneError(
                "dmue got a batch with rows that lack an image or an expression label.", "It learns from labels only."
            )
        index = batch.index
        features, own = self.branches.features(self.network, images, labels, learn=True)
        with torch.autocast(images.device.type, enabled=False):
            features, own = features.float(), own.float()
            if self.options.gather == "all" and self._trainer is not None and self.trainer.world_size > 1:
                features, labels = of_all_processes(features), of_all_processes(labels)
                own = of_all_processes(own.transpose(0, 1)).transpose(0, 1)
                index = None if index is None else of_all_processes(index)
            losses = self.losses(self.branches.answers(self.network, features, own, labels), labels, index)
        options, epoch = self.options, self.current_epoch
        up, down = (ramp(epoch, options.ramp, options.ramp_height) for ramp in (ramp_up, ramp_down))
        weights = {
            "expression": up,
            "confidence": up * options.confidence_prior,
            "soft": up * options.soft_weight,
            "similarity": up * options.similarity_weight,
            "branches": down,
        }
        return {name: weight * losses[name] for name, weight in weights.items() if weight}

    def losses(self, answers: Answers, labels: Tensor, index: Tensor | None = None) -> dict[str, Tensor]:
        """The losses before weights and ramps: expression, confidence, soft, similarity, branches.

        Args:
            answers: of the batch.
            labels: (B,).
            index: (B,) row numbers, by which soft targets are remembered.
        """
        others = F.one_hot(labels, self.classes).T == 0
        logits, prior = answers.logits, answers.logits.new_zeros(())
        if self.options.uncertainty == "pairwise":
            score = self.confidences(answers.features, labels)
            logits, prior = logits * score[:, None], -score.log().mean()
        side = answers.branch_logits if self.options.similarity_source == "logits" else answers.branch_embedding
        return {
            "expression": F.cross_entropy(logits, labels),
            "confidence": prior,
            "soft": self._soft_loss(answers.logits, labels, self.mined(answers, labels), index),
            "similarity": similarity_loss(side, answers.embedding, others),
            "branches": branch_loss(answers.branch_logits, labels, others),
        }

    def _soft_loss(self, logits: Tensor, labels: Tensor, mined: Tensor, index: Tensor | None) -> Tensor:
        if self.options.soft_loss != "full":
            return soft_label_loss(logits, labels, mined, self.options.soft_loss)
        target = full_target(logits, labels, mined)
        if self.options.soft_memory and index is not None:
            known = self.memory[index]
            target = torch.where(known.isnan(), target, torch.lerp(target, known, self.options.soft_memory))
            self.memory[index] = target
        return F.cross_entropy(logits, target)

    def confidences(self, features: Tensor, labels: Tensor) -> Tensor:
        """(B,) s in (0, 1) of the network's features (B, D)."""
        scores: Tensor = self.confidence(class_similarity(features, labels, self.classes), labels)
        return scores

    def mined(self, answers: Answers, labels: Tensor) -> Tensor:
        """(B, C) q, without gradient."""
        own = answers.branch_logits.detach()[labels, torch.arange(len(labels), device=labels.device)]
        return mined_distribution(own, labels, self.options.temperature)

    def finish(self, run: Path) -> None:
        """`branches.safetensors`: branches and confidence, in half precision, for `honne audit`."""
        state = {f"branches.{name}": value for name, value in self.branches.state_dict().items()}
        state |= {f"confidence.{name}": value for name, value in self.confidence.state_dict().items()}
        entries = {
            name: (value.half() if value.is_floating_point() and value.ndim > 1 else value).cpu().contiguous()
            for name, value in state.items()
        }
        with replacing(run / BRANCHES) as path:
            save_file(entries, path, metadata={"options": json.dumps(asdict(self.options))})


BRANCHES = "branches.safetensors"
"""In RUN, beside RUN/model: what training needed and predicting does not."""


def load_branches(file: Path, network: FaceNetwork) -> tuple[Branches, Confidence, DmueOptions]:
    """The branches that training left beside a model.

    Raises:
        HonneError: the file is damaged, or belongs to another network.
    """
    try:
        with safe_open(file, "pt") as stored:
            options = DmueOptions(**json.loads(stored.metadata()["options"]))
            state = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
        classes = len(state["branches.classifiers"])
        branches = Branches(network, classes, options.branch_depth, options.statistics == "batch")
        parts = nn.ModuleDict({"branches": branches, "confidence": Confidence(classes, options.confidence_input)})
        parts.load_state_dict(state)
    except Exception as error:
        raise HonneError(
            f"{file}: not the branches of this model ({type(error).__name__}).",
            "Keep it beside the model it came with.",
        ) from error
    parts.eval().requires_grad_(False)
    return branches, cast(Confidence, parts["confidence"]), options
