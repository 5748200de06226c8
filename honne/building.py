"""Which network a recipe asks for, for these data: of faces, of windows of them, or of feature sequences."""

from __future__ import annotations

import inspect
from typing import Any

from honne.data.loading import DataModule
from honne.errors import HonneError, WrongCall
from honne.methods import method
from honne.networks.counterfactual import BACKBONES
from honne.networks.stored import Stored
from honne.recipe import Recipe

PUBLISHED_ORDER = ("text", "audio", "vision")
"""In which the published networks have their modalities."""
OF_FUSION = ("network", "modalities", "standardise")
"""Options of `fusion` that are not the network's own under these names."""


def network_of(recipe: Recipe, data: DataModule) -> tuple[str, dict[str, Any]]:
    """Kind and options of the network, as `honne.networks.build` takes them.

    Raises:
        HonneError: a model that the recipe names does not fit.
        WrongCall: options that do not go together, or a modality that the data do not have.
    """
    return _fusion_network(recipe, data) if data.training.readers else _face_network(recipe, data)


def _face_network(recipe: Recipe, data: DataModule) -> tuple[str, dict[str, Any]]:
    """Kind and options of the network."""
    chosen, model = method(recipe.method), recipe.model
    frames = chosen.network_options(recipe.options, _frame_options(recipe), data)
    if not model.window:
        if model.frames is not None:
            raise WrongCall("model.frames is what sees each frame of a window.", "Add --model.window, e.g. 32.")
        return "face", frames
    if model.frames is not None:
        stored = Stored.of(model.frames, "model.frames")
        if stored.kind != "face":
            raise HonneError(
                f"{model.frames}: a network of kind {stored.kind} cannot see single frames for another.",
                "Name one of its members, e.g. RUN/student_0/model.",
            )
        stored.labels.require_same(chosen.learned(data.labels), str(model.frames), "the data")
        stored.require_input(model.mean, model.std)
        frames = stored.options
    elif model.frozen != "none":
        raise WrongCall(
            "a fresh network of frames that is frozen would never learn to see.",
            "Name a trained one, --model.frames MODEL, or add --model.frozen none.",
        )
    if recipe.au_cues.on and model.frozen != "none":
        raise WrongCall("AU cues teach the network of frames, which is frozen.", "Leave one of the two out.")
    return "clips", {
        "frames": frames,
        "length": model.window,
        "hidden": model.recurrent,
        "valence_arousal_bins": model.valence_arousal_bins,
        "bin_values": model.bin_values,
        "frozen": model.frozen,
    }


def _fusion_network(recipe: Recipe, data: DataModule) -> tuple[str, dict[str, Any]]:
    """Kind and options of a network of feature sequences."""
    chosen, asked = method(recipe.method), recipe.fusion
    if recipe.au_cues.on:
        raise WrongCall("AU cues are for images; these data are feature sequences.", "Leave --au_cues out.")
    there = data.training.readers[0].widths()
    for name in asked.modalities:
        if name not in there:
            raise WrongCall(f"there is no modality '{name}'.", f"The data have {', '.join(there)}.")
    names = asked.modalities or sorted(
        there, key=lambda name: (PUBLISHED_ORDER.index(name) if name in PUBLISHED_ORDER else len(there), name)
    )
    kind = BACKBONES[asked.network]
    taken = inspect.signature(kind).parameters
    names_of_shared = ("sentiment_classes", "valence_arousal_bins", "modality_dropout")
    shared = {name: getattr(asked, name) for name in names_of_shared}
    own = {name: value for name, value in vars(asked).items() if name in taken and name not in OF_FUSION}
    options: dict[str, Any] = {"modalities": {name: there[name] for name in names}, **own, **shared}
    options["standardise"] = asked.standardise == "train"
    if "lengths" in taken:
        options["lengths"] = {name: longest for name, longest in data.longest().items() if name in names}
    return chosen.fusion_network(recipe.options, asked.network, options, data)


def _frame_options(recipe: Recipe) -> dict[str, Any]:
    return {
        "backbone": recipe.model.backbone,
        "backbone_options": recipe.model.backbone_options,
        "dropout": recipe.model.dropout,
        "pooling": recipe.model.pooling,
        "neck": recipe.model.neck,
        "head_bias": recipe.model.head_bias,
        "head": recipe.model.head,
        "head_options": recipe.model.head_options,
        "hidden": recipe.model.hidden,
        "valence_arousal_bins": recipe.model.valence_arousal_bins,
        "bin_values": recipe.model.bin_values,
        "large_maps": recipe.model.large_maps,
        "attention_dropout": recipe.model.attention_dropout,
        "regions": recipe.au_cues.segmentation > 0,
    }
