"""Image, landmarks and heat maps changed together; normalising and mixing of whole batches.

Pixels stay uint8 until `Normalise`, once per batch on the device. Everything random is a function of an image's own
generator, so that it does not depend on batch size, worker or process.

Landmarks are in continuous coordinates: an image covers [0, W] x [0, H], the centre of its first pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

from honne.batch import NOT_LABELLED, Batch, Labels
from honne.data.geometry import Edge, Moves, move_images, move_maps, move_points
from honne.errors import WrongCall
from honne.faces.align import framed

Change = float | tuple[float, float]
"""How far a factor goes either way from 1, or its smallest and largest value: 0.2 and (0.8, 1.2) are the same."""

_CHANCES = (
    *("flip", "area", "ratio", "left", "top", "warp", "rotation", "scale", "shear", "right", "down"),
    *("colour", "brightness", "contrast", "gamma", "saturation", "grey", "blur", "sigma", "noise"),
    *("erase", "erase_area", "erase_ratio", "erase_left", "erase_top"),
)
_NORMAL = (
    torch.distributions.Normal(0, 1)
    .icdf((torch.arange(256, dtype=torch.float64) + 0.5) / 256)
    .numpy()
    .astype(np.float32)
)


@dataclass(frozen=True)
class Augment:
    """Random changes of a training image. The defaults suit aligned faces; `Augment.none()` changes nothing.

    Args:
        flip: probability of a left-right flip.
        crop: smallest and largest share of the image's area that a random crop keeps; (1, 1) crops nothing, and two
            equal shares crop at a fixed size.
        crop_ratio: largest ratio between the sides of a crop, at least 1.
        crop_path: where a crop may lie. `free`: anywhere. `diagonal`: one draw v in [0, 1) says how far it is both
            along and down, rounded towards 0, and the image is flipped where v < `flip`; crops are square, and `crop`
            are shares of the image's largest square (Deng et al., FG 2020: `flip` 0.5, `crop` (112/134)^2).
        warp: probability that the next four apply.
        rotation: largest angle, degrees, either way.
        scale: smallest and largest factor.
        shift: largest shift, share of the side, each way and axis.
        shear: largest angle, degrees, either way.
        edge: what lies outside the image: its border pixels (`replicate`) or `black`.
        colour: probability that brightness, contrast, gamma and saturation apply.
        brightness: largest relative change, or smallest and largest factor.
        contrast: the same, about mid-grey.
        gamma: largest exponent is 1 + gamma, the smallest its inverse.
        saturation: largest relative change, or smallest and largest factor; colour images only.
        grey: probability that a colour image turns grey.
        blur: probability of a Gaussian blur.
        blur_sigma: its largest standard deviation, or smallest and largest, px of the result.
        noise: probability of Gaussian noise on the result.
        noise_sigma: its standard deviation, grey levels.
        erase: probability that a random rectangle is erased; never from landmarks and heat maps.
        erase_area: smallest and largest share of the image's area.
        erase_ratio: largest ratio between the sides.
        erase_with: mid-grey or uniform noise.
    """

    flip: float = 0.5
    crop: tuple[float, float] = (1.0, 1.0)
    crop_ratio: float = 1.0
    crop_path: Literal["free", "diagonal"] = "free"
    warp: float = 1.0
    rotation: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.05
    shear: float = 0.0
    edge: Edge = "replicate"
    colour: float = 1.0
    brightness: Change = 0.2
    contrast: Change = 0.2
    gamma: float = 0.0
    saturation: Change = 0.0
    grey: float = 0.0
    blur: float = 0.0
    blur_sigma: float | tuple[float, float] = 2.0
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
        for name in ("brightness", "contrast", "saturation", "blur_sigma"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) and not 0 <= value[0] <= value[1] < np.inf:
                raise WrongCall(f"augment.{name} is ({value[0]}, {value[1]}).", "Give 0 <= smallest <= largest.")
        for name in ("crop_ratio", "erase_ratio"):
            if getattr(self, name) < 1:
                raise WrongCall(f"augment.{name} is {getattr(self, name)}.", "A ratio between sides is at least 1.")
        if self.crop_path == "diagonal" and self.crop_ratio != 1:
            raise WrongCall(
                f"augment.crop_ratio is {self.crop_ratio} and augment.crop_path diagonal.",
                "Crops on the diagonal are square: leave crop_ratio at 1.",
            )

    @classmethod
    def none(cls) -> Augment:
        """Nothing random."""
        return cls(flip=0, warp=0, colour=0, erase=0)

    @property
    def warps(self) -> bool:
        """Whether it can do more than crop and flip."""
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
    images: Iterable[np.ndarray],
    size: int,
    augment: Augment | None = None,
    generators: Sequence[np.random.Generator] = (),
    landmarks: np.ndarray | None = None,
    heatmaps: np.ndarray | None = None,
    shapes: Sequence[tuple[int, ...]] | None = None,
    centre: float = 1.0,
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
        shapes: of the images. With them `images` may be an iterator, and is read one by one: what was just decoded
            is still in the processor's cache when it is cropped.
        centre: share of the image's side, about its centre, that is shown: resized to `framed(size, centre)`, of which
            the central `size` are cut out.
    """
    if shapes is None:
        images = list(images)
        shapes = [image.shape for image in images]
    options = augment or Augment.none()
    draws = [generator.random(len(_CHANCES)) for generator in generators] or [np.ones(len(_CHANCES))] * len(shapes)
    chance = dict(zip(_CHANCES, np.array(draws).T, strict=True))
    sides = np.array([shape[:2] for shape in shapes], np.float64)
    moves = _moves(options, chance, sides, size, framed(size, centre))
    moved = move_images(images, moves, 1 if all(len(shape) == 2 for shape in shapes) else 3, options.edge)
    if augment:
        _recolour(moved, chance, options, generators)
    return Transformed(
        torch.from_numpy(moved if moved.shape[1] == 3 else moved.repeat(3, 1)),
        moves.flipped,
        None if landmarks is None else move_points(landmarks, moves),
        None if heatmaps is None else move_maps(heatmaps, moves),
    )


