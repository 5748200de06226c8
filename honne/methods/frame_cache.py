"""What a frozen network sees of every frame, computed once and kept: later epochs and students never run it again."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch

from honne.console import progress
from honne.data.dataset import FaceData
from honne.data.loading import DataModule, Loader
from honne.data.manifest import replacing, sha256
from honne.data.sampling import OnceBatches
from honne.data.transforms import Normalise
from honne.errors import HonneError
from honne.networks.clips import ClipNetwork

CACHED = "frame_features.{}.npy"
IMAGES = 32
"""Images at once; more are slower on a CPU."""


def cache_frames(
    network: ClipNetwork, data: DataModule, normalise: Normalise, folder: Path, device: torch.device
) -> None:
    """Let the data show features of frames in place of images: from `folder`, where they are kept, or computed now.

    Images are taken as in validation, without random changes.

    Args:
        network: with frozen frames.
        data: of the run; its rows of splits train and valid are seen.
        normalise: from uint8 images to what the network takes.
        folder: of the run.
        device: to compute on.

    Raises:
        HonneError: the network sees something that is not a number.
    """
    path = folder / CACHED.format(_identity(network, data))
    if not path.is_file():
        _compute(network, data, normalise.to(device), path, device)
    features = np.load(path, mmap_mode="r")
    data.training.features = data.measuring.features = features


def _compute(network: ClipNetwork, data: DataModule, normalise: Normalise, path: Path, device: torch.device) -> None:
    shown = FaceData(data.data, data.size, centre=data.centre, labels=data.labels)
    splits = np.concatenate([part.rows["split"].to_numpy() for part in data.data])
    rows = np.flatnonzero((splits == "train") | (splits == "valid"))
    assert network.frames is not None
    frames = network.frames.to(device)
    training = frames.training
    frames.eval()
    with replacing(path) as aside, progress() as bar, torch.inference_mode():
        kept = np.lib.format.open_memmap(aside, "w+", np.float16, (len(shown), network.width))
        task = bar.add_task("frames, once", total=len(rows))
        for batch in Loader(shown, OnceBatches(rows, IMAGES), data.workers):
            assert batch.images is not None
            assert batch.index is not None
            seen = frames.task_features(normalise(batch.images.to(device)))
            if not bool(seen.isfinite().all()):
                row = int(batch.index[int((~seen.isfinite().all(1)).nonzero()[0])])
                part, own = shown.source(row)
                raise HonneError(
                    f"{shown.data[part].root}: manifest row {own}: the network of frames sees NaN there.",
                    "Look at the picture, or train that network again.",
                )
            kept[batch.index.numpy()] = seen.half().cpu().numpy()
            bar.advance(task, len(batch))
        kept.flush()
    frames.train(training)


def _identity(network: ClipNetwork, data: DataModule) -> str:
    """Changes with the network's weights, the data and how they are shown."""
    digest = hashlib.sha256(f"{data.size} {data.centre}".encode())
    for part in data.data:
        digest.update(sha256(part.root / "manifest.parquet").encode())
    assert network.frames is not None
    for name, value in network.frames.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
