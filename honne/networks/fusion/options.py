"""What a recipe says of a network of feature sequences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from honne.errors import WrongCall


@dataclass
class FusionOptions:
    """The network of feature sequences, in place of `model.backbone` and what belongs to it.

    Args:
        network: mult, pmr, dmd, or a plain one: early_fusion (summaries of the modalities side by side), late_fusion
            (the mean of each modality's own scores), aligned_fusion (features side by side at each step of the first
            modality, to which CTC aligns the others).
        modalities: names, of two or more; unset = all in the data.
        width: of each modality's stream.
        heads: of every attention (mult, pmr, dmd); they divide the width, and the width times the other modalities.
        levels: layers (mult, pmr, dmd).
        kernels: modality -> steps that its first convolution looks at (mult, pmr, dmd); 1 where none is named.
        targets: modalities that look at the others (mult); unset = all. One alone is a partial mode of the original.
        causal: whether steps see no later ones (mult, dmd; published).
        padding: masks, what lies beyond a sequence's end is never seen; or published, it is, as zeros (mult, dmd).
        standardise: features by their mean and deviation over the training rows (train), or left as they are (none,
            published).
        sentiment_classes: learn sentiment as so many classes, an odd number, of which the likeliest counts; 0 = as a
            number.
        valence_arousal_bins: learn valence and arousal each as a distribution over so many bins, whose expectation
            counts; 0 = as numbers.
        modality_dropout: probability, in training, that a sample lacks a modality, 0..1; one always stays.
        input_dropout: modality -> dropout of its features in training, 0..1 (mult, pmr, dmd; published for text).
        attention_dropout: of attention weights, 0..1.
        attention_dropouts: modality -> dropout of the crossmodal attention on it (mult, dmd).
        relu_dropout: inside feed-forward networks, 0..1.
        residual_dropout: of what a layer adds, 0..1.
        embed_dropout: of embedded sequences, 0..1.
        output_dropout: before the outputs, 0..1.
        dropout_mode: of mult, pmr and dmd on a CPU: byte, probabilities in steps of 1/256, several times faster; or
            exact.
        aggregate: of what modalities say to the hub (pmr): sum or attention.
        residual: whether the target is added to gated attention (pmr).
        order: modalities, best teacher first (dmd); unset = text, vision, audio, as published.
        distillation: widths of the homogeneous and the heterogeneous distillation unit (dmd).
    """

    network: Literal["mult", "pmr", "dmd", "early_fusion", "late_fusion", "aligned_fusion"] = "mult"
    modalities: list[str] = field(default_factory=list)
    width: int = 40
    heads: int = 10
    levels: int = 4
    kernels: dict[str, int] = field(default_factory=dict)
    targets: list[str] = field(default_factory=list)
    causal: bool = True
    padding: Literal["masks", "published"] = "masks"
    standardise: Literal["train", "none"] = "train"
    sentiment_classes: int = 0
    valence_arousal_bins: int = 0
    modality_dropout: float = 0.0
    input_dropout: dict[str, float] = field(default_factory=dict)
    attention_dropout: float = 0.1
    attention_dropouts: dict[str, float] = field(default_factory=dict)
    relu_dropout: float = 0.1
    residual_dropout: float = 0.1
    embed_dropout: float = 0.1
    output_dropout: float = 0.1
    dropout_mode: Literal["byte", "exact"] = "byte"
    aggregate: Literal["sum", "attention"] = "sum"
    residual: bool = False
    order: list[str] = field(default_factory=list)
    distillation: list[int] = field(default_factory=lambda: [64, 32])

    def __post_init__(self) -> None:
        if self.sentiment_classes and (self.sentiment_classes < 3 or self.sentiment_classes % 2 == 0):
            raise WrongCall(
                f"fusion.sentiment_classes is {self.sentiment_classes}.", "It is an odd number of classes, 3 or more."
            )
        if self.valence_arousal_bins == 1 or self.valence_arousal_bins < 0:
            raise WrongCall(f"fusion.valence_arousal_bins is {self.valence_arousal_bins}.", "It is 0, or 2 or more.")
        if not 0 <= self.modality_dropout < 1:
            raise WrongCall(f"fusion.modality_dropout is {self.modality_dropout}.", "It is at least 0 and below 1.")
