"""An evaluation on disk: FILE.json holds the figures, FILE.parquet every prediction beside its label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from honne.batch import NOT_LABELLED
from honne.data.manifest import replacing, sha256
from honne.errors import HonneError
from honne.evaluation.scoring import Scored
from honne.labels import LabelSchema

FORMAT = "honne evaluation 1"


def write_evaluation(path: Path, result: dict[str, Any], scored: Scored) -> None:
    """Write FILE.json and FILE.parquet, the JSON last: while it is there, both are whole.

    Args:
        path: FILE.json.
        result: figures, as `honne.evaluate` returns them.
        scored: the rows they come from.
    """
    table = path.with_suffix(".parquet")
    with replacing(table) as aside:
        pq.write_table(predictions_table(scored), aside, compression="zstd")
    write_json(path, {"format": FORMAT, **result, "predictions": {"file": table.name, "sha256": sha256(table)}})


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write a result, short lists of numbers on one line."""
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def read_evaluation(path: Path) -> tuple[dict[str, Any], Scored]:
    """The inverse of `write_evaluation`.

    Raises:
        HonneError: a file is missing, is not an evaluation, or does not belong to the other.
    """
    if not path.is_file():
        raise HonneError(f"{path}: no such file.", "Make it with `honne evaluate MODEL --data DATA --out FILE.json`.")
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError):
        result = None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise HonneError(f"{path}: not an evaluation.", "Give a JSON file that `honne evaluate --out` has written.")
    table = path.with_name(result["predictions"]["file"])
    if not table.is_file():
        raise HonneError(f"{table}: missing; it holds the predictions of {path.name}.", "Keep both files together.")
    if sha256(table) != result["predictions"]["sha256"]:
        raise HonneError(f"{table}: not the predictions that {path.name} was made from.", "Evaluate the model again.")
    return result, _scored(pq.read_table(table), result)


def predictions_table(scored: Scored) -> pa.Table:
    """One line per row: id, subject, labels ("true_..."), predictions."""
    schema = scored.schema
    columns: dict[str, pa.Array] = {"id": pa.array(scored.ids, pa.string())}
    if scored.subjects is not None:
        columns["subject"] = pa.array(scored.subjects, pa.string(), from_pandas=True)
    columns["cluster"] = pa.array(scored.clusters)
    if scored.expression is not None:
        names = [None if code == NOT_LABELLED else schema.expressions[code] for code in scored.expression.tolist()]
        columns["true_expression"] = pa.array(names, pa.string())
    for prefix, values in (("true_votes", scored.votes), ("p", scored.probabilities)):
        columns |= _columns([f"{prefix}_{name}" for name in schema.expressions], values)
    for prefix, values in (("true_", scored.unit_labels), ("", scored.units)):
        columns |= _columns([f"{prefix}au{unit:02d}" for unit in schema.action_units], values)
    for prefix, values in (("true_", scored.affect_labels), ("", scored.affect)):
        columns |= _columns([f"{prefix}valence", f"{prefix}arousal"], values)
    for prefix, values in (("true_", scored.emotion_labels), ("", scored.emotion_probabilities)):
        columns |= _columns([f"{prefix}emotion_{name}" for name in schema.emotions], values)
    for name, values in (("true_sentiment", scored.sentiment_labels), ("sentiment", scored.sentiment)):
        columns |= _columns([name], None if values is None else values[:, None])
    columns |= _columns(["uncertainty"], None if scored.uncertainty is None else scored.uncertainty[:, None])
    return pa.table(columns | {name: pa.array(each.numpy(), pa.float32()) for name, each in scored.explained.items()})


def _columns(names: list[str], values: Tensor | None) -> dict[str, pa.Array]:
    if values is None:
        return {}
    return {name: pa.array(column.numpy(), pa.float32()) for name, column in zip(names, values.mT, strict=True)}


def _scored(table: pa.Table, result: dict[str, Any]) -> Scored:
    schema = LabelSchema.from_dict(result["schema"])

    def stack(names: list[str]) -> Tensor | None:
        if not names or names[0] not in table.column_names:
            return None
        return torch.from_numpy(np.stack([table[name].to_numpy() for name in names], 1))

    def column(name: str) -> Tensor | None:
        found = stack([name])
        return None if found is None else found[:, 0]

    units = [f"au{unit:02d}" for unit in schema.action_units]
    emotions = [f"emotion_{name}" for name in schema.emotions]
    expression = None
    if "true_expression" in table.column_names:
        place = {name: code for code, name in enumerate(schema.expressions)}
        codes = [place.get(name, NOT_LABELLED) for name in table["true_expression"].to_pylist()]
        expression = torch.tensor(codes)
    return Scored(
        schema,
        ids=table["id"].to_numpy(),
        subjects=table["subject"].to_numpy() if "subject" in table.column_names else None,
        clusters=table["cluster"].to_numpy(),
        probabilities=stack([f"p_{name}" for name in schema.expressions]),
        expression=expression,
        votes=stack([f"true_votes_{name}" for name in schema.expressions]),
        units=stack(units),
        unit_labels=stack([f"true_{unit}" for unit in units]),
        thresholds=torch.tensor([result["thresholds"][unit] for unit in units]) if units else None,
        affect=stack(["valence", "arousal"]) if schema.valence_arousal else None,
        affect_labels=stack(["true_valence", "true_arousal"]) if schema.valence_arousal else None,
        emotion_probabilities=stack(emotions),
        emotion_labels=stack([f"true_{name}" for name in emotions]),
        sentiment=column("sentiment"),
        sentiment_labels=column("true_sentiment"),
        explained={
            name: torch.tensor(table[name].to_numpy()) for name in result.get("explanations", {}).get("columns", ())
        },
        abaw=result["abaw"]["edition"] if "abaw" in result else "none",
        compat=result.get("compat"),
    )
