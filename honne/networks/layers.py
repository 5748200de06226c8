"""The layers of a network, by number, and what they give while a batch runs, as maps with channels first.

Layer 0 is the image. Layers 1, 2, ... are those that timm names in `feature_info`: of a ResNet the stem and its four
stages, of a transformer its blocks. `last` is the map that is pooled for the heads: of a ResNet the same as layer 5, of
a transformer its tokens after the final norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from honne.errors import WrongCall

LAST = "last"


class View(NamedTuple):
    """How a network looks at faces.

    Attributes:
        face: a network with a timm `backbone` and a `last_map`, as `FaceNetwork`, whose layers can be watched.
        answers: what answers by it: that itself, or a network around it.
    """

    face: Any
    answers: nn.Module


def views(network: Any) -> list[View]:
    """Every way in which a network looks at a face: of an ensemble one for each member, of most networks one."""
    own: list[View] = network.views() if hasattr(network, "views") else [View(network, network)]
    return own


def parse_layers(text: str) -> tuple[str, ...]:
    """Names in a list of layers: "5", "last", "4-5".

    Raises:
        WrongCall: an entry is neither a number from 1 nor `last`.
    """
    names = tuple(text.split("-"))
    for name in names:
        if name != LAST and not (name.isdecimal() and int(name) >= 1):
            raise WrongCall(
                f"layers '{text}': '{name}' is no layer.", f"Name numbers from 1, or {LAST}, with - between."
            )
    return names


def layer_names(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers of a network: "1", "2", ..., "last"."""
    info = getattr(network.backbone, "feature_info", ())
    return (*(str(number) for number in range(1, len(info) + 1)), LAST)


def layer(network: Any, name: str) -> nn.Module:
    """The module whose output is that layer.

    Args:
        network: with a timm `backbone` and a `last_map`, as `FaceNetwork`.
        name: of the layer.

    Raises:
        WrongCall: there is none.
    """
    names = layer_names(network)
    if name not in names:
        raise WrongCall(
            f"this network has no layer '{name}'.",
            f"It has {', '.join(names)}." if len(names) > 1 else "Its backbone names none; take `last`.",
        )
    if name == LAST:
        return network.last_map
    return network.backbone.get_submodule(network.backbone.feature_info[int(name) - 1]["module"])


def as_map(output: Tensor, backbone: Any) -> Tensor:
    """(B, C, H, W) of what a layer gives: that itself, (B, H, W, C), or (B, tokens, C) of a transformer.

    Class and register tokens are left out.
    """
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2) if getattr(backbone, "output_fmt", None) == "NHWC" else output
    tokens = output[:, getattr(backbone, "num_prefix_tokens", 0) :]
    high, wide = _grid(tokens.shape[1], backbone)
    return tokens.transpose(1, 2).reshape(len(tokens), -1, high, wide)


def _grid(tokens: int, backbone: Any) -> tuple[int, int]:
    grid = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if grid and grid[0] * grid[1] == tokens:
        return grid
    side = round(tokens**0.5)
    if side * side != tokens:
        raise WrongCall(f"{tokens} tokens are not a square map.", "Choose another layer.")
    return side, side


@contextmanager
def watched(network: Any, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """While this lasts, what the named layers give: name -> (B, C, H, W), with gradients; filled as the network runs.

    Raises:
        WrongCall: there is no such layer.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[name] = as_map(output, network.backbone)

        return hook

    hooks = [layer(network, name).register_forward_hook(keep(name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
