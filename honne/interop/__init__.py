"""Checkpoints of other systems, brought in as models.

A system is one module of this package with

    def read(files: list[Path], name: str, *, option=...) -> Model

Options are keyword-only, have defaults and are named in `import_model`; a system takes those it needs. It may have

    def keep(files: list[Path], model: Model, out: Path) -> None

which writes into the model's folder what goes there besides.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from honne.card import RESPONSIBLE_USE
from honne.console import say
from honne.errors import HonneError, WrongCall
from honne.models import Model

SYSTEMS = ("dmue", "au_cues", "iern", "multitask", "causalmer", "mult", "dmd")


def import_model(
    system: str,
    files: list[Path],
    out: Path,
    *,
    labels: str | None = None,
    stem: Literal["released", "standard"] | None = None,
    strata: str | None = None,
    window: int | None = None,
    thresholds: Literal["released", "half"] | None = None,
    heads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of another system into a model that every honne command takes.

    Only plain tensors are read; a file that could run code is refused. What the checkpoint is, and of which network,
    is found out from its entries.

    Args:
        system: that wrote the checkpoint: dmue, au_cues, iern, multitask, causalmer, mult or dmd.
        files: of the checkpoint; au_cues: the folder of a model, with config_model.yaml and model.pt; iern: the folder
            with 160_net_Base.pth and the other parts, or the parts of one epoch; multitask: one, or several of one kind
            for their ensemble.
        out: folder of the model to write.
        labels: the classes in the order of the outputs: a set of that order, as rafdb or sfew, or names separated by
            commas. Default: what the system's published weights have (dmue: the eight of affectnet8; au_cues: the seven
            of au_cues; iern: anger, disgust, fear, happiness, sadness, surprise, or negative, positive; multitask: the
            seven of affwild2; causalmer, mult: of a model of emotions neutral, happiness, sadness, anger).
        stem: dmue, ResNet-18: released has no ReLU and pools 2 x 2, as the published weights need; standard is
            everybody's ResNet-18. Default: released.
        strata: iern: the data set that the confounder strata are of (mixbasic, emotion6, webemo, sentiment), or their
            names in the order of the prototypes, separated by commas. Default: mixbasic, for three.
        window: multitask, CNN-RNN: frames that it sees at once; released are 32, 16 and 8. Default: 32.
        thresholds: multitask: of the action units, the constants of the released code, or half, 0.5. Default: released,
            where it has some.
        heads: causalmer, mult, dmd: of every attention, which weights do not tell. Default: 10, 5 and 10, as in the
            released code.
        overwrite: replace the model in OUT.

    Raises:
        HonneError: a file cannot be read, or is not what the system writes; OUT exists.
        WrongCall: there is no such system, or it has no such option.
    """
    module = _module(system)
    read: Callable[..., Model] = module.read
    known = [name for name, p in inspect.signature(read).parameters.items() if p.kind is p.KEYWORD_ONLY]
    options = {"labels": labels, "stem": stem, "strata": strata, "window": window, "thresholds": thresholds}
    options["heads"] = heads
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - known:
        raise WrongCall(f"system '{system}' has no option --{name}; it takes {', '.join(f'--{k}' for k in known)}.")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise HonneError(f"{out}: already exists.", "Name another folder, or pass --overwrite to replace the model.")
    model = read([Path(file) for file in files], out.name, **given)
    if hasattr(module, "keep"):
        module.keep([Path(file) for file in files], model, out)
    model.save(out, metrics={}, card=_card(model))
    say(f"{out}: {_summary(model)}.")


def _module(system: str) -> ModuleType:
    if system not in SYSTEMS:
        near = difflib.get_close_matches(system, SYSTEMS, 1)
        raise WrongCall(
            f"there is no system '{system}' to import from; there are {', '.join(SYSTEMS)}.",
            f"Did you mean '{near[0]}'?" if near else "`honne import --help` says more.",
        )
    return importlib.import_module(f"honne.interop.{system}")


def _summary(model: Model) -> str:
    return f"{model.config.training['imported']}, {model.config.network_name}. Classes: {_classes(model)}"


def _classes(model: Model) -> str:
    schema = model.schema
    emotions = f"present or absent: {', '.join(schema.emotions)}" if schema.emotions else ""
    sentiment = f"sentiment, {-schema.sentiment:g} to {schema.sentiment:g}" if schema.sentiment else ""
    return ", ".join(schema.expressions) or emotions or sentiment or "none: a backbone to train from"


def _card(model: Model) -> str:
    config = model.config
    facts: dict[str, Any] = {
        "imported from": config.training["imported"],
        "method": config.method,
        "network": model.config.network_name,
        "expressions" if config.labels.expressions or not model.modalities else "predicts": _classes(model),
        "input": f"sequences of {', '.join(model.modalities)}"
        if model.modalities
        else f"{model.alignment.size} px, alignment `{model.alignment.kind}`",
        "licence of the weights": config.licence["weights"],
    }
    if units := config.labels.action_units:
        facts["action units"] = ", ".join(map(str, units))
    if published := config.training.get("published"):
        figures = ", ".join(f"{name} {value}" for name, value in published.items() if isinstance(value, float))
        facts["published"] = f"{figures}, on {published['data']} {published['split']} ({published['source']})"
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    limits = "".join(f"- {limit}\n" for limit in config.training.get("limits", ()))
    crops = "- Faces are cropped nearly, not exactly, as they were in training (documentation: honne import).\n"
    return (
        f"# {config.name}\n\n{RESPONSIBLE_USE}\n\n| | |\n|---|---|\n{rows}\n\n## Limits\n\n"
        "- Not trained, measured or calibrated here: no other figure of it is known until `honne evaluate` gives one.\n"
        f"{'' if model.modalities else crops}{limits}"
    )
