"""The pictures of notebooks 03 and 04: weights of rollouts on a line, groups of every size, steps with and without a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dmpo_ref.masking import stream
from dmpo_ref.plots.style import COLORS
from dmpo_ref.weights import effective_sample_size, log_weights, target_weights
from toy.worlds.mixture import World, draw_cells

HUES = (*COLORS[:3], COLORS[4])  # of the weight baselines, in the order of `toy.worlds.mixture.BASELINES`; of four answers


def draw_rollouts(world: World, alpha: float, num_rollouts: int) -> Figure:
    """N rollouts of p_ref on a line: the weight that falls on each cell beside p*, and N·w in order of size."""
    tempered, x = replace(world, alpha=alpha), world.points[:, 0]
    cells = draw_cells(world.log_ref, (1, num_rollouts), stream(0, "look"))
    reward = world.reward[cells]
    weight = target_weights(log_weights(reward, torch.zeros_like(reward), alpha=alpha))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained", width_ratios=[2, 1])
    left.fill_between(x, tempered.log_target.exp(), color="0.8", label="p*")
    left.plot(x, world.log_ref.exp(), ":", color="0.3", label="p$_{ref}$ = p$_{old}$")
    on_cells = torch.zeros(len(x), dtype=torch.float64).index_add(0, cells[0], weight[0])
    left.vlines(x, 0, on_cells, color=COLORS[1], label="weight of the rollouts there")
    left.set(xlabel="x", ylabel="probability of a cell", title=f"α = {alpha:.2g}, N = {num_rollouts}", ylim=(0, None))
    left.legend(fontsize=8)
    right.bar(range(num_rollouts), num_rollouts * weight[0].sort(descending=True).values, color=COLORS[1], width=1.0)
    right.axhline(1, color="0.3", linewidth=0.8)
    right.set(xlabel="rollouts, largest first", ylabel="N · w", title=f"ESS = {effective_sample_size(weight).item():.2f}")
    return figure


def draw_self_normalising(expected: Mapping[int, Tensor], target: Tensor, history: Mapping[int, Sequence[float]]) -> Figure:
    """The expected weight of four answers against the group size N, and KL(p*‖p_t) over rounds.

    Args:
        expected: N → [4] expected weights. target: [4] p*.
        history: N → KL(p*‖p_t) in nats before the first and after every round.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    curves = torch.stack(list(expected.values()))
    for answer, (color, marker) in enumerate(zip(HUES, "os^D", strict=True)):
        left.plot(list(expected), curves[:, answer], marker + "-", markersize=4, color=color, label=f"answer {answer + 1}")
        left.axhline(target[answer].item(), color=color, linestyle="--", linewidth=0.8)
    left.set(xlabel="rollouts in one softmax, N", ylabel="expected weight", title="One round: answer 4 gets too little (dashed: p*)")
    left.legend(fontsize=7)
    for (N, values), color in zip(history.items(), HUES, strict=False):
        right.plot(values, "o-", markersize=3, color=color, label=f"N = {N}")
    right.set(yscale="log", ylim=(1e-9, 3), xlabel="round", ylabel="KL(p*‖p$_t$), nats", title="Many rounds: small N is slower, same limit")
    right.legend(fontsize=7)
    return figure


def draw_ratios(truth: Tensor, estimates: Mapping[str, Tensor], errors: Mapping[str, float]) -> Figure:
    """Three estimates of log p_ref − log p_old against the true values, in nats.

    Args:
        truth, estimates: of the same rollouts, of one shape. errors: root mean square of each, for the titles.
    """
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.3), layout="constrained", sharex=True, sharey=True)
    for panel, (name, estimate), color in zip(panels, estimates.items(), (COLORS[0], COLORS[1], COLORS[2]), strict=True):
        panel.plot(truth.flatten(), estimate.flatten(), ".", color=color, markersize=4, alpha=0.5)
        panel.plot([-4, 5], [-4, 5], color="0.3", linewidth=0.8)
        panel.set(title=f"{name}: error {errors[name]:.2f} nats", xlabel="true log p$_{ref}$ − log p$_{old}$, nats")
        panel.set(xlim=(-4, 5), ylim=(-6, 7))
    panels[0].set_ylabel("estimate, nats")
    return figure


