"""The weight baselines in one dimension, where every divergence is exact.

python -m toy.studies.baselines    # all baselines, N = 4, 8, 16: a table and a figure
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from toy.figures.mixture import draw_figure
from toy.notebook import Table
from toy.worlds.mixture import BASELINES, GaussianMixturePolicy, TabularPolicy, World, fit_forward, fit_reverse, world_1d


def baseline_study(
    world: World | None = None,
    *,
    num_rollouts: Sequence[int] = (4, 8, 16),
    seeds: Sequence[int] = range(6),
    **fit: Any,
) -> list[dict]:
    """`fit_forward` of a tabular policy for every baseline, N and seed, with one group and so N rollouts per round.

    Equal seeds draw equal rollouts in the first round, whatever the baseline.

    Args:
        world: None for `world_1d()`.
        fit: further arguments of `fit_forward`, such as `learning_rate`, `rounds` or `groups`.

    Returns:
        One row for each run: baseline, N, seed, kl = KL(p*‖p_θ) in nats and reward = E_{p_θ}[r], both at the end.
    """
    world = world or world_1d()
    rows = []
    for baseline, N, seed in product(BASELINES, num_rollouts, seeds):
        history = fit_forward(world, TabularPolicy(world), num_rollouts=N, baseline=baseline, seed=seed, **fit)
        rows.append({"baseline": baseline, "N": N, "seed": seed, "kl": history.forward_kl[-1], "reward": history.reward[-1]})
    return rows


def table(rows: list[dict]) -> Table:
    """Mean and standard deviation over seeds of the KL, and the mean reward, one row for each baseline and N."""
    cells = []
    for (baseline, N), group in groupby(rows, key=lambda row: (row["baseline"], row["N"])):
        kl, reward = zip(*[(row["kl"], row["reward"]) for row in group], strict=True)
        cells.append((baseline, N, f"{mean(kl):.3f} ± {stdev(kl):.3f}", f"{mean(reward):.3f}"))
    return Table(cells, ("baseline", "N", "KL(p*||p_theta), nats", "E[r]"))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, print its table, and draw it beside a forward and a reverse fit of a mixture of two components."""
    parser = argparse.ArgumentParser(prog="python -m toy.studies.baselines", description=main.__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/mixture/baselines.png"), help="figure to write (PNG)")
    parser.add_argument("--learning-rate", type=float, default=0.03, help="of the study; the two mixtures take 0.05")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # tensors of a few dozen numbers
    world = world_1d()
    rows = baseline_study(world, learning_rate=args.learning_rate)
    print(table(rows))
    forward, reverse = (GaussianMixturePolicy(world, num_components=2) for _ in range(2))
    fit_forward(world, forward, num_rollouts=16, groups=32, baseline="uniform", rounds=100, learning_rate=0.05)
    fit_reverse(world, reverse, rounds=100, learning_rate=0.05)
    draw_figure(rows, world, forward.log_prob().detach(), reverse.log_prob().detach(), args.output)
    print(f"figure: {args.output}")


if __name__ == "__main__":
    main()
