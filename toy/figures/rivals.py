"""The pictures of notebook 08: DMPO and other objectives on a puzzle with two solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmpo_ref.plots.style import COLORS
from toy.figures.demo import draw_board

BLUE, ORANGE, GREEN, PURPLE = COLORS[0], COLORS[1], COLORS[2], COLORS[4]
BY_SIZE = ((4, BLUE, "o", -0.2), (16, ORANGE, "s", 0.0), (64, GREEN, "^", 0.2))  # N, color, marker, shift
POLICIES = {  # color, marker, shift to the side
    "reference": ("0.6", "o", -0.12),
    "diffu-GRPO": (PURPLE, "o", -0.06),
    "one-shot WDCE": (GREEN, "^", 0.0),
    "WDCE (DMPO)": (ORANGE, "o", 0.06),
    "p*": (BLUE, "s", 0.12),
}


def draw_solutions(puzzle: str, solutions: Sequence[str]) -> Figure:
    """The boards of two solutions, clues black and filled-in digits blue."""
    figure, boards = plt.subplots(1, 2, figsize=(4.4, 2.4), layout="constrained")
    for axes, answer, name in zip(boards, solutions, "12", strict=True):
        draw_board(axes, puzzle, answer, f"solution {name}")
    return figure


def draw_runs(final: Mapping[str, list[dict[str, Any]]], rarer: float) -> Figure:
    """The distance from p* of every run, and its probability of the rarer solution.

    Args:
        final: objective → rows of `toy.studies.objectives` with N of 4, 16 or 64.
        rarer: probability of that solution under p*.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained", sharey=True)
    for k, rows in enumerate(final.values()):
        for N, color, marker, shift in BY_SIZE:
            ends = [row["after"] for row in rows if row["num_rollouts"] == N]
            place, label = [k + shift] * len(ends), f"N = {N}" if k == 0 else None
            left.plot([end["kl_target_policy"] for end in ends], place, marker, color=color, markersize=4, label=label)
            right.plot([min(end["shares"]) for end in ends], place, marker, color=color, markersize=4)
    left.set_yticks(range(len(final)), list(final))
    left.set(title="Distance from p*: one mark a run", xlabel="KL(p*‖p$_θ$), nats", xscale="log")
    left.invert_yaxis()
    left.legend(fontsize=7)
    right.axvline(rarer, color="0.3", linestyle="--", linewidth=1)
    right.set(title="Probability of the rarer solution (dashed: p*)", xlabel="probability", xlim=(-0.02, 0.52))
    return figure


def draw_columns(columns: Mapping[str, Sequence[float]], others: int, title: str) -> Figure:
    """Probabilities of two solutions, of four wrong answers, and of all others, for three policies and p*.

    Args:
        columns: name → 7 probabilities, p* last.
        others: number of the other answers.
    """
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for k, ((name, column), color) in enumerate(zip(columns.items(), ("0.6", PURPLE, ORANGE, BLUE), strict=True)):
        axes.bar([i + 0.2 * (k - 1.5) for i in range(7)], column, 0.2, color=color, label=name)
    wrong = [f"wrong\n{i}" for i in range(1, 5)]
    axes.set_xticks(range(7), ["solution\n1", "solution\n2", *wrong, f"{others:,}\nothers"])
    axes.set(title=title, ylabel="exact probability", ylim=(0, 1.05))
    axes.legend(fontsize=8)
    return figure


def draw_control(first_step: Mapping[str, Sequence[float]], shares: Mapping[str, Sequence[float]]) -> Figure:
    """The one-shot marginals of policies beside their probabilities of both solutions.

    Args:
        first_step: name in `POLICIES` → probability of solution 1's digit in each of the h cells where the solutions differ.
        shares: the same names → probabilities of solutions 1 and 2.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
    for name, digits in first_step.items():
        color, marker, shift = POLICIES[name]
        look = {"marker": marker, "linestyle": "--", "markerfacecolor": "none"} if name == "p*" else {"marker": marker}
        left.plot([c + shift for c in range(len(digits))], digits, color=color, linewidth=0.8, label=name, **look)
    h = len(first_step["p*"])
    left.set_xticks(range(h), [f"cell {c + 1}" for c in range(h)])
    left.set(title="First step, points set side by side", ylabel="one-shot probability of 1's digit", ylim=(-0.03, 1.03))
    draw_both_solutions(right, shares, h)
    return figure


def draw_both_solutions(axes: Axes, shares: Mapping[str, Sequence[float]], h: int) -> None:
    """Probabilities of both solutions, in the region q(1)^{1/h} + q(2)^{1/h} ≤ 1 of products where they differ in h cells."""
    line = torch.linspace(0, 1, 400)
    axes.fill_between(line, (1 - line ** (1 / h)) ** h, color="0.85", label="what a product can do")
    axes.plot([0, 1], [1, 0], color="0.5", linewidth=0.8, label="always solved")
    hollow = {"markersize": 12, "markerfacecolor": "none", "markeredgewidth": 1.5}
    for name, (first, second) in shares.items():
        color, marker, _ = POLICIES[name]
        axes.plot(first, second, marker, color=color, label=name, **(hollow if name == "p*" else {"markersize": 8}))
    axes.set(title="Both solutions", xlabel="probability of solution 1", ylabel="probability of solution 2", aspect="equal")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
