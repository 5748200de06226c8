"""`honne evaluate`: how well a model does on one split of a prepared data set, and how sure that is."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.markup import escape
from torch import Tensor

import honne
from honne import metrics
from honne.batch import Batch
from honne.console import say
from honne.data.manifest import PreparedData, sha256
from honne.errors import HonneError, WrongCall
from honne.evaluation import explaining
from honne.evaluation.challenge import ABAW, Edition, challenge_notes, challenge_result, require_vocabulary
from honne.evaluation.comparing import paired
from honne.evaluation.explaining import Extent
from honne.evaluation.missing import Missing, MissingAs, missing_result
from honne.evaluation.printing import evaluation_tables
from honne.evaluation.running import beside_labels, run_model, smooth_outputs, videos_named
from honne.evaluation.scoring import BASELINES, Estimates, Scored, cluster_rows, estimate, figures
from honne.evaluation.storing import write_evaluation
from honne.evaluation.submission import Submission
from honne.evaluation.vocabulary import Units, shared_vocabulary
from honne.explain.measuring import MapOptions, MeanMaps
from honne.labels import LabelSchema
from honne.methods.au_cues import Cue
from honne.metrics.resampling import Estimate
from honne.models import Model, load
from honne.models import device as device_named
from honne.smoothing import Smoothing

if TYPE_CHECKING:
    AnyModel = str | Path | Model
    AnyData = str | Path | PreparedData
else:  # what the command line takes
    AnyModel, AnyData = str, Path

log = logging.getLogger("honne")

CODES = {"mult": "MulT", "causalmer": "CausalMER"}


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
    smooth: str = "none",
    abaw: Edition = "none",
    compat: Literal["mult", "causalmer"] | None = None,
    submission: Path | None = None,
    missing: Missing = "none",
    missing_as: MissingAs = "absent",
    explanations: Extent = "none",
    map: str | None = None,
    layers: str | None = None,
    cue: Cue | None = None,
    codebook: str | None = None,
    explained_faces: int = 200,
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
            compare` reads) and FILE.png (confusion, calibration and the like), with explanations also FILE_maps.png.
        flips: average the predictions over every image and its mirror image.
        merge: for models and data of different classes: classes that go together, in labels and predictions alike, as
            from:into with commas between them, e.g. contempt:disgust.
        drop: classes to leave out, with commas between them: rows labelled so are not measured, predictions are
            rescaled without them.
        units: same: model and data must code the same action units; common: measure those that both code.
        smooth: smooth predictions along each video before they are measured: median:5 (window of 5 rows), mean:50,
            exponential:0.3 (weight of the newest), none. Every measure is shown without it too.
        abaw: also give the scores of an ABAW challenge: 2020 (7 expressions, 8 action units), unitask (2022 and later,
            8 expressions, 12 units), mtl (the multi-task tracks, the same classes).
        compat: measure sentiment as the code of a paper does, slips included: mult (F1 weighted by the predictions),
            causalmer (a predicted 0 counts as positive where rows labelled 0 are left out); unset = as meant.
        submission: folder for the files to send to that challenge; a split without labels is then only written.
        missing: of models of several modalities: subsets removes every subset of them in turn, steps makes a growing
            share of all steps zero, full does both; each figure with what it loses.
        missing_as: absent (a modality has no steps), zeros (as many as before, of zeros, as published), or constant
            (absent, and its branch in a causalmer model untreated).
        explanations: agreement measures how attention and class activation maps sit on the heat maps of a codebook,
            beside what maps get that know nothing of the face (needs landmarks); full also measures insertion, deletion
            and what is left of the maps when weights are drawn anew.
        map: class activation map to measure; unset = the model's own.
        layers: whose attention to measure, as 4-5, or 1-2-3-4-5 for all of a ResNet; unset = those aligned in training,
            else the last.
        cue: what heat maps show; unset = as in training, else the action units of the expression.
        codebook: facs, reference or a YAML file; unset = as in training, else facs.
        explained_faces: with full, how many faces insertion, deletion and weights drawn anew are measured on.
        replicates: number of bootstrap replicates.
        seed: seed of the bootstrap, and of the choice of faces.
        batch_size: rows at once; does not change the result.
        workers: loading processes.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1 and so on.
        show: print the tables.

    Returns:
        What FILE.json holds; `docs/commands/evaluate.md` lists it.

    Raises:
        HonneError: an empty split, label schemas that differ, or nothing labelled.
        WrongCall: an option that makes no sense.
    """
    path, smoothing = _checked(out, replicates, explained_faces), Smoothing.parse(smooth)
    _together(smoothing, explanations, abaw, submission)
    opened = data if isinstance(data, PreparedData) else PreparedData(data)
    rows, labels = opened.split(split), opened.schema.labels
    known = opened.rows.iloc[rows]
    if not isinstance(model, Model):
        model = load(model, device_named(device))
    model.require_labels()
    require_vocabulary(abaw, model.schema)
    files = submission and Submission.of(Path(submission), abaw, model.schema, labels, known["id"])
    if smoothing.kind != "none" and not videos_named(known):
        raise HonneError(
            f"{opened.root}: no row names its video, so nothing can be smoothed along one.", "Leave --smooth out."
        )
    if files and labels == LabelSchema():
        labels = model.schema
    vocabulary = shared_vocabulary(model.schema, labels, merge=merge, drop=drop, units=units)
    if compat and not vocabulary.schema.sentiment:
        raise WrongCall(
            f"--compat {compat}: only sentiment is measured otherwise, and there is none here.", "Leave --compat out."
        )
    clusters, resampled = cluster_rows(known)
    raw = run_model(model, opened, split, batch_size=batch_size, workers=workers, flips=flips)
    outputs = raw if smoothing.kind == "none" else smooth_outputs(raw, known, smoothing)
    scored = beside_labels(outputs, model, opened, vocabulary, clusters, abaw, compat)
    means = MeanMaps()
    asked = MapOptions.of(model, map, layers, cue=cue, codebook=codebook)
    labelled = scored.labelled()
    if not labelled and not files:
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
        "notes": [*vocabulary.notes, *_unlabelled(scored, split), *(files.notes if files else ())],
        "flips": flips,
        "seed": seed,
        "replicates": replicates,
        "resampled": resampled,
        "clusters": int(clusters.max()) + 1,
    }
    if compat:
        result["compat"] = compat
        result["notes"].append(f"Sentiment is measured as the code of {CODES[compat]} does, slips included.")
    result |= seen_before(model, result["data"], split)
    result |= _published(model, opened, split, result["notes"])
    if model.length and not videos_named(known):
        result["notes"].append("No row names its video: the model, a temporal one, saw every face by itself.")
    if explanations != "none":
        checked = explained_faces if explanations == "full" else 0
        scored.explained = explaining.explain(
            model,
            opened,
            split,
            vocabulary,
            asked,
            means=means,
            checked=checked,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
        )
    estimates = estimate(scored, replicates, seed)
    result |= _figures(scored, estimates)
    if scored.explained:
        result["explanations"] = explaining.explanations(scored, estimates, asked)
    if labelled and abaw != "none":
        result["abaw"] = challenge_result(scored, estimates.overall)
        result["notes"] += challenge_notes(scored)
    if labelled and missing != "none":

        def changed(change: Callable[[Batch], Batch]) -> Scored:
            said = run_model(model, opened, split, batch_size=batch_size, workers=workers, change=change)
            return beside_labels(said, model, opened, vocabulary, clusters, compat=compat)

        result["missing"] = missing_result(model, scored, changed, missing, missing_as, replicates, seed)
    if labelled and smoothing.kind != "none":
        before = beside_labels(raw, model, opened, vocabulary, clusters, abaw, compat)
        result["smoothing"] = {"smooth": smooth, "measures": _smoothing(before, scored, estimates, replicates, seed)}
    if files:
        result["submission"] = {"folder": str(files.folder), "files": len(files.write(outputs, model))}
    written = _write(path, result, scored, means, asked, model) if path else []
    if show:
        for part in evaluation_tables(result):
            say(part)
        if path:
            say(escape(f"Written to {path.parent}: {', '.join(each.name for each in written)}"))
        if files:
            say(escape(f"Written to {files.folder}: {result['submission']['files']:,} files for ABAW {abaw}"))
    return result


