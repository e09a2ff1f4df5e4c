"""The finite sums behind the notebooks: every group of N rollouts, every mask of L positions, and moments over all of them.

A group of rollouts matters only by how often it holds each answer, so C^N ordered groups are few cases with multinomial probabilities.
Cases stand first in every tensor, and everything is in float64. Lists are kept once they are made, and shared: do not write to them.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from math import comb, lgamma

import numpy as np
import torch
from torch import Tensor

from toy.oracle import kl_divergence

SCHEMES = ("exact", "stratified", "antithetic", "naive pairs", "paper")


def multinomial(N: int, log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """All ways in which N independent draws can fall on C outcomes, and the probability of each.

    P(k) = N! / Π_c k_c! · Π_c p_c^{k_c}

    Args:
        log_prob: [C] log-probabilities of the outcomes; −∞ is allowed.

    Returns:
        counts [K, C] of `all_counts` and their probabilities [K], both float64, K = C(N + C − 1, C − 1).
    """
    counts = all_counts(N, len(log_prob)).double()
    log_orders = lgamma(N + 1) - torch.lgamma(counts + 1).sum(dim=1)
    log_draws = torch.where(counts > 0, counts * log_prob, 0.0).sum(dim=1)
    return counts, (log_orders + log_draws).exp()


@cache
def all_counts(N: int, C: int) -> Tensor:
    """How often each of C answers can occur among N rollouts, [K, C]: N stars between C − 1 bars. The first answer N times comes first."""
    bars = torch.tensor(list(combinations(range(N + C - 1), C - 1)), dtype=torch.long)
    ends = torch.ones(len(bars), 1, dtype=torch.long)
    return (torch.cat([-ends, bars, (N + C - 1) * ends], dim=1).diff(dim=1) - 1).flip(0)


@cache
def all_groups(N: int, C: int) -> Tensor:
    """The groups of `all_counts` as N answers each, in ascending order, [K, N]."""
    counts = all_counts(N, C)
    return torch.arange(C).repeat(len(counts)).repeat_interleave(counts.flatten()).view(-1, N)


def moments(values: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean Σ_k P_k v_k and variance Σ_k P_k (v_k − mean)² over K cases: [K, …] and [K] → […] each."""
    mean = torch.tensordot(chance, values, dims=1)
    return mean, torch.tensordot(chance, (values - mean).square(), dims=1)


