"""The paper's figures (arXiv 2510.08233) on the toy: 1 (bars) and 4 (reward curves) with the rival, 5 with and without a baseline.

    python -m toy.studies.paper run                  # act (a) by DMPO and diffu-GRPO, what is missing in toy/results/paper.jsonl
    python -m toy.studies.paper draw book/figures    # the figures from the stored runs; 2, 3 and 5 on a line, where all is exact

Both methods get the same rollouts and gradient steps on the same puzzles, and five learning rates with a separate seed; each keeps
the one with the highest solve rate at temperature 1 on puzzles that were held out for this purpose.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from tqdm import tqdm

from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.tasks.sudoku import write_puzzles
from toy import RESULTS
from toy.acts import learn_to_solve
from toy.figures.demo import read_metrics
from toy.figures.paper import draw_figure_2, draw_figure_3
from toy.studies.acts import by_name, print_row
from toy.studies.acts import read as read_results
from toy.worlds.mixture import History, TabularPolicy, fit_forward, world_1d
from toy.worlds.sudoku import make_puzzles, split_grids

FILE = RESULTS / "paper.jsonl"
LEARNING_RATES, SEEDS, SWEEP_SEED = (1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3), (0, 1, 2), 10
# name → overrides of the preset toy_sudoku
METHODS: dict[str, tuple[str, ...]] = {"DMPO": (), "diffu-GRPO": ("loss.name=diffu_grpo",)}
GROUPS, RUNS = (4, 8, 16), range(12)  # N and seeds of Figure 5


def run() -> None:
    """Every run that is not in the file yet, appended to it: the sweep first, which chooses the learning rates."""
    for jobs in (sweep_jobs, final_jobs):
        done = {(row["kind"], row["name"], row["learning_rate"], row["seed"]) for row in read_results(FILE.stem)}
        for kind, name, learning_rate, seed in tqdm([job for job in jobs() if job not in done], desc=jobs.__name__, disable=None):
            with tempfile.TemporaryDirectory() as folder:
                row = one_run(Path(folder), kind, name, learning_rate, seed)
            with FILE.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")


Job = tuple[str, str, float, int]  # kind, name, learning rate, seed


def sweep_jobs() -> Iterator[Job]:
    """Five learning rates for each method."""
    for name, learning_rate in product(METHODS, LEARNING_RATES):
        yield "sweep", name, learning_rate, SWEEP_SEED


def final_jobs() -> Iterator[Job]:
    """Each method at its best learning rate."""
    for name, seed in product(METHODS, SEEDS):
        yield "final", name, best_learning_rate(name), seed


def best_learning_rate(name: str) -> float:
    """The best of the sweep by the solve rate at temperature 1."""
    found = {
        row["learning_rate"]: row["after"]["temperature_1"]
        for row in read_results(FILE.stem)
        if (row["kind"], row["name"]) == ("sweep", name)
    }
    return max(found, key=lambda learning_rate: found[learning_rate])


def one_run(folder: Path, kind: str, name: str, learning_rate: float, seed: int) -> dict[str, Any]:
    """Train on act (a); solve rates before and after, and the mean reward of every round. A sweep is judged on separate puzzles."""
    overrides = (*METHODS[name], f"optimizer.learning_rate={learning_rate:g}", "evaluation.every=0")
    if kind == "sweep":
        write_puzzles(folder / "sweep.csv", make_puzzles(split_grids()[1], 128, seed=31))
        overrides += (f"task.test={folder / 'sweep.csv'}",)
    found = learn_to_solve(folder / "run", seed=seed, overrides=overrides)
    for when in ("before", "after"):
        del found[when]["greedy_answers"]
    rewards = {entry["round"]: round(entry["reward"], 4) for entry in read_metrics(folder / "run")}
    return {"kind": kind, "name": name, "learning_rate": learning_rate, "seed": seed, **found, "rewards": list(rewards.values())}


def show() -> None:
    """Print the sweep and the final runs."""
    for kind in ("sweep", "final"):
        print_row(f"\n{kind}", "learning rate", "T=1 before", "T=1 after", "greedy after", "runs")
        for name, rows in by_name([row for row in read_results(FILE.stem) if row["kind"] == kind]).items():
            for learning_rate in sorted({row["learning_rate"] for row in rows}):
                chosen = [row for row in rows if row["learning_rate"] == learning_rate]
                rates = [np.mean([row[when][what] for row in chosen]) for when, what in COLUMNS]
                print_row(f"  {name}", f"{learning_rate:g}", *(f"{rate:.3f}" for rate in rates), len(chosen))


COLUMNS = (("before", "temperature_1"), ("after", "temperature_1"), ("after", "greedy"))


def draw(folder: Path) -> None:
    """Plot all figures."""
    use_style()
    draw_figure_2(folder / "paper_2.png")
    draw_figure_3(folder / "paper_3.png")
    rows = [row for row in read_results(FILE.stem) if row["kind"] == "final"]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", width_ratios=(2, 3))
    draw_bars(axes[0], rows)
    draw_rewards(axes[1], rows)
    figure.savefig(folder / "paper_1_and_4.png")
    figure, axes = plt.subplots(2, len(GROUPS), figsize=(10, 5.4), layout="constrained", sharex=True, sharey="row")
    for column, N in zip(axes.T, GROUPS, strict=True):
        draw_baselines(column, N)
    axes[0, 0].set_ylabel("expected reward")
    axes[1, 0].set_ylabel("KL(p*‖p_θ), nats")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(folder / "paper_5.png")
    plt.close("all")
    print(f"figures: {', '.join(str(folder / f'paper_{name}.png') for name in ('1_and_4', 2, 3, 5))}")


def draw_bars(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """Figure 1: solve rates of the reference, of diffu-GRPO and of DMPO; every seed a point."""
    by_method = by_name(rows)
    shown = [
        ("reference", rows, "before", "0.6"),
        *((n, by_method[n], "after", c) for n, c in zip(("diffu-GRPO", "DMPO"), COLORS[1::-1], strict=False)),
    ]
    for x, (_, chosen, when, color) in enumerate(shown):
        for offset, what, hatch in ((-0.2, "temperature_1", ""), (0.2, "greedy", "//")):
            values = [row[when][what] for row in chosen]
            label = {"temperature_1": "temperature 1", "greedy": "greedy"}[what] if x == 0 else None
            ax.bar(x + offset, np.mean(values), width=0.38, color=color, hatch=hatch, edgecolor="white", label=label)
            ax.scatter([x + offset] * len(values), values, s=10, color="black", zorder=3)
    ax.set(
        xticks=range(len(shown)),
        xticklabels=[name for name, *_ in shown],
        ylabel="solve rate, 256 test puzzles",
        title="Figure 1",
        ylim=(0, 1.05),
    )
    ax.legend(fontsize=8, loc="upper left")


def draw_rewards(ax: Axes, rows: list[dict[str, Any]]) -> None:
    """Figure 4: mean reward of the rollouts of each round; the line is the mean of the seeds, the band from the least to the most."""
    for (name, chosen), color in zip(sorted(by_name(rows).items()), COLORS, strict=False):
        smooth = np.array([np.convolve(row["rewards"], np.ones(5) / 5, "valid") for row in chosen])
        x = np.arange(smooth.shape[1]) + 5
        ax.plot(x, smooth.mean(axis=0), color=color, label=name)
        ax.fill_between(x, smooth.min(axis=0), smooth.max(axis=0), color=color, alpha=0.2, linewidth=0)
    ax.set(xlabel="round (mean of five)", ylabel="reward of the rollouts", title="Figure 4", ylim=(0, 1))
    ax.legend(fontsize=8)


def draw_baselines(axes: Any, N: int) -> None:
    """Figure 5 for one N: exact reward and divergence with and without negative weights, median and quartiles of the seeds."""
    world = world_1d()
    for baseline, color in zip(("none", "uniform", "negative"), COLORS, strict=False):
        found = [baseline_curve(baseline, N, seed) for seed in RUNS]
        for ax, curves in zip(axes, ([h.reward for h in found], [h.forward_kl for h in found]), strict=True):
            low, middle, high = np.percentile(curves, (25, 50, 75), axis=0)
            ax.plot(middle, color=color, label=baseline)
            ax.fill_between(range(len(middle)), low, high, color=color, alpha=0.2, linewidth=0)
    axes[0].axhline((world.log_target.exp() @ world.reward).item(), color="black", linestyle="--", linewidth=1, label="p*")
    axes[0].set(title=f"Figure 5, N = {N}")
    axes[1].set(xlabel="round", yscale="log")


def baseline_curve(baseline: str, N: int, seed: int) -> History:
    """One run on the line: a tabular policy, one group of N in each round."""
    world = world_1d()
    return fit_forward(world, TabularPolicy(world), num_rollouts=N, baseline=baseline, seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The paper's figures on the toy.")
    parser.add_argument("what", nargs="?", default="show", choices=["run", "show", "draw"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("book/figures"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "run":
        run()
    if arguments.what == "draw":
        draw(arguments.folder)
    show()