def _checked(out: str | Path | None, replicates: int, explained_faces: int) -> Path | None:
    if explained_faces < 1:
        raise WrongCall(f"--explained-faces: {explained_faces} is not a number of faces.", "Give 1 or more.")
    if replicates < 1:
        raise WrongCall(f"--replicates: {replicates} is not a number of bootstrap replicates.", "Give 1 or more.")
    if out is not None and Path(out).suffix != ".json":
        raise WrongCall(f"--out: '{out}' does not end in .json.", "Give FILE.json; a table and a picture go beside it.")
    return None if out is None else Path(out)


def _together(smoothing: Smoothing, explanations: Extent, abaw: Edition, submission: Path | None) -> None:
    """Refuse options that do not go together."""
    if smoothing.kind != "none" and explanations != "none":
        raise WrongCall("--smooth: explanations are of single faces.", "Leave out --smooth or --explanations.")
    if submission is not None and abaw == "none":
        raise WrongCall("--submission: for which challenge?", "Give --abaw 2020, --abaw unitask or --abaw mtl.")


def _unlabelled(scored: Scored, split: str) -> list[str]:
    """What is not measured for want of labels."""
    if not scored.labelled():
        return [f"Nothing is measured: no row of split '{split}' is labelled."]
    tasks = (task.replace("_", " ") for task in scored.unlabelled())
    return [f"Not measured: {task} (no row of split '{split}' is labelled with it)." for task in tasks]


