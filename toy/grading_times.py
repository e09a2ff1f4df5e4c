"""How long one answer takes to be graded and rewarded: `dmpo bench grading`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Literal

from tabulate import tabulate

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks import TASKS

RECORDS: dict[
    Literal["sudoku", "countdown", "gsm8k", "math500", "reasoning_gym"], tuple[str, Any]
] = {  # question and ground truth, as in results files
    "sudoku": ("1200341221434321", "1234341221434321"),
    "countdown": ("", [[3, 4, 5], 23]),
    "gsm8k": ("How much?", 1234.5),
    "math500": ("How much?", r"\frac{1}{2}"),
    "reasoning_gym": ("How many legs?", ["leg_counting", 0, 0]),
}
USUAL = (
    *(f"<reasoning>\nBecause.\n</reasoning>\n<answer>\n{answer}\n</answer>" for answer in ("1234341221434321", r"\boxed{3+4*5}")),
    *(r"so it is \boxed{\frac{1}{2}}", r"\boxed{1,234.50}", "no answer at all"),
)
HOSTILE = (
    "9" * 1_000_000,
    *(text * 100_000 for text in ("(", "{", r"\boxed{", "<answer>", r"\frac", "9**", "1+", "\0", "\ud800")),
    *(r"\boxed{9**9**9}", r"<answer>9^{9^{9^{9}}}</answer>", r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}"),
)


def bench_grading() -> list[dict[str, Any]]:
    """Longest time in ms that one answer takes each task to grade (both gradings) and to reward: usual answers, and hostile ones.

    Hostile are 1 MB of one character, 100,000 open brackets or tags, towers of powers, null characters and lone surrogates.
    """
    rows = []
    for name, record in RECORDS.items():
        print(f"bench: grading, {name}", file=sys.stderr, flush=True)
        item: Any = TASKS[name].from_record(*record)
        tasks = [TASKS[name](TaskConfig(name=name, generate="chat", reward=reward)) for reward in ("recipe", "published")]
        TASKS[name].grade(item, USUAL[0])  # what starts with the first answer, such as the process of math-verify
        for kind, texts in (("usual", USUAL), ("hostile", HOSTILE)):
            grading = max(1000 * seconds_of(TASKS[name].grade, item, text) for text in texts)
            rewarding = max(1000 * seconds_of(task.reward, item, text) for task in tasks for text in texts)
            rows.append({"task": name, "answers": kind, "grade, ms": grading, "reward, ms": rewarding})
    return rows


def format_grading(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    return tabulate(rows, "keys", "plain", floatfmt=".1f")


def seconds_of(function: Callable[..., object], *arguments: Any) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start
