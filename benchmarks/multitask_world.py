"""What teacher and students gain from data that label one task each, where the truth is known.

    python benchmarks/multitask_world.py --out RUNS [--seeds 0 1 2] [--quick]

Each seed draws three worlds of different people, one labelled with expressions, one with action units, one with valence
and arousal, and a fourth, of other people again, to test on, labelled with all. Trained on the same labels: three
models of one task each; the teacher; the students, their ensemble. On films: the same method on single frames, and on
windows of frames with the network of frames frozen. Weights are selected and thresholds searched on validation parts of
the same worlds; nothing sees the test world.

The score of a row of the tables is the mean of macro-F1, AU F1 and CCC; figures are means over seeds, intervals
resample the tested subjects of each. The same command again resumes; several processes may train different seeds.
`--quick` only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import honne
from honne.console import say, table
from honne.data.manifest import PreparedData, replacing
from honne.data.world import World, make_world
from honne.evaluation.running import beside_labels, run_model
from honne.evaluation.scoring import cluster_rows, figures
from honne.evaluation.vocabulary import shared_vocabulary
from honne.metrics.resampling import bootstrap, interval
from honne.models import load

TASKS = {"expression": "macro_f1", "au": "au_f1", "va": "ccc"}
"""What a world is labelled with, and its measure."""
STILLS: dict[str, Any] = {"n": 600, "subjects": 24, "frames": 1}
FILMS: dict[str, Any] = {"n": 2400, "subjects": 48, "frames": 16}
WORLD: dict[str, Any] = {"size": 48, "voters": 0, "ambiguity": 0.5, "pose_range": 25.0, "valid_share": 0.25}
TEST: dict[str, Any] = {"subjects": 60, "valid_share": 0.02, "test_share": 0.96}
TESTED = {"stills": 2000, "films": 3200}

STUDENTS = 3
BUDGET: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"channels": [16, 32, 64, 96]},
    "model.hidden": 64,
    "data.workers": 0,
    "data.batch_size": 16,
    "data.augment.rotation": 4,
    "data.augment.shift": 0.02,
    "data.augment.scale": [0.97, 1.03],
    "data.augment.brightness": 0.1,
    "data.augment.contrast": 0.1,
    "data.augment.erase": 0,
    "optim.lr": 3e-3,
    "multitask.students": STUDENTS,
}
ALONE: dict[str, Any] = {"trainer.epochs": 60, "multitask.students": 0}
TOGETHER: dict[str, Any] = {"trainer.epochs": 30, "multitask.student_epochs": 30}
FRAMES: dict[str, Any] = {"trainer.epochs": 8, "multitask.student_epochs": 8}
CLIPS: dict[str, Any] = {
    "model.window": 16,
    "data.batch_size": 4,
    "trainer.epochs": 15,
    "multitask.student_epochs": 10,
}

Draws = dict[str, Tensor]
"""Measure -> (1 + replicates,): its value, then the bootstrap's."""


def worlds(folder: Path, seed: int, knobs: dict[str, Any], tested: int, quick: bool) -> dict[str, PreparedData]:
    """The three worlds to learn from, and `test`."""
    small = {"n": 128 if knobs["frames"] > 1 else 60, "subjects": 8} if quick else {}
    own = World(**WORLD | knobs | small | {"test_share": 0.0})
    found = {}
    for place, task in enumerate(TASKS):
        found[task] = _world(folder / task, replace(own, seed=1000 + 10 * seed + place, labels=task))
    asked = {"n": 160 if quick else tested, "seed": 1009 + 10 * seed, "labels": "+".join(TASKS)} | TEST
    return found | {"test": _world(folder / "test", replace(own, **asked))}


def _world(folder: Path, world: World) -> PreparedData:
    return PreparedData(folder) if (folder / "schema.json").is_file() else make_world(folder, world)


