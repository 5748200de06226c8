"""What multitask costs: steps, memory, cached frames, samplers and loading, each beside its bar.

    python benchmarks/multitask.py [--part steps] [--rounds 5] [--threads 2] [--out FIGURES.json] [--quick]

ResNet-50 of the Caffe kind, heads with 128 hidden units, 20 bins, random images of 112 px, 24 for each of three tasks.

- steps: teacher and student beside plain training of one linear head by cross-entropy: the same backbone, three batches
  of 24, three backward passes and one step of the optimiser (one batch of 72 is slower on a CPU and would flatter).
  Steps take turns in one process, in alternating order; a figure is the median of the ratios within a round, of wall
  time; that of processor time, which other jobs disturb less, stands beside it, and that of the operations
  (convolutions and matrix products, counted by PyTorch). Both sides take the same fused Adam and memory format.
- memory: activations kept for the backward pass, at the most, as a ratio to one graph over all three parts: counted
  exactly; and the peak of a fresh process above what it holds with model and optimiser (gradients count there too).
- clips: an epoch of a GRU over frames of a frozen network, which are cached, as a ratio to one that runs the frozen
  network in training mode, as the released code does; 2 windows of 32 frames for each task, images loaded. The first
  epoch, which fills the cache, has no bar.
- samplers: see samplers.py; ms, least of the repeats.
- loading: decoded 112 px JPEGs of a prepared data set per second of one core's processor time, without changes and as
  the published recipe has them; see loading.py.

--quick only shows that all runs: a small network, small images, few rows.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from dmue import memory as process_memory
from loading import make, rate, textured
from samplers import LIMITS, cases, ms
from saved_tensors import Saved
from timing import operations, timed
from torch import nn

from honne.batch import NOT_LABELLED, Batch, Labels
from honne.console import say, table
from honne.data.loading import DataModule
from honne.data.manifest import DataSchema, ImageWriter, PreparedData, replacing, write_manifest
from honne.data.transforms import Augment, Normalise
from honne.labels import LabelSchema
from honne.methods.erm import Erm, ErmOptions
from honne.methods.frame_cache import CACHED, cache_frames
from honne.methods.multitask import Multitask, MultitaskOptions
from honne.models import Model, ModelConfig
from honne.networks.clips import ClipNetwork
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions, optimizer

UNITS = (1, 2, 4, 6, 12, 15, 20, 25)
SCHEMA = LabelSchema(tuple(f"class {i}" for i in range(7)), UNITS, valence_arousal=True)
OPTIM = OptimOptions("adam", lr=1e-4, weight_decay=0.0, beta1=0.5, schedule="constant", clip=0.0)
MEAN, STD = [0.5] * 3, [0.5] * 3
FORMATS = ("contiguous", "channels_last")
PARTS = ("steps", "memory", "clips", "samplers", "loading")
PUBLISHED = replace(Augment.none(), flip=0.5, crop=(0.6985965694, 0.6985965694))
"""Of the published recipe: 112 of 134 px, left or right."""


@dataclass
class Setting:
    """How large all is."""

    backbone: str = "resnet50_caffe"
    hidden: int = 128
    bins: int = 20
    size: int = 112
    rows: int = 24
    clips: int = 2
    frames: int = 32
    sampled: int = 500_000
    images: int = 400
    repeats: int = 7


QUICK = Setting("face_resnet", 16, 20, 32, 8, 2, 4, 20_000, 60, 2)


@dataclass
class Figure:
    """One line of the table."""

    name: str
    value: float
    bar: float | None
    unit: str = "ratio"
    at_least: bool = False
    beside: str = ""

    def line(self) -> tuple[str, ...]:
        """Its cells."""
        digits = 3 if self.unit == "ratio" else 0 if self.at_least else 1
        if self.bar is None:
            bar, met = "", ""
        else:
            bar = f"{'>=' if self.at_least else '<='} {self.bar:,g}"
            met = "yes" if (self.value >= self.bar if self.at_least else self.value <= self.bar) else "NO"
        return self.name, f"{self.value:,.{digits}f}", self.unit, bar, met, self.beside


# --- methods ------------------------------------------------------------------------------------------------------


class Alone(Multitask):
    """The method without a Trainer around it."""

    chosen: Any

    def start(self) -> None:
        """Make the optimiser."""
        self._trainer = SimpleNamespace(precision="32-true", world_size=1, current_epoch=0, global_step=0)  # type: ignore[assignment]
        self.chosen = optimizer(self, self.optim, backbone=self.backbone)
        self.on_fit_start()
        self.train()

    def optimizers(self, *_: Any) -> Any:
        return self.chosen

    def lr_schedulers(self) -> Any:
        return SimpleNamespace(step=lambda: None)

    def log_dict(self, *_: Any, **__: Any) -> None:
        return None


def face(setting: Setting) -> FaceNetwork:
    """The network of single images."""
    return FaceNetwork(SCHEMA, setting.backbone, hidden=setting.hidden, valence_arousal_bins=setting.bins)


def shared(network: nn.Module, schema: LabelSchema, layout: str) -> dict[str, Any]:
    """Arguments of a method, its network laid out."""
    last = layout == "channels_last"
    network.to(memory_format=torch.channels_last if last else torch.contiguous_format)  # type: ignore[call-overload]
    normalise = Normalise(MEAN, STD, channels_last=last)
    return {"network": network, "schema": schema, "normalise": normalise, "optim": OPTIM}


def plain(setting: Setting, layout: str) -> Erm:
    """Plain training of expressions."""
    schema = LabelSchema(SCHEMA.expressions)
    return Erm(ErmOptions(), **shared(FaceNetwork(schema, setting.backbone), schema, layout)).train()


def multitask(setting: Setting, layout: str, network: nn.Module | None = None, teacher: Path | None = None) -> Alone:
    """A teacher, or where it is given one a student."""
    options = MultitaskOptions(stage="student" if teacher else "teacher", teacher=teacher)
    made = Alone(options, parts=3, **shared(network or face(setting), SCHEMA, layout))
    made.start()
    return made


def stored(setting: Setting, folder: Path) -> Path:
    """The folder of a teacher."""
    options = {"backbone": setting.backbone, "hidden": setting.hidden, "valence_arousal_bins": setting.bins}
    config = ModelConfig("teacher", "multitask", {"kind": "face", "options": options}, SCHEMA, MEAN, STD, {})
    return Model(config, face(setting)).save(folder, metrics={}, card="")


def batch_of(rows: int, size: int) -> Batch:
    """Images with labels of one task each, task after task."""
    images = torch.randint(0, 256, (3 * rows, 3, size, size), dtype=torch.uint8)
    expression = torch.full((3 * rows,), NOT_LABELLED)
    expression[:rows] = torch.arange(rows) % 7
    units, affect = torch.full((3 * rows, len(UNITS)), torch.nan), torch.full((3 * rows, 2), torch.nan)
    units[rows : 2 * rows] = torch.randint(0, 2, (rows, len(UNITS))).float()
    affect[2 * rows :] = torch.rand(rows, 2) * 2 - 1
    return Batch(images=images, labels=Labels(expression, action_units=units, valence_arousal=affect))


# --- steps --------------------------------------------------------------------------------------------------------


def plain_step(method: Erm, batch: Batch) -> Callable[[], None]:
    """Three parts, three backward passes, one step of the optimiser, from uint8 images to changed weights."""
    chosen = optimizer(method, method.optim, backbone=method.backbone)
    rows = len(batch) // 3
    labels = Labels(torch.arange(rows) % 7)
    parts = [replace(part, labels=labels) for part in batch.parts(3)]

    def run() -> None:
        chosen.zero_grad()
        for part in parts:
            torch.stack(list(method.loss(method.normalised(part)).values())).sum().backward()
        chosen.step()

    return run


def whole_step(method: Alone, batch: Batch) -> Callable[[], None]:
    """The method's step with one graph over all parts, as released."""

    def run() -> None:
        terms = [method.terms(method.prepared(part)) for part in batch.parts(3)]
        losses = [value for part in terms for value in part.values() if value.requires_grad]
        method.chosen.zero_grad()
        torch.stack(losses).sum().backward()
        method.chosen.step()

    return run


