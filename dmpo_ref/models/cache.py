"""Keys and values that a sampler keeps between its forward passes."""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of every block, kept from one forward pass over a whole sequence for later passes over a part of it.

    A new cache records the next forward pass. After `feed(start, stop)` only those slots are fed: their keys and values are
    computed anew, those of all other slots stay as last computed. Without gradients only: kept tensors are overwritten.
    """

    def __init__(self) -> None:
        self.layers: list[LayerCache] = []
        self.fed = slice(None)

    def feed(self, start: int, stop: int) -> None:
        """From now on, only slots start…stop−1 are fed."""
        self.fed = slice(start, stop)
        recorded = self.layers[0].keys
        slots = torch.arange(start, stop, device=None if recorded is None else recorded.device)
        for layer in self.layers:
            layer.slots = slots

    def layer(self, i: int) -> LayerCache:
        """The cache of block i; blocks are requested in order."""
        if i == len(self.layers):
            self.layers.append(LayerCache())
        return self.layers[i]


class LayerCache:
    """Keys and values of one block. It does not store which one, and every step in a block has the same shapes, so that
    compiled blocks share their code."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.slots: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Record keys and values, or insert those just fed; returns all of them. [B, H, S, d] each."""
        if self.keys is None or self.values is None or self.slots is None:
            self.keys, self.values = keys, values
            return keys, values
        # In place: what is fed now will be fed again before anything reads it.
        return self.keys.index_copy_(2, self.slots, keys), self.values.index_copy_(2, self.slots, values)
