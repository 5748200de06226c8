"""Biased splits: the published counts, both ways of making them, what is written, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from honne.data.bias import LEFT_OUT, BiasOptions, biased_split, cells, check, counts, held_out, write_biased
from honne.data.loading import batches
from honne.data.manifest import PreparedData, write_manifest
from honne.data.world import World, make_world, read_truth
from honne.errors import HonneError, WrongCall
from honne.metrics.probe import cell_weights, linear_probe

MIXBASIC = Path(__file__).parent / "golden" / "data" / "iern" / "labels_splits.npz"
PAIRS = (("Anger", "Happiness"), ("Disgust", "Sadness"), ("Fear", "Surprise"))
NAMES = tuple(sorted(sum(PAIRS, ())))


@pytest.fixture(scope="module")
def mixbasic() -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Manifest rows of the published sequences, three frames each, and the published counts."""
    with np.load(MIXBASIC, allow_pickle=False) as arrays:
        known = {name: arrays[name] for name in arrays.files if name.startswith(("derived", "splits"))}
    names = [f"{a}/{b}" for a, b in zip(known["derived.dataset"], known["derived.sequence"], strict=True)]
    rows = pd.DataFrame(
        {
            "split": "train",
            "subject": [name.rpartition("_")[0] or name for name in names],
            "domain": known["derived.dataset"].astype(object),
            "video": names,
            "expression": known["derived.emotion"].astype(object),
        }
    )
    return rows.loc[np.repeat(np.arange(len(rows)), 3)].reset_index(drop=True), known


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    root = tmp_path_factory.mktemp("bias") / "world"
    return make_world(root, World(n=300, size=32, domains=3, subjects=21, labels="expression", test_share=0.3))


def _seen_and_hidden(table: pd.DataFrame, split: str) -> tuple[int, int]:
    by = table.groupby("held_out")[split].sum()
    return int(by[False]), int(by[True])


@pytest.mark.parametrize("setting", [0, 1], ids=["bias100", "bias90"])
@pytest.mark.parametrize("fold", [0, 1, 2])
@pytest.mark.parametrize("groups", [(), PAIRS], ids=["by number", "named"])
def test_the_published_counts(mixbasic: Any, setting: int, fold: int, groups: Any) -> None:
    rows, known = mixbasic
    options = BiasOptions(fold, (1.0, 0.9)[setting], groups, valid=0, seen_test=0, seed=7)
    table = check(rows, biased_split(rows, NAMES, options), NAMES, options)
    wanted = known["splits.n_images_by_emotion"][setting, fold]
    for place, split in enumerate(("train", "test")):
        np.testing.assert_array_equal(table[split].to_numpy().reshape(3, -1), wanted[place])


def test_drawn_splits_cover_everything_once_and_keep_people_apart(mixbasic: Any) -> None:
    rows, _ = mixbasic
    tested = np.zeros(len(rows), int)
    for fold in range(3):
        options = BiasOptions(fold, groups=PAIRS)
        splits = biased_split(rows, NAMES, options)
        placed = cells(rows, NAMES)
        hidden = placed.among(held_out(NAMES, placed.strata, options))
        tested += hidden & (splits == "test")
        assert set(splits[hidden]) == {"test"}
        seen = pd.DataFrame({"subject": rows["subject"], "split": splits})[~hidden]
        assert seen.groupby("subject")["split"].nunique().max() == 1
        assert 0.05 < (seen["split"] == "valid").mean() < 0.15
        assert 0.05 < (seen["split"] == "test").mean() < 0.15
        np.testing.assert_array_equal(splits, biased_split(rows, NAMES, options))
        thinned = replace(options, strength=0.6)
        moved = biased_split(rows, NAMES, thinned)
        check(rows, moved, NAMES, thinned)
        assert not set(rows["subject"][moved == "train"]) & set(rows["subject"][moved == "valid"])
    assert (tested == 1).all()
    published = BiasOptions(0, 0.6, PAIRS, valid=0, seen_test=0)
    order = np.random.default_rng(0).permutation(len(rows))
    mixed = biased_split(rows.iloc[order].reset_index(drop=True), NAMES, published)
    np.testing.assert_array_equal(mixed, biased_split(rows, NAMES, published)[order])


def test_own_splits_are_only_filtered(world: PreparedData) -> None:
    rows, classes = world.rows, world.schema.labels.expressions
    before = rows["split"].to_numpy()
    everything = counts(rows, before, classes, held_out(classes, cells(rows, classes).strata, BiasOptions()))
    returned = []
    for strength in (1.0, 0.7, 0.0):
        options = BiasOptions(strength=strength)
        splits = biased_split(rows, classes, options)
        table = check(rows, splits, classes, options)
        kept = splits != LEFT_OUT
        assert (splits[kept] == before[kept]).all()
        assert (table["test"] == everything["test"]).all()
        assert _seen_and_hidden(table, "train")[0] == _seen_and_hidden(everything, "train")[0]
        returned.append(set(np.flatnonzero(kept)))
        hidden = everything["held_out"]
        people = rows[before == "train"].assign(hit=1).groupby(["domain", "expression"])["subject"].nunique()
        if strength == 1:
            assert _seen_and_hidden(table, "train")[1] == _seen_and_hidden(table, "valid")[1] == 0
        elif strength:
            trained = rows[splits == "train"].groupby(["domain", "expression"])["subject"].nunique()
            for cell in table[hidden].itertuples():
                place = (cell.stratum, cell.expression)
                assert trained.get(place, 0) == round(0.3 * people.get(place, 0))
    assert returned[0] < returned[1] < returned[2]
    assert len(returned[2]) == len(rows)


