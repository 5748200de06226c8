"""Image, landmarks and heat maps changed together; normalising and mixing of whole batches.

Pixels stay uint8 until `Normalise`, once per batch on the device. Everything random is a function of an image's own
generator, so that it does not depend on batch size, worker or process.

Coordinates are continuous: the image covers [0, W] x [0, H], the first pixel's centre is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn

from honne.batch import NOT_LABELLED, Batch
from honne.data.flips import FLIP_68
from honne.errors import WrongCall

_CHANCES = (
    *("flip", "area", "ratio", "left", "top", "warp", "rotation", "scale", "shear", "right", "down"),
    *("colour", "brightness", "contrast", "gamma", "saturation", "grey", "blur", "sigma", "noise"),
    *("erase", "erase_area", "erase_ratio", "erase_left", "erase_top"),
)
_NORMAL = torch.distributions.Normal(0, 1).icdf((torch.arange(256, dtype=torch.float64) + 0.5) / 256).numpy()
_PIXELS_AT_ONCE = 1 << 16  # images are warped in chunks that stay in the cache


@dataclass(frozen=True)
class Augment:
    """Random changes of a training image. The defaults suit aligned faces; `Augment.none()` changes nothing.

    Args:
        flip: probability of a left-right flip.
        crop: smallest and largest share of the image's area that a random crop keeps; (1, 1) crops nothing, and two
            equal shares crop at a fixed size.
        crop_ratio: largest ratio between the sides of a crop, at least 1.
        warp: probability that the next four apply.
        rotation: largest angle, degrees, either way.
        scale: smallest and largest factor.
        shift: largest shift, share of the side, each way and axis.
        shear: largest angle, degrees, either way.
        edge: what lies outside the image: its border pixels (`replicate`) or `black`.
        colour: probability that brightness, contrast, gamma and saturation apply.
        brightness: largest relative change.
        contrast: largest relative change, about mid-grey.
        gamma: largest exponent is 1 + gamma, the smallest its inverse.
        saturation: largest relative change; colour images only.
        grey: probability that a colour image turns grey.
        blur: probability of a Gaussian blur.
        blur_sigma: its largest standard deviation, px of the result.
        noise: probability of Gaussian noise.
        noise_sigma: its standard deviation, grey levels.
        erase: probability that a random rectangle is erased; never from landmarks and heat maps.
        erase_area: smallest and largest share of the image's area.
        erase_ratio: largest ratio between the sides.
        erase_with: mid-grey or uniform noise.
    """

    flip: float = 0.5
    crop: tuple[float, float] = (1.0, 1.0)
    crop_ratio: float = 1.0
    warp: float = 1.0
    rotation: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.05
    shear: float = 0.0
    edge: Literal["replicate", "black"] = "replicate"
    colour: float = 1.0
    brightness: float = 0.2
    contrast: float = 0.2
    gamma: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: float = 2.0
    noise: float = 0.0
    noise_sigma: float = 5.5
    erase: float = 0.25
    erase_area: tuple[float, float] = (0.02, 0.2)
    erase_ratio: float = 3.3
    erase_with: Literal["grey", "noise"] = "grey"

    def __post_init__(self) -> None:
        for name in ("flip", "warp", "colour", "grey", "blur", "noise", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise WrongCall(f"augment.{name} is {getattr(self, name)}.", "It is a probability: 0 to 1.")
        for name, highest in (("crop", 1.0), ("erase_area", 1.0), ("scale", np.inf)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= highest:
                raise WrongCall(f"augment.{name} is ({low}, {high}).", f"Give 0 < smallest <= largest <= {highest:g}.")
        for name in ("crop_ratio", "erase_ratio"):
            if getattr(self, name) < 1:
                raise WrongCall(f"augment.{name} is {getattr(self, name)}.", "A ratio between sides is at least 1.")

    @classmethod
    def none(cls) -> Augment:
        """Nothing random."""
        return cls(flip=0, warp=0, colour=0, erase=0)

    @property
    def warps(self) -> bool:
        return self.warp > 0 and (self.rotation, self.scale, self.shift, self.shear) != (0, (1, 1), 0, 0)


@dataclass
class Transformed:
    """What `transform` gives.

    Attributes:
        images: (B, 3, S, S) uint8.
        flipped: (B,) bool; labels with a side must trade places there.
        landmarks: (B, 68, 2) px of the result.
        heatmaps: (B, K, h, w) float32.
    """

    images: Tensor
    flipped: np.ndarray
    landmarks: Tensor | None = None
    heatmaps: Tensor | None = None


def transform(
    images: Sequence[np.ndarray],
    size: int,
    augment: Augment | None = None,
    generators: Sequence[np.random.Generator] = (),
    landmarks: np.ndarray | None = None,
    heatmaps: np.ndarray | None = None,
) -> Transformed:
    """Bring images to one size and change them at random, their landmarks and heat maps with them.

    All geometry is one matrix per image. Where it is only a crop, pixels are copied or resized with antialiasing;
    else they are read once, bilinearly.

    Args:
        images: B images, (H, W) grey or (H, W, 3) RGB, uint8, of any sizes.
        size: side S of the result, px.
        augment: what may change; `None` only resizes.
        generators: one per image; not needed without `augment`.
        landmarks: (B, 68, 2) px, NaN where unknown.
        heatmaps: (B, K, h, w) in [0, 1] over the whole image; a map that is not finite everywhere stays as it is.
    """
    options = augment or Augment.none()
    draws = [generator.random(len(_CHANCES)) for generator in generators] or [np.ones(len(_CHANCES))] * len(images)
    chance = dict(zip(_CHANCES, np.array(draws).T, strict=True))
    sides = np.array([image.shape[:2] for image in images], np.float64)
    boxes = _boxes(options, chance, sides)
    flipped = chance["flip"] < options.flip
    warped = (chance["warp"] < options.warp) & options.warps
    matrices = _matrices(options, chance, boxes, size, flipped, warped)

    channels = 1 if all(image.ndim == 2 for image in images) else 3
    out = np.empty((len(images), channels, size, size), np.uint8)
    for i in np.flatnonzero(~warped):
        out[i] = _cropped(images[i], boxes[i], size)[:, :, :: -1 if flipped[i] else 1]
    _warp_all(images, np.flatnonzero(warped), matrices, out, options)
    if augment:
        for i, generator in enumerate(generators):
            _recolour(out, i, {name: values[i] for name, values in chance.items()}, options, generator)

    moved = Transformed(torch.from_numpy(out.repeat(3 // channels, 1)), flipped)
    if landmarks is not None:
        moved.landmarks = _move_points(landmarks, matrices, flipped)
    if heatmaps is not None:
        moved.heatmaps = _move_maps(heatmaps, matrices, sides, size)
    return moved


def _between(chance: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * chance


def _boxes(options: Augment, chance: dict[str, np.ndarray], sides: np.ndarray) -> np.ndarray:
    """(B, 4) whole px: left, top, width, height of what is kept."""
    area = sides.prod(1) * _between(chance["area"], *options.crop)
    ratio = options.crop_ratio ** _between(chance["ratio"], -1, 1) * sides[:, 1] / sides[:, 0]
    kept = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 1).round().clip(1, sides[:, ::-1])
    corner = np.stack([chance["left"], chance["top"]], 1).clip(0, 1 - 1e-9) * (sides[:, ::-1] - kept + 1)
    return np.concatenate([np.floor(corner), kept], 1)


def _matrices(
    options: Augment, chance: dict[str, np.ndarray], boxes: np.ndarray, size: int, flipped: np.ndarray, warped: np.ndarray
) -> np.ndarray:
    """(B, 2, 3) from px of the image to px of the result."""
    angle, shear = (
        np.radians(getattr(options, name)) * _between(chance[name], -1, 1) * warped for name in ("rotation", "shear")
    )
    scale = np.where(warped, _between(chance["scale"], *options.scale), 1)
    cos, sin, tan = np.cos(angle) * scale, np.sin(angle) * scale, np.tan(shear)
    turn = np.stack([np.stack([cos, cos * tan - sin], 1), np.stack([sin, sin * tan + cos], 1)], 1)
    shift = np.stack([_between(chance["right"], -1, 1), _between(chance["down"], -1, 1)], 1) * options.shift
    centre = size / 2 + shift * warped[:, None] * size
    turn[flipped, 0] *= -1
    centre[flipped, 0] = size - centre[flipped, 0]
    linear = turn * (size / boxes[:, None, 2:])
    middle = boxes[:, :2] + boxes[:, 2:] / 2
    return np.concatenate([linear, (centre - np.einsum("bij,bj->bi", linear, middle))[:, :, None]], 2)


def _planes(image: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) as (1, H, W) or (3, H, W), without a copy."""
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def _cropped(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """(1 or 3, size, size) of the box (left, top, width, height)."""
    left, top, width, height = box.astype(int)
    part = _planes(image)[:, top : top + height, left : left + width]
    return part if (height, width) == (size, size) else _resized(part, size, size)


def _resized(planes: np.ndarray, height: int, width: int) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(planes.transpose(1, 2, 0))).permute(2, 0, 1)[None]
    return F.interpolate(tensor, size=(height, width), mode="bilinear", antialias=True)[0].numpy()