def _write(
    path: Path, result: dict[str, Any], scored: Scored, means: MeanMaps, asked: MapOptions, model: Model
) -> list[Path]:
    from honne.evaluation.mean_maps import draw_mean_maps  # matplotlib only where a picture is wanted
    from honne.evaluation.picture import draw

    write_evaluation(path, result, scored)
    written = [path, path.with_suffix(".parquet")]
    if result["metrics"]:
        written.append(path.with_suffix(".png"))
        draw(written[-1], result, scored)
    if "missing" in result:
        from honne.evaluation.missing_picture import draw_missing

        written.append(path.with_name(f"{path.stem}_missing.png"))
        draw_missing(written[-1], result["missing"], f"{model.name} on {result['data']['name']}, {result['split']}")
    if scored.explained and means.faces.any():
        written.append(path.with_name(f"{path.stem}_maps.png"))
        draw_mean_maps(written[-1], means, model.schema.expressions, asked)
    return written


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


def _published(model: Model, data: PreparedData, split: str, notes: list[str]) -> dict[str, Any]:
    """The published figures that a model repeats, if any; notes where they are of other rows."""
    published = model.config.training.get("published")
    if not published:
        return {}
    schema, wanted = data.schema, (published.get("data"), published.get("split"))
    if wanted not in {(schema.reader, split), (schema.options.get("dataset"), split)}:
        notes.append(
            f"The published figures are of {wanted[0]}, {wanted[1]}; these are of {schema.name} (reader"
            f" {schema.reader}), {split}."
        )
    return {"published": published}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _figures(scored: Scored, estimates: Estimates) -> dict[str, Any]:
    own = {name: each for name, each in estimates.classes.items() if name not in scored.explained}
    overall = {
        name: asdict(each)
        for name, each in estimates.overall.items()
        if name not in scored.explained and not name.startswith(ABAW)
    }
    found: dict[str, Any] = {"metrics": overall}
    if scored.probabilities is not None and scored.expression is not None:
        confusion = metrics.confusion_matrix(scored.probabilities, scored.expression)
        found["confusion"] = confusion.long().tolist()
        found["classes"] = {
            name: {"rows": int(confusion[code].sum())} | _column(own, code)
            for code, name in enumerate(scored.schema.expressions)
        }
        diagram = metrics.reliability(scored.probabilities, scored.expression)
        columns = (diagram.edges[:-1], diagram.edges[1:], diagram.count, diagram.confidence, diagram.accuracy)
        names = ("low", "high", "rows", "confidence", "accuracy")
        lines = zip(*(column.tolist() for column in columns), strict=True)
        found["calibration"] = [{n: _number(v) for n, v in zip(names, line, strict=True)} for line in lines]
    units = [f"au{unit:02d}" for unit in scored.schema.action_units]
    if scored.thresholds is not None:
        found["thresholds"] = dict(zip(units, scored.thresholds.tolist(), strict=True))
    if scored.unit_labels is not None:
        found["units"] = _of_each(units, scored.unit_labels, estimates.units)
    if scored.emotion_labels is not None:
        found["emotions"] = _of_each(scored.schema.emotions, scored.emotion_labels, estimates.emotions)
    return found


def _of_each(names: Sequence[str], labels: Tensor, estimates: dict[str, list[Estimate]]) -> dict[str, Any]:
    """Rows and figures of every unit or emotion, of which (N, K) labels are 1, 0 or NaN."""
    known = [column[~column.isnan()] for column in labels.mT]
    return {
        name: {"rows": len(values), "present": int(values.sum())} | _column(estimates, place)
        for place, (name, values) in enumerate(zip(names, known, strict=True))
    }


def _smoothing(
    before: Scored, after: Scored, estimates: Estimates, replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Every measure without and with smoothing, and the difference."""
    values, words = figures(before), {"A": "without", "B": "with", "-": "-"}
    lines = paired(before, after, [name for name in estimates.overall if name not in BASELINES], replicates, seed)
    return {
        name: {"without": float(values[name]), "with": estimates.overall[name].value}
        | line
        | {"better": words[line["better"]]}
        for name, line in lines.items()
    }


def _column(estimates: dict[str, list[Estimate]], place: int) -> dict[str, dict[str, float | None]]:
    return {
        name: {key: _number(value) for key, value in asdict(each[place]).items()} for name, each in estimates.items()
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
