"""What p* itself leaves out: shares of the solutions in p* by α, exactly, and how flattening changes them.

    python -m toy.studies.unimodal         # enumerates, trains, writes toy/results/unimodal.jsonl, prints the tables
    python -m toy.studies.unimodal show    # tables and book/figures/unimodal.png from the stored rows

p*(a)/p*(b) = p_ref(a)/p_ref(b) · e^{(r_a − r_b)/α}. Solutions of equal reward stand in p_ref's proportions, whatever α. A difference d
gives a factor e^{d/α}, so it alone decides if α is small; with k = p_ref(a)/p_ref(b) and r_b = r_a + d the two are equal at α = d/ln k.
`weight.flatten_above` (arXiv 2510.20817) makes the good answers equal at every α.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from dmpo_ref.config import Config
from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.presets.loading import load_config
from dmpo_ref.tasks.sudoku import Puzzle, write_puzzles
from dmpo_ref.train import train
from toy import RESULTS
from toy.acts import TwoSolutions, load_two_solutions
from toy.oracle import flattened, rewards, tilted
from toy.worlds.sudoku import solutions

FILE, FIGURE = RESULTS / "unimodal.jsonl", RESULTS.parents[1] / "book/figures/unimodal.png"
PUZZLES = {"two solutions": "1234400034002143", "three solutions": "0020204000121234"}
ALPHAS = np.geomspace(0.01, 3, 26).tolist()
# name → reward of the solution least probable under p_ref, less that of the others; and whether the good ones share evenly
CASES = {
    "equal rewards": (0.0, False),
    "weakest 0.05 worse": (-0.05, False),
    "weakest 0.05 better": (0.05, False),
    "flattened": (-0.05, True),
}
ABOVE = 0.9
RUNS = {"as published": (), "flattened": (f"weight.flatten_above={ABOVE}",)}
OPTIONS = ("loss.masks=path_steps", "weight.baseline=uniform")
EVERY = 5  # rounds between exact evaluations
Row = dict[str, Any]


def load_puzzle(name: str, folder: Path, *overrides: str) -> tuple[Config, TwoSolutions]:
    """One of `PUZZLES`, enumerated under the reference policy; the config trains on it, in the folder."""
    puzzle, path = PUZZLES[name], folder / "puzzle.csv"
    write_puzzles(path, [Puzzle(puzzle, solutions(puzzle)[0])])
    config = load_config("toy_two_solutions", f"output={folder / 'run'}", f"task.train={path}", f"task.test={path}", *overrides)
    return config, load_two_solutions(config)


def shares(puzzle: TwoSolutions, log_p: Tensor) -> list[float]:
    """Probability of each solution, the one least probable under p_ref first."""
    ranked = sorted(puzzle.solutions, key=puzzle.exact.probability_of)
    return [log_p[puzzle.exact.texts.index(text)].exp().item() for text in ranked]


def exact_rows(name: str, puzzle: TwoSolutions) -> Iterator[Row]:
    """Shares in p_ref, and in the target of each case at each α."""
    log_ref, reward = puzzle.exact.log_prob, rewards(puzzle.task, puzzle.item, puzzle.exact)
    weakest = puzzle.exact.texts.index(min(puzzle.solutions, key=puzzle.exact.probability_of))
    for case, (difference, is_flat) in CASES.items():
        changed = reward.clone()
        changed[weakest] += difference
        for alpha in ALPHAS:
            target = flattened(log_ref, changed, alpha, ABOVE) if is_flat else tilted(log_ref, changed, alpha)
            yield {"puzzle": name, "case": case, "alpha": alpha, "shares": shares(puzzle, target), "p_ref": shares(puzzle, log_ref)}


def training_row(kind: str, seed: int) -> Row:
    """One run of 3,200 rollouts on the first puzzle, with equal rewards; exact shares and divergences from p* and from p̃ over the run."""
    with tempfile.TemporaryDirectory() as folder:
        config, puzzle = load_puzzle("two solutions", Path(folder), f"seed={seed}", *OPTIONS, *RUNS[kind])
        log_ref, reward = puzzle.exact.log_prob, rewards(puzzle.task, puzzle.item, puzzle.exact)
        flat = replace(puzzle, log_target=flattened(log_ref, reward, config.weight.alpha, ABOVE))
        curve: list[Row] = []

        def measure(done: int, policy: Module) -> Row:
            if done % EVERY == 0:
                exact = puzzle.distribution(policy)
                to_paper, to_flat = (target.compare(exact)["kl_target_policy"] for target in (puzzle, flat))
                curve.append({"rollouts": done * config.train.num_rollouts, "kl_paper": to_paper, "kl_flat": to_flat,
                              "shares": shares(puzzle, exact.log_prob)})  # fmt: skip
            return {}

        measure(0, puzzle.policy)
        train(config, on_round=measure)
        targets = {"target_paper": shares(puzzle, puzzle.log_target), "target_flat": shares(puzzle, flat.log_target)}
    return {"run": kind, "seed": seed, "alpha": config.weight.alpha, "options": [*OPTIONS, *RUNS[kind]], **targets, "curve": curve}


def show(rows: list[Row]) -> None:
    """Shares at a few α, and where each run ended."""
    for row in rows:
        if "case" in row and row["alpha"] in ALPHAS[::5]:
            values = " ".join(f"{share:.3f}" for share in row["shares"])
            print(f"{row['puzzle']:<16}{row['case']:<22}α = {row['alpha']:<8.3f}{values}")
    for row in rows:
        if "run" in row:
            end, values = row["curve"][-1], " ".join(f"{share:.3f}" for share in row["curve"][-1]["shares"])
            print(f"{row['run']:<14}seed {row['seed']}: KL(p*‖p) {end['kl_paper']:.4f}, KL(p̃‖p) {end['kl_flat']:.4f}, shares {values}")


def draw(rows: list[Row], path: Path) -> None:
    """Shares by α, a row for each puzzle; right the runs: divergence from the flattened target, and share of the weaker solution."""
    use_style()
    figure, axes = plt.subplots(2, len(CASES) + 1, figsize=(15, 5.4), layout="constrained")
    for line, name in zip(axes, PUZZLES, strict=True):
        for ax, case in zip(line, CASES, strict=False):
            chosen = [row for row in rows if row.get("case") == case and row["puzzle"] == name]
            alphas, found = [row["alpha"] for row in chosen], np.array([row["shares"] for row in chosen]).T
            for rank, values in enumerate(found):
                which = f"solution {rank + 1}" + (", least likely in p$_{ref}$" if rank == 0 else "")
                ax.plot(alphas, values, color=COLORS[rank], label=which, linewidth=2, linestyle=("-", "--", ":")[rank])
                ax.plot(3.6, chosen[0]["p_ref"][rank], "<", color=COLORS[rank], markersize=5, clip_on=False)
            ax.plot(alphas, 1 - found.sum(axis=0), color="0.6", linewidth=1, label="all other answers")
            ax.set(xscale="log", ylim=(-0.03, 1.03), title=case if name == "two solutions" else "")
        line[0].set_ylabel(f"{name}\nshare in the target")
    for ax in axes[1, : len(CASES)]:
        ax.set_xlabel("α, reward per nat")
    axes[1, 0].legend(fontsize=7)
    for row in rows:
        if "run" in row:
            at, color = [point["rollouts"] for point in row["curve"]], COLORS[3 + list(RUNS).index(row["run"])]
            label = row["run"] if row["seed"] == 0 else None
            axes[0, -1].plot(at, [point["kl_flat"] for point in row["curve"]], color=color, label=label)
            axes[1, -1].plot(at, [point["shares"][0] for point in row["curve"]], color=color, label=label)
            target = row["target_flat" if row["run"] == "flattened" else "target_paper"][0]
            axes[1, -1].axhline(target, color=color, linewidth=0.8, linestyle=":")
    axes[0, -1].set(yscale="log", title="runs, equal rewards", ylabel="KL(p̃ ‖ p$_θ$), nats")
    axes[1, -1].set(ylim=(0, 0.6), xlabel="rollouts", ylabel="share of solution 1 (dots: target)")
    axes[0, -1].legend(fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Enumerate both puzzles, train 3 seeds with and without flattening; or show the stored rows."""
    parser = argparse.ArgumentParser(prog="python -m toy.studies.unimodal", description=main.__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "show"), default="run")
    if parser.parse_args().what == "run":
        torch.set_num_threads(1)
        rows: list[Row] = []
        for name in PUZZLES:
            with tempfile.TemporaryDirectory() as folder:
                rows += exact_rows(name, load_puzzle(name, Path(folder))[1])
        rows += [training_row(kind, seed) for kind in RUNS for seed in range(3)]
        FILE.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    stored = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    show(stored)
    draw(stored, FIGURE)
    print(f"figure: {FIGURE}")


if __name__ == "__main__":
    main()
