"""The mask schemes of the likelihood: which response positions are hidden, and the weight of each mask in the estimate.

The negative evidence lower bound of a response o of length L (arXiv 2510.08233, section 2) is

    L_θ(o|q) = E_{m ~ U{1..L}} [ (L/m) · E_{mask of size m} Σ_{d masked} −log π_θ(o_d | masked o, q) ].

R masks of each response are averaged. `Masks` holds them with their weights, and the random numbers come from generators
keyed by their purpose, so that nothing depends on batches, processes or the global random state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor


@dataclass
class Masks:
    """R partly hidden versions of each of the N responses to G prompts, and their weights.

    An estimate of the log-probability of response (g, n) is mean over r of
    `weight[g, n, r] · Σ_{s in target} log π(o_s | what is not hidden)`.

    Attributes:
        hidden: [G, N, R, S] bool, the positions replaced by the mask token.
        target: [G, N, R, S] bool, the positions whose tokens are scored; a subset of `hidden`.
        weight: [G, N, R] float64, for example L/m.
    """

    hidden: Tensor
    target: Tensor
    weight: Tensor


def stream(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator keyed by (seed, purpose); equal keys give equal numbers on every machine and process."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    # 63 bits: manual_seed takes a signed 64-bit integer.
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def streams(seed: int, purpose: str, position: list[int], *key: int | str) -> list[torch.Generator]:
    """One `stream` for each prompt, keyed by its place in the data stream of the run."""
    return [stream(seed, purpose, p, *key) for p in position]


def draw_masks(scheme: str, response_mask: Tensor, num_masks: int, generators: list[torch.Generator]) -> Masks:
    """Draw R masks for every response under one of `SCHEMES`.

    Args:
        scheme: "exact", "stratified", "systematic", "antithetic" (all unbiased), "gauss" (unbiased where L ≤ 2R) or "paper" (biased,
            kept for comparison).
        response_mask: [G, N, S] bool, the generated positions; L is their number in each row.
        num_masks: R ≥ 1; if it is odd, the last mask of a paired scheme has no partner.
        generators: one for each of the G prompts.

    Raises:
        ValueError: unknown scheme, R < 1, or a row with nothing to generate.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"masks={scheme!r} is not a mask scheme; choose one of {', '.join(SCHEMES)}")
    if num_masks < 1:
        raise ValueError(f"num_masks={num_masks}: at least 1 mask is needed")
    response, device = response_mask.cpu(), response_mask.device
    if not response.any(dim=-1).all():
        raise ValueError("a row has nothing to generate: its response mask is empty")
    N, R = response.shape[1], num_masks
    size_u = torch.stack([torch.rand(N, R, generator=g, dtype=torch.float64) for g in generators])
    position_u = torch.stack([uniforms_at(row.any(dim=0), g, N, R) for row, g in zip(response, generators, strict=True)])
    return masks_from_uniforms(scheme, response_mask, size_u.to(device), position_u.to(device))


def uniforms_at(positions: Tensor, generator: torch.Generator, *shape: int) -> Tensor:
    """Uniforms [*shape, S] on [0, 1) at the True places of `positions` [S], 0 elsewhere; float64, on the CPU.

    Only as many numbers are drawn as there are places, so padding, and therefore the rest of the batch, changes nothing.
    """
    full = torch.zeros(*shape, len(positions), dtype=torch.float64)
    full[..., positions] = torch.rand(*shape, int(positions.sum()), generator=generator, dtype=torch.float64)
    return full


def masks_from_uniforms(scheme: str, response_mask: Tensor, size_u: Tensor, position_u: Tensor) -> Masks:
    """Masks and weights from uniforms on [0, 1): the deterministic half of `draw_masks`, so that a test can enumerate them.

    Args:
        response_mask: [G, N, S] bool.
        size_u: [G, N, R] decides how many positions are hidden.
        position_u: [G, N, R, S] decides which: those with the smallest values.
    """
    R = size_u.shape[-1]
    response = repeat(response_mask, "g n s -> g n r s", r=R)
    L = response.sum(dim=-1)
    hidden, weight = SCHEMES[scheme](response, L, size_u, position_u)
    return Masks(hidden, hidden, weight)


