"""Parameters of the published MulT and DMD under the names of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

MODALITIES = {"l": "text", "a": "audio", "v": "vision", "t": "text"}
"""Letter of theirs -> modality."""
_IGNORED = re.compile(r"(^|\.)(version|embed_positions\._float_tensor)$")
_IN_LAYER = {
    "self_attn": "attention",
    "fc1": "expand",
    "fc2": "contract",
    "layer_norms.0": "norm_attention",
    "layer_norms.1": "norm_feedforward",
}
_READ_OUT = {"proj1": "first", "proj2": "second", "out_layer": "outputs"}


def in_encoder(rest: str) -> str:
    """Entry of an encoder."""
    if found := re.fullmatch(r"layers\.(\d+)\.(self_attn|fc1|fc2|layer_norms\.[01])\.(.+)", rest):
        return f"layers.{found[1]}.{_IN_LAYER[found[2]]}.{found[3]}"
    return rest.replace("layer_norm.", "norm.")


def mult_name(name: str) -> str | None:
    """Entry of MulT under our name; `None` for one that holds no weight.

    Example:
        >>> mult_name("trans_l_with_a.layers.0.fc1.weight")
        'streams.crossmodal.text.audio.layers.0.expand.weight'
    """
    if _IGNORED.search(name):
        return None
    if found := re.fullmatch(r"proj_([lav])\.weight", name):
        return f"projections.{MODALITIES[found[1]]}.convolution.weight"
    if found := re.fullmatch(r"trans_([lav])_with_([lav])\.(.+)", name):
        return f"streams.crossmodal.{MODALITIES[found[1]]}.{MODALITIES[found[2]]}.{in_encoder(found[3])}"
    if found := re.fullmatch(r"trans_([lav])_mem\.(.+)", name):
        return f"streams.memory.{MODALITIES[found[1]]}.{in_encoder(found[2])}"
    if found := re.fullmatch(r"(proj1|proj2|out_layer)\.(.+)", name):
        return f"out.{_READ_OUT[found[1]]}.{found[2]}"
    return name


def renamed(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Entries of MulT under our names, without those that hold no weight."""
    named = {mult_name(name): value for name, value in entries.items()}
    return {name: value for name, value in named.items() if name is not None}


_OF_DMD = (
    (r"proj_([lav])\.(weight)", "projections.{0}.convolution.{1}"),
    (r"encoder_s_([lav])\.(.+)", "exclusive.{0}.{1}"),
    (r"encoder_c\.(.+)", "common.{0}"),
    (r"decoder_([lav])\.(.+)", "decoders.{0}.{1}"),
    (r"align_c_([lav])\.(.+)", "alignments.{0}.{1}"),
    (r"weight_([lav])\.(.+)", "gates.{0}.{1}"),
    (r"weight_c\.(.+)", "common_gate.{0}"),
)


def dmd_name(name: str) -> str | None:
    """Entry of DMD under our name; `None` for one that holds no weight, or one that nothing uses."""
    if name.startswith("proj_cosine_") or "text_model." in name:
        return None
    for pattern, ours in _OF_DMD:
        if found := re.fullmatch(pattern, name):
            first, *rest = found.groups()
            return ours.format(MODALITIES.get(first, first), *rest)
    if found := re.fullmatch(r"self_attentions_c_([lav])\.(.+)", name):
        return None if _IGNORED.search(name) else f"common_encoders.{MODALITIES[found[1]]}.{in_encoder(found[2])}"
    if found := re.fullmatch(r"(proj1|proj2|out_layer)_([lav])_(low|high)\.(.+)", name):
        return f"{found[3]}.{MODALITIES[found[2]]}.{_READ_OUT[found[1]]}.{found[4]}"
    if found := re.fullmatch(r"(proj1|proj2|out_layer)_c\.(.+)", name):
        return f"common_out.{_READ_OUT[found[1]]}.{found[2]}"
    return mult_name(name)
