"""Method multitask beside its recordings: masks, what cannot be learned from, one step, and the teacher's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from honne.batch import NOT_LABELLED, Batch, Labels, Prediction
from honne.data.loading import lightning
from honne.data.transforms import Normalise
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.multitask import Multitask, MultitaskOptions, affect_loss, distillation
from honne.models import Model, ModelConfig
from honne.networks import build
from honne.schedules import OptimOptions

pytestmark = pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no")
SCHEMA = LabelSchema(("neutral", "happiness", "surprise"), (1, 12), True)
FACE: dict[str, Any] = {
    "backbone": "face_resnet",
    "backbone_options": {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4},
    "hidden": 6,
    "valence_arousal_bins": 5,
}
MEAN, STD = [0.5] * 3, [0.25] * 3
NAN = float("nan")


def network(kind: str = "face", seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    made = build(kind, (FACE if kind == "face" else {}) | options, SCHEMA)
    for name, value in made.state_dict().items():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    return made


def store(folder: Path, made: nn.Module, kind: str, options: dict[str, Any], schema: LabelSchema = SCHEMA) -> Path:
    config = ModelConfig(folder.name, "multitask", {"kind": kind, "options": options}, schema, MEAN, STD, {})
    Model(config, made).save(folder, metrics={}, card="")
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store(tmp_path_factory.mktemp("taught") / "teacher", network(seed=3), "face", FACE)


def new_method(teacher: Path | None = None, parts: int = 1, made: nn.Module | None = None, **options: Any) -> Multitask:
    if teacher is not None:
        options |= {"teacher": teacher, "stage": "student"}
    return Multitask(
        MultitaskOptions(**options),
        parts=parts,
        network=network() if made is None else made,
        schema=SCHEMA,
        normalise=Normalise(MEAN, STD),
        optim=OptimOptions("sgd", lr=0.1, schedule="constant", warmup=0, clip=0, weight_decay=0),
    )


def labels(rows: int = 6, seed: int = 1) -> Labels:
    """Of all tasks."""
    random = torch.Generator().manual_seed(seed)
    return Labels(
        expression=torch.arange(rows) % 3,
        action_units=torch.randint(2, (rows, 2), generator=random).float(),
        valence_arousal=torch.rand(rows, 2, generator=random) * 2 - 1,
    )


def only(task: str, rows: int = 4, seed: int = 1) -> Labels:
    """Of one task; the others are there, but unknown."""
    own = labels(rows, seed)
    return Labels(
        expression=own.expression if task == "expression" else torch.full((rows,), NOT_LABELLED),
        action_units=own.action_units if task == "action_units" else torch.full((rows, 2), NAN),
        valence_arousal=own.valence_arousal if task == "valence_arousal" else torch.full((rows, 2), NAN),
    )


def batch(shown: Labels, seed: int = 2) -> Batch:
    count = len(shown.expression)  # type: ignore[arg-type]
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Batch(images=images, labels=shown, index=torch.arange(count))


def side_by_side(rows: int = 4) -> Batch:
    """A batch of three parts, one of each task."""
    parts = [only(task, rows, seed) for seed, task in enumerate(("expression", "action_units", "valence_arousal"))]
    joined = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("expression", "action_units", "valence_arousal")
    }
    return batch(Labels(**joined))


def fit(method: Multitask, *batches: Batch, **options: Any) -> dict[str, Tensor]:
    """One epoch over batches; figures of the first step."""
    figures: list[dict[str, Tensor]] = []
    method.log_dict = lambda values, **_: figures.append(values)  # type: ignore[method-assign]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        **options,
    )
    trainer.fit(method, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    return {name.removeprefix("train/"): value for name, value in figures[0].items()}


# --- losses ------------------------------------------------------------------------------------------------------


def test_student_loss_of_rows_with_several_labels_by_hand(teacher: Path) -> None:
    """Row 0 has all labels, row 1 an expression and one unit, row 2 arousal, the others nothing."""
    method = new_method(teacher).eval()
    shown = batch(
        Labels(
            expression=torch.tensor([2, 0, -1, -1, -1]),
            action_units=torch.tensor([[1, 0], [NAN, 1], [NAN, NAN], [NAN, NAN], [NAN, NAN]]),
            valence_arousal=torch.tensor([[0.3, -0.7], [NAN, NAN], [NAN, 0.5], [NAN, NAN], [NAN, NAN]]),
        )
    )
    shown = method.prepared(shown)
    with torch.no_grad():
        s, t, found = method.network(shown), method.teacher[0](shown), method.loss(shown)

    def kl(student: Tensor, taught: Tensor) -> Tensor:
        p, q = (taught / 1.5).softmax(-1), (student / 1.5).softmax(-1)
        return (p * (p / q).log()).sum(-1)

    share = torch.tensor([0.4, 0.4, 1, 1, 1])
    expression = (share * kl(s.expression, t.expression)).mean()
    expression += 0.6 * F.cross_entropy(s.expression[:2], torch.tensor([2, 0]))
    torch.testing.assert_close(found["expression"], expression)

    q, p = s.action_units.sigmoid(), t.action_units.sigmoid()
    known = torch.tensor([[1.0, 1], [0, 1], [0, 0], [0, 0], [0, 0]])
    units = (-(p * q.log() + (1 - p) * (1 - q).log()) * (1 - 0.6 * known)).mean()
    units += 0.6 * F.binary_cross_entropy(q[[0, 0, 1], [0, 1, 1]], torch.tensor([1.0, 0, 1]))
    torch.testing.assert_close(found["action_units"], units)

    bins, goal = s.valence_arousal_bins, t.valence_arousal_bins
    valence = (torch.tensor([0.4, 1, 1, 1, 1]) * kl(bins[:, 0], goal[:, 0])).mean()
    valence += 0.6 * F.cross_entropy(bins[:1, 0], torch.tensor([3]))  # one row has no CCC; 0.3 is in [0.2, 0.6)
    torch.testing.assert_close(found["valence"], valence)
    arousal = (torch.tensor([0.4, 1, 0.4, 1, 1]) * kl(bins[:, 1], goal[:, 1])).mean()
    x, y = s.valence_arousal[[0, 2], 1], torch.tensor([-0.7, 0.5])
    covariance = ((x - x.mean()) * (y - y.mean())).sum()
    ccc = 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    arousal += 0.6 * (1 - ccc + F.cross_entropy(bins[[0, 2], 1], torch.tensor([0, 3])))
    torch.testing.assert_close(found["arousal"], arousal)


def test_masks_of_one_task_are_the_tasks_own_loss(teacher: Path) -> None:
    method = new_method(teacher).eval()
    for task in ("expression", "action_units", "valence_arousal"):
        masked = batch(only(task))
        bare = replace(masked, labels=Labels(**{task: getattr(masked.labels, task)}))
        with torch.no_grad():
            one, other = (method.loss(method.prepared(each)) for each in (masked, bare))
        assert one.keys() == other.keys() == {"expression", "action_units", "valence", "arousal"}
        for name, value in one.items():
            torch.testing.assert_close(value, other[name])
        alone = new_method().eval().loss(method.prepared(masked))
        assert set(alone) == ({"valence", "arousal"} if task == "valence_arousal" else {task})


@pytest.mark.parametrize("kind", ["ccc_ce", "ccc", "ccc_focal"])
@pytest.mark.parametrize("bins", [0, 4])
def test_affect_loss_stands_few_rows_and_constants(kind: str, bins: int) -> None:
    for target in (
        torch.full((3, 2), NAN),
        torch.tensor([[0.5, NAN], [NAN, NAN], [NAN, -1.0]]),
        torch.full((3, 2), 0.25),
        torch.tensor([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]]),
    ):
        logits = torch.zeros(3, 2, bins, requires_grad=True)
        values = torch.zeros(3, 2, requires_grad=True)
        loss = affect_loss(values, logits if bins else None, target, kind)
        assert loss.isfinite().all()
        loss.sum().backward()
        assert values.grad is not None
        assert values.grad.isfinite().all()
        assert logits.grad is None or logits.grad.isfinite().all()
        if target.isnan().all():
            assert loss.tolist() == [0, 0]


def test_nan_is_no_agreement() -> None:
    """With CCC alone a value that is not a number has to show in the loss, not be skipped as constant."""
    values = torch.tensor([[NAN, 0.1], [0.2, 0.3], [0.4, 0.5]])
    found = affect_loss(values, None, torch.tensor([[0.1, 0.1], [0.3, 0.4], [0.5, 0.6]]), "ccc")
    assert found.isnan().tolist() == [True, False]


def test_options_of_the_losses(teacher: Path) -> None:
    shown = batch(labels())
    plain = {
        name: value.detach() for name, value in new_method(teacher).eval().loss(new_method().prepared(shown)).items()
    }
    for options, changed in (
        ({"expression_loss": "focal"}, {"expression"}),
        ({"action_unit_loss": "focal"}, {"action_units"}),
        ({"valence_arousal_loss": "ccc"}, {"valence", "arousal"}),
        ({"valence_arousal_loss": "ccc_focal"}, {"valence", "arousal"}),
        ({"concordance_weight": 2.0}, {"valence", "arousal"}),
        ({"student_weights": "teacher"}, {"action_units"}),
        ({"distillation_scale": "squared"}, {"expression", "valence", "arousal"}),
        ({"temperature": 3.0}, {"expression", "valence", "arousal"}),
        ({"teacher_weight": 1.0}, set(plain)),
    ):
        method = new_method(teacher, **options).eval()
        found = method.loss(method.prepared(shown))
        assert {name for name, value in found.items() if not torch.allclose(value, plain[name])} == changed, options
    method = new_method(teacher, uncertainty="pairwise")
    assert method.loss(method.prepared(shown))["confidence"] > 0
    method.loss(method.prepared(shown))["expression"].backward()
    assert method.confidence is not None
    assert all(value.grad is not None for value in method.confidence.parameters())


def test_without_bins_it_is_regression(tmp_path: Path) -> None:
    options = FACE | {"valence_arousal_bins": 0}
    folder = store(tmp_path / "teacher", network(seed=3, valence_arousal_bins=0), "face", options)
    for given in (None, folder):
        method = new_method(given, made=network(valence_arousal_bins=0), parts=3)
        figures = fit(method, side_by_side(), side_by_side())
        assert all(value.isfinite() for value in figures.values())
        assert figures["valence"] > 0
    student, taught = torch.tensor([[0.5, -0.5]]), torch.tensor([[0.25, 0.0]])
    found = distillation(Prediction(valence_arousal=student), Prediction(valence_arousal=taught), Labels())
    assert [float(found["valence"]), float(found["arousal"])] == pytest.approx([0.0625, 0.25])


# --- one step ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taught", [False, True])
def test_a_step_by_parts_is_the_step_of_the_sum(taught: bool, teacher: Path) -> None:
    """One graph over all parts, each a pass of its own through BatchNorm, gives the same gradients (Nesterov: 1.9)."""
    shown = side_by_side()
    method = new_method(teacher if taught else None, parts=3)
    before = {name: value.clone() for name, value in method.network.state_dict().items()}
    figures = fit(method, shown)

    whole = new_method(teacher if taught else None, parts=3).train()
    whole.network.load_state_dict(before)
    weights = whole.options.weights()
    total = torch.zeros(())
    for part in shown.parts(3):
        terms = whole.loss(whole.prepared(part))
        total = total + torch.stack(list(terms.values())).sum() / (3 if taught else 1)
    assert weights["action_units"] == 8
    torch.testing.assert_close(figures["loss"], total.detach())
    total.backward()
    for (name, after), start in zip(method.network.named_parameters(), whole.network.parameters(), strict=True):
        gradient = torch.zeros_like(start) if start.grad is None else start.grad
        torch.testing.assert_close(after.detach(), start.detach() - 0.19 * gradient, msg=name)
    states = method.network.state_dict(), whole.network.state_dict()
    for name, value in states[0].items():
        if "running" in name:
            torch.testing.assert_close(value, states[1][name], msg=name)


def test_the_teacher_is_no_part_of_the_student(teacher: Path) -> None:
    method = new_method(teacher, parts=3)
    names = set(method.state_dict())
    assert names == {f"network.{name}" for name in method.network.state_dict()}
    taught = method.teacher[0]
    before = {name: value.clone() for name, value in taught.state_dict().items()}
    fit(method, side_by_side(), side_by_side())
    assert not taught.training
    assert not any(value.requires_grad for value in taught.parameters())
    assert all(torch.equal(value, before[name]) for name, value in taught.state_dict().items())
    assert set(method.state_dict()) == names


def test_half_precision_and_what_cannot_be_combined(teacher: Path) -> None:
    figures = fit(new_method(teacher, parts=3), side_by_side(), precision="bf16-mixed")
    exact = fit(new_method(teacher, parts=3), side_by_side())
    for name, value in exact.items():
        assert figures[name].dtype == torch.float32
        assert float(figures[name]) == pytest.approx(float(value), rel=0.05)
    method = new_method()
    method.trainer = SimpleNamespace(precision="16-mixed")  # type: ignore[assignment]
    with pytest.raises(WrongCall, match="goes backward for each task by itself"):
        method.configure_optimizers()


def test_a_batch_with_some_tasks_only(teacher: Path) -> None:
    """A part without labels is left out for the teacher, and learned from the teacher for a student."""
    rows = torch.full((8,), NOT_LABELLED)
    rows[:4] = torch.arange(4) % 3
    shown = batch(Labels(rows, action_units=torch.full((8, 2), NAN), valence_arousal=torch.full((8, 2), NAN)))
    figures = fit(new_method(parts=2), shown)
    assert set(figures) == {"expression", "loss"}
    assert set(fit(new_method(teacher, parts=2), shown)) == {"expression", "action_units", "valence", "arousal", "loss"}


# --- what does not fit -------------------------------------------------------------------------------------------


def test_a_batch_it_cannot_learn_from_is_one_sentence_and_changes_nothing(teacher: Path) -> None:
    none = Labels(torch.full((6,), NOT_LABELLED), None, torch.full((6, 2), NAN), None, torch.full((6, 2), NAN))
    beyond = labels()
    assert beyond.valence_arousal is not None
    beyond.valence_arousal[2, 1] = 1.5

    class Blind(Normalise):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * NAN

    cases: tuple[tuple[Labels, bool, dict[str, Any], str], ...] = (
        (none, False, {}, "batch without any label"),
        (beyond, False, {}, "1.5 is not between -1 and 1"),
        (labels(), True, {}, "is not a number"),
        (only("valence_arousal"), True, {"valence_arousal_loss": "ccc"}, "is not a number"),
    )
    for shown, blind, options, words in cases:
        method = new_method(**options)
        if blind:
            method.normalise = Blind(MEAN, STD)
        before = [value.clone() for value in method.parameters()]
        with pytest.raises(HonneError, match=words):
            fit(method, batch(shown))
        assert all(torch.equal(value, start) for value, start in zip(method.parameters(), before, strict=True))
    for bins in (0, 5):
        method = new_method(made=network(valence_arousal_bins=bins), valence_arousal_loss="ccc")
        with pytest.raises(HonneError, match="5 is not between -1 and 1"):
            fit(method, batch(beyond))


def test_a_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    other = LabelSchema(SCHEMA.expressions[::-1], SCHEMA.action_units, True)
    turned = store(tmp_path / "turned", build("face", FACE, other), "face", FACE, other)
    with pytest.raises(HonneError, match="different label schemas"):
        new_method(turned)
    folder = store(tmp_path / "broken", network(), "face", FACE | {"hidden": 7})
    with pytest.raises(HonneError, match="do not fit the network"):
        new_method(folder)
    with pytest.raises(HonneError, match="not the folder of a model"):
        new_method(tmp_path)
    method = new_method()
    method.normalise = Normalise([0.4] * 3, STD)
    config = store(tmp_path / "teacher", network(), "face", FACE)
    with pytest.raises(HonneError, match="another mean and std"):
        Multitask(
            MultitaskOptions(teacher=config, stage="student"),
            network=network(),
            schema=SCHEMA,
            normalise=method.normalise,
            optim=OptimOptions(),
        )


def test_options_that_make_no_sense_are_refused() -> None:
    for options, words in (
        ({"temperature": 0.0}, "temperature is 0"),
        ({"teacher_weight": 1.5}, "teacher_weight is 1.5"),
        ({"students": -1}, "count models"),
        ({"generations": 0}, "count models"),
        ({"stage": "student"}, "needs a teacher"),
        ({"students": 0, "teacher": Path("run")}, "nothing to train"),
    ):
        with pytest.raises(WrongCall, match=words):
            MultitaskOptions(**options)


def test_stages() -> None:
    def names(**options: Any) -> list[tuple[str, str]]:
        return [(stage.name, stage.takes[1]) for stage in Multitask.stages(MultitaskOptions(**options), 7)]

    assert names(students=0) == [("teacher", "")]
    assert names(students=1, teacher=Path("t")) == [("student_0", "")]
    taught = [("student_0", "teacher"), ("student_1", "teacher"), ("student_2", "students"), ("student_3", "students")]
    assert names(students=2, generations=2) == [("teacher", ""), *taught]
    seeds = [stage.changes.get("trainer.seed") for stage in Multitask.stages(MultitaskOptions(students=2), 7)]
    assert seeds == [None, 8, 9]
    last = Multitask.stages(MultitaskOptions(teacher_kept="last"), 7)
    assert last[0].changes["trainer.monitor"] == "last"
    assert "trainer.monitor" not in last[1].changes
