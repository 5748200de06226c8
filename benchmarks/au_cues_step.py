"""What the alignment loss costs: a training step with it as a ratio to one without, drawing the heat maps included.

    python benchmarks/au_cues_step.py [--backbone resnet50 --size 224 --batch 16] [--rounds 7] [--threads 2]

Random images and faces. Steps take turns in one process; a figure is the median of the ratios within a round, of wall
time and of processor time (which other jobs on the machine disturb less). All sides take the same fused Adam.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import timed

from honne.batch import Batch, Labels
from honne.console import say, table
from honne.data.transforms import Normalise
from honne.data.world.labels import sample
from honne.data.world.options import World
from honne.labels import LabelSchema, expression_set
from honne.methods.au_cues import AuCues, AuCuesOptions
from honne.methods.base import Method
from honne.methods.erm import Erm, ErmOptions
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions, optimizer

VARIANTS = {
    "plain": AuCuesOptions(),
    "one layer": AuCuesOptions(weight=9, layers="5"),
    "all five layers": AuCuesOptions(weight=9, layers="1-2-3-4-5"),
}


def method(options: AuCuesOptions, backbone: str) -> Method:
    """Plain training with or without the loss."""
    torch.manual_seed(0)
    schema = LabelSchema(expression_set("au_cues").expressions)
    network = FaceNetwork(schema, backbone).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Erm(
        ErmOptions(),
        network=network,
        schema=schema,
        normalise=Normalise([0.5] * 3, [0.5] * 3, channels_last=True),
        optim=OptimOptions("adam", lr=1e-4, weight_decay=1e-4),
        au_cues=AuCues(options, schema) if options.on else None,
    ).train()


def step(trained: Method, batch: Batch) -> Callable[[], None]:
    """One training step, from uint8 images and landmarks to changed weights."""
    chosen = optimizer(trained, trained.optim, backbone=trained.backbone)

    def run() -> None:
        total = torch.stack(list(trained.terms(trained.prepared(batch)).values())).sum()
        chosen.zero_grad()
        total.backward()
        chosen.step()

    return run


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, size = arguments.batch, arguments.size
    landmarks = torch.from_numpy(sample(World(n=count, size=size)).points[:, :68]).float()
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    batch = Batch(images=images, labels=Labels(expression=torch.arange(count) % 6 + 1), landmarks=landmarks)
    steps = {name: step(method(options, arguments.backbone), batch) for name, options in VARIANTS.items()}
    ratios = timed(steps, arguments.rounds)
    rows = [(name, *(f"{ratio:.3f}" for ratio in ratios[name])) for name in steps]
    title = f"Training step, {arguments.backbone}, {size} px, batch {count}, times plain"
    say(table(title, ("alignment", "wall", "processor"), rows))


if __name__ == "__main__":
    main()