def self_normalised(log_old: Tensor, log_weight: Tensor, N: int) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of the weight that falls on each answer, over all groups of N rollouts of p_old.

    An answer that occurs k_c times in a group gets k_c e^{ℓ_c} / Σ_d k_d e^{ℓ_d}: softmax over the rollouts, summed by answer.

    Args:
        log_old: [C] log p_old.
        log_weight: [C] ℓ = r/α + log p_ref − log p_old; a constant does not matter.

    Returns:
        [C] and [C].
    """
    counts, chance = multinomial(N, log_old)
    unnormalised = counts * (log_weight - log_weight.max()).exp()
    mean, variance = moments(unnormalised / unnormalised.sum(dim=1, keepdim=True), chance)
    return mean, variance.sqrt()


def judge(
    values: Tensor, chance: Tensor, *, truth: Tensor, log_old: Tensor, log_tilt: Tensor, copies: int = 1
) -> tuple[float, float, float]:
    """How good an estimate X(o) of log p_ref(o) − log p_old(o) is: its error, and what its weights e^{r/α + X} lead to as N → ∞.

    Args:
        values: [K, C] the K values that X can take for each answer.
        chance: [K, C] or [K, 1] their probabilities, which may depend on the answer.
        truth: [C] the true log-ratio. log_old: [C] log p_old. log_tilt: [C] r/α.
        copies: R independent estimates are averaged, so E[e^{mean of X}] = E[e^{X/R}]^R.

    Returns:
        error: root mean square of X − truth over rollouts of p_old, in nats;
        divergence: KL(p*‖limit) in nats, limit ∝ p_old · e^{r/α} · E[e^X | o];
        ess: E[w]² / E[w²] of the weights w as N → ∞, a share in [0, 1].
    """
    log_mean = copies * (chance.log() + values / copies).logsumexp(dim=0)
    log_square = copies * (chance.log() + 2 * values / copies).logsumexp(dim=0)
    mean = (chance * values).sum(dim=0)
    variance = (chance * (values - mean).square()).sum(dim=0) / copies
    error = (log_old.exp() @ ((mean - truth).square() + variance)).sqrt().item()
    log_first, log_second = log_old + log_tilt + log_mean, log_old + 2 * log_tilt + log_square
    log_target = (log_old + log_tilt + truth).log_softmax(dim=0)
    ess = (2 * log_first.logsumexp(dim=0) - log_second.logsumexp(dim=0)).exp().item()
    return error, kl_divergence(log_target, log_first.log_softmax(dim=0)), ess


@cache
def all_masks(L: int) -> Tensor:
    """Every set of hidden positions, [2^L, L] bool: by size, then in the order of `itertools.combinations`.

    The first is empty, the last one full, and the complement of mask i is mask 2^L − 1 − i.
    """
    found = torch.zeros(2**L, L, dtype=torch.bool)
    for i, chosen in enumerate(s for m in range(L + 1) for s in combinations(range(L), m)):
        found[i, list(chosen)] = True
    return found


def mask_index(hidden: Tensor) -> Tensor:
    """Which of `all_masks` a mask is: [..., L] bool → [...] int64."""
    bit = 2 ** torch.arange(hidden.shape[-1])
    return (all_masks(hidden.shape[-1]) * bit).sum(dim=-1).argsort()[(hidden * bit).sum(dim=-1)]


def mask_sizes(L: int) -> Tensor:
    """How many positions each of `all_masks` hides, [2^L] int64."""
    return all_masks(L).sum(dim=-1)


def mask_chances(size_chances: Tensor) -> Tensor:
    """P(S) = P(|S|) / C(L, |S|) of each of `all_masks`, if all masks of one size are equally likely: [L + 1] → [2^L]."""
    L = len(size_chances) - 1
    ways = torch.tensor([comb(L, m) for m in range(L + 1)], dtype=torch.float64)
    return (size_chances / ways)[mask_sizes(L)]


def uniform_sizes(L: int, low: int) -> Tensor:
    """P(|S| = m) for m = 0..L if m ~ U{low..L}, [L + 1]."""
    return (torch.arange(L + 1) >= low).double() / (L + 1 - low)


def bernoulli_sizes(L: int, low: float) -> Tensor:
    """P(|S| = m) = ∫ C(L, m) p^m (1 − p)^{L − m} dp / (1 − low), m = 0..L: each position hidden with probability p ~ U[low, 1]. [L + 1]

    Gauss–Legendre quadrature, exact for polynomials.
    """
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(L + 2))
    p = low + (1 - low) * (nodes + 1) / 2
    return torch.stack([float(comb(L, m)) * (weights / 2) @ (p**m * (1 - p) ** (L - m)) for m in range(L + 1)])


def elbo_over_masks(values: Tensor) -> Tensor:
    """Σ_S v(S) / (|S| C(L, |S|)) over the masks S ≠ ∅, [2^L, …] → […].

    The ELBO, if v(S) is the log-probability of the tokens that S hides; the NELBO, if it is minus that.
    """
    L = len(values).bit_length() - 1
    size = mask_sizes(L)[1:]
    return torch.tensordot(mask_chances(uniform_sizes(L, 1))[1:] * L / size, values[1:], dims=1)


def pair_estimates(values: Tensor, weight: Tensor) -> Tensor:
    """(a_{|S|} v(S) + a_{|S'|} v(S')) / 2 for each of `all_masks` and its complement S'; an empty side gives 0. [2^L, …] → [2^L, …]

    Args:
        weight: [L + 1] a_m, what a side that hides m positions is multiplied by; that of m = 0 is not read.
    """
    L = len(values).bit_length() - 1
    factor = weight[mask_sizes(L)].reshape(-1, *[1] * (values.dim() - 1))
    side = torch.cat([torch.zeros_like(values[:1]), factor[1:] * values[1:]])
    return (side + side.flip(0)) / 2


def scheme_moments(scheme: str, cost: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and variance of an estimate of the NELBO from two masks, [2^L, …] → […] each.

    Args:
        scheme: one of `SCHEMES`. `exact`: two independent masks, m ~ U{1..L}. `stratified`: sizes m and m + L/2, m ~ U{1..L/2}. The
            others are a mask and its complement: `antithetic`, m ~ U{0..L}, weights (L + 1)/m; `naive pairs`, m ~ U{1..L}, L/m;
            `paper`, positions hidden with probability p ~ U[0.1, 1], L/m.
        cost: −Σ log π over the tokens that each of `all_masks` hides.

    Raises:
        ValueError: unknown scheme; `stratified` and an odd L.
    """
    L = len(cost).bit_length() - 1
    size = mask_sizes(L)
    per_token = L / torch.arange(L + 1, dtype=torch.float64)  # of m = 0: not read
    if scheme == "exact":
        mean, variance = moments(per_token[size[1:]].reshape(-1, *[1] * (cost.dim() - 1)) * cost[1:], mask_chances(uniform_sizes(L, 1))[1:])
        return mean, variance / 2
    if scheme == "stratified":
        if L % 2:
            raise ValueError(f"stratified: L = {L} positions cannot be halved; an even number is needed")
        of_size = [L / m * cost[size == m] for m in range(1, L + 1)]
        halves = list(zip(of_size[: L // 2], of_size[L // 2 :], strict=True))
        means = torch.stack([(a.mean(dim=0) + b.mean(dim=0)) / 2 for a, b in halves])
        within = torch.stack([(a.var(dim=0, correction=0) + b.var(dim=0, correction=0)) / 4 for a, b in halves])
        return means.mean(dim=0), means.var(dim=0, correction=0) + within.mean(dim=0)
    pairs = {
        "antithetic": (per_token * (L + 1) / L, uniform_sizes(L, 0)),
        "naive pairs": (per_token, uniform_sizes(L, 1)),
        "paper": (per_token, bernoulli_sizes(L, 0.1)),
    }
    if scheme not in pairs:
        raise ValueError(f"scheme {scheme!r} is unknown; choose one of {', '.join(SCHEMES)}")
    weight, size_chances = pairs[scheme]
    return moments(pair_estimates(cost, weight), mask_chances(size_chances))
