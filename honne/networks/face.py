"""A timm backbone with heads for expression, action units, valence and arousal."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from honne.batch import Batch, Prediction
from honne.errors import HonneError, WrongCall
from honne.labels import LabelSchema
from honne.networks import apvit, face_resnet, ferplus_resnet  # noqa: F401  (they register with timm)
from honne.networks.affect_bins import BinValues, affect
from honne.networks.affect_bins import bin_values as values_of_bins
from honne.networks.attention_dropout import add_attention_dropout
from honne.networks.checkpoints import plain_tensors
from honne.networks.class_maps import Acol, ClassMaps, HeadName, build_head
from honne.networks.dmue_resnets import GeM
from honne.networks.hidden_head import HiddenHead
from honne.networks.intervention import Interventional
from honne.networks.layers import as_map

LINEAR = "Train with --model.head linear, and without --model.head_options and --model.hidden."


def task_outputs(schema: LabelSchema, valence_arousal_bins: int = 0) -> dict[str, int]:
    """Task -> outputs of its head: expression, action_units, valence_arousal, as far as the schema has them."""
    affective = 2 * (valence_arousal_bins or 1) if schema.valence_arousal else 0
    outputs = (len(schema.expressions), len(schema.action_units), affective)
    tasks = ("expression", "action_units", "valence_arousal")
    return {task: count for task, count in zip(tasks, outputs, strict=True) if count}


class FaceNetwork(nn.Module):
    """Backbone, pooling, dropout, one head per task of the schema.

    The heads work on pooled features, and are linear or have a hidden layer each; that of expressions may work on the
    last map instead.

    Args:
        schema: what to predict.
        backbone: name of any timm model, or `face_resnet`, `dmue_resnet18`, `resnet50_ibn_a`, `apvit`,
            `resnet50_caffe`.
        backbone_options: keyword arguments of `timm.create_model`, e.g. `{"img_size": 112}` for a ViT.
        dropout: probability on the pooled features; on channels of the last map where a head works on that.
        pooling: `default` as the backbone does it; `gem`: generalised mean of the last map (Radenovic et al., 2019),
            for backbones that pool a map in a module called `global_pool`.
        neck: a BatchNorm between features and heads, its bias fixed at 0 ("BNNeck", Luo et al., CVPRW 2019).
        head_bias: whether the heads have a bias.
        head: of the expressions; see `honne.networks.class_maps`.
        head_options: its further arguments.
        large_maps: the last two stages of a ResNet do not shrink the map.
        attention_dropout: rate of `honne.networks.attention_dropout`; 0 = off.
        regions: a further head that draws the action-unit regions of the apparent expression: one logit per position of
            the last map.
        hidden: width of a hidden layer in the head of every task, see `HiddenHead`; 0 = linear heads.
        valence_arousal_bins: bins of [-1, 1] over which valence and arousal are each predicted as a distribution,
            whose expectation they then are; 0 = directly, by the hyperbolic tangent.
        bin_values: what the bins stand for in that expectation, see `honne.networks.affect_bins`.

    Attributes:
        tasks: that have a head: expression, action_units, valence_arousal, in this order.
        width: D of the pooled features.

    Raises:
        HonneError: unknown backbone, or one that some option does not fit.
    """

    bin_values: Tensor | None

    def __init__(
        self,
        schema: LabelSchema,
        backbone: str = "resnet18",
        backbone_options: dict[str, Any] | None = None,
        dropout: float = 0.0,
        pooling: Literal["default", "gem"] = "default",
        neck: bool = False,
        head_bias: bool = True,
        head: HeadName = "linear",
        head_options: dict[str, Any] | None = None,
        large_maps: bool = False,
        attention_dropout: float = 0.0,
        regions: bool = False,
        hidden: int = 0,
        valence_arousal_bins: int = 0,
        bin_values: BinValues = "ends",
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
        if large_maps:
            keep_maps_large(body)
        if attention_dropout:
            add_attention_dropout(body, attention_dropout)
        if neck and head != "linear":
            raise WrongCall(f"a neck is for pooled features, and head {head} does not use them.", "Leave one out.")
        if hidden and (head != "linear" or head_options):
            raise WrongCall(
                f"hidden layers of {hidden} are for plain linear heads, not for head {head} with options of its own.",
                "Leave out --model.hidden, or --model.head and --model.head_options.",
            )
        self.last_map = nn.Identity()  # where the last map can be watched, or changed, by a hook
        self.dropout = nn.Dropout(dropout)
        self.width = int(getattr(body, "head_hidden_size", None) or body.num_features)
        self.neck = nn.BatchNorm1d(self.width) if neck else nn.Identity()
        if isinstance(self.neck, nn.BatchNorm1d):
            self.neck.bias.requires_grad_(False)

        self.hidden = hidden
        outputs = task_outputs(schema, valence_arousal_bins)
        self.tasks = tuple(outputs)
        values = values_of_bins(valence_arousal_bins, bin_values).float() if valence_arousal_bins else None
        self.register_buffer("bin_values", values, persistent=False)

        def pooled_head(task: str) -> nn.Module | None:
            if task not in outputs:
                return None
            if hidden:
                return HiddenHead(self.width, hidden, outputs[task], head_bias)
            return nn.Linear(self.width, outputs[task], bias=head_bias)

        self.expression = pooled_head("expression") if hidden else None
        if schema.expressions and not hidden:
            width = self.width if head == "linear" else int(body.num_features)
            self.expression = build_head(head, width, len(schema.expressions), head_bias, head_options or {})
        self.regions = nn.Conv2d(int(body.num_features), 1, 3, padding=1) if regions else None
        self.action_units = pooled_head("action_units")
        self.valence_arousal = pooled_head("valence_arousal")
        if backbone == "apvit" and isinstance(self.expression, nn.Linear):  # as its authors do
            for entry in self.expression.parameters():
                nn.init.zeros_(entry)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Maps of every stage, (B, C_l, H_l, W_l) each, channels first whatever the backbone."""
        return self.backbone.forward_intermediates(images, output_fmt="NCHW", intermediates_only=True)

    def maps(self, images: Tensor) -> Tensor:
        """The last map (B, D', H, W), channels first whatever the backbone, of normalised images (B, 3, H, W)."""
        maps = as_map(self.last_map(self.backbone.forward_features(images)), self.backbone)
        return nn.functional.dropout2d(maps, self.dropout.p, self.training)

    def embedding(self, images: Tensor) -> Tensor:
        """Pooled features (B, D) of normalised images (B, 3, H, W)."""
        features: Tensor = self.backbone.forward_head(self.last_map(self.backbone.forward_features(images)))
        return features

    def task_features(self, images: Tensor) -> Tensor:
        """What the last layers of the heads see of normalised images (B, 3, H, W).

        Returns:
            (B, F): with hidden layers those of all tasks side by side, else the pooled features, once.
        """
        shared = self.neck(self.dropout(self.embedding(images)))
        if not self.hidden:
            return shared
        return torch.cat([getattr(self, task).features(shared) for task in self.tasks], 1)

    def feature_slices(self) -> dict[str, slice]:
        """Task -> where its part of `task_features` is."""
        if not self.hidden:
            return dict.fromkeys(self.tasks, slice(0, self.width))
        return {task: slice(k * self.hidden, (k + 1) * self.hidden) for k, task in enumerate(self.tasks)}

    @property
    def spatial(self) -> bool:
        """Whether expressions come from the last map rather than from pooled features."""
        return isinstance(self.expression, (ClassMaps, Acol, Interventional))

    @property
    def linear(self) -> nn.Linear:
        """The linear head of the expressions.

        Raises:
            HonneError: their head is another one.
        """
        if not isinstance(self.expression, nn.Linear):
            raise HonneError("this needs a linear head of the expressions, which the network lacks.", LINEAR)
        return self.expression

    def heads(self, features: Tensor, maps: Tensor | None = None, labels: Tensor | None = None) -> Prediction:
        """Predictions from what the backbone gives.

        Args:
            features: (B, D) pooled.
            maps: (B, D', H, W) the last map, where the head of the expressions works on it.
            labels: (B,) expressions, negative where unknown, for training with ACoL; unset = the predicted ones.

        Raises:
            HonneError: the head needs maps and there are none.
        """
        shared = self.neck(self.dropout(features))
        prediction = Prediction(
            action_units=None if self.action_units is None else self.action_units(shared),
            features=features,
        )
        if self.valence_arousal is not None:
            prediction.valence_arousal, prediction.valence_arousal_bins = affect(
                self.valence_arousal(shared), self.bin_values
            )
        if not self.spatial:
            prediction.expression = None if self.expression is None else self.expression(shared)
            return prediction
        if maps is None:
            raise HonneError("this head works on the last map, not on pooled features.", LINEAR)
        maps = nn.functional.dropout2d(maps, self.dropout.p, self.training)
        if isinstance(self.expression, Interventional):
            emotion = self.expression.encode(maps)
            prediction.features = emotion.mean((2, 3))
            prediction.strata = self.expression.intervene(emotion)
            prediction.expression = self.expression.adjusted(prediction.strata)
        elif isinstance(self.expression, Acol) and self.training:
            first, second = self.expression.branches(maps, labels)
            prediction.expression, prediction.auxiliary = first.mean((2, 3)), second.mean((2, 3))
        else:
            assert self.expression is not None
            prediction.expression = self.expression(maps)
        return prediction

    def class_maps(self, maps: Tensor, target: Tensor | None = None) -> Tensor:
        """One map per expression: what the head pools to logits, or the linear head's weights times the last map.

        Args:
            maps: (B, D, H, W) the last map.
            target: (B,) expressions that ACoL erases before its second branch looks; unset = the predicted ones.

        Returns:
            (B, C, H, W), without a bias where the head is linear.

        Raises:
            HonneError: the logits are not made from maps in this network.
        """
        if isinstance(self.expression, Acol):
            return self.expression.class_maps(maps, target)
        if isinstance(self.expression, (ClassMaps, Interventional)):
            return self.expression.class_maps(maps)
        weight = self.linear.weight
        if isinstance(self.neck, nn.BatchNorm1d):
            assert self.neck.running_var is not None
            weight = weight * self.neck.weight * (self.neck.running_var + self.neck.eps).rsqrt()
        if weight.shape[1] != maps.shape[1] or getattr(self.backbone, "global_pool", None) in ("token", "map"):
            raise HonneError(
                f"this {type(self.backbone).__name__} has no class maps: its features are no means of the last map.",
                "Ask for attention, or train with a head that makes them: --model.head gap, or tscam of transformers.",
            )
        return nn.functional.conv2d(maps, weight[:, :, None, None])

    def forward(self, batch: Batch) -> Prediction:
        """Predictions for normalised images (B, 3, H, W)."""
        assert batch.images is not None
        last = self.last_map(self.backbone.forward_features(batch.images))
        maps = as_map(last, self.backbone) if self.spatial else None
        return self.heads(self.backbone.forward_head(last), maps, batch.labels.expression)


