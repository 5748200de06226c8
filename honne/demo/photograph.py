"""The demo's real photograph, analysed with the default model."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import honne
from honne.errors import HonneError
from honne.explain.explaining import explain

FINER = "4"
"""Layer of the default model whose map has 6 x 6 positions; its last one has 3 x 3."""
CREDIT = "Eileen Collins, NASA astronaut, 1992. Public domain, as scikit-image carries it."


@dataclass
class Photograph:
    """An analysed photograph.

    Attributes:
        picture: file with box, expression and landmarks drawn in.
        explanation: file that shows where the model looks; None without a face.
        table: one row per face.
        model: name of the model.
        classes: its expressions.
    """

    picture: Path
    explanation: Path | None
    table: pd.DataFrame
    model: str
    classes: tuple[str, ...]


def analyse(folder: Path) -> Photograph:
    """Analyse the photograph that scikit-image carries, and show where the model looks.

    Args:
        folder: for table, provenance and annotated picture; an earlier result is replaced.

    Raises:
        HonneError: a library or the default model is missing.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise HonneError("The photograph comes with scikit-image.", "Install it with: pip install 'honne[demo]'")
    if importlib.util.find_spec("mediapipe") is None:
        raise HonneError("Finding faces in photographs needs MediaPipe.", "Install it with: pip install 'honne[face]'")
    original = Path(found.origin).parent / "data" / "astronaut.png"
    folder.mkdir(parents=True, exist_ok=True)
    photo = folder / "astronaut.png"
    shutil.copyfile(original, photo)
    model = honne.load("default")
    report = model.analyze(photo, out=folder, video=True, overwrite=True)
    done = report.done[0]
    picture = next(iter(sorted((folder / f"{done.table.stem}_annotated").glob("*.jpg"))), photo)
    explained = explain(model.name, [str(photo)], out=folder / "explained", layer=FINER, overwrite=True)
    panel = next(iter(sorted(explained.out.glob("*.png"))), None)
    return Photograph(picture, panel, pd.read_parquet(done.table), model.name, model.schema.expressions)
