"""Analysis: stills, folders, videos and cameras -> one table each, of predicted apparent expression."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from honne.errors import HonneError, WrongCall

if TYPE_CHECKING:
    import pandas as pd

    from honne.analysis.explaining import Explaining
    from honne.analysis.inputs import Input
    from honne.analysis.run import Done
    from honne.analysis.settings import Settings
    from honne.analysis.utterances import Clips
    from honne.models import Model

log = logging.getLogger("honne")

ALL_DONE, SOME_FAILED = 0, 3
SHOWN_ROWS = 20
EXPLAINED = ("attention_au", "au_agreement")


@dataclass
class Report:
    """What an analysis left in its folder.

    Attributes:
        out: the folder.
        done: every input with its table, its rows by status and its failures, in the order of the inputs.
    """

    out: Path
    done: list[Done]

    @property
    def failed(self) -> list[Done]:
        """Inputs of which something could not be read."""
        return [each for each in self.done if each.failures]


def analyze(
    inputs: list[str],
    *,
    model: str = "default",
    out: Path | None = None,
    format: Literal["parquet", "csv", "jsonl"] = "parquet",
    fps: float | None = None,
    video: bool = False,
    timeline: bool = False,
    explain: bool = False,
    finder: str = "mediapipe",
    smooth: str = "none",
    baseline: str = "none",
    names: Literal["honne", "openface"] = "honne",
    engine: Literal["local", "ray"] = "local",
    abstain: float | None = None,
    modalities: str | None = None,
    transcript: Path | None = None,
    segment: float | None = None,
    features: dict[str, str] | None = None,
    batch_size: int = 32,
    overwrite: bool = False,
) -> pd.DataFrame | Report:
    """Predict the apparent expressions of the faces in stills, folders, videos or a camera.

    One row per source, time and face; a frame without a face is a row too. Every video and every still becomes a table
    of its own, OUT/NAME.parquet, and so do the stills of a folder together. OUT/NAME.json says how it was made.
    Running the same command again goes on where it was interrupted and skips what is finished.

    A model of several modalities judges utterances of clips by what is heard, seen and said, one row each: the captions
    of CLIP.srt or CLIP.vtt beside the clip, else the whole clip (with the text of CLIP.txt, if that is there).

    Args:
        inputs: pictures, videos, folders, or camera:0 (Ctrl-C ends a camera).
        model: name or folder of a model; in Python also a loaded one.
        out: folder for the tables; without it the table is shown (in Python: returned) and nothing is kept.
        format: of the tables: parquet, csv or jsonl.
        fps: frames per second of media time to analyse at most; unset takes all.
        video: also write OUT/NAME_annotated.mp4 with boxes and what the model says of each face drawn in.
        timeline: of videos also draw OUT/NAME_timeline.png: what the model says of each face over time.
        explain: also show where the model looks: OUT/NAME_explained has a picture of every face of stills, and of
            videos of every face once a second; adds the columns attention_au and au_agreement.
        finder: what finds faces: mediapipe, tasks:FILE, yunet:FILE, table:FILE (known boxes or landmarks) or cropped.
        smooth: smoothing along each face's track: median:5, mean:50 (frames), exponential:0.3 (weight) or none.
        baseline: each face's own baseline: first:10s or first:250frames of its track, or none; corrected columns are
            added, raw ones stay.
        names: column names: honne's, or those of OpenFace 2 where it has the column.
        engine: local, or ray for many inputs on many machines.
        abstain: uncertainty (0..1) above which a row's status is abstained; unset takes the model's own.
        modalities: of models of several modalities: what to go by, as audio,vision; the others count as absent. Unset
            takes all.
        transcript: likewise: what is said in the one clip, a .srt, .vtt or .txt file; unset takes what lies beside it.
        segment: likewise: judge pieces of so many seconds in place of captions or the whole clip.
        features: likewise: where the models and files are that the features are made with, where honne does not carry
            them, as --features.text glove:FILE or --features.vision FOLDER.
        batch_size: faces per call of the model, in steps of 32; does not change results.
        overwrite: replace results of other inputs, models or settings in OUT.

    Returns:
        The table without `out`; with it a `Report` of what was written.

    Raises:
        HonneError: the model cannot be loaded, OUT cannot be written, or holds other results.
        WrongCall: options that make no sense.
    """
    from honne.analysis.settings import Settings

    paths = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    settings = Settings(
        format, fps, video, finder, smooth, baseline, names, abstain, explain, timeline, modalities, segment
    )
    if batch_size < 1:
        raise WrongCall(f"batch_size must be at least 1, not {batch_size}.")
    if engine not in ("local", "ray"):
        raise WrongCall(f"engine: '{engine}' is not one of local, ray.")
    analyst = loaded(model, finder)
    clips = _clips(analyst, settings, engine, transcript, features)
    if out is not None:
        with _explaining(analyst, settings, "drawn") as explaining:
            return _write(paths, analyst, Path(out), settings, engine, batch_size, overwrite, explaining, clips)
    for option, chosen in (("--video", video), ("--timeline", timeline), ("--engine ray", engine == "ray")):
        if chosen:
            raise WrongCall(f"{option} needs --out.", "Name a folder for the results.")
    return _in_memory(paths, analyst, settings, batch_size, clips)


@functools.wraps(analyze)
def command(*arguments: Any, **options: Any) -> int:
    """`analyze` for the command line: shows what came out, returns the exit status."""
    from honne.console import say, table

    result = analyze(*arguments, **options)
    if not isinstance(result, Report):
        _show(result)
        return SOME_FAILED if (result["status"] == "error").any() else ALL_DONE
    rows = [(Path(each.title).name, each.table.name, sum(each.counts.values()), _counts(each)) for each in result.done]
    say(table(f"Tables in {result.out}", ("input", "table", "rows", "of which"), rows))
    for each in result.failed:
        more = each.counts.get("error", 0) - len(each.failures)
        say("\n".join([f"failed: {failure}" for failure in each.failures] + [f"... and {more} more"] * (more > 0)))
    return SOME_FAILED if result.failed else ALL_DONE


def loaded(model: str | Model, finder: str) -> Model:
    """The model that a user named, ready to look at faces that the finder finds.

    Raises:
        HonneError: it cannot be loaded, or predicts nothing.
    """
    if isinstance(model, (str, Path)):
        from honne.models import device, load

        model = load(model, device())
    model.require_labels()
    if not getattr(model, "modalities", ()) and model.alignment.kind == "none" and finder != "cropped":
        log.warning(
            "Model '%s' was trained on pictures that were faces already, and how they were cropped is not recorded: it "
            "gets the whole picture. For pictures of faces add --finder cropped.",
            model.name,
        )
    return model


def _clips(
    model: Model, settings: Settings, engine: str, transcript: Path | None, features: dict[str, str] | None
) -> Clips | None:
    """What a model of several modalities needs beside its settings; None of a model of faces.

    Raises:
        HonneError: the model needs features that honne does not make.
        WrongCall: options that make no sense with this model.
    """
    if getattr(model, "modalities", ()):
        from honne.analysis.utterances import Clips

        return Clips(model, settings, engine, transcript, features or {})
    given = {"modalities": settings.modalities, "segment": settings.segment, "transcript": transcript}
    for option, value in (given | {"features": features}).items():
        if value is not None:
            raise WrongCall(
                f"--{option} is for models of several modalities; '{model.name}' judges single faces.",
                f"Leave --{option} out.",
            )
    return None


def _explaining(
    model: Model, settings: Settings, pictures: Literal["drawn", "figures"]
) -> AbstractContextManager[Explaining | None]:
    if not settings.explain:
        return nullcontext()
    if model.length:
        raise HonneError(
            f"Model '{model.name}' judges a face by the frames around it, which no map of a single frame explains.",
            "Leave --explain out, or explain the model of single frames that it was trained from.",
        )
    from honne.analysis.explaining import Explaining

    return Explaining(model, settings.finder, pictures)


def _write(
    paths: list[str],
    model: Model,
    out: Path,
    settings: Settings,
    engine: str,
    batch_size: int,
    overwrite: bool,
    explaining: Explaining | None,
    clips: Clips | None,
) -> Report:
    from honne.analysis.inputs import plan
    from honne.analysis.run import Task, run_local

    if clips is not None:
        tasks = clips.tasks(paths, out)
    else:
        tasks = [Task(each, model, settings, out, explaining) for each in plan(paths)]
    done = {task.input.title: finished for task in tasks if (finished := task.finished())}
    for task in tasks:
        if task.input.title in done:
            task.parts.remove()  # there only if a run was stopped while it tidied up
    open_tasks = [task for task in tasks if task.input.title not in done]
    if not overwrite:
        for task in open_tasks:
            task.require_free()
    run = run_local if clips is None else clips.run
    if engine == "ray":
        from honne.analysis.cluster import run_ray as run
    with _progress(len(open_tasks)) as watch:
        try:
            for each in run(open_tasks, batch_size, watch):
                done[each.title] = each
        except KeyboardInterrupt:
            raise KeyboardInterrupt("interrupted; run the same command again to go on") from None
    return Report(out, [done[task.input.title] for task in tasks])


def _in_memory(
    paths: list[str], model: Model, settings: Settings, batch_size: int, clips: Clips | None
) -> pd.DataFrame:
    """The tables of all inputs as one DataFrame, by way of a folder that is thrown away."""
    from dataclasses import replace

    import pyarrow as pa
    import pyarrow.parquet as pq

    from honne.analysis.table import to_pandas

    with TemporaryDirectory(prefix="honne-") as folder, _explaining(model, settings, "figures") as explaining:
        written = replace(settings, format="parquet")
        report = _write(paths, model, Path(folder), written, "local", batch_size, False, explaining, clips)
        return to_pandas(pa.concat_tables([pq.read_table(each.table) for each in report.done]))


@contextmanager
def _progress(inputs: int) -> Iterator[Callable[[Input], Callable[[int], None]]]:
    """Progress on stderr: inputs, and frames of the one being read."""
    from honne.console import progress
    from honne.faces.media import open_media

    with progress() as bar:
        whole = bar.add_task("inputs", total=inputs)
        frames = bar.add_task("frames", total=None, visible=False)
        begun = 0

        def watch(each: Input) -> Callable[[int], None]:
            nonlocal begun
            try:
                total = open_media(each.sources[0]).length if each.kind == "video" else len(each.sources)
            except HonneError:
                total = None
            bar.update(whole, completed=begun)
            bar.reset(frames, description=Path(each.title).name, total=total, visible=True)
            begun += 1
            if each.kind == "stills":
                return lambda frame: bar.advance(frames)
            return lambda frame: bar.update(frames, completed=frame)

        yield watch
        bar.update(whole, completed=begun)


def _show(rows: pd.DataFrame) -> None:
    """The columns that a person looks at first, of the first rows."""
    from honne.analysis.table import OUTPUTS_ARE
    from honne.console import say, table

    shown = rows.head(SHOWN_ROWS).assign(source=lambda each: each["source"].map(lambda source: Path(source).name))
    wanted = (
        "source",
        "time",
        "duration",
        "face",
        "status",
        "modalities",
        "expression",
        "uncertainty",
        "valence",
        "arousal",
        *(str(name) for name in shown if str(name).startswith("emotion_")),
        "sentiment",
        *EXPLAINED,
        "message",
    )
    columns = [name for name in wanted if name in shown and shown[name].notna().any()]
    if not rows["time"].any():
        columns.remove("time")
    cells = [[_cell(row[name]) for name in columns] for row in shown.to_dict("records")]
    say(table(OUTPUTS_ARE[0].upper() + OUTPUTS_ARE[1:], columns, cells))
    if len(rows) > SHOWN_ROWS:
        say(f"... {len(rows) - SHOWN_ROWS} more rows; --out DIR keeps them all, with every column.")


def _cell(value: Any) -> str:
    import pandas as pd

    return "" if pd.isna(value) else f"{value:.2f}" if isinstance(value, float) else str(value)


def _counts(each: Done) -> str:
    return ", ".join(f"{count} {status}" for status, count in each.counts.items())
