"""The figures of the scoreboard, from its rows alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from dmpo_ref.plots.style import COLORS, use_style

Rows = list[dict[str, Any]]
# methods with a name in the figure of the curves; the others are grey
NAMED: tuple[str, ...] = (
    "REINFORCE, KL",
    "WDCE, masks",
    "WDCE, masks, uniform",
    "WDCE, path steps, 1/4 by p_ref",
    "WDDO, whole path",
    "log-variance",
)
NAMED += ("WDCE, masks, ELBO weights", "REINFORCE", "diffu-GRPO", "wd1")
MARKERS = "osD^vPX*"


def draw_all(rows: Rows, folder: Path) -> Iterator[Path]:
    """Plot every figure that there are rows for; yields the paths."""
    use_style()
    of_part = {part: [row for row in rows if row["part"] == part] for part in ("report", "group_size", "groups_per_step", "mixtures")}
    if of_part["report"]:
        yield draw_methods(of_part["report"], folder / "scoreboard.png")
        yield draw_curves(of_part["report"], folder / "scoreboard_curves.png")
        yield draw_shares(of_part["report"], folder / "scoreboard_shares.png")
    if of_part["group_size"] and of_part["groups_per_step"]:
        yield draw_sizes(of_part["group_size"], of_part["groups_per_step"], folder / "scoreboard_sizes.png")
    if of_part["mixtures"]:
        yield draw_mixtures(of_part["mixtures"], folder / "scoreboard_mixtures.png")


def by_method(rows: Rows) -> dict[str, Rows]:
    """Runs by method, the best median KL(p*‖p_θ) first."""
    found = dict[str, Rows]()
    for row in rows:
        found.setdefault(row["method"], []).append(row)
    return dict(sorted(found.items(), key=lambda item: median(row["kl_target_policy"] for row in item[1])))


def draw_methods(rows: Rows, path: Path) -> Path:
    """KL(p*‖p_θ) of every run, a line for each method; the bar is the median. Right: probability of a right answer."""
    methods, worlds = by_method(rows), list(dict.fromkeys(row["world"] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(11, 1.2 + 0.32 * len(methods)), layout="constrained", sharey=True, width_ratios=(3, 2))
    for ax, key in zip(axes, ("kl_target_policy", "valid"), strict=True):
        for y, chosen in enumerate(methods.values()):
            for w, world in enumerate(worlds):
                values = [row[key] for row in chosen if row["world"] == world]
                height = [y + (w - (len(worlds) - 1) / 2) * 0.16] * len(values)
                ax.scatter(values, height, s=14, color=COLORS[w], marker=MARKERS[w], label=world if y == 0 else None, alpha=0.8)
            middle = median(row[key] for row in chosen)
            ax.plot([middle, middle], [y - 0.4, y + 0.4], color="black", linewidth=1.5)
        ax.grid(axis="y", linewidth=0.4)
    axes[0].set(xscale="log", xlabel="KL(p*‖p_θ), nats", yticks=range(len(methods)), yticklabels=list(methods))
    axes[0].set_ylim(len(methods) - 0.4, -0.6)
    axes[1].set(xlabel="probability of a right answer")
    axes[0].legend(fontsize=8, loc="best")
    return save(figure, path)


def draw_curves(rows: Rows, path: Path) -> Path:
    """KL(p*‖p_θ) against rollouts, the median over seeds, one panel for each puzzle."""
    worlds = [w for w in dict.fromkeys(row["world"] for row in rows) if any(len(r["curve"]) > 2 for r in rows if r["world"] == w)]
    figure, axes = plt.subplots(
        1, max(1, len(worlds)), figsize=(4.2 * max(1, len(worlds)), 4.4), layout="constrained", sharey=True, squeeze=False
    )
    for ax, world in zip(axes[0], worlds, strict=False):
        for method, chosen in by_method(rows).items():
            curves = [row["curve"] for row in chosen if row["world"] == world]
            if curves:
                x, y = [point[0] for point in curves[0]], np.median([[point[1] for point in curve] for curve in curves], axis=0)
                color = COLORS[NAMED.index(method)] if method in NAMED else "0.8"
                ax.plot(x, y, color=color, linewidth=1.8 if method in NAMED else 0.8, label=method if method in NAMED else None)
        ax.set(yscale="log", title=world, xlabel="rollouts")
    axes[0, 0].set_ylabel("KL(p*‖p_θ), nats")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=7, loc="outside right center")
    return save(figure, path)


def draw_shares(rows: Rows, path: Path) -> Path:
    """The probability that each run gives to each solution, with the shares of p*: a column for each puzzle, a bar for each seed."""
    methods, worlds = by_method(rows), list(dict.fromkeys(row["world"] for row in rows))
    figure, axes = plt.subplots(
        1, len(worlds), figsize=(2.2 + 2.3 * len(worlds), 1.2 + 0.32 * len(methods)), layout="constrained", sharey=True, squeeze=False
    )
    for ax, world in zip(axes[0], worlds, strict=True):
        target = next(row["target_shares"] for row in rows if row["world"] == world)
        for y, chosen in enumerate(methods.values()):
            shares = np.array([row["shares"] for row in chosen if row["world"] == world])
            if len(shares):
                bars = y - 0.4 + 0.8 * (np.arange(len(shares)) + 0.5) / len(shares)
                for k, left in enumerate((shares.cumsum(axis=1) - shares).T):
                    ax.barh(bars, shares[:, k], left=left, height=0.7 / len(shares), color=COLORS[k], linewidth=0)
        for edge in np.cumsum(target):
            ax.axvline(edge, color="black", linewidth=1, linestyle="--")
        ax.set(title=world, xlabel="probability", xlim=(0, 1), yticks=range(len(methods)), yticklabels=list(methods))
        ax.title.set_fontsize(8)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.6)
    return save(figure, path)


def draw_sizes(group_size: Rows, groups_per_step: Rows, path: Path) -> Path:
    """KL(p*‖p_θ) against N at fixed rollouts for each step, and against rollouts for each step at fixed N."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained", sharey=True)
    names = sorted({row["method"] for row in (*group_size, *groups_per_step)})
    draw_lines(axes[0], group_size, "num_rollouts", names)
    N, rollouts = ({row[key] for row in rows} for key, rows in (("num_rollouts", groups_per_step), ("rollouts_per_step", group_size)))
    axes[0].set(xlabel=f"N, with {', '.join(map(str, rollouts))} rollouts a step", ylabel="KL(p*‖p_θ), nats")
    draw_lines(axes[1], groups_per_step, "rollouts_per_step", names)
    axes[1].set(xlabel=f"rollouts a step, with N = {', '.join(map(str, N))}")
    return save(figure, path)


