"""The two objectives of DMPO (arXiv 2510.08233): WDCE and WDDO of `losses`, on the masks that the config names."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.losses import wdce, wddo
from dmpo_ref.masking import Masks, draw_masks, draw_path_steps
from dmpo_ref.objectives.base import Objective, follow_path, need
from dmpo_ref.rollout import Experience, Rollout


def build_wdce(config: LossConfig, alpha: float) -> Objective:
    """WDCE: `losses.wdce` of the ELBO, or of log p(o; σ), divided by the response length L for `loss.normalise: length`."""

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum") if config.normalise == "length" else 1
        return wdce(sequence_log_prob(token_log_prob, masks) / length, weight)

    reads = ("normalise", *mask_options(config))
    return Objective(choose_masks(config), loss, is_linear=True, uses_weight=True, reads=reads, **path_flags(config))


def build_wddo(config: LossConfig, alpha: float) -> Objective:
    """WDDO: `losses.wddo` of Δ = log p_θ − log p_old, both on the masks on which log p_old was stored.

    Its weight is w, that is w_real without a baseline: `presets.checks` requires this, because the loss already has a negative term.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        log_old = sequence_log_prob(need(experience.log_old), masks)
        return wddo(sequence_log_prob(token_log_prob, masks) - log_old, weight)

    reads = mask_options(config)
    return Objective(choose_masks(config), loss, uses_log_old=True, uses_weight=True, reads=reads, **path_flags(config))


def path_flags(config: LossConfig) -> dict[str, bool]:
    """The flags of `Objective` that relate the masks to the rollout's own order."""
    return {"follows_path": config.masks == "path", "draws_steps": config.masks == "path_steps"}


def mask_options(config: LossConfig) -> tuple[str, ...]:
    """The options that `choose_masks` reads, for `Objective.reads`."""
    return ("masks",) if config.masks == "path" else ("masks", "num_masks")


def choose_masks(config: LossConfig) -> Callable[[Rollout, list[torch.Generator]], Masks]:
    """The masks of the scheme `loss.masks`: R = `loss.num_masks` random ones of each response, R steps of its own order, or all."""
    if config.masks == "path":
        return follow_path
    if config.masks == "path_steps":
        return lambda rollout, generators: draw_path_steps(rollout.step, rollout.num_steps, config.num_masks, generators)
    return lambda rollout, generators: draw_masks(config.masks, rollout.response_mask, config.num_masks, generators)