def path_masks(step: Tensor, num_steps: int) -> Masks:
    """The rollout's own order as masks: log p(o; σ) = Σ_i log π(o_{σ(i)} | o_{σ(<i)}), one mask for each step.

    Mask i hides everything that was not unmasked before step i, and scores what was unmasked in step i.

    Args:
        step: [G, N, S] int, the step at which a position was unmasked, −1 where nothing was generated.
        num_steps: number of steps of the longest response the rollout was drawn with.

    Returns:
        Masks with R = `num_steps` and weight R, so that their *mean* is the sum along the path.
    """
    R = num_steps
    now = rearrange(torch.arange(R, device=step.device), "r -> r 1")
    step = rearrange(step, "g n s -> g n 1 s")
    weight = torch.full((*step.shape[:2], R), float(R), dtype=torch.float64, device=step.device)
    return Masks(hidden=step >= now, target=step == now, weight=weight)


def draw_path_steps(step: Tensor, num_steps: int, num_masks: int, generators: list[torch.Generator]) -> Masks:
    """Masks of R steps of every rollout's own order, or of all if there are fewer: `path_steps_from_uniforms`, one generator per prompt."""
    u = torch.stack([torch.rand(step.shape[1], min(num_masks, num_steps), generator=g, dtype=torch.float64) for g in generators])
    return path_steps_from_uniforms(step, num_steps, u.to(step.device))


def path_steps_from_uniforms(step: Tensor, num_steps: int, step_u: Tensor) -> Masks:
    """R of the masks of `path_masks` for each rollout: an unbiased estimate of log p(o; σ) at the price of R rows.

    A row took T steps. They are cut, in their order, into R strata of n_j = ⌊(j+1)T/R⌋ − ⌊jT/R⌋ steps, and step t_j is drawn
    uniformly from the j-th. Strata do not overlap, so no step is drawn twice; its weight is R n_j (T if R divides T), so that
    E[mean_j R n_j x(t_j)] = Σ_j Σ_{t in stratum j} x(t), the sum over all steps of x(t) = Σ_{s placed in t} log π(o_s | before t).
    With R ≥ T every step is scored once and the estimate is exact; the R − T empty strata hide and score nothing.

    Args:
        step, num_steps: as in `path_masks`. For a row with fewer steps than `num_steps`, only its own steps are drawn.
        step_u: [G, N, R] uniforms on [0, 1), which decide the step of each stratum.
    """
    R = step_u.shape[-1]
    taken = torch.zeros(*step.shape[:2], num_steps + 1, dtype=torch.bool, device=step.device).scatter_(-1, step + 1, True)[..., 1:]
    own = taken.byte().argsort(dim=-1, descending=True, stable=True)  # the steps of each row first, in their order
    edge = reduce(taken, "g n t -> g n 1", "sum") * torch.arange(R + 1, device=step.device) // R
    start, size = edge[..., :-1], edge.diff(dim=-1)
    now = rearrange(own.gather(-1, (start + (step_u * size).long()).clamp(max=num_steps - 1)), "g n r -> g n r 1")
    step, scored = rearrange(step, "g n s -> g n 1 s"), rearrange(size > 0, "g n r -> g n r 1")
    return Masks(hidden=(step >= now) & scored, target=(step == now) & scored, weight=R * size.double())


def exact(response: Tensor, L: Tensor, size_u: Tensor, position_u: Tensor) -> tuple[Tensor, Tensor]:
    """m ~ U{1..L} for every mask, weight L/m. Unbiased."""
    m = 1 + (size_u * L).long()
    return smallest(response, position_u, m), L / m.double()


def stratified(response: Tensor, L: Tensor, size_u: Tensor, position_u: Tensor) -> tuple[Tensor, Tensor]:
    """m_j = 1 + ⌊L(j + U)/R⌋, j = 0..R−1, with one U for all masks of a row, weight L/m_j. Unbiased."""
    m = stratified_sizes(L, size_u)
    return smallest(response, position_u, m), L / m.double()


def systematic(response: Tensor, L: Tensor, size_u: Tensor, position_u: Tensor) -> tuple[Tensor, Tensor]:
    """The sizes of `stratified`, and positions that are spread as evenly: successive pieces of one random order, weight L/m_j. Unbiased.

    The order is walked through again and again; each mask begins where the one before it ended. So every mask by itself is a uniformly
    random set of its size, and together they hide all positions equally often, to within one.
    """
    m = stratified_sizes(L, size_u)
    return successive(response, position_u[..., :1, :], m), L / m.double()


def stratified_sizes(L: Tensor, size_u: Tensor) -> Tensor:
    """m_j = 1 + ⌊L(j + U)/R⌋, j = 0..R−1, with the first uniform of a row as U. [..., R] int."""
    R = size_u.shape[-1]
    j = torch.arange(R, device=L.device)
    return 1 + (L * (j + size_u[..., :1]) / R).long().clamp(max=L - 1)  # rounding may reach L