def draw_mixtures(rows: Rows, path: Path) -> Path:
    """KL(p*‖p_θ) against N at fixed rollouts for each step, on the line and on the plane."""
    worlds, rollouts = list(dict.fromkeys(row["world"] for row in rows)), {row["rollouts_per_step"] for row in rows}
    names = sorted({row["method"] for row in rows})
    figure, axes = plt.subplots(1, len(worlds), figsize=(5 * len(worlds), 4), layout="constrained", sharey=True, squeeze=False)
    for ax, world in zip(axes[0], worlds, strict=True):
        draw_lines(ax, [row for row in rows if row["world"] == world], "num_rollouts", names)
        ax.set(title=world, xlabel=f"N, with {', '.join(map(str, rollouts))} rollouts a step")
    axes[0, 0].set_ylabel("KL(p*‖p_θ), nats")
    return save(figure, path)


def draw_lines(ax: Axes, rows: Rows, key: str, names: list[str]) -> None:
    """A line through the medians for each method, and every run as a point. A method has the color of its place among the names."""
    for method, chosen in sorted(by_method(rows).items()):
        values, i = sorted({row[key] for row in chosen}), names.index(method)
        color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        ax.plot(values, [median(r["kl_target_policy"] for r in chosen if r[key] == x) for x in values], color=color, label=method)
        ax.scatter([r[key] for r in chosen], [r["kl_target_policy"] for r in chosen], s=12, marker=marker, color=color, alpha=0.7)
    if rows:
        ax.set(xscale="log", yscale="log")
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False)
        at = sorted({row[key] for row in rows})
        ax.set_xticks(at, [str(x) for x in at])
        ax.minorticks_off()


def save(figure: plt.Figure, path: Path) -> Path:
    """Write a figure and close it."""
    figure.savefig(path)
    plt.close(figure)
    return path
