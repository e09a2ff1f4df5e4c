"""?"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module

from dmpo_ref.models.llada import Block


def shard(model: Module, device: torch.device) -> None:
    """Leave this process its share of every weight, in place: each block is one unit, all the rest another.

    Units give the gathered weights back after each pass. So a change of the shares (a step of the optimiser, a re-sync) is
    seen by the next pass, whichever it is. Weights keep their types: a bfloat16 base may have float32 adapters.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
    # The head's weight is read, not called, so it must belong to the root, whose weights are there during the whole pass.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gather(weights: dict[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole weights from shares, on the CPU, one after the other. All processes must call it; who does not keep them gets {}."""
    gathered = {}
    for name, value in weights.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            gathered[name] = whole.cpu()
    return gathered


def spread(weights: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """This process's shares of whole weights, divided and placed as those of the same names are."""
    return {name: spread_one(value, like[name]) for name, value in weights.items()}


def spread_one(value: Tensor, like: Tensor) -> Tensor:
    """One weight; a number that belongs to it, such as a count of steps, stays as it is."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value.to(like.device) if value.shape == like.shape else value


def gather_optimizer(optimizer: torch.optim.Optimizer, *, keep: bool) -> dict[str, Any]:
    """State of an optimiser as one process alone would have it."""
    state = optimizer.state_dict()
    whole = {index: gather(values, keep=keep) for index, values in state["state"].items()}
    return state | {"state": whole}


def spread_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The opposite of `gather_optimizer`."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shares = {index: {k: spread_one(v, parameters[index]) for k, v in values.items()} for index, values in state["state"].items()}
    return state | {"state": shares}


class Lockstep:
    """Lets all processes make equally many forward passes without a gradient, although their rollouts need different numbers.

    Before each pass the processes agree on whose model is run next: the first one that any of them wants. Those who want
    another, or are done, run it on one token for company. Passes with a gradient are not voted on: all processes must make
    equally many; before each of them, and in `join`, a process waits until all others have done theirs without.
    """

    def __init__(self, device: torch.device):
        self.models, self.device, self.for_company = [], device, False

    def watch(self, model: Module) -> None:
        """Vote before each pass of this model too. All processes must name their models in the same order."""
        model.register_forward_pre_hook(partial(self._before_pass, len(self.models)), prepend=True)  # before FSDP fetches weights
        self.models.append(model)

    def join(self) -> None:
        """Keep the others company until none wants to run a model. To be called before any other exchange between processes."""
        self._wait_for(len(self.models))

    def _before_pass(self, wanted: int, *_: Any) -> None:
        if not self.for_company:
            self._wait_for(len(self.models) if torch.is_grad_enabled() else wanted)

    def _wait_for(self, wanted: int) -> None:
        while (turn := self._vote(wanted)) != wanted:
            token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
            self.for_company = True
            with torch.no_grad():
                self.models[turn](input_ids=token, select=torch.zeros_like(token, dtype=torch.bool))
            self.for_company = False

    def _vote(self, wanted: int) -> int:
        ballot = torch.tensor(wanted, device=self.device)
        distributed.all_reduce(ballot, distributed.ReduceOp.MIN)
        return int(ballot)
