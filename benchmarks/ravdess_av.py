"""Voice and face of RAVDESS utterances, folds by actor: plain fusion, MulT, and CausalMER around each.

    python benchmarks/ravdess_av.py combined_summary_actors01-16.csv --out RUNS [--seeds 0 1 2] [--folds 8]

The table has 69 acoustic and 56 face columns for every clip (Livingstone & Russo 2018; CC BY-NC-SA 4.0), and a third
modality is added that is constant: `text`, of which there is only one sentence. Each fold tests two actors and
validates on two others. Logistic regression on the same columns and folds, standardised on the training rows, is the
floor. Accuracy is that of all clips together, each tested once, mean over seeds; intervals resample actors, differences
are paired. Thirty validation clips are too few to select weights by: those after the last epoch are taken. The same
command again resumes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

import honne
from honne.console import say, table
from honne.data.dataset import FaceData
from honne.data.loading import batches
from honne.data.manifest import PreparedData, replacing
from honne.data.missing import without_modalities
from honne.data.prepare import prepare
from honne.explain.contributions import contributions
from honne.metrics.resampling import bootstrap, interval
from honne.models import Model, load

MODALITIES = {"audio": "f0_mean:rel_se0_sd", "face": "anger_mean:mouth_openness_std", "text": "constant"}
COLUMNS = {"label": "emotion", "subject": "actor", "id": "file"}
BUDGET: dict[str, Any] = {
    "data.batch_size": 16,
    "fusion.width": 60,
    "fusion.heads": 4,
    "fusion.levels": 2,
    "fusion.output_dropout": 0.3,
    "optim.lr": 1e-3,
    "trainer.epochs": 60,
    "trainer.monitor": "last",
    "trainer.patience": 0,
}
RUNS: dict[str, dict[str, Any]] = {
    "late fusion": {"method": "erm", "fusion.network": "late_fusion"},
    "MulT": {"method": "erm", "fusion.network": "mult"},
    "MulT in CausalMER": {"method": "causalmer", "fusion.network": "mult"},
    "late fusion in CausalMER": {"method": "causalmer", "fusion.network": "late_fusion"},
}
REPLICATES = 2000


def floors(data: PreparedData) -> dict[str, np.ndarray]:
    """Columns -> (N,) whether logistic regression is right about the test rows."""
    rows = FaceData([data], 64)
    labels = rows.known.expression
    assert labels is not None
    found = {}
    for name, names in (("both", ("audio", "face")), ("face alone", ("face",)), ("audio alone", ("audio",))):
        features = np.stack([np.concatenate([rows.sample(row)[part][0] for part in names]) for row in range(len(rows))])
        train, test = rows.rows("train"), rows.rows("test")
        scaler = StandardScaler().fit(features[train])
        fitted = LogisticRegression(max_iter=2000, C=0.1).fit(scaler.transform(features[train]), labels[train])
        found[f"logistic regression, {name}"] = fitted.predict(scaler.transform(features[test])) == labels[test]
    return found


@torch.inference_mode()
def right(model: Model, data: PreparedData, missing: str = "") -> np.ndarray:
    """(N,) whether the test rows are recognised."""
    found = []
    for batch in batches(data, "test", size=64, batch_size=64):
        shown = without_modalities(batch, [missing]) if missing else batch
        said = model.forward_batch(shown).expression
        assert said is not None
        assert batch.labels.expression is not None
        found.append((said.argmax(1) == batch.labels.expression).numpy())
    return np.concatenate(found)


def accuracy(hits: np.ndarray, actors: np.ndarray) -> tuple[float, float, float]:
    """Mean of (S, N) hits of S seeds, and its interval over actors."""
    values = torch.from_numpy(hits.mean(0))

    def mean(weight: Tensor | None) -> dict[str, Tensor]:
        return {"mean": values.mean() if weight is None else (weight.double() @ values) / weight.sum(1)}

    clusters = np.unique(actors, return_inverse=True)[1]
    low, high = interval(bootstrap(mean, clusters, REPLICATES, 0)["mean"])
    return values.mean().item(), low.item(), high.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=8)
    asked = parser.parse_args()
    hits: dict[str, list[list[np.ndarray]]] = {}
    actors: list[np.ndarray] = []
    given: dict[str, list[list[float]]] = {}
    for fold in range(1, asked.folds + 1):
        folder = asked.out / f"fold_{fold}"
        if not folder.is_dir():
            split = f"{fold}/{asked.folds}"
            prepare(
                "feature_table", asked.table, folder, columns=COLUMNS, modalities=MODALITIES, cross_validation=split
            )
        data = PreparedData(folder)
        actors.append(data.rows.iloc[data.split("test")]["subject"].to_numpy())
        for name, found in floors(data).items():
            hits.setdefault(name, []).append([found] * len(asked.seeds))
        for name, choices in RUNS.items():
            models = []
            for seed in asked.seeds:
                run = asked.out / f"{name.replace(' ', '_')}_{fold}_{seed}"
                if not (run / "model" / "config.yaml").is_file():
                    honne.train("causalmer", data=folder, out=run, overrides=BUDGET | choices | {"trainer.seed": seed})
                models.append(load(run / "model"))
            hits.setdefault(name, []).append([right(model, data) for model in models])
            for lost in MODALITIES:
                hits.setdefault(f"{name}, no {lost}", []).append([right(model, data, lost) for model in models])
            for model in models:
                found = contributions(model, data, split="test", value="prob", level="input")
                phi = dict(zip(found.modalities, found.mean.tolist(), strict=True))
                given.setdefault(name, []).append([phi[modality] for modality in MODALITIES])
    people = len(np.unique(np.concatenate(actors)))
    rows = {name: np.concatenate([np.stack(seeds) for seeds in folds], 1).astype(float) for name, folds in hits.items()}
    for name, inside in (("MulT in CausalMER", "MulT"), ("late fusion in CausalMER", "late fusion")):
        rows[f"{name} - logistic regression, both"] = rows[name] - rows["logistic regression, both"]
        for lost in ("", ", no audio", ", no face"):
            rows[f"{name} - {inside}{lost}"] = rows[name + lost] - rows[inside + lost]
    result: dict[str, Any] = {}
    lines = []
    for name, found in rows.items():
        figure = accuracy(found, np.concatenate(actors))
        result[name] = figure
        lines.append((name, f"{figure[0]:.3f} [{figure[1]:.3f}, {figure[2]:.3f}]"))
    say(
        table(
            f"Accuracy, {asked.folds} folds, {people} actors, seeds {asked.seeds} [95 %]", ("model", "accuracy"), lines
        )
    )
    gist = []
    for name, values in given.items():
        mean = np.mean(values, 0)
        result[f"contribution {name}"] = dict(zip(MODALITIES, mean.tolist(), strict=True))
        gist.append((name, *(f"{part:+.4f}" for part in mean)))
    say(table("Mean Shapley value, probability of the label", ("model", *MODALITIES), gist))
    with replacing(asked.out / "ravdess_av.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
