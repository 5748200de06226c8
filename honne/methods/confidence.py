"""How much a face sides with its label: the confidence of pairwise uncertainty estimation, for any method of images.

Source: She et al., "Dive into Ambiguity", CVPR 2021, section 3.3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from honne.data.manifest import replacing
from honne.errors import HonneError
from honne.networks.checkpoints import plain_tensors

CONFIDENCE = "confidence.safetensors"
"""In RUN, beside RUN/model, of methods that keep nothing else: for `honne audit`."""


def class_similarity(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """(B, C) mean cosine of each row to the rows of each class, brought to 0..1 over the classes.

    Args:
        features: (B, D).
        labels: (B,).
        classes: C; the similarity to a class without a row is the row's smallest.
    """
    unit = F.normalize(features, eps=1e-8)
    members = F.one_hot(labels, classes).to(unit.dtype)
    counts = members.sum(0)
    mean = unit @ (unit.T @ members) / counts.clamp_min(1)
    lowest = mean.masked_fill(counts == 0, torch.inf).amin(1, keepdim=True)
    shifted = torch.where(counts > 0, mean - lowest, 0)
    return shifted / shifted.amax(1, keepdim=True).clamp_min(1e-8)


class Confidence(nn.Module):
    """s in (0, 1) from similarities to the classes and the label, in two layers: 2C -> C -> 1.

    Args:
        classes: C.
        kind: `DmueOptions.confidence_input`.
    """

    def __init__(self, classes: int, kind: Literal["label", "own"] = "label") -> None:
        super().__init__()
        self.kind = kind
        self.layers = nn.Sequential(nn.Linear(2 * classes, classes), nn.PReLU(), nn.Linear(classes, 1))

    def forward(self, similarity: Tensor, labels: Tensor) -> Tensor:
        """(B,) from (B, C) of `class_similarity` and (B,) labels."""
        label = F.one_hot(labels, similarity.shape[1])
        label = label * similarity if self.kind == "own" else label
        return self.layers(torch.cat([similarity, label], 1)).sigmoid()[:, 0]


def store_confidence(confidence: Confidence, file: Path) -> None:
    """Write what `load_confidence` reads."""
    with replacing(file) as path:
        save_file({name: value.detach().cpu().contiguous() for name, value in confidence.state_dict().items()}, path)


def load_confidence(file: Path) -> Confidence:
    """The confidence that training left beside a model.

    Raises:
        HonneError: the file holds something else.
    """
    entries = plain_tensors(file)
    try:
        confidence = Confidence(len(entries["layers.0.weight"]))
        confidence.load_state_dict(entries)
    except (KeyError, RuntimeError) as error:
        raise HonneError(f"{file}: not the confidence of a run.", "Keep it beside the model it came with.") from error
    return confidence.eval().requires_grad_(False)
