"""`honne audit`: the command. Each kind of audit is a part of its own; the page joins them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from honne.audit.ambiguity import CORRECTED, SUMMARY, TABLE, Ambiguity, Settings, audit_ambiguity
from honne.audit.ambiguity_page import add_ambiguity, headline
from honne.audit.correcting import CHANGES, Correct
from honne.console import say, table
from honne.data.manifest import SPLITS, PreparedData
from honne.errors import HonneError, WrongCall
from honne.evaluation.evaluating import AnyData, AnyModel
from honne.models import Model, load
from honne.models import device as device_named
from honne.report import Page

PAGE = "audit.html"
OWN = frozenset({PAGE, SUMMARY, TABLE, CORRECTED})
"""What an audit may replace in its folder."""


def audit(
    model: AnyModel,
    data: AnyData,
    *,
    out: Path,
    ambiguity: bool = False,
    split: Literal["all", "train", "valid", "test"] = "all",
    correct: Correct = "relabel",
    shown: int = 16,
    replicates: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    show: bool = True,
) -> dict[str, Any]:
    """Look through a data set with a model and write one HTML page, with JSON and tables beside it.

    Ambiguity: ranks faces by uncertainty, sets what the model mined beside votes or label, lists likely label errors
    and writes a data set with these corrected, to be accepted or not.

    Args:
        model: name or folder of a model; in Python also a loaded one.
        data: folder of a prepared data set; in Python also an opened one.
        out: folder for the page and what belongs to it; what an earlier audit left there is replaced.
        ambiguity: this part alone; without any choice all parts are made.
        split: which rows to look at: all, train, valid or test. Only training labels are ever corrected.
        correct: what becomes of likely wrong training labels: relabel gives them the suggested class, drop takes
            them away.
        shown: faces in each gallery of the page.
        replicates: number of bootstrap replicates for the intervals.
        seed: seed of the bootstrap.
        batch_size: images at once; does not change the result.
        workers: loading processes.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.
        show: print the main figures.

    Returns:
        Part -> what its JSON file holds; `docs/commands/audit.md` lists it.

    Raises:
        HonneError: a model without expressions, other classes than the data's, an empty split, or a folder in use.
        WrongCall: an option that makes no sense.
    """
    for name, value, least in (("replicates", replicates, 1), ("shown", shown, 0)):
        if value < least:
            raise WrongCall(f"--{name}: {value} is too few.", f"Give {least} or more.")
    opened = data if isinstance(data, PreparedData) else PreparedData(data)
    if not isinstance(model, Model):
        model = load(model, device_named(device))
    _require_classes(model, opened)
    splits = _splits(opened, split)
    out = _own_folder(Path(out), opened)
    found = audit_ambiguity(model, opened, out, Settings(splits, correct, replicates, seed, batch_size, workers))
    page = Page(
        f"Audit of {model.name} on {opened.schema.name}",
        "Which faces are ambiguous, which labels are doubtful, and how well the model knows it.",
        eyebrow="honne audit",
    )
    add_ambiguity(page, found, out, shown)
    written = page.write(out / PAGE)
    if show:
        say(_printed(found))
        for note in found.result["notes"]:
            say(escape(note))
        if found.corrected:
            say(escape(f"Corrected data set, to accept or not: {found.corrected} ({CHANGES} lists what differs)"))
        say(escape(f"Page: {written}"))
    return {"ambiguity": found.result}


def _printed(found: Ambiguity) -> Table:
    """The main figures for the terminal."""
    names = (found.result[kind]["name"] for kind in ("model", "data"))
    made = table(escape(" on ".join(names)), *headline(found, digits=2))
    made.box, made.collapse_padding, made.pad_edge = box.SIMPLE_HEAD, True, False
    for column in made.columns[1:]:
        column.no_wrap = True
    return made


def _require_classes(model: Model, data: PreparedData) -> None:
    mine, theirs = model.schema.expressions, data.schema.labels.expressions
    if not mine:
        raise HonneError(
            f"Model '{model.name}' predicts no expressions, so there is no ambiguity to audit.", "Choose another model."
        )
    if theirs and mine != theirs:
        raise HonneError(
            f"Model '{model.name}' and {data.root} have different label schemas: expressions [{', '.join(mine)}]"
            f" against [{', '.join(theirs)}].",
            "Labels are doubted class by class: audit with a model of these very classes, in this order.",
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
    if foreign and not (out / SUMMARY).is_file():
        raise WrongCall(f"--out: {out} holds other things ({foreign[0]}) and no audit.", "Choose another folder.")
    if (out / CORRECTED).exists() and not (out / CORRECTED / CHANGES).is_file():
        raise WrongCall(f"--out: {out / CORRECTED} is not from an audit.", "Choose another folder, or move it away.")
    return out
