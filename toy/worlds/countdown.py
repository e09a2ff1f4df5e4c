"""Synthetic Countdown: numbers, and a target that they reach, with an expression that proves it."""

from __future__ import annotations

import csv
import operator
from collections.abc import Collection
from fractions import Fraction
from pathlib import Path

import torch

from dmpo_ref.masking import stream
from dmpo_ref.tasks.countdown import Problem
from toy import DATA

LARGEST = 99  # of the numbers and the target; the least target is SMALLEST
SMALLEST = 10
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
FILES = {"countdown_test_3.csv": (3, 256), "countdown_test_4.csv": (4, 256), "countdown_train.csv": (3, 2000)}


def make_problems(
    size: int, count: int, *, seed: int, avoid: Collection[tuple[int, ...]] = (), max_tries: int = 1_000_000
) -> list[tuple[Problem, str]]:
    """Distinct problems of `size` numbers from 1 to 99 and a target from 10 to 99, each with an expression that reaches it.

    Numbers are drawn, then joined two at a time, in a random order by random operations, until one value is left; that is the
    target if it is an integer in range. So values on the way can be negative or fractions, and easy targets are frequent.

    Args:
        size: how many numbers, at least 2.
        seed: equal seeds give equal problems.
        avoid: keys (see `key`) of problems that must not be among them.

    Raises:
        ValueError: size < 2, or fewer than `count` found in `max_tries`.
    """
    if size < 2:
        raise ValueError(f"size={size}: at least 2 numbers are needed")
    generator = stream(seed, "countdown", size)
    found: dict[tuple[int, ...], tuple[Problem, str]] = {}
    for _ in range(max_tries):
        if len(found) == count:
            break
        numbers = tuple((torch.randint(LARGEST, (size,), generator=generator) + 1).tolist())
        value, expression = join(numbers, generator)
        if value is None or value.denominator != 1 or not SMALLEST <= value <= LARGEST:
            continue
        problem = Problem(numbers, int(value))
        if key(problem) not in avoid:
            found.setdefault(key(problem), (problem, expression))
    if len(found) < count:
        raise ValueError(f"found {len(found)} of {count} problems with {size} numbers in {max_tries} tries; ask for fewer")
    return list(found.values())


def join(numbers: tuple[int, ...], generator: torch.Generator) -> tuple[Fraction | None, str]:
    """The value of a random expression of the numbers, and its text; None where it divides by zero."""
    parts = [(Fraction(number), str(number)) for number in numbers]
    while len(parts) > 1:
        order = torch.randperm(len(parts), generator=generator).tolist()
        (left, left_text), (right, right_text), *rest = (parts[i] for i in order)
        sign = "+-*/"[int(torch.randint(4, (), generator=generator))]
        if sign == "/" and right == 0:
            return None, ""
        parts = [*rest, (OPERATORS[sign](left, right), f"({left_text} {sign} {right_text})")]
    value, text = parts[0]
    return value, text[1:-1]  # without the outer parentheses


def key(problem: Problem) -> tuple[int, ...]:
    """The same for two problems with equal target and equal numbers in any order."""
    return (problem.target, *sorted(problem.numbers))


def write_problems(path: str | Path, problems: list[tuple[Problem, str]]) -> None:
    """Write CSV with the columns `input,output` of the published test file, and `expression`, which proves that a solution exists."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["input", "output", "expression"])
        writer.writerows((",".join(map(str, item.numbers)), item.target, expression) for item, expression in problems)


def shipped_problems(seed: int = 0) -> dict[str, list[tuple[Problem, str]]]:
    """The contents of the shipped files; no problem of a test file is in the training file."""
    files: dict[str, list[tuple[Problem, str]]] = {}
    taken: set[tuple[int, ...]] = set()
    for name, (size, count) in FILES.items():  # the test files come first, so that training excludes them
        files[name] = make_problems(size, count, seed=seed, avoid=taken)
        taken |= {key(item) for item, _ in files[name]}
    return files


def write_shipped_data(folder: Path = DATA) -> None:
    """Rebuild `toy/data/countdown_*.csv`: 2,000 training problems and 256 test problems of 3 numbers, 256 test problems of 4."""
    folder.mkdir(exist_ok=True)
    for name, problems in shipped_problems().items():
        write_problems(folder / name, problems)


if __name__ == "__main__":
    write_shipped_data()
