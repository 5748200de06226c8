"""Networks: `nn.Module`s that turn a `Batch` of normalised images (or sequences) into a `Prediction`."""

from __future__ import annotations

from typing import Any

from torch import nn

from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks.counterfactual import BACKBONES, CounterfactualNetwork
from honne.networks.ensemble import MEMBERS, Ensemble

NETWORKS: dict[str, type[nn.Module]] = {
    **MEMBERS,
    "ensemble": Ensemble,
    **BACKBONES,
    "counterfactual": CounterfactualNetwork,
}
"""Kind, as stored in a model's `config.yaml` -> class taking (schema, **options)."""


def build(kind: str, options: dict[str, Any], schema: LabelSchema) -> nn.Module:
    """The network of a model's configuration.

    Raises:
        HonneError: unknown kind, or options that this kind does not take.
    """
    if kind not in NETWORKS:
        raise HonneError(f"unknown network kind '{kind}'.", f"This version of honne knows: {', '.join(NETWORKS)}.")
    try:
        return NETWORKS[kind](schema, **options)
    except TypeError as error:
        raise HonneError(f"network '{kind}': {error}.", "Check the model options.") from error
