"""Face pre-training: margin heads, verification, a run end to end, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import honne
from honne.batch import NOT_LABELLED, Batch, Prediction
from honne.data.known import known
from honne.data.manifest import PreparedData, write_manifest
from honne.data.transforms import Normalise
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.methods.identity import PUBLISHED, Identity, IdentityOptions, cosines
from honne.metrics.verification import verification
from honne.networks import build
from honne.schedules import OptimOptions

NETWORK: dict[str, Any] = {
    "backbone": "face_resnet",
    "backbone_options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
}
SMALL: dict[str, Any] = {f"model.{name}": value for name, value in NETWORK.items()} | {
    "data.size": 32,
    "data.centre": 1.0,
    "data.batch_size": 16,
    "data.workers": 0,
    "trainer.epochs": 2,
    "trainer.accelerator": "cpu",
}


def new_method(places: list[int], options: IdentityOptions | None = None) -> Identity:
    torch.manual_seed(0)
    return Identity(
        options or IdentityOptions(),
        places=torch.tensor(places),
        network=build("face", NETWORK, LabelSchema()),
        schema=LabelSchema(),
        normalise=Normalise([0.5] * 3, [0.5] * 3),
        optim=OptimOptions(),
    )


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    world = World(n=120, size=32, seed=3, subjects=8, valid_share=0.25, test_share=0.0)
    return make_world(tmp_path_factory.mktemp("people") / "data", world)


# --- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        IdentityOptions("mv_softmax", mode="am", margin=0.0, mask=1.0),
        IdentityOptions("mv_softmax", mode="arc", margin=0.0, mask=1.0),
        IdentityOptions("arcface", margin=0.0),
        IdentityOptions("arcface", mode="easy", margin=0.0),
        IdentityOptions("cosface", margin=0.0),
    ],
    ids=str,
)
def test_no_margin_is_a_softmax_of_cosines(options: IdentityOptions) -> None:
    cosine = torch.rand(6, 5) * 2 - 1
    logits = options.logits(cosine, torch.arange(6) % 5)
    torch.testing.assert_close(logits, PUBLISHED[options.head]["scale"] * cosine)


@pytest.mark.parametrize("head", PUBLISHED)
@pytest.mark.parametrize("features", ["normalised", "as_they_are"])
def test_gradients_are_right_and_finite(head: Any, features: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
    labels, options = torch.tensor([0, 1, 2, 1]), IdentityOptions(head, scale=2.0)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        unit = torch.nn.functional.normalize(rows) @ torch.nn.functional.normalize(weight, dim=0)
        return torch.nn.functional.cross_entropy(options.logits(unit, labels), labels)

    assert torch.autograd.gradcheck(loss, (rows,))
    same = torch.nn.functional.normalize(weight.float(), dim=0).mT[labels].requires_grad_()  # cosine 1: no slope there
    torch.nn.functional.cross_entropy(options.logits(cosines(same, weight, features), labels), labels).backward()
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_a_margin_makes_the_right_identity_harder() -> None:
    cosine, labels = torch.tensor([[0.8, 0.1, 0.6]]), torch.tensor([0])
    published = {head: IdentityOptions(head).logits(cosine, labels)[0] for head in PUBLISHED}  # type: ignore[arg-type]
    torch.testing.assert_close(published["cosface"], 30 * torch.tensor([0.45, 0.1, 0.6]))
    torch.testing.assert_close(published["arcface"], 64 * torch.tensor([math.cos(math.acos(0.8) + 0.5), 0.1, 0.6]))
    # 0.6 comes within the margin, 0.1 does not
    torch.testing.assert_close(published["mv_softmax"], 32 * torch.tensor([0.45, 0.1, 1.12 * 0.6 + 0.12]))


def test_options_that_do_not_go_together() -> None:
    with pytest.raises(WrongCall, match="easy does not go with mv_softmax"):
        IdentityOptions(mode="easy")
    with pytest.raises(WrongCall, match="mask does not go with cosface"):
        IdentityOptions("cosface", mask=1.1)
    with pytest.raises(WrongCall, match="scale is 0"):
        IdentityOptions(scale=0)


# --- verification ------------------------------------------------------------------------------------------------


def test_verification_agrees_with_counting_pairs() -> None:
    generator = torch.Generator().manual_seed(2)
    subjects = torch.arange(1100) % 9  # more than one block
    features = torch.randn(9, 6, generator=generator)[subjects] + torch.randn(1100, 6, generator=generator)
    found = verification(features, subjects)
    unit = torch.nn.functional.normalize(features)
    left, right = torch.triu_indices(1100, 1100, 1)
    cosine, same = (unit[left] * unit[right]).sum(1), subjects[left] == subjects[right]
    ranks = torch.empty(len(cosine), dtype=torch.float64)
    ranks[cosine.argsort()] = torch.arange(1, len(cosine) + 1, dtype=torch.float64)
    auc = (ranks[same].sum() - same.sum() * (same.sum() + 1) / 2) / (same.sum() * (~same).sum())
    assert (found.same, found.different) == (int(same.sum()), int((~same).sum()))
    assert found.auc == pytest.approx(float(auc), abs=2e-4)
    steps = torch.linspace(-1, 1, 401)
    accepted = 1 - torch.searchsorted(cosine[~same].sort().values, steps, right=True) / int((~same).sum())
    both = torch.stack([accepted, torch.searchsorted(cosine[same].sort().values, steps, right=True) / int(same.sum())])
    assert found.accuracy == pytest.approx(1 - float(both.mean(0).min()), abs=2e-3)
    assert found.eer == pytest.approx(float(both.max(0).values.min()), abs=5e-3)


def test_verification_says_what_is_missing() -> None:
    with pytest.raises(HonneError, match="0 pairs of one person and 3 of two"):
        verification(torch.eye(3), torch.arange(3))
    with pytest.raises(HonneError, match="1 of 3 faces are not finite"):
        verification(torch.tensor([[1.0, 0], [0, math.nan], [1, 1]]), torch.zeros(3))


# --- the method --------------------------------------------------------------------------------------------------


def test_rows_without_a_subject_and_subjects_of_other_splits_do_not_count() -> None:
    method = new_method([0, NOT_LABELLED, 1])
    images = torch.randn(4, 3, 32, 32)
    method.eval()
    some = method.loss(Batch(images=images, subject=torch.tensor([0, NOT_LABELLED, 1, 2])))
    rest = method.loss(Batch(images=images[[0, 3]], subject=torch.tensor([0, 2])))
    torch.testing.assert_close(some, rest)


def test_bad_batches_are_refused() -> None:
    method = new_method([0, 1])
    images = torch.randn(4, 3, 32, 32)
    for subject in (None, torch.full((4,), NOT_LABELLED)):
        with pytest.raises(HonneError, match="a batch without subjects"):
            method.loss(Batch(images=images, subject=subject))
    with pytest.raises(HonneError, match="the loss is nan at step 0"):
        method.loss(Batch(images=images * math.nan, subject=torch.tensor([0, 1, 0, 1])))
    with pytest.raises(HonneError, match="not finite"):
        method.scores(Prediction(features=torch.full((4, 2), math.nan)), Batch(subject=torch.tensor([0, 0, 1, 1])))


def changed(data: PreparedData, root: Path, **columns: Any) -> Path:
    """The same data with some columns replaced (dropped for None)."""
    rows = data.rows.copy()
    for name, value in columns.items():
        rows = rows.drop(columns=name) if value is None else rows.assign(**{name: value})
    write_manifest(root, rows, replace(data.schema))
    (root / "images").symlink_to(data.root / "images")
    return root


def test_data_that_show_no_people_or_one_are_refused(people: PreparedData, tmp_path: Path) -> None:
    train = people.rows["split"] == "train"
    for root, sentence in (
        (changed(people, tmp_path / "none", subject=None), "no training row names its subject"),
        (
            changed(people, tmp_path / "one", subject=people.rows["subject"].mask(train, "only")),
            "all training rows show one subject, only",
        ),
        (
            changed(people, tmp_path / "lone", subject=people.rows["subject"].mask(~train, "lone")),
            "show 1 subjects",
        ),
    ):
        with pytest.raises(HonneError, match=sentence):
            honne.train("dmue/pretrain_resnet18", data=root, out=tmp_path / "run" / root.name, overrides=SMALL)


def test_people_of_two_data_sets_are_two(people: PreparedData) -> None:
    one, two = known([people]), known([people, people])
    assert one.subject is not None
    assert two.subject is not None
    assert len(two.subjects) == 2 * len(one.subjects) == 16
    assert not np.intersect1d(two.subject[: len(people)], two.subject[len(people) :]).size


def test_a_trunk_is_trained_refuses_to_be_evaluated_and_can_be_loaded(people: PreparedData, tmp_path: Path) -> None:
    folder = honne.train("dmue/pretrain_resnet18", data=people.root, out=tmp_path / "trunk", overrides=SMALL)
    trunk = honne.load(folder)
    assert trunk.schema == LabelSchema()
    assert 0.5 < trunk.config.training["verification"]["auc"] <= 1
    assert "names no expression" in (folder / "card.md").read_text(encoding="utf-8")
    with pytest.raises(HonneError, match="names no expression") as refused:
        honne.evaluate(folder, people.root, split="valid")
    assert "--model.weights" in refused.value.hint
    with pytest.raises(HonneError, match="names no expression"):
        trunk.analyze(tmp_path / "any.jpg", out=tmp_path / "table")
    options = SMALL | {"model.weights": str(folder), "optim.lr": 0.0, "trainer.epochs": 1, "optim.weight_decay": 0.0}
    model = honne.load(honne.train("erm", data=people.root, out=tmp_path / "erm", overrides=options))
    learned = dict(trunk.network.named_parameters())
    for name, value in model.network.named_parameters():
        if name.startswith("backbone."):
            torch.testing.assert_close(value, learned[name])
