"""What `python -m toy.mixture` shows: what the weight baselines do, and which modes the two directions of KL keep."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator
from torch import Tensor

from toy.oracle import kl_divergence

if TYPE_CHECKING:
    from toy.mixture import World


def table(rows: list[dict]) -> str:
    """Mean and standard deviation over seeds of the KL, and the mean reward, one line for each baseline and N."""
    lines = [f"{'baseline':<10}{'N':>3}  {'KL(p*||p_theta), nats':>22}  {'E[r]':>7}"]
    for (baseline, N), group in groupby(rows, key=lambda row: (row["baseline"], row["N"])):
        kl, reward = zip(*[(row["kl"], row["reward"]) for row in group], strict=True)
        lines.append(f"{baseline:<10}{N:>3}  {mean(kl):>14.3f} ± {stdev(kl):.3f}  {mean(reward):>7.3f}")
    return "\n".join(lines)


def draw_figure(rows: list[dict], world: World, forward: Tensor, reverse: Tensor, path: Path) -> None:
    """Write one PNG; nothing is shown on a screen.

    Args:
        rows: of `baseline_study`.
        world: one-dimensional.
        forward, reverse: [C] log p_θ of the two fits.
        path: folders are created where missing.
    """
    plt.switch_backend("Agg")
    colours = sns.color_palette("colorblind")
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        plot_baselines(left, rows, kl_divergence(world.log_target, world.log_ref), colours[:4])
        plot_fits(right, world, forward, reverse, colours[4:6])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def plot_baselines(ax: Axes, rows: list[dict], start: float, colours: list) -> None:
    """KL(p*‖p_θ) by baseline and N: mean, and range over the seeds. A line marks where every run started."""
    data = pd.DataFrame(rows)
    style = {"palette": colours, "markers": ["o", "s", "D", "^"], "linestyles": "none", "dodge": 0.45, "capsize": 0.06}
    sns.pointplot(data, x="N", y="kl", hue="baseline", errorbar=("pi", 100), ax=ax, **style)
    ax.axhline(start, color="0.3", linestyle="--", linewidth=1.2, label="p$_{ref}$, the start")
    ax.set(yscale="log", xlabel="rollouts per round, N", ylabel="KL(p*‖p$_θ$) after the last round, in nats")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter("{:g}".format))
    ax.set_title(f"A policy that can be p*: mean and range of {data['seed'].nunique()} seeds")
    ax.legend(title="weight baseline", loc="lower left")


def plot_fits(ax: Axes, world: World, forward: Tensor, reverse: Tensor, colours: list) -> None:
    """Densities of p*, p_ref and the two fits, per unit of x."""
    x = world.points[:, 0]
    target, reference, forward, reverse = (y.exp() / (x[1] - x[0]) for y in (world.log_target, world.log_ref, forward, reverse))
    ax.fill_between(x, target, color="0.8", label="target p*")
    ax.plot(x, reference, color="0.3", linestyle=":", label="reference p$_{ref}$")
    ax.plot(x, forward, color=colours[0], linewidth=2.2, label="fit by KL(p*‖p$_θ$), forward")
    ax.plot(x, reverse, color=colours[1], linewidth=2.2, linestyle="--", label="fit by KL(p$_θ$‖p*), reverse")
    # A third more height than the tallest peak: room for the legend.
    top = 1.33 * max(y.max() for y in (target, forward, reverse))
    ax.set(xlabel="x", ylabel="probability density, per unit of x", xlim=(x[0], x[-1]), ylim=(0, top))
    ax.set_title("A policy of two Gaussians: cover the mass, or seek modes")
    ax.legend(loc="upper center", ncols=2)
