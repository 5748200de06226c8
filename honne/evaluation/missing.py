"""How much worse a model of several modalities gets when some of what it goes by is missing.

Every subset of the modalities is removed from all rows in turn, as published for single ones; and a share of the steps
of all modalities, as MMSA does. A drop is what a figure loses, so that more is worse whatever the figure; intervals are
of the same bootstrap draws with and without.

Sources: Kim et al., Applied Sciences 14 (23) 11397, 2024 (removal at test time, deviation of the drops); Mao et al.,
ACL 2022 (random missing).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor

from honne.batch import Batch
from honne.data.missing import without_modalities, without_steps
from honne.errors import HonneError, WrongCall
from honne.evaluation.scoring import ERRORS, Scored, figures
from honne.metrics.resampling import Estimate, bootstrap, interval
from honne.models import Model

Missing = Literal["none", "subsets", "steps", "full"]
MissingAs = Literal["absent", "zeros", "constant"]
MEASURES = (
    *("accuracy", "macro_f1", "emotion_accuracy", "emotion_f1"),
    *("acc7", "acc2_positive", "acc2", "mae", "corr", "ccc"),
)
"""Figures that are kept, as far as there are any."""
SHOWN = 2
"""Of them on the screen."""
RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the steps that go missing."""
ALL_SUBSETS = 4
"""Modalities up to which every subset is tried; of more, pairs at most."""

Run = Callable[[Callable[[Batch], Batch]], Scored]
"""The rows as a model scores them when every batch is changed so."""


def missing_result(
    model: Model, scored: Scored, run: Run, missing: Missing, missing_as: MissingAs, replicates: int, seed: int
) -> dict[str, Any]:
    """What an evaluation holds under `missing`; `docs/commands/evaluate.md` lists it.

    Args:
        model: of several modalities.
        scored: the rows with nothing missing.
        run: the same with batches changed.
        missing: subsets of the modalities, steps, or both (full).
        missing_as: absent (length 0), zeros (published), or constant: absent, and the branch of a counterfactual
            network untreated.
        replicates: of the bootstrap.
        seed: of the bootstrap and of the steps that go missing.

    Raises:
        HonneError: the model goes by pictures, or subsets are asked for of one modality.
        WrongCall: `constant` for a network without branches.
    """
    if not model.modalities:
        raise HonneError(
            f"Model '{model.name}' goes by pictures of faces; there is no modality that could be missing.",
            "Leave --missing out.",
        )
    if len(model.modalities) == 1 and missing != "steps":
        raise HonneError(
            f"Model '{model.name}' goes by {model.modalities[0]} alone; without it nothing is left.",
            "Take --missing steps.",
        )
    counterfactual = hasattr(model.network, "absent")
    if missing_as == "constant" and not counterfactual:
        raise WrongCall(
            f"--missing-as constant is for models of method causalmer; '{model.name}' has no branches.",
            "Take absent or zeros.",
        )
    clusters = scored.clusters

    def drawn(rows: Scored) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return figures(rows), bootstrap(lambda weight: figures(rows, weight), clusters, replicates, seed)

    values, draws = drawn(scored)
    names = [name for name in MEASURES if name in values and bool(values[name].isfinite())]
    result: dict[str, Any] = {"as": missing_as, "measures": {name: float(values[name]) for name in names}}

    def compared(rows: Scored) -> dict[str, Any]:
        own, own_draws = drawn(rows)
        lines = {}
        for name in names:
            sign = -1.0 if name in ERRORS else 1.0
            low, high = interval(sign * (draws[name] - own_draws[name]))
            drop = Estimate(float(sign * (values[name] - own[name])), float(low), float(high))
            lines[name] = {"value": float(own[name]), "drop": asdict(drop)}
        return lines

    def removed(gone: Sequence[str]) -> dict[str, Any]:
        how: Literal["absent", "zeros"] = "zeros" if missing_as == "zeros" else "absent"
        rows = run(lambda batch: without_modalities(batch, gone, how))
        return {"without": list(gone), "measures": compared(rows)}

    def thinned(rate: float) -> dict[str, Any]:
        return {"rate": rate, "measures": compared(run(lambda batch: without_steps(batch, rate, seed)))}

    with _untreated(model, missing_as == "constant"):
        if missing in ("subsets", "full"):
            result["subsets"] = [removed(gone) for gone in subsets(model.modalities)]
            single = [line["measures"] for line in result["subsets"] if len(line["without"]) == 1]
            result["drop_std"] = {name: _deviations([each[name]["drop"]["value"] for each in single]) for name in names}
        if missing in ("steps", "full"):
            lines = [thinned(rate) for rate in RATES]
            mean = {name: sum(line["measures"][name]["value"] for line in lines) / len(lines) for name in names}
            result |= {"steps": lines, "steps_mean": mean}
    return result


def subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Modalities to remove together, fewest first, never all."""
    largest = len(names) - 1 if len(names) <= ALL_SUBSETS else 2
    for size in range(1, largest + 1):
        yield from combinations(names, size)


def _deviations(drops: list[float]) -> dict[str, float]:
    values = torch.tensor(drops, dtype=torch.float64)
    return {"population": float(values.std(correction=0)), "sample": float(values.std(correction=1))}


@contextmanager
def _untreated(model: Model, wanted: bool) -> Iterator[None]:
    """While it lasts, the branch of a missing modality holds its constant."""
    network: Any = model.network
    before = getattr(network, "absent", None)
    if wanted:
        network.absent = "constant"
    try:
        yield
    finally:
        if wanted:
            network.absent = before


def missing_table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table: what is missing, and the value and drop of the first measures."""
    names = list(found["measures"])[:SHOWN]
    heads = ["missing", *(word for name in names for word in (name, "drop"))]
    lines = [["nothing", *(cell for name in names for cell in (f"{found['measures'][name]:.3f}", ""))]]
    every = [(f"no {', no '.join(line['without'])}", line) for line in found.get("subsets", [])]
    every += [(f"{line['rate']:.0%} of the steps", line) for line in found.get("steps", [])]
    for title, line in every:
        entries = [line["measures"][name] for name in names]
        drops = [Estimate(**entry["drop"]) for entry in entries]
        pairs = zip(entries, drops, strict=True)
        lines.append([title, *(cell for entry, drop in pairs for cell in (f"{entry['value']:.3f}", f"{drop:.3f}"))])
    if "drop_std" in found:
        cells = (cell for name in names for cell in ("", f"{found['drop_std'][name]['population']:.3f}"))
        lines.append(["deviation of single drops", *cells])
    if "steps_mean" in found:
        cells = (cell for name in names for cell in (f"{found['steps_mean'][name]:.3f}", ""))
        lines.append(["mean over the shares", *cells])
    return heads, lines
