"""The pictures of notebook 01: orders of generation, the probability of an answer and its bound, mask schedules and schemes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dmpo_ref.masking import Masks
from dmpo_ref.plots.style import COLORS
from dmpo_ref.plots.traces import draw_trace, trace
from dmpo_ref.rollout import Rollout
from toy.oracle import Exact

BLUE, ORANGE, GREEN = COLORS[:3]


def draw_orders(tokenizer, rollout: Rollout) -> Figure:
    """The first four answers to one 4x4 puzzle as strips of 16 cells in the color of their step, with log p(o; σ).

    Raises:
        ValueError: a rollout without path probabilities.
    """
    if rollout.path_log_prob is None:
        raise ValueError(f"the sampler {rollout.sampler.name} gives no log p(o; σ); random_order at a temperature above 0 does")
    strips = [trace(tokenizer, rollout, sample=n) for n in range(4)]
    pieces = [f" {piece} " if i < 15 else f" {piece}\n" for answer, _ in strips for i, piece in enumerate(answer)]
    figure = draw_trace(pieces, [when for _, steps in strips for when in steps])
    axes, log_prob = figure.axes[0], rollout.path_log_prob[0]
    axes.set(title="Four answers, each in its own order", xlabel="cells 1 to 16, row by row")
    axes.set_yticks([n + 0.5 for n in range(4)], [f"log p(o; σ) = {log_prob[n]:.2f} nats" for n in range(4)])
    return figure


def draw_bound(paths: Tensor, exact: Exact, shown: Sequence[int], frequency: Sequence[float], num_samples: int) -> Figure:
    """One answer along every order, the seven most probable answers beside their frequencies, and the ELBO of every answer.

    Args:
        paths: [n!] log p(o; σ) of one answer, in nats.
        shown: indices of the seven most probable answers.
        frequency: of these answers among `num_samples` samples.
    """
    figure, (left, centre, right) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    left.hist(paths, bins=20, color="0.75")
    left.axvline(paths.exp().mean().log().item(), color=BLUE, label="log p(o)")
    left.axvline(paths.mean().item(), color=ORANGE, linestyle="--", label="ELBO: their mean")
    left.set(xlabel="log p(o; σ), nats", ylabel=f"orders, of {len(paths)}", title="One answer, every order")
    left.legend(fontsize=8)
    place = np.arange(len(shown))
    centre.bar(place - 0.2, exact.log_prob[shown].exp(), 0.4, color=BLUE, label="exact")
    centre.bar(place + 0.2, frequency, 0.4, color="0.7", label=f"{num_samples} samples")
    centre.set(xticks=place, xticklabels=1 + place, xlabel="answer, most probable first", ylabel="probability", title="The distribution")
    centre.legend(fontsize=8)
    draw_gaps(right, exact, shown)
    return figure


def draw_gaps(axes: Axes, exact: Exact, shown: Sequence[int]) -> None:
    """The ELBO of every answer against its log-probability; the seven of `shown` stand out."""
    axes.plot(exact.log_prob, exact.elbo, "o", color="0.6", markersize=3, label="others, above e⁻³⁰")
    axes.plot(exact.log_prob[shown], exact.elbo[shown], "o", color=ORANGE, markersize=5, label="the first seven")
    axes.plot([-40, 0], [-40, 0], color=BLUE, linewidth=1, label="no gap")
    axes.set(xlabel="log p(o), nats", ylabel="ELBO, nats", title="Bound and truth", xlim=(-30, 0), ylim=(-40, 0))
    axes.legend(fontsize=8)


def draw_schedules(how_often: Mapping[str, np.ndarray], weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Three mask schedules: how often each size is drawn, and how it is weighed.

    Args:
        how_often: schedule → [L + 1] probability that m of L tokens are hidden.
        weights: the same schedules → share hidden h and weight h′/h, at some times.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for (name, chances), color in zip(how_often.items(), (BLUE, ORANGE, GREEN), strict=True):
        left.plot(range(len(chances)), chances, "o-", markersize=4, color=color, label=name)
        right.plot(*weights[name], color=color)
    left.set(
        xlabel=f"hidden tokens m of L = {len(chances) - 1}", ylabel="probability", title="How often each size is drawn", ylim=(0, None)
    )
    left.legend(fontsize=8)
    right.set(xlabel="share hidden, h", ylabel="weight h′/h", title="And how it is weighed", ylim=(0, 12))
    return figure


def draw_mask_schemes(drawn: Mapping[str, Masks]) -> Figure:
    """The masks of one response of 16 tokens, dark where hidden, with their weights: a panel for each of at least two schemes."""
    figure, axes = plt.subplots(1, len(drawn), figsize=(11 / 4 * len(drawn), 2.9), layout="constrained")
    for panel, (scheme, masks) in zip(axes, drawn.items(), strict=True):
        panel.imshow(masks.hidden[0, 0], cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
        for r, weight in enumerate(masks.weight[0, 0].tolist()):
            panel.text(16.1, r, f"{weight:.2g}", va="center", fontsize=8)
        panel.text(16.1, -0.75, "weight", va="center", fontsize=8)
        panel.set(title=scheme, xlabel="position", xticks=[0, 5, 10, 15], yticks=[])
        panel.grid(False)
    rows = range(len(masks.weight[0, 0]))
    axes[0].set(ylabel="mask", yticks=rows, yticklabels=[r + 1 for r in rows])
    figure.suptitle("dark = hidden", fontsize=9)
    return figure
