"""Methods under label noise: the same backbone, data and budget for each, several seeds, measured on rows never seen.

    honne prepare ferplus ROOT --out FER --target-mode majority
    python benchmarks/label_noise.py FER --out RUNS [--arms erm dmue] [--noise 0 0.2] [--seeds 0 1 2] [--jobs 2]

FER+ from its training part alone: the official validation part ("PublicTest", without pixel copies of training
pictures) becomes the test split, a tenth of the training rows (the same for all) the validation split, on which only
temperatures are fitted: the weights are those after the last epoch. `--train` takes so many of the remaining rows.
Flips of labels depend on the seed, so the arms of one seed learn from the same wrong labels. The same command again
resumes. Differences are paired: the bootstrap draws faces, and averages over seeds within each draw.
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

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import honne
from honne.console import say, table
from honne.data.manifest import PreparedData, replacing, write_manifest
from honne.metrics import bootstrap, interval, p_value
from honne.metrics.calibration import nll
from honne.metrics.distributions import emd
from honne.metrics.expression import accuracy

MEMORY = {"dmue.soft_loss": "full", "dmue.soft_weight": 2.0, "dmue.soft_memory": 0.8}
ARMS: dict[str, dict[str, Any]] = {
    "erm": {"method": "erm"},
    "dmue": {"method": "dmue", "dmue.ramp": 1} | MEMORY,
    "dmue head": {"method": "dmue", "dmue.ramp": 1, "dmue.branch_depth": "head"} | MEMORY,
    "dmue published": {"method": "dmue", "dmue.ramp": 1, "dmue.confidence_prior": 0.0},
    "dmue released": {"method": "dmue", "dmue.ramp": 1, "dmue.compat": "released"},
    "dmue without memory": {"method": "dmue", "dmue.ramp": 1},
}
"""Name -> overrides of `BUDGET`."""

BUDGET: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"channels": [16, 32, 64, 128], "layers": [1, 1, 1, 1], "stem_width": 8},
    "model.mean": [0.507] * 3,
    "model.std": [0.255] * 3,
    "model.dropout": 0.1,
    "data.batch_size": 128,
    "data.workers": 0,
    "data.augment.rotation": 5,
    "data.augment.scale": [0.95, 1.05],
    "data.augment.shift": 0.03,
    "data.augment.erase": 0.0,
    "optim.lr": 4e-3,
    "trainer.epochs": 40,
    "trainer.ema": 0.99,
    "trainer.patience": 0,
    "trainer.monitor": "last",
    "trainer.precision": "bf16-mixed",
}
MEASURES = ("accuracy", "nll against votes", "emd against votes")


def split(source: Path, out: Path, rows: int) -> None:
    """A data set with the splits of the module's text; its images are those of `source`."""
    if (out / "schema.json").is_file():
        return
    data = PreparedData(source)
    frame = data.rows.assign(split=data.rows["split"].replace({"valid": "test"}))
    training = np.random.default_rng(0).permutation(frame.index[frame["split"] == "train"].to_numpy())
    held = round(0.1 * len(training))
    frame.loc[training[:held], "split"] = "valid"
    if rows:
        frame = frame.drop(index=training[held + rows :])
    out.mkdir(parents=True)
    (out / "images").symlink_to((source / "images").resolve())
    write_manifest(out, frame.reset_index(drop=True), data.schema)


