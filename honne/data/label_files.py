"""Labels by key: a dictionary {key: label}, pickled, or the same as CSV or JSON."""

from __future__ import annotations

import csv
import json
from typing import Any

from honne.data.pickles import load_plain_pickle
from honne.data.readers.archive import Archive
from honne.errors import HonneError

SUFFIXES = (".pkl", ".csv", ".json")


def find_labels(archive: Archive, name: str) -> tuple[str, dict[str, str]] | None:
    """How messages name the file `name`.pkl, .csv or .json, the first that is there, and its labels by key.

    A CSV file has two columns, key and label; a first line that names them counts as one more key.

    Args:
        archive: where it lies.
        name: without its ending.

    Returns:
        None where there is no such file.

    Raises:
        HonneError: it is no such dictionary, or gives a key two labels.
    """
    found = next((name + suffix for suffix in SUFFIXES if archive.exists(name + suffix)), None)
    if found is None:
        return None
    where = archive.path(found)
    if found.endswith(".csv"):
        return where, _from_lines(archive, found)
    labels = load_plain_pickle(archive.read(found), where) if found.endswith(".pkl") else _from_json(archive, found)
    if not isinstance(labels, dict):
        raise HonneError(f"{where}: holds a {type(labels).__name__}, not a dictionary of labels by key.", "Mend it.")
    return where, {str(key): str(label) for key, label in labels.items()}


def _from_json(archive: Archive, name: str) -> Any:
    try:
        return json.loads(archive.read(name))
    except ValueError as error:
        raise HonneError(f"{archive.path(name)}: not JSON ({error}).", "Mend it.") from None


def _from_lines(archive: Archive, name: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for number, cells in enumerate(csv.reader(archive.lines(name)), 1):
        where = f"{archive.path(name)}, line {number}"
        if not cells:
            continue
        if len(cells) != 2:
            raise HonneError(f"{where}: {len(cells)} cells, not the two of key and label.", "Mend the line.")
        key, label = (cell.strip() for cell in cells)
        if labels.setdefault(key, label) != label:
            raise HonneError(f"{where}: '{key}' is '{label}' here and '{labels[key]}' before.", "Mend the line.")
    return labels
