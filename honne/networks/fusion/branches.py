"""Networks of one modality by itself: the direct paths of CausalMER's graph, (B, T, D) to joint logits (B, K).

`light` is honne's own, small and the same for every modality. `albert` (text) and `resnet18` (audio, vision) are those
of the published code; `mean` is the smallest there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import timm
from torch import Tensor, nn

from honne.errors import HonneError
from honne.networks.fusion.plain import Summary
from honne.networks.fusion.transformer import Steps

Branch = Literal["light", "mean", "resnet18", "albert"]


class LightBranch(nn.Module):
    """A summary of the sequence (`honne.networks.fusion.plain.Summary`) and a linear layer.

    Args:
        features: D.
        outputs: K.
        width: of the summary.
    """

    def __init__(self, features: int, outputs: int, width: int = 32) -> None:
        super().__init__()
        self.summary = Summary(features, width)
        self.fc = nn.Linear(width, outputs)

    def forward(self, steps: Steps) -> Tensor:
        """(B, K) joint logits."""
        return self.fc(self.summary(steps))


class MeanBranch(nn.Module):
    """The mean over the real steps and a linear layer.

    Args:
        features: D.
        outputs: K.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, outputs)

    def forward(self, steps: Steps) -> Tensor:
        """(B, K) joint logits."""
        return self.fc(steps.mean())


class ResNetBranch(nn.Module):
    """ResNet-18 over the sequence as an image of one channel, T x D; published for audio and vision.

    Args:
        features: D; any.
        outputs: K.

    Source: the released code of CausalMER.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.resnet = timm.create_model("resnet18", in_chans=1, num_classes=outputs)

    def forward(self, steps: Steps) -> Tensor:
        """(B, K) joint logits; steps beyond a sequence's length are zero."""
        mask = steps.mask()
        values = steps.values if mask is None else steps.values * mask[:, :, None]
        return self.resnet(values[:, None])


class AlbertBranch(nn.Module):
    """ALBERT-base over word vectors, and the mean over its steps; published for text. Weights are random.

    Args:
        features: D of a word vector.
        outputs: K.

    Raises:
        HonneError: transformers is not installed.

    Source: the released code of CausalMER; Lan et al., ICLR 2020, for ALBERT.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        try:
            from transformers import AlbertConfig, AlbertModel
        except ImportError:
            raise HonneError(
                "the albert branch needs the package transformers.",
                "pip install 'honne[text]', or take another branch.",
            ) from None
        # vocabulary of one: word vectors come in, and the table of words is never asked
        config = AlbertConfig(
            vocab_size=1,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
            hidden_size=768,
            num_attention_heads=12,
            intermediate_size=3072,
        )
        self.inputs = nn.Linear(features, config.embedding_size)
        self.albert = AlbertModel(config, add_pooling_layer=False)
        self.fc = nn.Linear(config.hidden_size, outputs)

    def forward(self, steps: Steps) -> Tensor:
        """(B, K) joint logits."""
        mask = steps.mask()
        longest = self.albert.config.max_position_embeddings
        if steps.values.shape[1] > longest:
            raise HonneError(
                f"the albert branch takes {longest} steps at most, not {steps.values.shape[1]}.", "Take a light branch."
            )
        seen = None if mask is None else mask.long()
        found = self.albert(inputs_embeds=self.inputs(steps.values), attention_mask=seen).last_hidden_state
        return self.fc(Steps(found, steps.lengths).mean())


BRANCHES: dict[Branch, Callable[[int, int], nn.Module]] = {
    "light": LightBranch,
    "mean": MeanBranch,
    "resnet18": ResNetBranch,
    "albert": AlbertBranch,
}
