"""What the processes of a data-parallel run tell each other beyond what DDP does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch import distributed as processes


def of_all_processes(rows: Tensor) -> Tensor:
    """(W * B, ...) the rows of all W processes in order of rank, from the (B, ...) of this one.

    Every process may compute the loss of all rows from them: DDP's mean over processes then gives the gradient that one
    process with all rows would have. (The gathering with gradients of torch 2.13 mixed up those of transposed tensors
    over gloo.)

    Args:
        rows: of equally many rows in every process.
    """
    gathered: Tensor = _Gathered.apply(rows)
    return gathered


def mean_over_processes(tensors: Sequence[Tensor]) -> None:
    """Make each tensor, in place, its mean over all processes; of one process nothing changes."""
    if not (processes.is_available() and processes.is_initialized() and tensors):
        return
    flat = torch.cat([each.flatten() for each in tensors])
    processes.all_reduce(flat)
    flat /= processes.get_world_size()
    for each, mean in zip(tensors, flat.split([each.numel() for each in tensors]), strict=True):
        each.copy_(mean.view_as(each))


def is_first() -> bool:
    """Whether this is the first process of a run, which looks after its folder, or the only one."""
    return not getattr(rank_zero_only, "rank", 0)


def wait_for_all() -> None:
    """Go on when all processes are here; at once where there is only one."""
    if processes.is_available() and processes.is_initialized():
        processes.barrier()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [
            torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(processes.get_world_size())
        ]
        processes.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        processes.all_reduce(total)
        start = processes.get_rank() * ctx.rows
        return total[start : start + ctx.rows]
