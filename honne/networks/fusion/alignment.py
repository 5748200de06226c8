"""A learned alignment of unaligned sequences with the words, for networks that need sequences of one length.

An LSTM says for every step of a modality which of the T_l words it belongs to, or none; the words' positions are its
targets, by CTC. Aligned, each word has the sum of the steps weighted by that.

Source: Tsai et al., ACL 2019, section 4, and the released code of MulT; Graves et al., ICML 2006, for CTC.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYERS = 2


class CTCAlignment(nn.Module):
    """Brings a sequence to the length of the words.

    Args:
        features: D of the sequence.
        words: T_l that it is brought to.
    """

    def __init__(self, features: int, words: int) -> None:
        super().__init__()
        self.words = words
        self.positions = nn.LSTM(features, words + 1, num_layers=LAYERS, batch_first=True)

    def forward(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T_l, D) aligned, and (B, T, T_l + 1) scores of no word and of each, of (B, T, D)."""
        with torch.autocast(sequence.device.type, enabled=False):  # some processors have no LSTM in half precision
            scores = self.positions(sequence.to(next(self.parameters()).dtype))[0]
        belongs = scores.softmax(2)[:, :, 1:]
        return belongs.mT @ sequence, scores

    def loss(self, scores: Tensor) -> Tensor:
        """CTC loss of (B, T, T_l + 1) scores against the words 1, 2, ... T_l in order; T is T_l at least.

        Returns:
            Scalar, mean over the samples of the loss per word.
        """
        count, steps, _ = scores.shape
        targets = torch.arange(1, self.words + 1, device=scores.device).expand(count, -1)
        lengths = torch.full((count,), self.words), torch.full((count,), steps)
        return F.ctc_loss(scores.log_softmax(2).transpose(0, 1), targets, lengths[1], lengths[0])
