"""Maps of what a model looks at, for a whole batch: one forward pass, one backward pass down to the chosen layer."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.explain.cams import (
    GRADIENT_MAPS,
    RELEASED_MAPS,
    ScoreKind,
    Variant,
    fixed_noise,
    normalise,
    scorecam,
    smoothgradcam_pp,
)
from honne.metrics.attention import resized
from honne.networks.layers import LAST, View, as_map, layer, views, watched

if TYPE_CHECKING:
    from honne.models import Model

SMOOTH = "smoothgradcam++"
CLASS_MAPS = ("class_map", "tscam")
REGIONS = "regions"
SCORE_MAPS = ("scorecam", "sscam", "iscam")
LINEAR_MAPS = ("cam", *CLASS_MAPS)  # what they say of a class is right for a head that is linear in the last map
RELEASED = ("gradcam++:released", *(f"{kind}:released" for kind in SCORE_MAPS))
KINDS = (*GRADIENT_MAPS, SMOOTH, *SCORE_MAPS, *CLASS_MAPS, REGIONS, "attention", *RELEASED)

NOISY_IMAGES, IMAGE_NOISE = 4, 0.3  # smoothgradcam++: passes, standard deviation in units of normalised images


@dataclass
class Maps:
    """What `class_activation_map` gives; on the model's device, without gradients.

    Attributes:
        maps: (B, h, w) in [0, 1], at the resolution of the layer; of an ensemble the mean of its members' maps.
        target: (B,) class index that each map is of.
        probabilities: (B, C) calibrated.
        attention: name of a layer -> (B, h, w) mean over its channels, as it is (a transformer's may be negative); of
            an ensemble the mean over its members, each divided by its largest absolute value.
    """

    maps: Tensor
    target: Tensor
    probabilities: Tensor
    attention: dict[str, Tensor]


def class_activation_map(
    model: Model,
    images: Tensor,
    target: Tensor | Literal["predicted"] = "predicted",
    kind: str = "layercam",
    layer: str = LAST,
    *,
    attended: Sequence[str] = (),
    chunk: int = 64,
) -> Maps:
    """Map of every image of a batch, of its target class.

    A network of clips sees each image as a clip of one frame; the members of an ensemble all map the same class.

    Args:
        model: one that names expressions.
        images: (B, 3, S, S) uint8 crops made with `model.alignment`.
        target: (B,) class index, or the class that the model predicts.
        kind: one of `KINDS`. `class_map`: what the network's own head makes of the class, `network.class_maps`.
            `tscam`: that times the attention of the class token (Gao et al., ICCV 2021). `attention`: mean over the
            layer's channels, of no class in particular. `regions`: the action-unit regions that a model with such a
            head draws. The others: `honne.explain.cams`; smoothgradcam++ costs 5
            forward passes, scorecam one per channel, iscam 10 and sscam 35 per channel. Those that end in
            `:released` are computed as the code published with Belharbi et al. (FG 2024) does.
        layer: number, or `last` (`honne.networks.layers`).
        attended: layers whose attention is wanted from the same pass; none = `layer`.
        chunk: masked images per forward pass of scorecam, sscam and iscam.

    Raises:
        WrongCall: no such kind, layer or class.
        HonneError: the model names no expressions, gives NaN, has no map of that kind, or does not read that layer.
    """
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        raise WrongCall(f"unknown map '{kind}'.", f"Did you mean {near[0]}?" if near else f"Known: {', '.join(KINDS)}.")
    kind, _, way = kind.partition(":")
    variant: Variant = "released" if way else "right"
    if kind in (*CLASS_MAPS, REGIONS) and layer != LAST:
        raise WrongCall(f"map '{kind}' is of the network's last layer, not of layer '{layer}'.", "Leave the layer out.")
    if not model.schema.expressions:
        raise HonneError(f"Model '{model.name}' names no expressions, so there is no class to map.", "Take another.")
    looks = views(model.network)
    if kind in LINEAR_MAPS and any(view.answers is not view.face or getattr(view.face, "hidden", 0) for view in looks):
        raise HonneError(
            f"map '{kind}' needs a head that is linear in the last map, which model '{model.name}' lacks.",
            "Choose layercam or gradcam.",
        )
    layers = tuple(attended) or (layer,)
    with torch.inference_mode(False), torch.set_grad_enabled(kind in GRADIENT_MAPS or kind == SMOOTH):
        pixels = model.normalise(images.to(model.device))
        if len(looks) == 1:
            return _seen(model, looks[0], pixels, target, kind, variant, layer, layers, chunk)
        with torch.no_grad():
            logits = model.network(Batch(images=pixels)).expression
        target = _target(target, logits)
        found = [_seen(model, view, pixels, target, kind, variant, layer, layers, chunk) for view in looks]
    return Maps(
        torch.stack([each.maps for each in found]).mean(0),
        target,
        (logits / model.config.temperature).softmax(1),
        {name: torch.stack([_largest_one(each.attention[name]) for each in found]).mean(0) for name in layers},
    )


def _seen(
    model: Model,
    view: View,
    pixels: Tensor,
    target: Tensor | str,
    kind: str,
    variant: Variant,
    layer: str,
    attended: tuple[str, ...],
    chunk: int,
) -> Maps:
    """`class_activation_map` of normalised images, for one way in which the network looks at them."""
    face, network = view
    tokens: AbstractContextManager[list[Tensor]] = class_token_attention(face) if kind == "tscam" else nullcontext([])
    with watched(face, attended) as seen, tokens as token_maps:
        output, logits = forward(network, pixels, layer, face)
    activations = as_map(output, face.backbone).detach()
    _require_finite(model, logits, activations)
    target = _target(target, logits)
    if kind == SMOOTH:
        raw = smoothgradcam_pp(activations, _noisy_gradients(view, pixels, target, layer))
    elif kind in GRADIENT_MAPS:
        functions = RELEASED_MAPS if variant == "released" else GRADIENT_MAPS
        raw = functions[kind](activations, gradients(face, output, logits, target))
    elif kind == "attention":
        raw = activations.mean(1)
    elif kind == REGIONS:
        raw = _regions(model, face, activations)
    elif kind in CLASS_MAPS:
        raw = _class_map(model, face, activations, target)
        raw = torch.stack(token_maps).sum(0) * raw if kind == "tscam" else raw
    else:
        raw = scorecam(
            activations, pixels, target, partial(_probabilities, network), cast("ScoreKind", kind), variant, chunk
        )
    attention = {name: each.detach().mean(1) for name, each in seen.items()}
    probabilities = (logits.detach() / model.config.temperature).softmax(1)
    return Maps(normalise(raw), target, probabilities, attention)


def _largest_one(maps: Tensor) -> Tensor:
    """Maps (B, h, w) divided by their largest absolute value; zeros stay zeros."""
    return maps / maps.abs().amax((1, 2), keepdim=True).clamp_min(1e-12)


def forward(network: Any, images: Tensor, name: str, face: Any = None) -> tuple[Tensor, Tensor]:
    """What a layer gives, as a leaf from which autograd starts, and the expression logits (B, C) that follow from it.

    Nothing before the layer is recorded, as long as the network's parameters are frozen.

    Args:
        network: that answers.
        images: (B, 3, H, W) normalised.
        name: of the layer.
        face: the network in it that has the layer; unset = itself.
    """
    leaves: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[0].clone()  # what follows may change its input in place, which a leaf does not allow

    handle = layer(network if face is None else face, name).register_forward_hook(hook)
    try:
        logits: Tensor = network(Batch(images=images)).expression
    finally:
        handle.remove()
    return leaves[0], logits


def gradients(face: Any, output: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    """(B, D, h, w) derivative of each sample's own target logit, from what `forward` gave.

    Raises:
        HonneError: the logits do not depend on that layer.
    """
    total = logits.gather(1, target[:, None]).sum()  # samples do not touch each other in evaluation mode
    found = torch.autograd.grad(total, output, allow_unused=True)[0] if total.requires_grad else None
    maps = None if found is None else as_map(found, face.backbone)
    if maps is None or not maps.any():
        raise HonneError(
            "the scores do not depend on the map of this layer.",
            "A transformer may read its class token only: choose an earlier layer, or map `attention`.",
        )
    return maps


def _noisy_gradients(view: View, images: Tensor, target: Tensor, name: str) -> Tensor:
    """(N, B, D, h, w) gradients of N noisy copies; each image gets the same noise, whatever batch it is in."""
    noise = IMAGE_NOISE * fixed_noise((NOISY_IMAGES, *images.shape[1:]), images.device)
    face, network = view
    return torch.stack([gradients(face, *forward(network, images + each, name, face), target) for each in noise])


def _probabilities(network: Any, images: Tensor) -> Tensor:
    """(B, C) of normalised images (B, 3, H, W), not calibrated."""
    probabilities: Tensor = network(Batch(images=images)).expression.softmax(1)
    return probabilities


def _class_map(model: Model, face: Any, last: Tensor, target: Tensor) -> Tensor:
    """(B, h, w) map of the target that the head itself makes of the last map (B, D, h, w)."""
    if not hasattr(face, "class_maps"):
        raise HonneError(f"the head of model '{model.name}' makes no class maps.", "Choose cam or layercam.")
    maps: Tensor = face.class_maps(last, target)
    return maps[torch.arange(len(maps), device=maps.device), target]


def _regions(model: Model, face: Any, last: Tensor) -> Tensor:
    """(B, h, w) probabilities of the action-unit regions that the network draws from the last map (B, D, h, w)."""
    head = getattr(face, "regions", None)
    if head is None:
        raise HonneError(
            f"model '{model.name}' has no head that draws regions.", "Train one with --au_cues.segmentation 1."
        )
    drawn: Tensor = head(last)[:, 0].sigmoid()
    return drawn


@contextmanager
def class_token_attention(face: Any) -> Iterator[list[Tensor]]:
    """While this lasts, what the class token attends to in every block: (B, h, w) each, mean over heads.

    Raises:
        HonneError: the backbone has no class token, or no attention that can be watched.
    """
    seen: list[Tensor] = []
    blocks = [m for m in face.backbone.modules() if hasattr(m, "fused_attn") and hasattr(m, "attn_drop")]
    if getattr(face.backbone, "cls_token", None) is None or not blocks:
        raise HonneError("this backbone has no class token whose attention could be shown.", "Choose cam or layercam.")

    def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        class_token = inputs[0].mean(1)[:, 0, :, None]  # of softmaxed attention (B, heads, tokens, tokens)
        seen.append(as_map(class_token, face.backbone)[:, 0].detach())

    fused = [block.fused_attn for block in blocks]
    hooks = [block.attn_drop.register_forward_hook(hook) for block in blocks]
    try:
        for block in blocks:
            block.fused_attn = False  # only then do the weights pass through `attn_drop`
        yield seen
    finally:
        for block, before, handle in zip(blocks, fused, hooks, strict=True):
            block.fused_attn = before
            handle.remove()


def _target(target: Tensor | str, logits: Tensor) -> Tensor:
    if isinstance(target, str):
        if target != "predicted":
            raise WrongCall(f"target '{target}' is no tensor of class indices.", "Give one, or `predicted`.")
        return logits.detach().argmax(1)
    rows, classes = logits.shape
    if target.shape != (rows,):
        raise WrongCall(f"target has the shape {tuple(target.shape)} for {rows} images.", "Give one class an image.")
    wrong = ((target < 0) | (target >= classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise WrongCall(f"target {int(target[row])} of image {row} is no class.", f"Classes are 0 to {classes - 1}.")
    return target.to(logits.device, torch.int64)


def _require_finite(model: Model, logits: Tensor, activations: Tensor) -> None:
    wrong = (~(logits.detach().sum(1) + activations.sum((1, 2, 3))).isfinite()).nonzero()
    if len(wrong):
        raise HonneError(
            f"Model '{model.name}' gives NaN or infinity for image {int(wrong[0])} of the batch.",
            "Are its weights damaged?",
        )


def on_image(maps: Tensor, size: int | tuple[int, int], kind: Literal["cam", "attention"]) -> Tensor:
    """Maps (B, h, w) at the size of the images, bilinear.

    Args:
        maps: class activation maps in [0, 1], or attention on any scale.
        size: of the images, px: side, or height and width.
        kind: `cam`, kept in [0, 1], or `attention`, resized as for its measures and kept in its own range.
    """
    shape = (size, size) if isinstance(size, int) else size
    if kind == "attention":
        return resized(maps, shape)
    return F.interpolate(maps[:, None], shape, mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)
