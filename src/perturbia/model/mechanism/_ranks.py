"""Sums and agreement between the processes of a distributed training; nothing happens where there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_up", "from_first", "rank_and_number"]


def rank_and_number() -> tuple[int, int]:
    """Number of the present process, and how many there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def add_up(values: np.ndarray) -> np.ndarray:
    """Sum of an array over all processes."""
    if rank_and_number()[1] == 1:
        return values
    tensor = _on_device(values)
    dist.all_reduce(tensor)
    return tensor.cpu().numpy()


def from_first(values: np.ndarray) -> np.ndarray:
    """The array of the first process, so that rounding can not make processes drift apart."""
    if rank_and_number()[1] == 1:
        return values
    tensor = _on_device(values)
    dist.broadcast(tensor, src=0)
    return tensor.cpu().numpy()


def _on_device(values: np.ndarray) -> torch.Tensor:
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return torch.from_numpy(values).clone().to(device)
