"""DMPO on one prompt with C answers and one logit for each: many steps, many groups, many runs of it at a time.

What a step is, is given as a function, so that everything here holds for any weights and any loss:

    step(groups, log_theta, log_old) → minus the gradient in the logits

for groups of answers [G, N] and the policies [G, C] of each, every group on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor

from dmpo_ref.losses import wdce
from dmpo_ref.masking import stream
from dmpo_ref.weights import baseline_weights, log_weights, target_weights
from toy.enumeration import all_groups, moments, multinomial
from toy.oracle import kl_divergence
from toy.worlds.mixture import TabularPolicy, World, draw_cells

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def descend(step: Step, groups: Tensor, log_old: Tensor, *, steps: int, rate: float) -> Tensor:
    """log p_θ after plain gradient steps on the same groups, from p_θ = p_old: z ← z + rate · step. [G, N], [G, C] → [G, C]"""
    log_theta = log_old
    for _ in range(steps):
        log_theta = (log_theta + rate * step(groups, log_theta, log_old)).log_softmax(dim=1)
    return log_theta


def expected_step(step: Step, N: int, log_theta: Tensor, log_old: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the step over all groups of N rollouts of p_old, and the variance of each of its components: [C], [C] → [C], [C]."""
    counts, chance = multinomial(N, log_old)
    theta, old = (x.expand(len(counts), -1) for x in (log_theta, log_old))
    return moments(step(all_groups(N, len(log_old)), theta, old), chance)


def expected_path(step: Step, N: int, log_start: Tensor, *, steps: int, rate: float = 0.2) -> Tensor:
    """log p_θ after so many exact expected steps, with p_old ← p_θ before each of them, [C] → [C]."""
    log_p = log_start
    for _ in range(steps):
        log_p = (log_p + rate * expected_step(step, N, log_p, log_p)[0]).log_softmax(dim=0)
    return log_p


def simulate(
    step: Step, N: int, log_start: Tensor, *, rounds: int = 100, steps: int = 4, rate: float = 1.0, runs: int = 400, seed: int = 0
) -> Tensor:
    """log p_θ of independent runs of DMPO, one group of N rollouts in a round, p_old ← p_θ before each: [C] → [rounds + 1, runs, C]."""
    history, generator = [log_start.expand(runs, -1)], stream(seed, "drift")
    for _ in range(rounds):
        log_old = history[-1]
        groups = torch.multinomial(log_old.exp(), N, replacement=True, generator=generator)
        history.append(descend(step, groups, log_old, steps=steps, rate=rate))
    return torch.stack(history)


def divergence(log_target: Tensor, log_p: Tensor) -> Tensor:
    """KL(p*‖p) of many policies, in nats: [C], [..., C] → [...]. Rounding may not make it negative."""
    return (log_target.exp() * (log_target - log_p)).sum(dim=-1).clamp(min=0)


def lost(log_target: Tensor, log_p: Tensor) -> float:
    """Share of the policies [..., C] in which some answer has less than a tenth of its probability under p*."""
    return (log_p - log_target < log(0.1)).any(dim=-1).double().mean().item()


def noisy_fit(
    world: World, baseline: str, *, noise: float, optimizer: Callable[..., Any], rate: float, rounds: int, seed: int, num_rollouts: int = 64
) -> float:
    """KL(p*‖p_θ) in nats after DMPO with log-likelihoods times 1 + νξ in the loss, ξ ~ N(0, 1), drawn anew in every step.

    A tabular policy, one group in a round, four steps on it, exact weights.

    Args:
        baseline: one that does not depend on p_θ: none, uniform or negative.
        noise: ν ≥ 0, the standard deviation of the factor.
        optimizer: of `torch.optim`, called with the parameters and `lr=rate`.
    """
    policy, xi = TabularPolicy(world), stream(seed, "noise")
    method = optimizer(policy.parameters(), lr=rate)
    for t in range(rounds):
        log_old = policy.log_prob().detach()
        cells = draw_cells(log_old, (1, num_rollouts), stream(seed, "rollout", t))
        reward, log_ratio = world.reward[cells], (world.log_ref - log_old)[cells]
        weight = target_weights(log_weights(reward, log_ratio, alpha=world.alpha))
        weight = weight - baseline_weights(baseline, reward, log_ratio, alpha=world.alpha)
        for _ in range(4):
            factor = 1 + noise * torch.randn(cells.shape, dtype=torch.float64, generator=xi)
            method.zero_grad()
            wdce(factor * policy.log_prob()[cells], weight).backward()
            method.step()
    return kl_divergence(world.log_target, policy.log_prob().detach())
