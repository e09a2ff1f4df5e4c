"""The figures of the demonstration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from dmpo_ref.plots.style import COLORS, use_style
from dmpo_ref.tasks.sudoku import UNITS, is_solution

BLUE, ORANGE, GREEN, RED = COLORS[0], COLORS[1], COLORS[2], COLORS[3]


def draw_board(axes: Axes, puzzle: str, answer: str, title: str) -> None:
    """A board: clues black, generated digits blue, cells that break a rule shaded."""
    axes.set(xlim=(0, 4), ylim=(4, 0), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.grid(False)
    broken = {i for unit in UNITS for i in unit if len({answer[j] for j in unit}) < 4 and [answer[j] for j in unit].count(answer[i]) > 1}
    for i, digit in enumerate(answer):
        row, column = divmod(i, 4)
        if i in broken:
            axes.add_patch(plt.Rectangle((column, row), 1, 1, color=RED, alpha=0.25, linewidth=0))
        is_clue = puzzle[i] != "0"
        axes.text(column + 0.5, row + 0.52, digit, ha="center", va="center", fontsize=13,
                  color="black" if is_clue else BLUE, fontweight="bold" if is_clue else "normal")  # fmt: skip
    axes.spines[:].set(color="0.2", linewidth=1.6)
    for k in range(1, 4):
        width = 1.6 if k % 2 == 0 else 0.5
        axes.axhline(k, color="0.2", linewidth=width)
        axes.axvline(k, color="0.2", linewidth=width)


def draw_demo(output: Path, summary: dict[str, Any]) -> Path:
    """The figure of `dmpo demo`: rewards and solve rate, ESS, boards, exact KL and mode shares. Returns its path."""
    use_style()
    figure = plt.figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 6)
    top = [figure.add_subplot(grid[0, 0:2]), figure.add_subplot(grid[0, 2:4])]
    boards = [figure.add_subplot(grid[0, 4]), figure.add_subplot(grid[0, 5])]
    bottom = [figure.add_subplot(grid[1, 0:2]), figure.add_subplot(grid[1, 2:4]), figure.add_subplot(grid[1, 4:6])]
    act_a, act_b = (read_metrics(output / act) for act in ("act_a", "act_b"))
    draw_solve_rate(top[0], act_a, summary["act_a"])
    draw_by_blanks(top[1], summary["act_a"])
    draw_boards(boards, summary["act_a"])
    draw_ess(bottom[0], act_a, act_b)
    draw_kl(bottom[1], act_b, summary["act_b"])
    draw_shares(bottom[2], summary["act_b"])
    path = output / "demo.png"
    figure.savefig(path)
    plt.close(figure)
    return path


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run, one entry per gradient step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def rounds_of(metrics: list[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """(rollouts, value) at the last step of each round that has the metric."""
    last = {entry["round"]: entry for entry in metrics}
    found = [(entry["rollouts"], entry[name]) for entry in last.values() if name in entry]
    return [x for x, _ in found], [y for _, y in found]


def draw_solve_rate(axes: Axes, metrics: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Reward of the rollouts and solve rate on the test puzzles."""
    axes.plot(*rounds_of(metrics, "reward"), color=BLUE, linewidth=1, label="reward of rollouts (training puzzles)")
    x, y = rounds_of(metrics, "evaluation/accuracy")
    axes.plot([0, *x], [result["before"]["temperature_1"], *y], "o-", color=ORANGE, label="test solve rate, temperature 1")
    end = x[-1]
    axes.plot([0, end], [result["before"]["greedy"], result["after"]["greedy"]], "s", color=GREEN, label="test solve rate, greedy")
    axes.set(title="Act (a), learn to solve", xlabel="rollouts", ylabel="share solved", ylim=(0, 1.02))
    axes.legend(loc="lower right", fontsize=7)


def draw_by_blanks(axes: Axes, result: dict[str, Any]) -> None:
    """Solve rate by number of blanks, before and after."""
    kinds = list(result["before"]["by_blanks"])
    for offset, when, color in ((-0.2, "before", "0.6"), (0.2, "after", ORANGE)):
        bars = axes.bar(
            [i + offset for i in range(len(kinds))], [result[when]["by_blanks"][k] for k in kinds], 0.4, color=color, label=when
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=6.5)
    axes.set_xticks(range(len(kinds)), [kind.split()[0] for kind in kinds])
    axes.set(title="Act (a), by number of blanks", xlabel="blanks", ylabel="test solve rate, temperature 1", ylim=(0, 1.2))
    axes.legend(loc="upper right", fontsize=7, ncols=2)


