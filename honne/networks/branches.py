"""Auxiliary branches: private copies of a network's last layers, one per class, on one pass of the shared trunk.

What follows the copied layers (a last norm, the pooling) is the backbone's own and shared. Nothing is known of a
backbone but where its last layers are, so any timm model that keeps its stages or blocks in one of the usual places can
have branches.

Source: She et al., CVPR 2021 (DMUE), auxiliary multi-branch learning.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.errors import HonneError
from honne.networks.face import FaceNetwork

Depth = Literal["stage", "block", "head"]
HIDDEN = 128
"""Width of the branches of depth `head`."""


def last_layers(backbone: nn.Module, depth: Depth) -> list[nn.Module]:
    """Modules at the end of a backbone that run one after the other.

    Args:
        backbone: timm model with `layer4` (ResNets), `s4` (RegNets), `stages` (ConvNeXt), `layers` (Swin) or `blocks`
            (vision transformers, EfficientNet).
        depth: `stage`: the last stage; of a transformer without stages its last quarter of blocks. `block`: the last
            block only.

    Raises:
        HonneError: it keeps its layers elsewhere.
    """
    names = ("layer4", "s4", "stages", "layers", "blocks")
    found = next((getattr(backbone, name) for name in names if hasattr(backbone, name)), None)
    if not isinstance(found, nn.Module):
        raise HonneError(
            f"backbone {type(backbone).__name__} cannot be split before its last stage.",
            f"It has none of {', '.join(names)}; choose another backbone, or --dmue.branch_depth head.",
        )
    blocks = _blocks(found)
    if hasattr(backbone, "layer4") or hasattr(backbone, "s4"):
        return [found] if depth == "stage" else blocks[-1:]
    inner = _blocks(blocks[-1])
    if not inner:  # blocks without stages
        return blocks[-max(1, len(blocks) // 4) :] if depth == "stage" else blocks[-1:]
    return blocks[-1:] if depth == "stage" else inner[-1:]


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks of a stage or of a backbone, in order; none of what is a block itself."""
    listed = getattr(module, "blocks", module)
    if isinstance(listed, (nn.Sequential, nn.ModuleList)):
        return list(listed)
    return list(module.children()) if type(module).__name__.endswith("Stage") else []


