"""The table: its columns, their types and meanings, and how a model's figures become decisions.

A row is first written *raw*: where and when, the face, and the model's figures (`signals`). Smoothing changes signals
only; `decide` then derives the expression, the present action units and the status from them, in one place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from honne.faces.quality import LOW_QUALITY
from honne.labels import LabelSchema

OUTPUTS_ARE = "predicted apparent expression"
"""What every table holds: what observers would say they see, never what a person feels."""

POSITION = "_position"
"""Column of raw parts only: number of the analysed frame (or picture) in its input, from 0, without gaps."""

FEATURES = "_features"
"""Column of raw parts of videos with a temporal model: its frame features of the face, a list of floats."""

Explained = dict[tuple[int, int], tuple[str | None, float]]
"""Position and face -> action units of an explanation, and its agreement (NaN where there is none)."""

_CORRECTED = "_baseline_corrected"


@dataclass(frozen=True)
class Column:
    """One column.

    Args:
        name: in the table.
        type: Arrow type.
        meaning: one line for people; stored in the Parquet file too.
        unit: or range.
    """

    name: str
    type: pa.DataType
    meaning: str
    unit: str = ""

    @property
    def field(self) -> pa.Field:
        return pa.field(self.name, self.type, metadata={"meaning": self.meaning, "unit": self.unit})


WHERE = (
    Column("source", pa.string(), "file or camera, as it was named"),
    Column("frame", pa.int64(), "number of the frame in its source, from 0; sub-sampling does not renumber"),
    Column("time", pa.float64(), "media time, from presentation stamps; 0 for a still", "s"),
    Column("face", pa.int32(), "track number, stable through a video; null without a face"),
    Column("status", pa.string(), "ok, no_face, low_quality, abstained or error"),
    Column("message", pa.string(), "why the status is not ok; null otherwise"),
    Column("box_x", pa.float32(), "left edge of the face box", "px"),
    Column("box_y", pa.float32(), "top edge of the face box", "px"),
    Column("box_w", pa.float32(), "width of the face box", "px"),
    Column("box_h", pa.float32(), "height of the face box", "px"),
    Column("face_score", pa.float32(), "the face finder's confidence", "0..1"),
    Column("quality", pa.float32(), "how well the face can be judged (size, blur, pose, exposure)", "0..1"),
    Column("yaw", pa.float32(), "head turned to image right", "degrees"),
    Column("pitch", pa.float32(), "head lifted", "degrees"),
    Column("roll", pa.float32(), "head tilted clockwise in the image", "degrees"),
)
"""The columns of every table of faces, whatever the model."""

UTTERANCE = (
    *WHERE[:2],
    Column("time", pa.float64(), "start of the utterance in media time", "s"),
    Column("duration", pa.float64(), "of the utterance", "s"),
    Column("face", pa.int32(), "null: a row is an utterance, not a face"),
    Column("status", pa.string(), "ok, no_face (nothing was heard or said either), abstained or error"),
    WHERE[5],
    Column("modalities", pa.string(), "what the model could go by, as audio+vision+text; null if nothing"),
)
"""The same of models of several modalities: a row is an utterance."""

EXPLAINED = (
    Column("attention_au", pa.string(), "action units whose regions the model's map sits on, best first"),
    Column("au_agreement", pa.float32(), "cosine of the model's map with the codebook's of the expression", "0..1"),
)
"""The columns that explanations add; null in rows that were not explained."""


@dataclass(frozen=True)
class Layout:
    """The columns of a model's tables.

    Args:
        labels: what the model predicts.
        corrected: whether columns corrected by a baseline are wanted.
        explained: whether the columns of explanations are wanted.
        where: the columns before what the model says.
    """

    labels: LabelSchema
    corrected: bool = False
    explained: bool = False
    where: tuple[Column, ...] = WHERE

    @property
    def probabilities(self) -> list[Column]:
        meaning = "calibrated probability of apparent {}; the p_ columns sum to 1"
        return [Column(f"p_{name}", pa.float32(), meaning.format(name), "0..1") for name in self.labels.expressions]

    @property
    def action_units(self) -> list[Column]:
        meaning = "probability that action unit {} is visible"
        return [
            Column(f"au{unit:02d}", pa.float32(), meaning.format(unit), "0..1") for unit in self.labels.action_units
        ]

    @property
    def emotions(self) -> list[Column]:
        meaning = "probability of apparent {}, by itself: several emotions may be present, or none"
        return [Column(f"emotion_{name}", pa.float32(), meaning.format(name), "0..1") for name in self.labels.emotions]

    @property
    def signals(self) -> list[Column]:
        """What the model says as numbers, in table order."""
        uncertainty = Column("uncertainty", pa.float32(), "0 sure .. 1 knows nothing", "0..1")
        affect = [
            Column("valence", pa.float32(), "apparent valence, unpleasant to pleasant", "-1..1"),
            Column("arousal", pa.float32(), "apparent arousal, calm to excited", "-1..1"),
        ]
        scale = self.labels.sentiment
        sentiment = Column(
            "sentiment", pa.float32(), "apparent sentiment, negative to positive", f"{-scale:g}..{scale:g}"
        )
        return [
            *self.probabilities,
            *([uncertainty] if self.labels.expressions else []),
            *(affect if self.labels.valence_arousal else []),
            *self.action_units,
            *self.emotions,
            *([sentiment] if scale else []),
        ]

    @property
    def correctable(self) -> list[Column]:
        """Signals that a baseline is subtracted from: all but the uncertainty."""
        return [column for column in self.signals if column.name != "uncertainty"]

    @property
    def columns(self) -> list[Column]:
        """All columns, in table order."""
        expression = Column("expression", pa.string(), "the most probable apparent expression")
        present = "whether action unit {} is visible, by the model's threshold"
        less = "{} minus this face's median during its baseline"
        return [
            *self.where,
            *([expression] if self.labels.expressions else []),
            *self.signals,
            *(Column(f"au{unit:02d}_on", pa.bool_(), present.format(unit)) for unit in self.labels.action_units),
            *(
                Column(each.name + _CORRECTED, pa.float32(), less.format(each.name), _difference(each.unit))
                for each in (self.correctable if self.corrected else [])
            ),
            *(EXPLAINED if self.explained else ()),
        ]

    @property
    def schema(self) -> pa.Schema:
        """Of the finished table."""
        return pa.schema([column.field for column in self.columns], metadata={"outputs are": OUTPUTS_ARE})

    @property
    def raw_schema(self) -> pa.Schema:
        """Of the parts written while the input is read."""
        return pa.schema([pa.field(POSITION, pa.int32()), *(column.field for column in (*self.where, *self.signals))])

    def matrix(self, rows: pa.Table, columns: list[Column] | None = None) -> np.ndarray:
        """(rows, K) float32 of the given columns, all signals by default; NaN where null."""
        names = [column.name for column in (self.signals if columns is None else columns)]
        if not names:
            return np.empty((len(rows), 0), np.float32)
        return np.column_stack([rows[name].to_numpy() for name in names]).astype(np.float32)

    def with_matrix(self, rows: pa.Table, values: np.ndarray) -> pa.Table:
        """The rows with all signals replaced."""
        for column, each in zip(self.signals, values.T, strict=True):
            rows = rows.set_column(rows.column_names.index(column.name), column.field, _floats(each))
        return rows

    def decide(self, rows: pa.Table, thresholds: dict[int, float], abstain: float | None) -> pa.Table:
        """Add what follows from the signals: `expression`, `au.._on`, and the statuses low_quality and abstained.

        Args:
            rows: raw rows.
            thresholds: action unit -> probability from which it counts as present.
            abstain: uncertainty above which the model abstains; None = never.
        """
        judged = rows["status"].to_numpy() == "ok"
        if self.labels.expressions:
            best = np.nan_to_num(self.matrix(rows, self.probabilities)).argmax(1)
            names = np.array(self.labels.expressions, dtype=object)[best]
            rows = rows.append_column("expression", pa.array(names, pa.string(), mask=~judged))
        for unit in self.labels.action_units:
            probability = rows[f"au{unit:02d}"].to_numpy()
            on = pa.array(np.nan_to_num(probability) >= thresholds[unit], pa.bool_(), mask=~judged)
            rows = rows.append_column(f"au{unit:02d}_on", on)
        return self._with_status(rows, judged, abstain)

    def _with_status(self, rows: pa.Table, judged: np.ndarray, abstain: float | None) -> pa.Table:
        status = rows["status"].to_numpy().copy()
        message = rows["message"].to_numpy().copy()
        quality = rows["quality"].to_numpy() if "quality" in rows.column_names else np.ones(len(rows))
        low = judged & (quality < LOW_QUALITY)
        unsure = np.zeros_like(low)
        if abstain is not None and self.labels.expressions:
            uncertainty = rows["uncertainty"].to_numpy()
            unsure = judged & ~low & (uncertainty > abstain)
            message[unsure] = [f"uncertainty {value:.2f} is above {abstain:g}" for value in uncertainty[unsure]]
        message[low] = [f"quality {value:.2f} is below {LOW_QUALITY:g}" for value in quality[low]]
        status[low], status[unsure] = "low_quality", "abstained"
        for name, values in (("status", status), ("message", message)):
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, pa.string()))
        return rows

    def with_corrected(self, rows: pa.Table, values: np.ndarray) -> pa.Table:
        """Add the columns corrected by a baseline, (rows, K) in the order of `correctable`; NaN becomes null."""
        for column, each in zip(self.correctable, values.T, strict=True):
            rows = rows.append_column(column.name + _CORRECTED, _floats(each))
        return rows

    def with_explained(self, rows: pa.Table, explained: Explained) -> pa.Table:
        """Add the columns of explanations.

        Args:
            rows: with their `POSITION`.
            explained: what they say; other rows get null.
        """
        places = zip(rows[POSITION].to_pylist(), rows["face"].to_pylist(), strict=True)
        found = [explained.get(place, (None, None)) for place in places]
        for column, each in zip(EXPLAINED, zip(*found, strict=True) if found else ((), ()), strict=True):
            rows = rows.append_column(column.name, pa.array(each, column.type, from_pandas=True))
        return rows


def _difference(unit: str) -> str:
    """Range of a figure -> range of its difference from a baseline: of `0..1` it is `-1..1`."""
    low, high = map(float, unit.split(".."))
    return f"{low - high:g}..{high - low:g}"


def _floats(values: np.ndarray) -> pa.Array:
    return pa.array(values.astype(np.float32), pa.float32(), from_pandas=True)


def to_pandas(rows: pa.Table) -> pd.DataFrame:
    """A table as a DataFrame; whole numbers and booleans stay what they are where some are null."""
    kept = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
    return rows.to_pandas(types_mapper=kept.get)
