"""Other people's objectives, for comparison: each a pair `masks` and `loss` like those of `losses`, trained by the same `train`.

They are written from the formulas of their papers. The response is `response_mask`, as everywhere here: all its positions
count, what follows an end token included.
"""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.losses import wdce, wddo
from dmpo_ref.masking import Masks, draw_masks
from dmpo_ref.objectives import diffu_grpo, log_variance, reinforce, wd1
from dmpo_ref.objectives.base import Objective, follow_path
from dmpo_ref.rollout import Experience, Rollout


def build_objective(config: LossConfig, alpha: float) -> Objective:
    """The objective that the config names; α is the temperature of the target, for an objective that has no weights to carry it."""
    if config.name not in ("wdce", "wddo"):
        return RIVALS[config.name](config, alpha)

    def masks(rollout: Rollout, generators: list[torch.Generator]) -> Masks:
        if config.masks == "path":
            return follow_path(rollout)
        return draw_masks(config.masks, rollout.response_mask, config.num_masks, generators)

    def loss(log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        if config.name == "wddo":
            log_old = sequence_log_prob(experience.log_old, masks)
            return wddo(sequence_log_prob(log_prob, masks) - log_old, weight)
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum") if config.normalise == "length" else 1
        return wdce(sequence_log_prob(log_prob, masks) / length, weight)

    is_wddo = config.name == "wddo"
    return Objective(masks, loss, uses_log_old=is_wddo, is_linear=not is_wddo, follows_path=config.masks == "path")


RIVALS = {"diffu_grpo": diffu_grpo.build, "wd1": wd1.build, "reinforce": reinforce.build, "log_variance": log_variance.build}
