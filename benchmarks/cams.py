"""What class activation maps cost, in bare forward passes of the same batch.

    python benchmarks/cams.py [--backbone resnet50 --size 224 --batch 16] [--rounds 7] [--threads 2]

Random images and weights, seven classes, the last map. Runs are interleaved in one process in alternating order; a
figure is the median of the ratios within a round, of wall time and of processor time (which other jobs on the machine
disturb less). `one at a time` is how the code published with Belharbi et al. (FG 2024) does it: one image, forward and
backward through all weights, the gradient of the last map caught on its way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import timed
from torch import Tensor

from honne.batch import Batch
from honne.console import say, table
from honne.explain.cams import gradcam, normalise
from honne.explain.maps import SMOOTH, class_activation_map
from honne.labels import LabelSchema
from honne.models import Model, ModelConfig
from honne.networks.face import FaceNetwork

CLASSES = 7
KINDS = ("cam", "gradcam", "gradcam++", "xgradcam", "layercam", SMOOTH)


def new_model(backbone: str, size: int) -> Model:
    """A model with random weights, stored as loaded ones are."""
    torch.manual_seed(0)
    schema = LabelSchema(tuple(f"class {i}" for i in range(CLASSES)))
    network = FaceNetwork(schema, backbone).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(ModelConfig("cams", "erm", {}, schema, [0.5] * 3, [0.25] * 3, {"size": size}), network)


def one_at_a_time(model: Model, images: Tensor, target: Tensor) -> None:
    """Grad-CAM of each image by itself, with the gradients of all weights."""
    network = model.network.requires_grad_(True)
    kept: list[Tensor] = []

    def hook(module: object, inputs: object, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = network.last_map.register_forward_hook(hook)  # type: ignore[union-attr, operator]
    for image, label in zip(images, target, strict=True):
        network.zero_grad()
        network(Batch(images=model.normalise(image[None]))).expression[0, label].backward()
        activations = kept.pop()
        assert activations.grad is not None
        normalise(gradcam(activations.detach(), activations.grad))
    handle.remove()
    network.requires_grad_(False).zero_grad()


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
    model = new_model(arguments.backbone, arguments.size)
    images = torch.randint(0, 256, (arguments.batch, 3, arguments.size, arguments.size), dtype=torch.uint8)
    target = torch.arange(arguments.batch) % CLASSES
    runs: dict[str, Callable[[], object]] = {"forward pass": lambda: model.forward_batch(Batch(images=images))}
    for kind in KINDS:
        runs[kind] = lambda kind=kind: class_activation_map(model, images, target, kind)  # type: ignore[misc]
    runs["gradcam, one at a time"] = lambda: one_at_a_time(model, images, target)
    ratios = timed(runs, arguments.rounds)
    rows = [(name, f"{wall:.2f}", f"{processor:.2f}") for name, (wall, processor) in ratios.items()]
    title = f"Maps of {arguments.batch} images, {arguments.backbone}, {arguments.size} px, times the forward pass"
    say(table(title, ("", "wall", "processor"), rows))


if __name__ == "__main__":
    main()
