"""What DMUE finds on faces whose mixture of expressions is known: against plain training of the same network.

    python benchmarks/dmue_world.py --out RUNS [--seeds 0 1 2] [--quick]

Each seed draws a world of its own and seeds both methods; they share backbone, budget, data and flipped labels. Two
conditions: faces labelled with one observer's word (mined distributions, uncertainty), and with the truth but 20 %
replaced by another class (wrong labels). Nothing that is measured against is seen in training: the mixtures lie beside
the manifest. Figures are those of `honne audit`, over the faces of all seeds together; intervals resample subjects. The
same command again resumes. `--quick` only shows that it runs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import honne
from honne.audit.faces import Faces, doubts, gather
from honne.audit.figures import Figures as AuditFigures
from honne.audit.seen import as_seen
from honne.console import say, table
from honne.data.manifest import PreparedData, replacing
from honne.data.world import World, make_world
from honne.evaluation.scoring import cluster_rows
from honne.metrics.ambiguity import others
from honne.metrics.expression import accuracy
from honne.models import load

WORLD: dict[str, Any] = {
    "n": 6000,
    "size": 48,
    "labels": "expression",
    "ambiguity": 1.0,
    "subjects": 150,
    "pose_range": 15.0,
}
CONDITIONS: dict[str, tuple[Literal["truth", "single"], float]] = {"observer": ("single", 0.0), "noise": ("truth", 0.2)}
"""Name -> annotation of the world, share of training labels replaced."""

BUDGET: dict[str, Any] = {
    "model.backbone": "face_resnet",
    "model.backbone_options": {"channels": [16, 32, 64, 128], "layers": [1, 1, 1, 1], "stem_width": 8},
    "model.dropout": 0.1,
    "data.batch_size": 128,
    "data.workers": 0,
    "data.augment.rotation": 5,
    "data.augment.scale": [0.95, 1.05],
    "data.augment.shift": 0.03,
    "data.augment.erase": 0.0,
    "optim.lr": 4e-3,
    "trainer.epochs": 20,
    "trainer.ema": 0.99,
    "trainer.patience": 0,
    "trainer.monitor": "last",
    "trainer.precision": "bf16-mixed",
}
ARMS: dict[str, dict[str, Any]] = {
    "erm": {},
    "dmue": {
        "dmue.branch_depth": "head",
        "dmue.ramp": 0,
        "dmue.temperature": 1.0,
        "dmue.soft_loss": "squared",
        "dmue.soft_weight": 0.5,
        "dmue.soft_memory": 0.0,
        "dmue.similarity_weight": 0.0,
        "dmue.confidence_input": "own",
        "dmue.confidence_prior": 0.1,
    },
}
SPLITS = ("train", "test")
CLOSE = {"kl": "KL", "emd": "EMD", "js": "JS", "top1_hit": "top-1 hit"}
BAR = 0.8


def world(folder: Path, seed: int, annotation: Literal["truth", "single"], quick: bool) -> PreparedData:
    """The world of a seed."""
    if (folder / "schema.json").is_file():
        return PreparedData(folder)
    knobs = WORLD | ({"n": 900, "subjects": 40} if quick else {})
    return make_world(folder, World(seed=seed, annotation=annotation, **knobs))


def trained(arm: str, noise: float, seed: int, data: PreparedData, run: Path, quick: bool) -> Path:
    """The model of one run, trained in a process of its own unless it is there."""
    if (run / "model" / "config.yaml").is_file():
        return run / "model"
    overrides = BUDGET | ARMS[arm] | {"data.label_noise": noise, "trainer.seed": seed}
    overrides |= {"trainer.epochs": 3} if quick else {}
    words = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in overrides.items()]
    call = [sys.executable, "-m", "honne", "train", arm, "--data", str(data.root), "--out", str(run), *words]
    done = subprocess.run(call, env={"OMP_NUM_THREADS": "1"} | os.environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{run}: {done.stderr[-2000:]}")
    return run / "model"


def looked_at(model: Path, data: PreparedData) -> Iterator[tuple[Faces, Faces]]:
    """What `honne audit` gathers of each split: with the probabilities of the model, and before their calibration.

    Validation labels of a world are right, so that calibration to them sharpens what learned from doubtful labels.
    """
    loaded = load(model)
    for split in SPLITS:
        faces = gather(loaded, as_seen(data, loaded), split, batch_size=64, workers=0)[0]
        before = (faces.probabilities.double().log() * loaded.config.temperature).softmax(1)
        yield faces, replace(faces, probabilities=before)


def pooled(parts: Sequence[Faces]) -> Faces:
    """The faces of several worlds as those of one."""
    first = parts[0]
    everyone = PreparedData(first.data.root)
    everyone.rows = pd.concat([part.data.rows.iloc[part.rows] for part in parts], ignore_index=True)
    clusters, what = cluster_rows(everyone.rows)

    def joined(name: str) -> Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    tensors = {name: joined(name) for name, value in vars(first).items() if isinstance(value, Tensor)}
    rows = np.arange(len(everyone.rows))
    return replace(first, data=everyone, rows=rows, clusters=clusters, resampled=what, **tensors)


def figures(faces: Faces, replicates: int) -> dict[str, Any]:
    """Those of the audit, and accuracy."""
    assert faces.true_class is not None
    found = AuditFigures(faces, doubts(faces), replicates, 0).all()
    return found | {"accuracy": float(accuracy(faces.probabilities, faces.true_class))}


def closeness(faces: Faces, rival: Faces, replicates: int) -> dict[str, Any]:
    """How close what was mined and the rival's softmax come to the mixture, both without the label's class."""
    assert faces.true_mixture is not None
    softmax, mixture = (others(each, faces.labels) for each in (rival.probabilities, faces.true_mixture))
    return AuditFigures(faces, doubts(faces), replicates, 0).compared(faces.mined, softmax, mixture)


def shown(entry: dict[str, float | None] | None) -> str:
    """A figure with its interval."""
    if not entry or entry["value"] is None:
        return "-"
    return f"{entry['value']:.3f} [{entry['low']:.3f}, {entry['high']:.3f}]"


def say_closeness(title: str, found: dict[str, dict[str, Any]]) -> None:
    """Rival -> `closeness`."""
    mined = next(iter(found.values()))
    rows = [("mined", mined["mined"])]
    rows += [(name, each["softmax"]) for name, each in found.items()]
    rows += [(f"mined - {name}", each["difference"]) for name, each in found.items()]
    cells = [(name, *(shown(each[measure]) for measure in CLOSE)) for name, each in rows]
    title += f": to the mixture of the classes other than the label, {mined['rows']} faces"
    say(table(title, ("", *CLOSE.values()), cells))


def say_scores(found: dict[str, dict[str, Any]], condition: str) -> None:
    """How well ambiguous faces and wrong labels are told apart from the others."""
    rows = []
    for name, each in found.items():
        if name.startswith(condition):
            truth, wrong = each["truth"], each.get("noise", {})
            rows.append(
                (
                    name.removeprefix(condition).strip(),
                    f"{each['accuracy']:.3f}",
                    shown(truth.get("auc_uncertainty")),
                    shown(truth["order"].get("uncertainty_entropy")),
                    *(shown(wrong.get(score)) for score in ("auc", "auc_confidence", "auc_self_confidence")),
                )
            )
    head = ("", "accuracy", "ambiguous", "rank correlation", "wrong: label error", "wrong: 1 - s", "wrong: 1 - p")
    say(table(f"{condition}: AUC for ambiguous over clear faces, and wrong over right labels (bar {BAR})", head, rows))


def draw(faces: Faces, plain: Faces, path: Path, count: int = 6) -> None:
    """Unseen faces whose label is only part of the truth: true mixture, as mined, and plain softmax.

    The first face of each label whose second expression has a share of 0.3 to 0.5, so that none is chosen for how well
    it went.
    """
    assert faces.true_mixture is not None
    second = faces.true_mixture.topk(2).values[:, 1]
    chosen = [int(((faces.labels == label) & (second > 0.3)).nonzero()[0, 0]) for label in range(count)]
    names = faces.data.schema.labels.expressions
    figure = Figure((13, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, count, height_ratios=(1, 1.6))
    sides = (
        ("true mixture", faces.true_mixture),
        ("mined", faces.distribution),
        ("plain softmax", plain.probabilities),
    )
    for column, row in enumerate(chosen):
        picture, bars = axes[:, column]
        picture.imshow(Image.open(io.BytesIO(faces.data.image_bytes(int(faces.rows[row])))))
        picture.set_title(f"labelled {names[faces.labels[row]]}", fontsize=10)
        picture.axis("off")
        for place, ((name, values), colour) in enumerate(zip(sides, ("#333333", "#00796b", "#d9822b"), strict=True)):
            at = np.arange(len(names)) + 0.27 * (place - 1)
            bars.barh(at, values[row].double().numpy(), 0.25, color=colour, label=name)
        bars.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), yticks=range(len(names)), xticks=(0, 0.5, 1))
        bars.set_yticklabels(names if column == 0 else [])
        bars.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[1, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=110, format="png")


def main() -> None:
    """Train what is missing, print the tables, write RUNS/dmue_world.json and RUNS/dmue_world.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="small worlds, three epochs: shows only that it runs")
    parser.add_argument("--replicates", type=int, default=1000, help="of the bootstrap")
    arguments = parser.parse_args()
    root, quick = arguments.out / ("quick" if arguments.quick else "full"), arguments.quick
    found: dict[str, dict[str, Any]] = {}
    close: dict[str, dict[str, Any]] = {}
    for condition, (annotation, noise) in CONDITIONS.items():
        parts: dict[tuple[str, str], list[Faces]] = {}
        for seed in arguments.seeds:
            data = world(root / f"world-{annotation}-{seed}", seed, annotation, quick)
            for arm in ARMS:
                model = trained(arm, noise, seed, data, root / f"{condition}-{arm}-{seed}", quick)
                for faces, before in looked_at(model, data):
                    parts.setdefault((arm, faces.split), []).append(faces)
                    parts.setdefault((f"{arm} uncalibrated", faces.split), []).append(before)
        together = {key: pooled(each) for key, each in parts.items()}
        for split in SPLITS:
            if condition == "observer" and split == "test":
                draw(parts["dmue", split][0], parts["erm", split][0], root / "dmue_world.png")
            for arm in ARMS:
                found[f"{condition} {arm} {split}"] = figures(together[arm, split], arguments.replicates)
            mining = together["dmue", split]
            rivals = {name: together[name, split] for name, side in together if side == split}
            name = f"{condition}, {split}"
            close[name] = {rival: closeness(mining, each, arguments.replicates) for rival, each in rivals.items()}
            say_closeness(name, close[name])
        say_scores(found, condition)
    result = {
        "honne": honne.__version__,
        "quick": quick,
        "seeds": arguments.seeds,
        "world": WORLD,
        "conditions": CONDITIONS,
        "budget": BUDGET,
        "arms": ARMS,
        "closeness": close,
        "figures": found,
    }
    with replacing(root / "dmue_world.json") as path:
        path.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
