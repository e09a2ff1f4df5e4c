"""Trajectory balance, as in FlowRL (arXiv 2509.15207), on the exact path log-probabilities of random-order rollouts."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

from dmpo_ref.config import LossConfig
from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import Masks
from dmpo_ref.objectives.base import Objective, follow_path, need
from dmpo_ref.rollout import Experience


def build(config: LossConfig, alpha: float) -> Objective:
    """Trajectory balance along the rollout's own order, at the temperature α of the target.

    Departures: log Z(q) is estimated by importance weights of the group in place of a network, see `log_normaliser`; rewards are not
    standardised, log-probabilities not divided by L; no weights p_θ/p_old, because the loss is valid for rollouts of any policy.
    """

    def loss(token_log_prob: Tensor, masks: Masks, experience: Experience, weight: Tensor) -> Tensor:
        log_old, log_ref = (sequence_log_prob(need(x), masks) for x in (experience.log_old, experience.log_ref))
        log_z = log_normaliser(log_ref - log_old, experience.reward, alpha)
        return trajectory_balance(sequence_log_prob(token_log_prob, masks) - log_ref, log_z, experience.reward, alpha)

    return Objective(follow_path, loss, uses_log_old=True, uses_log_ref=True, follows_path=True)


def trajectory_balance(to_ref: Tensor, log_z: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """mean over prompts and rollouts of (log Z(q) + log p_θ(o;σ) − log p_ref(o;σ) − r/α)²: 0 at p_θ(o;σ) = p_ref(o;σ) e^{r/α} / Z(q).

    With the log Z that minimises it for each group, the mean of r/α − to_ref, it is (N−1)/N of `log_variance`. A learned log Z
    tends to that mean over rollouts, log Z − KL(p_θ‖p*) on-policy, and not to log Z. On-policy and with a log Z that does not
    depend on the rollout itself the expected gradient is 2/α times that of REINFORCE with a KL of strength α, whatever log Z is:
    log Z is a baseline there. Off-policy it matters: too large a log Z makes all rollouts less probable.

    Args:
        to_ref: [G, N] log p_θ − log p_ref along each rollout's own order, nats.
        log_z: [G, N] log Z(q), an estimate for each rollout.
        reward: [G, N] r. alpha: α, reward per nat.
    """
    return (log_z + to_ref - reward / alpha).square().mean()


def log_normaliser(log_ratio: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """log Z(q) for each rollout, from the others of its group: log mean over j≠n of e^{r/α} p_ref/p_old. [G, N]

    The mean is unbiased for Z(q) = E_{p_old}[e^{r/α} p_ref/p_old], its log is too small on average; exact where p_old = p*.

    Args:
        log_ratio: [G, N] log p_ref − log p_old along each rollout's own order, nats.
    """
    log_weight = reward / alpha + log_ratio
    N = log_weight.shape[-1]
    itself = torch.eye(N, dtype=torch.bool, device=log_weight.device)
    return rearrange(log_weight, "g n -> g 1 n").masked_fill(itself, -math.inf).logsumexp(dim=-1) - math.log(N - 1)
