"""One input from files to finished table; and the plain engine, one input after the other."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

import honne
from honne.analysis.baseline import Baselines
from honne.analysis.inputs import Input
from honne.analysis.over_time import over_time
from honne.analysis.parts import PART_FRAMES, After, Parts, now
from honne.analysis.pipeline import Analyst
from honne.analysis.settings import Baseline, Settings, Smoothing
from honne.analysis.smoothing import smoothed
from honne.analysis.table import OUTPUTS_ARE, POSITION, UTTERANCE, WHERE, Explained, Layout
from honne.analysis.writers import write_table, writing
from honne.data.manifest import replacing, sha256
from honne.errors import HonneError
from honne.faces.media import Frame, open_media
from honne.models import Model

if TYPE_CHECKING:
    from honne.analysis.explaining import Explaining

SHOWN_FAILURES = 20


@dataclass
class Done:
    """One finished input.

    Attributes:
        title: the input as the user named it.
        table: file of the table.
        counts: rows by status.
        failures: what could not be read, one sentence each, at most `SHOWN_FAILURES`.
    """

    title: str
    table: Path
    counts: dict[str, int]
    failures: list[str] = field(default_factory=list)


@dataclass
class Task:
    """The analysis of one input with one model into one folder.

    Args:
        input: what to read.
        model: what predicts.
        settings: the user's choices.
        out: folder of the results.
        explaining: explains the faces, where that is wanted; reading works without it.
        transcript: what is said in the clip, for models of several modalities.
    """

    input: Input
    model: Model
    settings: Settings
    out: Path
    explaining: Explaining | None = None
    transcript: Path | None = None

    @cached_property
    def layout(self) -> Layout:
        where = UTTERANCE if getattr(self.model, "modalities", ()) else WHERE
        return Layout(self.model.schema, self.settings.baseline != "none", self.settings.explain, where)

    @cached_property
    def input_sha256(self) -> str | None:
        return self.input.sha256()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a finished table must share with this task to be its result."""
        return {
            "model": {"name": self.model.name, "sha256": self.model.sha256},
            "settings": self.settings.to_dict() | {"abstain": self.abstain},
            "input": {"sha256": self.input_sha256} | self._transcript,
        }

    @property
    def _transcript(self) -> dict[str, str | None]:
        if not getattr(self.model, "modalities", ()):
            return {}
        file = self.transcript
        return {"transcript_sha256": sha256(file) if file is not None and file.is_file() else None}

    @cached_property
    def parts(self) -> Parts:
        names = ("fps", "finder", "finder_sha256", "modalities", "segment")
        reading = {name: self.identity["settings"].get(name) for name in names}
        identity = self.identity | {"settings": reading, "version": honne.__version__, "kind": self.input.kind}
        return Parts(self.out / f".{self.input.name}.parts", identity | {"sources": list(self.input.sources)})

    @property
    def table(self) -> Path:
        return self.out / f"{self.input.name}.{self.settings.format}"

    @property
    def provenance(self) -> Path:
        return self.out / f"{self.input.name}.json"

    @property
    def abstain(self) -> float | None:
        return self.model.config.abstain if self.settings.abstain is None else self.settings.abstain

    @property
    def temporal(self) -> bool:
        """Whether a face is judged by the frames around it too."""
        return self.model.length > 0 and self.input.kind != "stills"

    @property
    def recording(self) -> Path:
        """A camera's pictures, kept until they are annotated or explained."""
        return self.parts.folder / "recording.mp4"

    def finished(self) -> Done | None:
        """The result of an earlier run of this very task, if it is there and whole."""
        note = self._earlier()
        if note is None or self.input_sha256 is None or not self.table.is_file():
            return None
        for name, wanted in self.identity.items():
            if any(note[name].get(key) != value for key, value in wanted.items()):
                return None
        return Done(self.input.title, self.table, note["counts"], note["failures"])

    def require_free(self) -> None:
        """Raise `HonneError` if the results of something else are where these would go."""
        note = self._earlier()
        if note is None and not self.table.exists():
            return
        if note is None and self.parts.count():  # stopped between the table and its provenance
            return
        if note is not None and set(note["counts"]) <= {"error"}:
            return
        held = f"of {note['input']['source']} " if note else ""
        raise HonneError(
            f"{self.table if self.table.exists() else self.provenance}: results {held}are there already, made from "
            "another input, model or settings.",
            "Choose another --out, or pass --overwrite to replace them.",
        )

    def _earlier(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self.provenance.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) and {*self.identity, "counts", "failures", "table"} <= set(note) else None

    def begin(self) -> None:
        """Keep what an interrupted run left, or start afresh. A camera is never gone on with."""
        with writing(self.out):
            self.parts.open()
            if self.input.kind == "camera":
                self.parts.remove()
                self.parts.open()

    def missing(self) -> list[int]:
        """Parts still to be read: numbers of stills' parts; for a video the one to go on with, if it is not whole."""
        if self.input.kind == "stills":
            return [n for n in range(math.ceil(len(self.input.sources) / PART_FRAMES)) if not self.parts.has(n)]
        count = self.parts.count()
        return [] if count and self.parts.after(count - 1).ended else [count]

    def read(self, number: int, analyst: Analyst, advance: Callable[[int], None]) -> None:
        """Read one of the missing parts; of a video all from that one on."""
        stills = self.input.kind == "stills"
        stop = None
        if stills:
            start, stop = After(number * PART_FRAMES, number * PART_FRAMES), (number + 1) * PART_FRAMES
        else:
            start = self.parts.after(number - 1) if number else After()
        frames = self.input.frames(self.settings.fps, start.next_frame, stop)
        with _ctrl_c_ends(frames) if self.input.kind == "camera" else nullcontext(frames) as frames:
            for rows, after in analyst.parts(self._recorded(frames), start, advance, self.temporal):
                if stills and not len(rows):
                    continue  # a full part of stills is followed by an empty one
                with writing(self.parts.folder):
                    self.parts.write(number, rows, after)
                number += 1

    def _recorded(self, frames: Iterator[tuple[str, Frame]]) -> Iterator[tuple[str, Frame]]:
        if self.input.kind != "camera" or not (self.settings.video or self.settings.explain):
            yield from frames
            return
        from honne.analysis.video import ClipWriter

        with ClipWriter(self.recording) as clip:
            for source, frame in frames:
                if frame.image is not None:
                    clip.add(frame.image, frame.time)
                yield source, frame

    def finish(self) -> Done:
        """From the parts to the table, its provenance, the annotated and the explained pictures; then the parts go."""
        counted, earlier = _Counted(), self._earlier()
        explained = self._explain()
        with writing(self.table), replacing(self.table) as path:
            rows = counted.watch(self.rows())
            if explained is not None:
                rows = (self.layout.with_explained(part, explained) for part in rows)
            write_table(path, rows, self.layout, self.settings.format, self.settings.names)
        annotated = self._annotate() if self.settings.video else None
        timeline = self._timeline() if self.settings.timeline else None
        note = {
            "outputs are": OUTPUTS_ARE,
            "honne": honne.__version__,
            "model": self.identity["model"]
            | {"method": self.model.config.method, "temperature": self.model.config.temperature}
            | {"thresholds": self.model.thresholds, "licence": self.model.config.licence},
            "settings": self.identity["settings"],
            "input": {"source": self.input.title, "kind": self.input.kind, "files": len(self.input.sources)}
            | self.identity["input"],
            "table": self.table.name,
            "annotated": annotated,
            "timeline": timeline,
            "explained": self._explanations.name if explained else None,
            "columns": [column.name for column in self.layout.columns],
            "started": self.parts.started(),
            "ended": now(),
            "counts": dict(sorted(counted.statuses.items())),
            "failures": counted.failures,
        }
        with writing(self.provenance), replacing(self.provenance) as path:
            path.write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if earlier and earlier["table"] != self.table.name:
            (self.out / earlier["table"]).unlink(missing_ok=True)  # in another format: no longer what its note says
        self.parts.remove()
        return Done(self.input.title, self.table, note["counts"], counted.failures)

    def rows(self) -> Iterator[pa.Table]:
        """The finished rows, streamed from the parts: smoothed, decided, corrected."""
        still = self.input.kind == "stills"
        if not self.layout.corrected:
            yield from self._decided(still)
            return
        baselines = Baselines(Baseline.parse(self.settings.baseline), self.layout)
        if not still:  # every still is a face for itself: nothing to compare it with
            baselines.collect(self._decided(still))
        yield from baselines.apply(self._decided(still))

    def _decided(self, still: bool) -> Iterator[pa.Table]:
        smoothing = Smoothing() if still else Smoothing.parse(self.settings.smooth)
        for part in smoothed(self._judged(), self.layout, smoothing):
            yield self.layout.decide(part, self.model.thresholds, self.abstain)

    def _judged(self) -> Iterator[pa.Table]:
        """Raw rows with their signals."""
        if not self.temporal:
            return self.parts.read()
        return self.parts.changed(lambda rows: over_time(rows, self.model, self.layout), self.layout.raw_schema)

    @property
    def _explanations(self) -> Path:
        return self.out / f"{self.input.name}_explained"

    def _explain(self) -> Explained | None:
        """Position and face -> what the table says of its explanation; None if none are wanted."""
        if not self.settings.explain or self.explaining is None:
            return None
        every: Literal["frame", "second"] = "frame" if self.input.kind == "stills" else "second"
        return self.explaining.run(self._again(), self.rows(), self._explanations, self.settings.to_dict(), every)

    def _again(self) -> Iterator[tuple[str, Frame]]:
        """The frames that were read, once more; of a camera those that were kept."""
        if self.input.kind == "camera" and self.recording.is_file():
            return ((self.input.title, frame) for frame in open_media(self.recording).frames())
        return self.input.frames(None if self.input.kind == "stills" else self.settings.fps)

    def _annotate(self) -> str | None:
        """Name of the annotated clip, or folder of annotated stills; None if nothing could be read."""
        from honne.analysis.video import annotate_clip, annotate_stills

        caption = f"model {self.model.name}"
        if self.input.kind == "stills":
            target = self.out / f"{self.input.name}_annotated"
            with writing(target):
                some = annotate_stills(self._again(), self.rows(), target, self.layout, caption)
            return target.name if some else None
        target = self.out / f"{self.input.name}_annotated.mp4"
        with writing(target), replacing(target) as path:
            some = annotate_clip(self._again(), self.rows(), path, self.layout, caption)
            path.touch()
        if not some:
            target.unlink()
        return target.name if some else None

    def _timeline(self) -> str | None:
        """Name of the picture of each face over time; None for stills, or if there was no face."""
        from honne.analysis.timeline import Timeline

        if self.input.kind == "stills":
            return None
        timeline = Timeline(self.parts.read([POSITION, "time", "face"]), self.layout)
        if not timeline.faces:
            return None
        target = self.out / f"{self.input.name}_timeline.png"
        with writing(target), replacing(target) as path:
            timeline.fill(self.rows())
            timeline.draw(path, Path(self.input.title).name, f"model {self.model.name}")
        return target.name


