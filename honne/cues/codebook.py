"""Codebooks: which action units an expression shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from honne.codes import ACTION_UNIT_SETS, ACTION_UNITS
from honne.errors import HonneError
from honne.labels import canonical, parse_action_unit

UNITS = ACTION_UNIT_SETS["au_cues"]
"""FACS numbers of the 20 action units that have a region, in the order of every table and map here."""

_FACS = {
    "happiness": (6, 12, 25),
    "surprise": (1, 2, 5, 26, 27),
    "fear": (1, 2, 4, 5, 20, 25, 26, 27),
    "anger": (4, 5, 7, 10, 17, 23, 24, 25, 26),
    "disgust": (9, 10, 16, 17, 25, 26),
    "sadness": (1, 4, 6, 15, 17),
    "contempt": (12, 14),
}
_REFERENCE = {name: units for name, units in _FACS.items() if name != "contempt"} | {"disgust": (9, 5, 16, 17, 25, 26)}

CODEBOOKS: dict[str, Mapping[str, Sequence[int]]] = {"reference": _REFERENCE, "facs": _FACS}
"""`reference` is what the published figures were obtained with: it takes AU 5 (upper lid raiser) for disgust, where
the codebook printed in the paper has AU 10 (upper lip raiser). `facs` has AU 10, and contempt besides."""


@dataclass(frozen=True)
class Codebook:
    """Expression -> FACS numbers of its action units. An expression that it does not name has no cue."""

    units: Mapping[str, Sequence[int]]

    def table(self, expressions: Sequence[str]) -> np.ndarray:
        """(C, 20) bool: which of `UNITS` each of the expressions shows."""
        return np.array([[unit in self.units.get(name, ()) for unit in UNITS] for name in expressions], bool).reshape(
            len(expressions), len(UNITS)
        )


def codebook(name: str | Path) -> Codebook:
    """A codebook of this package, or one of your own.

    Args:
        name: `reference`, `facs`, or a YAML file with a list of FACS numbers for each expression, as
            `happiness: [6, 12, 25]`.

    Raises:
        HonneError: there is no such codebook or file, or an entry is not an action unit with a region.
    """
    if str(name) in CODEBOOKS:
        return Codebook(CODEBOOKS[str(name)])
    path = Path(name)
    if not path.is_file():
        raise HonneError(f"there is no codebook '{name}'.", f"Give {', '.join(CODEBOOKS)}, or a YAML file.")
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise HonneError(f"{path}: not a codebook in YAML ({reason}).", _FORM) from None
    if not isinstance(entries, dict) or not entries:
        raise HonneError(f"{path}: not a mapping from expressions to action units.", _FORM)
    return Codebook(
        {canonical(str(expression)): _units(path, expression, units) for expression, units in entries.items()}
    )


_FORM = "Write one line per expression, as 'happiness: [6, 12, 25]'."


def _units(path: Path, expression: object, units: object) -> tuple[int, ...]:
    if not isinstance(units, list):
        raise HonneError(f"{path}, '{expression}': '{units}' is not a list of action units.", _FORM)
    try:
        numbers = tuple(parse_action_unit(unit) for unit in units)
    except HonneError as error:
        raise HonneError(f"{path}, '{expression}': {error.what}", error.hint) from None
    if without := [number for number in numbers if number not in UNITS]:
        names = ", ".join(f"AU {number} ({ACTION_UNITS[number]})" for number in without)
        raise HonneError(
            f"{path}, '{expression}': {names} has no region.", f"Regions are known for {', '.join(map(str, UNITS))}."
        )
    return numbers
