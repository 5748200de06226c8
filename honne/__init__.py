"""honne: train, run, explain and audit emotion-recognition models that can be trusted.

Outputs are *predicted apparent expression*: what observers would say they see, never what a person feels.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from honne import torchvision_guard

__version__ = "0.1.0"

torchvision_guard.install()

if TYPE_CHECKING:
    from honne.analysis import analyze as analyze
    from honne.data.prepare import prepare as prepare
    from honne.errors import HonneError as HonneError
    from honne.evaluation import compare as compare
    from honne.evaluation import evaluate as evaluate
    from honne.interop import import_model as import_model
    from honne.labels import LabelSchema as LabelSchema
    from honne.models import Model as Model
    from honne.models import load as load
    from honne.training import train as train

_WHERE = {
    "HonneError": "honne.errors",
    "LabelSchema": "honne.labels",
    "Model": "honne.models",
    "analyze": "honne.analysis",
    "compare": "honne.evaluation",
    "evaluate": "honne.evaluation",
    "import_model": "honne.interop",
    "load": "honne.models",
    "prepare": "honne.data.prepare",
    "train": "honne.training",
}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'honne' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
