"""Files to send to the ABAW challenges, in the form that each edition asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from honne.data.manifest import replacing
from honne.errors import HonneError
from honne.evaluation.challenge import Edition, official
from honne.evaluation.running import Outputs
from honne.labels import LabelSchema
from honne.models import Model

TASKS = {"VA": "valence_arousal", "EXPR": "expressions", "AU": "action_units"}
"""Name in the files -> field of a label schema."""


@dataclass(frozen=True)
class Submission:
    """The files of a challenge for one split, rows in the order of the manifest.

    Attributes:
        folder: for the files.
        edition: 2020, unitask or mtl.
        tasks: that are written.
        videos, frames: (N,) the two parts of each row's id.
        notes: what a user has to know.
    """

    folder: Path
    edition: Edition
    tasks: list[str]
    videos: pd.Series
    frames: pd.Series
    notes: list[str]

    @classmethod
    def of(cls, folder: Path, edition: Edition, model: LabelSchema, data: LabelSchema, ids: pd.Series) -> Submission:
        """Checked before the model runs. Tasks that a data set is not of are left out: the data of one track give its
        files.

        Args:
            folder: for the files.
            edition: 2020, unitask or mtl.
            model: what it predicts.
            data: what the data set is labelled with; nothing leaves nothing out.
            ids: (N,) "<video>/<frame>".

        Raises:
            HonneError: ids of another form, or a task is missing where all are needed.
        """
        names = ids.reset_index(drop=True).str.rpartition("/")
        videos, frames = names[0], names[2]
        if (videos == "").any():
            raise HonneError(
                f"--submission: row '{frames[videos == ''].iloc[0]}' is not named <video>/<frame>: no line fits it.",
                "Prepare the challenge's own files with `honne prepare affwild2`.",
            )
        every = edition == "mtl" or data == LabelSchema()
        tasks = [task for task, name in TASKS.items() if getattr(model, name) and (every or getattr(data, name))]
        left = [name.replace("_", " ") for task, name in TASKS.items() if task not in tasks]
        if left and (edition == "mtl" or not tasks):
            raise HonneError(
                f"--submission: the files must hold {' and '.join(left)}, which the model does not predict"
                f"{'' if every else ' or the data set is not of'}.",
                "Give a model of these tasks.",
            )
        notes = [f"Submission without {name}: the model or the data set is not of that task." for name in left]
        if edition == "2020":
            notes += _gaps(videos, frames)
        return cls(folder, edition, tasks, videos, frames, notes)

    def write(self, outputs: Outputs, model: Model) -> list[Path]:
        """Write the predictions of every row; returns the files."""
        decided = _decisions(self.edition, outputs, model)
        tables = {task: decided[task] for task in self.tasks}
        images = self.videos + "/" + self.frames + ".jpg"
        if self.edition == "mtl":
            path, header = self.folder / "MTL.txt", "image,valence,arousal,expression,aus"
            return [_write(path, header, pd.concat([images, *tables.values()], axis=1), end="\n")]
        if self.edition == "unitask":
            return [
                _write(
                    self.folder / f"{task}.txt",
                    f"image_location,{_header(self.edition, task)}",
                    pd.concat([images, table], axis=1),
                    end="\n",
                )
                for task, table in tables.items()
            ]
        return [
            _write(self.folder / f"{task}_Set" / f"{video}.txt", _header(self.edition, task), rows)
            for task, table in tables.items()
            for video, rows in table.groupby(self.videos, sort=False)
        ]


def _decisions(edition: Edition, outputs: Outputs, model: Model) -> dict[str, pd.DataFrame]:
    """Task -> values of every row; classes and units by name, in the official order."""
    wanted, found = official(edition), {}
    if outputs.affect is not None:
        found["VA"] = pd.DataFrame(outputs.affect.numpy().round(4) + 0.0)  # no "-0.0000"
    if outputs.expression is not None:
        columns = [model.schema.expressions.index(name) for name in wanted.expressions]
        found["EXPR"] = pd.DataFrame(outputs.expression[:, columns].argmax(1).numpy())
    if outputs.units is not None:
        places = [model.schema.action_units.index(unit) for unit in wanted.action_units]
        thresholds = outputs.units.new_tensor([model.thresholds[unit] for unit in wanted.action_units])
        found["AU"] = pd.DataFrame((outputs.units[:, places] >= thresholds).int().numpy())
    return found


def _header(edition: Edition, task: str) -> str:
    wanted = official(edition)
    names = {
        "VA": ["valence", "arousal"],
        "EXPR": [name.capitalize() for name in wanted.expressions],
        "AU": [f"AU{unit}" for unit in wanted.action_units],
    }
    return ",".join(names[task])


def _write(path: Path, header: str, lines: pd.DataFrame, end: str = "") -> Path:
    text = lines.to_csv(header=False, index=False, float_format="%.4f", lineterminator="\n")
    with replacing(path) as aside:
        aside.write_text(f"{header}\n{text.rstrip()}{end}", encoding="utf-8")
    return path


def _gaps(videos: pd.Series, frames: pd.Series) -> list[str]:
    """A note if the highest frame number of a video is not its number of rows: line n is then not frame n."""
    numbers = pd.to_numeric(frames, errors="coerce").groupby(videos)
    wrong = numbers.max() != numbers.size()
    if not wrong.any():
        return []
    return [
        f"{int(wrong.sum())} of {len(wrong)} videos (first: {wrong.idxmax()}) lack frames: line n of their files is the"
        " n-th row that was prepared, not frame n."
    ]
