"""Figures of `python -m toy.studies.baselines`: the effect of the weight baselines, and the modes that the two directions of KL keep.

The notebooks draw the same panels, and fits in the plane as films.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from einops import rearrange
from matplotlib import pyplot as plt
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter, LogLocator
from torch import Tensor

from dmpo_ref.plots.style import Once
from toy.oracle import kl_divergence
from toy.worlds.mixture import World


def draw_figure(rows: list[dict], world: World, forward: Tensor, reverse: Tensor, path: Path) -> None:
    """Write one PNG; nothing is shown on a screen.

    Args:
        rows: of `baseline_study`.
        world: one-dimensional.
        forward, reverse: [C] log p_θ of the two fits.
        path: folders are created where missing.
    """
    colours = sns.color_palette("colorblind")
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook"):
        figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
        plot_baselines(left, rows, kl_divergence(world.log_target, world.log_ref), [*colours[:3], colours[4]])
        plot_fits(right, world, forward, reverse, [colours[0], colours[3]])
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


def plot_fits(
    ax: Axes,
    world: World,
    forward: Tensor,
    reverse: Tensor,
    colours: list,
    title: str = "A policy of two Gaussians: cover the mass, or seek modes",
) -> None:
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
    ax.set_title(title)
    ax.legend(loc="upper center", ncols=2)


def plot_plane(ax: Axes, world: World, log_prob: Tensor, title: str) -> AxesImage:
    """Probability of every cell of a two-dimensional world, dark where high, within contour lines of p*.

    Args:
        log_prob: [C] log p_θ; shades follow its square root, so that small probabilities are visible, and end at its own highest cell.
    """
    axis = world.points[: cells_along(world), 1]
    half = (axis[1] - axis[0]).item() / 2
    low, high = axis[0].item() - half, axis[-1].item() + half
    shades = plt.get_cmap("Blues", 16)  # a few flat colours, which a GIF stores in little space
    image = ax.imshow(as_plane(world, log_prob) ** 0.5, origin="lower", extent=(low, high, low, high), cmap=shades, vmin=0)
    target = as_plane(world, world.log_target)
    ax.contour(axis, axis, target, levels=[target.max() / 8, target.max() / 2], colors=[sns.color_palette("colorblind")[1]], linewidths=1)
    ax.set(xlabel="x$_1$", ylabel="x$_2$", title=title)
    ax.grid(False)
    return image


def film_planes(world: World, films: dict[str, Sequence[Tensor]], captions: Sequence[str], *, seconds: float = 6.0) -> bytes:
    """An animated GIF, one panel for each film.

    Args:
        films: title of a panel → its frames, [C] log p_θ each; all films are equally long.
        captions: one line of text for each frame.
        seconds: of the whole film.
    """
    figure, panels = plt.subplots(1, len(films), figsize=(3.4 * len(films), 3.7), layout="constrained", squeeze=False)
    images = [plot_plane(ax, world, film[0], title) for ax, (title, film) in zip(panels[0], films.items(), strict=True)]
    heading = figure.suptitle(captions[0], fontsize=10)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout does not change from frame to frame, and finding it takes longer than drawing

    def draw(frame: int) -> None:
        for image, film in zip(images, films.values(), strict=True):
            image.set_data(plane := as_plane(world, film[frame]) ** 0.5)
            image.set_clim(0, plane.max())
        heading.set_text(captions[frame])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.gif"
        writer = Once(fps=len(captions) / seconds)  # type: ignore[arg-type]  # a fraction is right, whatever the stub says
        FuncAnimation(figure, draw, frames=len(captions)).save(path, writer=writer, dpi=75)
        plt.close(figure)
        return path.read_bytes()


def as_plane(world: World, log_prob: Tensor) -> np.ndarray:
    """Probabilities of the cells as a picture: x_1 to the right, x_2 upwards."""
    return rearrange(log_prob.exp().numpy(), "(x1 x2) -> x2 x1", x1=cells_along(world))


def cells_along(world: World) -> int:
    """Cells along one axis of a two-dimensional world."""
    return round(len(world.points) ** 0.5)
