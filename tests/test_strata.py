"""Strata of training rows, and logit adjustment by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.loading import DataModule
from honne.data.manifest import PreparedData, write_manifest
from honne.data.transforms import Normalise
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.methods.erm import Erm, ErmOptions
from honne.methods.strata import Strata, StratumOf
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions

PAIRS = torch.tensor([[6.0, 0.0, 2.0], [1.0, 5.0, 6.0]])  # 2 expressions, 3 strata


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    out = tmp_path_factory.mktemp("strata") / "world"
    return make_world(out, World(n=60, size=32, domains=3, bias=1.0, pattern="latin", subjects=9, labels="expression"))


def rewritten(data: PreparedData, out: Path, **columns: object) -> PreparedData:
    out.mkdir()
    (out / "images").symlink_to(data.root / "images")
    write_manifest(out, data.rows.assign(**columns), data.schema)
    return PreparedData(out)


def test_strata_are_those_of_the_training_rows(world: PreparedData, tmp_path: Path) -> None:
    rows = world.rows
    only_tested = rows["domain"].where(rows["split"] == "train", "elsewhere")
    data = rewritten(world, tmp_path / "data", domain=only_tested)
    strata = Strata.of(DataModule(data, size=32))
    training = rows[rows["split"] == "train"]
    assert strata.names == tuple(sorted(training["domain"].unique()))
    assert strata.places.tolist() == [0, NOT_LABELLED, 1, 2]  # cold, elsewhere, studio, warm
    counted = training.groupby(["expression", "domain"]).size().unstack(fill_value=0)
    np.testing.assert_array_equal(strata.pairs, counted.loc[list(world.schema.labels.expressions), list(strata.names)])
    assert strata.frequency() == pytest.approx((training["domain"].value_counts(normalize=True).sort_index()).tolist())


def test_one_stratum_is_too_few(world: PreparedData, tmp_path: Path) -> None:
    for name, column in (("one", "studio"), ("none", None)):
        data = rewritten(world, tmp_path / name, domain=column)
        with pytest.raises(HonneError, match=f"{name} confounder|no confounder stratum"):
            Strata.of(DataModule(data, size=32))


def test_adjustment_is_what_pairs_tell_beyond_chance() -> None:
    found = StratumOf(Strata(("a", "b", "c"), torch.arange(3), PAIRS), adjust=True)
    shares = PAIRS / PAIRS.sum()
    expected = (shares / (shares.sum(0) * shares.sum(1, keepdim=True))).log()
    seen = PAIRS > 0
    torch.testing.assert_close(found.pairing[:, :-1][seen], expected[seen], atol=2e-3, rtol=0)
    assert found.pairing[0, 1] < -5  # never seen, and still a number
    torch.testing.assert_close(found.of_expressions(torch.tensor([2, 0]))[:, 1], found.pairing[1, [2, 0]])
    torch.testing.assert_close(found.of_strata(torch.tensor([1])), found.pairing[1:2, :-1])
    assert not found.of_expressions(torch.tensor([NOT_LABELLED])).any()
    even = StratumOf(Strata(("a", "b", "c"), torch.arange(3), PAIRS), adjust=False)
    assert not even.pairing.any()


def test_a_batch_needs_its_strata() -> None:
    found = StratumOf(Strata(("a", "b"), torch.tensor([0, NOT_LABELLED, 1]), PAIRS[:, :2]), adjust=True)
    domain = torch.tensor([2, 1, 0, NOT_LABELLED])
    assert found(Batch(domain=domain)).tolist() == [1, NOT_LABELLED, 0, NOT_LABELLED]
    for wrong in (None, torch.tensor([3])):
        with pytest.raises(HonneError, match="without the confounder strata"):
            found(Batch(domain=wrong))


def test_plain_training_takes_the_adjustment(world: PreparedData) -> None:
    data = DataModule(world, size=32)
    options = ErmOptions(logit_adjustment="stratum")
    body = {"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "stem_width": 4}
    network = FaceNetwork(world.schema.labels, "face_resnet", body).eval()
    method = Erm(
        options,
        **Erm.facts(options, data),
        network=network,
        schema=world.schema.labels,
        normalise=Normalise([0.5] * 3, [0.5] * 3),
        optim=OptimOptions(),
    )
    labels, domain = torch.tensor([0, 3, 5]), torch.tensor([1, 0, 2])
    batch = Batch(images=torch.randn(3, 3, 32, 32), labels=Labels(expression=labels), domain=domain)
    found = method.loss(batch)["expression"]
    assert method.stratum_of is not None
    logits = network(batch).expression
    torch.testing.assert_close(found, F.cross_entropy(logits + method.stratum_of.of_expressions(domain), labels))
    assert not torch.isclose(found, F.cross_entropy(logits, labels))
    with pytest.raises(WrongCall, match="logit_adjustment"):
        ErmOptions(logit_adjustment="stratum", mixup=0.2)
