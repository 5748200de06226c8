"""`honne explain`: where a model looks, as pictures, arrays and agreement with a codebook of action units."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from honne.analysis import loaded
from honne.analysis.inputs import Input, plan, unique_names
from honne.analysis.pipeline import Seen, Watcher
from honne.analysis.table import OUTPUTS_ARE
from honne.console import progress, say, table
from honne.data.landmarks import MeshLandmarks
from honne.errors import WrongCall
from honne.explain.contributions import Level, Value
from honne.explain.explainer import PREDICTED, Explainer
from honne.explain.gallery import NOTE, TABLE, Gallery, Where, require_free
from honne.explain.modalities import ModalitiesExplained, explain_modalities, show
from honne.faces.face import Face
from honne.faces.quality import LOW_QUALITY
from honne.faces.track import Tracker
from honne.networks.layers import LAST

log = logging.getLogger("honne")

ALL_DONE, SOME_FAILED = 0, 3
SHOWN_ROWS = 20


@dataclass
class Explained:
    """What an explanation left in its folder.

    Attributes:
        out: the folder.
        rows: as in `explanations.csv`.
    """

    out: Path
    rows: pd.DataFrame


def explain(
    model: str,
    inputs: list[str],
    *,
    out: Path,
    map: str | None = None,
    layer: str = LAST,
    target: str = PREDICTED,
    codebook: str | None = None,
    finder: str = "mediapipe",
    landmarks: Literal["finder", "mesh"] = "finder",
    fps: float = 1.0,
    split: str = "test",
    value: Value = "prob",
    level: Level = "input",
    overwrite: bool = False,
) -> Explained | ModalitiesExplained:
    """Show where a model looks for the apparent expression of a face, and which action units that agrees with.

    Of a model of several modalities: what each contributes, by exact Shapley values, shuffling, and the direct effects
    of the causal graph; for one prepared data set, or for clips. OUT/contributions.parquet has a row per sample.

    Every face becomes a picture, OUT/NAME_faceK.png: the face, the map over it, the attention, the codebook's map, and
    which regions the map sits on. OUT/explanations.csv has a row per face, explanations.npz the arrays.

    Args:
        model: name or folder of a model; in Python also a loaded one.
        inputs: pictures, videos, or folders of them; of models of several modalities clips, or a prepared data set.
        out: folder for the results.
        map: layercam, gradcam, cam, ..., class_map (of a head that has one), attention, or au for the codebook's own
            map; unset takes the model's own, else layercam.
        layer: of the map: a number, as the networks count them, or last.
        target: expression whose map is shown, or predicted.
        codebook: facs, reference or a YAML file; unset takes the model's own, else facs.
        finder: what finds faces: mediapipe, tasks:FILE, yunet:FILE, table:FILE (known boxes or landmarks) or cropped.
        landmarks: those of the finder, or found by the mesh in the crop, for pictures that are faces already.
        fps: of videos: frames per second of media time at most.
        split: of a prepared data set: train, valid or test.
        value: what modalities contribute to: prob (the label's probability; without a label that of what is predicted),
            accuracy, neg_loss, or output (the number that is predicted).
        level: where a modality is taken away: input (its sequence) or hidden (its columns of the fused state).
        overwrite: replace explanations that are in OUT.

    Returns:
        The folder and the table.

    Raises:
        HonneError: the model cannot be loaded or explained so, OUT cannot be written or holds other explanations.
        WrongCall: no such map, layer or expression, or nothing to explain.
    """
    if not fps > 0:
        raise WrongCall(f"fps must be more than 0, not {fps}.")
    if landmarks not in ("finder", "mesh"):
        raise WrongCall(f"landmarks: '{landmarks}' is not one of finder, mesh.")
    named = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    opened = loaded(model, finder)
    if opened.modalities:
        _require_usual(map=map, layer=layer, target=target, codebook=codebook, finder=finder, landmarks=landmarks)
        return explain_modalities(opened, [str(each) for each in named], Path(out), split, value, level, overwrite)
    planned = plan([inputs] if isinstance(inputs, (str, Path)) else inputs)
    if any(each.kind == "camera" for each in planned):
        raise WrongCall("a camera cannot be explained.", "Record a video and explain that.")
    explainer = Explainer(opened, map, layer, codebook)
    expression = None if target == PREDICTED else explainer.expression(target)
    out = Path(out)
    if not overwrite:
        require_free(out)
    settings = {"target": expression or PREDICTED, "finder": finder, "landmarks": landmarks, "fps": fps}
    with Watcher(explainer.model.alignment, finder) as watcher:
        faces = _Faces(Gallery(out, explainer), expression, MeshLandmarks() if landmarks == "mesh" else None)
        names = iter(unique_names([source for each in planned for source in each.sources]))
        with progress() as bar:
            task = bar.add_task("pictures", total=sum(len(each.sources) for each in planned))
            for each in planned:
                _explain_input(each, watcher.watch(each.frames(fps)), faces, names)
                bar.advance(task, len(each.sources))
    rows = faces.gallery.close(settings)
    if faces.without:
        log.warning(
            "The landmarks of %d faces are not known, so nothing can be said of action units there: take --finder "
            "mediapipe, or for pictures that are faces already --landmarks mesh.",
            faces.without,
        )
    return Explained(out, rows)


def _require_usual(**given: str | None) -> None:
    """Refuse options of pictures for a model of several modalities.

    Raises:
        WrongCall: one is given.
    """
    usual = {"layer": LAST, "target": PREDICTED, "finder": "mediapipe", "landmarks": "finder"}
    if chosen := [name for name, value in given.items() if value != usual.get(name)]:
        raise WrongCall(
            f"--{chosen[0]} is for models of faces; this one goes by several modalities.", f"Leave --{chosen[0]} out."
        )


def _explain_input(each: Input, frames: Iterator[Seen], faces: _Faces, names: Iterator[str]) -> None:
    """Every still has a name of its own; frames of a video have its name and their number."""
    name = ""
    tracker = Tracker()
    for seen in frames:
        if each.kind == "stills":
            name, tracker = next(names), Tracker()
            faces.add(seen, tracker, name)
        else:
            name = name or next(names)
            faces.add(seen, tracker, f"{name}_{seen.frame:06d}")


@dataclass
class _Faces:
    """Brings the faces of frames to a gallery.

    Attributes:
        gallery: explains and keeps them.
        expression: to explain; None for the predicted one.
        mesh: finds landmarks in crops; None takes those of the finder.
        without: faces without landmarks.
    """

    gallery: Gallery
    expression: str | None
    mesh: MeshLandmarks | None
    without: int = 0

    def add(self, seen: Seen, tracker: Tracker, name: str) -> None:
        """The faces of one frame, by their track numbers."""
        if not seen.faces:
            status = "error" if seen.error else "no_face"
            self.gallery.skip(Where(seen.source, seen.frame, seen.time, status=status, message=seen.error))
            return
        tracks = tracker.update(seen.faces, seen.time)
        for number in np.argsort(tracks, kind="stable"):
            crop, track = seen.crops[number], tracks[number]
            points = self._landmarks(seen, number)
            self.without += not np.isfinite(points).all()
            where = Where(seen.source, seen.frame, seen.time, track, *_judged(seen.faces[number]))
            self.gallery.add(where, crop, points, f"{name}_face{track}", self.expression)

    def _landmarks(self, seen: Seen, number: int) -> np.ndarray:
        if self.mesh is None:
            return seen.landmarks(number, self.gallery.explainer.model.alignment)
        found = self.mesh(seen.crops[number])
        return np.full((68, 2), np.nan) if found is None else found


def _judged(face: Face) -> tuple[str, str | None]:
    """Status and message, as in the analysis table."""
    if face.quality is not None and face.quality < LOW_QUALITY:
        return "low_quality", f"quality {face.quality:.2f} is below {LOW_QUALITY:g}"
    return "ok", None


@functools.wraps(explain)
def command(*arguments: Any, **options: Any) -> int:
    """`explain` for the command line: shows what came out, returns the exit status."""
    result = explain(*arguments, **options)
    if isinstance(result, ModalitiesExplained):
        show(result)
        return ALL_DONE
    rows = result.rows
    faces = rows[rows["face"].notna()]
    wanted = ("source", "frame", "face", "expression", "p", "cosine", "blob", "others", "au")
    columns = [name for name in wanted if name != "frame" or faces["frame"].any()]
    shown = faces.head(SHOWN_ROWS).assign(source=lambda each: each["source"].map(lambda source: Path(source).name))
    cells = [[_cell(row[name]) for name in columns] for row in shown.to_dict("records")]
    if cells:
        say(table(OUTPUTS_ARE[0].upper() + OUTPUTS_ARE[1:], columns, cells))
    more = f", {len(faces) - SHOWN_ROWS} more in {TABLE}" if len(faces) > SHOWN_ROWS else ""
    word = "face" if len(faces) == 1 else "faces"
    say(f"{len(faces)} {word} explained{more}: {result.out / NOTE}")
    if without := (rows["status"] == "no_face").sum():
        say(f"no face in {without} pictures or frames")
    failed = rows[rows["status"] == "error"]
    for message in failed["message"].head(SHOWN_ROWS):
        say(f"failed: {message}")
    return SOME_FAILED if len(failed) else ALL_DONE


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("/", " or ")  # which may be broken into lines
    return "" if pd.isna(value) else f"{value:.2f}" if isinstance(value, float) else str(value)
