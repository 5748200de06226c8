"""A timm backbone with heads for expression, action units, valence and arousal."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import timm
from torch import Tensor, nn

from honne.batch import Batch, Prediction
from honne.errors import HonneError
from honne.labels import LabelSchema
from honne.networks import face_resnet as _registers_with_timm  # noqa: F401
from honne.networks.checkpoints import plain_tensors
from honne.networks.dmue_resnets import GeM


class FaceNetwork(nn.Module):
    """Backbone, pooling, dropout, one linear head per task of the schema.

    Args:
        schema: what to predict.
        backbone: name of any timm model, or `face_resnet`.
        backbone_options: keyword arguments of `timm.create_model`, e.g. `{"img_size": 112}` for a ViT.
        dropout: probability on the pooled features.
        pooling: `default` as the backbone does it; `gem`: generalised mean of the last map (Radenovic et al., 2019),
            for backbones that pool a map in a module called `global_pool`.
        neck: a BatchNorm between features and heads, its bias fixed at 0 ("BNNeck", Luo et al., CVPRW 2019).
        head_bias: whether the heads have a bias.

    Raises:
        HonneError: unknown backbone, or one without a map to pool.
    """

    def __init__(
        self,
        schema: LabelSchema,
        backbone: str = "resnet18",
        backbone_options: dict[str, Any] | None = None,
        dropout: float = 0.0,
        pooling: Literal["default", "gem"] = "default",
        neck: bool = False,
        head_bias: bool = True,
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
        if pooling == "gem":
            if not isinstance(getattr(body, "global_pool", None), nn.Module):
                raise HonneError(f"backbone '{backbone}' has no map to pool by generalised mean.", "Leave pooling out.")
            body.global_pool = GeM()
        self.dropout = nn.Dropout(dropout)
        self.width = int(getattr(body, "head_hidden_size", None) or body.num_features)
        self.neck = nn.BatchNorm1d(self.width) if neck else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)

        def head(outputs: int) -> nn.Linear | None:
            return nn.Linear(self.width, outputs, bias=head_bias) if outputs else None

        self.expression = head(len(schema.expressions))
        self.action_units = head(len(schema.action_units))
        self.valence_arousal = head(2 if schema.valence_arousal else 0)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Maps of every stage, (B, C_l, H_l, W_l) each, channels first whatever the backbone."""
        return self.backbone.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)

    def heads(self, features: Tensor) -> Prediction:
        """Predictions from pooled features (B, D)."""
        shared = self.neck(self.dropout(features))
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
        path: `.safetensors`, a PyTorch state dict that holds nothing but tensors, or the folder of a model, whose
            backbone is taken (entries named `backbone.*`).

    Raises:
        HonneError: the file is missing, could run code, or has nothing that fits.
    """
    entries = plain_tensors(path / "model.safetensors" if path.is_dir() else path)
    entries = {name.removeprefix("backbone."): value for name, value in entries.items()}
    own = module.state_dict()
    fitting = {name: value for name, value in entries.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise HonneError(
            f"{path}: none of its {len(entries)} entries fits this network.", "Is it for another backbone?"
        )
    module.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
