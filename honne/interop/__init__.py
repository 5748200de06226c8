"""Checkpoints of other systems, brought in as models.

A system is one module of this package with

    def read(files: list[Path], name: str, *, option=...) -> Model

Options are keyword-only, have defaults and are named in `import_model`; a system takes those it needs.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from honne.card import RESPONSIBLE_USE
from honne.console import say
from honne.errors import HonneError, WrongCall
from honne.models import Model

SYSTEMS = ("dmue", "au_cues")


def import_model(
    system: str,
    files: list[Path],
    out: Path,
    *,
    labels: str | None = None,
    stem: Literal["released", "standard"] | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of another system into a model that every honne command takes.

    Only plain tensors are read; a file that could run code is refused. What the checkpoint is, and of which network,
    is found out from its entries.

    Args:
        system: that wrote the checkpoint: dmue or au_cues.
        files: of the checkpoint; au_cues: the folder of a model, with config_model.yaml and model.pt.
        out: folder of the model to write.
        labels: the classes in the order of the outputs: a set of that order, as rafdb or sfew, or names separated by
            commas. Default: what the system's published weights have (dmue: the eight of affectnet8; au_cues: the seven
            of au_cues).
        stem: dmue, ResNet-18: released has no ReLU and pools 2 x 2, as the published weights need; standard is
            everybody's ResNet-18. Default: released.
        overwrite: replace the model in OUT.

    Raises:
        HonneError: a file cannot be read, or is not what the system writes; OUT exists.
        WrongCall: there is no such system, or it has no such option.
    """
    read = _reader(system)
    known = [name for name, p in inspect.signature(read).parameters.items() if p.kind is p.KEYWORD_ONLY]
    given = {name: value for name, value in {"labels": labels, "stem": stem}.items() if value is not None}
    for name in given.keys() - known:
        raise WrongCall(f"system '{system}' has no option --{name}; it takes {', '.join(f'--{k}' for k in known)}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise HonneError(f"{out}: already exists.", "Name another folder, or pass --overwrite to replace the model.")
    model = read([Path(file) for file in files], out.name, **given)
    model.save(out, metrics={}, card=_card(model))
    say(f"{out}: {_summary(model)}.")


def _reader(system: str) -> Callable[..., Model]:
    if system not in SYSTEMS:
        near = difflib.get_close_matches(system, SYSTEMS, 1)
        raise WrongCall(
            f"there is no system '{system}' to import from; there are {', '.join(SYSTEMS)}.",
            f"Did you mean '{near[0]}'?" if near else "`honne import --help` says more.",
        )
    return importlib.import_module(f"honne.interop.{system}").read


def _summary(model: Model) -> str:
    classes = ", ".join(model.schema.expressions) or "none: a backbone to train from"
    return f"{model.config.training['imported']}, {model.config.network['options']['backbone']}. Classes: {classes}"


def _card(model: Model) -> str:
    config = model.config
    facts: dict[str, Any] = {
        "imported from": config.training["imported"],
        "method": config.method,
        "network": config.network["options"]["backbone"],
        "expressions": ", ".join(config.labels.expressions) or "none: a backbone to train from",
        "input": f"{model.alignment.size} px, alignment `{model.alignment.kind}`",
        "licence of the weights": config.licence["weights"],
    }
    if published := config.training.get("published"):
        figures = ", ".join(f"{name} {value}" for name, value in published.items() if isinstance(value, float))
        facts["published"] = f"{figures}, on {published['data']} {published['split']} ({published['source']})"
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return (
        f"# {config.name}\n\n{RESPONSIBLE_USE}\n\n| | |\n|---|---|\n{rows}\n\n## Limits\n\n"
        "- Not trained, measured or calibrated here: no other figure of it is known until `honne evaluate` gives one.\n"
        "- Faces are cropped nearly, not exactly, as they were in training (documentation: honne import).\n"
    )
