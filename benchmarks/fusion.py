"""What MulT and CausalMER cost, as ratios within one run.

    python benchmarks/fusion.py [--rounds 7] [--published]

MulT against the same network with plain attention: for each head product, mask, softmax, dropout, product, and all
of the last memory layer. Unaligned: text 50 steps, audio and vision 500 each, batch 4. CausalMER, with light
branches, against its own MulT, unaligned, and aligned at 20 steps, batch 32. What its effects and their losses take by
themselves is shown too. With `--published`, CausalMER also has the published branches (ALBERT, two ResNet-18).

Memory is the peak of a process that makes two steps, less that of one that has only imported everything and built the
network. Inference is timed first: once a process has trained, its allocator may hand the yardstick's large temporaries
out again without new pages, which makes the yardstick up to 1.6 times faster; that is shown too.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timing import timed
from torch import Tensor, nn

from honne.batch import Batch, Labels
from honne.console import say, table
from honne.data.transforms import Normalise
from honne.labels import LabelSchema
from honne.methods.causalmer import Causalmer, CausalmerOptions, constants_loss
from honne.networks import build
from honne.networks.counterfactual import effects
from honne.networks.fusion.attention import Attention, Visible
from honne.networks.fusion.transformer import Encoder, Steps
from honne.schedules import OptimOptions, optimizer

EMOTIONS = LabelSchema(emotions=("neutral", "happiness", "sadness", "anger"))
SENTIMENT = LabelSchema(sentiment=3.0)
FEATURES = {"text": 300, "audio": 74, "vision": 35}
STEPS = {"unaligned": {"text": 50, "audio": 500, "vision": 500}, "aligned": {"text": 20, "audio": 20, "vision": 20}}
BATCH = {"unaligned": 4, "aligned": 32}
NETWORK: dict[str, Any] = {
    "modalities": FEATURES,
    "width": 40,
    "heads": 10,
    "levels": 5,
    "kernels": {"text": 1, "audio": 3, "vision": 3},
    "input_dropout": {"text": 0.25},
    "relu_dropout": 0.1,
    "residual_dropout": 0.1,
    "embed_dropout": 0.25,
    "output_dropout": 0.1,
}
PUBLISHED = {"attention_dropout": 0.2, "attention_dropouts": {"text": 0.2, "audio": 0.0, "vision": 0.0}}
NONE = {"attention_dropout": 0.0}
BRANCHES = {"text": "albert", "audio": "resnet18", "vision": "resnet18"}


class PlainAttention(Attention):
    """The yardstick: every weight is made, masked, dropped and kept.

    Attributes:
        averages: whether the mean of the weights over heads is made too, which the original returns with every call.
    """

    averages = False

    def forward(self, x: Tensor, source: Tensor | None, seen: Visible) -> Tensor:
        keys = x if source is None else source
        width = x.shape[-1]
        q = nn.functional.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
        k, v = nn.functional.linear(keys, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, -1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1) for each in (q, k, v))
        scores = torch.bmm(q * q.shape[-1] ** -0.5, k.mT)
        mask = seen.mask
        if seen.causal:
            mask = torch.ones(1, 1, *scores.shape[1:], dtype=torch.bool).tril()
        if mask is not None:
            scores = scores + torch.zeros(mask.shape[2:]).masked_fill(~mask[0, 0], -math.inf)
        weights = nn.functional.dropout(scores.softmax(-1), self.dropout, self.training)
        if self.averages:
            weights.unflatten(0, (-1, self.heads)).sum(1) / self.heads
        found = torch.bmm(weights, v).unflatten(0, (-1, self.heads))
        return self.out_proj(found.transpose(1, 2).flatten(2))


class PlainEncoder(Encoder):
    """All steps of the last layer are computed."""

    def last(self, steps: Steps) -> Tensor:
        return self(steps).last()[:, 0]


def plain(network: nn.Module) -> nn.Module:
    """The same network, its attention and encoders plain."""
    for module in network.modules():
        if type(module) is Attention:
            module.__class__ = PlainAttention
        elif type(module) is Encoder:
            module.__class__ = PlainEncoder
    return network


def batch(kind: str, schema: LabelSchema) -> Batch:
    """Random features and labels."""
    torch.manual_seed(0)
    size, steps = BATCH[kind], STEPS[kind]
    sequences = {name: torch.randn(size, steps[name], FEATURES[name]) for name in FEATURES}
    lengths = {name: torch.full((size,), steps[name]) for name in FEATURES}
    labels = Labels(sentiment=torch.rand(size) * 6 - 3)
    if schema.emotions:
        labels = Labels(emotions=(torch.rand(size, len(schema.emotions)) > 0.7).float())
    return Batch(labels=labels, sequences=sequences, lengths=lengths)


def mult(schema: LabelSchema, dropouts: dict[str, Any], yardstick: bool = False) -> nn.Module:
    torch.manual_seed(0)
    network = build("mult", NETWORK | dropouts, schema)
    return plain(network) if yardstick else network


def step(network: Any, given: Batch) -> Callable[[], None]:
    """A training step of the network alone."""
    network.train()
    chosen = optimizer(network, OptimOptions(optimizer="adam", weight_decay=0.0))

    def run() -> None:
        chosen.zero_grad()
        fused = network.fuse(network.inputs(given))
        network.outputs.loss(fused.logits, given.labels).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 0.8)
        chosen.step()

    return run


def causal_method(schema: LabelSchema, dropouts: dict[str, Any], branches: dict[str, str]) -> Causalmer:
    torch.manual_seed(0)
    inside = {name: value for name, value in (NETWORK | dropouts).items() if name != "modalities"}
    options = {"modalities": FEATURES, "backbone": {"kind": "mult", "options": inside}, "branches": branches}
    network = build("counterfactual", options, schema)
    normalise = Normalise([0.5] * 3, [0.5] * 3)
    return Causalmer(CausalmerOptions(), network=network, schema=schema, normalise=normalise, optim=OptimOptions())


def causal_step(method: Causalmer, given: Batch) -> Callable[[], None]:
    """A training step of CausalMER."""
    method.train()
    chosen = optimizer(method, OptimOptions(optimizer="adam", weight_decay=0.0))

    def run() -> None:
        chosen.zero_grad()
        torch.stack(list(method.loss(given).values())).sum().backward()
        nn.utils.clip_grad_norm_(method.parameters(), 0.8)
        chosen.step()

    return run


def arithmetic(method: Causalmer, given: Batch) -> Callable[[], None]:
    """Effects, fused scores and the constants' loss of scores that are there, with their gradients."""
    outputs = method.network.outputs.width
    joint = torch.randn(len(given), outputs, requires_grad=True)
    branches = torch.randn(len(FEATURES), len(given), outputs, requires_grad=True)
    constants = torch.zeros(len(FEATURES), requires_grad=True)

    def run() -> None:
        fused = effects("mask", joint, branches, constants.detach()).fused
        found = effects("mask", joint.detach(), branches.detach(), constants)
        (method.network.outputs.loss(fused, given.labels) + constants_loss(found, method.groups)).backward()

    return run


