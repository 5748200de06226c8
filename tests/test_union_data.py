"""Data sets that label different things, as one: classes and units by name, batches with equally many rows a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from honne.batch import NOT_LABELLED, Batch
from honne.data.label_counts import label_counts
from honne.data.loading import DataModule, task_weights
from honne.data.manifest import PreparedData, write_manifest
from honne.data.sampling import EpochBatches, Shuffled, SideBySide
from honne.data.world import World, make_world
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema, union
from honne.recipe import DataOptions

LABELS = ("expression", "au", "va")


def single_tasks(root: Path, n: int = 48, **knobs: Any) -> list[Path]:
    """Three data sets, each with labels of one task alone: expressions, action units, valence and arousal."""
    world = World(n=n, size=32, voters=0, subjects=8, valid_share=0.25, test_share=0, **knobs)
    made = []
    for seed, labels in enumerate(LABELS):
        make_world(root / labels, replace(world, labels=labels, seed=seed))
        made.append(root / labels)
    return made


def relabelled(source: Path, root: Path, labels: LabelSchema, **columns: Any) -> Path:
    """The pictures of a data set with other labels."""
    data = PreparedData(source)
    root.mkdir(parents=True)
    (root / "images").symlink_to(source / "images")
    unlabelled = ("expression", "au", "au_intensity", "valence", "arousal", "votes")
    rows = data.rows.drop(columns=[name for name in unlabelled if name in data.rows])
    write_manifest(root, rows.assign(**columns), replace(data.schema, labels=labels, name=root.name))
    return root


def module(data: Sequence[Path], **options: Any) -> DataModule:
    labels = union([PreparedData(each).schema.labels for each in data])
    given: dict[str, Any] = {"size": 32, "batch_size": 4, "labels": labels, "drop_last": True}
    return DataModule(data, **given | options)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return single_tasks(tmp_path_factory.mktemp("tasks"))


def test_each_row_keeps_the_labels_it_has(sets: list[Path]) -> None:
    data = module(sets)
    starts, count = data.training.starts[:3].tolist(), int(data.training.starts[1])
    batch = data.training[0]
    for start, task in zip(starts, ("expression", "action_units", "valence_arousal"), strict=True):
        labels: Any = data.training[start].labels
        known = {
            "expression": labels.expression != NOT_LABELLED,
            "action_units": ~labels.action_units.isnan(),
            "valence_arousal": ~labels.valence_arousal.isnan(),
        }
        assert [name for name, some in known.items() if some.all()] == [task]
        assert [name for name, some in known.items() if some.any()] == [task]
    assert batch.labels.distribution is None
    measured = torch.cat([each.index for each in data.val_dataloader()])  # type: ignore[misc]
    assert set((measured // count).tolist()) == {0, 1, 2}  # rows of every data set are measured


def test_classes_and_units_go_by_name(sets: list[Path], tmp_path: Path) -> None:
    count = len(PreparedData(sets[0]))
    one = relabelled(
        sets[0],
        tmp_path / "one",
        LabelSchema(("happiness", "contempt", "neutral"), (25, 12)),
        expression=[("happiness", "contempt", "neutral")[row % 3] for row in range(count)],
        au=[[1.0, 0.0] for _ in range(count)],
    )
    other = relabelled(
        sets[1],
        tmp_path / "other",
        LabelSchema(("neutral", "sadness", "happiness"), (12, 4)),
        expression=[("neutral", "sadness", "happiness")[row % 3] for row in range(count)],
        au=[[float("nan"), 1.0] for _ in range(count)],
    )
    data = module([one, other])
    assert data.labels == LabelSchema(("happiness", "contempt", "neutral", "sadness"), (25, 12, 4))
    known = data.training.known
    assert known.expression is not None
    assert known.action_units is not None
    assert known.expression[[0, 1, 2, count, count + 1, count + 2]].tolist() == [0, 1, 2, 2, 3, 0]
    np.testing.assert_array_equal(known.action_units[[0, count]], [[1, 0, np.nan], [np.nan, np.nan, 1]])

    chosen = DataOptions(labels="union", expressions="neutral,happiness", action_units="4,25")
    labels = chosen.learned([PreparedData(each).schema.labels for each in (one, other)])
    assert labels == LabelSchema(("neutral", "happiness"), (4, 25))
    known = module([one, other], labels=labels).training.known
    assert known.expression is not None
    assert known.action_units is not None
    assert known.expression[[0, 1, 2, count, count + 1]].tolist() == [1, NOT_LABELLED, 0, 0, NOT_LABELLED]
    np.testing.assert_array_equal(known.action_units[[0, count]], [[np.nan, 1], [1, np.nan]])


def test_votes_and_classes_of_another_list(tmp_path: Path) -> None:
    """Eight classes with votes as of FER+, beside seven."""
    eight = make_world(
        tmp_path / "eight",
        World(n=40, size=32, classes=(*World().classes, "contempt"), labels="expression", subjects=8, test_share=0),
    )
    seven = make_world(
        tmp_path / "seven", World(n=30, size=32, labels="expression", voters=0, subjects=8, test_share=0)
    )
    roots = [seven.root, eight.root]
    data = module(roots, targets="distribution")
    assert data.labels.expressions == eight.schema.labels.expressions
    assert data.training.known.distribution is not None
    assert np.isnan(data.training.known.distribution[:30]).all()
    np.testing.assert_allclose(data.training.known.distribution[30:].sum(1), 1, rtol=1e-6)
    data = module(roots, targets="distribution", labels=seven.schema.labels)
    known, own = data.training.known, eight.rows["expression"]
    assert known.expression is not None
    assert known.distribution is not None
    assert ((known.expression[30:] == NOT_LABELLED) == (own == "contempt")).all()
    assert known.distribution.shape == (70, 7)
    np.testing.assert_allclose(np.nan_to_num(known.distribution[30:].sum(1), nan=1.0), 1, rtol=1e-6)


def test_what_cannot_be_chosen_is_said(sets: list[Path]) -> None:
    schemas = [PreparedData(each).schema.labels for each in sets]
    for options, words in (
        ({"expressions": "neutral,contempt"}, "expression contempt is in none of the data sets"),
        ({"action_units": "1,28"}, "action unit 28 is in none of the data sets"),
        ({"labels": "same", "expressions": "abaw"}, "choose labels"),
        ({"expressions": "abow"}, "abow"),
    ):
        with pytest.raises(HonneError, match=words):
            DataOptions(**{"labels": "union"} | options).learned(schemas)  # type: ignore[arg-type]
    with pytest.raises(HonneError, match="different label schemas"):
        DataModule(sets, size=32)


# --- rows of every task in every batch -----------------------------------------------------------------------------


def tasks_of(batch: Batch, parts: int) -> list[tuple[bool, bool, bool]]:
    found = []
    for part in batch.parts(parts):
        labels = part.labels
        assert labels.expression is not None
        assert labels.action_units is not None
        assert labels.valence_arousal is not None
        found.append((
            bool((labels.expression != NOT_LABELLED).all()),
            bool((~labels.action_units.isnan()).all()),
            bool((~labels.valence_arousal.isnan()).all()),
        ))  # fmt: skip
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_a_batch_holds_equally_many_rows_of_every_task(sets: list[Path], world: int) -> None:
    data = module(sets, sampling="tasks", batch_size=3)
    data._process = lambda: (0, world)  # type: ignore[method-assign]
    assert data.parts == 3
    order, shown = data.order(), []
    for rank in range(world):
        batches = EpochBatches(order, 9, rank, world, drop_last=True)
        rows = [int(data.training.known.labelled(task)[data.train_rows()].sum()) for task in data.tasks()]
        assert len(batches) == min(rows) // (3 * world)  # the shortest ends the epoch
        for draw in batches:
            assert len(draw.rows) == 9
            assert tasks_of(data.training.__getitems__(draw), 3) == [
                (True, False, False),
                (False, True, False),
                (False, False, True),
            ]
            shown += draw.rows.tolist()
    assert len(set(shown)) == len(shown)


def test_too_few_rows_of_a_task_are_named(sets: list[Path]) -> None:
    with pytest.raises(HonneError, match="training rows with action units make no batch of 40") as raised:
        SideBySide([Shuffled(np.arange(50)), Shuffled(np.arange(8))], 40, ["expression", "action units"])
    assert "batch_size" in raised.value.hint
    with pytest.raises(HonneError, match="make no batch of 1000"):
        module(sets, sampling="tasks", batch_size=1000).train_dataloader()


def test_published_balance(sets: list[Path], tmp_path: Path) -> None:
    """Classes come equally often, one without rows is no reason to fail, and rows keep to their task."""
    rows = PreparedData(sets[0]).rows
    gap = relabelled(
        sets[0],
        tmp_path / "gap",
        PreparedData(sets[0]).schema.labels,
        expression=["neutral" if row % 8 else "happiness" for row in range(len(rows))],
    )
    data = module([gap, *sets[1:]], sampling="tasks", balance="published", batch_size=4)
    known, labels = data.training.known, data.labels.expressions
    assert known.expression is not None
    order = data.order()
    drawn = np.concatenate([order(epoch) for epoch in range(60)]).reshape(-1, 12)
    for part, task in enumerate(data.tasks()):
        assert known.labelled(task)[drawn[:, 4 * part : 4 * part + 4]].all()
    codes = known.expression[drawn[:, :4]]
    assert (codes == labels.index("happiness")).mean() == pytest.approx(0.5, abs=0.05)
    assert set(np.unique(codes)) == {labels.index("neutral"), labels.index("happiness")}

    affect = data.train_rows()[known.labelled("valence_arousal")[data.train_rows()]]
    weights = task_weights(known, "valence_arousal", affect, data.labels, 0)
    assert weights.sum() == pytest.approx(round(weights.sum()))  # as many cells as have rows
    counts = label_counts(data)
    assert counts["epoch"]["rows"] == len(order(0))
    assert counts["epoch"]["expression"] == counts["epoch"]["action_units"] == len(order(0)) // 3
    assert counts["classes"]["anger"] == 0
    assert [line["valence_arousal"] > 0 for line in counts["data"]] == [False] * 4 + [True] * 2
    with pytest.raises(WrongCall, match="drawn by task"):
        module(sets, balance="published")
