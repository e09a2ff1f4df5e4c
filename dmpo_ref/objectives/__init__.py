"""Objectives by their `loss.name`: the two of DMPO, and others for comparison, trained by the same `train`.

The others are written from the formulas of their papers. As everywhere in this project, the response is `response_mask`: all its
positions count, including those after an end token. A new objective is a file like these and a line in `OBJECTIVES`.
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
