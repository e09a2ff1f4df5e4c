"""The pictures of notebook 05: the loss of one rollout, the noise of masks, and where the minimum of WDDO is."""

from __future__ import annotations

from collections.abc import Mapping
from math import log, log1p

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import logsigmoid

from dmpo_ref.plots.style import COLORS
from toy.enumeration import mask_sizes

BLUE, ORANGE, GREEN, RED = COLORS[:4]


def draw_wddo(scaled_weights: tuple[float, float, float]) -> Figure:
    """WDDO of one rollout against Δ for three values of N·w, and minus its gradient beside half of that of WDCE − uniform."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    x = torch.linspace(-5, 4, 200, dtype=torch.float64)
    for nw, color in zip(scaled_weights, (BLUE, ORANGE, GREEN), strict=True):
        left.plot(x, -nw * logsigmoid(x) - logsigmoid(-x), color=color, label=f"N·w = {nw:g}")
        left.plot(log(nw), nw * log1p(1 / nw) + log1p(nw), "o", color=color)
        right.plot(x, nw * torch.sigmoid(-x) - torch.sigmoid(x), color=color)
        right.plot(x, 0 * x + (nw - 1) / 2, "--", color=color, linewidth=0.9)
    left.set(xlabel="Δ = log p$_θ$ − log p$_{old}$, nats", ylabel="loss of one rollout × N")
    left.set(title="WDDO: a minimum at Δ = log N·w", ylim=(0, 6))
    left.legend(fontsize=8)
    right.set(xlabel="Δ, nats", ylabel="−gradient in log p$_θ$ × N", title="−gradient; dashed: half of WDCE − uniform")
    return figure


def draw_schemes(cost: Tensor, nelbo: float, sides: Tensor, schemes: Mapping[str, tuple[float, float]]) -> Figure:
    """How noisy the estimates of one answer's NELBO are, in nats.

    Args:
        cost: [2^L] of each of `toy.enumeration.all_masks`.
        sides: [P, 2] the estimates from the easier and from the harder side of every complementary pair.
        schemes: name → mean and standard deviation of an estimate from two masks; biased ones are red.
    """
    L = len(cost).bit_length() - 1
    figure, (left, centre, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for m in range(1, L + 1):
        values = L / m * cost[mask_sizes(L) == m]
        left.plot([m] * len(values), values, "o", color=BLUE, markersize=4, alpha=0.5)
    left.axhline(nelbo, color="0.3", linestyle="--", label="exact NELBO")
    left.set(xlabel="hidden tokens m", ylabel="(L/m) · cost, nats", title="Answer 1: every mask")
    left.legend(fontsize=8)
    centre.plot(sides[:, 1], sides[:, 0], "o", color=GREEN, markersize=4, alpha=0.6)
    centre.set(xlabel="estimate from the harder side, nats", ylabel="from its complement, nats", title=f"The {len(sides)} pairs")
    for k, (scheme, (mean, deviation)) in enumerate(schemes.items()):
        color = RED if scheme in ("naive pairs", "paper") else BLUE
        right.errorbar(k, mean, yerr=deviation, fmt="o", capsize=4, color=color)
    right.axhline(nelbo, color="0.3", linestyle="--")
    right.set(xticks=range(len(schemes)), ylabel="nats", title="Mean ± standard deviation, R = 2")
    right.set_xticklabels(schemes, rotation=20, fontsize=8, ha="right", rotation_mode="anchor")
    return figure


def draw_minima(by_masks: Mapping[int, float], all_masks: float, ends: Mapping[str, Tensor], target: Tensor) -> Figure:
    """Where WDDO with ELBOs has its minimum.

    Args:
        by_masks: R → KL(p*‖p_θ) at the minimum with R masks, in nats. all_masks: the same with all of them.
        ends: name → [4] probabilities at a minimum, of three losses. target: [4] p*.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    left.plot(list(by_masks), list(by_masks.values()), "o-", color=ORANGE, label="WDDO, R masks: gap and noise")
    left.axhline(all_masks, color=GREEN, linestyle="--", label="WDDO, all masks: gap alone")
    left.set(xlabel="masks per rollout, R", ylabel="KL(p*‖p$_θ$), nats", title="The minimum of WDDO with ELBOs", ylim=(0, None))
    left.legend(fontsize=8)
    for k, ((name, p), color) in enumerate(zip(ends.items(), (BLUE, GREEN, ORANGE), strict=True)):
        right.bar(np.arange(4) + 0.2 * k, p, 0.2, color=color, label=name)
    right.bar(np.arange(4) + 0.6, target, 0.2, color="0.7", label="p*")
    right.set(xticks=np.arange(4) + 0.3, xticklabels=["00", "01", "10", "11"])
    right.set(xlabel="answer", ylabel="probability", title="The four answers at the minimum")
    right.legend(fontsize=8)
    return figure
