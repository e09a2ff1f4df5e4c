"""Figures 2 and 3 of the paper (arXiv 2510.08233), plotted from computations on a line where everything is exact."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from dmpo_ref.masking import stream
from dmpo_ref.plots.style import COLORS
from dmpo_ref.weights import baseline_weights, log_weights, target_weights
from toy.figures.mixture import plot_fits
from toy.oracle import kl_divergence
from toy.worlds.mixture import GaussianMixturePolicy, World, draw_cells, fit, forward_objective, make_world, reverse_objective

SIZES, START, STEPS = (1, 2, 3), 1, 1500  # Gaussians in the policy, seed of their means, steps of Adam
RATE, WIDTH = 1.5, 0.5  # of the update: its length, and how far a rollout has an effect
LARGE, SMALL, SEED = 512, 4, 3  # rollouts; with this seed the small group misses the best mode


def mixture_target() -> World:
    """p* has three modes that are far apart, with 0.33, 0.28 and 0.39 of its probability."""
    return make_world(160, ([[-2.0], [2.0]], 2.0, [0.55, 0.45]), ([[-3.0], [0.0], [3.0]], 0.45, [1.0, 0.7, 1.4]), 1.0)


def fit_exactly(world: World, num_components: int, *, forward: bool) -> Tensor:
    """log p_θ [C] of a mixture of Gaussians, narrow at the start, after STEPS steps of Adam on the exact divergence."""
    policy = GaussianMixturePolicy(world, num_components, seed=START)
    policy.log_scales.data -= 0.5
    objective = forward_objective if forward else reverse_objective
    return fit(world, policy, objective, steps=STEPS, learning_rate=0.03)[-1]


def draw_figure_2(path: Path) -> None:
    """A policy of one, two and three Gaussians, fitted by either divergence to a target with three modes."""
    world = mixture_target()
    figure, axes = plt.subplots(1, len(SIZES), figsize=(13, 3.8), layout="constrained")
    for panel, K in zip(axes, SIZES, strict=True):
        forward, reverse = (fit_exactly(world, K, forward=way) for way in (True, False))
        plot_fits(panel, world, forward, reverse, list(COLORS), title=f"{K} Gaussian{'s' if K > 1 else ''}")
    top = max(panel.get_ylim()[1] for panel in axes)
    for panel in axes:
        panel.set_ylim(0, top)
        panel.get_legend().remove()
    axes[1].set_ylabel("")
    axes[2].set_ylabel("")
    axes[0].legend(fontsize=8, loc="upper right")
    figure.savefig(path)
    plt.close(figure)


def three_modes() -> World:
    """p_old = p_ref has three modes; the reward grows to the right, so that they are bad, middling and good."""
    return make_world(160, ([[-3.0], [0.0], [3.0]], 0.55, [1.0, 1.0, 0.6]), ([[4.0]], 2.6, [1.0]), 1.0)


def one_update(world: World, cells: Tensor, baseline: str) -> tuple[Tensor, Tensor]:
    """One step of gradient descent on WDCE with one group of rollouts of p_ref.

        Δ log-score(x) = RATE · Σ_y k(x, y) [Σ_{n: x_n = y} w_real[n] − (Σ_n w_real[n]) p_ref(y)]

    k is a Gaussian of standard deviation WIDTH whose rows integrate to 1 over x: as in a smooth policy, a gradient in the
    log-scores moves neighbours together.

    Args:
        cells: [N] the cells of the rollouts.

    Returns:
        log p_θ after the step [C], w_real [N].
    """
    reward, log_ratio = world.reward[cells][None], torch.zeros(1, len(cells), dtype=torch.float64)
    weight = target_weights(log_weights(reward, log_ratio, alpha=world.alpha))
    real = (weight - baseline_weights(baseline, reward, log_ratio, alpha=world.alpha))[0]
    direction = torch.zeros_like(world.log_ref).index_add(0, cells, real) - real.sum() * world.log_ref.exp()
    x = world.points[:, 0]
    kernel = (-((x[:, None] - x) ** 2) / (2 * WIDTH**2)).softmax(dim=-1) / (x[1] - x[0])
    return (world.log_ref + RATE * kernel @ direction).log_softmax(dim=0), real


def draw_figure_3(path: Path) -> None:
    """One update with a large group, with a small one, and with a small one and the uniform baseline."""
    world = three_modes()
    settings = ((LARGE, "none", "a large group"), (SMALL, "none", "a small group"), (SMALL, "uniform", "the same, with a baseline"))
    figure, axes = plt.subplots(2, 3, figsize=(13, 4.6), layout="constrained", sharex=True, sharey="row", height_ratios=(2, 1))
    for (above, below), (N, baseline, title) in zip(axes.T, settings, strict=True):
        cells = draw_cells(world.log_ref, (N,), stream(SEED, "figure 3"))
        after, real = one_update(world, cells, baseline)
        draw_update(above, world, after)
        draw_arrows(below, world, cells, real)
        closer = kl_divergence(world.log_target, after) - kl_divergence(world.log_target, world.log_ref)
        above.set_title(f"{title} (N = {N}): KL {closer:+.2f} nats")
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("real weight")
    axes[0, 0].legend(fontsize=8, loc="upper left")
    figure.savefig(path)
    plt.close(figure)


def draw_update(panel: Axes, world: World, after: Tensor) -> None:
    """p*, and p_θ before and after."""
    x = world.points[:, 0]
    target, before, after = (y.exp() / (x[1] - x[0]) for y in (world.log_target, world.log_ref, after))
    panel.fill_between(x, target, color="0.85", label="target p*")
    panel.plot(x, before, color="0.3", linestyle=":", label="p$_θ$ before")
    panel.plot(x, after, color=COLORS[0], label="p$_θ$ after one update")


def draw_arrows(panel: Axes, world: World, cells: Tensor, real: Tensor) -> None:
    """The rollouts as arrows: their length and sign are the real weight; those of one cell are added."""
    total = torch.zeros_like(world.log_ref).index_add(0, cells, real)
    for cell in cells.unique().tolist():
        length = total[cell].item()
        look = {
            "color": COLORS[3] if length < 0 else COLORS[2],
            "arrowstyle": "-|>" if len(cells) < 20 else "-",
            "shrinkA": 0,
            "shrinkB": 0,
        }
        panel.annotate("", xy=(world.points[cell, 0], length), xytext=(world.points[cell, 0], 0), arrowprops=look)
    panel.axhline(0, color="0.3", linewidth=0.8)
    panel.set(xlabel="x", ylim=(-0.35, 0.75))
