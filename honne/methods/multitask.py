"""Action units, expression, valence and arousal from data sets that label only one of them each.

A *teacher* T learns from the labels that there are. Then *students* s learn from the labels and from what the teacher
says of every image, for every task: of an image that is labelled for a task, label and teacher count 0.6 and 0.4, of
all others the teacher alone. A batch has a part for each task t, and

    teacher   L = sum over tasks t of  w_t L_t(y_t, T)                                        w = 1, 8, 1
    student   L = mean over parts t of [ 0.6 L_t(y_t, s) + 0.4 H_t(T, s) + sum over u other than t of H_u(T, s) ]

with L the cross-entropy of expressions, the binary cross-entropy of action units, and of valence and arousal each
1 - CCC plus the cross-entropy over their bins; H the divergence from the teacher's softened probabilities. For images
with several labels the mask is one per image and task. The model is the ensemble of the students.

Source: Deng, Chen, Shi, "Multitask Emotion Recognition with Incomplete Labels", FG 2020, arXiv 2002.03557. Where the
authors' code errs or does otherwise than one expects, an option names both ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch, Labels, Prediction
from honne.data.known import TASKS, Task
from honne.data.loading import DataModule
from honne.errors import HonneError, WrongCall
from honne.losses import action_unit_loss, binary_focal_loss, expression_loss
from honne.methods.base import Method
from honne.methods.confidence import CONFIDENCE, Confidence, class_similarity, store_confidence
from honne.methods.multitask_losses import affect_loss, distillation, expression_focal_loss
from honne.methods.processes import mean_over_processes
from honne.methods.stages import Stage
from honne.networks.clips import ClipNetwork
from honne.networks.stored import Stored


@dataclass
class MultitaskOptions:
    """Teacher and students from incomplete labels.

    Args:
        students: how many; the model is their ensemble. 0 = the teacher is the model.
        student_epochs: passes over the training split of each student; `trainer.epochs` are the teacher's.
        generations: 2 teaches another generation of students by the ensemble of the first, and so on.
        teacher: folder of a model that teaches, in place of one that is trained.
        teacher_kept: best: that of the best validation; last: that of the last epoch, as the authors' code did.
        temperature: of the teacher's and the student's probabilities in the divergences.
        teacher_weight: share of the teacher where there is a label, 0..1.
        expression_weight: of the teacher's loss.
        action_unit_weight: of the teacher's loss; 8 as published undoes the mean over 8 action units.
        valence_arousal_weight: of the teacher's loss.
        concordance_weight: of 1 - CCC beside the cross-entropy over bins.
        student_weights: equal, as published: students weigh the tasks alike; teacher: as the teacher does.
        distillation_scale: none, as published; squared multiplies the divergences by the squared temperature, which
            keeps their gradients' size (Hinton et al.).
        expression_loss: cross_entropy or focal (all classes, each against the rest).
        action_unit_loss: cross_entropy or focal.
        valence_arousal_loss: ccc_ce: 1 - CCC, and cross-entropy over the bins (squared error without bins); ccc: the
            first alone; ccc_focal: with the focal loss over the bins.
        uncertainty: pairwise: the expression logits of a labelled face are tempered by how much it sides with its
            label, as in method dmue; none: they are not.
        members: of the ensemble: students, or all, the teacher that was trained among them.
        average: what the ensemble takes the mean of.
        stage: set by the run itself: whole, teacher or student.
    """

    students: int = 5
    student_epochs: int = 3
    generations: int = 1
    teacher: Path | None = None
    teacher_kept: Literal["best", "last"] = "best"
    temperature: float = 1.5
    teacher_weight: float = 0.4
    expression_weight: float = 1.0
    action_unit_weight: float = 8.0
    valence_arousal_weight: float = 1.0
    concordance_weight: float = 1.0
    student_weights: Literal["equal", "teacher"] = "equal"
    distillation_scale: Literal["none", "squared"] = "none"
    expression_loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    action_unit_loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    valence_arousal_loss: Literal["ccc_ce", "ccc", "ccc_focal"] = "ccc_ce"
    uncertainty: Literal["none", "pairwise"] = "none"
    members: Literal["students", "all"] = "students"
    average: Literal["probabilities", "logits"] = "probabilities"
    stage: Literal["whole", "teacher", "student"] = "whole"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise WrongCall(f"multitask.temperature is {self.temperature}.", "It must be above 0.")
        if not 0 <= self.teacher_weight <= 1:
            raise WrongCall(f"multitask.teacher_weight is {self.teacher_weight}.", "It is a share: 0 to 1.")
        if self.students < 0 or self.generations < 1:
            raise WrongCall("multitask.students and multitask.generations count models.", "Give 0 or more, 1 or more.")
        if not self.students and self.teacher is not None:
            raise WrongCall(
                "multitask.students is 0 and a teacher is given: nothing to train.", "Leave one of the two out."
            )
        if self.members == "all" and self.teacher is not None and self.stage == "whole":
            raise WrongCall(
                "multitask.members all takes in the teacher that is trained, and one is given.", "Leave one of the two."
            )
        if self.stage == "student" and self.teacher is None:
            raise WrongCall("multitask.stage student needs a teacher.", "Leave the option out: runs set it themselves.")

    def weights(self) -> dict[str, float]:
        """Of the tasks, by the names of the loss's terms."""
        return {
            "expression": self.expression_weight,
            "action_units": self.action_unit_weight,
            "valence": self.valence_arousal_weight,
            "arousal": self.valence_arousal_weight,
        }


