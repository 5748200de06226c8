"""Scaled dot-product attention of sequences of different lengths, and its dropout.

On a CPU, dropout of attention weights costs more than the products: every weight draws a random number, and weights,
mask and dropped weights are kept for the backward pass. With `byte` (`honne.networks.fusion.dropout`) a few heads at a
time are worked on, so that their weights stay in the cache, and weights and bytes are made again in the backward pass
instead of kept. Everywhere else PyTorch's own kernels are used.

Sources: Vaswani et al., NeurIPS 2017 (attention); Dao et al., NeurIPS 2022 (weights made again in the backward pass).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from honne.errors import WrongCall
from honne.networks.fusion.dropout import LEVELS, DropoutMode, drawn_seed, generator, kept

CACHED = 1 << 20
"""Weights that are worked on at once, about: 4 MB, two of which stay in the cache of a core."""


@dataclass(frozen=True)
class Visible:
    """Which keys each query sees.

    Attributes:
        mask: (B or 1, 1, Tq, Tk) bool; `None`: all, or with `causal` those that are no later.
        causal: query i sees keys 0..i; only without a mask.
    """

    mask: Tensor | None = None
    causal: bool = False


def visible(
    queries: int,
    keys: int,
    causal: bool,
    query_lengths: Tensor | None = None,
    key_lengths: Tensor | None = None,
    device: torch.device | None = None,
) -> Visible:
    """Keys that each query sees: real ones, and of these with `causal` those up to i + |Lk - Lq|.

    Args:
        queries: Tq.
        keys: Tk.
        causal: MulT's mask of the future.
        query_lengths: (B,) true lengths Lq; `None` where none of the two sequences is padded.
        key_lengths: (B,) true lengths Lk, at least 1.
        device: of the mask.

    Source: Tsai et al., ACL 2019, and the released code of MulT for sequences of two lengths.
    """
    if query_lengths is not None and key_lengths is not None:
        step = torch.arange(keys, device=device)
        mask = (step < key_lengths[:, None])[:, None, None, :]
        if causal:
            reach = torch.arange(queries, device=device) + (key_lengths - query_lengths).abs()[:, None]
            mask = mask & (step <= reach[:, :, None])[:, None]
        return Visible(mask)
    if not causal:
        return Visible()
    if queries == keys:
        return Visible(causal=True)
    offset = abs(keys - queries)
    if keys - 1 <= offset:
        return Visible()
    return Visible(torch.ones(queries, keys, dtype=torch.bool, device=device).tril(offset)[None, None])


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Visible, dropout: float = 0.0, mode: DropoutMode = "byte") -> Tensor:
    """softmax(q k^T / sqrt(D)) v, with some of the weights dropped.

    Args:
        q: (B, H, Tq, D).
        k: (B, H, Tk, D).
        v: (B, H, Tk, D).
        seen: keys that each query sees; every query sees one at least.
        dropout: probability that a weight is dropped, 0..1; 0 outside of training.
        mode: see `DropoutMode`.

    Returns:
        (B, H, Tq, D).
    """
    dropped = round(dropout * LEVELS)
    if mode == "byte" and q.device.type == "cpu" and dropped:
        return _ByteDropout.apply(q, k, v, seen, dropped)
    dropout = dropout if mode == "exact" or q.device.type != "cpu" else 0.0
    return F.scaled_dot_product_attention(q, k, v, seen.mask, dropout, seen.causal)


class _ByteDropout(torch.autograd.Function):
    """`attend` with a random byte per weight; a weight is dropped where its byte is below `dropped`."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, seen: Visible, dropped: int) -> Tensor:
        ctx.seen, ctx.dropped, ctx.shape, ctx.type = seen, dropped, q.shape, q.dtype
        ctx.seed = drawn_seed()
        scale = q.shape[-1] ** -0.5
        q, k, v = ((each * factor).flatten(0, 1).float() for each, factor in ((q, scale), (k, 1), (v, 1)))
        out = torch.empty_like(q)
        for part, keep, bias in _parts(ctx, k.shape[1]):
            weights = _weights(q[part], k[part], bias).mul_(keep)
            torch.bmm(weights, v[part], out=out[part])
        out *= LEVELS / (LEVELS - dropped)
        ctx.save_for_backward(q, k, v, out)
        return out.unflatten(0, ctx.shape[:2]).to(ctx.type)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out = ctx.saved_tensors
        gradient = gradients[0].flatten(0, 1).float()
        # sum_j dP_ij P_ij = dO_i . O_i, whatever was dropped (Dao et al., section B.2)
        along = (gradient * out).sum(-1, keepdim=True)
        gradient = gradient * (LEVELS / (LEVELS - ctx.dropped))
        of_q, of_k, of_v = (torch.empty_like(each) for each in (q, k, v))
        for part, keep, bias in _parts(ctx, k.shape[1]):
            weights = _weights(q[part], k[part], bias)
            change = torch.bmm(gradient[part], v[part].mT).mul_(keep).sub_(along[part]).mul_(weights)
            torch.bmm(change, k[part], out=of_q[part])
            torch.bmm(change.mT, q[part], out=of_k[part])
            torch.bmm(weights.mul_(keep).mT, gradient[part], out=of_v[part])
        of_q *= ctx.shape[-1] ** -0.5
        found = (each.unflatten(0, ctx.shape[:2]).to(ctx.type) for each in (of_q, of_k, of_v))
        return (*found, None, None)


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """(G, Tq, Tk) attention of scaled queries."""
    scores = torch.bmm(q, k.mT) if bias is None else torch.baddbmm(bias, q, k.mT)
    return torch.softmax(scores, -1)


def _parts(ctx: Any, keys: int) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Slices of the B * H heads, with what is kept of their weights, 0 or 1, and what is added to their scores."""
    batch, heads, queries, _ = ctx.shape
    count = max(1, CACHED // (queries * keys))
    random = generator(ctx.seed)
    bias = None
    if ctx.seen.causal or ctx.seen.mask is not None:
        mask = ctx.seen.mask
        mask = torch.ones(1, 1, queries, keys, dtype=torch.bool).tril() if mask is None else mask
        bias = torch.zeros(mask.shape).masked_fill_(~mask, -math.inf)[:, 0].expand(-1, queries, keys)
    for start in range(0, batch * heads, count):
        part = slice(start, min(start + count, batch * heads))
        size = part.stop - part.start
        keep = kept(random, (size, queries, keys), ctx.dropped)
        own = bias
        if bias is not None and len(bias) > 1:
            own = bias[torch.arange(part.start, part.stop) // heads]
        yield part, keep, own


class Attention(nn.Module):
    """Multi-head attention whose values are its keys; weights as PyTorch's own `MultiheadAttention` has them.

    Args:
        width: of queries and keys.
        heads: how many; they divide the width.
        dropout: of the weights in training, 0..1.
        mode: see `DropoutMode`.

    Raises:
        WrongCall: the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, mode: DropoutMode = "byte") -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise WrongCall(f"{heads} heads do not divide a width of {width}.", "Change fusion.heads or fusion.width.")
        self.heads, self.dropout, self.mode = heads, dropout, mode
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, source: Tensor | None, seen: Visible) -> Tensor:
        """What queries (B, Tq, W) find in the source (B, Tk, W), or in themselves: (B, Tq, W)."""
        width = x.shape[-1]
        if source is None:
            q, k, v = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            q = F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])
            k, v = F.linear(source, self.in_proj_weight[width:], self.in_proj_bias[width:]).chunk(2, -1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        found = attend(q, k, v, seen, self.dropout if self.training else 0.0, self.mode)
        return self.out_proj(found.transpose(1, 2).flatten(2))
