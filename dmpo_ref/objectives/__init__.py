"""Objectives by the name that `loss.name` gives them: the two of DMPO, and other people's to compare with, trained by the same `train`.

The latter are written from the formulas of their papers. The response is `response_mask`, as everywhere here: all its positions
count, what follows an end token included. A new objective is a file like these and a line in `OBJECTIVES`.
"""

from __future__ import annotations

from dmpo_ref.config import LossConfig, WeightConfig
from dmpo_ref.objectives import (
    agrpo,
    coupled_grpo,
    diffu_grpo,
    dmpo,
    espo,
    gdpo,
    gdsd,
    log_variance,
    reinforce,
    spg,
    stable_drl,
    trace_rl,
    trajectory_balance,
    wd1,
)
from dmpo_ref.objectives.base import Objective

OBJECTIVES = {
    "wdce": dmpo.build_wdce,
    "wddo": dmpo.build_wddo,
    "diffu_grpo": diffu_grpo.build,
    "wd1": wd1.build,
    "reinforce": reinforce.build,
    "log_variance": log_variance.build,
    "coupled_grpo": coupled_grpo.build,
    "spg": spg.build,
    "espo": espo.build,
    "gdpo": gdpo.build,
    "gdsd": gdsd.build,
    "stable_drl": stable_drl.build,
    "trace_rl": trace_rl.build,
    "agrpo": agrpo.build,
    "trajectory_balance": trajectory_balance.build,
}


def build_objective(loss: LossConfig, weight: WeightConfig) -> Objective:
    """The objective that the config names, under the weight baseline of the config."""
    return OBJECTIVES[loss.name](loss, weight.alpha).with_baseline(weight.baseline)
