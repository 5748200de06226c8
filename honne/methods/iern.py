"""IERN: interventional emotion recognition, against what a data set's look gives away.

A network that sees an emotion mostly in one look (camera, lighting, scene: the confounder stratum d) learns the look.
IERN splits the backbone's feature f into an emotion feature e and a context feature c, keeps one prototype m_k of the
context of each stratum, and learns to recognise an emotion in every context in turn (`honne.networks.intervention`).
One step, with three optimisers:

    discriminators   (CE(d_e(e), y) + CE(d_c(c), d)) / 2                              e and c held fixed
    features         (MSE(softmax d_c(e), 1/K) + MSE(softmax d_e(c), 1/C)) / 2        e hides d, c hides y
                     + lambda |c - m_d|^2 + MSE(g_r(e, c), f)                         f held fixed
    prototypes       m_k as the features' optimiser left them
    classifier       CE(sum_k P(k) f_c(g_r(e, m_k)), y)                               g_r held fixed

Source: Chen, Yang, Cham, Cai, "Towards Unbiased Visual Emotion Recognition via Causal Intervention", ACM MM 2022, arXiv
2107.12096; where paper and released code differ, the code.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch
from honne.data.loading import DataModule
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.methods.iern_start import go_on
from honne.methods.processes import mean_over_processes
from honne.methods.strata import Strata, StratumOf
from honne.networks.face import FaceNetwork
from honne.networks.intervention import Average, Discriminator, Encoder, Init, Interventional, initialise
from honne.schedules import optimizer, schedule


@dataclass
class IernOptions:
    """Interventional emotion recognition.

    `--optim.lr` is the rate of the backbone, `--optim.head_lr` that of everything else.

    Args:
        update: what the classifier's step sees of the emotion encoder, which has just changed. fresh: its new output.
            recompute: the backbone's too, computed once more (the same weights; its BatchNorm counts twice). legacy:
            the old output, against the new weights, as PyTorch 1.4 did silently.
        channels: of the features.
        encoder_blocks: residual blocks of both encoders.
        decoder_blocks: of the decoder.
        discriminator_blocks: halvings of the discriminators' channels.
        init: how encoders, decoder, discriminators and classifier begin: normal, xavier, kaiming or orthogonal.
        init_gain: its scale.
        center_weight: lambda, of the distance between context features and prototypes.
        prototypes: adam learns them at the features' rate (published); running_mean makes each the running mean of its
            stratum's context features.
        prototype_momentum: share of a new mean in the running one, 0..1.
        prior: P(d): uniform (published), or the strata's frequency among the training rows.
        average: of the strata's logits (published), or of their probabilities, as the adjustment has it.
        encoder_cross_entropy: weight with which both encoders also learn what their discriminators are to find, as the
            paper is said to have it: e the emotion, c the stratum. 0 = off, as released.
        logit_adjustment: none (published); or stratum, ours: in training the logits are raised by how much more often
            each emotion occurs in the face's stratum than by chance, so that nothing is learned from such pairs
            themselves; likewise the stratum discriminator's, by the emotion.
        start: folder of a model of this method to go on from, with its prototypes: RUN/model, or what `honne import
            iern` wrote. Its expressions, strata and sizes must be those of this run.
    """

    update: Literal["fresh", "recompute", "legacy"] = "fresh"
    channels: int = 512
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    discriminator_blocks: int = 3
    init: Init = "normal"
    init_gain: float = 0.02
    center_weight: float = 5e-4
    prototypes: Literal["adam", "running_mean"] = "adam"
    prototype_momentum: float = 0.1
    prior: Literal["uniform", "frequency"] = "uniform"
    average: Average = "logits"
    encoder_cross_entropy: float = 0.0
    logit_adjustment: Literal["none", "stratum"] = "none"
    start: Path | None = None

    def __post_init__(self) -> None:
        for name in ("channels", "decoder_blocks"):
            if getattr(self, name) < 1:
                raise WrongCall(f"iern.{name} is {getattr(self, name)}.", "Give 1 or more.")
        if not 0 < self.prototype_momentum <= 1:
            raise WrongCall(
                f"iern.prototype_momentum is {self.prototype_momentum}.", "Give a share above 0, at most 1."
            )


# --- losses ------------------------------------------------------------------------------------------------------


def confusion_loss(logits: Tensor) -> Tensor:
    """Mean squared error of softmax(logits), (B, N), and the uniform distribution."""
    return (logits.softmax(1) - 1 / logits.shape[1]).square().mean()


def center_loss(features: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """Squared distance of each feature to the centre of its label: sum over dimensions, mean over rows.

    Args:
        features: (B, ...).
        centers: (K, D), D the entries of a feature.
        labels: (B,) 0..K-1; rows with a negative one do not count.

    Source: Wen et al., ECCV 2016, without the factor 1/2.
    """
    known = labels >= 0
    distance = (features.flatten(1) - centers[labels.clamp_min(0)]).square().sum(1)
    return (distance * known).sum() / known.sum().clamp_min(1)


def known_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (B, N) logits, mean over the rows whose label is not negative; 0 if there is none."""
    loss = F.cross_entropy(logits, labels, ignore_index=NOT_LABELLED, reduction="sum")
    return loss / (labels != NOT_LABELLED).sum().clamp_min(1)


