"""?"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor

from dmpo_ref.config import SamplerConfig
from dmpo_ref.samplers.wino import response_slots


def check_prompts(config: SamplerConfig, response_mask: Tensor, end_tokens: Collection[int]) -> None:
    """Refuse a sampler that cannot fill these responses ([G, S]), in one line (ValueError)."""
    check_sampling(config, response_mask.sum(dim=-1))
    check_cache(config, response_mask)
    if config.name == "wino":
        response_slots(response_mask)
    if config.stop_early and not end_tokens:
        raise ValueError("stop_early=true needs to know what ends an answer; give sample(..., end_tokens=...), or set it to false")


def check_sampling(config: SamplerConfig, length: Tensor) -> None:
    """Refuse block lengths and step numbers that do not fit responses of these lengths ([G])."""
    shortest, block = int(length.min()), config.block_length
    if shortest == 0:
        raise ValueError("a prompt has nothing to generate: its response mask is empty")
    if block is not None and (length % block).any():
        wrong = int(length[length % block != 0][0])
        remedy = (
            "choose a divisor, or null for one block"
            if length.min() == length.max()
            else "response lengths differ: choose a common divisor, or null"
        )
        raise ValueError(f"block_length={block} does not divide a response of {wrong} positions; {remedy}")
    if config.steps is not None:
        num_blocks = 1 if block is None else int(length.max()) // block
        if not 1 <= config.steps <= shortest:
            raise ValueError(
                f"steps={config.steps} for a response of {shortest} positions; choose 1 to {shortest}, or null for one token per step"
            )
        if config.steps % num_blocks:
            raise ValueError(
                f"steps={config.steps} is not a multiple of the {num_blocks} blocks of a response; each block needs as many steps"
            )
        if block is not None and config.steps // num_blocks > block:
            raise ValueError(
                f"steps={config.steps}: {config.steps // num_blocks} steps for each block of {block} positions; at most {block}"
            )


def check_cache(config: SamplerConfig, response_mask: Tensor) -> None:
    """Refuse a cache where blocks are not slices: with clues between the generated positions, or lengths that differ. [G, S]"""
    if config.cache == "none":
        return
    slots = response_mask.any(dim=0).nonzero().squeeze(-1)
    if not response_mask[:, slots].all() or int(slots[-1]) - int(slots[0]) + 1 != len(slots):
        raise ValueError(f"cache={config.cache} needs responses of one length without given tokens inside; use cache=none")


def has_path_log_prob(config: SamplerConfig) -> bool:
    """Whether the log-probability of a rollout's path under the policy itself is known."""
    return config.name == "random_order" and config.temperature > 0 and not config.guidance and not config.stop_early


def count_steps(config: SamplerConfig, response_mask: Tensor) -> int:
    """Most forward passes that filling the longest of these responses can take."""
    return config.steps or int(response_mask.sum(dim=-1).max())