def train(arm: str, noise: float, seed: int, data: Path, out: Path, threads: int) -> Path:
    """One run in a process of its own; returns the table of its answers on the test split."""
    run = out / f"{arm.replace(' ', '_')}-noise{noise:g}-seed{seed}"
    answers = run / "test.parquet"
    if answers.is_file():
        return answers
    overrides = BUDGET | ARMS[arm] | {"data.label_noise": noise, "trainer.seed": seed}
    method = overrides.pop("method")
    if method == "dmue":
        overrides["data.sampling"] = "every_class"
    words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in overrides.items()]
    call = [sys.executable, "-m", "honne", "train", method, "--data", str(data), "--out", str(run), *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: {done.stderr[-2000:]}")
    honne.evaluate(run / "model", data, split="test", out=run / "test.json", show=False)
    return answers


def answers(path: Path, classes: tuple[str, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """(N, C) probabilities, (N,) labels and (N, C) votes of a run."""
    frame = pd.read_parquet(path)
    probabilities = torch.from_numpy(frame[[f"p_{name}" for name in classes]].to_numpy(np.float64, copy=True))
    labels = torch.tensor([classes.index(name) for name in frame["true_expression"]])
    return (
        probabilities,
        labels,
        torch.from_numpy(frame[[f"true_votes_{name}" for name in classes]].to_numpy(np.float64, copy=True)),
    )


def figures(paths: list[Path], classes: tuple[str, ...], weight: Tensor | None = None) -> dict[str, Tensor]:
    """Each measure, mean over runs."""
    found: dict[str, list[Tensor]] = {name: [] for name in MEASURES}
    for path in paths:
        probabilities, labels, votes = answers(path, classes)
        found["accuracy"].append(accuracy(probabilities, labels, weight))
        found["nll against votes"].append(nll(probabilities, votes / votes.sum(1, keepdim=True), weight))
        found["emd against votes"].append(emd(probabilities, votes, weight=weight))
    return {name: torch.stack(values).mean(0) for name, values in found.items()}


def compared(paths: dict[str, list[Path]], classes: tuple[str, ...], rows: int) -> list[tuple[str, ...]]:
    """Rows of the table: each arm's figures with intervals, and its paired difference to the first arm."""
    draws = {arm: bootstrap(partial(figures, runs, classes), np.arange(rows)) for arm, runs in paths.items()}
    values = {arm: figures(runs, classes) for arm, runs in paths.items()}
    first = next(iter(paths))
    lines = []
    for arm in paths:
        cells = []
        for name in MEASURES:
            low, high = (float(edge) for edge in interval(draws[arm][name]))
            cells.append(f"{float(values[arm][name]):.3f} [{low:.3f}, {high:.3f}]")
            if arm != first:
                difference = draws[arm][name] - draws[first][name]
                low, high = (float(edge) for edge in interval(difference))
                gain = float(values[arm][name] - values[first][name])
                cells[-1] += f"\n{gain:+.3f} [{low:+.3f}, {high:+.3f}] p {float(p_value(difference)):.3f}"
        lines.append((arm, *cells))
    return lines


def main() -> None:
    """Train what is missing, print the tables, write RUNS/label_noise.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="FER+ as prepared")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", default=["erm", "dmue"], choices=list(ARMS))
    parser.add_argument("--noise", nargs="+", type=float, default=[0.0, 0.2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train", type=int, default=5000, help="training rows; 0 = all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of each run")
    arguments = parser.parse_args()
    data = arguments.out / f"data-{arguments.train or 'all'}"
    split(arguments.data, data, arguments.train)
    runs = arguments.out / f"runs-{arguments.train or 'all'}"
    tasks = [(arm, noise, seed) for seed in arguments.seeds for noise in arguments.noise for arm in arguments.arms]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        futures = {task: pool.submit(train, *task, data, runs, arguments.threads) for task in tasks}
        paths = {task: future.result() for task, future in futures.items()}
    prepared = PreparedData(data)
    classes, rows = prepared.schema.labels.expressions, len(prepared.split("test"))
    tables = {}
    for noise in arguments.noise:
        of_noise = {arm: [paths[arm, noise, seed] for seed in arguments.seeds] for arm in arguments.arms}
        tables[f"{noise:g}"] = compared(of_noise, classes, rows)
        title = f"{noise:.0%} symmetric label noise; {rows} test faces, seeds {arguments.seeds}, 95 % intervals"
        say(table(title, ("", *MEASURES), tables[f"{noise:g}"]))
    with replacing(arguments.out / "label_noise.json") as path:
        path.write_text(json.dumps({"budget": BUDGET, "arms": ARMS, "tables": tables}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
