"""The pictures that notebooks 03 and 05 open with: `python -m toy.figures.openings book/figures`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from torch import Tensor

from dmpo_ref.losses import wdce, wddo
from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.weights import effective_sample_size, log_weights, target_weights

REWARD = torch.tensor([[0.0, 0.2, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]], dtype=torch.float64)  # of eight rollouts of one prompt
MOVED = -5.0  # log p_ref − log p_old of the best one, when the policy has moved towards it
SETTINGS = ((0.5, 0.0), (0.1, 0.0), (0.1, MOVED))  # α, log-ratio of the best rollout
WEIGHT = 0.4  # w of one rollout in a group of N = 4, so that WDDO is stationary at p_θ = 1.6 p_old
GROUP = 4


def weights_of(alpha: float, moved: float) -> Tensor:
    """w [1, 8] of the rollouts at a temperature α, with a log-ratio of 0 but for that of the best one."""
    log_ratio = torch.zeros_like(REWARD)
    log_ratio[0, -1] = moved
    return target_weights(log_weights(REWARD, log_ratio, alpha=alpha))


def draw_weights(path: Path) -> None:
    """Eight rewards, and the weights that they become."""
    figure, axes = plt.subplots(1, 1 + len(SETTINGS), figsize=(13, 3.2), layout="constrained")
    axes[0].bar(range(1, 9), REWARD[0], color="0.6")
    axes[0].set(title="rewards", ylabel="r", xlabel="rollout", ylim=(0, 1.05))
    for panel, (alpha, moved) in zip(axes[1:], SETTINGS, strict=True):
        weight = weights_of(alpha, moved)
        ess = effective_sample_size(weight).item()
        panel.bar(range(1, 9), weight[0], color=COLORS[0])
        panel.axhline(1 / 8, color="0.3", linestyle=":", label="1/N")
        drifted = ", p_old moved" if moved else ""
        panel.set(title=f"weights, α = {alpha:g}{drifted}\nESS {ess:.2f}", xlabel="rollout", ylim=(0, 1.05))
    axes[1].legend(fontsize=8, loc="upper left")
    figure.savefig(path)
    plt.close(figure)


def force(name: str, delta: Tensor) -> Tensor:
    """−∂loss/∂Δ of one rollout of weight WEIGHT at each Δ = log p_θ − log p_old: how strongly a step would raise its log-probability."""
    delta = delta.detach().requires_grad_()
    weight = torch.full_like(delta, WEIGHT)
    if name == "WDCE":
        loss = wdce(delta[:, None], weight[:, None]) * len(delta)
    else:  # the mean over p_old is over the N rollouts of the group, of which this is one
        rest = torch.zeros(len(delta), GROUP - 1, dtype=delta.dtype)
        loss = wddo(torch.cat([delta[:, None], rest], 1), torch.cat([weight[:, None], rest + (1 - WEIGHT) / (GROUP - 1)], 1)) * len(delta)
    return -torch.autograd.grad(loss, delta)[0]


def draw_losses(path: Path) -> None:
    """How strongly each loss raises a rollout of weight 0.4, against how far it has been raised already."""
    delta = torch.linspace(-2, 4, 241, dtype=torch.float64)
    figure, panel = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for name, color in zip(("WDCE", "WDDO"), COLORS, strict=False):
        panel.plot(delta, force(name, delta), color=color, label=name)
    panel.axhline(0, color="0.3", lw=0.8)
    panel.axvline(torch.tensor(GROUP * WEIGHT).log().item(), color="0.3", linestyle=":", label="log (N w)")
    panel.set(
        xlabel="log p_θ − log p_old of the rollout", ylabel="upward pull, −∂loss/∂Δ", title=f"one rollout of weight {WEIGHT}, N = {GROUP}"
    )
    panel.legend(fontsize=9)
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    use_style()
    folder = Path(sys.argv[1])
    draw_weights(folder / "opening_weights.png")
    draw_losses(folder / "opening_losses.png")