def name_answers(ax: Axes, reward: Tensor, between: str) -> None:
    """The answers A, B, … under their bars, each with its reward."""
    ax.set_xticks(range(len(reward)), [f"{chr(65 + i)}{between}r={r:g}" for i, r in enumerate(reward.tolist())])


def draw_descent(before: Tensor, ends: Mapping[tuple[str, int], Tensor], shown: tuple[int, int], reward: Tensor, target: Tensor) -> Figure:
    """Probabilities of five answers, of which the last two were not drawn, before and after gradient steps on one group.

    Args:
        before, reward, target: [5] p_old, r, p*.
        ends: (baseline, steps) → [5] probabilities. shown: the two numbers of steps to draw, for each of three baselines.
    """
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained", sharey=True)
    for ax, baseline in zip(panels, dict.fromkeys(name for name, _ in ends), strict=True):
        bars = {"p$_{old}$": before} | {f"{steps} steps": ends[baseline, steps] for steps in shown}
        for k, (label, p) in enumerate(bars.items()):
            ax.bar([i + 0.27 * (k - 1) for i in range(5)], p, 0.27, color=("0.7", COLORS[0], COLORS[1])[k], label=label)
        ax.plot(range(5), target, "_", color="black", markersize=22, label="p*")
        name_answers(ax, reward, "\n")
        ax.set_title(f"baseline {baseline}")
        ax.axvspan(2.5, 4.5, color="0.93", zorder=0)
    panels[0].set_ylabel("probability")
    panels[0].text(3.5, 0.55, "not drawn", ha="center", fontsize=9)
    panels[2].legend(fontsize=8)
    return figure


def draw_drift(curves: Mapping[tuple[float, int], Mapping[str, Tensor]]) -> Figure:
    """KL(p*‖p_θ) over rounds for each baseline, one panel for each rate and N: median, and 5 to 95 % of the runs.

    Args:
        curves: (rate, N) → baseline → [rounds + 1, runs] divergences in nats.
    """
    figure, panels = plt.subplots(1, len(curves), figsize=(10, 3.3), layout="constrained", sharey=True)
    for ax, ((rate, N), by_baseline) in zip(panels, curves.items(), strict=True):
        for k, (baseline, values) in enumerate(by_baseline.items()):
            low, middle, high = values.quantile(torch.tensor([0.05, 0.5, 0.95], dtype=values.dtype), dim=1)
            ax.plot(middle, color=HUES[k], label=baseline, linestyle=("-", "--", "-.", ":")[k])
            ax.fill_between(range(len(low)), low, high, color=HUES[k], alpha=0.15, linewidth=0)
        ax.set(title=f"N = {N}, rate {rate:g}", xlabel="rounds", yscale="log", ylim=(1e-4, 20))
    panels[0].set_ylabel("KL(p*‖p$_θ$), nats: median, 5 to 95 %")
    panels[1].legend(fontsize=8)
    return figure


def draw_first_step(found: Mapping[str, tuple[Tensor, Tensor]], reward: Tensor, title: str) -> Figure:
    """The change of each logit in the first step: mean and standard deviation.

    Args:
        found: baseline → mean [C] and variance [C]. reward: [C].
    """
    figure, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for k, (baseline, (mean, variance)) in enumerate(found.items()):
        at, error = [i + 0.2 * (k - 1.5) for i in range(len(mean))], {"linewidth": 1}
        ax.bar(at, mean, 0.2, yerr=variance.sqrt(), color=HUES[k], label=baseline, capsize=2, error_kw=error)
    name_answers(ax, reward, ", ")
    ax.set(title=title, ylabel="change of the logit", ylim=(-0.7, 0.7))
    ax.legend(ncols=4, fontsize=8, loc="lower center")
    return figure