def steps(setting: Setting, rounds: int, folder: Path) -> list[Figure]:
    """Teacher and student beside plain training."""
    found, batch = [], batch_of(setting.rows, setting.size)
    teacher = stored(setting, folder)
    for layout in FORMATS:
        learners = {"teacher": multitask(setting, layout), "student": multitask(setting, layout, teacher=teacher)}
        runs: dict[str, Callable[[], object]] = {"plain": plain_step(plain(setting, layout), batch)}
        for name, method in learners.items():
            runs[name] = lambda method=method: method.training_step(batch, 0)
        counted = {name: operations(run) for name, run in runs.items()}
        ratios = timed(runs, rounds)
        for name, bar in (("teacher", 1.03), ("student", 1.32)):
            beside = f"processor {ratios[name][1]:.3f}, operations {counted[name] / counted['plain']:.3f}"
            found.append(Figure(f"{name} step, {layout}", ratios[name][0], bar, beside=beside))
    return found


# --- memory -------------------------------------------------------------------------------------------------------


def both_ways(method: Alone, batch: Batch) -> dict[str, Callable[[], object]]:
    """Our step, and the one over one graph."""
    return {"part by part": lambda: method.training_step(batch, 0), "one graph": whole_step(method, batch)}


def own_peak(setting: Setting, way: str, teacher: Path | None) -> float:
    """MB at the peak of a step above what this process holds after a small one."""
    method = multitask(setting, "contiguous", teacher=teacher)
    both_ways(method, batch_of(2, setting.size))[way]()
    before = process_memory("VmRSS")
    both_ways(method, batch_of(setting.rows, setting.size))[way]()
    return process_memory("VmHWM") - before


