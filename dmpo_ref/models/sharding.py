"""Weights split over processes by FSDP2: every process holds a shard of each weight and fetches the rest for each pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module

from dmpo_ref.models.llada import Block


def shard(model: Module, device: torch.device) -> None:
    """Shard every weight in place, so that this process keeps only its part: each block is one unit, all the rest another.

    Units free the gathered weights after each pass. So every pass sees the latest change of the shards (a step of the
    optimiser, a re-sync). Weights keep their types: a bfloat16 base may have float32 adapters.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    # The head's weight is read, not called, so it must belong to the root, whose weights are there during the whole pass.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gather_shards(weights: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole weights from shards, on the CPU, one after the other. All processes must call it; with `keep=False` the result is {}."""
    gathered = {}
    for name, value in weights.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            gathered[name] = whole.cpu()
    return gathered


def shard_like(weights: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's shards of whole weights, split and placed as those of the same names are."""
    return {name: shard_one(value, like[name]) for name, value in weights.items()}


def shard_one(value: Tensor, like: Tensor) -> Tensor:
    """This process's shard of one weight; a value of another shape, such as a count of steps, is returned unchanged."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device) if value.shape == like.shape else value


def gather_optimizer(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """State of an optimiser as a single process would have it."""
    state = optimizer.state_dict()
    return state | {"state": {index: gather_shards(values, keep=keep) for index, values in state["state"].items()}}


def shard_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The inverse of `gather_optimizer`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shards = {index: {k: shard_one(v, parameters[index]) for k, v in values.items()} for index, values in state["state"].items()}
    return state | {"state": shards}
