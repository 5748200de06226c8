"""`honne audit`: the command. Each kind of audit is a part of its own; the page joins them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from honne.audit.ambiguity import CORRECTED, SUMMARY, TABLE, Ambiguity, Settings, audit_ambiguity
from honne.audit.ambiguity_page import add_ambiguity, headline
from honne.audit.bias import BIAS_SUMMARY, BIAS_TABLE, Bias, BiasSettings, audit_bias, audit_laboratory, has_strata
from honne.audit.bias_figures import CURED, PLAIN
from honne.audit.bias_lab import FOLDS, RUNS, Laboratory, flat
from honne.audit.bias_page import add_bias, bias_headline
from honne.audit.correcting import CHANGES, Correct
from honne.console import say, table
from honne.data.bias import BiasOptions, Partition
from honne.data.manifest import SPLITS, PreparedData
from honne.errors import HonneError, WrongCall
from honne.evaluation.evaluating import AnyData, AnyModel
from honne.models import Model, load
from honne.models import device as device_named
from honne.report import Page

PAGE = "audit.html"
OWN = frozenset({PAGE, SUMMARY, TABLE, CORRECTED, BIAS_SUMMARY, BIAS_TABLE, FOLDS, RUNS})
"""What an audit may replace in its folder."""


def audit(
    model: AnyModel,
    data: AnyData,
    *,
    out: Path,
    ambiguity: bool = False,
    bias: bool = False,
    split: Literal["all", "train", "valid", "test"] = "all",
    correct: Correct = "relabel",
    shown: int = 16,
    folds: int = 0,
    plain: str = "erm",
    strength: float = 1.0,
    groups: str = "",
    partition: Partition = "auto",
    valid_share: float = 0.1,
    seen_share: float = 0.1,
    seeds: int = 1,
    jobs: int = 1,
    set: dict[str, Any] | None = None,
    set_plain: dict[str, Any] | None = None,
    set_cured: dict[str, Any] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    show: bool = True,
) -> dict[str, Any]:
    """Look through a data set with a model and write one HTML page, with JSON and tables beside it.

    Ambiguity: ranks faces by uncertainty, sets what the model mined beside votes or label, lists likely label errors
    and writes a data set with these corrected, to be accepted or not. Bias: how well the model does in every stratum of
    the data with every expression, where training had that pair and where it had not, and how much of the stratum its
    features tell. With --folds, MODEL is a recipe: it is trained beside a plain one on biased folds of the data.

    Args:
        model: name or folder of a model; in Python also a loaded one. With --folds, name or file of a recipe.
        data: folder of a prepared data set; in Python also an opened one.
        out: folder for the page and what belongs to it; what an earlier audit left there is replaced.
        ambiguity: this part alone; without any choice all parts are made that the data allow.
        bias: this part alone; it needs data with two or more strata (column domain).
        split: which rows to look at: all, train, valid or test. Only training labels are ever corrected; of all, bias
            is measured on test, or on valid where there is none.
        correct: what becomes of likely wrong training labels: relabel gives them the suggested class, drop takes
            them away.
        shown: faces in each gallery of the page.
        folds: train on so many biased folds, from 1 to the number of strata; in fold v stratum j lacks group (j + v) of
            the expressions. The same call again resumes.
        plain: with folds, the recipe to compare with.
        strength: with folds, 1: nothing of the held-out pairs is in training; 0.9: a tenth of their sequences is.
        groups: with folds, expressions that are held out together, as anger+happiness,disgust+sadness,fear+surprise;
            unset = expression i of the data is in group i mod number of strata.
        partition: with folds, keep the data's own splits and filter them; draw: what is held out is the test, as
            published for MixBasic; auto: keep them where there are all three and nobody stands in two.
        valid_share: with drawn splits, share of what is not held out that becomes validation, 0..1.
        seen_share: with drawn splits, share of it that is tested as well, in distribution, 0..1.
        seeds: with folds, training runs of each recipe on each fold.
        jobs: with folds, runs at once, each in a process of its own with one thread.
        set: with folds, options of both recipes, e.g. --set.trainer.epochs 5.
        set_plain: further options of the plain recipe alone.
        set_cured: further options of RECIPE alone.
        replicates: number of bootstrap replicates for the intervals.
        seed: seed of the bootstrap, and of what is drawn for the folds.
        batch_size: images at once when measuring; does not change the result.
        workers: loading processes when measuring.
        device: for measuring: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.
        show: print the main figures.

    Returns:
        Part -> what its JSON file holds; `docs/commands/audit.md` lists it.

    Raises:
        HonneError: a model without expressions, other classes than the data's, an empty split, a folder in use, or data
            that allow no such part.
        WrongCall: an option that makes no sense.
    """
    for name, value, least in (("replicates", replicates, 1), ("shown", shown, 0), ("folds", folds, 0)):
        if value < least:
            raise WrongCall(f"--{name}: {value} is too few.", f"Give {least} or more.")
    opened = data if isinstance(data, PreparedData) else PreparedData(data)
    settings = BiasSettings(split, replicates, seed, batch_size, workers, device)
    if folds:
        if ambiguity or isinstance(model, Model):
            raise WrongCall("--folds trains recipes to audit bias, and nothing else.", "Leave --ambiguity out.")
        laboratory = Laboratory(
            {PLAIN: plain, CURED: str(model)},
            folds,
            seeds,
            jobs,
            BiasOptions(0, strength, _groups(groups), partition, valid_share, seen_share, seed),
            flat(set or {}),
            {PLAIN: flat(set_plain or {}), CURED: flat(set_cured or {})},
        )
        found = audit_laboratory(laboratory, opened, _own_folder(Path(out), opened), settings)
        return _reported(
            f"{Path(str(model)).stem} beside {Path(plain).stem}", opened, Path(out), None, found, shown, show
        )
    if not isinstance(model, Model):
        model = load(model, device_named(device))
    _require_classes(model, opened)
    splits = _splits(opened, split)
    out = _own_folder(Path(out), opened)
    every = not (ambiguity or bias)
    seen = biased = None
    if ambiguity or every:
        seen = audit_ambiguity(model, opened, out, Settings(splits, correct, replicates, seed, batch_size, workers))
    if bias or (every and has_strata(opened)):
        biased = audit_bias(model, opened, out, settings)
    return _reported(model.name, opened, out, seen, biased, shown, show)


def _reported(
    name: str, data: PreparedData, out: Path, ambiguity: Ambiguity | None, bias: Bias | None, shown: int, show: bool
) -> dict[str, Any]:
    """Write the page and print the main figures; returns what the JSON files hold."""
    asked = [
        text
        for part, text in (
            (ambiguity, "Which faces are ambiguous, which labels are doubtful, and how well the model knows it."),
            (bias, "Whether it reads the face or the look of the data: every stratum with every expression."),
        )
        if part
    ]
    page = Page(f"Audit of {name} on {data.schema.name}", " ".join(asked), eyebrow="honne audit")
    if ambiguity:
        add_ambiguity(page, ambiguity, out, shown)
    if bias:
        add_bias(page, bias, shown)
    written = page.write(out / PAGE)
    if show:
        title = f"{name} on {data.schema.name}"
        if ambiguity:
            say(_printed(title, *headline(ambiguity, digits=2)))
        if bias:
            say(_printed(title, *bias_headline(bias, digits=2)))
        for note in (note for part in (ambiguity, bias) if part for note in part.result["notes"]):
            say(escape(note))
        if ambiguity and ambiguity.corrected:
            say(escape(f"Corrected data set, to accept or not: {ambiguity.corrected} ({CHANGES} lists what differs)"))
        say(escape(f"Page: {written}"))
    return {part: found.result for part, found in (("ambiguity", ambiguity), ("bias", bias)) if found}


def _groups(text: str) -> tuple[tuple[str, ...], ...]:
    """Groups of expressions as they are given: names joined by +, groups by commas."""
    return tuple(tuple(name.strip() for name in group.split("+")) for group in text.split(",") if group.strip())


def _printed(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    """The main figures for the terminal."""
    made = table(escape(title), head, rows)
    made.box, made.collapse_padding, made.pad_edge = box.SIMPLE_HEAD, True, False
    for column in made.columns[1:]:
        column.no_wrap = True
    return made


def _require_classes(model: Model, data: PreparedData) -> None:
    mine, theirs = model.schema.expressions, data.schema.labels.expressions
    if not mine:
        raise HonneError(
            f"Model '{model.name}' predicts no expressions, so there is nothing to audit.", "Choose another model."
        )
    if theirs and mine != theirs:
        raise HonneError(
            f"Model '{model.name}' and {data.root} have different label schemas: expressions [{', '.join(mine)}]"
            f" against [{', '.join(theirs)}].",
            "An audit goes class by class: take a model of these very classes, in this order.",
        )


def _splits(data: PreparedData, split: str) -> tuple[str, ...]:
    """The chosen split, or all that have rows.

    Raises:
        HonneError: there are no such rows.
    """
    present = tuple(name for name in SPLITS if (data.rows["split"] == name).any())
    if split == "all" and present:
        return present
    data.split("train" if split == "all" else split)  # says which splits there are where this one is empty
    return (split,)


def _own_folder(out: Path, data: PreparedData) -> Path:
    """Refuse what is not ours to replace, and to replace the data that are being read."""
    if data.root.resolve() in (out.resolve(), (out / CORRECTED).resolve()):
        raise WrongCall(f"--out: {out} would replace the data under audit, {data.root}.", "Choose another folder.")
    if out.exists() and not out.is_dir():
        raise WrongCall(f"--out: {out} is a file.", "Give a folder.")
    present = {each.name for each in out.iterdir() if not each.name.startswith(".")} if out.is_dir() else set()
    foreign = sorted(present - OWN)
    if foreign and not any((out / name).is_file() for name in (SUMMARY, BIAS_SUMMARY)):
        raise WrongCall(f"--out: {out} holds other things ({foreign[0]}) and no audit.", "Choose another folder.")
    if (out / CORRECTED).exists() and not (out / CORRECTED / CHANGES).is_file():
        raise WrongCall(f"--out: {out / CORRECTED} is not from an audit.", "Choose another folder, or move it away.")
    return out
