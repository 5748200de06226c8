"""What IERN costs: a training step and a prediction as ratios to those of plain training of the same backbone.

    python benchmarks/iern.py [--strata 3] [--format contiguous] [--rounds 9] [--threads 2]

ResNet-50, 6 classes, 224 px, batch 8, random images. "as released" is the original's way with the same networks: one
graph through everything, the decoder once per stratum on concatenated features. All variants take turns in one process,
in alternating order; a figure is the median of the ratios within a round, of wall time and of processor time (which
other jobs on the machine disturb less). All take the same fused Adam and the same memory format. Operations are counted
by PyTorch (convolutions and matrix products). Nothing is logged on either side.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal

import torch
from timing import operations, timed
from torch import Tensor, nn
from torch.nn import functional as F

from honne.batch import Batch, Labels
from honne.console import say, table
from honne.data.transforms import Normalise
from honne.labels import LabelSchema
from honne.methods.base import Method
from honne.methods.erm import Erm, ErmOptions
from honne.methods.iern import Iern, IernOptions, center_loss, confusion_loss
from honne.methods.strata import Strata
from honne.networks.face import FaceNetwork
from honne.schedules import OptimOptions, optimizer

CLASSES = 6
Format = Literal["channels_last", "contiguous"]
OPTIM = OptimOptions("adam", lr=1e-4, head_lr=2e-4, weight_decay=0.0, beta1=0.5, clip=0.0)


class Alone(Iern):
    """The method without a Trainer around it."""

    chosen: list[Any]

    def start(self) -> None:
        """Make its optimisers."""
        self._trainer = SimpleNamespace(precision="32-true", current_epoch=0, global_step=0)  # type: ignore[assignment]
        first, second, third = self.configure_optimizers()[0]
        self.chosen = [SimpleNamespace(optimizer=first), SimpleNamespace(optimizer=second), third]

    def optimizers(self, *_: Any) -> Any:
        return self.chosen

    def lr_schedulers(self) -> Any:
        return []

    def log_dict(self, *_: Any, **__: Any) -> None:
        return None


def shared(backbone: str, size: int, strata: int, layout: Format) -> dict[str, Any]:
    """Arguments of a method; no strata: with a linear head."""
    torch.manual_seed(0)
    schema = LabelSchema(tuple(f"class {i}" for i in range(CLASSES)))
    side = FaceNetwork(LabelSchema(), backbone).eval().maps(torch.empty(1, 3, size, size)).shape[2:]
    head = {"strata": [f"stratum {i}" for i in range(strata)], "side": list(side)}
    network = FaceNetwork(
        schema, backbone, head="interventional" if strata else "linear", head_options=head if strata else None
    )
    normalise = Normalise([0.5] * 3, [0.5] * 3, channels_last=layout == "channels_last")
    return {"network": network, "schema": schema, "normalise": normalise, "optim": OPTIM}


def laid_out(method: Method, layout: Format) -> None:
    """Put all weights into a memory format."""
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    method.to(memory_format=wanted)


def plain(backbone: str, size: int, layout: Format) -> Erm:
    """Plain training."""
    made = Erm(ErmOptions(), **shared(backbone, size, 0, layout)).train()
    laid_out(made, layout)
    return made


def iern(backbone: str, size: int, strata: int, layout: Format) -> Alone:
    """IERN with its optimisers."""
    names = tuple(f"stratum {i}" for i in range(strata))
    found = Strata(names, torch.arange(strata), torch.ones(CLASSES, strata))
    made = Alone(IernOptions(), strata=found, **shared(backbone, size, strata, layout)).train()
    laid_out(made, layout)
    made.start()
    return made


def plain_step(method: Erm, batch: Batch) -> Callable[[], None]:
    """One training step, from uint8 images to changed weights."""
    chosen = optimizer(method, method.optim, backbone=method.backbone)

    def run() -> None:
        total = torch.stack(list(method.loss(method.normalised(batch)).values())).sum()
        chosen.zero_grad()
        total.backward()
        chosen.step()

    return run


def released_logits(method: Iern, emotion: Tensor) -> Tensor:
    """(B, C) mean over the strata, one after the other."""
    head, logits = method.head, []
    for prototype in head.prototypes:
        decoded = head.decoder(emotion, prototype.expand(len(emotion), -1, -1, -1))
        logits.append(head.classifier(decoded.mean((2, 3))))
    return torch.stack(logits).mean(0)


def released_step(method: Iern, batch: Batch) -> Callable[[], None]:
    """One training step as released, where optimisers change weights without autograd's knowledge."""
    head, options = method.head, method.options
    dis = nn.ModuleList([method.emotion_discriminator, method.stratum_discriminator])
    features = [head.emotion, method.context, nn.ParameterList([method.centers]), head.decoder]
    learner = nn.ModuleDict(
        {"backbone": nn.ModuleList([method.network.backbone, head.projection])}
        | {"emotion": head.emotion, "classifier": head.classifier}
    )
    discriminators, first, last = (optimizer(parts, method.optim) for parts in (dis, nn.ModuleList(features), learner))
    still = optimizer(head.decoder, replace(method.optim, lr=0.0, head_lr=0.0))
    emotions, strata = batch.labels.expression, batch.domain
    assert emotions is not None
    assert strata is not None

    def run() -> None:
        images = method.normalised(batch).images
        assert images is not None
        base = head.projection(method.network.maps(images))
        emotion, context = head.emotion(base), method.context(base)
        rebuilt = head.decoder(emotion, context)

        dis.requires_grad_(True)
        discriminators.zero_grad()
        own = F.cross_entropy(method.emotion_discriminator(emotion.detach()), emotions)
        own = own + F.cross_entropy(method.stratum_discriminator(context.detach()), strata)
        (own / 2).backward()
        discriminators.step()

        dis.requires_grad_(False)
        first.zero_grad()
        hidden = confusion_loss(method.stratum_discriminator(emotion))
        hidden = hidden + confusion_loss(method.emotion_discriminator(context))
        pull = options.center_weight * center_loss(context, method.centers, strata)
        (hidden / 2 + pull + F.mse_loss(rebuilt, base)).backward(retain_graph=True)
        assert method.centers.grad is not None
        method.centers.grad /= options.center_weight
        with torch.autograd._unsafe_preserve_version_counter(tuple(method.parameters())):
            first.step()

        head.prototypes.copy_(method.centers.detach().view_as(head.prototypes))
        loss = F.cross_entropy(released_logits(method, emotion), emotions)
        last.zero_grad()
        still.zero_grad()
        loss.backward()
        last.step()
        still.step()

    return run


