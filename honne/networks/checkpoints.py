"""Files of plain tensors, whoever wrote them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from honne.errors import HonneError


def plain_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a PyTorch state dict, on the CPU, without running any code.

    A checkpoint that keeps the state dict beside other plain values, as `state_dict`, is opened as far as that.

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
    tensors = {str(name): value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise HonneError(f"{path}: holds no tensors by name.", "Save a state dict: names and tensors.")
    return tensors
