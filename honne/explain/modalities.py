"""`honne explain` of a model of several modalities: what each contributes, as table, JSON and picture.

OUT/contributions.parquet, .csv   a row per sample: prediction, label, Shapley values, direct effects
OUT/contributions.json            figures over all samples, and how they were made; written last
OUT/contributions.png             the same as a picture
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

import honne
from honne.analysis.table import OUTPUTS_ARE
from honne.analysis.utterances import require_own_features, utterances_of
from honne.batch import Labels
from honne.console import say, table
from honne.data.manifest import PreparedData, replacing
from honne.errors import HonneError, WrongCall
from honne.explain.contributions import Contributions, Level, Samples, Value, contributions
from honne.features import Extractor
from honne.features.media import outline
from honne.features.transcript import beside
from honne.metrics.resampling import bootstrap, interval
from honne.metrics.weighting import mean
from honne.models import Model

NAME = "contributions"
REPLICATES = 1000
SHOWN_SAMPLES = 12
"""Samples that are shown one by one, where there are no more."""


@dataclass
class ModalitiesExplained:
    """What an explanation left in its folder.

    Attributes:
        out: the folder.
        rows: as in `contributions.parquet`.
        summary: as in `contributions.json`.
    """

    out: Path
    rows: pd.DataFrame
    summary: dict[str, Any]


def explain_modalities(
    model: Model, inputs: list[str], out: Path, split: str, value: Value, level: Level, overwrite: bool
) -> ModalitiesExplained:
    """See `honne.explain.explaining.explain`.

    Args:
        model: of several modalities.
        inputs: one prepared data set, or clips.
        out: folder of the results.
        split: of the data set.
        value: see `honne.explain.contributions`.
        level: see `honne.explain.contributions`.
        overwrite: replace what is there.

    Raises:
        HonneError: clips, and a model whose features honne does not make; results that are there.
        WrongCall: data sets and clips together.
    """
    target = out / f"{NAME}.json"
    if target.exists() and not overwrite:
        raise HonneError(f"{out}: holds an explanation already.", "Name another folder, or pass --overwrite.")
    prepared = [path for path in inputs if (Path(path) / "manifest.parquet").is_file()]
    if prepared and len(inputs) > 1:
        raise WrongCall("one data set, or clips, are explained at a time.", "Explain them one after the other.")
    if prepared:
        data = PreparedData(prepared[0])
        found = contributions(model, data, split=split, value=value, level=level)
        about: dict[str, Any] = {"data": data.schema.name, "split": split}
    else:
        found = contributions(model, _clips(model, inputs), value=value, level=level)
        about = {"clips": [Path(path).name for path in inputs]}
    rows = _rows(found)
    summary = _summary(found, model, level) | about
    _write(out, rows, summary, found)
    return ModalitiesExplained(out, rows, summary)


def _clips(model: Model, inputs: list[str]) -> Samples:
    """The utterances of clips."""
    require_own_features(model)
    extractor = Extractor({name: model.config.features[name] for name in model.modalities}, device=model.device)
    ids, found = [], []
    for path in map(Path, inputs):
        utterances = utterances_of(beside(path), None, outline(path).duration)
        for number, features in enumerate(extractor.utterances(path, utterances)):
            ids.append(path.name if len(utterances) == 1 else f"{path.name} {utterances[number].start:.1f} s")
            blank = {name: np.zeros((0, width), np.float32) for name, width in extractor.widths.items()}
            found.append(blank | {name: values for name, values in features.items() if values is not None})
    return Samples(ids, lambda place: found[place], lambda places: Labels())


def _rows(found: Contributions) -> pd.DataFrame:
    labels = [word or None for word in found.labels]
    columns: dict[str, Any] = {"id": found.ids, "label": labels, "predicted": found.said}
    columns |= {f"shapley_{name}": found.shapley[m].numpy() for m, name in enumerate(found.modalities)}
    if found.direct is not None:
        columns |= {f"direct_{name}": found.direct[m].numpy() for m, name in enumerate(found.modalities)}
    return pd.DataFrame(columns | {"value": found.whole.numpy(), "value_of_nothing": found.nothing.numpy()})


def _summary(found: Contributions, model: Model, level: Level) -> dict[str, Any]:
    """Figures over all samples; intervals resample samples, of shuffles they are the spread of the repeats."""
    clusters = np.arange(len(found.ids))

    def spread(values: Tensor) -> list[float]:
        """Mean of (N,) and its 95 % interval."""
        if len(values) < 2:
            return [float(values.mean())] * 3
        draws = bootstrap(lambda weight: {"mean": mean(values, weight)}, clusters, REPLICATES)
        low, high = interval(draws["mean"])
        return [float(values.mean()), float(low), float(high)]

    each = {}
    for m, name in enumerate(found.modalities):
        shuffles = found.permuted[m]
        each[name] = {
            "shapley": _figure(spread(found.shapley[m])),
            "share": float(found.shares[m]),
            "permuted": _figure([float(v) for v in (shuffles.mean(), shuffles.min(), shuffles.max())]),
        }
        if found.direct is not None:
            each[name]["direct"] = _figure(spread(found.direct[m]))
    return {
        "honne": honne.__version__,
        "model": {"name": model.name, "sha256": model.sha256},
        "outputs": OUTPUTS_ARE,
        "value": found.value,
        "level": level,
        "samples": len(found.ids),
        "modalities": each,
        "imbalance": found.imbalance,
    }


def _figure(values: list[float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), values, strict=True))


def _write(out: Path, rows: pd.DataFrame, summary: dict[str, Any], found: Contributions) -> None:
    from honne.explain.contribution_picture import draw

    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / f"{NAME}.parquet") as path:
        rows.to_parquet(path)
    with replacing(out / f"{NAME}.csv") as path:
        rows.to_csv(path, index=False)
    draw(out / f"{NAME}.png", found, summary, SHOWN_SAMPLES)
    with replacing(out / f"{NAME}.json") as path:
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def show(explained: ModalitiesExplained) -> None:
    """The figures as a table, and where the rest lies."""
    lines = []
    for name, each in explained.summary["modalities"].items():
        cells = [_shown(each["shapley"]), f"{each['share']:.2f}", _shown(each["permuted"])]
        lines.append([name, *cells, *([_shown(each["direct"])] if "direct" in each else [])])
    direct = ["direct effect [95 %]"] if "direct" in next(iter(explained.summary["modalities"].values())) else []
    heads = ("modality", "Shapley [95 %]", "share", "lost when shuffled [all]", *direct)
    count, value = explained.summary["samples"], explained.summary["value"].replace("_", " ")
    say(table(f"What modalities contribute ({value}), {count:,} samples; {OUTPUTS_ARE}", heads, lines))
    say(f"imbalance of the shares: {explained.summary['imbalance']:.3f}")
    say(f"{explained.out / NAME}.parquet, .csv, .json, .png")


def _shown(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
