"""Clips judged by a model of several modalities: one row per utterance, by what is heard, seen and said."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from honne.analysis.inputs import Input, plan
from honne.analysis.parts import After
from honne.analysis.pipeline import signals
from honne.analysis.run import Done, Task
from honne.analysis.settings import Settings
from honne.analysis.writers import writing
from honne.batch import Batch
from honne.errors import HonneError, WrongCall
from honne.faces.media import VIDEOS
from honne.features import Extractor, Utterance
from honne.features.media import Outline, outline
from honne.features.transcript import beside, read_transcript
from honne.models import Model

SOUNDS = frozenset({".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg", ".opus", ".wma", ".aif", ".aiff"})
"""What is looked for in folders beside videos."""
PART_UTTERANCES = 64
"""Utterances of a part; an interrupted run goes on after the last whole one."""

_ABSENT = {"audio": "no sound", "vision": "no face", "text": "no transcript"}


@dataclass
class Clips:
    """The analysis of clips with one model.

    Args:
        model: of several modalities, whose features honne makes.
        settings: the user's choices.
        engine: local; there is no other.
        transcript: of the only clip; None = what lies beside each.
        files: modality -> file or folder that its features are made with.

    Raises:
        HonneError: the model needs features that honne does not make.
        WrongCall: options that make no sense here.
    """

    model: Model
    settings: Settings
    engine: str
    transcript: Path | None
    files: dict[str, str]

    def __post_init__(self) -> None:
        require_own_features(self.model)
        _require_fitting(self.model, self.settings, self.engine)
        if self.transcript is not None and not Path(self.transcript).is_file():
            raise WrongCall(f"--transcript {self.transcript}: no such file.", "Check the path.")
        for name in (*self.modalities, *self.files):
            if name not in self.model.modalities:
                raise WrongCall(
                    f"model '{self.model.name}' does not know the modality '{name}'.",
                    f"It knows {', '.join(self.model.modalities)}.",
                )

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the model is shown, in its own order."""
        if self.settings.modalities is None:
            return self.model.modalities
        return tuple(name.strip() for name in self.settings.modalities.split(",") if name.strip())

    def tasks(self, arguments: Sequence[str | Path], out: Path) -> list[Task]:
        """One task a clip; of folders the videos and sound files in them.

        Raises:
            WrongCall: there is a picture or a camera, or several clips for one transcript.
        """
        inputs = plan([file for argument in arguments for file in _files(str(argument))])
        for each in inputs:
            if each.kind != "video" and not each.problem:
                raise WrongCall(
                    f"{each.title}: model '{self.model.name}' judges utterances of clips, not pictures or cameras.",
                    "Name videos or sound files, or choose a model of faces.",
                )
        if self.transcript is not None and len(inputs) > 1:
            raise WrongCall(
                f"--transcript belongs to one clip, and there are {len(inputs)}.",
                "Lay each transcript beside its clip, under its name.",
            )
        return [
            Task(each, self.model, self.settings, out, transcript=self.transcript or beside(Path(each.sources[0])))
            for each in inputs
        ]

    def run(
        self, tasks: list[Task], batch_size: int, watch: Callable[[Input], Callable[[int], None]]
    ) -> Iterator[Done]:
        """Analyse one clip after the other; the model sees one utterance at a time, whatever `batch_size` is."""
        if not tasks:
            return
        extractor = Extractor(
            {name: self.model.config.features[name] for name in self.model.modalities}, self.files, self.model.device
        )
        for task in tasks:
            task.begin()
            advance = watch(task.input)
            for number in task.missing():
                self._read(task, number, extractor, advance)
            yield task.finish()

    def _read(self, task: Task, number: int, extractor: Extractor, advance: Callable[[int], None]) -> None:
        """Read the missing parts of a clip, from `number` on."""
        position = task.parts.after(number - 1).positions if number else 0
        rows = _Rows(task, self.modalities, extractor)
        for each in rows.of_clip(position):
            rows.add(position, each)
            position += 1
            advance(each.frame or 0)
            if position % PART_UTTERANCES == 0:
                with writing(task.parts.folder):
                    task.parts.write(number, rows.take(), After(position, position))
                number += 1
        with writing(task.parts.folder):
            task.parts.write(number, rows.take(), After(position, position, ended=True))


def require_own_features(model: Model) -> None:
    """Refuse a model whose features honne cannot make of a clip.

    Raises:
        HonneError: it is one; says what features it needs.
    """
    features: dict[str, Any] = model.config.features
    foreign = [name for name in model.modalities if not _made_here(features.get(name))]
    if foreign:
        told = "; ".join(f"{name}: {features.get(name) or 'not recorded'}" for name in foreign)
        raise HonneError(
            f"Model '{model.name}' needs features that honne does not make of clips ({told}).",
            "Use it on prepared features: honne evaluate. For clips train on data prepared from clips by honne.",
        )


def _made_here(settings: Any) -> bool:
    return isinstance(settings, dict) and "kind" in settings


def _require_fitting(model: Model, settings: Settings, engine: str) -> None:
    usual = Settings()
    of_faces = ("video", "timeline", "explain", "smooth", "baseline", "finder", "fps", "names")
    given = [name for name in of_faces if getattr(settings, name) != getattr(usual, name)]
    if given or engine != "local":
        raise WrongCall(
            f"--{[*given, 'engine'][0]} is for models of faces; '{model.name}' judges utterances of clips.",
            "Leave it out, or choose a model of faces.",
        )


