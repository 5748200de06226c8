"""How well a model's attention and class activation maps sit where its codebook says, face by face.

Cosines of maps that are not negative are high whatever they show, so every figure comes with what maps get that know
nothing of the face: `NULLS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch
from honne.console import progress
from honne.cues.codebook import codebook as codebook_named
from honne.cues.drawing import GRID, landmark_maps
from honne.data.dataset import FaceData
from honne.data.loading import batches
from honne.data.manifest import PreparedData
from honne.data.sampling import Draw
from honne.errors import HonneError
from honne.explain.agreement import centre_blob, expression_maps
from honne.explain.cams import normalise
from honne.explain.maps import class_activation_map, on_image
from honne.methods.au_cues import Cue
from honne.metrics.attention import attention_cosine, comparable, energy_inside, pointing
from honne.networks.layers import LAST, parse_layers

if TYPE_CHECKING:
    from honne.models import Model

MEASURES = {"cos": attention_cosine, "pointing": pointing, "energy": energy_inside}
SOURCES = ("att", "cam")
NULLS = ("uniform", "centre", "mean", "other")
"""In place of a map: a constant one; a Gaussian in the middle of the image, its standard deviation a quarter of the
side; the mean heat map of the training split, each class counting the same; the face's own heat maps of the other
classes (the mean of what each of them gets)."""
PREDICTED = "predicted_"
FACES_FOR_MEAN = 1000


@dataclass(frozen=True)
class MapOptions:
    """Which maps are measured, against which heat maps.

    Attributes:
        kind: of class activation map, of the network's last map.
        layers: whose attention is measured.
        cue: what heat maps show.
        codebook: name or YAML file.
    """

    kind: str
    layers: tuple[str, ...]
    cue: Cue
    codebook: str

    @classmethod
    def of(
        cls,
        model: Model,
        kind: str | None = None,
        layers: str | None = None,
        cue: Cue | None = None,
        codebook: str | None = None,
    ) -> MapOptions:
        """What is asked for, else what the model's configuration says, else layercam, `last`, action units, facs."""
        own = model.config.explanation
        return cls(
            kind or own.get("map", "layercam"),
            parse_layers(layers or own.get("aligned", LAST)),
            cue or own.get("cue", "action_units"),  # type: ignore[arg-type]
            codebook or own.get("codebook", "facs"),
        )

    def table(self, model: Model) -> Tensor:
        """(C, 20) bool: the action units of each of the model's expressions.

        Raises:
            HonneError: the codebook has none for any of them.
        """
        table = torch.from_numpy(codebook_named(self.codebook).table(model.schema.expressions))
        if self.cue == "generic_action_units":
            return torch.ones_like(table)
        if self.cue == "action_units" and not table.any():
            raise HonneError(
                f"codebook '{self.codebook}' names no action unit for any expression of model '{model.name}'.",
                "Take another codebook.",
            )
        return table

    def heatmaps(self, landmarks: Tensor, units: Tensor, side: int) -> Tensor:
        """(B, K, h, w) heat maps of faces (B, 68, 2) that show action units (B, K, 20); NaN where there is none."""
        count = units.shape[1]
        if self.cue == "landmarks":
            return landmark_maps(landmarks, side)[:, None].expand(-1, count, -1, -1)
        return expression_maps(landmarks, units, side)


