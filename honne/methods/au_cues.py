"""AU cues: attention aligned to the action-unit regions of the labelled expression, beside any method's own losses.

Trained coders read an expression from certain regions of the face. A codebook says which action units an expression
shows, landmarks say where these are: that gives one heat map A per face, without any annotation. The loss makes the
spatial attention T_l of a layer, the mean of its maps over the channels, collinear with it:

    L = L_method + weight * mean_l R(T_l, A),        R = mean_b [1 - cos(T_b, A_b)]

Nothing is added to the network, and neither landmarks nor heat maps are needed once it is trained. Faces without a map
(no landmarks, or an expression without action units, as neutral) do not count.

Source: Belharbi, Pedersoli, Koerich, Bacon, Granger, "Guided Interpretable Facial Expression Recognition via Spatial
Action Unit Cues", FG 2024, arXiv 2402.00281. Extended log-barrier: Kervadec et al., MIDL 2022.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import NOT_LABELLED, Batch
from honne.cues.codebook import UNITS, codebook
from honne.cues.drawing import action_unit_maps, landmark_maps
from honne.cues.reference import action_unit_map, landmark_map
from honne.data.known import Known
from honne.data.masking import RAFDB_AVERAGE, mask_images, otsu_threshold
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.metrics.attention import Aligned, attention_cosine, resized
from honne.networks.layers import LAST, parse_layers, views, watched

Attention = Literal["mean", "first_half", "second_half", "first_share", "random_share"]
Loss = Literal["cosine", "standardised_cosine", "l1", "l2", "kl"]
Cue = Literal["action_units", "generic_action_units", "landmarks"]
NO_LANDMARKS = (
    "AU cues need landmarks, which these data do not have.",
    "Add them: honne prepare prepared DATA --out DATA2 --landmarks mesh.",
)
NO_LABELS = (
    "AU cues of an expression need expression labels, which these data do not have.",
    "Take --au_cues.map generic_action_units.",
)


@dataclass
class AuCuesOptions:
    """Attention aligned to action units. Off unless `weight` is above 0.

    Args:
        weight: of the alignment loss; published: 9 for AffectNet, 4 was best on RAF-DB.
        layers: whose attention is aligned, with - between: numbers from 1 (ResNet: 1 stem, 2 to 5 stages), or last, the
            map that is pooled for the heads.
        map: what the heat map shows: the action units of the labelled expression, of all expressions, or landmarks.
        codebook: facs, reference (the original's, with its slip at disgust), or a YAML file of your own.
        geometry: face draws regions in each face's own frame, on the training device. reference draws them as the
            original, pixel for pixel, on the stored pictures while loading (needs OpenCV; slower).
        attention: mean over all channels, their first or second half, the first `share`, or a random `share`, drawn
            anew at every step.
        share: of the channels, for first_share and random_share, 0..1.
        normalise: none, or softmax over the pixels of the attention.
        loss: cosine (published), cosine of the standardised attention, mean absolute or squared error, or kl of pixels
            taken as coins, after a softmax.
        scale_to: which map is resized to the other's size.
        resize: corners (published) puts corner pixels on corner pixels; cells puts each position of the layer on the
            part of the picture that it covers, as class activation maps are drawn, which matters for coarse maps.
        barrier: log: the extended log-barrier on -cosine in place of 1 - cosine, ever steeper with the epochs.
        start: first epoch of these losses, from 0.
        end: last epoch of these losses; -1 = all.
        jaw: with or without the jaw's landmarks, for map landmarks.
        variance: of the Gaussians of map landmarks, px^2 of a 224 px face.
        segmentation: weight of a head that learns to draw the heat map's brightest parts, so that the model can show
            the regions of a face without landmarks (`honne explain --map regions`); 0 = none.
        mask: what hides the picture outside the heat map's brightest parts: black, average (the data's usual grey) or
            blur; none hides nothing. Needs no weight.
        mask_share: share of the training pictures that are masked, 0..1.
        mask_dilation: px by which the shown parts are widened.
        mask_average: red, green and blue of the average training pixel, 0..255, for mask average.
    """

    weight: float = 0.0
    layers: str = "last"
    map: Cue = "action_units"
    codebook: str = "facs"
    geometry: Literal["face", "reference"] = "face"
    attention: Attention = "mean"
    share: float = 1.0
    normalise: Literal["none", "softmax"] = "none"
    loss: Loss = "cosine"
    scale_to: Literal["attention", "heat_map"] = "attention"
    resize: Aligned = "corners"
    barrier: Literal["none", "log"] = "none"
    start: int = 0
    end: int = -1
    jaw: Literal["without", "with"] = "without"
    variance: float = 64.0
    segmentation: float = 0.0
    mask: Literal["none", "black", "average", "blur"] = "none"
    mask_share: float = 0.5
    mask_dilation: int = 0
    mask_average: tuple[int, int, int] = RAFDB_AVERAGE

    def __post_init__(self) -> None:
        parse_layers(self.layers)
        for name in ("weight", "segmentation"):
            if getattr(self, name) < 0:
                raise WrongCall(f"au_cues.{name} is {getattr(self, name)}.", "It is at least 0, which turns it off.")
        if not 0 < self.share <= 1:
            raise WrongCall(f"au_cues.share is {self.share}.", "It is a share of the channels: above 0, at most 1.")
        if self.barrier == "log" and "cosine" not in self.loss:
            raise WrongCall("au_cues.barrier log bounds a cosine.", "Take --au_cues.loss cosine.")

    @property
    def on(self) -> bool:
        """Whether there is anything to do."""
        return self.weight > 0 or self.segmentation > 0 or self.mask != "none"


# --- attention and losses ----------------------------------------------------------------------------------------


def spatial_attention(maps: Tensor, kind: Attention = "mean", share: float = 1.0, kept: Tensor | None = None) -> Tensor:
    """T_l: mean of a layer's maps over its channels, or over some of them.

    Args:
        maps: (B, C, H, W).
        kind: see `AuCuesOptions.attention`.
        share: of the channels.
        kept: (B, C) for random_share, 1 for channels that count; drawn by default. A face without any gets zeros.

    Returns:
        (B, H, W).
    """
    channels = maps.shape[1]
    half = max(channels // 2, 1)
    first = {"first_half": slice(half), "second_half": slice(half, None)}
    if kind == "first_share":
        return maps[:, : max(int(channels * share), 1)].mean(1)
    if kind == "random_share" and (share < 1 or kept is not None):
        kept = torch.rand(maps.shape[:2], device=maps.device) < share if kept is None else kept
        kept = kept.to(maps.dtype)
        return torch.einsum("bchw,bc->bhw", maps, kept / kept.sum(1, keepdim=True).clamp_min(1))
    return maps[:, first.get(kind, slice(None))].mean(1)


def log_barrier(value: Tensor, temperature: float) -> Tensor:
    """Extended log-barrier of the constraint value <= 0, elementwise: convex, finite for every value."""
    knee = 1 / temperature**2
    inside = -(-value.clamp(max=-knee)).log() / temperature
    return torch.where(value <= -knee, inside, temperature * value - math.log(knee) / temperature + 1 / temperature)


def barrier_temperature(epoch: int, start: float = 1.0, factor: float = 1.01, limit: float = 10.0) -> float:
    """t after so many epochs."""
    return min(start * factor**epoch, limit)


def alignment_loss(
    attention: Tensor,
    heatmaps: Tensor,
    loss: Loss = "cosine",
    normalise: Literal["none", "softmax"] = "none",
    scale_to: Literal["attention", "heat_map"] = "attention",
    temperature: float | None = None,
    resize: Aligned = "corners",
) -> Tensor:
    """R: how far attention is from the heat maps.

    Args:
        attention: (B, h, w) T_l.
        heatmaps: (B, H, W) A in [0, 1]; a face whose map is not finite everywhere does not count.
        loss: see `AuCuesOptions.loss`.
        normalise: see `AuCuesOptions.normalise`.
        scale_to: see `AuCuesOptions.scale_to`.
        temperature: of the log-barrier on -cosine; None for 1 - cosine.
        resize: see `AuCuesOptions.resize`.

    Returns:
        Scalar; 0 if no face counts.
    """
    known = heatmaps.isfinite().flatten(1).all(1)
    if not known.any():
        return 0 * attention.sum()
    cue, seen = heatmaps[known], attention[known]
    if scale_to == "attention":
        cue = resized(cue, seen.shape[1:], resize)
    else:
        seen = resized(seen, cue.shape[1:], resize)
    cue, seen = cue.flatten(1), seen.flatten(1)
    if normalise == "softmax" or loss == "kl":
        seen = seen.softmax(1)
    if loss == "l1":
        return F.l1_loss(seen, cue)
    if loss == "l2":
        return F.mse_loss(seen, cue)
    if loss == "kl":
        coins, target = torch.stack([1 - seen, seen], 2), torch.stack([1 - cue, cue], 2)
        return F.kl_div(coins.log(), target, reduction="sum") / seen.numel()
    if loss == "standardised_cosine":
        seen = (seen - seen.mean(1, keepdim=True)) / (seen.std(1, keepdim=True) + 1e-4)
    cosine = F.cosine_similarity(seen, cue, dim=1, eps=1e-8)
    return (1 - cosine if temperature is None else log_barrier(-cosine, temperature)).mean()


def segmentation_loss(logits: Tensor, regions: Tensor) -> Tensor:
    """Binary cross-entropy of predicted action-unit regions, logits brought to the size of the target.

    Args:
        logits: (B, h, w) of a region map.
        regions: (B, H, W) 1 inside the regions, 0 outside; a face whose map is not finite everywhere does not count.
    """
    known = regions.isfinite().flatten(1).all(1)
    if not known.any():
        return 0 * logits.sum()
    size = tuple(regions.shape[1:])
    wide = F.interpolate(logits[known][:, None], size=size, mode="bicubic", align_corners=True)[:, 0]
    return F.binary_cross_entropy_with_logits(wide, regions[known])


# --- the part that methods take ----------------------------------------------------------------------------------


class AuCues(nn.Module):
    """Heat maps for batches, and the loss that aligns a network's attention to them.

    Args:
        options: `AuCuesOptions`.
        schema: labels of the data.

    Raises:
        HonneError: maps of expressions are wanted, and there are none.
    """

    table: Tensor

    def __init__(self, options: AuCuesOptions, schema: LabelSchema) -> None:
        super().__init__()
        self.options, self.layers = options, parse_layers(options.layers)
        table = torch.from_numpy(codebook(options.codebook).table(schema.expressions))
        self.watches = (*(self.layers if options.weight else ()), *([LAST] if options.segmentation else ()))
        if options.map == "action_units" and not table.any():
            raise HonneError(
                f"codebook '{options.codebook}' has no cue for any of: {', '.join(schema.expressions) or '-'}.",
                "Take data with expressions, another codebook, or --au_cues.map generic_action_units.",
            )
        blank = torch.zeros(1, len(UNITS), dtype=torch.bool)  # for NOT_LABELLED, the last entry
        self.register_buffer("table", torch.cat([table, blank]), persistent=False)

    def drawn(self, batch: Batch) -> Batch:
        """The batch (uint8 images) with heat maps (B, 1, h, w), NaN for a face without; some images masked.

        Raises:
            HonneError: it has neither landmarks nor heat maps, or no labels where these say what to draw.
        """
        heatmaps = self.maps(batch)[:, None]
        batch = replace(batch, heatmaps=heatmaps)
        if self.options.mask == "none" or batch.images is None:
            return batch
        some = torch.rand(len(batch), device=batch.images.device) < self.options.mask_share
        masked = mask_images(
            batch.images,
            heatmaps,
            self.options.mask,
            dilation=self.options.mask_dilation,
            average=self.options.mask_average,
        )
        return replace(batch, images=torch.where(some[:, None, None, None], masked, batch.images))

    @torch.no_grad()
    def maps(self, batch: Batch) -> Tensor:
        """(B, h, w) heat maps of a batch: those it has, or by its landmarks; NaN for a face without."""
        if batch.heatmaps is not None:
            return batch.heatmaps[:, 0]
        if batch.landmarks is None or batch.images is None:
            raise HonneError(*NO_LANDMARKS)
        side = (batch.images.shape[2], batch.images.shape[3])
        if self.options.map == "landmarks":
            return landmark_maps(batch.landmarks, side, jaw=self.options.jaw, variance=self.options.variance)
        return action_unit_maps(batch.landmarks, self.units(batch), side)

    def units(self, batch: Batch) -> Tensor:
        """(B, 20) bool: the action units that each face should be read from."""
        if self.options.map == "generic_action_units":
            return torch.ones(len(batch), len(UNITS), dtype=torch.bool, device=self.table.device)
        labels = batch.labels.expression
        if labels is None:
            raise HonneError(*NO_LABELS)
        if bool(((labels < NOT_LABELLED) | (labels >= len(self.table) - 1)).any()):
            raise HonneError(f"a label of {int(labels.max())} is out of range for {len(self.table) - 1} expressions.")
        return self.table[labels]

    def watching(self, network: nn.Module) -> AbstractContextManager[dict[str, Tensor]]:
        """While this lasts, the maps of the layers that count; see `honne.networks.layers.watched`."""
        return watched(views(network)[0].face, self.watches)

    def losses(self, network: nn.Module, seen: dict[str, Tensor], batch: Batch, epoch: int) -> dict[str, Tensor]:
        """The weighted losses of a step: `au_cues`, and `segmentation` where it is wanted.

        Args:
            network: that was watched.
            seen: maps of its layers, (B or more, C, H, W) each; rows beyond the batch are a method's own.
            batch: with heat maps.
            epoch: from 0.
        """
        options, heatmaps = self.options, self.maps(batch).float()
        found: dict[str, Tensor] = {}
        if epoch < options.start or 0 <= options.end < epoch:
            return found
        if options.weight:
            temperature = barrier_temperature(epoch) if options.barrier == "log" else None
            losses = [
                alignment_loss(
                    spatial_attention(seen[name][: len(batch)].float(), options.attention, options.share),
                    heatmaps,
                    options.loss,
                    options.normalise,
                    options.scale_to,
                    temperature,
                    options.resize,
                )
                for name in self.layers
            ]
            found["au_cues"] = options.weight * torch.stack(losses).mean()
        if (regions := views(network)[0].face.regions) is not None:
            logits = regions(seen[LAST][: len(batch)])[:, 0].float()
            found["segmentation"] = options.segmentation * segmentation_loss(logits, brightest(heatmaps))
        return found

    @torch.no_grad()
    def figures(self, network: nn.Module, seen: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Figures of every face (B,), NaN for one without a map.

        Returns:
            `att_cos`: cosine of attention and heat map, mean over the aligned layers. `region_dice`, `region_iou`: how
            well the regions drawn by the network agree with the heat map's brightest parts.
        """
        found, heatmaps = {}, self.maps(batch)
        if self.options.weight:
            cosines = [attention_cosine(seen[name][: len(batch)].float().mean(1), heatmaps) for name in self.layers]
            found["att_cos"] = torch.stack(cosines).mean(0)
        if (regions := views(network)[0].face.regions) is not None:
            wanted = brightest(heatmaps).flatten(1)
            drawn = (resized(regions(seen[LAST])[:, 0].float(), heatmaps.shape[1:]) > 0).flatten(1).float()
            common, total = (wanted * drawn).sum(1), (wanted + drawn).sum(1)
            found["region_dice"] = 2 * common / total
            found["region_iou"] = common / (total - common)
        return found