def _warp_all(
    images: Sequence[np.ndarray], chosen: np.ndarray, matrices: np.ndarray, out: np.ndarray, options: Augment
) -> None:
    """Warp the chosen images into `out`, those of one shape together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in chosen:
        groups.setdefault(images[i].shape, []).append(i)
    size = out.shape[-1]
    for shape, members in groups.items():
        chunk = max(1, _PIXELS_AT_ONCE // max(size * size, shape[0] * shape[1]))
        # Reading four neighbours aliases when the image shrinks much: halve it (or more) with antialiasing first.
        shrink = max(1, round(max(shape[:2]) / size / 1.25))
        for start in range(0, len(members), chunk):
            some = members[start : start + chunk]
            planes = [np.broadcast_to(_planes(images[i]), (out.shape[1], *shape[:2])) for i in some]
            if shrink > 1:
                planes = [_resized(part, max(1, shape[0] // shrink), max(1, shape[1] // shrink)) for part in planes]
            stacked = torch.from_numpy(np.stack(planes)).float()
            factor = np.array([stacked.shape[3] / shape[1], stacked.shape[2] / shape[0]])
            warped = warp(stacked, _scaled(matrices[some], factor, np.ones(2)), (size, size), options.edge)
            out[some] = warped.add_(0.5).to(torch.uint8).numpy()


def _scaled(matrices: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The same maps between images whose sides (x, y) are `source` and `target` times as long."""
    linear = matrices[:, :, :2] / source[..., None, :] * target[..., :, None]
    return np.concatenate([linear, (matrices[:, :, 2] * target)[:, :, None]], 2)