@contextmanager
def fanned_out(layers: Sequence[nn.Module], endings: Callable[[Tensor], list[Tensor]]) -> Iterator[None]:
    """While this lasts, `layers` give their own output and, as further rows of the batch, those of other endings.

    Args:
        layers: consecutive modules of a network, as `last_layers` finds them.
        endings: from the input of the first layer, (B, ...), to outputs like those of the last one, (B', ...) each.
    """
    trunk: list[Tensor] = []

    def remember(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        trunk.append(inputs[0])

    def join(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.cat([output, *endings(trunk.pop())])

    hooks = [layers[0].register_forward_pre_hook(remember), layers[-1].register_forward_hook(join)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def routes(labels: Tensor, classes: int) -> tuple[list[Tensor], list[Tensor]]:
    """Rows that each branch mines (those of its class) and rows that it learns from (all others), in order."""
    known = labels.cpu()  # once: every later look at a GPU's labels would wait for it
    own = [(known == branch).nonzero()[:, 0].to(labels.device) for branch in range(classes)]
    others = [(known != branch).nonzero()[:, 0].to(labels.device) for branch in range(classes)]
    return own, others


@dataclass
class Answers:
    """What network and branches say of a batch.

    Attributes:
        features: (B, D) of the network, before dropout and neck.
        embedding: (B, D) after them.
        logits: (B, C) of the network.
        branch_embedding: (C, B, D') of the branches.
        branch_logits: (C, B, C - 1) of the branches.
    """

    features: Tensor
    embedding: Tensor
    logits: Tensor
    branch_embedding: Tensor
    branch_logits: Tensor


class Branches(nn.Module):
    """C auxiliary branches beside a network.

    Args:
        network: the network whose last layers are copied.
        classes: C.
        depth: what each branch has of its own: the last stage, the last block, or only a small head on the network's
            pooled features.
        shared: mined rows are normalised by, and count for, statistics of BatchNorm, and all share the network's neck.
            Else they take the running statistics and leave them alone, and each branch has a neck of its own.
    """

    def __init__(self, network: FaceNetwork, classes: int, depth: Depth, shared: bool) -> None:
        super().__init__()
        self.classes, self.depth, self.shared = classes, depth, shared
        width = network.width
        if depth == "head":
            width = HIDDEN
            self.hidden = nn.Parameter(torch.empty(classes, HIDDEN, network.width))
            nn.init.normal_(self.hidden, std=network.width**-0.5)
        else:
            layers = last_layers(network.backbone, depth)
            self.endings = nn.ModuleList(nn.Sequential(*map(copy.deepcopy, layers)) for _ in range(classes))
            private = 0 if shared else classes
            self.necks = nn.ModuleList(copy.deepcopy(network.neck) for _ in range(private))
        self.classifiers = nn.Parameter(torch.empty(classes, classes - 1, width))
        nn.init.normal_(self.classifiers, std=0.001)

    def features(self, network: FaceNetwork, images: Tensor, labels: Tensor, learn: bool) -> tuple[Tensor, Tensor]:
        """Pooled features of network (B, D) and branches (C, B, D), in one pass of the trunk.

        Args:
            network: whose trunk is used.
            images: (B, 3, H, W) normalised.
            labels: (B,); row i is mined by branch y_i.
            learn: whether each branch also gets the rows of all other classes; else their features are 0.
        """
        if self.depth == "head":
            features = network.embedding(images)
            return features, features.expand(self.classes, -1, -1)
        own, others = routes(labels, self.classes)
        parts = [*(others if learn else []), *own]

        def answered(trunk: Tensor) -> list[Tensor]:
            learned = [ending(trunk[rows]) for ending, rows in zip(self.endings, others, strict=True)] if learn else []
            with self._mining():
                mined = [ending(trunk[rows]) for ending, rows in zip(self.endings, own, strict=True) if len(rows)]
            return learned + mined

        with fanned_out(last_layers(network.backbone, self.depth), answered):
            every = network.embedding(images)
        features, rest = every.split([len(labels), len(every) - len(labels)])
        sizes = torch.tensor([len(rows) for rows in parts])
        branch = torch.arange(self.classes).repeat(len(parts) // self.classes).repeat_interleave(sizes)
        placed = rest.new_zeros(self.classes, len(labels), rest.shape[1])
        return features, placed.index_put((branch.to(labels.device), torch.cat(parts)), rest)

    def answers(self, network: FaceNetwork, features: Tensor, branch_features: Tensor, labels: Tensor) -> Answers:
        """What network and branches say, from their features; a mined row sees no dropout."""
        own = F.one_hot(labels, self.classes).T.bool()[:, :, None]
        dropped = torch.where(own, branch_features, network.dropout(branch_features))
        if self.depth == "head":
            embedding = network.neck(network.dropout(features))
            branch_embedding = F.gelu(F.layer_norm(dropped, dropped.shape[2:]) @ self.hidden.mT)
        elif isinstance(network.neck, nn.Identity):
            embedding, branch_embedding = network.dropout(features), dropped
        else:
            embedding, branch_embedding = self._through_necks(network, features, dropped, labels)
        branch_logits = branch_embedding @ self.classifiers.mT
        return Answers(features, embedding, network.linear(embedding), branch_embedding, branch_logits)

    def _through_necks(
        self, network: FaceNetwork, features: Tensor, dropped: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of network and branches; in the order of the released code, for a shared neck's statistics."""
        necks = [network.neck] * self.classes if self.shared else list(self.necks)
        own, others = routes(labels, self.classes)
        placed = torch.empty_like(dropped)
        for branch, rows in enumerate(others):
            placed[branch, rows] = necks[branch](dropped[branch, rows]).to(placed.dtype)
        embedding = network.neck(network.dropout(features))
        with self._mining():
            for branch, rows in enumerate(own):
                placed[branch, rows] = necks[branch](dropped[branch, rows]).to(placed.dtype)
        return embedding, placed

    @contextmanager
    def _mining(self) -> Iterator[None]:
        """No gradients; BatchNorm by its running statistics and without changing them, unless they are shared."""
        learning = self.training
        self.train(learning and self.shared)
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(learning)
