"""What CausalMER gains where one modality is known to be a shortcut, and what it costs where none is.

    python benchmarks/causalmer_world.py --out RUNS [--seeds 0 1 2] [--backbones mult pmr dmd] [--quick]

Each seed draws two worlds of feature sequences (text, audio, vision; honne.data.world.talks). In the *planted* world
text has a spurious cue beside its true one, strong, and right in 90 % of the training and validation samples; in the
*clean* world there is none. On each, every backbone is trained alone (erm) and inside CausalMER as published (mask
fusion, constants from 0, alpha 0.1, beta 1, but light branches); weights are selected on the validation part, where the
cue is as in training. Tested are people of neither part: with the cue as in training, with a cue that is never right,
and with each modality missing.

A drop is the accuracy with the cue as in training less that of the condition. Figures are means over seeds; intervals
resample the tested people of each seed. The same command again resumes. `--quick` only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import honne
from honne.batch import Batch
from honne.console import say, table
from honne.data.loading import batches
from honne.data.manifest import PreparedData, replacing
from honne.data.missing import without_modalities
from honne.data.world.talks import Talks, make_sequences
from honne.explain.contributions import contributions
from honne.metrics.resampling import bootstrap, interval
from honne.models import Model, load

SHORT = {"text": (6, 10), "audio": (10, 16), "vision": (8, 12)}
WORLD: dict[str, Any] = {"n": 1800, "subjects": 120, "lengths": SHORT}
DOMINANT = "text"
BACKBONES = ("mult", "pmr", "dmd")
BUDGET: dict[str, Any] = {
    "data.tasks": ["expressions"],
    "fusion.width": 12,
    "fusion.heads": 2,
    "fusion.levels": 1,
    "optim.lr": 2e-3,
    "trainer.epochs": 20,
    "trainer.patience": 0,
    "trainer.monitor": "accuracy",
}
METHODS = ("erm", "causalmer")
PARTS = ("tie", "te", "backbone")
REPLICATES = 2000


def worlds(out: Path, seed: int, quick: bool) -> dict[str, PreparedData]:
    """planted: to train on, its test part lies; same: the same people with the cue as in training; clean: no cue."""
    knobs = WORLD | ({"n": 240, "subjects": 40} if quick else {})
    made = {
        "planted": Talks(seed=seed, dominant=DOMINANT, at_test="reversed", **knobs),
        "same": Talks(seed=seed, dominant=DOMINANT, at_test="same", **knobs),
        "clean": Talks(seed=seed, dominant="", **knobs),
    }
    found = {}
    for name, talks in made.items():
        folder = out / f"world_{name}_{seed}"
        found[name] = PreparedData(folder) if folder.is_dir() else make_sequences(folder, talks)
    return found


def trained(out: Path, data: PreparedData, world: str, method: str, network: str, seed: int, quick: bool) -> Model:
    """The model of a run, trained if it is not yet."""
    run = out / f"{world}_{network}_{method}_{seed}"
    if not (run / "model" / "config.yaml").is_file():
        budget = BUDGET | {"trainer.epochs": 2} if quick else BUDGET
        overrides = budget | {"method": method, "fusion.network": network, "trainer.seed": seed}
        honne.train("causalmer", data=data.root, out=run, overrides=overrides)
    return load(run / "model")


@torch.inference_mode()
def right(model: Model, data: PreparedData, missing: str = "") -> Tensor:
    """(N,) whether the test rows are recognised, 0 or 1."""
    found = []
    for batch in batches(data, "test", size=64, batch_size=128):
        shown: Batch = without_modalities(batch, [missing]) if missing else batch
        said = model.forward_batch(shown).expression
        assert said is not None
        assert batch.labels.expression is not None
        found.append((said.argmax(1) == batch.labels.expression).float())
    return torch.cat(found)


def conditions(model: Model, data: dict[str, PreparedData], world: str) -> dict[str, Tensor]:
    """Condition -> (N,) whether the test rows are recognised."""
    usual = data["same" if world == "planted" else "clean"]
    found = {"as trained": right(model, usual)}
    if world == "planted":
        found["lying"] = right(model, data["planted"])
    return found | {f"no {name}": right(model, usual, name) for name in model.modalities}


def people(data: PreparedData) -> np.ndarray:
    """(N,) number of the person of each test row."""
    rows = data.rows.iloc[data.split("test")]
    return np.unique(rows["subject"].to_numpy(), return_inverse=True)[1]


def mean_of_seeds(values: list[Tensor], clusters: list[np.ndarray], seed: int = 0) -> tuple[float, float, float]:
    """Mean over seeds of the means of (N,) values, and its 95 % interval; people are resampled seed by seed."""

    def mean(each: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
        return {"mean": each.mean() if weight is None else (weight.float() @ each) / weight.sum(1)}

    value = torch.stack([each.mean() for each in values]).mean()
    draws = [
        bootstrap(lambda weight, each=each: mean(each, weight), groups, REPLICATES, seed + place)["mean"]
        for place, (each, groups) in enumerate(zip(values, clusters, strict=True))
    ]
    low, high = interval(torch.stack(draws).mean(0))
    return value.item(), low.item(), high.item()


def shown(figure: tuple[float, float, float]) -> str:
    return f"{figure[0]:.3f} [{figure[1]:.3f}, {figure[2]:.3f}]"


def tables(answers: dict[Any, dict[str, Tensor]], groups: dict[int, np.ndarray], names: list[str]) -> dict[str, Any]:
    """Accuracies and drops of each backbone with and without, and their differences, as figures for the file."""
    seeds = sorted(groups)
    clusters = [groups[seed] for seed in seeds]
    result: dict[str, Any] = {}
    for world in ("planted", "clean"):
        lines = []
        for network in names:
            said = {
                m: [answers[world, network, m, seed] for seed in seeds]
                for m in METHODS
                if (world, network, m, seeds[0]) in answers
            }
            for condition in said["erm"][0]:
                figures = {m: mean_of_seeds([each[condition] for each in said[m]], clusters) for m in said}
                if len(said) > 1:
                    gained = [
                        (a[condition] - a["as trained"]) - (b[condition] - b["as trained"])
                        for a, b in zip(said["causalmer"], said["erm"], strict=True)
                    ]
                    better = [a[condition] - b[condition] for a, b in zip(said["causalmer"], said["erm"], strict=True)]
                    figures |= {
                        "difference": mean_of_seeds(better, clusters),
                        "drop saved": mean_of_seeds(gained, clusters),
                    }
                result[f"{world} {network} {condition}"] = figures
                cells = [
                    shown(figures[key]) if key in figures else "-" for key in (*METHODS, "difference", "drop saved")
                ]
                lines.append((network, condition, *cells))
        heads = ("network", "condition", "alone", "in CausalMER", "difference", "drop saved")
        count = sum(len(np.unique(numbers)) for numbers in clusters)
        title = f"Accuracy, {world} world, {len(seeds)} seeds, {count} people [95 %]"
        say(table(title, heads, lines))
    return result


def parts(models: dict[Any, Model], data: dict[int, dict[str, PreparedData]], groups: dict[int, np.ndarray]) -> Any:
    """Accuracy of what the network holds, in the planted world: TIE, TE, the fusion network alone; and TIE less TE."""
    result, lines = {}, []
    seeds = sorted(groups)
    for network in sorted({name for name, _ in models}):
        said: dict[str, list[dict[str, Tensor]]] = {}
        for seed in seeds:
            for part in PARTS:
                models[network, seed].network.predict_with = part  # type: ignore[assignment]
                found = {
                    "as trained": right(models[network, seed], data[seed]["same"]),
                    "lying": right(models[network, seed], data[seed]["planted"]),
                    f"no {DOMINANT}": right(models[network, seed], data[seed]["same"], DOMINANT),
                }
                said.setdefault(part, []).append(found)
            models[network, seed].network.predict_with = "tie"  # type: ignore[assignment]
        clusters = [groups[seed] for seed in seeds]
        for condition in said["tie"][0]:
            figures = {part: mean_of_seeds([each[condition] for each in said[part]], clusters) for part in PARTS}
            both = zip(said["tie"], said["te"], strict=True)
            figures["tie - te"] = mean_of_seeds([a[condition] - b[condition] for a, b in both], clusters)
            result[f"{network} {condition}"] = figures
            lines.append((network, condition, *(shown(figure) for figure in figures.values())))
    say(table("Parts of CausalMER, planted world", ("network", "condition", *PARTS, "tie - te"), lines))
    return result


def shares(model: Model, data: PreparedData) -> dict[str, float]:
    """Share of each modality in the sum of mean absolute Shapley values of the test rows."""
    found = contributions(model, data, split="test", value="prob", level="input")
    return dict(zip(model.modalities, found.shares.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--train-only", action="store_true")
    asked = parser.parse_args()
    answers: dict[Any, dict[str, Tensor]] = {}
    groups: dict[int, np.ndarray] = {}
    shared: dict[str, list[dict[str, float]]] = {}
    opened: dict[int, dict[str, PreparedData]] = {}
    cured: dict[Any, Model] = {}
    for seed in asked.seeds:
        data = opened[seed] = worlds(asked.out, seed, asked.quick)
        groups[seed] = people(data["same"])
        for network, methods in runs(asked.backbones):
            for world in ("planted", "clean"):
                for method in methods:
                    model = trained(asked.out, data[world], world, method, network, seed, asked.quick)
                    if (world, method) == ("planted", "causalmer"):
                        cured[network, seed] = model
                    if not asked.train_only:
                        answers[world, network, method, seed] = conditions(model, data, world)
                        usual = data["same" if world == "planted" else "clean"]
                        shared.setdefault(f"{world} {network} {method}", []).append(shares(model, usual))
    if asked.train_only:
        return
    result: dict[str, Any] = {"figures": tables(answers, groups, [*asked.backbones, "late_fusion"])}
    result["parts"] = parts(cured, opened, groups)
    lines = []
    for name, found in shared.items():
        means = {key: float(np.mean([each[key] for each in found])) for key in found[0]}
        spread = [float(np.std(list(each.values()))) for each in found]
        lines.append(
            (
                name,
                *(f"{value:.3f}" for value in means.values()),
                f"{np.mean(spread):.3f}",
                ", ".join(f"{s:.3f}" for s in spread),
            )
        )
        result.setdefault("shares", {})[name] = {"mean": means, "imbalance": spread}
    say(table("Shares of the Shapley values, cue as in training", ("run", *found[0], "imbalance", "by seed"), lines))
    with replacing(asked.out / "causalmer_world.json") as path:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(asked.out / "causalmer.png", result["figures"], asked.backbones)
    say(f"{asked.out / 'causalmer_world.json'}, {asked.out / 'causalmer.png'}")


def runs(backbones: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Networks and the methods they are trained by; late fusion, which the branches resemble, only alone."""
    yield from ((network, METHODS) for network in backbones)
    yield "late_fusion", ("erm",)


