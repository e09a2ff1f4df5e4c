"""The reference policy p_ref: a separate frozen model, or the policy itself with other adapters or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.models.adapters import adapter_weights
from dmpo_ref.models.sharding import shard_like


class FrozenReference:
    """p_ref as a separate model, for full fine-tuning."""

    def __init__(self, network: Module):
        self.network = network.eval().requires_grad_(False)

    @contextmanager
    def model(self) -> Iterator[Module]:
        """The reference policy as a model."""
        yield self.network

    def sync(self, policy: Module) -> None:
        """p_ref ← p_θ."""
        self.network.load_state_dict(policy.state_dict())

    def state(self) -> dict[str, Tensor]:
        """Its weights, for a checkpoint."""
        return self.network.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a checkpoint."""
        self.network.load_state_dict(shard_like(state, like=self.network.state_dict()))


class AdapterReference:
    """p_ref as the policy itself with other adapters: none, or those of the last re-sync. No second model in memory.

    Args:
        join: waits for the other processes, where a forward pass of one reads the weights of all (`Processes.join`).
    """

    def __init__(self, policy: Module, join: Callable[[], None] = lambda: None):
        self.policy, self.join = policy, join
        self.weights: dict[str, Tensor] = {}

    @contextmanager
    def model(self) -> Iterator[Module]:
        """The reference policy as a model; on leaving, the policy has its own adapters again."""
        if not self.weights:
            with self.policy.disable_adapter():  # type: ignore[operator]  # PEFT's, reached through Module.__getattr__
                yield self.policy
            return
        own = adapter_weights(self.policy)
        self.join()  # another process may still sample from the policy
        self._put(self.weights)
        try:
            yield self.policy
            self.join()  # or still score with the reference
        finally:
            self._put(own)

    def sync(self, policy: Module) -> None:
        """p_ref ← p_θ."""
        self.weights = adapter_weights(policy)

    def state(self) -> dict[str, Tensor]:
        """Its adapters, for a checkpoint; empty while it is the base."""
        return self.weights

    def load(self, state: dict[str, Tensor]) -> None:
        """Take the adapters of a checkpoint."""
        self.weights = shard_like(state, like=dict(self.policy.named_parameters()))

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        parameters = dict(self.policy.named_parameters())
        for name, value in weights.items():
            parameters[name].copy_(value)


Reference = FrozenReference | AdapterReference
