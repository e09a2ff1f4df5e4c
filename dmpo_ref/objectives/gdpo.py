"""GDPO (arXiv 2510.08554): one clipped ratio for the whole response, of ELBOs by Gauss-Legendre quadrature."""

from __future__ import annotations

from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.masking import Masks, draw_masks
from dmpo_ref.objectives.base import Objective
from dmpo_ref.objectives.espo import changes
from dmpo_ref.objectives.policy_gradient import centred, clipped_gain, k3
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """GDPO on `config.num_masks` nodes (published: 3) of the scheme `gauss`, with β = `config.kl` and ε = `config.clip`.

    Departures: positions after an end token are part of the response; the KL is divided by L like the gain.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        advantage = centred(experience.reward)
        return gdpo(*changes(token_log_prob, masks, experience), advantage, clip=config.clip, kl=config.kl)

    return Objective(
        lambda rollout, generators: draw_masks("gauss", rollout.response_mask, config.num_masks, generators),
        loss,
        uses_log_old=True,
        reads=("num_masks", "kl", "clip"),
        uses_log_ref=config.kl > 0,
    )


def gdpo(delta: Tensor, to_ref: Tensor | None, length: Tensor, advantage: Tensor, *, clip: float, kl: float) -> Tensor:
    """The loss of GDPO.

        mean over responses of (1/L) [ −min(ρA, clip(ρ, 1−ε, 1+ε) A) + β (e^d − d − 1) ],
        ρ = exp(ELBO_θ − ELBO_old),   d = ELBO_ref − ELBO_θ

    ρ is the ratio of the probabilities that the ELBOs stand for. The quotient of the two ELBOs, as one may read the published formula,
    would have the wrong sign: both are negative, so it falls as the response becomes more probable.

    Args:
        delta, to_ref, length, advantage, clip, kl: as in `espo`. The ratio is that of whole responses and not per token, so the
            same change of the policy per token is clipped L times sooner.
    """
    per_response = -clipped_gain(delta, advantage, clip)
    if to_ref is not None:
        per_response = per_response + kl * k3(to_ref)
    return (per_response / length).mean()
