"""What a method says that trains several models one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One training of several.

    Attributes:
        name: of its folder in the run's.
        changes: of the recipe, by dotted names.
        together: what the stages of this name give together can teach later ones, and be the run's model: an ensemble,
            or the one model that there is.
        takes: an option that names the model of earlier stages, and their `together`; empty where the recipe names it.
        beside: `together` of earlier stages whose model joins theirs; empty for none.
    """

    name: str
    changes: dict[str, Any]
    together: str
    takes: tuple[str, str] = ("", "")
    beside: str = ""
