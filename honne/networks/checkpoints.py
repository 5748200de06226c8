"""Files of plain tensors, whoever wrote them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from honne.errors import HonneError

SHOWN = 3


def plain_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a PyTorch state dict, on the CPU, without running any code.

    A checkpoint that keeps the state dict beside other plain values, as `state_dict`, is opened as far as that; of one
    that keeps a state dict for each part of the network, the entries are named `part.entry`.

    Raises:
        HonneError: the file is missing, could run code, or holds no tensors by name.
    """
    if not path.is_file():
        raise HonneError(f"{path}: no such weights file.", "Give the path of a .safetensors or state-dict file.")
    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise HonneError(
            f"{path}: not a file of plain tensors ({type(error).__name__}).",
            "Files that could run code are never loaded; save the state dict alone, best as .safetensors.",
        ) from error
    entries = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors: dict[str, Tensor] = {}
    for name, value in entries.items():
        inner = {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else {name: value}
        tensors |= {str(key): entry for key, entry in inner.items() if isinstance(entry, Tensor)}
    if not tensors:
        raise HonneError(f"{path}: holds no tensors by name.", "Save a state dict: names and tensors.")
    return tensors


def require_finite(path: Path, entries: Mapping[str, Tensor]) -> None:
    """Refuse a file that holds NaN or infinity.

    Raises:
        HonneError: it does.
    """
    if broken := next((key for key, value in entries.items() if not torch.isfinite(value).all()), None):
        raise HonneError(f"{path}: '{broken}' holds values that are not finite.", "Download or save the file again.")


def require_fit(
    path: Path,
    entries: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    network: str,
    hint: str,
    theirs: Callable[[str], str] = str,
) -> None:
    """Refuse entries that are not exactly those of a network; batch counters may be absent.

    Args:
        path: where they are from.
        entries: under the network's names.
        own: state dict of the network.
        network: its name, for the message.
        hint: what to do.
        theirs: the name in the file of an entry of the network.

    Raises:
        HonneError: some are missing, unknown or of another shape.
    """
    missing = [key for key in own if key not in entries and not key.endswith(".num_batches_tracked")]
    unknown = [key for key in entries if key not in own]
    other = [key for key in entries if key in own and own[key].shape != entries[key].shape]
    shapes = [f"{theirs(key)} {tuple(entries[key].shape)} instead of {tuple(own[key].shape)}" for key in other]
    found = {"lacks": [*map(theirs, missing)], "has besides": [*map(theirs, unknown)], "has of other shape": shapes}
    if sentence := "; ".join(f"{what} {some(keys)}" for what, keys in found.items() if keys):
        raise HonneError(f"{path}: does not fit {network}: it {sentence}.", hint)


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
