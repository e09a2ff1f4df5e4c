"""`dmpo table`: runs side by side with the published numbers, with intervals, as text, Markdown or a bar figure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from dmpo_ref.evaluation.gradings import COST, Score, grade_files, summarise

HATCHES = (None, "..", "xx", "++")  # of bars; each palette of colours is used once with each
TITLES = {"gsm8k": "GSM8K", "math500": "MATH-500", "countdown": "Countdown", "sudoku": "4x4 Sudoku"}


class Accuracy(NamedTuple):
    """An accuracy in %, with its 95 % interval if it is known."""

    percent: float
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        return f"{self.percent:.1f}" + ("" if self.interval is None else " [{:.1f}, {:.1f}]".format(*self.interval))


@dataclass(frozen=True)
class Column:
    """A column of the table: whose numbers these are, where they come from, and accuracies by (task, length)."""

    name: str
    source: str
    values: dict[tuple[str, int | None], Accuracy]


def printed(name: str, source: str, **values: dict[int, float]) -> Column:
    """A column of published numbers: for each task length → accuracy, without intervals."""
    return Column(name, source, {(task, length): Accuracy(value) for task, row in values.items() for length, value in row.items()})


PAPER = "arXiv 2510.08233v2, Figure 1"
PUBLISHED = [
    printed(
        "LLaDA-8B-Instruct (d1's files)",
        "generation files of d1 (arXiv 2504.12216) under the published grading",
        gsm8k={128: 69.29, 256: 76.37, 512: 78.14},
        math500={128: 26.00, 256: 32.40, 512: 36.20},
        countdown={128: 20.70, 256: 19.53, 512: 16.02},
        sudoku={128: 11.72, 256: 6.69, 512: 5.47},
    ),
    printed("LLaDA-8B-Instruct (paper)", PAPER, gsm8k={256: 79.8}, math500={256: 35.0}, countdown={256: 14.5}, sudoku={256: 6.1}),
    printed("DMPO (paper)", PAPER, gsm8k={256: 82.4}, math500={256: 38.2}, countdown={256: 80.9}, sudoku={256: 24.6}),
]


def read_runs(folders: Iterable[str | Path]) -> tuple[list[Score], list[str]]:
    """Scores of all results in these folders (or files), and what could not be read.

    Raises:
        FileNotFoundError: a folder is missing or holds no results.
    """
    files = []
    for folder in map(Path, folders):
        inside = sorted([*folder.glob("*.jsonl"), *folder.glob("*_generations.json")])
        found = [folder] if folder.is_file() else [path for path in inside if not is_log(path)]
        if all(path.name.endswith(COST) for path in found):
            raise FileNotFoundError(f"{folder} holds no results: give a folder that dmpo evaluate --output wrote, or files of generations")
        files += found
    items, problems = grade_files(files)
    as_given = list(dict.fromkeys(item.run for item in items))
    return sorted(summarise(items), key=lambda score: as_given.index(score.run)), problems


def is_log(path: Path) -> bool:
    """Whether this library wrote the file, but no answers to grade: metrics.jsonl or rollouts.jsonl of a run, or `dmpo grade --output`."""
    if path.suffix != ".jsonl" or not path.is_file():
        return False
    with suppress(OSError, ValueError, RecursionError), path.open(encoding="utf-8") as file:
        fields = json.loads(file.readline())
        return isinstance(fields, dict) and ("round" in fields or {"file", "published", "strict"} <= fields.keys())
    return False


def as_columns(scores: list[Score]) -> list[Column]:
    """One column for each run and grading. A run is a folder and what its files have in common besides task and length.

    Raises:
        ValueError: two runs of one name have the same task and length, or other policies, seeds or options of the sampler.
    """
    columns: dict[tuple[str, str], Column] = {}
    first: dict[str, Score] = {}
    for score in scores:
        run, grading = run_name(score), score.grading
        if (other := first.setdefault(run, score)).made_by != score.made_by:
            problem = f"{other.run} and {score.run} would stand in one column, but have other policies, seeds or sampler options"
            raise ValueError(f"{problem}; put them into folders of their own")
        what = "1 answer without a ground truth is" if score.left_out == 1 else f"{score.left_out} answers without a ground truth are"
        left_out = f"; {what} left out" if score.left_out else ""
        values = columns.setdefault((run, grading), Column(f"{run}, {grading}", f"graded here, {grading}{left_out}", {})).values
        if (score.task, score.length) in values:
            raise ValueError(f"{score.run}: another run of {run} has {score.task} at length {score.length} too; rename one")
        low, high = score.interval
        values[score.task, score.length] = Accuracy(100 * score.accuracy, (100 * low, 100 * high))
    return list(columns.values())


def run_name(score: Score) -> str:
    """Name of a run without task and length: `base/countdown_256_confidence` → `base, confidence`; all of it if nothing else is left.

    A published name has the steps after the length, which grow with it: `d1/countdown_instruct_256_128` → `d1, instruct, 2 tokens a step`.
    """
    folder, _, name = score.run.rpartition("/")
    if score.length and (found := re.fullmatch(rf"[^_]+_(.+)_{score.length}_([1-9][0-9]*)", name)):
        pace = score.length / int(found[2])
        return ", ".join(filter(None, (folder, found[1], f"{pace:g} token{'s' * (pace != 1)} a step")))
    words = [word for word in name.split("_") if word not in (score.task, score.task.removesuffix("500"), str(score.length))]
    return ", ".join(filter(None, (folder, "_".join(words)))) or name


def with_numbers(columns: list[Column]) -> list[Column]:
    """The columns that have a number in some row of their table; the published ones have none at other lengths."""
    settings = list_settings(columns)
    return [column for column in columns if any(key in column.values for key in settings)]


def list_settings(columns: list[Column]) -> list[tuple[str, int | None]]:
    """Task and length of each row, in order: those that any run has, or all published ones where there is no run."""
    runs = [column for column in columns if column not in PUBLISHED] or columns
    return sorted({key for column in runs for key in column.values}, key=lambda key: (list(TITLES).index(key[0]), key[1] or 0))


def format_table(columns: list[Column], *, markdown: bool = False) -> str:
    """The table as text, with the source of each column under it."""
    rows = [
        (TITLES[task], length or "–", *(str(column.values.get((task, length), "–")) for column in columns))
        for task, length in list_settings(columns)
    ]
    headers = ("task", "length", *(column.name for column in columns))
    table = tabulate(rows, headers, tablefmt="github" if markdown else "plain", disable_numparse=True)
    unit = "Accuracy in %, 95 % intervals in brackets. Published Sudoku numbers count blank cells, strict ones whole puzzles."
    notes = [f"{'- ' * markdown}{column.name}: {column.source}" for column in columns]
    return "\n".join([table, "", unit, "", *notes])


def draw_table(columns: list[Column], path: Path) -> None:
    """Plot the table as bars, a panel for each task; whiskers are 95 % intervals."""
    from matplotlib import pyplot as plt  # takes seconds; a table of text does not need it

    from dmpo_ref.plots.style import COLORS, use_style  # takes seconds (seaborn); for the figure only

    use_style()
    hatches = ["//" if column in PUBLISHED else HATCHES[i // len(COLORS) % len(HATCHES)] for i, column in enumerate(columns)]
    styles = [{"facecolor": COLORS[i % len(COLORS)], "hatch": hatch, "edgecolor": "white"} for i, hatch in enumerate(hatches)]
    settings = list_settings(columns)
    tasks = list(dict.fromkeys(task for task, _ in settings))
    size = (max(7.5, 2.2 + 3 * len(tasks)), 3.4 + 0.12 * len(columns))
    figure, panels = plt.subplots(1, len(tasks), figsize=size, layout="constrained", squeeze=False, sharey=True)
    width = 0.8 / len(columns)
    for panel, task in zip(panels[0], tasks, strict=True):
        lengths = [length for other, length in settings if other == task]
        for i, column in enumerate(columns):
            for row, length in enumerate(lengths):
                if (accuracy := column.values.get((task, length))) is None:
                    continue
                percent, interval = accuracy
                whisker = interval and [[percent - interval[0]], [interval[1] - percent]]
                x = row + (i - (len(columns) - 1) / 2) * width
                panel.bar(x, percent, width, yerr=whisker, capsize=2, **styles[i])
                if percent == 0:  # a bar without height has no colour
                    panel.plot(x, 0, "s", color=styles[i]["facecolor"], clip_on=False, zorder=3)
        panel.set(title=TITLES[task], xlabel="generation length, tokens", xticks=range(len(lengths)))
        panel.set(xticklabels=[length or "–" for length in lengths], xlim=(-0.5, len(lengths) - 0.5), ylim=(0, 100))
    panels[0][0].set_ylabel("accuracy, %")
    handles = [plt.Rectangle((0, 0), 1, 1, **style) for style in styles]
    figure.legend(handles, [column.name for column in columns], loc="outside lower center", ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