class _Counted:
    """Counts rows by status while they pass."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.failures: list[str] = []

    def watch(self, parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
        for part in parts:
            statuses = part["status"].to_pylist()
            self.statuses.update(statuses)
            if "error" in statuses:
                messages = part["message"].to_pylist()
                found = (message for status, message in zip(statuses, messages, strict=True) if status == "error")
                self.failures += list(found)[: SHOWN_FAILURES - len(self.failures)]
            yield part


@contextmanager
def _ctrl_c_ends(frames: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """A camera has no last frame: Ctrl-C makes the next one the last."""
    if threading.current_thread() is not threading.main_thread():
        yield frames
        return
    stop = threading.Event()
    usual = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield takewhile(lambda _: not stop.is_set(), frames)
    finally:
        signal.signal(signal.SIGINT, usual)


def run_local(tasks: list[Task], batch_size: int, watch: Callable[[Input], Callable[[int], None]]) -> Iterator[Done]:
    """Analyse one input after the other.

    Args:
        tasks: what is not finished yet.
        batch_size: faces per call of the model.
        watch: called with every input begun; gives what to call with the number of frames done.
    """
    if not tasks:
        return
    first = tasks[0]
    with Analyst(first.model, first.settings.finder, batch_size, first.layout) as analyst:
        for task in tasks:
            task.begin()
            advance = watch(task.input)
            for number in task.missing():
                task.read(number, analyst, advance)
            yield task.finish()
