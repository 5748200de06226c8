"""Lets torchvision be imported beside a torch build that lacks its compiled operators.

torchvision's wheel may be built for CUDA while torch is a CPU build. Its operators then never register, and
`import torchvision` (so timm, torchmetrics and lightning too) dies with "operator torchvision::nms does not exist".
Declaring the two schemas that its Python code refers to is enough. `import honne` installs a hook, so that the check
happens when torchvision is first imported, not before: `import honne` stays light.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_libraries: list[Any] = []  # torch drops the schemas when the library object dies


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its missing operator schemas if that is what stops it; harmless when repeated."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)
    return importlib.import_module("torchvision")


class _Imported(Loader):
    """Hands an already imported module to the import system."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.spec = module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _Hook(MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        return ModuleSpec(name, _Imported(import_torchvision()), is_package=True)


def install() -> None:
    """Guard the first import of torchvision, whoever does it."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Hook) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hook())