def draw(path: Path, figures: dict[str, Any], backbones: list[str]) -> None:
    """Accuracy in the planted world by condition, alone and in CausalMER."""
    names = {
        "as trained": "cue as\nin training",
        "lying": "cue\nlies",
        "no text": "no\ntext",
        "no audio": "no\naudio",
        "no vision": "no\nvision",
    }
    figure = Figure(figsize=(3.1 * len(backbones), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(backbones), sharey=True, squeeze=False)[0]
    for axis, network in zip(axes, backbones, strict=True):
        for place, (method, colour) in enumerate(zip(METHODS, ("#9aa5b1", "#c0504d"), strict=True)):
            values = [figures[f"planted {network} {condition}"][method] for condition in names]
            x = np.arange(len(names)) + (place - 0.5) * 0.38
            middle = [value for value, _, _ in values]
            ends = [[value - low for value, low, _ in values], [high - value for value, _, high in values]]
            label = "alone" if method == "erm" else "in CausalMER"
            axis.bar(x, middle, 0.36, color=colour, label=label, yerr=ends, ecolor="#333333", error_kw={"lw": 1})
        axis.axhline(0.25, color="#777777", lw=0.8, ls=":")
        axis.set_title({"mult": "MulT", "pmr": "PMR", "dmd": "DMD"}.get(network, network))
        axis.set_xticks(range(len(names)), names.values(), fontsize=7.5)
        axis.set_ylim(0, 1.02)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    with replacing(path) as aside:
        figure.savefig(aside, dpi=150, format="png")


if __name__ == "__main__":
    main()
