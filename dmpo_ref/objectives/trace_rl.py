"""TraceRL (arXiv 2509.06949): the clip loss of GRPO on the steps in which the rollout was unmasked."""

from __future__ import annotations

from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, follow_path, need
from dmpo_ref.objectives.diffu_grpo import clip_loss
from dmpo_ref.objectives.policy_gradient import centred
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """TraceRL with β = `config.kl` and ε = `config.clip`, along the rollout's own order.

        loss = `clip_loss` of ℓ_k = log π(o_k | what was unmasked before it),   A = (r − mean r) / (standard deviation of r)

    Departures: no value model; every step is scored separately, none is merged with the next ones; and only along the order of the
    sampler `random_order`, where a step unmasks one token, so that the mean over steps of means over the tokens of a step is the mean
    over tokens. The first gradient of a round is that of REINFORCE divided by L, with the reward in standard deviations of its
    group: one success among N counts about √N times as much as one of N/2. In later steps each token has its own clipped ratio.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        advantage, log_old = standardised(experience.reward), need(experience.log_old)
        return clip_loss(token_log_prob, log_old, experience.log_ref, masks.target, advantage, clip=config.clip, kl=config.kl)

    return Objective(follow_path, loss, uses_log_old=True, uses_log_ref=config.kl > 0, follows_path=True, reads=("kl", "clip"))


def standardised(reward: Tensor) -> Tensor:
    """A = (r − mean r) / standard deviation of the group (with N−1), [G, N]; 0 where all are equal."""
    return centred(reward) / reward.std(dim=-1, keepdim=True).clamp(min=1e-6)