def prediction(method: Method, batch: Batch) -> Callable[[], None]:
    """Logits of uint8 images."""

    @torch.inference_mode()
    def run() -> None:
        method.predict(batch)

    return run


def released_prediction(method: Iern, batch: Batch) -> Callable[[], None]:
    """The same as released."""

    @torch.inference_mode()
    def run() -> None:
        images = method.normalised(batch).images
        assert images is not None
        released_logits(method, method.head.encode(method.network.maps(images)))

    return run


def compared(title: str, runs: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print a table of ratios to the first."""
    counted = {name: operations(run) for name, run in runs.items()}
    ratios = timed(runs, rounds)
    least = next(iter(counted.values()))
    rows = [
        (name, f"{counted[name]:.1f}", f"{counted[name] / least:.3f}", *(f"{ratio:.3f}" for ratio in ratios[name]))
        for name in runs
    ]
    say(table(title, ("", "GFLOP", "operations", "wall", "processor"), rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--strata", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--format", choices=("channels_last", "contiguous"), default="channels_last")
    parser.add_argument("--part", choices=("all", "step", "prediction"), default="all")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count, size, strata = arguments.batch, arguments.size, arguments.strata
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    labels = Labels(expression=torch.arange(count) % CLASSES)
    batch = Batch(images=images, labels=labels, domain=torch.arange(count) % strata)
    setting = arguments.backbone, size, strata, arguments.format
    where = f"{arguments.backbone}, {size} px, {strata} strata, {arguments.format}, times plain"
    erm, method, other = plain(setting[0], size, arguments.format), iern(*setting), iern(*setting)
    if arguments.part != "prediction":
        runs: dict[str, Callable[[], object]] = {
            "plain": plain_step(erm, batch),
            "iern": lambda: method.training_step(batch, 0),
            "as released": released_step(other, batch),
        }
        compared(f"Training step, batch {count}, {where}", runs, arguments.rounds)
    if arguments.part != "step":
        for each in (erm, method, other):
            each.eval()
        for faces in (count, 1):
            shown = Batch(images=images[:faces])
            runs = {
                "plain": prediction(erm, shown),
                "iern": prediction(method, shown),
                "as released": released_prediction(other, shown),
            }
            runs["iern"]()  # from here on it knows what its prototypes come to
            compared(f"Prediction, batch {faces}, {where}", runs, arguments.rounds * 3)


if __name__ == "__main__":
    main()