def brightest(heatmaps: Tensor) -> Tensor:
    """(B, H, W) 1 where a heat map is at least its Otsu threshold, else 0; NaN for a map that is not finite."""
    known = heatmaps.isfinite().flatten(1).all(1)[:, None, None]
    values = torch.where(known, heatmaps, 0.0)
    regions = (values >= otsu_threshold(values)[:, None, None]).float()
    return torch.where(known, regions, torch.nan)


@dataclass(frozen=True)
class ReferenceMaps:
    """Heat maps as the original draws them, on stored pictures, for `honne.data.dataset.FaceData`.

    Args:
        options: `AuCuesOptions`.
        expressions: of the data.
        side: of the stored pictures, px.
    """

    options: AuCuesOptions
    expressions: tuple[str, ...]
    side: int

    def __call__(self, known: Known, rows: np.ndarray) -> np.ndarray:
        """(B, 1, 28, 28) float32 maps of the rows; NaN for one without."""
        if known.landmarks is None:
            raise HonneError(*NO_LANDMARKS)
        points, side, options = known.landmarks[rows], self.side, self.options
        if options.map == "landmarks":
            jaw, variance = options.jaw, options.variance
            maps = [landmark_map(each, side, side, jaw, variance, resolution="grid") for each in points]
        else:
            units = self._units(known, rows)
            maps = [action_unit_map(*each, side, side, resolution="grid") for each in zip(points, units, strict=True)]
        return np.stack(maps)[:, None]

    def _units(self, known: Known, rows: np.ndarray) -> np.ndarray:
        if self.options.map == "generic_action_units":
            return np.ones((len(rows), len(UNITS)), bool)
        if known.expression is None:
            raise HonneError(*NO_LABELS)
        table = codebook(self.options.codebook).table(self.expressions)
        return np.concatenate([table, np.zeros((1, len(UNITS)), bool)])[known.expression[rows]]
