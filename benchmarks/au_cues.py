"""What the alignment loss does: the same backbone, data and budget with and without it, several seeds.

    honne prepare ferplus ZIP --out FER --target-mode majority --landmarks mesh
    python benchmarks/au_cues.py ferplus --data FER --out RUNS [--seeds 0 1 2] [--weight 3] [--jobs 2]
    python benchmarks/au_cues.py world --out RUNS

FER+: from its training part alone; the official validation part ("PublicTest", without pixel copies of training
pictures) is the test split, a tenth of the training rows the validation split. The world is drawn; its test split
has people of its own. Weights are those after the last epoch: nothing is selected. `--split valid` measures there, for
trials. The same command again resumes.

ATT-COS is the cosine of the attention of the aligned layer and the heat map of the labelled expression, CAM-COS that of
a class activation map of the label; means over the classes that have a heat map. Beside them what a map gets that knows
nothing of the face or of its expression. Differences are paired: the bootstrap draws faces (people in the world), and
averages over seeds within each draw.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from label_noise import split as ferplus_splits
from torch import Tensor

from honne.console import say, table
from honne.cues.codebook import codebook
from honne.cues.drawing import action_unit_maps
from honne.data.loading import batches
from honne.data.manifest import PreparedData, replacing
from honne.data.world import World, make_world
from honne.evaluation.scoring import cluster_rows
from honne.explain.maps import class_activation_map, on_image
from honne.explain.measuring import MapOptions, explained_faces
from honne.metrics import bootstrap, interval, p_value
from honne.models import load

BUDGET: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.mean": [0.507] * 3,
    "model.std": [0.255] * 3,
    "model.dropout": 0.1,
    "data.batch_size": 128,
    "data.augment.rotation": 5,
    "data.augment.scale": [0.95, 1.05],
    "data.augment.shift": 0.03,
    "data.augment.erase": 0.0,
    "optim.lr": 4e-3,
    "trainer.ema": 0.99,
    "trainer.patience": 0,
    "trainer.monitor": "last",
    "trainer.precision": "bf16-mixed",
}
NARROW = {"channels": [16, 32, 64, 128], "layers": [1, 1, 1, 1], "stem_width": 8}
RESOLUTIONS: dict[str, dict[str, Any]] = {
    "fine": {"model.backbone_options": NARROW, "model.large_maps": True},
    "coarse": {"model.backbone_options": NARROW | {"output_stride": 16}},
}
"""How many positions the last map has: a sixteenth (fine) or a sixty-fourth (coarse) of the pixels, 12 x 12 or 6 x 6 of
a 48 px face; of 64 px 16 x 16 or 8 x 8."""
RESOLUTION = {"ferplus": "fine", "world": "coarse"}
METHODS: dict[str, dict[str, Any]] = {"erm": {}, "dmue": {"dmue.branch_depth": "head", "dmue.ramp": 1}}
EPOCHS = {"ferplus": 20, "world": 15}
WORLD = {
    "n": 7000,
    "size": 64,
    "subjects": 120,
    "valid_share": 0.15,
    "test_share": 0.3,
    "ambiguity": 0.6,
    "domains": 3,
    "annotation": "single",
    "labels": "expression",
}
MAPS = ("cam", "layercam")
NULLS = {
    "uniform_cos": "uniform",
    "centre_cos": "centre blob",
    "mean_cos": "mean heat map",
    "other_cos": "another class",
}


def prepared(kind: str, arguments: argparse.Namespace) -> Path:
    """The data of a kind, made unless they are there."""
    out = Path(arguments.out) / f"data-{kind}"
    if kind == "ferplus":
        ferplus_splits(arguments.data, out, arguments.train)
    elif not (out / "schema.json").is_file():
        make_world(out, World(seed=5, **WORLD))  # type: ignore[arg-type]
    return out


def train(kind: str, weight: float, seed: int, data: Path, arguments: argparse.Namespace) -> Path:
    """The model of one run, trained in a process of its own unless it is there."""
    run = Path(arguments.out) / f"{kind}-{arguments.method}-{arguments.resolution}-weight{weight:g}-seed{seed}"
    if (run / "model" / "config.yaml").is_file():
        return run / "model"
    overrides = (
        BUDGET
        | RESOLUTIONS[arguments.resolution]
        | {"trainer.epochs": arguments.epochs or EPOCHS[kind], "trainer.seed": seed}
    )
    overrides |= METHODS[arguments.method] | {"au_cues.weight": weight}
    words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in overrides.items()]
    call = [sys.executable, "-m", "honne", "train", arguments.method, "--data", str(data), "--out", str(run), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: {done.stderr[-2000:]}")
    return run / "model"


def measured(model: Path, data: Path, split: str) -> pd.DataFrame:
    """Every face of the split: right or not, and its cosines."""
    path = model.parent / f"{split}.parquet"
    if not path.is_file():
        loaded = load(model)

        def with_map(kind: str) -> pd.DataFrame:
            return explained_faces(
                loaded, data, split, MapOptions.of(loaded, kind=kind, layers="last", codebook="facs")
            )

        found = with_map(MAPS[0])
        others = {f"{kind}_cos": with_map(kind)["cam_cos"] for kind in MAPS[1:]}
        found = found.assign(right=(found["predicted"] == found["expression"]).astype(float), **others)
        with replacing(path) as aside:
            found.to_parquet(aside)
    return pd.read_parquet(path)


def figures(runs: list[pd.DataFrame], names: tuple[str, ...], weight: Tensor | None = None) -> dict[str, Tensor]:
    """Accuracy, and the class means of the cosines, mean over runs."""
    found = {name: torch.stack([_class_mean(run, name, weight) for run in runs]).mean(0) for name in names}
    weight = torch.ones(1, len(runs[0]), dtype=torch.float64) if weight is None else weight
    right = torch.stack([torch.from_numpy(run["right"].to_numpy(np.float64, copy=True)) for run in runs]).mean(0)
    return {"accuracy": ((weight @ right) / weight.sum(1)).squeeze()} | found


def _class_mean(run: pd.DataFrame, name: str, weight: Tensor | None) -> Tensor:
    values = torch.from_numpy(run[name].to_numpy(np.float64, copy=True))
    weight = torch.ones(1, len(run), dtype=torch.float64) if weight is None else weight
    means = []
    for expression in sorted(run.loc[run[name].notna(), "expression"].unique()):
        rows = torch.from_numpy(((run["expression"] == expression) & run[name].notna()).to_numpy(copy=True))
        means.append((weight[:, rows] @ values[rows]) / weight[:, rows].sum(1))
    return torch.stack(means).nanmean(0).squeeze()


def cell(value: Tensor, draws: Tensor, sign: str = "") -> str:
    """A figure with its interval."""
    low, high = (float(edge) for edge in interval(draws))
    return f"{float(value):{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def picture(models: dict[float, Path], data: PreparedData, path: Path) -> None:
    """One drawn face per expression: its cue, then attention and class activation map without and with the loss."""
    loaded = [load(model) for model in models.values()]
    names = loaded[0].schema.expressions
    table_of_units = torch.from_numpy(codebook("facs").table(names))
    size = loaded[0].alignment.size
    batch = next(batches(data, "test", size=size, batch_size=256))
    assert batch.images is not None
    assert batch.landmarks is not None
    assert batch.labels.expression is not None
    cues = action_unit_maps(batch.landmarks, table_of_units[batch.labels.expression], size, size)
    shown = [
        int(rows[0])
        for expression in range(len(names))
        if len(rows := torch.nonzero((batch.labels.expression == expression) & cues.isfinite().all(2).all(1)))
    ]
    columns = {"face": None, "cue": cues[shown]}
    target = batch.labels.expression[shown]
    for weight, model in zip(models, loaded, strict=True):
        found = class_activation_map(model, batch.images[shown], target, MAPS[1])
        word = f"weight {weight:g}" if weight else "without the loss"
        columns[f"attention,\n{word}"] = on_image(found.attention["last"], size, "attention")
        columns[f"layercam,\n{word}"] = on_image(found.maps, size, "cam")
    figure, axes = plt.subplots(len(shown), len(columns), figsize=(1.25 * len(columns), 1.3 * len(shown)), dpi=130)
    for row, face in enumerate(shown):
        for column, (title, maps) in enumerate(columns.items()):
            each = axes[row, column]
            each.imshow(batch.images[face].permute(1, 2, 0))
            if maps is not None:
                each.imshow(maps[row], cmap="inferno", alpha=0.65)
            each.set_xticks([])
            each.set_yticks([])
            each.spines[:].set_visible(False)
            if not row:
                each.set_title(title, fontsize=7)
        axes[row, 0].set_ylabel(names[int(batch.labels.expression[face])], fontsize=7)
    figure.tight_layout(pad=0.3)
    with replacing(path) as aside:
        figure.savefig(aside, format="jpg", pil_kwargs={"quality": 88})


def main() -> None:
    """Train what is missing, print the table, write RUNS/KIND.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=list(EPOCHS))
    parser.add_argument("--data", type=Path, help="FER+ as prepared, with landmarks")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weight", type=float, default=3.0, help="of the alignment loss")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=8000, help="training rows of FER+; 0 = all")
    parser.add_argument("--epochs", type=int, default=0, help="default: 20 for ferplus, 15 for world")
    parser.add_argument("--method", choices=list(METHODS), default="erm")
    parser.add_argument("--resolution", choices=list(RESOLUTIONS), help="default: fine for ferplus, coarse for world")
    parser.add_argument("--split", choices=("valid", "test"), default="test")
    parser.add_argument("--picture", type=Path, help="of drawn faces, FILE.jpg; for the world only")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    arguments = parser.parse_args()
    if arguments.kind == "ferplus" and (arguments.data is None or arguments.picture):
        parser.error("ferplus needs --data, and its faces are not for showing")
    arguments.resolution = arguments.resolution or RESOLUTION[arguments.kind]
    data = prepared(arguments.kind, arguments)
    tasks = [(weight, seed) for seed in arguments.seeds for weight in (0.0, arguments.weight)]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {task: pool.submit(train, arguments.kind, *task, data, arguments) for task in tasks}
        models = {task: future.result() for task, future in futures.items()}
    opened = PreparedData(data)
    if arguments.picture:
        shown = {weight: models[weight, arguments.seeds[0]] for weight in (0.0, arguments.weight)}
        picture(shown, opened, arguments.picture)
    clusters, resampled = cluster_rows(opened.rows.iloc[opened.split(arguments.split)])
    cosines = ("att_cos", "cam_cos", *(f"{kind}_cos" for kind in MAPS[1:]))
    values, draws = {}, {}
    for weight in (0.0, arguments.weight):
        runs = [measured(models[weight, seed], data, arguments.split) for seed in arguments.seeds]
        values[weight] = figures(runs, (*cosines, *NULLS))
        draws[weight] = bootstrap(partial(figures, runs, (*cosines, *NULLS)), clusters)
    names = ("accuracy", *cosines)
    lines = [
        (f"weight {weight:g}", *(cell(values[weight][name], draws[weight][name]) for name in names))
        for weight in values
    ]
    gains = {name: draws[arguments.weight][name] - draws[0.0][name] for name in names}
    changes = [cell(values[arguments.weight][name] - values[0.0][name], gains[name], "+") for name in names]
    changes = [f"{text} p {float(p_value(gains[name])):.3f}" for name, text in zip(names, changes, strict=True)]
    lines.append(("difference", *changes))
    shown = dict(
        zip(("att_cos", "cam_cos", *cosines[2:]), ("ATT-COS", "CAM-COS (cam)", "CAM-COS (layercam)"), strict=True)
    )
    title = (
        f"{arguments.kind}, {arguments.split}: {len(clusters)} faces, seeds {arguments.seeds}, 95 % over {resampled}s"
    )
    say(table(title, ("", "accuracy", *shown.values()), lines))
    nulls = [(text, cell(values[0.0][name], draws[0.0][name])) for name, text in NULLS.items()]
    say(table("What a map gets that knows nothing", ("in place of the map", "cosine"), nulls))
    with replacing(
        Path(arguments.out) / f"{arguments.kind}-{arguments.method}-{arguments.resolution}-{arguments.split}.json"
    ) as path:
        record: dict[str, Any] = {"budget": BUDGET | RESOLUTIONS[arguments.resolution], "weight": arguments.weight}
        record |= {"epochs": arguments.epochs or EPOCHS[arguments.kind], "seeds": arguments.seeds}
        path.write_text(json.dumps(record | {"table": lines, "nulls": nulls}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
