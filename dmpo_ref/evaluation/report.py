"""Graded answers and scores as text for a terminal, and as lines of a file."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

from dmpo_ref.evaluation.gradings import Item, Score
from dmpo_ref.tasks.base import accuracy_by_kind


def format_scores(scores: list[Score]) -> str:
    """A table for a terminal, one line for each run × task × length × grading."""
    rows = []
    for score in scores:
        right = f"{score.right}/{score.total}" + " cells" * (score.task == "sudoku" and score.grading == "published")
        low, high = score.interval
        left_out = [f"{score.left_out} without a ground truth left out"] if score.left_out else []
        more = "  ".join([*(f"pass@{k} {100 * value:.2f} %" for k, value in score.pass_at.items()), *left_out])
        accuracy, interval = f"{100 * score.accuracy:.2f} %", f"{100 * low:.2f} – {100 * high:.2f}"
        rows.append((score.run, score.task, score.length or "-", score.grading, right, accuracy, interval, more))
    headers = ("run", "task", "length", "grading", "right", "accuracy", "95 % interval", "")
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True)


def describe_kinds(items: list[Item]) -> str:
    """Strict accuracy by kind of item, and which items were never asked, indented."""
    by_kind = accuracy_by_kind(item.grade for item in items if item.grade.strict.total)
    text = "  strict, by kind: " + ", ".join(f"{kind} {100 * share:.1f} %" for kind, share in by_kind.items())
    if never := sorted({item.index for item in items if item.generation is None}):
        shown = ", ".join(map(str, never[:10])) + (", …" if len(never) > 10 else "")
        text += (
            f"\n  never asked, counted as wrong: {len(never)} item{'s' * (len(never) != 1)} longer than the model can read, index {shown}"
        )
    return text


def as_result(item: Item) -> dict[str, Any]:
    """A graded answer as a line of `dmpo grade --output`."""
    grade = item.grade
    result = {"file": str(item.file), "index": item.index, "sample": item.sample, "task": item.task, "length": item.length}
    marks = [verdict.right == verdict.total if verdict.total else None for verdict in (grade.published, grade.strict)]
    result |= {"answer": grade.strict.answer, "published": marks[0], "strict": marks[1]}
    if item.task == "sudoku":
        result |= {"cells_right": grade.published.right, "cells_blank": grade.published.total}
    return result


def describe_item(item: Item) -> str:
    """What was read from an answer, where, and why it is right or wrong, under both gradings."""
    lines = [f"{item.file}, item {item.index}, sample {item.sample} ({item.task}, length {item.length or 'of the template'})"]
    for name, verdict in (("published", item.grade.published), ("strict", item.grade.strict)):
        several = f"{verdict.right} of {verdict.total}" if verdict.total else "left out"
        mark = "right" if verdict.right == verdict.total > 0 else "wrong" if verdict.total == 1 else several
        lines.append(f"  {name:<9} {mark}: read {verdict.answer!r} from {verdict.source}; {verdict.reason}")
    return "\n".join(lines)