def trained(data: Sequence[PreparedData], run: Path, options: dict[str, Any], seed: int, quick: bool) -> Path:
    """The model of one run, trained in a process of its own unless it is there."""
    if (run / "model" / "config.yaml").is_file() and (run / "figures.csv").is_file():
        return run / "model"
    overrides = BUDGET | options | {"trainer.seed": seed}
    overrides |= {"trainer.epochs": 2, "multitask.student_epochs": 1} if quick else {}
    words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in overrides.items()]
    words += [word for each in data for word in ("--data", str(each.root))]
    call = [sys.executable, "-m", "honne", "train", "multitask", "--out", str(run), *words]
    done = subprocess.run(call, env={"OMP_NUM_THREADS": "1"} | os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: {done.stderr[-2000:]}")
    return run / "model"


def measured(model: Path, data: PreparedData, replicates: int) -> Draws:
    """The measures of the tasks that a model predicts, resampled by tested subject."""
    loaded = load(model)
    vocabulary = shared_vocabulary(loaded.schema, data.schema.labels, units="common")
    rows = data.split("test")
    clusters, _ = cluster_rows(data.rows.iloc[rows])
    scored = beside_labels(run_model(loaded, data, "test"), loaded, data, vocabulary, clusters)
    values = figures(scored)
    draws = bootstrap(lambda weight: figures(scored, weight), clusters, replicates, 0)
    return {name: torch.cat([values[name][None], draws[name]]) for name in TASKS.values() if name in values}


def with_score(parts: Draws) -> Draws:
    """The measures, and their mean."""
    return parts | {"score": torch.stack([parts[name] for name in TASKS.values()]).mean(0)}


def mean(several: Sequence[Draws]) -> Draws:
    """Measure by measure, the mean of several models or seeds."""
    return {name: torch.stack([each[name] for each in several]).mean(0) for name in several[0]}


def difference(one: Draws, other: Draws) -> Draws:
    """Replicate by replicate: both resample the same subjects."""
    return {name: one[name] - other[name] for name in one}


def shown(draws: Tensor) -> str:
    """A value with its interval."""
    low, high = interval(draws[1:])
    return f"{draws[0]:.3f} [{low:.3f}, {high:.3f}]"


def stills(root: Path, seed: int, quick: bool, replicates: int) -> dict[str, Draws]:
    """Models of one task each, and those of three, on single pictures."""
    data = worlds(root / f"stills-world-{seed}", seed, STILLS, TESTED["stills"], quick)
    alone: Draws = {}
    for task in TASKS:
        model = trained([data[task]], root / f"stills-alone-{task}-{seed}", ALONE, seed, quick)
        alone |= measured(model, data["test"], replicates)
    run = root / f"stills-together-{seed}"
    trained([data[task] for task in TASKS], run, TOGETHER, seed, quick)
    return {"one task each": with_score(alone)} | _models(run, data["test"], replicates)


def films(root: Path, seed: int, quick: bool, replicates: int) -> dict[str, Draws]:
    """The same method on the frames of films, one by one and in windows."""
    data = worlds(root / f"films-world-{seed}", seed, FILMS, TESTED["films"], quick)
    sets, single = [data[task] for task in TASKS], root / f"films-frames-{seed}"
    trained(sets, single, FRAMES, seed, quick)
    clips = root / f"films-clips-{seed}"
    frames = {"model.frames": str(single / "student_0" / "model")}
    trained(sets, clips, CLIPS | frames, seed, quick)
    found = {f"frames: {name}": each for name, each in _models(single, data["test"], replicates).items()}
    return found | {f"windows: {name}": each for name, each in _models(clips, data["test"], replicates).items()}


def _models(run: Path, test: PreparedData, replicates: int) -> dict[str, Draws]:
    students = [with_score(measured(run / f"student_{k}" / "model", test, replicates)) for k in range(STUDENTS)]
    found = {"teacher": with_score(measured(run / "teacher" / "model", test, replicates))}
    found |= {f"student {number}": each for number, each in enumerate(students)}
    return found | {"students, mean": mean(students), "ensemble": with_score(measured(run / "model", test, replicates))}


PAIRS = {
    "stills": (
        ("teacher", "one task each"),
        ("students, mean", "one task each"),
        ("students, mean", "teacher"),
        ("ensemble", "students, mean"),
        ("ensemble", "best student"),
    ),
    "films": (
        ("windows: students, mean", "frames: students, mean"),
        ("windows: student 0", "frames: student 0"),
        ("windows: ensemble", "frames: ensemble"),
        ("frames: ensemble", "frames: students, mean"),
        ("windows: ensemble", "windows: students, mean"),
    ),
}


def best_student(found: dict[str, Draws]) -> Draws:
    """The student with the highest score in the test: a rival chosen in hindsight."""
    students = [each for name, each in found.items() if name.startswith("student ")]
    return max(students, key=lambda each: float(each["score"][0]))


def report(kind: str, by_seed: Sequence[dict[str, Draws]]) -> dict[str, Any]:
    """Print the tables of stills or films; returns their figures."""
    for each in by_seed if kind == "stills" else ():
        each["best student"] = best_student(each)
    heads = ("", *TASKS.values(), "score")
    together = {name: mean([each[name] for each in by_seed]) for name in by_seed[0]}
    pairs = {f"{one} - {other}": [difference(each[one], each[other]) for each in by_seed] for one, other in PAIRS[kind]}
    rows = [(name, *(shown(each[measure]) for measure in heads[1:])) for name, each in together.items()]
    say(table(f"{kind}: mean over {len(by_seed)} seeds [95 % over tested subjects]", heads, rows))
    rows = [(name, *(shown(mean(each)[measure]) for measure in heads[1:])) for name, each in pairs.items()]
    say(table(f"{kind}: differences", heads, rows))
    rows = [(name, *(f"{seed['score'][0]:+.3f}" for seed in each)) for name, each in pairs.items()]
    say(table(f"{kind}: difference of the score, by seed", ("", *map(str, range(len(by_seed)))), rows))
    figures_of = {name: _figures(each) for name, each in together.items()}
    differences = {
        name: _figures(mean(each)) | {"score by seed": [round(float(seed["score"][0]), 4) for seed in each]}
        for name, each in pairs.items()
    }
    return {"figures": figures_of, "differences": differences}


def _figures(draws: Draws) -> dict[str, Any]:
    found = {}
    for name, each in draws.items():
        low, high = interval(each[1:])
        found[name] = {"value": round(float(each[0]), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
    return found


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """The scores of the models as a picture."""
    shown_of = {
        "stills": ("one task each", "teacher", "students, mean", "ensemble"),
        "films": ("frames: students, mean", "frames: ensemble", "windows: students, mean", "windows: ensemble"),
    }
    names = {"macro_f1": "expression, macro-F1", "au_f1": "action units, F1", "ccc": "valence and arousal, CCC"}
    colours = ("#6b7683", "#d9822b", "#2457a7", "#00796b")
    figure = Figure((11.5, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, sharex="row")
    for line, (kind, models) in zip(axes, shown_of.items(), strict=True):
        for axis, (measure, title) in zip(line, names.items(), strict=True):
            for place, (model, colour) in enumerate(zip(models, colours, strict=True)):
                entry = found[kind]["figures"][model][measure]
                axis.plot([entry["low"], entry["high"]], [place, place], color=colour, linewidth=2.4)
                axis.plot(entry["value"], place, "o", color=colour, markersize=7)
            axis.set(yticks=range(len(models)), ylim=(len(models) - 0.4, -0.6))
            axis.set_yticklabels(models if measure == "macro_f1" else [], fontsize=9)
            axis.set_title(f"{kind}: {title}", loc="left", fontsize=10)
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(axis="x", alpha=0.3, linewidth=0.6)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=110, format="png")


def main() -> None:
    """Train what is missing, print the tables, write RUNS/multitask_world.json and .png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=("stills", "films"), default=["stills", "films"])
    parser.add_argument("--quick", action="store_true", help="small worlds, two epochs: shows only that it runs")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    arguments = parser.parse_args()
    root = arguments.out / ("quick" if arguments.quick else "full")
    runs = {"stills": stills, "films": films}
    found = {}
    for kind in arguments.kinds:
        by_seed = [runs[kind](root, seed, arguments.quick, arguments.replicates) for seed in arguments.seeds]
        found[kind] = report(kind, by_seed)
    result = {
        "honne": honne.__version__,
        "quick": arguments.quick,
        "seeds": arguments.seeds,
        "world": WORLD | {"stills": STILLS, "films": FILMS, "tested": TESTED},
        "budget": BUDGET | {"alone": ALONE, "together": TOGETHER, "frames": FRAMES, "clips": CLIPS},
    } | found
    with replacing(root / "multitask_world.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if len(found) == len(runs):
        draw(found, root / "multitask_world.png")


if __name__ == "__main__":
    main()
