"""Properties of a `SamplerConfig`: families of samplers, published defaults, and checks for impossible settings."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import partial
from typing import Any, cast

from torch import Tensor

from dmpo_ref.config import Config, SamplerConfig, describe_options, get_option, shorten

PARALLEL = ("threshold", "factor")  # the number of tokens that a step places depends on the confidence of the model
CONFIDENT = ("confidence", *PARALLEL)  # which positions come next depends on the confidence
PUBLISHED_THRESHOLD = {"threshold": 0.9, "wino": 0.6}


def threshold_of(config: SamplerConfig) -> float:
    """τ of `threshold` and `wino`: that of the config, or the published one."""
    return PUBLISHED_THRESHOLD[config.name] if config.threshold is None else config.threshold


def has_path_log_prob(config: SamplerConfig) -> bool:
    """Whether the log-probability of a rollout's path under the policy itself is known."""
    return config.name == "random_order" and config.temperature > 0 and not config.guidance and not config.stop_early


def check_options(config: SamplerConfig, section: str) -> None:
    """Refuse options that are out of bounds, or incompatible whatever the response, with a one-line ValueError that names the
    option as `section.option`."""
    check_bounds(config, section=f"{section}.")
    name, check = config.name, partial(require, config=config, section=f"{section}.")
    check(not config.guidance or name != "wino", key="guidance", right="wino has no guidance; use 0, or another sampler")
    cacheless = f"{name} has no cache; use none, or confidence, threshold or factor"
    check(config.cache == "none" or name in CONFIDENT, key="cache", right=cacheless)
    if config.steps is not None:
        check(name not in (*PARALLEL, "wino"), key="steps", right=f"{name} takes as many steps as it needs; use null")
        check(name != "random_order", key="steps", right="random_order places one token per step; use null, or name=random")


def check_bounds(config: Config | SamplerConfig, *, section: str = "") -> None:
    """Refuse config values that are out of bounds; error as in `require`."""
    for key, option in describe_options(cast(Any, type(config))).items():
        if option.bound is not None and (value := get_option(config, key)) is not None:
            require(option.bound.holds(value), config, key, option.bound.words, section=section)


def require(ok: bool, config: Any, key: str, right: str, *, section: str = "") -> None:
    """Raise a ValueError about an option unless `ok`. The config may be a section of another one."""
    if not ok:
        raise ValueError(f"{section}{key}={shorten(get_option(config, key))}: {right}")


def check_responses(config: SamplerConfig, response_mask: Tensor, end_tokens: Collection[int], section: str = "sampler") -> None:
    """Refuse a sampler that cannot fill these responses ([G, S]), in one line (ValueError) that names the option as `section.option`."""
    check_lengths(config, response_mask.sum(dim=-1), section)
    check_options(config, section)
    if config.cache != "none" or config.name == "wino":  # blocks must be slices, the same in every row
        slots = response_mask[0].nonzero().flatten()
        if (response_mask != response_mask[0]).any() or int(slots[-1] - slots[0]) + 1 != len(slots):
            option, other = ("name=wino", "another sampler") if config.name == "wino" else (f"cache={config.cache}", "cache=none")
            raise ValueError(f"{section}.{option} needs responses of one length without given tokens inside; use {other}")
    if config.stop_early and not end_tokens:
        right = "stop_early=true needs to know what ends an answer; give sample(..., end_tokens=...), or set it to false"
        raise ValueError(f"{section}.{right}")


def steps_of(config: SamplerConfig, length: int) -> int:
    """Number of steps that place a token in a response of this length: the budget, but at most one per token; by default one per token."""
    return min(config.steps or length, length)


def passes_of_block(config: SamplerConfig, length: int) -> int:
    """Forward passes that fill a block of b positions, of L in all: T b / L, rounded down, with a budget of T < L steps; else b."""
    return steps_of(config, length) * (config.block_length or length) // length


def check_memory(config: SamplerConfig, rows: int, length: int, width: int, options: str) -> None:
    """Refuse more rollouts than this machine has memory for their random numbers, float64 [rows, T + 1, S] (ValueError).

    Args:
        rows: rollouts of all prompts. length: L of a response, width: S of the sequence, as far as they are known.
        options: those that the message proposes to lower.
    """
    needed = 8 * rows * (steps_of(config, length) + 1) * width
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise ValueError(
            f"{rows:,} rollouts: the random numbers alone take {needed / 1e9:,.0f} GB, of {memory / 1e9:.0f} here; lower {options}"
        )


def check_lengths(config: SamplerConfig, length: Tensor, section: str = "sampler") -> None:
    """Refuse block lengths and step numbers that do not fit responses of these lengths ([G]); error as in `check_responses`."""
    shortest, block, steps = int(length.min()), config.block_length, config.steps
    if shortest == 0:
        raise ValueError("a prompt has nothing to generate: its response mask is empty")
    if block is not None and (length % block).any():
        wrong, right = int(length[length % block != 0][0]), "choose a divisor of every response length, or null for one block"
        raise ValueError(f"{section}.block_length={block} does not divide a response of {wrong} positions; {right}")
    # The published code takes more steps than positions for low-confidence remasking; steps that find nothing masked do nothing.
    if steps is not None and (steps < 1 or (steps > shortest and config.name != "confidence")):
        right = f"choose 1 to {shortest}, or null for one token per step"
        raise ValueError(f"{section}.steps={steps} for a response of {shortest} positions; {right}")
    num_blocks = int(length.max()) // block if block else 1
    if steps is not None and steps % num_blocks:
        right = "every block takes the same number of steps"
        raise ValueError(f"{section}.steps={steps} is not a multiple of the {num_blocks} blocks of a response; {right}")
