"""`honne evaluate`: how well a model does on one split of a prepared data set, and how sure that is."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

import honne
from honne import metrics
from honne.console import say
from honne.data.manifest import PreparedData, sha256
from honne.errors import HonneError, WrongCall
from honne.evaluation.printing import evaluation_tables
from honne.evaluation.running import beside_labels, run_model
from honne.evaluation.scoring import Estimates, Scored, cluster_rows, estimate
from honne.evaluation.storing import write_evaluation
from honne.evaluation.vocabulary import Units, shared_vocabulary
from honne.metrics.resampling import Estimate
from honne.models import Model, load
from honne.models import device as device_named

if TYPE_CHECKING:
    AnyModel = str | Path | Model
    AnyData = str | Path | PreparedData
else:  # what the command line takes
    AnyModel, AnyData = str, Path

log = logging.getLogger("honne")


def evaluate(
    model: AnyModel,
    data: AnyData,
    *,
    split: str = "test",
    out: Path | None = None,
    flips: bool = False,
    merge: str = "",
    drop: str = "",
    units: Units = "same",
    replicates: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    show: bool = True,
) -> dict[str, Any]:
    """Measure a model on one split of a prepared data set, with 95 % bootstrap intervals.

    Rows without an expression label but with votes count only for the agreement with the votes. Intervals resample
    subjects where the data name them, else videos, else rows.

    Args:
        model: name or folder of a model; in Python also a loaded one.
        data: folder of a prepared data set; in Python also an opened one.
        split: train, valid or test.
        out: FILE.json for the figures; beside it come FILE.parquet (every prediction beside its label, what `honne
            compare` reads) and FILE.png (confusion, calibration and the like).
        flips: average the predictions over every image and its mirror image.
        merge: for models and data of different classes: classes that go together, in labels and predictions alike, as
            from:into with commas between them, e.g. contempt:disgust.
        drop: classes to leave out, with commas between them: rows labelled so are not measured, predictions are
            rescaled without them.
        units: same: model and data must code the same action units; common: measure those that both code.
        replicates: number of bootstrap replicates.
        seed: seed of the bootstrap.
        batch_size: images at once; does not change the result.
        workers: loading processes.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.
        show: print the tables.

    Returns:
        What FILE.json holds; `docs/commands/evaluate.md` lists it.

    Raises:
        HonneError: an empty split, label schemas that differ, or nothing labelled.
        WrongCall: an option that makes no sense.
    """
    path = _checked(out, replicates)
    opened = data if isinstance(data, PreparedData) else PreparedData(data)
    rows = opened.split(split)
    if not isinstance(model, Model):
        model = load(model, device_named(device))
    model.require_labels()
    vocabulary = shared_vocabulary(model.schema, opened.schema.labels, merge=merge, drop=drop, units=units)
    clusters, resampled = cluster_rows(opened.rows.iloc[rows])
    outputs = run_model(model, opened, split, batch_size=batch_size, workers=workers, flips=flips)
    scored = beside_labels(outputs, model, opened, vocabulary, clusters)
    labelled = scored.labelled()
    if not any(labelled.values()):
        raise HonneError(
            f"{opened.root}: no row of split '{split}' is labelled with anything that the model predicts.",
            "Choose another split.",
        )
    result: dict[str, Any] = {
        "honne": honne.__version__,
        "model": {"name": model.name, "sha256": model.sha256},
        "data": {"name": opened.schema.name, "sha256": sha256(opened.root / "manifest.parquet")},
        "split": split,
        "rows": len(rows),
        "labelled": labelled,
        "schema": vocabulary.schema.to_dict(),
        "notes": list(vocabulary.notes),
        "flips": flips,
        "seed": seed,
        "replicates": replicates,
        "resampled": resampled,
        "clusters": int(clusters.max()) + 1,
    }
    result |= seen_before(model, result["data"], split)
    result |= _figures(scored, estimate(scored, replicates, seed))
    if path:
        from honne.evaluation.picture import draw  # matplotlib only where a picture is wanted

        write_evaluation(path, result, scored)
        draw(path.with_suffix(".png"), result, scored)
    if show:
        for part in evaluation_tables(result):
            say(part)
        if path:
            names = (path.with_suffix(suffix).name for suffix in (".json", ".parquet", ".png"))
            say(escape(f"Written to {path.parent}: {', '.join(names)}"))
    return result


def _checked(out: str | Path | None, replicates: int) -> Path | None:
    if replicates < 1:
        raise WrongCall(f"--replicates: {replicates} is not a number of bootstrap replicates.", "Give 1 or more.")
    if out is not None and Path(out).suffix != ".json":
        raise WrongCall(f"--out: '{out}' does not end in .json.", "Give FILE.json; a table and a picture go beside it.")
    return None if out is None else Path(out)


def seen_before(model: Model, data: dict[str, str], split: str) -> dict[str, bool]:
    """Whether the model saw a split of a data set when it was made, by its own record.

    Args:
        model: of which `config.yaml` says what it was trained on.
        data: `name` and `sha256` (of the manifest); one of them fitting is enough.
        split: train, valid or test.

    Returns:
        `in_sample`: it was trained on the split; `selected_on`: it was selected or calibrated there.
    """
    record = model.config.training
    splits = {"train": "train"} | record.get("splits", {})
    used = data["sha256"] in _list(record.get("data_sha256")) or data["name"] in _list(record.get("data"))
    return {
        "in_sample": used and split == splits["train"],
        "selected_on": used and split in splits.values() and split != splits["train"],
    }


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _figures(scored: Scored, estimates: Estimates) -> dict[str, Any]:
    found: dict[str, Any] = {"metrics": {name: asdict(each) for name, each in estimates.overall.items()}}
    if scored.probabilities is not None and scored.expression is not None:
        confusion = metrics.confusion_matrix(scored.probabilities, scored.expression)
        found["confusion"] = confusion.long().tolist()
        found["classes"] = {
            name: {"rows": int(confusion[code].sum())} | _column(estimates.classes, code)
            for code, name in enumerate(scored.schema.expressions)
        }
        diagram = metrics.reliability(scored.probabilities, scored.expression)
        columns = (diagram.edges[:-1], diagram.edges[1:], diagram.count, diagram.confidence, diagram.accuracy)
        names = ("low", "high", "rows", "confidence", "accuracy")
        lines = zip(*(column.tolist() for column in columns), strict=True)
        found["calibration"] = [{n: _number(v) for n, v in zip(names, line, strict=True)} for line in lines]
    if scored.unit_labels is not None and scored.thresholds is not None:
        coded = [column[~column.isnan()] for column in scored.unit_labels.mT]
        units = [f"au{unit:02d}" for unit in scored.schema.action_units]
        found["thresholds"] = dict(zip(units, scored.thresholds.tolist(), strict=True))
        found["units"] = {
            name: {"rows": len(values), "present": int(values.sum())} | _column(estimates.units, place)
            for place, (name, values) in enumerate(zip(units, coded, strict=True))
        }
    return found


def _column(estimates: dict[str, list[Estimate]], place: int) -> dict[str, dict[str, float | None]]:
    return {
        name: {key: _number(value) for key, value in asdict(each[place]).items()} for name, each in estimates.items()
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
