"""The pictures of notebook 02: which modes a mixture of Gaussians keeps, and from which start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from dmpo_ref.plots.style import COLORS
from toy.figures.mixture import plot_fits
from toy.worlds.mixture import World

BLUE, ORANGE, GREEN = COLORS[:3]


def draw_dropped(ratios: Mapping[tuple[str, int], Tensor], shown: int, threshold: float) -> Figure:
    """Shares of the modes for one number of Gaussians, and modes dropped against that number, for both directions of KL.

    Args:
        ratios: (direction, K) → [6, modes] share of each mode over its share under p*, from six starts.
        shown: K of the first two panels.
        threshold: a mode with a smaller ratio is dropped.
    """
    directions, sizes = (list(dict.fromkeys(keys)) for keys in zip(*ratios, strict=True))
    modes = ratios[directions[0], shown].shape[1]
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.1), layout="constrained", width_ratios=(1, 1, 1.1))
    for ax, name in zip(panels, directions, strict=False):
        picture = ax.imshow(ratios[name, shown], cmap="Blues", vmin=0, vmax=2)
        ax.set(title=f"{name}, {shown} Gaussians", xlabel="mode", ylabel="start")
        ax.set(xticks=range(modes), xticklabels=range(1, modes + 1), yticks=range(6))
        ax.grid(False)
    figure.colorbar(picture, ax=panels[1], label="share / share under p*")
    for name, color, marker in zip(directions, (BLUE, ORANGE), "os", strict=True):
        dropped = [(ratios[name, K] < threshold).sum(dim=1).double().mean() for K in sizes]
        panels[2].plot(sizes, dropped, marker=marker, color=color, label=name)
    panels[2].set(title=f"modes dropped, of {modes}", xlabel="Gaussians in the policy, K", ylabel="mean over six starts")
    panels[2].set(ylim=(-0.15, modes), xticks=sizes)
    panels[2].legend()
    return figure


def draw_far_mode(distances: Sequence[float], share: Mapping[str, Sequence[float]], cost: Mapping[str, Sequence[float]]) -> Figure:
    """The share of one of two modes against their distance from 0, and the reverse KL of the same fits, in nats.

    Args:
        share: fit → probability of that mode at each distance, of at most three fits.
        cost: of some of these fits, KL(p_θ‖p*) at each distance.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for name, color, style in zip(share, (BLUE, ORANGE, GREEN), ("o-", "s--", "^:"), strict=False):
        left.plot(distances, share[name], style, color=color, label=name)
        if name in cost:
            right.plot(distances, cost[name], style, color=color, label=name)
    left.set(title="The mode opposite the start", xlabel="distance of each mode from 0", ylabel="its share", ylim=(-0.02, 0.6))
    right.axhline(log(2), color="0.4", linewidth=1)
    right.set(title="What reverse KL pays: line at log 2", xlabel="distance of each mode from 0", ylabel="KL(p$_θ$‖p*), nats")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    return figure


def draw_fits(world: World, forward: Tensor, reverse: Tensor, title: str) -> Figure:
    """Densities of p*, p_ref and the fits [C] by both directions, on a line."""
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    plot_fits(ax, world, forward, reverse, [BLUE, ORANGE], title=title)
    return figure