def keep_maps_large(backbone: nn.Module) -> None:
    """Strides of the last two stages of a ResNet become 1, without dilation.

    Raises:
        WrongCall: not a ResNet.
    """
    if not isinstance(backbone, ResNet):
        raise WrongCall(
            f"large maps are for ResNets, not for {type(backbone).__name__}.",
            "Choose a ResNet as --model.backbone, or leave --model.large_maps out.",
        )
    stages: Any = (backbone.layer3, backbone.layer4)
    for first, *_ in stages:
        for name, module in list(first.named_modules()):
            if name and getattr(module, "stride", 1) in (2, (2, 2)):
                if isinstance(module, nn.Conv2d):
                    module.stride = (1, 1)
                else:  # a pooling before or after a convolution
                    first.set_submodule(name, nn.Identity())
    shrunk = backbone.feature_info[-3]["reduction"]
    for info in backbone.feature_info[-2:]:
        info["reduction"] = shrunk


def load_weights(module: nn.Module, path: Path) -> list[str]:
    """Load the entries of a weights file whose name and shape fit; returns the names left as they were.

    Names may begin with the part of a whole that was stored (`backbone.`, `model.`), or be those of a trunk alone.

    Args:
        module: usually the backbone.
        path: `.safetensors`, a PyTorch state dict that holds nothing but tensors, or the folder of a model, whose
            backbone is taken (entries named `backbone.*`).

    Raises:
        HonneError: the file is missing, could run code, or has nothing that fits.
    """
    entries = plain_tensors(path / "model.safetensors" if path.is_dir() else path)
    own = module.state_dict()
    fitting: dict[str, Tensor] = {}
    for before, put in (("backbone.", ""), ("model.", ""), ("", "trunk.")):
        named = {put + name.removeprefix(before): value for name, value in entries.items()}
        some = {name: value for name, value in named.items() if name in own and own[name].shape == value.shape}
        fitting = max(fitting, some, key=len)
    if not fitting:
        raise HonneError(
            f"{path}: none of its {len(entries)} entries fits this network.", "Is it for another backbone?"
        )
    module.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
