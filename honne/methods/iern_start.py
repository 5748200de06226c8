"""IERN going on from a model: its weights, its prototypes, and what only training needs where it is kept."""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from honne.errors import HonneError
from honne.methods.base import Method
from honne.networks.checkpoints import plain_tensors, require_fit
from honne.networks.intervention import Interventional

TRAINING = "training.safetensors"
"""In the folder of an imported model, where they were imported too: context encoder and discriminators."""
TRAINING_ONLY = ("context", "emotion_discriminator", "stratum_discriminator")
"""Their names in `Iern`."""
_PROTOTYPES = "expression.prototypes"
_SIZES = "The recipe needs the --model.backbone of that model, and its sizes among the --iern options."


@torch.no_grad()
def go_on(method: Method, head: Interventional, folder: Path) -> None:
    """Give a fresh method the weights of a model of IERN. Its centres are the prototypes: checkpoints keep no others.

    Args:
        method: `Iern`.
        head: of its network.
        folder: of the model.

    Raises:
        HonneError: not such a model, or one of other expressions, strata or sizes than the data and the recipe.
    """
    expressions, strata = _named(folder)
    for what, theirs, ours in (
        ("expressions", expressions, list(method.schema.expressions)),
        ("strata", sorted(strata), sorted(head.strata)),
    ):
        if theirs != ours:
            raise HonneError(
                f"{folder}: a model of the {what} {', '.join(theirs)}; the data have {', '.join(ours)}.",
                "Leave --iern.start out, or give it a model of the same.",
            )
    order = [strata.index(name) for name in head.strata]
    path = folder / "model.safetensors"
    entries = plain_tensors(path)
    if _PROTOTYPES in entries:
        entries[_PROTOTYPES] = entries[_PROTOTYPES][order]
    require_fit(path, entries, method.network.state_dict(), "the recipe's network", _SIZES)
    method.network.load_state_dict(entries, strict=False)
    method.get_parameter("centers").copy_(head.prototypes.flatten(1))
    method.get_buffer("met").fill_(True)
    path = folder / TRAINING
    if path.is_file():
        entries = plain_tensors(path)
        own = {name: entry for name, entry in method.state_dict().items() if name.partition(".")[0] in TRAINING_ONLY}
        outputs = next(reversed([name for name in own if name.startswith("stratum_discriminator.")]))
        if outputs in entries:
            entries[outputs] = entries[outputs][order]
        require_fit(path, entries, own, "the recipe's method", _SIZES)
        method.load_state_dict(entries, strict=False)


def _named(folder: Path) -> tuple[list[str], list[str]]:
    """Expressions and strata of a model, in its order."""
    path = folder / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        head = config["network"]["options"]["head_options"]
        return config["labels"]["expressions"], head["strata"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise HonneError(
            f"{folder}: not the folder of a model of method iern ({type(error).__name__}).",
            "--iern.start names MODEL of `honne import iern`, or RUN/model of a run with method iern.",
        ) from error