def memory(setting: Setting, arguments: argparse.Namespace, folder: Path) -> list[Figure]:
    """Activations and peak, part by part as a ratio to one graph."""
    found, batch, teacher = [], batch_of(setting.rows, setting.size), stored(setting, folder)
    for name in ("teacher", "student"):
        method = multitask(setting, "contiguous", teacher=teacher if name == "student" else None)
        kept = {way: Saved(method).of(run) / 2**20 for way, run in both_ways(method, batch).items()}
        held: dict[str, float] = {}
        for way in kept:
            words = [sys.executable, __file__, "--threads", str(arguments.threads), "--memory-of", way]
            words += ["--quick"] * arguments.quick + ["--teacher", str(teacher)] * (name == "student")
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            held[way] = float(done.stdout)
        for kind, of in (("activations", kept), ("peak of a process", held)):
            ours, theirs = of["part by part"], of["one graph"]
            beside = f"{ours:,.0f} of {theirs:,.0f} MB"
            found.append(Figure(f"{name}, {kind}", ours / theirs, 0.6, beside=beside))
    return found


# --- clips --------------------------------------------------------------------------------------------------------


def videos(folder: Path, setting: Setting) -> PreparedData:
    """Videos of one window each, `setting.clips` with labels of each task."""
    generator, rows = np.random.default_rng(0), []
    nothing = {"expression": None, "au": None, "valence": None, "arousal": None}
    with ImageWriter(folder / "images") as images:
        for video in range(3 * setting.clips):
            for time in range(setting.frames):
                file = io.BytesIO()
                textured(generator, setting.size, 3).save(file, "JPEG", quality=85)
                row = {"id": f"{video}/{time}", "split": "train", "video": str(video), "time": float(time)}
                own: list[dict[str, Any]] = [
                    {"expression": SCHEMA.expressions[video % 7]},
                    {"au": generator.integers(0, 2, len(UNITS)).astype(float).tolist()},
                    dict(zip(("valence", "arousal"), generator.uniform(-1, 1, 2).tolist(), strict=True)),
                ]
                rows.append(row | nothing | own[video % 3] | {"image": images.add(file.getvalue())})
    frame = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]})
    write_manifest(folder, frame, DataSchema("made up", "benchmark", SCHEMA))
    return PreparedData(folder)


