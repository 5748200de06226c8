"""MELD in its official layout: a CSV file per split, with clips of the utterances beside it or without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from honne.data.readers import Bad, ReaderInfo, Row, missing
from honne.data.readers.clip_files import clip_files
from honne.errors import HonneError
from honne.labels import EXPRESSION_SETS, LabelSchema

INFO = ReaderInfo(
    name="meld",
    summary="MELD: utterances of dialogues in the series Friends, 7 emotions; text, and clips where they are there",
    expects="train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv; clips as dia0_utt0.mp4 in a folder per split.",
    contact="https://github.com/declare-lab/MELD",
    licence="GPL-3.0 (annotations); clips are excerpts of a television series",
    label_files=("*_sent_emo.csv",),
)
CLIPS = True
SET = EXPRESSION_SETS["meld"]
FILES = {"train": "train_sent_emo.csv", "valid": "dev_sent_emo.csv", "test": "test_sent_emo.csv"}
FOLDERS = {"train": ("train",), "valid": ("dev", "valid"), "test": ("test",)}
"""Split -> what the name of its folder of clips holds."""
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")


def schema(root: Path) -> LabelSchema:
    """The seven emotions."""
    return LabelSchema(SET.expressions)


def read(root: Path) -> Iterator[Row | Bad]:
    """A row per utterance of the official splits; without a clip it has its text alone.

    Args:
        root: folder.

    Raises:
        HonneError: a CSV file is not there, or lacks a column.
    """
    root = Path(root)
    files = {split: next(iter(sorted(root.rglob(name))), None) for split, name in FILES.items()}
    if not any(files.values()):
        raise missing(root, INFO.expects, "meld")
    clips: dict[tuple[str, str], Path] = {}
    for path in clip_files(root):
        folders = " ".join(path.relative_to(root).parts[:-1]).lower()
        for split, words in FOLDERS.items():
            if any(word in folders for word in words):
                clips[split, path.stem] = path
    for split, file in files.items():
        if file is None:
            yield Bad(str(root / FILES[split]), "file is missing", f"there is no split '{split}'", "rule")
            continue
        yield from _rows(split, file, clips)


def _rows(split: str, file: Path, clips: dict[tuple[str, str], Path]) -> Iterator[Row | Bad]:
    table = _table(file)
    if lacking := [name for name in COLUMNS if name not in table]:
        raise HonneError(
            f"{file}: there is no column {lacking[0]} ({', '.join(map(str, table))}).", "Take the official file."
        )
    for number, line in enumerate(table.to_dict("records"), 2):
        clip = f"dia{line['Dialogue_ID']}_utt{line['Utterance_ID']}"
        try:
            expression = SET.parse(str(line["Emotion"]))
        except HonneError as error:
            yield Bad(f"{file}, line {number}", "unknown emotion", error.what, "label")
            continue
        yield Row(
            f"{split}/{clip}",
            split=split,
            subject=str(line["Speaker"]),
            video=f"{split}/dia{line['Dialogue_ID']}",
            expression=expression,
            text=_mended(line["Utterance"]),
            clip=clips.get((split, clip)),
        )


def _table(file: Path) -> pd.DataFrame:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return pd.read_csv(file, dtype=str, keep_default_na=False, encoding=encoding)
        except UnicodeDecodeError:
            continue
        except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
            raise HonneError(f"{file}: not a CSV file ({error}).", "Take the official file.") from None
    raise HonneError(f"{file}: text of no known encoding.", "Save it as UTF-8.")


def _mended(text: Any) -> str:
    """Quotation marks that the official files hold as control characters of Windows' code page."""
    said = str(text)
    damaged = any(0x7F < ord(letter) < 0xA0 for letter in said)
    return said.encode("latin1", "ignore").decode("cp1252", "ignore") if damaged else said