def warp(
    images: Tensor, matrices: np.ndarray, size: tuple[int, int], edge: Literal["replicate", "black"] = "black"
) -> Tensor:
    """Affine maps of images, read bilinearly.

    Args:
        images: (B, C, H, W) float.
        matrices: (B, 2, 3) from px of the image to px of the result.
        size: height and width of the result.
        edge: what lies outside.

    Returns:
        (B, C, *size).
    """
    inverse = np.linalg.inv(matrices[:, :, :2])
    offset = -np.einsum("bij,bj->bi", inverse, matrices[:, :, 2])
    sides = np.array(images.shape[:1:-1])
    inverse, offset = inverse * 2 / sides[:, None], offset * 2 / sides - 1  # grid_sample counts from -1 to 1
    across, down = (torch.arange(side, dtype=torch.float32) + 0.5 for side in (size[1], size[0]))
    steps, offsets = torch.from_numpy(inverse).float(), torch.from_numpy(offset).float()
    grid = torch.empty(len(images), *size, 2)
    for axis in range(2):
        along = (steps[:, axis, 1, None] * down + offsets[:, axis, None])[:, :, None]
        torch.add(along, (steps[:, axis, 0, None] * across)[:, None], out=grid[..., axis])
    padding = "border" if edge == "replicate" else "zeros"
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)


