"""Biased splits of any data set with strata: in training every stratum lacks a group of classes, and these are tested.

The square of groups and strata is that of MixBasic (Chen et al., ACM MM 2022): the classes are dealt into K groups,
K strata. In fold v of K, counted from 0, stratum j lacks group (j + v) mod K in training. Every class is seen in all
strata but one, and what is learned of "which stratum is it" misleads exactly where it is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

import honne
from honne.data.derived import deriving
from honne.data.leaks import shared_subjects
from honne.data.manifest import SPLITS, PreparedData, sha256, write_manifest
from honne.data.splits import assign_splits
from honne.data.world import read_truth
from honne.data.world.dataset import TRUTH
from honne.errors import HonneError, WrongCall

Partition = Literal["auto", "keep", "draw"]
BIASED = "biased_split"
"""Where `schema.json` records, among its options, how a fold was made."""
LEFT_OUT = ""
"""Split of the rows that a biased data set does not have."""


@dataclass(frozen=True)
class BiasOptions:
    """How a data set is biased.

    Args:
        fold: which group each stratum lacks, 0..K-1; with all K folds every cell is held out once.
        strength: 1: training has nothing of the held-out cells; s: the share 1 - s of their sequences is in training.
        groups: of class names; empty: class i of the schema is in group i mod K.
        partition: keep the data's own splits and only filter them; draw: what is held out is the test, as published;
            auto: keep them where there are all three and no subject stands in two.
        valid: with draw, share of the other cells that becomes the validation split, 0..1.
        seen_test: with draw, share of them that is tested as well, in distribution, 0..1.
        seed: of what is drawn.
    """

    fold: int = 0
    strength: float = 1.0
    groups: tuple[tuple[str, ...], ...] = ()
    partition: Partition = "auto"
    valid: float = 0.1
    seen_test: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= 1:
            raise WrongCall(f"strength {self.strength}: not from 0 (no bias) to 1 (full bias).")
        if min(self.valid, self.seen_test) < 0 or self.valid + self.seen_test >= 1:
            raise WrongCall("the shares for validation and test leave nothing to train on.")


@dataclass(frozen=True)
class Cells:
    """Where N rows stand in the square.

    Attributes:
        label: (N,) class, -1 unknown.
        stratum: (N,) index into `strata`, -1 unknown.
        strata: K names, sorted.
    """

    label: np.ndarray
    stratum: np.ndarray
    strata: tuple[str, ...]

    @property
    def known(self) -> np.ndarray:
        """(N,) bool, both are known."""
        return (self.label >= 0) & (self.stratum >= 0)

    def require_two(self) -> None:
        """Refuse rows without two strata to compare.

        Raises:
            HonneError: the rows have no strata, or one alone, or no expression labels.
        """
        if not self.strata:
            lacking = "they name no strata (column `domain`)"
        elif len(self.strata) == 1:
            lacking = f"all their rows are of one stratum, '{self.strata[0]}'"
        elif not self.known.any():
            lacking = "none of their rows has both an expression label and a stratum"
        else:
            return
        raise HonneError(f"these data show no bias: {lacking}.", "Bias needs two or more strata, and labels.")

    def among(self, square: np.ndarray) -> np.ndarray:
        """(N,) bool, rows whose cell is marked in `square` (K, C)."""
        return self.known & square[self.stratum, self.label]

    def occupied(self, rows: np.ndarray, classes: int) -> np.ndarray:
        """(K, C) how many of the marked rows (N,) stand in each cell."""
        chosen = rows & self.known
        flat = self.stratum[chosen] * classes + self.label[chosen]
        return np.bincount(flat, minlength=len(self.strata) * classes).reshape(-1, classes)


def cells(rows: pd.DataFrame, classes: Sequence[str]) -> Cells:
    """Class and stratum of every row of a manifest."""
    nothing = np.full(len(rows), -1)
    domain = rows["domain"].dropna() if "domain" in rows else pd.Series(dtype=object)
    strata = tuple(sorted(map(str, domain.unique())))
    label = pd.Index(classes).get_indexer(pd.Index(rows["expression"])) if "expression" in rows and classes else nothing
    return Cells(label, pd.Index(strata).get_indexer(pd.Index(rows["domain"])) if strata else nothing, strata)


def held_out(classes: Sequence[str], strata: Sequence[str], options: BiasOptions) -> np.ndarray:
    """(K, C) bool: which classes training lacks in which strata.

    Raises:
        WrongCall: groups that do not hold every class once, or no such fold.
    """
    count = len(strata)
    if not 0 <= options.fold < count:
        raise WrongCall(
            f"fold {options.fold}: with {count} strata ({', '.join(strata)}) there are folds 0 to {count - 1}.",
            "Ask for no more folds than there are strata.",
        )
    group = np.arange(len(classes)) % count
    if options.groups:
        named = [name for names in options.groups for name in names]
        if sorted(named) != sorted(classes) or len(options.groups) > count:
            raise WrongCall(
                f"groups {' / '.join('+'.join(names) for names in options.groups)}: they must hold each of"
                f" {', '.join(classes)} once, in at most {count} groups, one per stratum."
            )
        group = np.array([next(g for g, names in enumerate(options.groups) if name in names) for name in classes])
    return group == ((np.arange(count) + options.fold) % count)[:, None]


def partition_of(rows: pd.DataFrame, options: BiasOptions) -> Literal["keep", "draw"]:
    """What `auto` means for these rows."""
    if options.partition != "auto":
        return options.partition
    complete = set(SPLITS) <= set(rows["split"])
    return "keep" if complete and not shared_subjects(rows) else "draw"


def biased_split(rows: pd.DataFrame, classes: Sequence[str], options: BiasOptions) -> np.ndarray:
    """Split of every row in one fold.

    Of a held-out cell with n sequences (subjects where no sequences are named, else rows), round((1 - strength) n),
    halves to the even number as published, go to training.

    Args:
        rows: manifest with `expression` and `domain`.
        classes: of the schema.
        options: fold, strength and the rest.

    Returns:
        (N,) "train", "valid", "test", or `LEFT_OUT`: rows without a label or a stratum, and what own splits hold of
        the held-out cells in training and validation.

    Raises:
        HonneError: the rows have no strata, or one alone, or no expression labels.
    """
    placed = cells(rows, classes)
    placed.require_two()
    square = held_out(classes, placed.strata, options)
    hidden = placed.among(square)
    if partition_of(rows, options) == "keep":
        own = rows["split"].to_numpy(object)
        returned = _returned(rows, placed, hidden, own, np.zeros(len(rows), bool), options)
        splits = np.where(hidden & (own != "test") & ~returned, LEFT_OUT, own)
    else:
        splits = np.full(len(rows), "test", object)
        splits[~hidden] = _drawn(rows[~hidden], options)
        person = _unit(rows, ("subject", "video"))
        elsewhere = np.isin(person, person[~hidden & (splits != "train")])
        splits[_returned(rows, placed, hidden, np.full(len(rows), "all"), elsewhere, options)] = "train"
    return np.where(placed.known, splits, LEFT_OUT)


def _unit(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """(N,) what a row belongs to: the first of the columns that it has, else itself."""
    unit = pd.Series([f"row {number}" for number in range(len(rows))], dtype=object)
    for column in reversed(columns):
        if column in rows:
            named = rows[column].notna().to_numpy()
            unit[named] = column + " " + rows[column].to_numpy(object)[named].astype(str).astype(object)
    return unit.to_numpy(str)


def _drawn(rows: pd.DataFrame, options: BiasOptions) -> np.ndarray:
    """Splits of the rows of seen cells, by subject (else sequence, else row), each stratum by itself."""
    groups = pd.DataFrame({"image": _unit(rows, ("subject", "video")), "expression": rows["domain"].to_numpy(object)})
    return assign_splits(groups, options.valid, options.seen_test, options.seed)


def _returned(
    rows: pd.DataFrame,
    placed: Cells,
    hidden: np.ndarray,
    part: np.ndarray,
    later: np.ndarray,
    options: BiasOptions,
) -> np.ndarray:
    """(N,) bool: rows of held-out cells that go to training after all; those marked `later` only if others run out."""
    place = placed.stratum.astype(str).astype(object) + "/" + placed.label.astype(str)
    cell = part.astype(object) + "/" + place
    frame = pd.DataFrame({"cell": cell, "unit": _unit(rows, ("video", "subject")), "later": later})[hidden]
    units = frame.groupby(["cell", "unit"], sort=True)["later"].max().reset_index()
    units["drawn"] = np.random.default_rng((options.seed, options.fold)).random(len(units))
    ranked = units.sort_values(["cell", "later", "drawn"])
    place = ranked.groupby("cell").cumcount()
    share = round(1 - options.strength, 9)  # 1 - 0.9 is a little less than 0.1, and 2.5 must round as 2.5
    wanted = np.round(share * ranked.groupby("cell")["unit"].transform("size"))
    chosen = ranked.loc[place < wanted, ["cell", "unit"]]
    returned = np.zeros(len(rows), bool)
    returned[hidden] = pd.MultiIndex.from_frame(frame[["cell", "unit"]]).isin(pd.MultiIndex.from_frame(chosen))
    return returned


def counts(rows: pd.DataFrame, splits: np.ndarray, classes: Sequence[str], square: np.ndarray) -> pd.DataFrame:
    """Rows of every cell in every split.

    Args:
        rows: manifest.
        splits: (N,) as of `biased_split`.
        classes: of the schema.
        square: (K, C) of `held_out`.

    Returns:
        Columns `stratum`, `expression`, `held_out`, `train`, `valid`, `test`; a line per cell.
    """
    placed = cells(rows, classes)
    table = {
        "stratum": np.repeat(placed.strata, len(classes)),
        "expression": np.tile(list(classes), len(placed.strata)),
        "held_out": square.ravel(),
    }
    return pd.DataFrame(table | {name: placed.occupied(splits == name, len(classes)).ravel() for name in SPLITS})


def check(rows: pd.DataFrame, splits: np.ndarray, classes: Sequence[str], options: BiasOptions) -> pd.DataFrame:
    """Refuse a biased split that would not measure what it should.

    Args:
        rows: manifest.
        splits: (N,) as of `biased_split`.
        classes: of the schema.
        options: that it was made with.

    Returns:
        Its `counts`.

    Raises:
        HonneError: training lacks a class or a stratum altogether, nothing is held out, held-out cells are in training
            that should not be, a sequence stands on two sides, or (own splits) a subject.
    """
    placed = cells(rows, classes)
    table = counts(rows, splits, classes, held_out(classes, placed.strata, options))
    present = placed.occupied(splits != LEFT_OUT, len(classes))
    training = placed.occupied(splits == "train", len(classes))
    fold = f"fold {options.fold}"
    for kind, names, axis in (("expression", classes, 0), ("stratum", placed.strata, 1)):
        if unseen := [
            n for n, some, all_ in zip(names, training.sum(axis), present.sum(axis), strict=True) if all_ > some == 0
        ]:
            raise HonneError(
                f"{fold}: training would not see {kind} '{unseen[0]}' at all.",
                "It is held out wherever it occurs: choose other groups, or another fold, or leave it out of the data.",
            )
    held = table[table["held_out"]]
    if not held["test"].any():
        raise HonneError(f"{fold}: no test row is of a held-out cell.", "Choose other groups, or another fold.")
    if options.strength == 1 and (wrong := held[held[["train", "valid"]].any(axis=1)]).size:
        first = wrong.iloc[0]
        raise HonneError(f"{fold}: training holds '{first['expression']}' in stratum '{first['stratum']}'.")
    sides = [_unit(rows, ("video", "subject"))]
    if partition_of(rows, options) == "draw":
        cell = (placed.stratum * len(classes) + placed.label).astype(str)
        sides = [np.char.add(np.char.add(sides[0], " of cell "), cell)]
    else:
        sides.append(_unit(rows, ("subject", "video")))
    kept = splits != LEFT_OUT
    for unit in sides:
        split = pd.Series(splits[kept]).groupby(unit[kept]).nunique()
        if (split > 1).any():
            raise HonneError(
                f"{fold}: {split.index[split > 1][0]} stands in two splits.", "Draw new splits: partition draw."
            )
    return table


def write_biased(out: Path, data: PreparedData, options: BiasOptions) -> PreparedData:
    """Write one fold as a prepared data set that shares its pictures with `data`; the same call again changes nothing.

    `schema.json` records under `options.biased_split` what was done, with the held-out cells.

    Raises:
        HonneError: no such fold can be made.
        WrongCall: `out` is something else.
    """
    classes = data.schema.labels.expressions
    cells(data.rows, classes).require_two()
    record = _record(data, options)
    if (out / "schema.json").is_file():
        found = PreparedData(out)
        if found.schema.options.get(BIASED) != record:
            raise WrongCall(f"{out}: holds data biased in another way, or from other data.", "Choose another folder.")
        return found
    if out.exists():
        raise WrongCall(f"{out}: is in use.", "Choose another folder.")
    splits = biased_split(data.rows, classes, options)
    table = check(data.rows, splits, classes, options)
    kept = splits != LEFT_OUT
    rows = data.rows[kept].assign(split=splits[kept])
    schema = replace(
        data.schema,
        name=f"{data.schema.name}, fold {options.fold}, bias {options.strength:g}",
        source={**data.schema.source, "biased from": record["manifest"]},
        options={**data.schema.options, BIASED: record},
        version=honne.__version__,
    )
    with deriving(out, data) as aside:
        if (data.root / TRUTH).is_file():  # a line per row of the manifest
            read_truth(data.root)[kept].to_parquet(aside / TRUTH)
        (aside / "card.md").write_text(_card(data, table, record, int((~kept).sum())), encoding="utf-8")
        write_manifest(aside, rows, schema)
    return PreparedData(out)


def _record(data: PreparedData, options: BiasOptions) -> dict[str, Any]:
    """What `schema.json` says of a fold."""
    classes = data.schema.labels.expressions
    strata = cells(data.rows, classes).strata
    square = held_out(classes, strata, options)
    return asdict(options) | {
        "groups": [list(names) for names in options.groups],
        "partition": partition_of(data.rows, options),
        "held_out": [[strata[stratum], classes[label]] for stratum, label in np.argwhere(square)],
        "data": data.schema.name,
        "manifest": sha256(data.root / "manifest.parquet"),
    }


def _card(data: PreparedData, table: pd.DataFrame, record: dict[str, Any], left_out: int) -> str:
    lines = "\n".join(
        f"| {line.stratum} | {line.expression} | {'yes' if line.held_out else ''} | {line.train:,} | {line.valid:,} |"
        f" {line.test:,} |"
        for line in table.itertuples()
    )
    how = (
        "The splits of the data were kept: test rows are of nobody who is in training."
        if record["partition"] == "keep"
        else "What is held out is the test, so that people of the training rows are tested too."
    )
    return f"""# {data.schema.name}, biased

Fold {record["fold"]}, strength {record["strength"]:g}, seed {record["seed"]}: training lacks the held-out cells, or has
the share {1 - record["strength"]:g} of their sequences. {how} {left_out:,} rows of the data are left out.

| stratum | expression | held out | train | valid | test |
|---|---|---|---|---|---|
{lines}

Made by honne {honne.__version__} to measure what a model makes of a bias; nothing to train models with for use.

Licence: {data.schema.licence}.
"""
