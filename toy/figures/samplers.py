"""The pictures of notebook 06: in which order a sampler fills its blanks, what is fed, and how much quality speed costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from dmpo_ref.plots.style import COLORS
from dmpo_ref.plots.traces import paint, trace
from dmpo_ref.rollout import Rollout

ORANGE, RED = COLORS[1], COLORS[3]
LOOKS = {  # of the samplers: color and marker
    "random": ("0.5", "o"),
    "confidence": (COLORS[0], "s"),
    "threshold": (ORANGE, "^"),
    "factor": (COLORS[2], "D"),
    "wino": (COLORS[4], "v"),
}


def draw_strips(tokenizer, rollouts: Mapping[str, Rollout]) -> Figure:
    """The first text of each rollout, every word in the color of the step that placed it last.

    Args:
        tokenizer: has `decode(ids) -> str`.
        rollouts: title → rollout.
    """
    figure, axes = plt.subplots(len(rollouts), 1, figsize=(7.6, 0.75 * len(rollouts)), layout="constrained", squeeze=False)
    figure.suptitle("When a word was last placed: dark first, yellow last, each strip on its own scale", fontsize=9)
    for panel, (label, rollout) in zip(axes[:, 0], rollouts.items(), strict=True):
        pieces, step = trace(tokenizer, rollout)
        paint(panel, pieces, step, until=max(step), board=False)
        panel.set_xlim(0, 48)
        panel.set_title(f"{label}: {rollout.forwards} forward{'s' * (rollout.forwards > 1)}", loc="left", fontsize=8)
    return figure


def draw_boards(tokenizer, rollouts: Mapping[str, Rollout], puzzle: str) -> Figure:
    """The first answer of each rollout as a 4x4 board, every cell in the color of the step that placed it; clues are framed."""
    figure, axes = plt.subplots(1, len(rollouts), figsize=(2.2 * len(rollouts), 2.8), layout="constrained", squeeze=False)
    figure.suptitle("When a cell was placed: dark first, yellow last, each board on its own scale; framed: given by the prompt", fontsize=9)
    clues = [i for i, digit in enumerate(puzzle) if digit != "0"]
    for panel, (name, rollout) in zip(axes[0], rollouts.items(), strict=True):
        pieces, step = trace(tokenizer, rollout)
        paint(panel, pieces, step, until=max(step), board=True)
        panel.set_title(f"{name}: {rollout.forwards} forwards", fontsize=9)
        for i in clues:
            corner = i % 4 + 0.12, i // 4 + 0.12
            panel.add_patch(plt.Rectangle(corner, 0.76, 0.76, fill=False, edgecolor=RED, linewidth=1.2))
    return figure


def draw_tradeoffs(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> Figure:
    """The share of right answers against forward passes, a curve for each sampler.

    Args:
        panels: title of each of at least two panels → sampler of `LOOKS` → (forward passes of an answer, share right).
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(11 / 3 * len(panels), 3.3), layout="constrained")
    for panel, (title, curves) in zip(axes, panels.items(), strict=True):
        for name, points in curves.items():
            color, marker = LOOKS[name]
            panel.plot(*zip(*points, strict=True), marker=marker, color=color, markersize=5, linewidth=1, label=name)
        panel.set(title=title, xlabel="forwards for an answer", ylabel="share right", ylim=(0, None), xticks=range(0, 17, 4))
    axes[1].legend(fontsize=8)
    return figure


def draw_fed(tables: Mapping[str, Tensor], prompt_length: int) -> Figure:
    """Which positions are fed in each forward pass.

    Args:
        tables: kind of cache → [passes, S] of `toy.sampling.Spy.table`, at least two.
    """
    figure, axes = plt.subplots(1, len(tables), figsize=(11 / 3 * len(tables), 2.8), layout="constrained")
    for panel, (cache, fed) in zip(axes, tables.items(), strict=True):
        panel.imshow(fed, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
        panel.axvline(prompt_length - 0.5, color=ORANGE, linewidth=1.5)
        panel.set(title=f"cache={cache}: {int(fed.sum())} tokens", xlabel="position (left of the line: prompt)")
        panel.set(yticks=range(0, len(fed), 4))
        panel.grid(False)
    axes[0].set(ylabel="forward pass")
    return figure