def test_what_is_written_trains_and_is_not_written_twice(world: PreparedData, tmp_path: Path) -> None:
    options = BiasOptions(fold=1, strength=0.9, seed=3)
    made = write_biased(tmp_path / "fold", world, options)
    splits = biased_split(world.rows, world.schema.labels.expressions, options)
    kept = np.flatnonzero(splits != LEFT_OUT)
    assert made.rows["id"].tolist() == world.rows["id"].iloc[kept].tolist()
    assert made.schema.counts == {name: int((splits == name).sum()) for name in ("train", "valid", "test")}
    assert read_truth(made.root)["expression"].tolist() == read_truth(world.root)["expression"].iloc[kept].tolist()
    assert (made.root / "images" / "00000.arrow").samefile(world.root / "images" / "00000.arrow")
    assert bytes(made.image_bytes(5)) == bytes(world.image_bytes(int(kept[5])))
    assert next(batches(made, "train", size=32)).images is not None
    record = made.schema.options["biased_split"]
    assert (record["partition"], record["fold"], record["strength"]) == ("keep", 1, 0.9)
    assert len(record["held_out"]) == 7
    assert "| studio |" in (made.root / "card.md").read_text()
    stamp = (made.root / "manifest.parquet").stat().st_mtime_ns
    assert write_biased(tmp_path / "fold", world, options).schema.options["biased_split"] == record
    assert (made.root / "manifest.parquet").stat().st_mtime_ns == stamp
    with pytest.raises(WrongCall, match="biased in another way"):
        write_biased(tmp_path / "fold", world, replace(options, strength=1.0))
    (tmp_path / "mine").mkdir()
    with pytest.raises(WrongCall, match="is in use"):
        write_biased(tmp_path / "mine", world, options)


def test_what_is_refused(world: PreparedData, tmp_path: Path) -> None:
    rows, classes = world.rows, world.schema.labels.expressions

    def refused(message: str, options: BiasOptions | None = None, changed: pd.DataFrame | None = None) -> None:
        given, chosen = rows if changed is None else changed, options or BiasOptions()
        with pytest.raises(HonneError, match=message):
            check(given, biased_split(given, classes, chosen), classes, chosen)

    for strength in (-0.1, 1.5):
        with pytest.raises(WrongCall, match="strength"):
            BiasOptions(strength=strength)
    with pytest.raises(WrongCall, match="leave nothing"):
        BiasOptions(valid=0.6, seen_test=0.4)
    refused("name no strata", changed=rows.drop(columns="domain"))
    refused("of one stratum, 'cold'", changed=rows.assign(domain="cold"))
    refused("none of their rows", changed=rows.assign(expression=None))
    refused("folds 0 to 2", BiasOptions(fold=3))
    refused("each of neutral", BiasOptions(groups=(("neutral", "anger"), ("joy",))))
    refused("at most 3 groups", BiasOptions(groups=tuple((name,) for name in classes)))
    only = rows.assign(domain=np.where(rows["expression"] == "neutral", "cold", rows["domain"]))
    refused("would not see expression 'neutral' at all", changed=only)
    refused("would not see stratum 'warm' at all", BiasOptions(fold=1, groups=(classes,)))
    mixed = rows.assign(subject="one")
    refused("stands in two splits", BiasOptions(partition="keep"), changed=mixed)
    root = tmp_path / "no strata"
    write_manifest(root, rows.drop(columns="domain"), world.schema)
    with pytest.raises(HonneError, match="name no strata"):
        write_biased(tmp_path / "fold", PreparedData(root), BiasOptions())


def test_probe_reads_the_stratum_and_not_the_label() -> None:
    random = np.random.default_rng(0)
    label = torch.from_numpy(random.integers(0, 3, 600))
    stratum = torch.where(torch.from_numpy(random.random(600)) < 0.8, label, (label + 1) % 3)
    people = np.arange(600) // 4
    told = torch.nn.functional.one_hot(label)
    alone = linear_probe(told, stratum, people).argmax(1) == stratum
    assert alone.double().mean() > 0.75
    weight = cell_weights(stratum, label)
    noise = torch.from_numpy(random.normal(size=(600, 4)))
    shown = torch.cat([torch.nn.functional.one_hot(stratum) + 0.1 * noise[:, :3], noise], 1)
    for features, low, high in ((told, 0.4, 0.6), (noise, 0.3, 0.7), (shown, 0.99, 1)):
        hit = (linear_probe(features, stratum, people, beside=label).argmax(1) == stratum).double()
        assert low <= float((hit * weight).sum() / weight.sum()) <= high
    with pytest.raises(ValueError, match="two groups"):
        linear_probe(noise, stratum, np.zeros(600))
