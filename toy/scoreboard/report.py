"""Tables of the scoreboard from its rows: medians with bootstrap intervals, one line for each method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from tabulate import tabulate

from toy.scoreboard.suite import POINTS, Rows, best_setting, tuning_cells

RESAMPLES, LEAST = 4000, 5  # of the bootstrap; values that it takes
COLUMNS: tuple[str, ...] = (
    "method",
    "aim",
    "learning rate",
    "KL(p*‖p_θ)",
    "95 %",
    "largest",
    "KL(p_θ‖p*)",
    "right",
    "modes kept",
    "greedy",
)
COLUMNS += ("pass@8", "entropy", "rows", "runs")


def interval(values: Sequence[float], statistic: Callable[..., Any] = np.median) -> tuple[float, float]:
    """95 % bootstrap interval of a statistic of the values, by percentiles; the same every time."""
    draws = np.random.default_rng(0).choice(np.asarray(values), (RESAMPLES, len(values)))
    low, high = np.percentile(statistic(draws, axis=1), (2.5, 97.5))
    return float(low), float(high)


def write_interval(values: Sequence[float]) -> str:
    """`interval` of a median. Of fewer than five values it would be from least to largest, which is not 95 % (of three, 75 %): a dash."""
    low, high = interval(values)
    return f"{low:.4f} to {high:.4f}" if len(values) >= LEAST else "–"


def show(suite: dict[str, Any], rows: Rows) -> str:
    """The tables of the parts that have rows."""
    parts = [methods_table(suite, rows)]
    parts += [sizes_table(suite, rows, part) for part in POINTS]
    return "\n\n".join(part for part in parts if part)


def methods_table(suite: dict[str, Any], rows: Rows) -> str:
    """Each method on the report's puzzles, the best median KL first. A setting at the edge of its grid has an `!`."""
    lines = []
    for name, method in suite["methods"].items():
        chosen = report_rows(rows, name)
        if not chosen:
            continue
        kl = [row["kl_target_policy"] for row in chosen]
        kept, all_modes = (sum(x) for x in zip(*((row["modes"], len(row["shares"])) for row in chosen), strict=True))
        means = {key: np.mean([row[key] for row in chosen]) for key in ("valid", "greedy", "pass_at_8", "entropy")}
        lines.append(
            [name, method["aim"], tuned(suite, rows, name), f"{median(kl):.4f}", write_interval(kl), f"{max(kl):.3f}"]
            + [f"{median(row['kl_policy_target'] for row in chosen):.3f}", f"{means['valid']:.3f}", f"{kept}/{all_modes}"]
            + [f"{means['greedy']:.2f}", f"{means['pass_at_8']:.3f}", f"{means['entropy']:.2f}"]
            + [f"{median(row['forward_rows'] for row in chosen):,.0f}", str(len(chosen))]
        )
    lines.sort(key=lambda line: float(line[3]))
    return tabulate(lines, COLUMNS, "plain", disable_numparse=True, colalign=["left", "left", *["right"] * 12]) if lines else ""


def report_rows(rows: Rows, method: str) -> Rows:
    """A method's runs of the report."""
    return [row for row in rows if row["part"] == "report" and row["method"] == method]


def tuned(suite: dict[str, Any], rows: Rows, name: str) -> str:
    """The setting that tuning chose."""
    best = best_setting(suite, tuning_cells(suite, name), rows)
    if best is None:
        return "?"
    (learning_rate, own), grid = best, suite["methods"][name].get("grid", {})
    words = [marked(learning_rate, suite["learning_rates"])]
    for option, value in (word.split("=") for word in own):
        words.append(f"{option}={marked(float(value), grid[option])}")
    return " ".join(words)


def marked(value: float, tried: Sequence[float]) -> str:
    """The value that was best of those tried; with an `!` if it is the least or the largest of several, so that more may be better."""
    return f"{value:g}{'!' if len(tried) > 1 and value in (min(tried), max(tried)) else ''}"


def sizes_table(suite: dict[str, Any], rows: Rows, part: str) -> str:
    """Median KL by method and N, or by rollouts for each step, with interval, and the number of puzzles that lost a mode."""
    point = point_of(part)
    lines = []
    for (world, method, value), chosen in by_size(rows, part).items():
        kl = [row["kl_target_policy"] for row in chosen]
        lost, puzzles = sum(row["lost"] for row in chosen), sum(len(row["puzzle"].split()) for row in chosen)
        right = "" if chosen[0]["valid"] is None else f"{np.mean([row['valid'] for row in chosen]):.3f}"
        lines.append(
            [world, method, value, marked(chosen[0]["learning_rate"], suite[part]["tuning"]["learning_rates"])]
            + [f"{median(kl):.4f}", write_interval(kl), f"{max(kl):.3f}", right, f"{lost}/{puzzles}"]
        )
    header = (
        part.replace("_", " "),
        "method",
        point.replace("_", " "),
        "learning rate",
        "KL(p*‖p_θ)",
        "95 %",
        "largest",
        "right",
        "lost a mode",
    )
    return tabulate(lines, header, "plain", disable_numparse=True, colalign=["left", "left", *["right"] * 7]) if lines else ""


def by_size(rows: Rows, part: str) -> dict[tuple[str, str, int], Rows]:
    """The runs of one of `POINTS` by puzzle, method and N, or rollouts for each step."""
    point, found = point_of(part), dict[tuple[str, str, int], Rows]()
    for row in rows:
        if row["part"] == part:
            found.setdefault((row["world"], row["method"], row[point]), []).append(row)
    return found


def point_of(part: str) -> str:
    """The size that differs between the points of a part."""
    return "num_rollouts" if part in ("group_size", "mixtures") else "rollouts_per_step"
