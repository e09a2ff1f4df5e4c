"""diffu-GRPO, the objective of d1 (arXiv 2504.12216): policy gradient with a clipped ratio of one-shot token log-probabilities."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.masking import Masks, uniforms_at
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.objectives.policy_gradient import centred, clipped_gain, k3
from dmpo_ref.rollout import Experience, Rollout

PROMPT_MASKING = 0.15  # probability that a given token is hidden, as published


def build(config: LossConfig, alpha: float) -> Objective:
    """diffu-GRPO with β = `config.kl` and ε = `config.clip`. Each step has its own masks, shared by p_θ, p_old and p_ref.

    Departures: positions after an end token count too; clues that stand within a response are hidden like the prompt.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        advantage, log_old = centred(experience.reward), need(experience.log_old)
        return clip_loss(token_log_prob, log_old, experience.log_ref, masks.target, advantage, clip=config.clip, kl=config.kl)

    return Objective(one_shot_masks, loss, uses_log_old=True, uses_log_ref=config.kl > 0, reads=("kl", "clip"))


def one_shot_masks(rollout: Rollout, generators: list[torch.Generator]) -> Masks:
    """One mask of each response: all of it hidden and scored at once, ℓ_k = log π(o_k | q̃, M…M).

    In q̃ each given token is hidden with probability 0.15, and not scored. Given tokens are those of the prompt and,
    if the response stands between clues, the clues. The weight is 1, so that `sequence_log_prob` is Σ_k ℓ_k.
    """
    given = rollout.attention_mask & ~rollout.response_mask
    N = given.shape[1]
    uniform = torch.stack([uniforms_at(row[0], g, N) for row, g in zip(given.cpu(), generators, strict=True)])
    hidden = rollout.response_mask | (given & (uniform.to(given.device) < PROMPT_MASKING))
    hidden, target = (rearrange(x, "g n s -> g n 1 s") for x in (hidden, rollout.response_mask))
    return Masks(hidden, target, torch.ones(hidden.shape[:3], dtype=torch.float64, device=hidden.device))


def clip_loss(
    token_log_prob: Tensor, log_old: Tensor, log_ref: Tensor | None, target: Tensor, advantage: Tensor, *, clip: float, kl: float
) -> Tensor:
    """The clipped policy-gradient loss of GRPO, token by token.

        mean over responses of (1/L) Σ_k [ −min(ρ_k A, clip(ρ_k, 1−ε, 1+ε) A) + β (e^{d_k} − d_k − 1) ],
        ρ_k = exp(ℓ_k − ℓ_k^old),   d_k = ℓ_k^ref − ℓ_k,   A = r − mean(r)

    The last term is the k3 estimate of KL(p_θ‖p_ref). On-policy ρ = 1, and for β = 0 the gradient is −mean A ∇(Σ_k ℓ_k)/L.

    Args:
        token_log_prob, log_old, log_ref: [G, N, R, S] nats, under one set of masks; `log_ref` is None for β = 0.
        target: [G, N, R, S] bool, the scored positions.
        advantage: [G, N] A.
        clip: ε. kl: β.
    """
    per_token = -clipped_gain(token_log_prob - log_old, rearrange(advantage, "g n -> g n 1 1"), clip)
    if log_ref is not None:
        per_token = per_token + kl * k3(token_log_prob - log_ref)
    per_response = reduce(per_token * target, "g n r s -> g n", "sum") / reduce(target, "g n r s -> g n", "sum")
    return per_response.mean()
