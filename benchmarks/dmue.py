"""What DMUE costs: a training step, a prediction and peak memory as ratios to plain training of the same network.

    python benchmarks/dmue.py [--size 112 --batch 72] [--rounds 7] [--threads 2]

ResNet-18, 8 classes, random images. Steps of all variants are interleaved in one process in alternating order; a figure
is the median of the ratios within a round, of wall time and of processor time (which other jobs on the machine disturb
less). Both sides take the same fused Adam. Operations are counted by PyTorch (convolutions and matrix products). Peak
memory is that of a fresh process that runs two steps of one variant, less what it held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import operations, timed

from honne.batch import Batch, Labels
from honne.console import say, table
from honne.data.transforms import Normalise
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.methods.dmue import Dmue, DmueOptions
from honne.methods.erm import Erm, ErmOptions
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions, optimizer

CLASSES = 8
VARIANTS: dict[str, Any] = {
    "plain": ErmOptions(),
    "dmue, published form": DmueOptions(),
    "dmue, branch_depth block": DmueOptions(branch_depth="block"),
    "dmue, branch_depth head": DmueOptions(branch_depth="head"),
}


def method(variant: str, channels_last: bool) -> Method:
    """A variant with a fresh network."""
    torch.manual_seed(0)
    schema = LabelSchema(tuple(f"class {i}" for i in range(CLASSES)))
    network = FaceNetwork(schema, "resnet18", neck=variant != "plain", head_bias=False)
    if channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    options = VARIANTS[variant]
    kind = Erm if isinstance(options, ErmOptions) else Dmue
    normalise = Normalise([0.5] * 3, [0.5] * 3, channels_last=channels_last)
    optim = OptimOptions("adam", lr=1e-4, weight_decay=1e-4)
    return kind(options, network=network, schema=schema, normalise=normalise, optim=optim).train()


def step(trained: Method, batch: Batch) -> Callable[[], None]:
    """One training step, from uint8 images to changed weights."""
    chosen = optimizer(trained, trained.optim, backbone=trained.backbone)

    def run() -> None:
        total = torch.stack(list(trained.loss(trained.normalised(batch)).values())).sum()
        chosen.zero_grad()
        total.backward()
        chosen.step()

    return run


def memory(line: str) -> float:
    """MB of this process: VmRSS now, VmHWM at its peak (resource's figure would include the parent's)."""
    status = Path("/proc/self/status").read_text()
    return float(status.partition(f"{line}:")[2].split()[0]) / 1024


def peak(variant: str, arguments: argparse.Namespace) -> float:
    """MB above the imported libraries at the peak of two steps, in a process of its own."""
    words = [sys.executable, __file__, "--size", str(arguments.size), "--batch", str(arguments.batch)]
    words += ["--threads", str(arguments.threads), "--format", arguments.format, "--memory-of", variant]
    return float(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=112, help="px")
    parser.add_argument("--batch", type=int, default=72)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", choices=("contiguous", "channels_last"), default="contiguous")
    parser.add_argument("--memory-of", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = torch.randint(0, 256, (arguments.batch, 3, arguments.size, arguments.size), dtype=torch.uint8)
    batch = Batch(images=images, labels=Labels(expression=torch.arange(arguments.batch) % CLASSES))
    last = arguments.format == "channels_last"
    if arguments.memory_of:
        before = memory("VmRSS")
        run = step(method(arguments.memory_of, last), batch)
        run()
        run()
        sys.stdout.write(json.dumps(memory("VmHWM") - before))
        return
    methods = {name: method(name, last) for name in VARIANTS}
    steps = {name: step(trained, batch) for name, trained in methods.items()}
    counted = {name: operations(run) for name, run in steps.items()}
    ratios = timed(steps, arguments.rounds)
    peaks = {name: peak(name, arguments) for name in VARIANTS}
    rows = [
        (
            name,
            f"{counted[name] / counted['plain']:.2f}",
            f"{ratios[name][0]:.2f}",
            f"{ratios[name][1]:.2f}",
            f"{peaks[name]:.0f}",
            f"{peaks[name] / peaks['plain']:.2f}",
        )
        for name in VARIANTS
    ]
    title = f"Training step, {arguments.size} px, batch {arguments.batch}, {arguments.format}, times plain"
    say(table(title, ("", "operations", "wall", "processor", "peak MB", "peak"), rows))

    def prediction(trained: Method) -> Callable[[], None]:
        @torch.inference_mode()
        def run() -> None:
            trained.predict(batch)

        trained.eval()
        return run

    shown = {name: prediction(methods[name]) for name in ("plain", "dmue, published form")}
    ratios = timed(shown, arguments.rounds)
    counted = {name: operations(run) for name, run in shown.items()}
    rows = [
        (name, f"{counted[name] / counted['plain']:.2f}", *(f"{ratio:.2f}" for ratio in ratios[name])) for name in shown
    ]
    say(table("Validation and prediction, times plain", ("", "operations", "wall", "processor"), rows))


if __name__ == "__main__":
    main()
