"""Gaussian mixtures on a grid: every quantity of the method is a sum over C cells, so nothing has to be estimated.

The target p*(x) ∝ p_ref(x) · exp(r(x)/α) has several modes. `fit_forward` is the method itself on this world, with the weights
and the loss of `dmpo_ref`; `fit_reverse` is reinforcement learning with a KL term. On a mixture with fewer components than p*
has modes they differ (paper, Figure 2): one covers the mass, the other seeks modes. On a tabular policy, which can be any
distribution, what remains is the noise of N rollouts, and what the weight baselines do about it (`toy.studies.baselines`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from dmpo_ref.config import ALPHA
from dmpo_ref.losses import wdce
from dmpo_ref.masking import stream
from dmpo_ref.weights import baseline_weights, effective_sample_size, log_weights, model_baseline, target_weights
from toy.oracle import kl_divergence, tilted

BASELINES = ("none", "uniform", "negative", "model")


@dataclass
class World:
    """A reference distribution and a reward on C grid cells of a line (D = 1) or a plane (D = 2).

    Attributes:
        points: [C, D] float64, centres of the cells.
        log_ref: [C] float64, log p_ref in nats; probabilities of cells, not densities.
        reward: [C] float64.
        alpha: temperature α > 0, in units of reward per nat.
        modes: [M, D] float64, where the bumps of the reward are; the modes of p* lie near them.

    Raises:
        ValueError: α ≤ 0.
    """

    points: Tensor
    log_ref: Tensor
    reward: Tensor
    alpha: float
    modes: Tensor

    def __post_init__(self) -> None:
        if not ALPHA.holds(self.alpha):
            raise ValueError(f"alpha={self.alpha}: {ALPHA.words}")

    @property
    def log_target(self) -> Tensor:
        """log p*(x) = log p_ref(x) + r(x)/α − log Z, [C] float64."""
        return tilted(self.log_ref, self.reward, self.alpha)

    @property
    def nearest(self) -> Tensor:
        """The number, from 0, of the mode to which each cell lies nearest, [C]."""
        return torch.cdist(self.points, self.modes).argmin(dim=-1)

    def mode_mass(self, log_prob: Tensor) -> Tensor:
        """Probability of the cells that lie nearest to each mode, [C] → [M]; sums to 1."""
        return torch.zeros(len(self.modes), dtype=log_prob.dtype).index_add(0, self.nearest, log_prob.detach().exp())

    def mode_ratios(self, log_prob: Tensor) -> Tensor:
        """`mode_mass` over that of p*, [C] → [M]; near 0 where a mode is dropped."""
        return self.mode_mass(log_prob) / self.mode_mass(self.log_target)


def world_1d(num_bins: int = 64, *, alpha: float = 1.0) -> World:
    """A line of num_bins cells on [−6, 6]; p_ref is broad, p* has four modes. See `make_world`."""
    reference = [[-2.0], [2.0]], 2.0, [0.55, 0.45]
    bumps = [[-4.2], [-1.4], [1.4], [4.2]], 0.35, [1.5, 0.8, 1.0, 1.5]
    return make_world(num_bins, reference, bumps, alpha)


def world_2d(num_bins: int = 32, *, alpha: float = 1.0) -> World:
    """A square of num_bins × num_bins cells on [−6, 6]²; p_ref is broad, p* has five modes. See `make_world`."""
    reference = [[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]], 2.0, [0.4, 0.3, 0.3]
    bumps = [[-3.0, -3.0], [-3.0, 3.0], [0.0, 0.0], [3.0, 3.0], [3.0, -3.0]], 0.7, [2.0, 1.5, 0.6, 2.0, 2.0]
    return make_world(num_bins, reference, bumps, alpha)


def two_modes(distance: float, *, alpha: float = 1.0, heights: tuple[float, float] = (1.0, 1.0)) -> World:
    """A line of 96 cells on [−6, 6]; bumps of width 0.6 at ± `distance`, the left one first in `heights`. See `make_world`."""
    return make_world(96, ([[0.0]], 3.0, [1.0]), ([[-distance], [distance]], 0.6, list(heights)), alpha)


class TabularPolicy(nn.Module):
    """p_θ = softmax(logits), one logit for each cell.

    Args:
        logits: [C] at the start; log p_ref if they are not given.
    """

    def __init__(self, world: World, logits: Tensor | None = None) -> None:
        super().__init__()
        self.logits = nn.Parameter((world.log_ref if logits is None else logits).clone())

    def log_prob(self) -> Tensor:
        """log p_θ of every cell, [C] float64."""
        return self.logits.log_softmax(dim=0)


class GaussianMixturePolicy(nn.Module):
    """p_θ(x) ∝ Σ_k π_k N(x; μ_k, diag σ_k²) at the centres of the cells, normalised over the grid.

    Args:
        num_components: K; fewer than p* has modes, for the fit to have to choose.
        seed: of the starting means μ_k, drawn from p_ref. All σ_k start at a third of the standard deviation of p_ref.

    Raises:
        ValueError: no component.
    """

    def __init__(self, world: World, num_components: int, *, seed: int = 0) -> None:
        super().__init__()
        if num_components < 1:
            raise ValueError(f"num_components={num_components}: a mixture needs at least 1")
        p_ref = rearrange(world.log_ref.exp(), "c -> c 1")
        centre = reduce(p_ref * world.points, "c d -> d", "sum")
        spread = reduce(p_ref * (world.points - centre).square(), "c d -> d", "sum").sqrt()
        start = draw_cells(world.log_ref, (num_components,), stream(seed, "means"))
        self.points = world.points
        self.means = nn.Parameter(world.points[start])  # [K, D]
        self.log_scales = nn.Parameter((spread / 3).log().repeat(num_components, 1))  # [K, D]
        self.logits = nn.Parameter(torch.zeros(num_components, dtype=torch.float64))  # [K]

    def log_prob(self) -> Tensor:
        """log p_θ of every cell, [C] float64."""
        log_height = self.logits - reduce(self.log_scales, "k d -> k", "sum")
        return log_bumps(self.points, self.means, self.log_scales.exp(), log_height).log_softmax(dim=0)


def one_gaussian(world: World, mean: float, deviation: float) -> GaussianMixturePolicy:
    """A policy of one Gaussian that starts at a mean and a standard deviation, the same along every axis."""
    policy = GaussianMixturePolicy(world, 1)
    policy.means.data.fill_(mean)
    policy.log_scales.data.fill_(math.log(deviation))
    return policy


GridPolicy = TabularPolicy | GaussianMixturePolicy
Objective = Callable[[World, Tensor], Tensor]  # of log p_θ [C], a scalar to be minimised


@dataclass
class History:
    """The course of a fit: three lists with the value before the first and after every round, and one with a value per round.

    Attributes:
        forward_kl: KL(p*‖p_θ) in nats, exact.
        reverse_kl: KL(p_θ‖p*) in nats, exact.
        reward: E_{p_θ}[r], exact.
        ess: effective sample size of w as a share of N, mean over groups; empty for `fit_reverse`, which draws nothing.
    """

    forward_kl: list[float] = field(default_factory=list)
    reverse_kl: list[float] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)

    @torch.no_grad()
    def record(self, world: World, log_prob: Tensor) -> None:
        """Append the exact values at log p_θ, [C]."""
        self.forward_kl.append(kl_divergence(world.log_target, log_prob))
        self.reverse_kl.append(kl_divergence(log_prob, world.log_target))
        self.reward.append((log_prob.exp() @ world.reward).item())


def fit_forward(
    world: World,
    policy: GridPolicy,
    *,
    num_rollouts: int,
    rounds: int = 60,
    steps_per_round: int = 4,
    baseline: str = "none",
    strength: float = 1.0,
    learning_rate: float = 0.03,
    seed: int = 0,
    groups: int = 1,
) -> History:
    """Distribution Matching Policy Optimization with WDCE: minimise KL(p*‖p_θ) on samples of p_old.

    Each round: p_old ← p_θ; x_n ~ p_old; ℓ = r/α + log p_ref − log p_old, exactly; then gradient steps on
    −Σ_n w_real[n] log p_θ(x_n), w_real = w − strength · w_base.
    Only cells that p_old visits are weighed, so modes it never draws stay lost, however large KL(p*‖p_θ) is.

    Args:
        policy: has `log_prob() -> [C]`; trained in place, with Adam.
        num_rollouts: N ≥ 2 samples that share one softmax.
        baseline: one of `BASELINES`.
        groups: G softmaxes per round, averaged in every gradient.

    Raises:
        ValueError: N < 2, G < 1, or an unknown baseline.
    """
    if num_rollouts < 2 or groups < 1:
        raise ValueError(f"num_rollouts={num_rollouts}, groups={groups}: a round needs at least 1 group of at least 2 rollouts")
    optimizer, history = torch.optim.Adam(policy.parameters(), lr=learning_rate), History()
    history.record(world, policy.log_prob())
    for t in range(rounds):
        log_old = policy.log_prob().detach()
        cells = draw_cells(log_old, (groups, num_rollouts), stream(seed, "rollout", t))
        reward, log_ratio = world.reward[cells], (world.log_ref - log_old)[cells]
        weight = target_weights(log_weights(reward, log_ratio, alpha=world.alpha))
        fixed = None if baseline == "model" else baseline_weights(baseline, reward, log_ratio, alpha=world.alpha)
        for _ in range(steps_per_round):
            log_policy = policy.log_prob()[cells]
            base = model_baseline(log_policy, log_old[cells]) if fixed is None else fixed
            optimizer.zero_grad()
            wdce(log_policy, weight - strength * base).backward()
            optimizer.step()
        history.record(world, policy.log_prob())
        history.ess.append(effective_sample_size(weight).mean().item())
    return history


def fit_reverse(world: World, policy: GridPolicy, *, rounds: int = 60, steps_per_round: int = 4, learning_rate: float = 0.03) -> History:
    """Maximise the reward with a KL term towards p_ref, by exact gradients over the grid: minimise KL(p_θ‖p*).

    Args:
        policy: has `log_prob() -> [C]`; trained in place, with Adam.
    """
    steps, history = rounds * steps_per_round, History()
    for log_prob in fit(world, policy, reverse_objective, steps=steps, learning_rate=learning_rate, every=steps_per_round):
        history.record(world, log_prob)
    return history


def fit(
    world: World,
    policy: GridPolicy,
    objective: Objective,
    *,
    steps: int = 200,
    learning_rate: float = 0.1,
    every: int | None = None,
    method: Callable[..., Any] = torch.optim.Adam,
) -> list[Tensor]:
    """Minimise an objective by exact gradients over the grid; log p_θ [C] at the start, after every so many steps, and at the end.

    Args:
        policy: has `log_prob() -> [C]`; trained in place.
        every: steps between two of the results; None for the start and the end alone.
        method: of `torch.optim`, called with the parameters and `lr=learning_rate`.
    """
    optimizer, film = method(policy.parameters(), lr=learning_rate), [policy.log_prob().detach()]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        objective(world, policy.log_prob()).backward()
        optimizer.step()
        if step == steps or (every and step % every == 0):
            film.append(policy.log_prob().detach())
    return film


def forward_objective(world: World, log_prob: Tensor) -> Tensor:
    """E_{p*}[−log p_θ] = KL(p*‖p_θ) + entropy of p*, in nats. [C] → scalar."""
    return -(world.log_target.exp() @ log_prob)


def reverse_objective(world: World, log_prob: Tensor) -> Tensor:
    """E_{p_θ}[log p_θ − log p_ref − r/α] = KL(p_θ‖p*) − log Z, in nats. [C] → scalar."""
    return log_prob.exp() @ (log_prob - world.log_ref - world.reward / world.alpha)


def make_world(num_bins: int, reference: tuple, bumps: tuple, alpha: float) -> World:
    """p_ref(x) ∝ Σ_k h_k exp(−‖x − c_k‖² / 2s²) and r(x) = log Σ_j h_j exp(−‖x − c_j‖² / 2s²), so p* ∝ p_ref · e^r at α = 1.

    Args:
        num_bins: cells along each of D axes, C = num_bins^D.
        reference, bumps: (centres c, common width s, heights h) of p_ref and of the reward.

    Raises:
        ValueError: fewer than two cells along an axis, or α ≤ 0.
    """
    if num_bins < 2:
        raise ValueError(f"num_bins={num_bins}: a grid needs at least 2 cells along each axis")
    axis = torch.linspace(-6, 6, num_bins, dtype=torch.float64)
    (ref_centres, ref_width, ref_heights), (modes, width, heights) = (
        [torch.tensor(x, dtype=torch.float64) for x in bump] for bump in (reference, bumps)
    )
    points = rearrange(list(torch.meshgrid(*[axis] * modes.shape[1], indexing="ij")), "d ... -> (...) d")
    log_ref = log_bumps(points, ref_centres, ref_width, ref_heights.log()).log_softmax(dim=0)
    return World(points, log_ref, log_bumps(points, modes, width, heights.log()), alpha, modes)


def log_bumps(points: Tensor, centres: Tensor, width: Tensor, log_height: Tensor) -> Tensor:
    """log Σ_k h_k exp(−Σ_d (x_d − c_kd)² / 2 s_kd²); [C, D], [K, D], [K, D] or scalar, [K] → [C]."""
    z = (rearrange(points, "c d -> c 1 d") - centres) / width
    return (log_height - reduce(z.square(), "c k d -> c k", "sum") / 2).logsumexp(dim=-1)


def draw_cells(log_prob: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Indices of independent draws from [C] log-probabilities, in the given shape."""
    return torch.multinomial(log_prob.exp(), math.prod(shape), replacement=True, generator=generator).reshape(shape)