def _move_points(points: np.ndarray, matrices: np.ndarray, flipped: np.ndarray) -> Tensor:
    moved = np.einsum("bij,bpj->bpi", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    moved[flipped] = moved[flipped][:, FLIP_68]
    return torch.from_numpy(moved.astype(np.float32))


def _move_maps(maps: np.ndarray, matrices: np.ndarray, sides: np.ndarray, size: int) -> Tensor:
    moved = torch.from_numpy(np.asarray(maps, np.float32))
    grid = np.array(maps.shape[:1:-1], np.float64)
    found = warp(moved, _scaled(matrices, grid / sides[:, ::-1], grid / size), moved.shape[2:]).clamp(0, 1)
    known = moved.isfinite().all(3).all(2)[:, :, None, None]
    return torch.where(known, found, moved)


def _recolour(
    out: np.ndarray, i: int, chance: dict[str, float], options: Augment, generator: np.random.Generator
) -> None:
    """Everything that leaves pixels where they are, on image `i` of `out` (B, C, S, S)."""
    image = out[i]
    coloured = len(image) == 3
    if coloured and chance["grey"] < options.grey:
        image[:] = _luma(image)
    if chance["colour"] < options.colour:
        table = _table(chance, options)
        if table is not None:
            image[:] = np.frombuffer(image.tobytes().translate(table), np.uint8).reshape(image.shape)
        if coloured and options.saturation:
            grey = _luma(image)
            factor = 1 + options.saturation * (2 * chance["saturation"] - 1)
            image[:] = (grey + factor * (image.astype(np.float32) - grey) + 0.5).clip(0, 255)
    if chance["blur"] < options.blur:
        soft = ImageFilter.GaussianBlur(options.blur_sigma * chance["sigma"])
        for plane in image:
            plane[:] = np.asarray(Image.fromarray(plane).filter(soft))
    if chance["noise"] < options.noise:
        levels = (_NORMAL * options.noise_sigma).round().astype(np.int16)
        noise = levels[np.frombuffer(generator.bytes(image.size), np.uint8)].reshape(image.shape)
        image[:] = (image + noise).clip(0, 255)
    if chance["erase"] < options.erase:
        side = image.shape[1]
        area = _between(chance["erase_area"], *options.erase_area) * side * side
        ratio = options.erase_ratio ** _between(chance["erase_ratio"], -1, 1)
        height, width = (max(1, min(side, round((area * r) ** 0.5))) for r in (ratio, 1 / ratio))
        top, left = int(chance["erase_top"] * (side - height + 1)), int(chance["erase_left"] * (side - width + 1))
        hole = image[:, top : top + height, left : left + width]
        hole[:] = 128 if options.erase_with == "grey" else generator.integers(0, 256, hole.shape, np.uint8)


def _luma(image: np.ndarray) -> np.ndarray:
    """(S, S) grey levels of (3, S, S), ITU-R 601 weights."""
    red, green, blue = image.astype(np.uint16)
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)


