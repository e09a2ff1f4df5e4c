"""Other people's objectives, for comparison: each a pair `views` and `loss` like those of `losses`, trained by the same `train`.

They are written from the formulas of their papers. The response is `response_mask`, as everywhere here: all its positions
count, what follows an end token included.
"""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import log_likelihood
from dmpo_ref.losses import wdce, wddo
from dmpo_ref.masking import Views, draw_views
from dmpo_ref.objectives import diffu_grpo, log_variance, reinforce, wd1
from dmpo_ref.objectives.base import Objective, follow_path
from dmpo_ref.rollout import Experience, Rollout


def build_objective(config: LossConfig, alpha: float) -> Objective:
    """The objective that the config names; α is the temperature of the target, for an objective that has no weights to carry it."""
    if config.name not in ("wdce", "wddo"):
        return RIVALS[config.name](config, alpha)

    def views(rollout: Rollout, generators: list[torch.Generator]) -> Views:
        if config.masks == "path":
            return follow_path(rollout)
        return draw_views(config.masks, rollout.response_mask, config.num_replicates, generators)

    def loss(log_prob: Tensor, views: Views, experience: Experience, weight: Tensor) -> Tensor:
        if config.name == "wddo":
            log_old = log_likelihood(experience.log_old, views)
            return wddo(log_likelihood(log_prob, views) - log_old, weight)
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum") if config.normalise == "length" else 1
        return wdce(log_likelihood(log_prob, views) / length, weight)

    is_wddo = config.name == "wddo"
    return Objective(views, loss, uses_log_old=is_wddo, is_linear=not is_wddo, follows_path=config.masks == "path")


RIVALS = {"diffu_grpo": diffu_grpo.build, "wd1": wd1.build, "reinforce": reinforce.build, "log_variance": log_variance.build}
