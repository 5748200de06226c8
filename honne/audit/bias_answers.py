"""What models say of test rows whose stratum is known, and what of the stratum is left in their features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from honne.batch import Batch, Prediction
from honne.data.bias import BIASED, Cells, cells
from honne.data.loading import batches
from honne.data.manifest import PreparedData
from honne.errors import HonneError
from honne.metrics.probe import cell_weights, linear_probe
from honne.models import Model
from honne.networks.face import FaceNetwork
from honne.networks.layers import views

BACKBONE, EMOTION, LABEL = "backbone features", "emotion features", "the expression label alone"
"""What a probe reads the stratum from."""


@dataclass(frozen=True)
class Rows:
    """N labelled test rows of known stratum; C classes, K strata.

    Attributes:
        data: of which they are.
        rows: (N,) row numbers in its manifest.
        fold: of the data.
        label: (N,) class.
        stratum: (N,) index into `strata`.
        out: (N,) bool, of a cell that training lacks: out of distribution.
        seen: (N,) bool, of a cell that training has.
        clusters: (N,) who is resampled together; the same person has one number in all folds.
        strata: names.
    """

    data: PreparedData
    rows: np.ndarray
    fold: int
    label: Tensor
    stratum: Tensor
    out: Tensor
    seen: Tensor
    clusters: np.ndarray
    strata: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Answers:
    """What one model says of `Rows`.

    Attributes:
        probabilities: (N, C).
        features: name -> (N, D) of what it computes on the way.
        strata: (N, K', C) probabilities under the intervention on each stratum; `None` of models that make none.
        names: of these K' strata.
    """

    probabilities: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    strata: Tensor | None = None
    names: tuple[str, ...] = ()

    @property
    def predicted(self) -> Tensor:
        """(N,) class."""
        return self.probabilities.argmax(1)


def square_of(data: PreparedData) -> tuple[Cells, np.ndarray, np.ndarray]:
    """Which cells are held out of training, and which are in it.

    Held out are the cells that `honne.data.bias` recorded, else those that the training rows lack.

    Returns:
        The cells of all rows, (K, C) bool held out, (K, C) bool seen; both False throughout without training rows.
    """
    classes = data.schema.labels.expressions
    placed = cells(data.rows, classes)
    training = placed.occupied((data.rows["split"] == "train").to_numpy(), len(classes)) > 0
    out = ~training & training.any()
    if record := data.schema.options.get(BIASED):
        names = {(str(stratum), str(name)) for stratum, name in record["held_out"]}
        out = np.array([[(stratum, name) in names for name in classes] for stratum in placed.strata])
    return placed, out, training & ~out


def test_rows(data: PreparedData, split: str, fold: int, clusters: np.ndarray) -> Rows:
    """The rows of a split whose expression and stratum are known.

    Args:
        data: with a column `domain`.
        split: train, valid or test.
        fold: number of the data.
        clusters: (M,) of every row of the manifest.

    Raises:
        HonneError: there are none.
    """
    placed, out, seen = square_of(data)
    rows = np.flatnonzero((data.rows["split"] == split).to_numpy() & placed.known)
    if not len(rows):
        raise HonneError(
            f"{data.root}: no row of split '{split}' has an expression label and a stratum.", "Choose another split."
        )
    label, stratum = placed.label[rows], placed.stratum[rows]
    return Rows(
        data,
        rows,
        fold,
        torch.from_numpy(label),
        torch.from_numpy(stratum),
        torch.from_numpy(out[stratum, label]),
        torch.from_numpy(seen[stratum, label]),
        clusters[rows],
        placed.strata,
    )


def ask(model: Model, rows: Rows, split: str, *, batch_size: int, workers: int) -> Answers:
    """Run a model over rows.

    Args:
        model: of the classes of the data.
        rows: of `test_rows`.
        split: that they are of.
        batch_size: images at once; does not change the result.
        workers: loading processes.
    """
    crop = model.alignment
    shown = batches(rows.data, split, size=crop.size, centre=crop.centre, batch_size=batch_size, workers=workers)
    index: list[Tensor] = []
    parts: list[dict[str, Tensor]] = []
    for batch in shown:
        assert batch.index is not None
        index.append(batch.index)
        parts.append({name: each.float().cpu() for name, each in _said(model, batch).items()})
    place = torch.cat(index).argsort()[np.searchsorted(torch.cat(index).sort().values, rows.rows)]
    found = {name: torch.cat([part[name] for part in parts])[place] for name in parts[0]}
    probabilities, strata = found.pop("probabilities"), found.pop("strata", None)
    return Answers(probabilities, found, strata, _names(model, strata))


@torch.inference_mode()
def _said(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Probabilities, those under every intervention, and pooled features, of an ensemble side by side."""
    prediction: Prediction = model.forward_batch(batch)
    assert prediction.expression is not None
    said = {"probabilities": prediction.expression.softmax(-1)}
    if prediction.strata is not None:
        said["strata"] = prediction.strata.softmax(-1)
    own = prediction.features
    faces = [view.face for view in views(model.network)]
    if isinstance(faces[0], FaceNetwork) and batch.images is not None:
        images = model.normalise(batch.images.to(model.device))
        said[BACKBONE] = torch.cat([face.embedding(images) for face in faces], 1)
        if (
            own is not None
            and faces[0] is model.network
            and (own.shape != said[BACKBONE].shape or not torch.allclose(own, said[BACKBONE]))
        ):
            said[EMOTION] = own
    elif own is not None:
        said[BACKBONE] = own
    return said


def _names(model: Model, strata: Tensor | None) -> tuple[str, ...]:
    if strata is None:
        return ()
    named = getattr(getattr(model.network, "expression", None), "strata", None)
    return tuple(map(str, named)) if named is not None else tuple(f"stratum {k}" for k in range(strata.shape[1]))


def probed(rows: Rows, features: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Which rows a linear probe puts into the right stratum, for each kind of features.

    Args:
        rows: N rows.
        features: name -> (N, D).
        seed: of the probe.

    Returns:
        Name -> (N,) bool; empty where all rows are of one stratum or of one person.
    """
    if len(rows.stratum.unique()) < 2 or len(np.unique(rows.clusters)) < 2:
        return {}
    return {
        name: linear_probe(values, rows.stratum, rows.clusters, beside=rows.label, seed=seed).argmax(1) == rows.stratum
        for name, values in features.items()
    }


def probe_weights(rows: Rows) -> Tensor:
    """(N,) weights under which the expression says as little as may be of the stratum."""
    return cell_weights(rows.stratum, rows.label)


def label_features(rows: Rows, classes: Sequence[str]) -> dict[str, Tensor]:
    """What a probe gets that is told nothing but the expression."""
    return {LABEL: torch.nn.functional.one_hot(rows.label, len(classes))}