def _table(chance: dict[str, float], options: Augment) -> bytes | None:
    """Brightness, contrast and gamma of all 256 levels."""
    if not (options.brightness or options.contrast or options.gamma):
        return None
    levels = np.arange(256) / 255
    if options.gamma:
        levels = levels ** (1 + options.gamma) ** (2 * chance["gamma"] - 1)
    levels = levels * (1 + options.brightness * (2 * chance["brightness"] - 1))
    levels = 0.5 + (levels - 0.5) * (1 + options.contrast * (2 * chance["contrast"] - 1))
    return (levels * 255 + 0.5).clip(0, 255).astype(np.uint8).tobytes()


class Normalise(nn.Module):
    """uint8 images to what a network expects, once per batch and on its device.

    Args:
        mean: one value or one per channel, of images in [0, 1].
        std: likewise.
        channels_last: memory format of the result; faster for most convolutional networks.

    Shapes:
        (B, 3, H, W) uint8 -> (B, 3, H, W) float.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels_last: bool = False) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(self.mean.dtype, memory_format=self.format, copy=True)
        return images.sub_(self.mean * 255).div_(self.std * 255)


def mix_images(
    batch: Batch, generator: np.random.Generator, classes: int, mixup_alpha: float = 0.0, cutmix_alpha: float = 0.0
) -> Batch:
    """Mix every image with another of the batch: targets and heat maps likewise.

    MixUp blends whole images; CutMix pastes a box. With both, a coin chooses. A mixed label is known where both are.

    Args:
        batch: float images.
        generator: source of chance.
        classes: C of the schema.
        mixup_alpha: lambda ~ Beta(alpha, alpha); 0 is off.
        cutmix_alpha: likewise; lambda becomes 1 - area of the clipped box / area of the image.

    Returns:
        A new batch without landmarks; `labels.distribution` holds the mixed targets.

    Source: Zhang et al., ICLR 2018 (MixUp); Yun et al., ICCV 2019 (CutMix).
    """
    if batch.images is None or not (mixup_alpha or cutmix_alpha):
        return batch
    cut = bool(cutmix_alpha) and (not mixup_alpha or generator.random() < 0.5)
    share = generator.beta(cutmix_alpha, cutmix_alpha) if cut else generator.beta(mixup_alpha, mixup_alpha)
    partner = torch.from_numpy(generator.permutation(len(batch))).to(batch.images.device)
    centre = generator.random(2)
    heatmaps = batch.heatmaps
    if cut:
        images, kept = _pasted(batch.images, partner, share, centre)
        heatmaps = None if heatmaps is None else _pasted(heatmaps, partner, share, centre)[0]
        share = kept
    else:
        images = torch.lerp(batch.images[partner], batch.images, share)
        heatmaps = None if heatmaps is None else torch.lerp(heatmaps[partner], heatmaps, share)

    def mixed(label: Tensor | None) -> Tensor | None:
        return None if label is None else torch.lerp(label[partner], label, share)

    labels, expression = batch.labels, batch.labels.expression
    target = mixed(labels.expression_target(classes))
    if expression is not None and target is not None:
        nearer = expression if share >= 0.5 else expression[partner]
        expression = torch.where(target.isnan().any(1), NOT_LABELLED, nearer)
    labels = replace(
        labels,
        expression=expression,
        distribution=target,
        action_units=mixed(labels.action_units),
        au_intensity=mixed(labels.au_intensity),
        valence_arousal=mixed(labels.valence_arousal),
    )
    return replace(batch, images=images, heatmaps=heatmaps, landmarks=None, labels=labels)


def _pasted(images: Tensor, partner: Tensor, share: float, centre: np.ndarray) -> tuple[Tensor, float]:
    """Paste a box of the partners; also the share of the area that was kept."""
    sides = np.array(images.shape[-2:])
    middle, half = (centre * sides).astype(int), (sides * np.sqrt(1 - share)).astype(int) // 2
    (top, left), (bottom, right) = (middle - half).clip(0, sides), (middle + half).clip(0, sides)
    images = images.clone()
    images[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
    return images, 1 - float((bottom - top) * (right - left) / sides.prod())