def forward(network: Any, given: Batch) -> Callable[[], None]:
    network.eval()

    def run() -> None:
        with torch.inference_mode():
            network(given)

    return run


def peak(variant: str) -> float:
    """MB above the libraries and the network of a process that makes two steps."""
    found = {}
    for steps in (0, 2):
        words = [sys.executable, __file__, "--memory", variant, "--steps", str(steps)]
        found[steps] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])
    return found[2] - found[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory:
        name, _, dropouts = asked.memory.partition("-")
        run = step(
            mult(SENTIMENT, PUBLISHED if dropouts == "published" else NONE, name == "plain"),
            batch("unaligned", SENTIMENT),
        )
        for _ in range(asked.steps):
            run()
        status = Path("/proc/self/status").read_text(encoding="ascii")  # a process's ru_maxrss begins with its parent's
        print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)
        return
    lines: list[tuple[str, str, str]] = []
    given = batch("unaligned", SENTIMENT)
    inference = {"plain": forward(mult(SENTIMENT, NONE, True), given), "ours": forward(mult(SENTIMENT, NONE), given)}
    lines.append(("MulT inference, unaligned", _ratio(timed(inference, asked.rounds)["ours"]), "0.25"))
    PlainAttention.averages = True
    lines.append(("the same, weights averaged over heads too", _ratio(timed(inference, asked.rounds)["ours"]), "0.25"))
    PlainAttention.averages = False
    for words, dropouts, bars in (
        ("published dropout", PUBLISHED, (0.6, 0.65)),
        ("no attention dropout", NONE, (0.45, 0.35)),
    ):
        ours = {"plain": step(mult(SENTIMENT, dropouts, True), given), "ours": step(mult(SENTIMENT, dropouts), given)}
        lines.append((f"MulT step, unaligned, {words}", _ratio(timed(ours, asked.rounds)["ours"]), f"{bars[0]}"))
        name = "published" if dropouts is PUBLISHED else "none"
        memory = peak(f"ours-{name}") / peak(f"plain-{name}")
        lines.append((f"its memory above the libraries, {words}", f"{memory:.3f}", f"{bars[1]}"))
    lines.append(("MulT inference, unaligned, after training", _ratio(timed(inference, asked.rounds)["ours"]), ""))
    for kind, bar in (("aligned", "1.75"), ("unaligned", "1.25")):
        given = batch(kind, EMOTIONS)
        method = causal_method(EMOTIONS, PUBLISHED, {})
        runs = {
            "MulT": step(mult(EMOTIONS, PUBLISHED), given),
            "CausalMER": causal_step(method, given),
            "arithmetic": arithmetic(method, given),
        }
        if asked.published:
            runs["published branches"] = causal_step(causal_method(EMOTIONS, PUBLISHED, BRANCHES), given)
        found = timed(runs, asked.rounds)
        lines.append((f"CausalMER step over its MulT, {kind}", _ratio(found["CausalMER"]), bar))
        share = found["arithmetic"][0] / found["CausalMER"][0]
        lines.append((f"its arithmetic, share of the step, {kind}", f"{share:.4f}", "0.02"))
        if asked.published:
            lines.append((f"with the published branches, {kind}", _ratio(found["published branches"]), ""))
    say(table("Ratios, wall (processor) time, medians", ("what", "ratio", "goal"), lines))


def _ratio(found: tuple[float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f})"


if __name__ == "__main__":
    main()
