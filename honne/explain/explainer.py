"""Explanations of faces: where a model looks for an expression, and how well that agrees with a codebook."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from honne.cues.codebook import codebook as read_codebook
from honne.cues.drawing import GRID
from honne.errors import WrongCall
from honne.explain.agreement import Agreement, Region, agreement, expression_maps, sits_on
from honne.explain.cams import normalise
from honne.explain.maps import KINDS, Maps, class_activation_map, on_image
from honne.labels import canonical
from honne.networks.layers import LAST, parse_layers

if TYPE_CHECKING:
    from honne.models import Model

log = logging.getLogger("honne")

AU = "au"
MAPS = (*KINDS, AU)
"""What `honne explain --map` takes: the kinds of `honne.explain.maps`, and the codebook's own map."""
ATTENDED = (AU, "attention")  # kinds of which the attention is judged: they have no other map of the model's
FEWEST_CELLS = 6
PREDICTED: Literal["predicted"] = "predicted"


@dataclass
class Explanation:
    """Of one face.

    Attributes:
        expression: what is explained.
        probability: of it, calibrated.
        predicted: what the model predicts.
        map: (h, w) in [0, 1], as asked for; of kind `au` the codebook's, NaN where it has none.
        attention: (h, w), mean over the channels of the attended layer, brought to [0, 1].
        cue: (`GRID`, `GRID`) in [0, 1], the codebook's map; NaN without landmarks, or where it names no action unit.
        cosine: of the map and the codebook's (of kind `au`: of the attention and the codebook's); NaN without one.
        attention_cosine: of the attention and the codebook's.
        blob: what a blob in the middle of the crop would reach.
        others: mean cosine of the map and the codebook's maps of other expressions.
        regions: that the map (of kind `au`: the attention) sits on, best first.
        attention_regions: that the attention sits on.
    """

    expression: str
    probability: float
    predicted: str
    map: np.ndarray
    attention: np.ndarray
    cue: np.ndarray
    cosine: float
    attention_cosine: float
    blob: float
    others: float
    regions: tuple[Region, ...]
    attention_regions: tuple[Region, ...]


@dataclass
class _Judged:
    """Maps (B, h, w) of a batch, how well they agree with the codebook, and what they sit on."""

    maps: Tensor
    agreement: Agreement
    regions: list[tuple[Region, ...]]


