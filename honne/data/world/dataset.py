"""The synthetic world as rows of a reader, and as a prepared data set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from honne import __version__
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, replacing, write_manifest
from honne.data.readers import Row
from honne.data.world.faces import CHUNK, draw
from honne.data.world.folders import building
from honne.data.world.geometry import ACTION_UNITS
from honne.data.world.labels import CODEBOOK, PRESENT, Truth, sample
from honne.data.world.options import DOMAINS, World
from honne.errors import HonneError
from honne.faces.align import Alignment
from honne.labels import LabelSchema

LICENCE = "Apache-2.0 (drawn by honne; no person is shown)"
TRUTH = "truth.parquet"
"""Beside the manifest: everything known of every row, whatever the labels claim."""


def shown_units(world: World) -> tuple[int, ...]:
    """FACS numbers that the expressions of a world use."""
    used = {unit for name in world.classes for unit in CODEBOOK[name]}
    return tuple(unit for unit in ACTION_UNITS if unit in used)


def label_schema(world: World) -> LabelSchema:
    """What the manifest of a world is labelled with."""
    return LabelSchema(
        world.classes if "expression" in world.tasks else (),
        shown_units(world) if "au" in world.tasks else (),
        "va" in world.tasks,
    )


def rows(world: World, truth: Truth | None = None) -> Iterator[Row]:
    """The faces of a world one by one, as a reader gives them.

    Args:
        world: its knobs.
        truth: as `sample(world)` gave it, when the caller has it already.
    """
    truth = truth or sample(world)
    labelled = np.random.default_rng((world.seed, 1)).random((3, len(truth))) >= world.unlabelled
    labelled &= np.array([[task in world.tasks] for task in ("expression", "au", "va")])
    units = [ACTION_UNITS.index(unit) for unit in shown_units(world)]
    landmarks = truth.points[:, :68].astype(np.float32)
    corner, far = landmarks.min(1), landmarks.max(1)
    boxes = np.concatenate([corner, far - corner], 1)
    pictures = (picture for chunk in draw(truth, world.size, world.seed) for picture in chunk)
    for i, picture in enumerate(pictures):
        expression, au, affect = labelled[:, i]
        intensity = truth.intensities[i, units].astype(np.float32)
        yield Row(
            id=f"world-{world.seed}-{i:06d}",
            image=picture,
            split=truth.split[i],
            subject=f"w{world.seed}s{truth.subject[i]:04d}",
            domain=DOMAINS[truth.domain[i]] if world.domains > 1 else None,
            video=f"w{world.seed}v{truth.video[i]:05d}" if world.frames > 1 else None,
            time=float(truth.time[i]) if world.frames > 1 else None,
            box=boxes[i],
            landmarks=landmarks[i],
            expression=world.classes[truth.label[i]] if expression else None,
            votes=truth.votes[i].astype(np.float32) if expression and world.voters else None,
            au=(intensity >= PRESENT).astype(np.float32) if au else None,
            au_intensity=intensity if au else None,
            valence=float(truth.valence_arousal[i, 0]) if affect else None,
            arousal=float(truth.valence_arousal[i, 1]) if affect else None,
        )


def make_world(out: str | Path, world: World | None = None) -> PreparedData:
    """Write a synthetic world as a prepared data set, with the truth beside it.

    Args:
        out: folder to write; it must not exist, or be empty.
        world: its knobs; the defaults of `World` when left out.

    Returns:
        The data set.

    Raises:
        HonneError: the folder is in use.
    """
    world, out = world or World(), Path(out)
    truth = sample(world)
    schema = DataSchema(
        name=f"synthetic world, seed {world.seed}",
        reader="world",
        labels=label_schema(world),
        alignment=Alignment(kind="none", size=world.size).to_dict(),
        source={"drawn by": f"honne {__version__}"},
        licence=LICENCE,
        options=world.to_dict(),
        version=__version__,
    )
    with building(out) as folder:
        table = []
        with ImageWriter(folder / "images") as images:
            for row in rows(world, truth):
                table.append(_flat(row) | {"image": images.add(_png(row.image))})
        frame = pd.DataFrame(table).dropna(axis=1, how="all")
        _write_truth(folder, world, truth)
        with replacing(folder / "card.md") as path:
            path.write_text(_card(world, truth), encoding="utf-8")
        write_manifest(folder, frame, schema)
    return PreparedData(out)


def _flat(row: Row) -> dict[str, Any]:
    """A row's values for the manifest, arrays as lists of numbers."""
    return {name: value.ravel() if isinstance(value, np.ndarray) else value for name, value in vars(row).items()}


def read_truth(root: str | Path) -> pd.DataFrame:
    """What is really so of each manifest row of a synthetic world, in the same order.

    Columns: `expression` (true class), `label` (claimed), `mixture` (C,), `votes` (C,), `strength`, `au_intensity`
    (20, in the order of `ACTION_UNITS`), `valence`, `arousal`, `yaw`, `pitch`, `roll` (degrees), `subject`, `domain`.

    Raises:
        HonneError: the data set is not a synthetic world.
    """
    path = Path(root) / TRUTH
    if not path.is_file():
        raise HonneError(f"{root}: no {TRUTH}; this is not a synthetic world.", "Make one with `make_world`.")
    return pq.read_table(path).to_pandas()


def _png(picture: Any) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def _write_truth(out: Path, world: World, truth: Truth) -> None:
    classes = np.array(world.classes)
    columns = {
        "split": truth.split,
        "subject": truth.subject,
        "domain": np.array(DOMAINS)[truth.domain],
        "expression": classes[truth.expression],
        "label": classes[truth.label],
        "mixture": list(truth.mixture.astype(np.float32)),
        "votes": list(truth.votes.astype(np.int16)),
        "strength": truth.strength,
        "au_intensity": list(truth.intensities.astype(np.float32)),
        "valence": truth.valence_arousal[:, 0],
        "arousal": truth.valence_arousal[:, 1],
        "yaw": truth.pose[:, 0],
        "pitch": truth.pose[:, 1],
        "roll": truth.pose[:, 2],
    }
    with replacing(out / TRUTH) as path:
        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)


def _card(world: World, truth: Truth) -> str:
    wrong = int((truth.label != truth.expression).sum())
    counts = ", ".join(f"{name} {int((truth.split == name).sum()):,}" for name in ("train", "valid", "test"))
    knobs = "\n".join(f"| {name} | {value} |" for name, value in world.to_dict().items())
    return f"""# Synthetic world, seed {world.seed}

Drawn faces whose expression, action units, valence, arousal, landmarks and camera are known. For tests and
demonstrations: figures on them say whether a method works, and nothing about people.

{len(truth):,} faces ({counts}), {world.size} px, {len(np.unique(truth.subject))} identities, none in two splits.
{wrong:,} training labels differ from the truth, which lies in `{TRUTH}`.

| knob | value |
|---|---|
{knobs}
"""


def gallery(world: World, count: int) -> tuple[np.ndarray, Truth]:
    """The first pictures of a world in memory.

    Args:
        world: its knobs.
        count: how many at most.

    Returns:
        (count, size, size, 3) uint8, and the truth of the whole world.
    """
    truth = sample(world)
    chunks = []
    for chunk in draw(truth, world.size, world.seed):
        chunks.append(chunk)
        if len(chunks) * CHUNK >= count:
            break
    return np.concatenate(chunks)[:count], truth
