"""A timm backbone with heads for expression, action units, valence and arousal."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from honne.batch import Batch, Prediction
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks import face_resnet as _registers_with_timm  # noqa: F401


class FaceNetwork(nn.Module):
    """Backbone, pooling, dropout, one linear head per task of the schema.

    Args:
        schema: what to predict.
        backbone: name of any timm model, or `face_resnet`.
        backbone_options: keyword arguments of `timm.create_model`, e.g. `{"img_size": 112}` for a ViT.
        dropout: probability on the pooled features.

    Raises:
        HonneError: unknown backbone.
    """

    def __init__(
        self,
        schema: LabelSchema,
        backbone: str = "resnet18",
        backbone_options: dict[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if backbone not in timm.list_models():
            near = difflib.get_close_matches(backbone, timm.list_models(), 3)
            raise HonneError(
                f"unknown backbone '{backbone}'.",
                f"Did you mean {' or '.join(near)}?" if near else "`timm.list_models()` lists the names.",
            )
        body: Any = timm.create_model(backbone, pretrained=False, num_classes=0, **(backbone_options or {}))
        self.backbone = body
        self.dropout = nn.Dropout(dropout)
        width = int(getattr(body, "head_hidden_size", None) or body.num_features)
        self.expression = nn.Linear(width, len(schema.expressions)) if schema.expressions else None
        self.action_units = nn.Linear(width, len(schema.action_units)) if schema.action_units else None
        self.valence_arousal = nn.Linear(width, 2) if schema.valence_arousal else None

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Maps of every stage, (B, C_l, H_l, W_l) each, channels first whatever the backbone."""
        return self.backbone.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)

    def heads(self, features: Tensor) -> Prediction:
        """Predictions from pooled features (B, D)."""
        shared = self.dropout(features)
        return Prediction(
            expression=None if self.expression is None else self.expression(shared),
            action_units=None if self.action_units is None else self.action_units(shared),
            valence_arousal=None if self.valence_arousal is None else self.valence_arousal(shared).tanh(),
            features=features,
        )

    def forward(self, batch: Batch) -> Prediction:
        """Predictions for normalised images (B, 3, H, W)."""
        return self.heads(self.backbone(batch.images))


def load_weights(module: nn.Module, path: Path) -> list[str]:
    """Load the entries of a weights file whose name and shape fit; returns the names left as they were.

    Args:
        module: usually the backbone.
        path: `.safetensors`, or a PyTorch state dict that holds nothing but tensors.

    Raises:
        HonneError: the file is missing, could run code, or has nothing that fits.
    """
    if not path.is_file():
        raise HonneError(f"{path}: no such weights file.", "Give the path of a .safetensors or state-dict file.")
    entries: Any
    try:
        entries = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise HonneError(
            f"{path}: not a file of plain tensors ({type(error).__name__}).",
            "Files that could run code are never loaded; save the state dict alone, best as .safetensors.",
        ) from error
    entries = entries.get("state_dict", entries)
    own = module.state_dict()
    fitting = {name: value for name, value in entries.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise HonneError(
            f"{path}: none of its {len(entries)} entries fits this network.", "Is it for another backbone?"
        )
    module.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
