"""The network of a model's folder, for methods that train another with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks import build
from honne.networks.checkpoints import plain_tensors


@dataclass
class Stored:
    """What a model's folder says of its network.

    Attributes:
        folder: of the model.
        kind: of the network.
        options: of the network.
        labels: what it predicts.
        mean, std: of its input per channel.
    """

    folder: Path
    kind: str
    options: dict[str, Any]
    labels: LabelSchema
    mean: list[float]
    std: list[float]

    @classmethod
    def of(cls, folder: Path, option: str) -> Stored:
        """Read `config.yaml`.

        Args:
            folder: of the model.
            option: that names it, for the message.

        Raises:
            HonneError: not the folder of a model.
        """
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
            network, labels = config["network"], LabelSchema.from_dict(config["labels"])
            return cls(folder, network["kind"], network["options"], labels, config["mean"], config["std"])
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            raise HonneError(
                f"{folder}: not the folder of a model ({type(error).__name__}).", f"{option} names RUN/model of a run."
            ) from error

    def require_input(self, mean: list[float], std: list[float]) -> None:
        """Refuse a network that takes other images.

        Raises:
            HonneError: its mean or std are others.
        """
        if any(abs(a - b) > 1e-6 for a, b in zip([*self.mean, *self.std], [*mean, *std], strict=True)):
            raise HonneError(
                f"{self.folder}: takes images of another mean and std than the recipe says.",
                f"Add --model.mean '{self.mean}' --model.std '{self.std}'.",
            )

    def fill(self, network: nn.Module) -> None:
        """Give a network the weights.

        Raises:
            HonneError: they are of another network.
        """
        entries = plain_tensors(self.folder / "model.safetensors")
        try:
            network.load_state_dict({name: value.float() for name, value in entries.items()})
        except RuntimeError as error:
            raise HonneError(f"{self.folder}: its weights do not fit the network.", "Train it again.") from error

    def network(self) -> nn.Module:
        """The network with its weights; it does not learn."""
        network = build(self.kind, self.options, self.labels)
        self.fill(network)
        return network.eval().requires_grad_(False)
