"""ESPO (arXiv 2512.03759): one clipped ratio for the whole response, of ELBOs per token."""

from __future__ import annotations

from einops import reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.objectives.dmpo import choose_masks, mask_options, path_flags
from dmpo_ref.objectives.policy_gradient import centred, clipped_gain, k2
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """ESPO on the masks of `config.masks` and `config.num_masks`, with β = `config.kl` and ε = `config.clip`.

    Departures: L is the length of the response, positions after an end token included; the same ε below and above 1. With
    `masks: path` or `path_steps` the ELBO is log p(o; σ), or an unbiased estimate of it.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        advantage = centred(experience.reward)
        return espo(*changes(token_log_prob, masks, experience), advantage, clip=config.clip, kl=config.kl)

    reads = ("kl", "clip", *mask_options(config))
    return Objective(choose_masks(config), loss, uses_log_old=True, uses_log_ref=config.kl > 0, reads=reads, **path_flags(config))


def changes(token_log_prob: Tensor, masks: Masks, experience: Experience) -> tuple[Tensor, Tensor | None, Tensor]:
    """ELBO_θ − ELBO_old, ELBO_θ − ELBO_ref (None where it is not stored), and the length L of each response; [G, N]."""
    log_policy, log_ref = sequence_log_prob(token_log_prob, masks), experience.log_ref
    delta = log_policy - sequence_log_prob(need(experience.log_old), masks)
    to_ref = None if log_ref is None else log_policy - sequence_log_prob(log_ref, masks)
    return delta, to_ref, reduce(experience.rollout.response_mask, "g n s -> g n", "sum")


def espo(delta: Tensor, to_ref: Tensor | None, length: Tensor, advantage: Tensor, *, clip: float, kl: float) -> Tensor:
    """The loss of ESPO.

        mean over responses of −min(ρA, clip(ρ, 1−ε, 1+ε) A) + (β/L) · ½ (ELBO_θ − ELBO_ref)²,   ρ = exp((ELBO_θ − ELBO_old)/L)

    The last term, k2, has the gradient of KL(p_θ‖p_ref) on-policy, and 1/L scales both terms alike. So with exact log-probabilities
    and one step a round it is KL-regularised REINFORCE divided by L, at the temperature α = β N/(N−1): the mean in A includes r itself.

    Args:
        delta: [G, N] ELBO_θ − ELBO_old, nats. to_ref: [G, N] ELBO_θ − ELBO_ref, None for β = 0; all on the same masks.
        length: [G, N] L. advantage: [G, N] A = r − mean r. clip: ε. kl: β.
    """
    per_response = -clipped_gain(delta / length, advantage, clip)
    if to_ref is not None:
        per_response = per_response + kl * k2(to_ref) / length
    return per_response.mean()