# --- the method --------------------------------------------------------------------------------------------------


class Iern(Method):
    """Interventional emotion recognition; see the module's text.

    Args:
        options: `IernOptions`.
        strata: of the training rows.
        shared: arguments of `Method`.

    Attributes:
        context: g_c.
        emotion_discriminator: d_e.
        stratum_discriminator: d_c.
        centers: (K, channels * h * w), the prototypes as they are learned.
    """

    Options = IernOptions
    needs = ("expressions",)
    learns = "expression"
    backbone = ("backbone", "projection")
    network: FaceNetwork
    met: Tensor

    @classmethod
    def learned(cls, schema: LabelSchema) -> LabelSchema:
        """Expressions."""
        return LabelSchema(schema.expressions)

    @classmethod
    def network_options(cls, options: IernOptions, given: dict[str, Any], data: DataModule) -> dict[str, Any]:
        """The network as given, with the interventional head for the strata of these data."""
        if given["head"] != "linear" or given["head_options"] or given["neck"]:
            raise WrongCall(
                "method iern brings a head of its own.",
                "Leave out --model.head, --model.head_options and --model.neck.",
            )
        strata = Strata.of(data)
        head = {
            "strata": list(strata.names),
            "side": _side(given, data),
            "channels": options.channels,
            "encoder_blocks": options.encoder_blocks,
            "decoder_blocks": options.decoder_blocks,
            "prior": None if options.prior == "uniform" else strata.frequency(),
            "average": options.average,
        }
        return given | {"head": "interventional", "head_options": head}

    @classmethod
    def facts(cls, options: Any, data: DataModule) -> dict[str, Any]:
        """The strata."""
        return {"strata": Strata.of(data)}

    def __init__(self, options: IernOptions, *, strata: Strata, **shared: Any) -> None:
        super().__init__(**shared)
        self.automatic_optimization = False
        self.options = options
        self.stratum_of = StratumOf(strata, adjust=options.logit_adjustment == "stratum")
        head, classes = self.head, len(self.schema.expressions)
        count, channels, *side = head.prototypes.shape
        self.context = Encoder(channels, options.encoder_blocks)
        self.emotion_discriminator = Discriminator(channels, classes, options.discriminator_blocks, side)
        self.stratum_discriminator = Discriminator(channels, count, options.discriminator_blocks, side)
        for module in (
            *(head.emotion, self.context, head.decoder),
            *(self.emotion_discriminator, self.stratum_discriminator, head.classifier),
        ):
            initialise(module, options.init, options.init_gain)
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learned = options.prototypes == "adam"
        centers = torch.randn(count, head.prototypes[0].numel()) if learned else head.prototypes.flatten(1).clone()
        self.centers = nn.Parameter(centers, requires_grad=learned)
        self.register_buffer("met", torch.zeros(count, dtype=torch.bool))
        if options.start is not None:
            go_on(self, head, options.start)

    @property
    def head(self) -> Interventional:
        """The network's head of the expressions."""
        head = self.network.expression
        assert isinstance(head, Interventional)
        return head

    def configure_optimizers(self) -> Any:
        if self.trainer.precision == "16-mixed":
            raise WrongCall("method iern has three optimisers, which 16-mixed cannot scale.", "Take bf16-mixed.")
        if any(isinstance(module, nn.SyncBatchNorm) for module in self.modules()):
            raise WrongCall(
                "method iern takes BatchNorm statistics of each stratum by itself, which are not shared.",
                "Leave out --trainer.sync_batchnorm.",
            )
        head = self.head
        discriminators = {"emotion": self.emotion_discriminator, "stratum": self.stratum_discriminator}
        centers = nn.ParameterList([self.centers])
        features = {"emotion": head.emotion, "context": self.context, "centers": centers, "decoder": head.decoder}
        learner = {
            "backbone": self.network.backbone,
            "projection": head.projection,
            "emotion": head.emotion,
            "classifier": head.classifier,
        }
        if self.network.regions is not None:
            learner["regions"] = self.network.regions
        chosen = [
            optimizer(nn.ModuleDict(parts), self.optim, backbone=self.backbone)
            for parts in (discriminators, features, learner)
        ]
        return chosen, [schedule(each, self.optim, self.steps, self.epochs) for each in chosen]

    def training_step(self, batch: Batch, step: int) -> None:  # type: ignore[override]
        batch = self.prepared(batch)
        emotions, strata = self._labels(batch)
        discriminators, features, learner = cast(list[Any], self.optimizers())
        head, update = self.head, self.options.update
        with nullcontext({}) if self.au_cues is None else self.au_cues.watching(self.network) as seen:
            with torch.set_grad_enabled(update != "recompute"):
                base = self._base(batch)
            emotion, context = head.emotion(base if update == "legacy" else base.detach()), self.context(base.detach())

            terms, figures = self._discriminators(emotion.detach(), context.detach(), emotions, strata)
            self._descend(terms, discriminators.optimizer)
            more, hidden = self._features(base.detach(), emotion, context, emotions, strata)
            self._descend(more, features.optimizer, again=update == "legacy")
            self._renew_prototypes(context.detach(), strata)

            if update != "legacy":
                emotion = head.emotion(self._base(batch) if update == "recompute" else base)
        logits = head.adjusted(head.intervene(emotion)) + self.stratum_of.of_expressions(strata)
        last = {"expression": F.cross_entropy(logits, emotions)}
        if self.au_cues is not None:
            last |= self.au_cues.losses(self.network, seen, batch, self.current_epoch)
        self._descend(last, learner)

        terms |= more | last
        total = torch.stack([term.detach() for term in terms.values()]).sum()
        apart = torch.pdist(self.centers.detach()).mean() / self.centers.shape[1] ** 0.5  # 0: prototypes collapsed
        figures |= hidden | {name: term.detach() for name, term in terms.items()}
        figures |= {"loss": total, "prototype_distance": apart}
        logged = {f"train/{name}": value for name, value in figures.items()}
        self.log_dict(logged, batch_size=len(batch), on_step=False, on_epoch=True)
        for rates in cast(list[Any], self.lr_schedulers()):
            rates.step()

    def _labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B,) expressions, and (B,) strata with `NOT_LABELLED` where unknown."""
        emotions, classes = batch.labels.expression, len(self.schema.expressions)
        if batch.images is None or emotions is None or bool((emotions == NOT_LABELLED).any()):
            raise HonneError(
                "method iern got a batch with faces that have no expression label.",
                "Leave them out, or prepare the data with labels.",
            )
        if bool(((emotions < 0) | (emotions >= classes)).any()):
            raise HonneError(f"a label of {int(emotions.max())} is out of range for {classes} expressions.")
        return emotions, self.stratum_of(batch)

    def _base(self, batch: Batch) -> Tensor:
        """f: base feature (B, channels, h, w)."""
        assert batch.images is not None
        return self.head.projection(self.network.maps(batch.images))

    def _discriminators(
        self, emotion: Tensor, context: Tensor, emotions: Tensor, strata: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L_D of features held fixed, and how often each discriminator finds its own."""
        of_emotion, of_context = self.emotion_discriminator(emotion), self.stratum_discriminator(context)
        terms = {
            "emotion_discriminator": known_cross_entropy(of_emotion, emotions) / 2,
            "stratum_discriminator": known_cross_entropy(of_context + self.stratum_of.of_strata(emotions), strata) / 2,
        }
        return terms, {
            "emotion_in_emotion": _found(of_emotion, emotions),
            "stratum_in_context": _found(of_context, strata),
        }

    def _features(
        self, base: Tensor, emotion: Tensor, context: Tensor, emotions: Tensor, strata: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """L_F of the base feature held fixed, and how often each discriminator finds what it should not."""
        of_emotion, of_context = self.stratum_discriminator(emotion), self.emotion_discriminator(context)
        weight, centers = self.options.center_weight, self.centers
        pull = center_loss(context, centers.detach(), strata)
        terms = {
            "emotion_encoder": confusion_loss(of_emotion) / 2,
            "context_encoder": confusion_loss(of_context) / 2,
            "prototypes": weight * pull,
            "reconstruction": F.mse_loss(self.head.decoder(emotion, context), base),
        }
        if centers.requires_grad:  # their own gradient does not depend on lambda; the value is in the sum already
            follow = center_loss(context.detach(), centers, strata)
            terms["prototypes"] = terms["prototypes"] + (follow - follow.detach())
        if self.options.encoder_cross_entropy:
            found = known_cross_entropy(self.emotion_discriminator(emotion), emotions)
            found = found + known_cross_entropy(self.stratum_discriminator(context), strata)
            terms["encoders"] = self.options.encoder_cross_entropy * found / 2
        return terms, {
            "stratum_in_emotion": _found(of_emotion, strata),
            "emotion_in_context": _found(of_context, emotions),
        }

    def _descend(self, terms: dict[str, Tensor], chosen: Any, again: bool = False) -> None:
        """One step of an optimiser along its own parameters' gradient of the sum of the terms.

        Args:
            terms: scalars.
            chosen: the optimiser.
            again: the graph is used once more, with the activations of before and the weights of after.

        Raises:
            HonneError: a term is not a number; nothing was changed then.
        """
        self.require_finite(terms)
        learned = [entry for group in chosen.param_groups for entry in group["params"]]
        total = torch.stack(list(terms.values())).sum()
        gradients = torch.autograd.grad(total, learned, retain_graph=again, allow_unused=True)
        for entry, gradient in zip(learned, gradients, strict=True):
            entry.grad = gradient
        mean_over_processes([entry.grad for entry in learned if entry.grad is not None])
        if self.optim.clip:
            nn.utils.clip_grad_norm_(learned, self.optim.clip)
        unseen = torch.autograd._unsafe_preserve_version_counter(tuple(learned)) if again else nullcontext()
        with unseen:  # as before PyTorch 1.5, whose optimisers changed weights without autograd's knowledge
            chosen.step()

    @torch.no_grad()
    def _renew_prototypes(self, context: Tensor, strata: Tensor) -> None:
        """M: the prototypes as their optimiser left them, or a step of the running mean."""
        if not self.centers.requires_grad:
            members = F.one_hot(strata.clamp_min(0), len(self.met)).to(context.dtype) * (strata >= 0)[:, None]
            total, count = members.T @ context.flatten(1), members.sum(0)
            mean_over_processes([total, count])
            here = count > 0
            mean = total[here] / count[here, None]
            momentum = torch.where(self.met[here], self.options.prototype_momentum, 1.0)[:, None]
            self.centers[here] = torch.lerp(self.centers[here], mean.to(self.centers), momentum)
            self.met |= here
        self.head.prototypes.copy_(self.centers.view_as(self.head.prototypes))


def _found(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of the rows with a label that are recognised."""
    known = labels >= 0
    return ((logits.argmax(1) == labels) & known).sum() / known.sum().clamp_min(1)


def _side(given: dict[str, Any], data: DataModule) -> list[int]:
    """(h, w) of the backbone's last map."""
    with torch.device("meta"):
        network = FaceNetwork(LabelSchema(), **given)
        return list(network.eval().maps(torch.empty(1, 3, data.size, data.size)).shape[2:])
