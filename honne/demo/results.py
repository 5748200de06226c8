"""What the demo found, for its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from honne.data.manifest import PreparedData
from honne.data.world import World
from honne.demo.photograph import Photograph


@dataclass
class Arm:
    """One of the two models.

    Attributes:
        called: how the report names it.
        run: folder of the run.
        result: its evaluation.
    """

    called: str
    run: Path
    result: dict[str, Any]

    def curve(self, figure: str) -> list[tuple[float, float]]:
        """(epoch, value) of a validation figure."""
        rows = pd.read_csv(self.run / "logs" / "metrics.csv")
        known = rows[["epoch", f"valid/{figure}"]].dropna()
        return list(zip(known["epoch"] + 1, known[f"valid/{figure}"], strict=True))

    def predictions(self) -> pd.DataFrame:
        """The evaluation's table: every test row's probabilities beside its votes."""
        return pd.read_parquet(self.run.with_suffix(".parquet"))


@dataclass
class Results:
    """Everything the report shows.

    Attributes:
        world: knobs of the drawn faces.
        data: the drawn faces.
        arms: name -> model.
        comparison: result of `honne.compare`, votes minus plain.
        photograph: the analysed photograph, or why there is none.
        times: step -> seconds.
        quick: whether this was only a try.
    """

    world: World
    data: PreparedData
    arms: dict[str, Arm]
    comparison: dict[str, Any]
    photograph: Photograph | str
    times: dict[str, float]
    quick: bool
