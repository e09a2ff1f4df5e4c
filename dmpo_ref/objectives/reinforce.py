"""REINFORCE on the exact path log-probability of a random-order rollout (Williams, 1992), with a leave-one-out baseline.

The plain reward-maximising baseline; with `loss.kl` above 0 it maximises the reward less a KL to the reference.
"""

from __future__ import annotations

from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, follow_path, need
from dmpo_ref.objectives.policy_gradient import leave_one_out
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """REINFORCE along the rollout's own order, with a KL to the reference of strength `config.kl`, in reward per nat."""

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        log_policy, log_old = sequence_log_prob(token_log_prob, masks), sequence_log_prob(need(experience.log_old), masks)
        reward = experience.reward
        if config.kl > 0:
            reward = reward - config.kl * (log_policy.detach() - sequence_log_prob(need(experience.log_ref), masks))
        return reinforce(log_policy - log_old, reward)

    return Objective(follow_path, loss, uses_log_old=True, uses_log_ref=config.kl > 0, follows_path=True, reads=("kl",))


def reinforce(delta: Tensor, reward: Tensor) -> Tensor:
    """A loss whose gradient is an unbiased estimate of −∇E_{p_θ}[R].

        −mean over n of ρ[n] · (R[n] − mean over j≠n of R[j]),   ρ = exp(log p_θ(o;σ) − log p_old(o;σ))

    In the first step of a round, for rollouts drawn at temperature 1, ρ = 1 and the gradient is −A ∇log p_θ. Later the
    rollouts are stale (or were drawn at another temperature), and ρ turns their expectation into one of the current policy,
    without clipping, so its variance grows. The baseline of a rollout does not depend on it, so it
    adds no bias, with or without ρ. With a KL term R = r − β (log p_θ − log p_ref), gradient stopped: the gradient of
    this term has expectation 0. The optimum is p* where p_ref(o;σ) does not depend on σ. Elsewhere it is another distribution:
    E_σ[p_ref(o;σ) e^{r/β} / Z(σ)] where no two orders share a conditional (two positions), close to it where they do.

    Args:
        delta: [G, N] log ρ, exact path log-probabilities.
        reward: [G, N] R.
    """
    return -(delta.exp() * leave_one_out(reward)).mean()
