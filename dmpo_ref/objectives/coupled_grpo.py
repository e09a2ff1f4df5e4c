"""Coupled-GRPO, the objective of DiffuCoder (arXiv 2506.20639): clipped ratios of token log-probabilities under complementary masks."""

from __future__ import annotations

import torch
from einops import rearrange, reduce
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.masking import Masks, uniforms_at
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.objectives.diffu_grpo import clip_loss
from dmpo_ref.objectives.policy_gradient import leave_one_out
from dmpo_ref.rollout import Experience, Rollout

LEAST_SHARE, MOST_SHARE = 0.2, 0.8  # of the response that the first of the two masks hides, on average; as published


def build(config: LossConfig, alpha: float) -> Objective:
    """Coupled-GRPO with β = `config.kl` and ε = `config.clip`: three masks of each response, shared by p_θ, p_old and p_ref.

        loss = `clip_loss` of ℓ_k = ½ [ x_k(M…M) + 1[k∈S]/t · x_k(S) + 1[k∉S]/(1−t) · x_k(S') ],   A = r − mean of the others

    x_k(S) = log π(o_k | all of the response but S) and S' the complement. Departures: positions after an end token count too.
    As published, ℓ_k is not a mean: its weights sum to ½ + ½/t or ½ + ½/(1−t), between 1.1 and 3, and to 3/2 on average over S. So ρ_k
    is a power of a ratio, and the same change of the policy is clipped sooner at tokens of the smaller mask.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        log_ref = None if experience.log_ref is None else couple(experience.log_ref, masks)
        log_policy, log_old = couple(token_log_prob, masks), couple(need(experience.log_old), masks)
        target, advantage = rearrange(experience.rollout.response_mask, "g n s -> g n 1 s"), leave_one_out(experience.reward)
        return clip_loss(log_policy, log_old, log_ref, target, advantage, clip=config.clip, kl=config.kl)

    return Objective(coupled_masks, loss, uses_log_old=True, uses_log_ref=config.kl > 0, reads=("kl", "clip"))


def couple(token_log_prob: Tensor, masks: Masks) -> Tensor:
    """ℓ_k [G, N, 1, S], the weighted mean of token log-probabilities [G, N, R, S] over the masks."""
    return reduce(rearrange(masks.weight, "g n r -> g n r 1") * token_log_prob, "g n r s -> g n 1 s", "mean")


def coupled_masks(rollout: Rollout, generators: list[torch.Generator]) -> Masks:
    """`complementary_masks`, with a generator for each prompt: t ~ U(0.2, 0.8) for each response, S each position with probability t."""
    response, N = rollout.response_mask, rollout.response_mask.shape[1]
    size_u = torch.stack([torch.rand(N, generator=g, dtype=torch.float64) for g in generators])
    position_u = torch.stack([uniforms_at(row.any(dim=0), g, N) for row, g in zip(response.cpu(), generators, strict=True)])
    return complementary_masks(response, size_u.to(response.device), position_u.to(response.device))


def complementary_masks(response: Tensor, size_u: Tensor, position_u: Tensor) -> Masks:
    """All of the response, S and its complement, weights 3/2 · (1, 1/t, 1/(1−t)), so that their mean is ℓ_k.

    Args:
        response: [G, N, S] bool. size_u: [G, N], decides t. position_u: [G, N, S]; all uniform on [0, 1).
    """
    t = LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * size_u
    first = response & (position_u < rearrange(t, "g n -> g n 1"))
    hidden = torch.stack([response, first, response & ~first], dim=2)
    return Masks(hidden, hidden, 1.5 * torch.stack([torch.ones_like(t), 1 / t, 1 / (1 - t)], dim=-1))
