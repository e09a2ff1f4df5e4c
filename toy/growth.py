"""How a round grows: time and peak memory against prompts, rollouts per prompt, and masks per rollout, at fixed micro-batches.

    python -m toy.growth                      # measures toy_sudoku on this machine, about three minutes: toy/results/growth.jsonl
    python -m toy.growth draw book/figures    # draws these rows: growth.png

Forward rows dominate the cost, so time should be linear, and memory flat: only one micro-batch is processed at a time. Time bends for
masks, because drawing and scoring the rollouts does not grow with them, and for few rollouts, because a forward pass has a fixed
cost. Memory is that of the tensors; it rises a little with those that hold all rollouts (tokens, random numbers, masks).
The process itself grows more, because its allocator keeps freed memory of small tensors.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from dmpo_ref.plots.style import COLORS, use_style
from toy import RESULTS
from toy.bench import output_of

OPTIONS = {"train.prompts_per_round": 8, "train.num_rollouts": 4, "loss.num_masks": 2}
NAMES = {"train.prompts_per_round": "prompts G", "train.num_rollouts": "rollouts N", "loss.num_masks": "masks R"}
FACTORS = (1, 2, 4, 8, 16)
FIXED = ("sampler.micro_batch=32", "train.score_micro_batch=32", "loss.micro_batch=32", "weight.log_ratio=path")
MARKERS = ("o", "s", "^")


def measure_growth() -> Iterator[dict[str, Any]]:
    """One row for each option and factor; see `toy.measurements.measure`."""
    for option, factor in ((option, factor) for option in OPTIONS for factor in FACTORS):
        sizes = [f"{key}={value * (factor if key == option else 1)}" for key, value in OPTIONS.items()]
        row = output_of(f"measurements.measure('round', 'whole', 'toy_sudoku', {[*FIXED, *sizes]!r}, 5, 60)", timeout=240)
        yield {"option": option, "factor": factor, **row}


def draw_growth(rows: list[dict[str, Any]], output: Path) -> None:
    """Time and memory relative to the smallest round, one line for each option."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.4))
    for axis, (key, title) in zip(axes, {"seconds": "time of a round", "tensors": "peak memory of its tensors"}.items(), strict=True):
        for i, (option, of_option) in enumerate(groupby(rows, key=lambda row: row["option"])):
            factor, value = zip(*[(row["factor"], row[key]) for row in of_option], strict=True)
            axis.plot(factor, [v / value[0] for v in value], marker=MARKERS[i], color=COLORS[i], label=NAMES[option])
        axis.plot(FACTORS, FACTORS if key == "seconds" else [1] * len(FACTORS), color="0.4", linestyle=":", label="linear, or flat")
        axis.set(title=title, xlabel="so many times as many", ylabel="relative to the smallest", xscale="log", yscale="log")
        axis.set_xticks(FACTORS, [str(f) for f in FACTORS])
        axis.set_ylim(0.7, 20)
        axis.set_yticks(FACTORS, [str(f) for f in FACTORS])
        axis.minorticks_off()
    axes[0].legend(frameon=False)
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=150)
    plt.close(figure)


def read() -> list[dict[str, Any]]:
    """The stored rows."""
    return [json.loads(line) for line in (RESULTS / "growth.jsonl").read_text(encoding="utf-8").splitlines()]


def main(words: list[str]) -> None:
    """Measure and write; or, with `draw FOLDER`, draw what is stored."""
    if words:
        draw_growth(read(), Path(words[1]) / "growth.png")
        return
    rows = []
    for row in measure_growth():
        rows.append(row)
        print(f"{NAMES[row['option']]} ×{row['factor']}: {row['seconds']:.2f} s, tensors {row['tensors'] / 1e6:.1f} MB", flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "growth.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