def _files(argument: str) -> list[str]:
    """The clips in a folder, sorted; anything else as it is."""
    folder = Path(argument)
    below = sorted(folder.rglob("*")) if folder.is_dir() else []
    hidden = {file for file in below if any(part.startswith(".") for part in file.relative_to(folder).parts)}
    found = [file for file in below if file.suffix.lower() in VIDEOS | SOUNDS and file.is_file() and file not in hidden]
    return list(map(str, found)) or [argument]


@dataclass
class _Found:
    """What became of one utterance: its features, or why there are none."""

    utterance: Utterance
    frame: int | None = None
    duration: float | None = None
    features: dict[str, np.ndarray | None] | None = None
    pictures: bool = False
    error: str | None = None


def utterances_of(transcript: Path | None, segment: float | None, duration: float) -> list[Utterance]:
    """The utterances of a clip.

    Args:
        transcript: what is said, if known.
        segment: s of a piece; None for captions, or the whole clip.
        duration: of the clip, s.

    Returns:
        In order of their starts: the captions; else the whole clip; or pieces of `segment` seconds, of which the last
        may be half as long or half as long again. A piece has the words of the captions whose middle lies in it, and
        those of a text without times only where it is the whole clip.

    Raises:
        HonneError: the transcript cannot be read.
    """
    said = read_transcript(transcript) if transcript is not None else []
    if segment is None:
        return said or [Utterance()]
    count = max(1, math.floor(duration / segment + 0.5))
    pieces = [Utterance(None, i * segment, (i + 1) * segment) for i in range(count - 1)]
    pieces.append(Utterance(None, (count - 1) * segment))
    return [replace(piece, text=_within(said, piece, count) or None) for piece in pieces]


def _within(said: Sequence[Utterance], piece: Utterance, pieces: int) -> str:
    inside = (
        each.text
        for each in said
        if each.text and (pieces == 1 if each.stop is None else piece.start <= (each.start + each.stop) / 2 < piece.end)
    )
    return " ".join(inside)


class _Rows:
    """Rows of one clip being collected."""

    def __init__(self, task: Task, modalities: Sequence[str], extractor: Extractor) -> None:
        self.task, self.modalities, self.extractor = task, modalities, extractor
        self.model, self.layout = task.model, task.layout
        self.rows: list[tuple[Any, ...]] = []
        self.said: list[np.ndarray] = []

    def of_clip(self, first: int) -> Iterator[_Found]:
        """The utterances from number `first` on; a clip that cannot be read, or not on, gives errors."""
        clip, settings = Path(self.task.input.sources[0]), self.task.settings
        try:
            if self.task.input.problem:
                raise HonneError(self.task.input.problem)
            shape = outline(clip)
            utterances = utterances_of(self.task.transcript, settings.segment, shape.duration)
        except HonneError as error:
            yield _Found(Utterance(), error=error.what)
            return
        left = [_found(each, shape) for each in utterances[first:]]
        features = self.extractor.utterances(clip, [each.utterance for each in left], self.modalities)
        for number, each in enumerate(left):
            try:
                yield replace(each, features=next(features))
            except HonneError as error:
                yield from (replace(other, error=error.what) for other in left[number:])
                return

    def add(self, position: int, found: _Found) -> None:
        """One utterance: what the model says, or why it says nothing."""
        features = found.features or {}
        present = [name for name in self.modalities if features.get(name) is not None]
        status, message = "ok", None
        if not present:
            status, message = self._nothing(found)
        duration, start = found.duration, found.utterance.start
        where = (position, self.task.input.sources[0], found.frame, start, duration, None, status, message)
        self.rows.append((*where, "+".join(present) or None))
        blank = np.full((1, len(self.layout.signals)), np.nan, np.float32)
        self.said.append(self._judged(features) if present else blank)

    def _judged(self, features: dict[str, np.ndarray | None]) -> np.ndarray:
        """(1, K) float32 figures in the order of `layout.signals`; an absent modality has length 0."""
        sequences, lengths = {}, {}
        for name in self.model.modalities:
            given = features.get(name)
            values = np.zeros((1, self.extractor.widths[name]), np.float32) if given is None else given
            sequences[name] = torch.from_numpy(values)[None]
            lengths[name] = torch.tensor([0 if given is None else len(given)])
        prediction = self.model.forward_batch(Batch(sequences=sequences, lengths=lengths))
        return signals(self.model, prediction.to("cpu", torch.float32), self.layout)

    def _nothing(self, found: _Found) -> tuple[str, str]:
        if found.error is not None:
            return "error", found.error
        reasons = [_ABSENT[name] if name in self.modalities else f"{name} left out" for name in self.model.modalities]
        what = ", ".join(reasons)
        if found.pictures and "vision" in self.modalities:
            return "no_face", what
        return "error", f"{self.task.input.title}, {found.utterance.start:.2f} s: nothing to go by ({what})."

    def take(self) -> pa.Table:
        """All rows so far; starts anew."""
        schema = self.layout.raw_schema
        columns = list(zip(*self.rows, strict=True)) or [()] * (len(self.layout.where) + 1)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=False)]
        values = np.concatenate(self.said) if self.said else np.empty((0, len(self.layout.signals)), np.float32)
        arrays += [pa.array(column, pa.float32(), from_pandas=True) for column in values.T]
        self.rows, self.said = [], []
        return pa.Table.from_arrays(arrays, schema=schema)


def _found(utterance: Utterance, shape: Outline) -> _Found:
    duration = max(min(utterance.end, shape.duration) - utterance.start, 0.0)
    return _Found(utterance, shape.frame(utterance.start), duration, pictures=bool(len(shape.times)))