def draw_boards(pair: list[Axes], result: dict[str, Any]) -> None:
    """The greedy answers to the first test puzzle whose answer turned from wrong to right (else to the first one)."""
    before, after = (result[when]["greedy_answers"] for when in ("before", "after"))
    newly_solved = [puzzle for puzzle, answer in after.items() if is_solution(puzzle, answer) and not is_solution(puzzle, before[puzzle])]
    puzzle = (newly_solved or list(after))[0]
    draw_board(pair[0], puzzle, before[puzzle], "Act (a), greedy: before")
    draw_board(pair[1], puzzle, after[puzzle], "and after")
    pair[0].set_xlabel("shaded: breaks a rule", fontsize=8)


def draw_ess(axes: Axes, act_a: list[dict[str, Any]], act_b: list[dict[str, Any]]) -> None:
    """Effective sample size of the weights in both acts."""
    for metrics, color, label in ((act_a, BLUE, "act (a)"), (act_b, ORANGE, "act (b)")):
        x, y = rounds_of(metrics, "ess")
        axes.plot([rollouts / x[-1] for rollouts in x], y, color=color, linewidth=1, label=label)
    axes.set(
        title="Acts (a) and (b), effective sample size", xlabel="share of the run", ylabel="ESS (share of the N rollouts)", ylim=(0, 1.02)
    )
    axes.legend(loc="lower right", fontsize=7)


def draw_kl(axes: Axes, metrics: list[dict[str, Any]], result: dict[str, Any]) -> None:
    """Exact divergences from the target over the run."""
    for name, color, label in (("kl_target_policy", BLUE, "KL(p*‖p$_θ$)"), ("kl_policy_target", ORANGE, "KL(p$_θ$‖p*)")):
        x, y = rounds_of(metrics, f"exact/{name}")
        axes.plot([0, *x], [result["before"][name], *y], "o-", markersize=3, color=color, label=label)
    axes.set(title="Act (b), match the target: exact", xlabel="rollouts", ylabel="nats", yscale="log")
    axes.legend(loc="upper right", fontsize=7)


def draw_shares(axes: Axes, result: dict[str, Any]) -> None:
    """Exact probability of both solutions and of everything else: before, after, target."""
    names = ["solution 1", "solution 2", "wrong answers"]
    columns = [
        ("before", result["before"]["shares"], "0.6"),
        ("after", result["after"]["shares"], ORANGE),
        ("target p*", result["target_shares"], BLUE),
    ]
    for k, (label, shares, color) in enumerate(columns):
        bars = axes.bar([i + 0.27 * (k - 1) for i in range(3)], [*shares, 1 - sum(shares)], 0.27, color=color, label=label)
        axes.bar_label(bars, fmt="%.2f", fontsize=6.5)
    axes.set_xticks(range(3), names)
    axes.set(title="Act (b), where the probability is: exact", ylabel="probability", ylim=(0, 1))
    axes.legend(loc="upper right", fontsize=7)


def draw_group_size(groups: dict[str, list[dict[str, Any]]], path: Path) -> Path:
    """Exact KL after the same number of rollouts, by how they were grouped: one point per run, a bar at the median."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for k, (name, rows) in enumerate(groups.items()):
        for panel, value in (
            (axes[0], lambda r: r["after"]["kl_target_policy"]),
            (axes[1], lambda r: r["after"]["shares"][0] - r["target_shares"][0]),
        ):
            values = sorted(value(row) for row in rows)
            spread = [k + 0.25 * (i / max(1, len(values) - 1) - 0.5) for i in range(len(values))]
            panel.plot(spread, values, "o", color=COLORS[k], markersize=4, alpha=0.8)
            panel.hlines(values[len(values) // 2], k - 0.3, k + 0.3, color=COLORS[k], linewidth=2, label=name)
    for panel in axes:
        panel.set_xticks(range(len(groups)), [name.replace(", ", "\n") for name in groups])
    axes[0].set(title="exact KL(p*‖p$_θ$), 3,200 rollouts", ylabel="nats", yscale="log")
    axes[1].set(title="first solution: probability − target share", ylabel="difference", ylim=(-0.75, 0.75))
    axes[1].axhline(0, color="0.3", linewidth=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path