def squeezed(image: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 3) of an (H, W, 3) picture, uint8, as IERN's original resizes: Pillow's bicubic filter.

    `honne prepare` takes the bilinear one, also with antialiasing. What follows, `transform` with `centre` and
    `Normalise`, is the same.
    """
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


Chance = dict[str, np.ndarray]


def _factors(change: Change) -> tuple[float, float]:
    return (1 - change, 1 + change) if isinstance(change, (int, float)) else change


def _between(chance: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * chance


def _crops(options: Augment, chance: Chance, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B, 2) left and top, (B, 2) width and height of what is kept, whole px; (B,) whether it is flipped."""
    share, flipped = _between(chance["area"], *options.crop), chance["flip"] < options.flip
    if options.crop_path == "diagonal":
        along = chance["left"]
        kept = np.sqrt(share * sides.min(1) ** 2).round().clip(1, sides.min(1))[:, None].repeat(2, 1)
        return np.floor((sides[:, ::-1] - kept) * along[:, None]), kept, along < options.flip
    area = sides.prod(1) * share
    ratio = options.crop_ratio ** _between(chance["ratio"], -1, 1) * sides[:, 1] / sides[:, 0]
    kept = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], 1).round().clip(1, sides[:, ::-1])
    corner = np.floor(np.stack([chance["left"], chance["top"]], 1).clip(0, 1 - 1e-9) * (sides[:, ::-1] - kept + 1))
    return corner, kept, flipped


