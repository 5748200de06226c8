"""The ambiguity audit: which faces are ambiguous, which labels likely wrong, and how well that fits what is known."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

import honne
from honne.audit.correcting import Correct, changes, write_corrected
from honne.audit.faces import Doubts, Faces, doubts, gather
from honne.audit.figures import Figures
from honne.audit.seen import Seen, as_seen
from honne.data.manifest import PreparedData, replacing, sha256
from honne.evaluation.evaluating import seen_before
from honne.evaluation.storing import write_json
from honne.models import Model

FORMAT = "honne ambiguity audit 1"
MANY = 0.4
"""Share of doubted labels above which the model, not the data, is to be doubted."""
TABLE, SUMMARY, CORRECTED = "ambiguity.parquet", "ambiguity.json", "corrected"


@dataclass(frozen=True)
class Settings:
    """Of an audit; see `honne.audit.audit`."""

    splits: tuple[str, ...]
    correct: Correct
    replicates: int
    seed: int
    batch_size: int
    workers: int


@dataclass(frozen=True)
class Ambiguity:
    """What the audit found.

    Attributes:
        classes: C names.
        faces: those of each split.
        doubts: about the labels of each split.
        result: what `ambiguity.json` holds.
        corrected: folder of the corrected data set, if one was written.
    """

    classes: tuple[str, ...]
    faces: list[Faces]
    doubts: list[Doubts]
    result: dict[str, Any]
    corrected: Path | None


def audit_ambiguity(model: Model, data: PreparedData, out: Path, settings: Settings) -> Ambiguity:
    """Run the audit and write its files into `out`: table, corrected data set, and last the summary.

    Args:
        model: with expressions.
        data: with the model's expressions, or without any.
        out: folder.
        settings: of the audit.
    """
    seen = as_seen(data, model)
    faces, notes = _gathered(model, seen, settings)
    found = [doubts(each) for each in faces]
    notes += [note for pair in zip(faces, found, strict=True) for note in _too_many(*pair)]
    names = model.schema.expressions
    with replacing(out / TABLE) as path:
        pq.write_table(pa.Table.from_pandas(table(faces, found, names), preserve_index=False), path, compression="zstd")
    corrected = _corrected(model, seen.data, faces, found, settings, out / CORRECTED)
    named = {"name": data.schema.name, "sha256": sha256(data.root / "manifest.parquet")}
    result = {
        "format": FORMAT,
        "honne": honne.__version__,
        "model": {"name": model.name, "method": model.config.method, "sha256": model.sha256},
        "data": named,
        "settings": {name: getattr(settings, name) for name in ("correct", "replicates", "seed")},
        "classes": list(names),
        "notes": notes,
        "splits": {
            each.split: {"in_sample": seen_before(model, named, each.split)["in_sample"]}
            | Figures(each, doubt, settings.replicates, settings.seed).all()
            for each, doubt in zip(faces, found, strict=True)
        },
        "corrected": corrected,
        "table": {"file": TABLE, "sha256": sha256(out / TABLE)},
    }
    write_json(out / SUMMARY, result)
    return Ambiguity(names, faces, found, result, out / CORRECTED if corrected else None)


def _gathered(model: Model, seen: Seen, settings: Settings) -> tuple[list[Faces], list[str]]:
    faces, notes = [], list(seen.notes)
    for split in settings.splits:
        each, told = gather(model, seen, split, batch_size=settings.batch_size, workers=settings.workers)
        faces.append(each)
        notes += told
    if not any(bool(each.labelled.any()) for each in faces):
        notes.append("No row has an expression label: faces are ranked by uncertainty, and there is no label to doubt.")
    return faces, list(dict.fromkeys(notes))


def _too_many(faces: Faces, found: Doubts) -> list[str]:
    share = int(found.likely.sum()) / max(int(faces.labelled.sum()), 1)
    if share <= MANY:
        return []
    return [
        f"The model doubts {share:.0%} of the labels of {faces.split}: more likely it is the model that is wrong."
        " Do not take its suggestions."
    ]


def _corrected(
    model: Model, data: PreparedData, faces: list[Faces], found: list[Doubts], settings: Settings, out: Path
) -> dict[str, Any] | None:
    """Write the corrected data set, or remove that of an earlier audit where nothing is to be corrected."""
    training = [pair for pair in zip(faces, found, strict=True) if pair[0].split == "train"]
    listed = [changes(*pair, model.schema.expressions, settings.correct) for pair in training]
    if not listed or not len(listed[0]):
        shutil.rmtree(out, ignore_errors=True)
        return None
    write_corrected(out, data, listed[0], model)
    return {"folder": out.name, "labels": len(listed[0]), "how": settings.correct}


def table(faces: list[Faces], found: list[Doubts], classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per face, the most uncertain first; docs/commands/audit.md lists the columns."""
    parts = [_rows(*pair, classes) for pair in zip(faces, found, strict=True)]
    joined = pd.concat(parts, ignore_index=True)
    return joined.sort_values("uncertainty", ascending=False, kind="stable", ignore_index=True)


def _rows(faces: Faces, found: Doubts, classes: tuple[str, ...]) -> pd.DataFrame:
    manifest = faces.data.rows.iloc[faces.rows]
    names = np.array([*classes, None], object)  # the last is `NOT_LABELLED`, -1
    columns: dict[str, Any] = {"id": manifest["id"].to_numpy(), "row": faces.rows, "split": faces.split}
    if "subject" in manifest:
        columns["subject"] = manifest["subject"].to_numpy()
    columns |= {
        "label": names[faces.labels.numpy()],
        "predicted": names[faces.probabilities.argmax(1).numpy()],
        "uncertainty": faces.uncertainty.float().numpy(),
        "label_error": found.score.float().numpy(),
        "suggested": names[found.suggested.numpy()],
    }
    if faces.prepared is not None:
        columns["made_wrong"] = (faces.labels != faces.prepared).numpy()
    if faces.confidence is not None:
        columns["confidence"] = faces.confidence.float().numpy()
    columns |= _spread("p", classes, faces.probabilities)
    if faces.mined is not None:
        nothing = faces.mined.isnan().any(1, keepdim=True)
        columns |= _spread("mined", classes, faces.distribution.masked_fill(nothing, np.nan))
    if faces.votes is not None:
        columns |= _spread("votes", classes, faces.votes)
    return pd.DataFrame(columns)


def _spread(prefix: str, classes: tuple[str, ...], values: Tensor) -> dict[str, np.ndarray]:
    return {f"{prefix}_{name}": column.float().numpy() for name, column in zip(classes, values.mT, strict=True)}