def clips(setting: Setting, rounds: int, folder: Path) -> list[Figure]:
    """Epochs over frames of a frozen network."""
    data = videos(folder / "data", setting)

    def module() -> DataModule:
        window = {"batch_size": setting.clips, "window": setting.frames}
        return DataModule(data, size=setting.size, sampling="tasks", **window)  # type: ignore[arg-type]

    def learner(frozen: Any) -> Alone:
        options = {"valence_arousal_bins": setting.bins, "frozen": frozen}
        return multitask(setting, "channels_last", ClipNetwork(SCHEMA, face(setting), setting.frames, **options))

    def epoch(method: Alone, shown: DataModule) -> None:
        for batch in shown.train_dataloader():
            method.training_step(batch, 0)

    seen, cached, running = learner("yes"), module(), module()
    again = learner("weights")

    def first() -> None:
        for path in folder.glob(CACHED.format("*")):
            path.unlink()
        assert isinstance(seen.network, ClipNetwork)
        cache_frames(seen.network, cached, seen.normalise, folder, torch.device("cpu"))
        epoch(seen, cached)

    first()
    ratios = timed(
        {
            "running": lambda: epoch(again, running),
            "first": first,
            "later": lambda: epoch(seen, cached),
        },
        min(rounds, 3),
    )
    return [
        Figure(f"{name} epoch, frozen frames", ratios[which][0], bar, beside=f"processor {ratios[which][1]:.3f}")
        for name, which, bar in (("cached", "later", 0.05), ("caching", "first", None))
    ]


# --- samplers and loading -----------------------------------------------------------------------------------------


def samplers(setting: Setting) -> list[Figure]:
    """Weights and draws."""
    runs, found = cases(setting.sampled), []
    times = [{name: ms(ours) for name, (ours, _) in runs.items()} for _ in range(setting.repeats + 1)][1:]
    for name, limit in LIMITS.items():
        took = [each[name] for each in times]
        beside = f"median {statistics.median(took):.1f}, {setting.sampled:,} rows"
        found.append(Figure(f"sampler: {name}", min(took), limit, "ms", beside=beside))
    return found


def loading(setting: Setting, folder: Path) -> list[Figure]:
    """Images per second of one core."""
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for name, stored_size, augment in (("as stored", 112, None), ("134 px, crop and flip", 134, PUBLISHED)):
        make(folder / name, stored_size, setting.images)
        loader = DataModule(PreparedData(folder / name), size=112, batch_size=24, augment=augment).train_dataloader()
        value = rate(lambda loader=loader: sum(map(len, loader)), setting.repeats)  # type: ignore[misc]
        bar = 4000 if augment is None else None
        found.append(Figure(f"loading 112 px, {name}", value, bar, "images/s", at_least=True))
    torch.set_num_threads(threads)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=5, help="of steps and epochs, after a warm-up (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="(default 2)")
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    parser.add_argument("--quick", action="store_true", help="all of it, small; the figures mean nothing")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--teacher", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    setting = QUICK if arguments.quick else Setting()
    if arguments.memory_of:
        sys.stdout.write(json.dumps(own_peak(setting, arguments.memory_of, arguments.teacher)))
        return
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as named:
        folder = Path(named)
        measure: dict[str, Callable[[], list[Figure]]] = {
            "steps": lambda: steps(setting, arguments.rounds, folder / "teacher"),
            "memory": lambda: memory(setting, arguments, folder / "teacher"),
            "clips": lambda: clips(setting, arguments.rounds, folder / "clips"),
            "samplers": lambda: samplers(setting),
            "loading": lambda: loading(setting, folder / "loading"),
        }
        for part in arguments.part or PARTS:
            found += measure[part]()
    where = f"{setting.backbone}, {setting.size} px, 3 x {setting.rows} images, {arguments.threads} threads"
    columns = ("multitask", "figure", "", "bar", "met", "beside it")
    say(table(f"{where}, torch {torch.__version__}", columns, [figure.line() for figure in found]))
    if arguments.out:
        with replacing(arguments.out) as path:
            record = {"setting": asdict(setting), "figures": [asdict(figure) for figure in found]}
            path.write_text(json.dumps(record, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