def _moves(options: Augment, chance: Chance, sides: np.ndarray, size: int, frame: int) -> Moves:
    """Crop, turn, scale, shear, shift and flip as one matrix per image."""
    margin = (frame - size) // 2
    corner, kept, flipped = _crops(options, chance, sides)
    warped = (chance["warp"] < options.warp) & options.warps

    angle = np.radians(options.rotation) * _between(chance["rotation"], -1, 1) * warped
    tan = np.tan(np.radians(options.shear) * _between(chance["shear"], -1, 1) * warped)
    scale = np.where(warped, _between(chance["scale"], *options.scale), 1)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    turn = np.stack([np.stack([cos, cos * tan - sin], 1), np.stack([sin, sin * tan + cos], 1)], 1)
    shift = np.stack([_between(chance["right"], -1, 1), _between(chance["down"], -1, 1)], 1) * options.shift
    centre = frame * (0.5 + shift * warped[:, None]) - margin
    turn[flipped, 0] *= -1
    centre[flipped, 0] = size - centre[flipped, 0]
    linear = turn * (frame / kept[:, None])
    offset = centre - np.einsum("bij,bj->bi", linear, corner + kept / 2)
    matrices = np.concatenate([linear, offset[:, :, None]], 2)
    return Moves(sides, np.concatenate([corner, kept], 1), matrices, flipped, warped, size, frame)


def _recolour(images: np.ndarray, chance: Chance, options: Augment, generators: Sequence[np.random.Generator]) -> None:
    """Everything that leaves pixels where they are, in place on (B, C, S, S) uint8."""
    coloured = images.shape[1] == 3
    changed = chance["colour"] < options.colour
    if changed.any() and (options.brightness or options.contrast or options.gamma):
        tables = _tables(chance, options)
        for i in map(int, np.flatnonzero(changed)):
            images[i] = np.frombuffer(images[i].tobytes().translate(tables[i].tobytes()), np.uint8).reshape(
                images[i].shape
            )
    if coloured and options.saturation:
        saturation = _between(chance["saturation"], *_factors(options.saturation))
        for i in map(int, np.flatnonzero(changed)):
            grey, factor = _luma(images[i]), saturation[i]
            images[i] = (grey + factor * (images[i].astype(np.float32) - grey) + 0.5).clip(0, 255)
    if coloured:
        for i in map(int, np.flatnonzero(chance["grey"] < options.grey)):
            images[i] = _luma(images[i])
    sigma = options.blur_sigma
    sigmas = _between(chance["sigma"], *((0, sigma) if isinstance(sigma, (int, float)) else sigma))
    for i in map(int, np.flatnonzero(chance["blur"] < options.blur)):
        soft = ImageFilter.GaussianBlur(float(sigmas[i]))
        for plane in images[i]:
            plane[:] = np.asarray(Image.fromarray(plane).filter(soft))
    for i in map(int, np.flatnonzero(chance["noise"] < options.noise)):
        normal = _NORMAL[np.frombuffer(generators[i].bytes(images[i].size), np.uint8)]
        images[i] = with_noise(images[i], normal.reshape(images[i].shape), options.noise_sigma)
    for i in map(int, np.flatnonzero(chance["erase"] < options.erase)):
        hole = _hole(images[i], {name: float(values[i]) for name, values in chance.items()}, options)
        hole[:] = 128 if options.erase_with == "grey" else generators[i].integers(0, 256, hole.shape, np.uint8)


def with_noise(image: np.ndarray, normal: np.ndarray, sigma: float) -> np.ndarray:
    """A noisy image.

    Args:
        image: uint8, of any shape.
        normal: standard normal draws of that shape.
        sigma: standard deviation of the noise, grey levels.

    Returns:
        uint8: sums limited to 0..255, fractions cut off.
    """
    return (image + sigma * normal).clip(0, 255).astype(np.uint8)


def _tables(chance: Chance, options: Augment) -> np.ndarray:
    """(B, 256) uint8: gamma, brightness and contrast of all levels."""
    exponent = (1 + options.gamma) ** _between(chance["gamma"], -1, 1)
    brightness = _between(chance["brightness"], *_factors(options.brightness))
    contrast = _between(chance["contrast"], *_factors(options.contrast))
    levels = (np.arange(256) / 255) ** exponent[:, None] * brightness[:, None]
    levels = 0.5 + (levels - 0.5) * contrast[:, None]
    return (levels * 255 + 0.5).clip(0, 255).astype(np.uint8)