def antithetic(response: Tensor, L: Tensor, size_u: Tensor, position_u: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs: m ~ U{0..L}, a set of that size and its complement, weights (L+1)/m and (L+1)/(L−m). Unbiased.

    An empty side contributes 0. An odd last mask is drawn as in `exact`.
    """
    m = (size_u * (L + 1)).long()
    hidden = complement_second(smallest(response, position_u, m), response)
    size = hidden.sum(dim=-1)
    weight = torch.where(size > 0, (L + 1) / size.clamp(min=1).double(), 0.0)
    if size_u.shape[-1] % 2:
        last = slice(-1, None)
        hidden[..., last, :], weight[..., last] = exact(response[..., last, :], L[..., last], size_u[..., last], position_u[..., last, :])
    return hidden, weight


def paper(response: Tensor, L: Tensor, size_u: Tensor, position_u: Tensor) -> tuple[Tensor, Tensor]:
    """The published scheme, biased: Bernoulli masks of probability 0.1 + 0.9u and their complements, weight L/max(m, 1)."""
    hidden = complement_second(response & (position_u < (0.1 + 0.9 * size_u).unsqueeze(-1)), response)
    return hidden, L / hidden.sum(dim=-1).clamp(min=1).double()


def gauss(response: Tensor, L: Tensor, size_u: Tensor, position_u: Tensor) -> tuple[Tensor, Tensor]:
    """The ELBO as an integral over the share t of hidden positions, by R-point Gauss-Legendre quadrature (arXiv 2510.08554).

        −L_θ = ∫₀¹ f(t) dt ≈ Σ_i λ_i f(t_i),   f(t) = (1/t) E[Σ_masked log π] under Bernoulli(t) masks

    Mask i is drawn at the i-th node, weight R λ_i / t_i. A position is hidden with probability t, so f(t) is the sum over positions d
    of E[log π(o_d | the others under Bernoulli(t))], a polynomial in t of degree L − 1 at most, and R nodes integrate degree 2R − 1
    exactly: unbiased where L ≤ 2R, whatever the policy. A longer response is biased by f^(2R)(τ) (R!)⁴ / ((2R+1) ((2R)!)³) for some
    τ. Only all R masks together estimate the ELBO; a single one does not.
    """
    node, share = (x.to(response.device) for x in gauss_legendre(size_u.shape[-1]))
    return response & (position_u < rearrange(node, "r -> r 1")), (size_u.shape[-1] * share / node).expand(L.shape)


@cache
def gauss_legendre(num_nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of R-point Gauss-Legendre quadrature of ∫₀¹, [R] float64 each; the weights sum to 1.

    The nodes are the eigenvalues of the Jacobi matrix of the Legendre polynomials, moved from [−1, 1]; a weight is the square of the
    first component of its eigenvector.
    """
    k = torch.arange(1, num_nodes, dtype=torch.float64)
    node, vector = torch.linalg.eigh(torch.diag(k / (4 * k**2 - 1).sqrt(), 1), UPLO="U")
    return (node + 1) / 2, vector[0].square()


SCHEMES = {
    "exact": exact,
    "stratified": stratified,
    "systematic": systematic,
    "antithetic": antithetic,
    "gauss": gauss,
    "paper": paper,
}


def smallest(response: Tensor, position_u: Tensor, m: Tensor) -> Tensor:
    """The m response positions with the smallest uniforms: a uniformly random subset of that size. [..., S] bool."""
    rank = position_u.masked_fill(~response, torch.inf).argsort(dim=-1).argsort(dim=-1)
    return response & (rank < m.unsqueeze(-1))


def successive(response: Tensor, position_u: Tensor, m: Tensor) -> Tensor:
    """Sets of the sizes `m` [..., R] from one random order that is walked through again and again: each begins where the last one ended.

    Args:
        response: [..., R or 1, S] bool, equal for all R. position_u: [..., 1, S] uniforms, which decide the order.
    """
    place = position_u.masked_fill(~response[..., :1, :], torch.inf).argsort(dim=-1).argsort(dim=-1)
    start = (m.cumsum(dim=-1) - m).unsqueeze(-1)
    return response & ((place - start) % response.sum(dim=-1, keepdim=True) < m.unsqueeze(-1))


def complement_second(hidden: Tensor, response: Tensor) -> Tensor:
    """Replace every second mask by the complement of the one before it; if R is odd, the last one stays."""
    num_pairs = hidden.shape[-2] // 2
    hidden = hidden.clone()
    hidden[..., 1::2, :] = response[..., 1::2, :] & ~hidden[..., : 2 * num_pairs : 2, :]
    return hidden
