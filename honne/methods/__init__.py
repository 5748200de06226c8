"""Training methods, one file each; a method is named in a recipe and trains a network of `honne.networks`."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from honne.errors import WrongCall

METHODS = {
    "erm": "honne.methods.erm:Erm",
    "iern": "honne.methods.iern:Iern",
    "dmue": "honne.methods.dmue:Dmue",
    "multitask": "honne.methods.multitask:Multitask",
    "causalmer": "honne.methods.causalmer:Causalmer",
    "identity": "honne.methods.identity:Identity",
}
"""Name in recipes and commands -> where the class is; its options are the class's `Options`."""


def method(name: str) -> Any:
    """The method class of that name.

    Raises:
        WrongCall: there is none.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        raise WrongCall(
            f"unknown method '{name}'.", f"Did you mean {near[0]}?" if near else f"There are: {', '.join(METHODS)}."
        )
    module, _, attribute = METHODS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
