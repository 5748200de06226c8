"""Whether a class activation map tells what the model uses: pixels hidden in its order, and weights drawn anew.

Sources: insertion and deletion, Petsiuk, Das, Saenko, "RISE", BMVC 2018; weights drawn anew, Adebayo et al., "Sanity
Checks for Saliency Maps", NeurIPS 2018.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch
from honne.console import progress
from honne.cues.drawing import GRID
from honne.data.dataset import FaceData
from honne.data.manifest import PreparedData
from honne.data.sampling import Draw
from honne.explain.agreement import centre_blob
from honne.explain.maps import class_activation_map, on_image
from honne.explain.measuring import MapOptions
from honne.metrics.attention import attention_cosine
from honne.metrics.faithfulness import area_under, curves, pixel_ranks, rank_correlation
from honne.networks.layers import LAST, layer, layer_names, views

if TYPE_CHECKING:
    from honne.models import Model

STEPS = 20
COARSE = 4
"""Side in pixels of what is left of a picture where it is hidden; the rest of it is interpolated."""
ORDERS = ("map", "random", "centre")
"""What pixels are ordered by: the map, a random map of the same resolution, the distance from the middle."""
STAGES = ("head", "last_stage", "all")
"""Which weights are drawn anew, each with those before it."""
CHUNK, AT_ONCE = 16, 64


def checked_faces(
    model: Model, data: PreparedData, rows: Sequence[int] | np.ndarray, asked: MapOptions, *, seed: int = 0
) -> pd.DataFrame:
    """Insertion, deletion and randomisation of weights for some faces, all for the class that the model predicts.

    Hidden pixels show the picture as it is at 4 x 4 pixels. Weights are drawn anew by shuffling the entries of each
    tensor, which keeps their distribution; what batch normalisation has stored is then counted again on these faces.

    Args:
        model: one that names expressions.
        data: prepared data set with landmarks.
        rows: numbers in the manifest.
        asked: which maps.
        seed: of the random order and of the weights.

    Returns:
        One line per row: `row`;

        - `map_deletion`, `map_insertion`: area under the curve of the class's calibrated probability as the pixels
          that the map ranks highest are hidden, or shown alone; `random_deletion`, `centre_deletion` and so on for
          other orders;
        - `trained_cam_cos`, `trained_att_cos`: agreement with the class's heat map; `head_cam_cos` and so on after
          weights were drawn anew; `head_cam_rank`, `head_att_rank`: rank correlation of the map with the one before.
    """
    faces = FaceData([data], model.alignment.size, centre=model.alignment.centre)
    chunks = [faces.__getitems__(Draw(part, part)) for part in np.array_split(np.asarray(rows), len(rows) // CHUNK + 1)]
    models = {"trained": model} | {stage: redrawn(model, stage, chunks, seed) for stage in _stages(model.network)}
    noise = torch.Generator().manual_seed(seed)
    parts = []
    with progress() as bar:
        task = bar.add_task(f"checks of the maps of {model.name}", total=len(rows))
        for chunk in chunks:
            assert chunk.index is not None
            columns = {"row": chunk.index} | dict(_curves(model, chunk, asked, noise))
            parts.append(columns | _redraws(models, chunk, asked))
            bar.advance(task, len(chunk))
    return pd.DataFrame({name: torch.cat([part[name].cpu() for part in parts]).numpy() for name in parts[0]})


def _curves(model: Model, batch: Batch, asked: MapOptions, noise: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    assert batch.images is not None
    images = batch.images.to(model.device)
    found = class_activation_map(model, images, "predicted", asked.kind)
    side, target = images.shape[-1], found.target.repeat_interleave(STEPS + 1)
    coarse = F.interpolate(images.float(), COARSE, mode="area")
    hidden = F.interpolate(coarse, side, mode="bilinear", align_corners=False).round().to(torch.uint8)
    random = torch.rand(found.maps.shape, generator=noise).to(images.device)
    ties = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).to(images.device)

    def score(shown: Tensor) -> Tensor:
        found = [model.forward_batch(Batch(images=part)).expression for part in shown.split(AT_ONCE)]
        return torch.cat(cast("list[Tensor]", found)).softmax(1).gather(1, target[:, None])[:, 0]

    centre = centre_blob(images.device).expand(len(images), -1, -1)
    for name, maps in zip(ORDERS, (found.maps, random, centre), strict=True):
        ranks = pixel_ranks(on_image(maps, side, "cam"), ties)
        for curve, values in zip(("deletion", "insertion"), curves(score, images, hidden, ranks, STEPS), strict=True):
            yield f"{name}_{curve}", area_under(values)


def _redraws(models: dict[str, Model], batch: Batch, asked: MapOptions) -> dict[str, Tensor]:
    """Agreement of the maps of every model with heat maps, and their likeness to those of the trained one."""
    trained = models["trained"]
    assert batch.images is not None
    assert batch.landmarks is not None
    before = class_activation_map(trained, batch.images, "predicted", asked.kind, attended=asked.layers)
    landmarks, units = batch.landmarks.to(trained.device), asked.table(trained).to(trained.device)[before.target, None]
    heatmaps = asked.heatmaps(landmarks, units, batch.images.shape[-1])[:, 0]
    columns = {}
    for stage, model in models.items():
        after = before
        if model is not trained:
            after = class_activation_map(model, batch.images, before.target, asked.kind, attended=asked.layers)
            columns[f"{stage}_cam_rank"] = rank_correlation(before.maps, after.maps)
            pairs = [(before.attention[name], after.attention[name]) for name in asked.layers]
            columns[f"{stage}_att_rank"] = torch.stack([rank_correlation(*pair) for pair in pairs]).mean(0)
        columns[f"{stage}_cam_cos"] = attention_cosine(on_image(after.maps, GRID, "cam"), heatmaps)
        cosines = [attention_cosine(after.attention[name].float(), heatmaps) for name in asked.layers]
        columns[f"{stage}_att_cos"] = torch.stack(cosines).mean(0)
    return columns


def _stages(network: nn.Module) -> tuple[str, ...]:
    """`STAGES` of a network; a backbone that names no layers has no last one."""
    return STAGES if layer_names(views(network)[0].face) != (LAST,) else (STAGES[0], STAGES[-1])


def redrawn(model: Model, stage: str, faces: Sequence[Batch], seed: int) -> Model:
    """A copy of a model, weights drawn anew from the outputs up to a stage of `STAGES`.

    Args:
        model: is left as it is.
        stage: of `STAGES`.
        faces: batches on which batch normalisation counts anew what it had stored behind such weights.
        seed: of the weights.
    """
    made = copy(model)
    made.network = deepcopy(model.network)
    looking = [view.face for view in views(made.network)]
    modules = list(made.network.modules())
    if stage != "all":
        backbones = {id(each) for face in looking for each in face.backbone.modules()}
        modules = [each for each in modules if id(each) not in backbones]
    if stage == "last_stage":
        modules += [each for face in looking for each in layer(face, layer_names(face)[-2]).modules()]
    draw = torch.Generator().manual_seed(seed)
    for module in modules:
        for weights in module.parameters(recurse=False):
            weights.copy_(weights.flatten()[torch.randperm(weights.numel(), generator=draw)].view_as(weights))
    counting = [each for each in modules if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for each in counting:
        each.reset_running_stats()
        each.momentum = None  # a plain mean over the batches
        each.train()
    for batch in faces if counting else ():
        made.forward_batch(Batch(images=batch.images))
    made.network.eval()
    return made
