"""Objectives by the name that `loss.name` gives them: the two of DMPO, and other people's to compare with, trained by the same `train`.

The latter are written from the formulas of their papers. The response is `response_mask`, as everywhere here: all its positions
count, what follows an end token included. A new objective is a file like these and a line in `OBJECTIVES`.
"""

from __future__ import annotations

from dmpo_ref.config import LossConfig, WeightConfig
from dmpo_ref.objectives import diffu_grpo, dmpo, log_variance, reinforce, wd1
from dmpo_ref.objectives.base import Objective

OBJECTIVES = {
    "wdce": dmpo.build_wdce,
    "wddo": dmpo.build_wddo,
    "diffu_grpo": diffu_grpo.build,
    "wd1": wd1.build,
    "reinforce": reinforce.build,
    "log_variance": log_variance.build,
}


def build_objective(loss: LossConfig, weight: WeightConfig) -> Objective:
    """The objective that the config names, under the weight baseline of the config."""
    return OBJECTIVES[loss.name](loss, weight.alpha).with_baseline(weight.baseline)
