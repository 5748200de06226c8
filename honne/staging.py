"""Runs of several trainings: the stages one after the other, then the ensemble and one table of figures.

RUN/recipe.yaml            the recipe
RUN/labels.json            labels of each task, in the data and in an epoch
RUN/teacher, RUN/student_0 a run each, with its own model and logs
RUN/model/                 the ensemble
RUN/figures.csv            validation figures of all of them, with intervals

Every stage resumes by itself, and a finished one is not begun again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from honne.card import write_card
from honne.console import say, table
from honne.data.known import TASKS
from honne.data.label_counts import label_counts
from honne.data.loading import DataModule
from honne.data.manifest import PreparedData, replacing
from honne.evaluation import evaluate
from honne.evaluation.printing import name_of, shown
from honne.fitting import fit
from honne.labels import LabelSchema
from honne.methods.processes import is_first, wait_for_all
from honne.methods.stages import Stage
from honne.models import Model, device, load
from honne.networks.ensemble import Ensemble, joined
from honne.networks.stored import Stored
from honne.recipe import Recipe
from honne.runs import begin, finished

MEASURES = ("macro_f1", "au_f1", "ccc")
"""What the table on the screen shows; the file has all."""


FIGURES_FILE = "figures.csv"
FIGURES = ("model", "data", "split", "rows", "measure", "value", "low", "high", "resampled", "bootstrap_seed")


def run_stages(
    recipe: Recipe,
    stages: Sequence[Stage],
    out: Path,
    train: Callable[[Recipe, Path, Path], Path],
    open_module: Callable[[Recipe], DataModule],
) -> Path:
    """Train all stages of a recipe in `out`, and put their models together.

    Args:
        recipe: of the run.
        stages: in order.
        out: folder of the run.
        train: trains one recipe in a folder, with what may be shared in another.
        open_module: opens the data of a recipe.

    Returns:
        The folder of the model.
    """
    first = is_first()
    if begin(recipe, out) and (out / FIGURES_FILE).is_file():
        say(f"{out} is finished: its model is {out / 'model'}.")
        return out / "model"
    if first:
        report_labels(open_module(recipe), out)
    found: dict[str, Path] = {}
    groups = [(name, list(members)) for name, members in groupby(stages, key=lambda stage: stage.together)]
    for name, members in groups:
        trained = []
        for stage in members:
            option, taught_by = stage.takes
            taught = {option: found[taught_by]} if taught_by else {}
            named = {"model.name": f"{recipe.model.name or out.name}, {stage.name.replace('_', ' ')}"}
            say(f"[bold]{stage.name.replace('_', ' ')}[/] of {out}")
            trained.append(train(recipe.changed(stage.changes | taught | named), out / stage.name, out))
        if members[0].beside:
            trained.append(found[members[0].beside])
        last = name == groups[-1][0]
        found[name] = trained[0]
        if last or len(trained) > 1:
            run = out if last else out / name
            found[name] = run / "model"
            if first and not finished(run):
                _together(recipe, trained, found[name], open_module(recipe))
            wait_for_all()
    models = [out / stage.name / "model" for stage in stages]
    combined = [path for path in found.values() if path not in models]
    if first:
        _figures([*models, *combined], out)
    return out / "model"


def report_labels(data: DataModule, out: Path) -> None:
    """Say, and note in `out`, how many labels of each task there are, and how many an epoch shows."""
    counts = label_counts(data)
    with replacing(out / "labels.json") as path:
        path.write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tasks = [task for task in TASKS if counts["epoch"][task]]
    heads = ("data", "split", "rows", *(name.replace("_", " ") for name in tasks))
    shown = {"data": "shown in an epoch", "split": "train"} | counts["epoch"]
    lines = [
        [line["data"], line["split"], *(f"{line[name]:,}" for name in ("rows", *tasks))]
        for line in (*counts["data"], shown)
    ]
    say(table("Labels by task", heads, lines))


def _together(recipe: Recipe, trained: Sequence[Path], folder: Path, data: DataModule) -> None:
    """The ensemble of some models as one model, fitted and measured; of one model its copy under the run's name.

    Its thresholds are the means of the members', as published, which vary less than those of one more search.
    """
    members = [load(path) for path in trained]
    first, name = members[0].config, recipe.model.name or folder.parent.name
    config = replace(first, name=name, training=first.training | {"members": [each.name for each in members]})
    network = members[0].network
    if len(members) > 1:
        options = {
            "kind": first.network["kind"],
            "options": first.network["options"],
            "members": len(members),
            "average": getattr(recipe.options, "average", "probabilities"),
            "shared_frames": first.network["options"].get("frozen") == "whole",
        }
        network = Ensemble(first.labels, **options)
        network.load_state_dict(joined([each.network.state_dict() for each in members], options["shared_frames"]))
        config = replace(config, network={"kind": "ensemble", "options": options})
        model = Model(replace(config, temperature=1.0), network)
        model.to("cpu" if recipe.trainer.accelerator == "cpu" else device())
        fitted = fit(model.forward_batch, model.schema, data, "half")
        thresholds = np.mean([[each.thresholds[unit] for unit in model.schema.action_units] for each in members], 0)
        fitted.thresholds = dict(zip(model.schema.action_units, thresholds.round(6).tolist(), strict=True))
        network.to("cpu")
        config = replace(config, temperature=fitted.temperature, thresholds=fitted.thresholds)
    Model(config, network).save(folder, metrics={}, card="", half=recipe.model.half)
    write_card(load(folder), measure(folder, data.data), half=recipe.model.half)


def measure(model: Path, sets: Sequence[PreparedData]) -> list[dict[str, Any]]:
    """Figures of a model on the validation split of every data set that has one and labels something it predicts.

    Of expressions and units those count that both have.
    """
    schema = load(model).schema
    return [
        evaluate(
            model,
            data=each,
            split="valid",
            drop=",".join(_apart(schema.expressions, each.schema.labels.expressions)),
            units="common",
            show=False,
        )
        for each in sets
        if (each.rows["split"] == "valid").any() and _common(schema, each.schema.labels)
    ]


def _apart(some: Sequence[str], others: Sequence[str]) -> list[str]:
    """Classes that only one of two has; none where one has no classes at all."""
    return sorted(set(some) ^ set(others)) if some and others else []


def _common(one: LabelSchema, other: LabelSchema) -> bool:
    return bool(
        set(one.expressions) & set(other.expressions)
        or set(one.action_units) & set(other.action_units)
        or (one.valence_arousal and other.valence_arousal)
        or set(one.emotions) & set(other.emotions)
        or (one.sentiment and one.sentiment == other.sentiment)
    )


def _figures(models: Sequence[Path], out: Path) -> None:
    """RUN/figures.csv, and its gist on the screen."""
    lines, gist = [], []
    for folder in models:
        several = Stored.of(folder, "RUN/model").kind == "ensemble"
        name = folder.parent.name if folder.parent != out else "ensemble" if several else "model"
        cells: dict[tuple[str, str], str] = {}
        for each in json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["evaluations"]:
            data, seed, split = each["data"]["name"], each["seed"], each["split"]
            for measure_name, entry in each["metrics"].items():
                figures = (entry["value"], entry["low"], entry["high"])
                lines.append((name, data, split, each["rows"], measure_name, *figures, each["resampled"], seed))
                if measure_name in MEASURES:
                    cells[data, measure_name] = shown(entry)
        gist.append((name, cells))
    with replacing(out / FIGURES_FILE) as path, path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([FIGURES, *lines])
    columns = list(dict.fromkeys(column for _, cells in gist for column in cells))
    heads = ("model", *(f"{name_of(measure_name)} on {data}" for data, measure_name in columns))
    rows = [(name, *(cells.get(column, "-") for column in columns)) for name, cells in gist]
    say(table("Validation, on which weights were selected and thresholds searched [95 %]", heads, rows))
