"""A head with a hidden layer between two norms, as each task of multitask emotion recognition has one.

Source: Deng, Chen, Shi, "Multitask Emotion Recognition with Incomplete Labels", FG 2020, and their released code.
"""

from __future__ import annotations

from torch import Tensor, nn

from honne.errors import HonneError


class HiddenHead(nn.Module):
    """BatchNorm, linear, ReLU, BatchNorm: the feature of the task; and a linear layer to its outputs.

    Args:
        width: D of the pooled features.
        hidden: H of the feature.
        outputs: C.
        bias: whether the last layer has one.
    """

    def __init__(self, width: int, hidden: int, outputs: int, bias: bool = True) -> None:
        super().__init__()
        self.norm_in = nn.BatchNorm1d(width)
        self.hidden = nn.Linear(width, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.outputs = nn.Linear(hidden, outputs, bias=bias)

    def features(self, pooled: Tensor) -> Tensor:
        """Features (B, H) of pooled ones (B, D).

        Raises:
            HonneError: a single row in training, of which no statistics can be made.
        """
        if self.norm_in.training and len(pooled) == 1:
            raise HonneError(
                "a training batch of one row has no statistics for the BatchNorm of the heads.",
                "Take at least two rows a batch: --data.batch_size.",
            )
        return self.norm(self.hidden(self.norm_in(pooled)).relu())

    def forward(self, pooled: Tensor) -> Tensor:
        """Outputs (B, C) of pooled features (B, D)."""
        return self.outputs(self.features(pooled))
