"""A prepared data set with likely label errors put right, for people to accept or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

import honne
from honne.audit.faces import Doubts, Faces
from honne.data.derived import deriving, share
from honne.data.manifest import PreparedData, sha256, write_manifest
from honne.data.world.dataset import TRUTH
from honne.models import Model

Correct = Literal["relabel", "drop"]
CHANGES = "changes.csv"


def changes(faces: Faces, found: Doubts, classes: tuple[str, ...], how: Correct) -> pd.DataFrame:
    """Likely wrong labels, most doubtful first: `row` of the manifest, `id`, `from`, `to` (empty: dropped), `score`."""
    likely = found.likely.numpy()
    names = np.array([*classes, ""], object)
    listed = pd.DataFrame(
        {
            "row": faces.rows[likely],
            "id": faces.data.rows["id"].to_numpy()[faces.rows[likely]],
            "from": names[faces.labels.numpy()[likely]],
            "to": names[found.suggested.numpy()[likely]] if how == "relabel" else "",
            "score": found.score.numpy()[likely].round(6),
        }
    )
    return listed.sort_values("score", ascending=False, kind="stable", ignore_index=True)


def write_corrected(out: Path, data: PreparedData, listed: pd.DataFrame, model: Model) -> None:
    """Write a data set whose listed rows have the class `to`, or none; everything else as in `data`.

    Votes stay as they were counted. `target` is cleared where the label changes: it was made from the old one.

    Args:
        out: folder, replaced as a whole.
        data: the data set, labels as the model saw them.
        listed: from `changes`.
        model: that suggested them.
    """
    with deriving(out, data) as aside:
        share(data.root / TRUTH, aside / TRUTH)
        listed.drop(columns="row").to_csv(aside / CHANGES, index=False)
        text = _sentence(data, listed, model)
        (aside / "card.md").write_text(_card(data, text), encoding="utf-8")
        source = {**data.schema.source, "labels": text, "corrected from": sha256(data.root / "manifest.parquet")}
        schema = replace(data.schema, name=f"{data.schema.name}, corrected", source=source, version=honne.__version__)
        write_manifest(aside, _corrected(data.rows, listed), schema)


def _corrected(rows: pd.DataFrame, listed: pd.DataFrame) -> pd.DataFrame:
    at = listed["row"].to_numpy()
    labels = rows["expression"].to_numpy(object, copy=True)
    labels[at] = [name or None for name in listed["to"]]
    changed = rows.assign(expression=labels)
    if "target" in rows:
        target = rows["target"].to_numpy(object, copy=True)
        target[at] = None
        changed["target"] = target
    return changed


def _sentence(data: PreparedData, listed: pd.DataFrame, model: Model) -> str:
    dropped = int((listed["to"] == "").sum())
    done = f"{dropped:,} labels taken away" if dropped else f"{len(listed):,} labels changed"
    training = int((data.rows["split"] == "train").sum())
    return (
        f"{done} among {training:,} training rows, on the word of model '{model.name}' (sha256 {model.sha256[:12]}), by"
        f" honne audit {honne.__version__}"
    )


def _card(data: PreparedData, text: str) -> str:
    return f"""# {data.schema.name}, corrected

{text}. `{CHANGES}` lists them one by one; a model suggested them, and nobody has looked at them unless you have.
Validation and test labels are as they were, and so are images and votes.

Licence: {data.schema.licence}.

Labels are the apparent expression as raters, or here a model, saw it, not what a person felt.
"""
