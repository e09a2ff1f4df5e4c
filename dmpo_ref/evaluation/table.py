"""`dmpo table`: runs side by side with the published numbers, with intervals, as text, Markdown or a bar figure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dmpo_ref.evaluation.gradings import COST, Score, grade_files, summarise

HATCHES = (None, "..", "xx", "++")  # the colours of more columns than there are colours come again with these
TITLES = {"gsm8k": "GSM8K", "math500": "MATH-500", "countdown": "Countdown", "sudoku": "4x4 Sudoku"}


@dataclass(frozen=True)
class Column:
    """A column of the table: whose numbers these are, where they come from, and (task, length) → accuracy with its interval, in %."""

    name: str
    source: str
    values: dict[tuple[str, int | None], tuple[float, float | None, float | None]]


def printed(name: str, source: str, values: dict[tuple[str, int | None], float]) -> Column:
    """A column of numbers that somebody printed, without intervals."""
    return Column(name, source, {key: (value, None, None) for key, value in values.items()})


def at_lengths(**values: tuple[float, float, float]) -> dict[tuple[str, int | None], float]:
    """Values at the lengths 128, 256 and 512 of the published protocol, by task."""
    return {(task, length): value for task, row in values.items() for length, value in zip((128, 256, 512), row, strict=True)}


PAPER = "arXiv 2510.08233v2, Figure 1"
PUBLISHED = [
    printed(
        "LLaDA-8B-Instruct (d1's files)",
        "generation files of d1 (arXiv 2504.12216) under the published grading",
        at_lengths(gsm8k=(69.29, 76.37, 78.14), math500=(26.00, 32.40, 36.20), countdown=(20.70, 19.53, 16.02), sudoku=(11.72, 6.69, 5.47)),
    ),
    printed(
        "LLaDA-8B-Instruct (paper)", PAPER, {("gsm8k", 256): 79.8, ("math500", 256): 35.0, ("countdown", 256): 14.5, ("sudoku", 256): 6.1}
    ),
    printed("DMPO (paper)", PAPER, {("gsm8k", 256): 82.4, ("math500", 256): 38.2, ("countdown", 256): 80.9, ("sudoku", 256): 24.6}),
]


def read_runs(folders: Iterable[str | Path]) -> tuple[list[Score], list[str]]:
    """Scores of everything that lies in these folders of results (or files), and what could not be read.

    Raises:
        FileNotFoundError: a folder that is not there, or holds no results.
    """
    files = []
    for folder in map(Path, folders):
        found = [folder] if folder.is_file() else sorted(p for pattern in ("*.jsonl", "*_generations.json") for p in folder.glob(pattern))
        if all(path.name.endswith(COST) for path in found):
            raise FileNotFoundError(f"{folder} holds no results: give a folder that dmpo evaluate --output wrote, or files of generations")
        files += found
    items, problems = grade_files(files)
    as_given = list(dict.fromkeys(item.run for item in items))
    return sorted(summarise(items), key=lambda score: as_given.index(score.run)), problems


def as_columns(scores: list[Score]) -> list[Column]:
    """One column for each run and grading. A run is a folder and what its files have in common besides task and length.

    Raises:
        ValueError: two runs of one name have the same task and length.
    """
    columns: dict[tuple[str, str], dict] = {}
    for score in scores:
        low, high = score.interval
        values = columns.setdefault((run_name(score), score.grading), {})
        if (score.task, score.length) in values:
            raise ValueError(f"{score.run}: another run of {run_name(score)} has {score.task} at length {score.length} too; rename one")
        values[score.task, score.length] = (100 * score.accuracy, 100 * low, 100 * high)
    return [Column(f"{run}, {grading}", f"graded here, {grading}", values) for (run, grading), values in columns.items()]


def run_name(score: Score) -> str:
    """Name of a run without task and length: `base/countdown_256_confidence` → `base, confidence`.

    A published name has the steps behind the length, which grow with it: `d1/countdown_instruct_256_128` → `d1, instruct, 2 tokens a step`.
    """
    folder, _, name = score.run.rpartition("/")
    if found := re.fullmatch(rf"[^_]+_(.+)_{score.length}_([1-9][0-9]*)", name):
        pace = score.length / int(found[2])
        return ", ".join(filter(None, (folder, found[1], f"{pace:g} token{'s' * (pace != 1)} a step")))
    words = [word for word in name.split("_") if word not in (score.task, score.task.removesuffix("500"), str(score.length))]
    return ", ".join(filter(None, (folder, "_".join(words))))


def build_rows(columns: list[Column]) -> list[list[str]]:
    """Header and one row for each task and length that any run has, or all published ones where there is no run."""
    runs = [column for column in columns if column not in PUBLISHED] or columns
    keys = sorted({key for column in runs for key in column.values}, key=lambda key: (list(TITLES).index(key[0]), key[1] or 0))
    rows = [["task", "length", *(column.name for column in columns)]]
    for key in keys:
        cells = [show(column.values[key]) if key in column.values else "–" for column in columns]
        rows.append([TITLES[key[0]], str(key[1] or "–"), *cells])
    return rows


def show(value: tuple[float, float | None, float | None]) -> str:
    """Accuracy in %, with its 95 % interval where there is one."""
    accuracy, low, high = value
    return f"{accuracy:.1f}" if low is None else f"{accuracy:.1f} [{low:.1f}, {high:.1f}]"


def format_table(columns: list[Column], *, markdown: bool = False) -> str:
    """The table as text, with the source of each column under it."""
    rows = build_rows(columns)
    if markdown:
        lines = [" | ".join(row) for row in rows]
        lines.insert(1, " | ".join(["---"] * len(rows[0])))
        lines = [f"| {line} |" for line in lines]
    else:
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{column.name}: {column.source}" for column in columns]
    unit = "Accuracy in %, 95 % intervals in brackets. Published Sudoku numbers count blank cells, strict ones whole puzzles."
    bullet = "- " if markdown else ""
    return "\n".join([*lines, "", unit, "", *(bullet + note for note in notes)])


def draw_table(columns: list[Column], path: Path) -> None:
    """The same as bars, a panel for each task; whiskers are 95 % intervals."""
    from matplotlib import pyplot as plt

    from dmpo_ref.plots.style import COLORS, use_style

    use_style()
    rows = build_rows(columns)[1:]
    styles = [
        {
            "facecolor": COLORS[i % len(COLORS)],
            "hatch": "//" if column in PUBLISHED else HATCHES[i // len(COLORS) % len(HATCHES)],
            "edgecolor": "white",
        }
        for i, column in enumerate(columns)
    ]
    tasks = [task for task, title in TITLES.items() if any(row[0] == title for row in rows)]
    size = (max(7.5, 2.2 + 3 * len(tasks)), 3.4 + 0.12 * len(columns))
    figure, panels = plt.subplots(1, len(tasks), figsize=size, layout="constrained", squeeze=False, sharey=True)
    width = 0.8 / len(columns)
    for panel, task in zip(panels[0], tasks, strict=True):
        lengths = [row[1] for row in rows if row[0] == TITLES[task]]
        for i, column in enumerate(columns):
            for place, length in enumerate(lengths):
                if (value := column.values.get((task, int(length) if length.isdigit() else None))) is None:
                    continue
                whisker = None if value[1] is None else [[value[0] - value[1]], [value[2] - value[0]]]
                x = place + (i - (len(columns) - 1) / 2) * width
                panel.bar(x, value[0], width, yerr=whisker, capsize=2, **styles[i])
                if value[0] == 0:  # a bar without height has no colour
                    panel.plot(x, 0, "s", color=styles[i]["facecolor"], clip_on=False, zorder=3)
        panel.set(title=TITLES[task], xlabel="generation length, tokens", xticks=range(len(lengths)), xticklabels=lengths)
        panel.set(xlim=(-0.5, len(lengths) - 0.5), ylim=(0, 100))
    panels[0][0].set_ylabel("accuracy, %")
    handles = [plt.Rectangle((0, 0), 1, 1, **style) for style in styles]
    figure.legend(handles, [column.name for column in columns], loc="outside lower center", ncols=2, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
