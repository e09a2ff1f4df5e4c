"""The log-variance loss of MDNS (arXiv 2508.10684), here on the exact path log-probabilities of random-order rollouts."""

from __future__ import annotations

from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, follow_path, need
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """Log-variance along the rollout's own order, at the temperature α of the target."""

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        log_policy, log_ref = sequence_log_prob(token_log_prob, masks), sequence_log_prob(need(experience.log_ref), masks)
        return log_variance(log_policy - log_ref, experience.reward, alpha)

    return Objective(follow_path, loss, uses_log_ref=True, follows_path=True)


def log_variance(to_ref: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """How far the policy is from p* up to a constant; the rollouts may come from any policy.

        mean over prompts of Var_n [ log p_θ(o;σ) − log p_ref(o;σ) − r/α ]

    No normaliser and no importance weights. It is 0 at p* where p_ref(o;σ) does not depend on σ. Elsewhere, as a rule, no
    policy makes it 0, and p* is not quite its optimum. For rollouts of the current policy its gradient is 2/α times that of
    REINFORCE with a KL of strength α and leave-one-out baseline, sample by sample; so both end at the same policy.

    Args:
        to_ref: [G, N] log p_θ − log p_ref along each rollout's own order, nats.
        reward: [G, N] r.
        alpha: α, reward per nat.
    """
    return (to_ref - reward / alpha).var(dim=-1).mean()
