"""The bias laboratory: a plain and a cured recipe trained on every fold and seed, each time the same way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from honne import recipe as recipes
from honne.audit.bias_answers import ask, test_rows
from honne.audit.bias_figures import CURED, PLAIN, Asked
from honne.data.bias import BiasOptions, cells, write_biased
from honne.data.manifest import PreparedData
from honne.errors import HonneError, WrongCall
from honne.evaluation.scoring import cluster_rows
from honne.models import Model, load
from honne.models import device as device_named
from honne.training import train

log = logging.getLogger("honne")

FOLDS, RUNS = "folds", "runs"


@dataclass(frozen=True)
class Laboratory:
    """What is trained.

    Args:
        recipes: arm -> recipe, for `plain` and `cured`.
        folds: how many, from fold 0 on.
        seeds: of the training, how many, from 0 on.
        jobs: runs at once.
        bias: of the folds; its `fold` is not looked at.
        overrides: options of both recipes, e.g. {"trainer.epochs": 5}.
        own: arm -> further options of its recipe alone.
    """

    recipes: Mapping[str, str]
    folds: int
    seeds: int = 1
    jobs: int = 1
    bias: BiasOptions = field(default_factory=BiasOptions)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("folds", "seeds", "jobs"):
            if getattr(self, name) < 1:
                raise WrongCall(f"--{name}: {getattr(self, name)} is too few.", "Give 1 or more.")


@dataclass(frozen=True)
class Run:
    """One training run of the laboratory.

    Attributes:
        fold: number of the fold.
        seed: of the run.
        arm: plain or cured.
        recipe: name or file.
        overrides: of the recipe.
        data: the fold's folder.
        out: the run's folder.
    """

    fold: int
    seed: int
    arm: str
    recipe: str
    overrides: Mapping[str, Any]
    data: Path
    out: Path

    @property
    def model(self) -> Path:
        """The result."""
        return self.out / "model"


def run_laboratory(laboratory: Laboratory, data: PreparedData, out: Path) -> list[Run]:
    """Make the folds and train; the same call again goes on where an interrupted one stopped.

    Args:
        laboratory: what to train.
        data: with strata.
        out: folder; `folds/` and `runs/` come into it.

    Raises:
        HonneError: data without two strata, more folds than strata, a fold that cannot be, or a run that failed.
    """
    for recipe in laboratory.recipes.values():
        recipes.find(recipe)
    strata = cells(data.rows, data.schema.labels.expressions).strata
    if 1 < len(strata) < laboratory.folds:
        raise WrongCall(
            f"--folds: {laboratory.folds} are more than there are strata, {len(strata)} ({', '.join(strata)}).",
            f"Give {len(strata)} or fewer.",
        )
    folders = [out / FOLDS / f"fold{fold}" for fold in range(laboratory.folds)]
    for fold, folder in enumerate(folders):
        write_biased(folder, data, replace(laboratory.bias, fold=fold))
    runs = list(_runs(laboratory, folders, out / RUNS))
    if laboratory.jobs == 1:
        for place, run in enumerate(runs):
            log.info("run %d of %d: %s", place + 1, len(runs), run.out.name)
            train(run.recipe, data=run.data, out=run.out, overrides=dict(run.overrides))
    else:
        _train_apart(runs, laboratory.jobs)
    return runs


def _runs(laboratory: Laboratory, folders: list[Path], out: Path) -> Iterator[Run]:
    for seed in range(laboratory.seeds):
        for fold, folder in enumerate(folders):
            for arm, recipe in laboratory.recipes.items():
                given = {**laboratory.overrides, **laboratory.own.get(arm, {}), "trainer.seed": seed}
                yield Run(fold, seed, arm, recipe, given, folder, out / f"fold{fold}-seed{seed}-{arm}")


def _train_apart(runs: list[Run], jobs: int) -> None:
    """Several runs at once, each in a process of its own with one thread, its words in RUN.log."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for place, run in enumerate(pool.map(_train_one, runs)):
            log.info("run %d of %d is done: %s", place + 1, len(runs), run.out.name)
    finally:
        pool.shutdown(cancel_futures=True)


def _train_one(run: Run) -> Run:
    words = [sys.executable, "-m", "honne", "train", run.recipe, "--data", str(run.data), "--out", str(run.out)]
    for name, value in run.overrides.items():
        words.append(f"--{name}={yaml.safe_dump(value, default_flow_style=True).strip().removesuffix('...').strip()}")
    run.out.parent.mkdir(parents=True, exist_ok=True)
    said = run.out.with_name(f"{run.out.name}.log")
    with said.open("w", encoding="utf-8") as file:
        ended = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if ended.returncode:
        lines = [line for line in said.read_text(encoding="utf-8").splitlines() if line.startswith("honne: ")]
        why = lines[-1].removeprefix("honne: ").removeprefix("error: ") if lines else f"status {ended.returncode}"
        raise HonneError(f"run {run.out.name} failed: {why}", f"All that it said is in {said}.")
    return run


def flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Options in groups, as the command line gives them, by dotted names; names with a dot are left as they are.

    Example:
        >>> flat({"trainer": {"epochs": "5"}, "model.head_options": {"side": [4, 4]}})
        {'trainer.epochs': 5, 'model.head_options': {'side': [4, 4]}}
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and "." not in name:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = yaml.safe_load(value) if isinstance(value, str) else value
    return found


def models_of(runs: list[Run], device: str) -> Iterator[tuple[Run, Model]]:
    """Every run with its model."""
    for run in runs:
        yield run, load(run.model, device_named(device))


def asked(runs: list[Run], data: PreparedData, *, batch_size: int, workers: int, device: str) -> list[Asked]:
    """What every model says of the test rows of its fold.

    Args:
        runs: of `run_laboratory`.
        data: of which the folds were made.
        batch_size: images at once; does not change the result.
        workers: loading processes.
        device: to run on.
    """
    people = dict(zip(data.rows["id"], cluster_rows(data.rows)[0], strict=True))
    folds: dict[int, Asked] = {}
    for run, model in models_of(runs, device):
        if run.fold not in folds:
            fold = PreparedData(run.data)
            clusters = fold.rows["id"].map(people).to_numpy()
            folds[run.fold] = Asked(test_rows(fold, "test", run.fold, clusters), {PLAIN: [], CURED: []})
        answers: Any = folds[run.fold].answers[run.arm]
        answers.append(ask(model, folds[run.fold].rows, "test", batch_size=batch_size, workers=workers))
    return list(folds.values())
