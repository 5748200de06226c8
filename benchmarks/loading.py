"""Images per second that one core brings from a prepared data set to uint8 batches.

    python benchmarks/loading.py [--images 300] [--repeats 5] [--data DATA]

Figures are images per second of processor time of one thread, so that other jobs on the machine hardly matter; the
best of the repeats. "Of bare decoding" divides them by the speed at which Pillow alone turns the same bytes into
arrays, measured in the same run. The made-up images are 256 px JPEGs of about 17 kB, as faces have, 112 and 134 px
JPEGs of about 6 and 8 kB, as Aff-Wild2 has and as multitask training stores them, and 48 px grey PNGs of about 2 kB, as
FER2013 has. "Pillow, one by one" is what the original of the multitask work does with a face: decode, resize to 134 px,
crop, flip, tensor, subtract the mean. Where OpenCV is installed and decodes as Pillow does, honne decodes with it.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import torch
from PIL import Image, features

from honne.console import say, table
from honne.data.dataset import FaceData
from honne.data.loading import DataModule, Loader
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, write_manifest
from honne.data.sampling import OnceBatches
from honne.data.transforms import Augment
from honne.labels import LabelSchema

PATH = replace(Augment.none(), flip=0.5, crop=((112 / 134) ** 2,) * 2, crop_path="diagonal")
STILL = replace(Augment.none(), flip=0.5, colour=1.0)
Case = tuple[str, int, Augment | None]
CASES: dict[int, list[Case]] = {
    256: [
        ("decode, resize", 224, None),
        ("decode, crop, flip, colour", 224, replace(STILL, crop=(0.765625, 0.765625))),
        ("decode, random resized crop, flip, colour", 224, replace(STILL, crop=(0.5, 1.0), crop_ratio=4 / 3)),
        ("decode, affine, flip, colour", 224, replace(Augment(), erase=0)),
        ("the same and shear, blur, noise, erasing", 224, Augment(shear=8, blur=0.25, noise=0.25, erase=0.5)),
        ("decode, affine, flip, colour", 112, replace(Augment(), erase=0)),
    ],
    134: [("decode, centre", 112, None), ("decode, crop, flip", 112, PATH)],
    112: [("decode", 112, None), ("decode, enlarge, crop, flip", 112, PATH)],
    48: [
        ("decode", 48, None),
        ("decode, affine, flip, colour, erasing", 48, Augment()),
    ],
}


def textured(generator: np.random.Generator, side: int, channels: int) -> Image.Image:
    """Noise with the spectrum of photographs (amplitude ~ 1 / frequency) over a bright oval."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side
    noise = np.fft.irfft2(np.fft.rfft2(generator.standard_normal((channels + 1, side, side))) / frequency**1.15)
    noise = noise[:-1] * 0.3 + noise[-1:]
    down, across = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    levels = 90 + 80 * (across**2 / 0.5 + down**2 / 0.8 < 1) + 15.5 * noise / noise.std()
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).squeeze())


def make(folder: Path, side: int, count: int) -> None:
    """A prepared data set of made-up images."""
    generator = np.random.default_rng(0)
    rows = []
    with ImageWriter(folder / "images") as images:
        for row in range(count):
            file = io.BytesIO()
            if side == 48:
                textured(generator, side, 1).save(file, "PNG")
            else:
                textured(generator, side, 3).save(file, "JPEG", quality=85 if side == 256 else 90)
            reference = images.add(file.getvalue())
            rows.append({"id": str(row), "split": "train", "image": reference, "expression": "neutral"})
    write_manifest(folder, pd.DataFrame(rows), DataSchema("made up", "benchmark", LabelSchema(("neutral",))))


def one_by_one(encoded: bytes, place: float) -> torch.Tensor:
    """(3, 112, 112) float: a picture as the original of the multitask work brings it to its network."""
    picture = Image.open(io.BytesIO(encoded)).convert("RGB").resize((134, 134), Image.Resampling.BILINEAR)
    start = int((134 - 112) * place)
    picture = picture.crop((start, start, start + 112, start + 112))
    if place < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div_(255)
    return values.mul_(255).sub_(torch.tensor([131.0912, 103.8827, 91.4953])[:, None, None])


def rate(work: Callable[[], int], repeats: int) -> float:
    """Images per second of processor time, best of the repeats after a warm-up."""
    work()
    best = 0.0
    for _ in range(repeats):
        start = time.process_time()
        count = work()
        best = max(best, count / (time.process_time() - start))
    return best


def measure(folder: Path, cases: list[Case], repeats: int, title: str) -> None:
    """Print the table of one data set."""
    data = PreparedData(folder)
    encoded = [bytes(data.image_bytes(row)) for row in range(len(data))]

    def decode() -> int:
        for image in encoded:
            np.asarray(Image.open(io.BytesIO(image)))
        return len(encoded)

    bare = rate(decode, repeats)
    shown = [("Pillow decoding alone", "", f"{bare:,.0f}", "1.00")]
    if cases in (CASES[112], CASES[134]):
        places = np.random.default_rng(0).random(len(encoded)).tolist()
        found = rate(lambda: len([one_by_one(image, v) for image, v in zip(encoded, places, strict=True)]), repeats)
        shown.append(("Pillow, one by one", "112", f"{found:,.0f}", f"{found / bare:.2f}"))
    for name, size, augment in cases:
        module = DataModule(data, size=size, augment=augment)
        loader = module.train_dataloader()
        if name == "decode, centre":
            faces = FaceData([data], size, centre=size / 134)
            loader = Loader(faces, OnceBatches(faces.rows("train"), module.batch_size))
        found = rate(lambda loader=loader: sum(len(batch) for batch in loader), repeats)  # type: ignore[misc]
        shown.append((name, str(size), f"{found:,.0f}", f"{found / bare:.2f}"))
    kilobytes = sum(map(len, encoded)) / len(encoded) / 1000
    say(table(f"{title}, {kilobytes:.1f} kB each", ("one core", "result, px", "images/s", "of bare decoding"), shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="made-up images of each kind (default 300)")
    parser.add_argument("--repeats", type=int, default=5, help="best of so many passes (default 5)")
    parser.add_argument("--data", type=Path, help="prepared data set to measure instead of made-up images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    turbo = features.version("libjpeg_turbo") or "no"
    say(f"Pillow {Image.__version__}, libjpeg-turbo {turbo}, torch {torch.__version__}, 1 thread")
    if options.data:
        measure(options.data, CASES[256] + CASES[48], options.repeats, str(options.data))
        return
    for side, cases in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), side, options.images)
            measure(Path(folder), cases, options.repeats, f"{options.images} images of {side} px")


if __name__ == "__main__":
    main()