class Multitask(Method):
    """Teacher and students from incomplete labels; see the module's text.

    Args:
        options: `MultitaskOptions`.
        parts: of a batch, one for each task or only one; each is a pass of its own through the network, with BatchNorm
            statistics of its own, and its activations are let go before the next.
        shared: arguments of `Method`.
    """

    Options = MultitaskOptions
    windows = True
    automatic_optimization = False

    @classmethod
    def facts(cls, options: Any, data: DataModule) -> dict[str, Any]:
        """Parts of a batch."""
        return {"parts": data.parts}

    @classmethod
    def stages(cls, options: Any, seed: int) -> list[Stage]:
        """The teacher and the students of every generation, one after the other."""
        if options.stage != "whole":
            return []
        kept = {"trainer.monitor": "last"} if options.teacher_kept == "last" else {}
        found = [] if options.teacher else [Stage("teacher", {"multitask.stage": "teacher"} | kept, together="teacher")]
        taught = "" if options.teacher else "teacher"
        for generation in range(options.generations if options.students else 0):
            group = "students" if generation == 0 else f"students_{generation + 1}"
            for number in range(options.students):
                place = generation * options.students + number
                changes = {
                    "multitask.stage": "student",
                    "trainer.epochs": options.student_epochs,
                    "trainer.seed": seed + 1 + place,
                    "data.label_noise_seed": seed,
                }
                beside = "teacher" if options.members == "all" else ""
                found.append(Stage(f"student_{place}", changes, group, ("multitask.teacher", taught), beside))
            taught = group
        return found

    def __init__(self, options: MultitaskOptions, *, parts: int = 1, **shared: Any) -> None:
        super().__init__(**shared)
        if not (self.schema.expressions or self.schema.action_units or self.schema.valence_arousal):
            raise HonneError("method multitask found no label in these data.", "Choose other data or another method.")
        self.options, self.parts = options, parts
        self.teacher: list[nn.Module] = []  # in a list, so that it is no part of the model that is trained
        if options.stage == "student" and options.teacher is not None:
            stored = Stored.of(options.teacher, "multitask.teacher")
            stored.labels.require_same(self.schema, f"the teacher {options.teacher}", "the student")
            scale = [part.flatten().tolist() for part in (self.normalise.mean, self.normalise.std)]
            stored.require_input(*scale)
            self.teacher.append(stored.network())  # its temperature is not applied
            if isinstance(self.network, ClipNetwork) and self.network.frozen == "whole":
                _require_frames(self.teacher[0], self.network, options.teacher)
        self.confidence = Confidence(len(self.schema.expressions)) if options.uncertainty == "pairwise" else None
        if self.confidence is not None and not self.schema.expressions:
            raise WrongCall("multitask.uncertainty is of expressions, which these data do not have.", "Leave it out.")

    def configure_optimizers(self) -> Any:
        if self.trainer.precision == "16-mixed":
            raise WrongCall("method multitask goes backward for each task by itself.", "Take bf16-mixed.")
        return super().configure_optimizers()

    def on_fit_start(self) -> None:
        for teacher in self.teacher:
            teacher.to(self.device).to(memory_format=self.normalise.format)  # type: ignore[call-overload]

    def training_step(self, batch: Batch, step: int) -> None:  # type: ignore[override]
        chosen = cast(Any, self.optimizers())
        learned = [entry for group in chosen.param_groups for entry in group["params"]]
        chosen.zero_grad()  # frees the last step's gradients while activations take their room
        shares = [self.prepared(part) for part in batch.parts(self.parts)]
        weights = self._part_weights(shares)
        figures: dict[str, Tensor] = {}
        gradients: list[Tensor | None] = [None] * len(learned)
        for share, weight in zip(shares, weights, strict=True):
            terms = self.weighted(self.terms(share), weight)
            if not terms:
                continue
            self.require_finite(terms)
            total = torch.stack(list(terms.values())).sum()
            own = torch.autograd.grad(total, learned, allow_unused=True)
            gradients = [_sum(before, gradient) for before, gradient in zip(gradients, own, strict=True)]
            for name, value in terms.items():
                figures[name] = figures.get(name, torch.zeros_like(value)) + value.detach()
        for entry, gradient in zip(learned, gradients, strict=True):
            nowhere = torch.zeros_like(entry) if self.trainer.world_size > 1 else None  # elsewhere it may have one
            entry.grad = nowhere if gradient is None else gradient
        mean_over_processes([entry.grad for entry in learned if entry.grad is not None])
        if self.optim.clip:
            nn.utils.clip_grad_norm_(learned, self.optim.clip)
        chosen.step()
        cast(Any, self.lr_schedulers()).step()
        figures["loss"] = torch.stack(list(figures.values())).sum()
        logged = {f"train/{name}": value for name, value in figures.items()}
        self.log_dict(logged, batch_size=len(batch), on_step=False, on_epoch=True)

    def weighted(self, terms: dict[str, Tensor], weights: dict[Task, float]) -> dict[str, Tensor]:
        """Terms of a part by the weight of their tasks, without those that nothing can be learned from.

        What goes with the expressions (attention, confidence) counts where they do.
        """
        found = {name: weights[TASK_OF.get(name, "expression")] * value for name, value in terms.items()}
        return {name: value for name, value in found.items() if value.requires_grad}

    def _part_weights(self, shares: list[Batch]) -> list[dict[Task, float]]:
        """Weight of each task in each part: of the teacher, the mean over the parts that have its labels.

        Raises:
            HonneError: nothing in the batch has a label that the teacher could learn from.
        """
        if self.teacher:
            return [dict.fromkeys(TASKS, 1 / len(shares))] * len(shares)
        having = [_tasks(share.labels) for share in shares]
        if not any(having):
            raise HonneError("method multitask got a batch without any label.", "Leave rows without labels out.")
        counts = {task: sum(task in some for some in having) for task in TASKS}
        return [{task: (task in some) / max(counts[task], 1) for task in TASKS} for some in having]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Terms of one part, before the mean over parts: of the labels, and of a student those of the teacher too."""
        options, prediction = self.options, _single(self.network(batch))
        supervised = self.supervised(prediction, batch.labels)
        if not self.teacher:
            own = options.weights()
            return {name: own.get(name, 1.0) * value for name, value in supervised.items()}
        with torch.no_grad():
            teacher = _single(self.teacher[0](batch))
        taught = distillation(prediction, teacher, batch.labels, options.temperature, options.teacher_weight)
        own = options.weights() if options.student_weights == "teacher" else {}
        scale = options.temperature**2 if options.distillation_scale == "squared" else 1.0
        terms = {
            name: own.get(name, 1.0) * value * (1.0 if name == "action_units" else scale)
            for name, value in taught.items()
        }
        for name, value in supervised.items():
            share = own.get(name, 1.0) * (1 - options.teacher_weight) * value
            terms[name] = terms[name] + share if name in terms else share
        return terms

    def supervised(self, prediction: Prediction, labels: Labels) -> dict[str, Tensor]:
        """L_t for every task that any row is labelled with: expression, action_units, valence, arousal."""
        options, terms, having = self.options, {}, _tasks(labels)
        if prediction.expression is not None and "expression" in having:
            target = labels.expression_target(prediction.expression.shape[1])
            assert target is not None
            logits = prediction.expression
            if self.confidence is not None:
                logits, terms["confidence"] = self._tempered(logits, prediction, labels)
            focal = options.expression_loss == "focal"
            terms["expression"] = expression_focal_loss(logits, target) if focal else expression_loss(logits, target)
        if prediction.action_units is not None and labels.action_units is not None and "action_units" in having:
            logits, coded = prediction.action_units, labels.action_units
            if options.action_unit_loss == "focal":
                terms["action_units"] = binary_focal_loss(F.logsigmoid(logits), F.logsigmoid(-logits), coded)
            else:
                terms["action_units"] = action_unit_loss(logits, coded)
        if (
            prediction.valence_arousal is not None
            and labels.valence_arousal is not None
            and "valence_arousal" in having
        ):
            kind, weight = options.valence_arousal_loss, options.concordance_weight
            values, bins = prediction.valence_arousal, prediction.valence_arousal_bins
            each = affect_loss(values, bins, labels.valence_arousal, kind, weight)
            terms |= {"valence": each[0], "arousal": each[1]}
        return terms

    def finish(self, run: Path) -> None:
        """`confidence.safetensors`, where there is one, for `honne audit`."""
        if self.confidence is not None:
            store_confidence(self.confidence, run / CONFIDENCE)

    def _tempered(self, logits: Tensor, prediction: Prediction, labels: Labels) -> tuple[Tensor, Tensor]:
        """Logits times the confidence of the faces that have an expression label, and the price of doubting them."""
        assert self.confidence is not None
        assert labels.expression is not None
        assert prediction.features is not None
        known = labels.expression != NOT_LABELLED
        score = logits.new_ones(len(logits))
        classes, own = logits.shape[1], labels.expression[known]
        found = self.confidence(class_similarity(prediction.features[known], own, classes), own)
        score[known] = found
        return logits * score[:, None], PRIOR * -found.log().sum() / max(len(found), 1)


TASK_OF: dict[str, Task] = {"action_units": "action_units", "valence": "valence_arousal", "arousal": "valence_arousal"}
"""Of the loss's terms; all others are the expressions'."""
PRIOR = 0.5
"""Weight of -log s, without which doubt is free (`dmue.confidence_prior`)."""


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other


def _tasks(labels: Labels) -> set[str]:
    """Tasks that any row is labelled with."""
    found = {
        "expression": labels.expression is not None and bool((labels.expression != NOT_LABELLED).any()),
        "action_units": labels.action_units is not None and not bool(labels.action_units.isnan().all()),
        "valence_arousal": labels.valence_arousal is not None and not bool(labels.valence_arousal.isnan().all()),
    }
    if labels.distribution is not None:
        found["expression"] |= not bool(labels.distribution.isnan().all())
    return {task for task, some in found.items() if some}


def _require_frames(teacher: nn.Module, student: ClipNetwork, folder: Path) -> None:
    """Refuse a teacher that cannot be told the features that frozen frames give the student.

    Raises:
        HonneError: it has no network of frames, or another one.
    """
    hint = "Give a teacher that was trained with the same --model.frames, or leave it out."
    if not isinstance(frames := getattr(teacher, "frames", None), nn.Module) or student.frames is None:
        raise HonneError(f"the teacher {folder} looks at images, and the students at features of frames.", hint)
    one, other = frames.state_dict(), student.frames.state_dict()
    if one.keys() != other.keys() or not all(torch.equal(value, other[name]) for name, value in one.items()):
        raise HonneError(f"the teacher {folder} looks at frames with another network than the students.", hint)


def _single(prediction: Prediction) -> Prediction:
    """In single precision: losses are not taken in half."""
    return cast(Prediction, prediction.to(torch.float32))