def _luma(image: np.ndarray) -> np.ndarray:
    """(S, S) grey levels of (3, S, S), ITU-R 601 weights."""
    red, green, blue = image.astype(np.uint16)
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.uint8)


def _hole(image: np.ndarray, chance: dict[str, float], options: Augment) -> np.ndarray:
    """View of the rectangle to erase."""
    low, high = options.erase_area
    side = image.shape[1]
    area = (low + (high - low) * chance["erase_area"]) * side * side
    ratio = options.erase_ratio ** (2 * chance["erase_ratio"] - 1)
    height, width = (max(1, min(side, round((area * r) ** 0.5))) for r in (ratio, 1 / ratio))
    top, left = int(chance["erase_top"] * (side - height + 1)), int(chance["erase_left"] * (side - width + 1))
    return image[:, top : top + height, left : left + width]


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
    if not cut:
        return blend(batch, partner, share, classes)
    sides = np.array(batch.images.shape[2:])
    middle, half = (generator.random(2) * sides).astype(int), (sides * np.sqrt(1 - share)).astype(int) // 2
    (top, left), (bottom, right) = (middle - half).clip(0, sides), (middle + half).clip(0, sides)
    return paste(batch, partner, (top, bottom, left, right), classes)


def blend(batch: Batch, partner: Tensor, share: float, classes: int) -> Batch:
    """Every image times `share`, plus its partner's (B,) times 1 - `share`; labels and heat maps likewise."""
    images, heatmaps = (
        None if each is None else torch.lerp(each[partner], each, share) for each in (batch.images, batch.heatmaps)
    )
    return replace(
        batch, images=images, heatmaps=heatmaps, landmarks=None, labels=_mixed(batch, partner, share, classes)
    )


def paste(batch: Batch, partner: Tensor, box: tuple[int, int, int, int], classes: int) -> Batch:
    """A box of every image replaced by its partner's (B,); heat maps likewise, labels by the areas.

    Args:
        batch: images (B, C, H, W).
        partner: (B,) row of each image's partner.
        box: first row, end row, first column, end column, px of the images.
        classes: C of the schema.
    """
    assert batch.images is not None
    height, width = batch.images.shape[2:]
    top, bottom, left, right = box

    def pasted(maps: Tensor) -> Tensor:
        down, across = maps.shape[2] / height, maps.shape[3] / width
        rows = slice(round(top * down), round(bottom * down))
        columns = slice(round(left * across), round(right * across))
        maps = maps.clone()
        maps[:, :, rows, columns] = maps[partner][:, :, rows, columns]
        return maps

    share = 1 - (bottom - top) * (right - left) / (height * width)
    heatmaps = None if batch.heatmaps is None else pasted(batch.heatmaps)
    labels = _mixed(batch, partner, share, classes)
    return replace(batch, images=pasted(batch.images), heatmaps=heatmaps, landmarks=None, labels=labels)


def _mixed(batch: Batch, partner: Tensor, share: float, classes: int) -> Labels:
    """Labels times `share`, plus the partners' times 1 - `share`."""

    def mixed(label: Tensor | None) -> Tensor | None:
        return None if label is None else torch.lerp(label[partner], label, share)

    labels, expression = batch.labels, batch.labels.expression
    target = mixed(labels.expression_target(classes))
    if expression is not None and target is not None:
        nearer = expression if share >= 0.5 else expression[partner]
        expression = torch.where(target.isnan().any(1), NOT_LABELLED, nearer)
    return replace(
        labels,
        expression=expression,
        distribution=target,
        action_units=mixed(labels.action_units),
        au_intensity=mixed(labels.au_intensity),
        valence_arousal=mixed(labels.valence_arousal),
    )