class MeanMaps:
    """Mean face, heat map, attention and class activation map of every expression, summed up batch by batch.

    Attributes:
        maps: name -> (C, h, w), NaN for an expression without a face; `face` in 0..255, the others in 0..1.
        faces: (C,) how many.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Tensor | None = None

    def add(self, code: Tensor, classes: int, maps: Mapping[str, Tensor]) -> None:
        """Add faces (B, h, w) of classes (B,), negative where unknown."""
        member = F.one_hot(code.clamp_min(0), classes).float() * (code >= 0)[:, None]
        known = maps["cue"].isfinite().flatten(1).all(1)  # of a face without a cue nothing counts
        member = member * known[:, None]
        for name, each in maps.items():
            total = torch.einsum("bc,bhw->chw", member, each.float().nan_to_num(0.0)).cpu()
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts = member.sum(0).cpu() + (0 if self._counts is None else self._counts)

    @property
    def faces(self) -> Tensor:
        return torch.zeros(0) if self._counts is None else self._counts

    @property
    def maps(self) -> dict[str, Tensor]:
        counts = torch.where(self.faces > 0, self.faces, torch.nan)[:, None, None]
        return {name: total / counts for name, total in self._sums.items()}


def explained_faces(
    model: Model,
    data: PreparedData | str | Path,
    split: str = "test",
    asked: MapOptions | None = None,
    *,
    classes: Mapping[str, str] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    seed: int = 0,
    means: MeanMaps | None = None,
) -> pd.DataFrame:
    """Figures of every face of a split: its attention, and its class activation map, against its heat map.

    Args:
        model: one that names expressions.
        data: prepared data set with landmarks.
        split: train, valid or test.
        asked: which maps, `MapOptions.of(model, ...)`; unset = what the model's own configuration says.
        classes: class of the data -> class of the model, where the names differ.
        batch_size: images at once; does not change the result.
        workers: loading processes.
        seed: of the training faces that the mean heat map is made of.
        means: to which the maps of labelled faces are added.

    Returns:
        One line per row, in the order of the manifest: `id`, `row` (number in the manifest), `expression` (label),
        `predicted`, and figures, NaN where a face has no heat map:

        - `att_cos`, `att_pointing`, `att_energy` of the attention (mean over the layers; of several also `att_cos_4`
          and so on), `cam_cos` ... of the map of the labelled class, against the heat map of the labelled class;
        - `predicted_cam_cos` and so on of the map of the predicted class against the heat map of the predicted class;
        - `uniform_cos`, `predicted_uniform_cos` and so on: the same for each of `NULLS` in place of the map.

        What is published as ATT-COS and CAM-COS is the mean over classes, that is
        `table.groupby("expression")[["att_cos", "cam_cos"]].mean().mean()`.

    Raises:
        HonneError: no landmarks, no heat map at all, or as `class_activation_map`.
        WrongCall: no such map or layer.
    """
    opened = data if isinstance(data, PreparedData) else PreparedData(data)
    asked = asked or MapOptions.of(model)
    shown = batches(
        opened, split, size=model.alignment.size, batch_size=batch_size, workers=workers, centre=model.alignment.centre
    )
    faces = _Faces(model, opened, split, asked, classes or {}, seed, means or MeanMaps())
    parts = []
    with progress() as bar:
        task = bar.add_task(f"maps of {model.name} on {opened.schema.name} {split}", total=len(opened.split(split)))
        for batch in shown:
            parts.append(faces.figures(batch))
            bar.advance(task, len(batch))
    columns = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
    return _named(columns, opened, model)


def _named(columns: dict[str, np.ndarray], data: PreparedData, model: Model) -> pd.DataFrame:
    names = np.array([*model.schema.expressions, None], object)
    columns["expression"], columns["predicted"] = names[columns["expression"]], names[columns["predicted"]]
    ids = data.rows["id"].to_numpy()[columns["row"]]
    return pd.DataFrame({"id": ids} | columns)


class _Faces:
    """Everything about the faces of a split that is the same for all its batches."""

    def __init__(
        self,
        model: Model,
        data: PreparedData,
        split: str,
        asked: MapOptions,
        classes: Mapping[str, str],
        seed: int,
        means: MeanMaps,
    ) -> None:
        self.means = means
        self.model, self.asked, self.side = model, asked, model.alignment.size
        self.table = asked.table(model).to(model.device)
        place = {name: code for code, name in enumerate(model.schema.expressions)}
        known = [place.get(classes.get(name, name), NOT_LABELLED) for name in data.schema.labels.expressions]
        self.code = torch.tensor([*known, NOT_LABELLED])
        faces = FaceData([data], self.side, centre=model.alignment.centre)
        if faces.known.landmarks is None or not np.isfinite(faces.known.landmarks[data.split(split)]).any():
            raise HonneError(
                f"{data.root}: no face of split '{split}' has landmarks, without which no heat map can be drawn.",
                f"Add them: honne prepare prepared {data.root} --out DATA2 --landmarks mesh.",
            )
        self.nulls = {
            "uniform": torch.ones(GRID, GRID, device=model.device),
            "centre": centre_blob(model.device),
            "mean": self._mean_heatmap(faces, split, seed).to(model.device),
        }

    def heatmaps(self, landmarks: Tensor) -> Tensor:
        """(B, C, h, w) heat maps of every class."""
        units = self.table.expand(len(landmarks), -1, -1)
        return self.asked.heatmaps(landmarks.to(self.table.device), units, self.side)

    def _mean_heatmap(self, faces: FaceData, split: str, seed: int) -> Tensor:
        """(h, w) mean over classes of the mean heat map of each; data without labels stand for each class in turn."""
        data, labels, classes = faces.data[0], faces.known.expression, len(self.table)
        code = torch.arange(len(data)) % classes if labels is None else self.code[labels]
        for name in dict.fromkeys(("train", split)):
            rows = np.flatnonzero((data.rows["split"].to_numpy() == name) & (code >= 0).numpy())
            rows = np.random.default_rng(seed).permutation(rows)[:FACES_FOR_MEAN]
            if not len(rows):
                continue
            own = code[rows].to(self.table.device)
            maps = torch.cat([self._drawn(faces, rows[at], own[at]) for at in np.array_split(range(len(rows)), 16)])
            known = maps.isfinite().flatten(1).all(1)
            if known.any():
                member = F.one_hot(own[known], classes).float()
                return (torch.einsum("nc,nhw->chw", member, maps[known]) / member.sum(0)[:, None, None]).nanmean(0)
        raise HonneError(f"{data.root}: no face of split '{split}' has a heat map.", "Take another codebook or cue.")

    def _drawn(self, faces: FaceData, rows: np.ndarray, target: Tensor) -> Tensor:
        """(n, h, w) heat maps of rows of the manifest, each for its target."""
        landmarks = faces.__getitems__(Draw(rows, rows)).landmarks
        assert landmarks is not None
        return self.asked.heatmaps(landmarks.to(target.device), self.table[target, None], self.side)[:, 0]

    def figures(self, batch: Batch) -> dict[str, Tensor]:
        """Columns of `explained_faces` for a batch."""
        images, landmarks, labels = batch.images, batch.landmarks, batch.labels.expression
        assert images is not None
        assert landmarks is not None
        assert batch.index is not None
        device, asked = self.model.device, self.asked
        code = self.code[labels] if labels is not None else torch.full((len(images),), NOT_LABELLED)
        code = code.to(device)
        found = class_activation_map(self.model, images, "predicted", asked.kind, attended=asked.layers)
        predicted, maps = found.target, found.maps
        own = maps.clone()
        other = (code >= 0) & (code != predicted)
        if other.any():
            wrong = images[other.to(images.device)]
            own[other] = class_activation_map(self.model, wrong, code[other], asked.kind, attended=asked.layers).maps
        heatmaps = self.heatmaps(landmarks)
        columns = {"row": batch.index, "expression": code, "predicted": predicted}
        for prefix, cams, target in (("", own, code), (PREDICTED, maps, predicted)):
            wanted = of_class(heatmaps, target)
            cams = on_image(cams, GRID, "cam")
            columns |= {} if prefix else dict(self._attention(found.attention, wanted))
            columns |= _measured(f"{prefix}cam", cams, wanted)
            for name, null in self.nulls.items():
                columns |= _measured(f"{prefix}{name}", null.expand_as(wanted), wanted)
            columns |= {f"{prefix}other_{name}": value for name, value in self._others(heatmaps, wanted, target)}
            if not prefix:
                seen = normalise(on_image(found.attention[asked.layers[-1]].float(), GRID, "attention"))
                shown = {"face": images.to(device).float().mean(1), "cue": wanted, "attention": seen, "map": cams}
                self.means.add(code, len(self.table), shown)
        return columns

    def _attention(self, attention: dict[str, Tensor], heatmaps: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Figures of the attention: mean over the layers, and the cosine of each where there are several."""
        layers = {name: comparable(each.float(), heatmaps.shape[1:]) for name, each in attention.items()}
        for name, measure in MEASURES.items():
            values = {layer: measure(each, heatmaps) for layer, each in layers.items()}
            yield f"att_{name}", torch.stack(list(values.values())).mean(0)
            if name == "cos" and len(values) > 1:
                yield from ((f"att_cos_{layer}", value) for layer, value in values.items())

    def _others(self, heatmaps: Tensor, wanted: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What heat maps of other classes get in place of a map; NaN where heat maps do not differ by class."""
        faces, classes = heatmaps.shape[:2]
        differs = (self.table[None] != self.table[target.clamp_min(0), None]).any(2)
        counts = differs & heatmaps.isfinite().flatten(2).all(2) & (self.asked.cue == "action_units")
        placed, repeated = heatmaps.nan_to_num(0.0).flatten(0, 1), wanted.repeat_interleave(classes, 0)
        for name, measure in MEASURES.items():
            each = measure(placed, repeated).view(faces, classes)
            yield name, torch.where(counts, each, torch.nan).nanmean(1)


def null_of(name: str, null: str) -> str:
    """The column that a null baseline has in place of a figure.

    Example:
        >>> null_of("predicted_cam_cos", "centre"), null_of("att_cos_4", "mean")
        ('predicted_centre_cos', 'mean_cos')
    """
    prefix = PREDICTED if name.startswith(PREDICTED) else ""
    return f"{prefix}{null}_{name.removeprefix(prefix).split('_')[1]}"


def of_class(heatmaps: Tensor, target: Tensor) -> Tensor:
    """(B, h, w) heat maps (B, C, h, w) of one class each; NaN where the target (B,) is none."""
    chosen = heatmaps[torch.arange(len(heatmaps), device=heatmaps.device), target.clamp_min(0)]
    return torch.where((target >= 0)[:, None, None], chosen, torch.nan)


def _measured(name: str, maps: Tensor, heatmaps: Tensor) -> dict[str, Tensor]:
    return {f"{name}_{measure}": function(maps, heatmaps) for measure, function in MEASURES.items()}
