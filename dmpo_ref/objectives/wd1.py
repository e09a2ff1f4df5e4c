"""wd1 (arXiv 2507.08838): weighted log-likelihood, with weights that reward good responses and penalise bad ones; no ratio."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective
from dmpo_ref.objectives.diffu_grpo import one_shot_masks
from dmpo_ref.objectives.policy_gradient import centred
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """wd1 on d1's one-shot log-probabilities. No old and no reference policy.

    Departures: those of `diffu_grpo.build`.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        return wd1(sequence_log_prob(token_log_prob, masks), experience.reward)

    return Objective(one_shot_masks, loss, is_linear=True)


def wd1(sequence_log_prob: Tensor, reward: Tensor) -> Tensor:
    """The loss of wd1.

        mean over prompts of Σ_n [softmax(−A)[n] − softmax(A)[n]] · ℓ[n],   A = r − mean(r),   ℓ = Σ_k ℓ_k

    So it is WDCE with the weights of `target: reward_softmax`, less those of `baseline: negative`, and a one-shot
    log-likelihood in place of the NELBO.

    Args:
        sequence_log_prob: [G, N] ℓ.
        reward: [G, N] r.
    """
    advantage = centred(reward)
    weight = (-advantage).softmax(dim=-1) - advantage.softmax(dim=-1)
    return reduce(weight * sequence_log_prob, "g n -> g", "sum").mean()
