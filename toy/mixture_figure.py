"""The figure of `python -m toy.mixture`: what the weight baselines do, and which modes the two directions of KL keep."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import pandas as pd
import seaborn as sns
from torch import Tensor

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # after the choice of backend
from matplotlib.axes import Axes

from toy.oracle import kl_divergence

if TYPE_CHECKING:
    from toy.mixture import World


def draw_figure(rows: list[dict], world: World, fits: dict[str, Tensor], path: Path) -> None:
    """Write one PNG.

    Args:
        rows: of `baseline_study`.
        world: one-dimensional.
        fits: label → log p_θ of every cell, [C].
        path: folders are created where missing.
    """
    colours = sns.color_palette("colorblind")
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        plot_baselines(left, rows, kl_divergence(world.log_target, world.log_ref), colours)
        plot_fits(right, world, fits, colours[4:])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_baselines(ax: Axes, rows: list[dict], start: float, colours: list) -> None:
    """KL(p*‖p_θ) by baseline and N: mean, and range over the seeds. A line marks where every run started."""
    data = pd.DataFrame(rows)
    num_baselines = data["baseline"].nunique()
    style = {"palette": colours[:num_baselines], "markers": ["o", "s", "D", "^"][:num_baselines], "linestyles": "none"}
    sns.pointplot(data, x="N", y="kl", hue="baseline", errorbar=("pi", 100), dodge=0.45, capsize=0.06, ax=ax, **style)
    ax.axhline(start, color="0.3", linestyle="--", linewidth=1.2, label="p$_{ref}$ (start)")
    ax.set(yscale="log", xlabel="rollouts per round, N", ylabel="KL(p*‖p$_θ$) at the end, in nats")
    ax.set_title(f"A policy that can be p*: mean and range of {data['seed'].nunique()} seeds")
    ax.legend(title="weight baseline", loc="lower left")


def plot_fits(ax: Axes, world: World, fits: dict[str, Tensor], colours: list) -> None:
    """Densities of p*, p_ref and the fits, per unit of x."""
    x = world.points[:, 0]
    density = lambda log_prob: log_prob.exp() / (x[1] - x[0])  # noqa: E731
    ax.fill_between(x, density(world.log_target), color="0.8", label="target p*")
    ax.plot(x, density(world.log_ref), color="0.3", linestyle=":", label="reference p$_{ref}$")
    for (label, log_prob), colour, line in zip(fits.items(), colours, ("-", "--"), strict=False):
        ax.plot(x, density(log_prob), color=colour, linestyle=line, linewidth=2.2, label=label)
    ax.set(xlabel="x", ylabel="probability density, per unit of x", xlim=(x[0], x[-1]), ylim=(0, None))
    ax.set_title("A policy of two Gaussians: cover the mass, or seek modes")
    ax.legend(loc="upper right")