class Explainer:
    """Explains faces with one model; everything that cannot work is refused when it is made.

    Args:
        model: one of images that names expressions.
        kind: one of `MAPS`; unset takes the model's own, or layercam.
        layer: of the map, as in `class_activation_map`.
        codebook: name or YAML file; unset takes the model's own, or facs.

    Attributes:
        kind, layer: as above.
        attended: layer whose attention is shown: the one that AU cues aligned, else `layer`.
        units: expression -> FACS numbers of the codebook.
        cells: height and width of the maps.

    Raises:
        WrongCall: no such map or layer.
        HonneError: no such codebook, or the model has no map of that kind.
    """

    def __init__(self, model: Model, kind: str | None = None, layer: str = LAST, codebook: str | None = None) -> None:
        explanation = model.config.explanation
        self.model = model
        self.kind = kind or explanation.get("map", "layercam")
        if self.kind not in MAPS:
            raise WrongCall(f"unknown map '{self.kind}'.{_meant(self.kind, MAPS)}", f"Known: {', '.join(MAPS)}.")
        self.layer = layer
        self.attended = parse_layers(explanation["aligned"])[-1] if "aligned" in explanation else layer
        self.codebook = codebook or explanation.get("codebook", "facs")
        book = read_codebook(self.codebook)
        self.units = {name: tuple(sorted(book.units.get(name, ()))) for name in model.schema.expressions}
        self._table = torch.from_numpy(book.table(model.schema.expressions)).to(model.device)
        side = model.alignment.size
        noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        tried = self(noise, np.full((1, 68, 2), np.nan))[0]
        self.cells = (tried.attention if self.kind in ATTENDED else tried.map).shape
        if min(self.cells) < FEWEST_CELLS:
            log.warning(
                "Maps of model '%s' have %d x %d cells, too few to tell the regions of a face apart well; those of "
                "earlier layers are finer.",
                model.name,
                *self.cells,
            )

    def settings(self) -> dict[str, str]:
        """For the file that says how explanations were made."""
        return {"map": self.kind, "layer": self.layer, "attention of layer": self.attended, "codebook": self.codebook}

    def expression(self, name: str) -> str:
        """The model's spelling of an expression.

        Raises:
            WrongCall: the model does not name it.
        """
        known = self.model.schema.expressions
        found = name if name in known else canonical(name)
        if found not in known:
            what = f"model '{self.model.name}' has no expression '{name}'."
            raise WrongCall(what + _meant(found, known), f"It has {', '.join(known)}.")
        return found

    def __call__(
        self, crops: np.ndarray, landmarks: np.ndarray, expressions: Sequence[str] | None = None
    ) -> list[Explanation]:
        """Explanations of a batch of faces.

        Args:
            crops: (B, S, S, 3) uint8, made with the model's alignment.
            landmarks: (B, 68, 2) px of the crops; NaN where unknown.
            expressions: to explain, one a face; unset takes what the model predicts.
        """
        found = self._maps(torch.from_numpy(np.ascontiguousarray(crops.transpose(0, 3, 1, 2))), expressions)
        points = torch.from_numpy(landmarks).float().to(found.maps.device)
        side = crops.shape[1]
        rows = torch.arange(len(crops), device=points.device)
        shown = self._table[found.target]
        every = expression_maps(points, self._table, side)
        raw = found.attention[self.attended].float()
        own = every[rows, found.target]

        def judged(maps: Tensor, compared: Tensor) -> _Judged:
            with_codebook = agreement(compared, every, self._table, found.target)
            return _Judged(maps, with_codebook, sits_on(maps, points, shown, side))

        seen = judged(normalise(raw), on_image(raw, GRID, "attention"))
        mapped = seen if self.kind in ATTENDED else judged(found.maps, on_image(found.maps, GRID, "cam"))
        if self.kind == AU:
            mapped = replace(seen, maps=own)
        return self._explanations(found, mapped, seen, own)

    def _maps(self, images: Tensor, expressions: Sequence[str] | None) -> Maps:
        """Of the kind that was asked for; of `au` and `attention` only the attention matters."""
        target: Tensor | Literal["predicted"] = PREDICTED
        if expressions is not None:
            target = torch.tensor([self.model.schema.expressions.index(name) for name in expressions])
        kind, layer = ("attention", self.attended) if self.kind in ATTENDED else (self.kind, self.layer)
        return class_activation_map(self.model, images, target, kind, layer, attended=(self.attended,))

    def _explanations(self, found: Maps, mapped: _Judged, seen: _Judged, cues: Tensor) -> list[Explanation]:
        names = self.model.schema.expressions
        best, target = found.probabilities.argmax(1).tolist(), found.target.tolist()
        drawn, attention, cue = (each.float().cpu().numpy() for each in (mapped.maps, seen.maps, cues))
        return [
            Explanation(
                expression=names[target[face]],
                probability=float(found.probabilities[face, target[face]]),
                predicted=names[best[face]],
                map=drawn[face],
                attention=attention[face],
                cue=cue[face],
                cosine=float(mapped.agreement.cosine[face]),
                attention_cosine=float(seen.agreement.cosine[face]),
                blob=float(mapped.agreement.blob[face]),
                others=float(mapped.agreement.others[face]),
                regions=mapped.regions[face],
                attention_regions=seen.regions[face],
            )
            for face in range(len(target))
        ]


def _meant(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, 1)
    return f" Did you mean '{near[0]}'?" if near else ""
