"""GDSD (arXiv 2605.29398): the squared error between the change of the ELBO per token and the advantage."""

from __future__ import annotations

import math

from einops import rearrange, reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.objectives.dmpo import choose_masks, mask_options, path_flags
from dmpo_ref.objectives.policy_gradient import centred, k2
from dmpo_ref.rollout import Experience

PSI = 1.0  # ψ, nats per token and reward; the default of the published settings, which use 10 as well


def build(config: LossConfig, alpha: float) -> Objective:
    """GDSD on the masks of `config.masks` and `config.num_masks`, with β = `config.kl` and ε = `config.clip`.

    Departures: the mean over masks and responses, where the published code has a sum; positions after an end token are part of the
    response; ψ = 1; no centring of logits over the vocabulary, which changes the parametrisation and not the log-probabilities.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        def per_mask(other: Tensor) -> Tensor:
            return masks.weight * reduce((token_log_prob - other).double(), "g n r s -> g n r", "sum")

        to_ref = None if experience.log_ref is None else per_mask(experience.log_ref)
        length = reduce(experience.rollout.response_mask, "g n s -> g n", "sum")
        change, advantage = per_mask(need(experience.log_old)), centred(experience.reward)
        return gdsd(change, to_ref, length, advantage, psi=PSI, clip=config.clip, kl=config.kl)

    reads = ("kl", "clip", *mask_options(config))
    return Objective(choose_masks(config), loss, uses_log_old=True, uses_log_ref=config.kl > 0, reads=reads, **path_flags(config))


def gdsd(change: Tensor, to_ref: Tensor | None, length: Tensor, advantage: Tensor, *, psi: float, clip: float, kl: float) -> Tensor:
    """The loss of GDSD.

        mean over responses and masks of (clip(Δ, ln(1−ε), ln(1+ε)) / L − ψA)² + (β/L) · ½ (ELBO_θ − ELBO_ref)²,   Δ = ELBO_θ − ELBO_old

    Its target is p_old e^{LψA}, which moves with every round, so it maximises the reward. The first gradient of a round is
    −2ψA ∇ELBO/L, the policy gradient. The clip applies to the whole response, whatever the sign of A, and gives no gradient outside:
    where L ψ|A| is more than ln(1+ε), the target is never reached, and the loss acts as a policy gradient with a bound on the change
    (published: ε = 0.0004, L = 256). The square is taken mask by mask, so that the masks add a penalty on the variance of Δ over masks.

    Args:
        change: [G, N, R] Δ of each mask, nats. to_ref: [G, N, R] ELBO_θ − ELBO_ref, None for β = 0; all on the same masks.
        length: [G, N] L. advantage: [G, N] A = r − mean r. psi: ψ. clip: ε; no lower bound for ε ≥ 1. kl: β.
    """
    length, advantage = (rearrange(x, "g n -> g n 1") for x in (length, advantage))
    kept = change.clamp(math.log(1 - clip) if clip < 1 else -math.inf, math.log(1 + clip))
    per_mask = (kept / length - psi * advantage).square()
    if to_ref is not None:
        per_mask = per_mask + kl * k2(to_ref) / length
    return per_mask.mean()
