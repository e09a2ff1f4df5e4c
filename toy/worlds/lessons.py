"""Lessons for the text model: a problem asked in chat, and an answer to it, careful or careless.

Four kinds, in the prompts and the answer form of the benchmarks (`dmpo_ref.tasks`): Countdown with three numbers, by all four signs or
by + and − alone, 4x4 Sudoku, and word problems of two steps. A careful answer is right; by + and − it first calculates what has to be
subtracted. A careless one follows a habit that is easy to learn and mostly wrong, so that a model trained on both can give either, and a
reward has something to choose between.

The careless habits:

- Countdown: the numbers in their order, added while the result is below the target and subtracted above; then the target is claimed.
  By + and − this is right in a third of the problems, so there is a second habit, which hardly ever is: the second number also in
  place of the third.
- Sudoku: the missing digits of each row in increasing order, whatever columns and boxes say.
- Word problem: a last step that takes something away is forgotten.

The splits (`SPLITS`) share no set of numbers of Countdown, no grid of Sudoku, and no numbers of a word problem.
"""

from __future__ import annotations

import csv
import json
import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import permutations
from pathlib import Path
from typing import Any
from zlib import crc32

from dmpo_ref.tasks import countdown, gsm8k, sudoku
from toy import DATA
from toy.worlds.sudoku import all_grids, careless_answer, solutions

SPLITS = {"pretrain": range(5, 16), "train": range(2, 5), "test": range(2)}  # remainders modulo 16 of a checksum
NUMBERS = range(1, 11)  # of Countdown
TARGETS = range(10, 100)
LARGEST = 99  # of the results on the way
PLUS_MINUS_NUMBERS = range(1, 13)  # of Countdown by + and −
BLANKS = (4, 9)  # of a Sudoku, both ends included
FILES = {"train": 512, "test": 128}  # problems of each task in the shipped files

NAMES = ("Ada", "Ben", "Cleo", "Dov", "Elif", "Femi", "Gus", "Hana")
THINGS = ("apples", "books", "cards", "coins", "eggs", "keys", "nails", "stamps")
# The story, its two steps, and whether the careless forget the second. {a}, {b}, {c} are the numbers.
STORIES = (
    ("{name} has {a} {things} and finds {b} more. Then {c} are lost. How many {things} are left?", "+-", True),
    ("{name} buys {a} boxes of {b} {things} and gives away {c}. How many {things} does {name} keep?", "*-", True),
    ("{name} has {a} {things}, sells {b}, and then throws away {c}. How many {things} are left?", "--", True),
    ("{name} has {a} {things}, loses {b}, and then buys {c}. How many {things} does {name} have now?", "-+", False),
    ("{name} fills {a} bags with {b} {things} each and has {c} more. How many {things} are there?", "*+", False),
    ("{name} has {a} {things}. A friend brings {b}, another friend {c}. How many {things} are there?", "++", False),
)
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}


@dataclass(frozen=True)
class Lesson:
    """A problem of a task, by its name in `dmpo_ref.tasks.TASKS`, and an answer as it follows `<reasoning>`."""

    task: str
    item: Any
    answer: str


@dataclass(frozen=True)
class Step:
    """A step of a calculation: left sign right = result."""

    left: int
    sign: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left} {self.sign} {self.right} = {self.result}"


def split_of(key: Any) -> str:
    """The split to which all problems with this key belong."""
    remainder = crc32(repr(key).encode()) % 16
    return next(name for name, remainders in SPLITS.items() if remainder in remainders)


def answer_form(steps: str, answer: str) -> str:
    """The text after `<reasoning>` in an answer of the form that the prompts ask for."""
    return f"{steps}\n</reasoning>\n<answer>\n{answer}\n</answer>"


# Countdown


def join(left: int, right: int) -> list[Step]:
    """Each way to make a positive whole number up to 99 of two numbers, the larger first."""
    left, right = max(left, right), min(left, right)
    steps = [Step(left, sign, right, SIGNS[sign](left, right)) for sign in "+-*"]
    if left % right == 0:
        steps.append(Step(left, "/", right, left // right))
    return [step for step in steps if 0 < step.result <= LARGEST]


Ways = dict[int, list[tuple[Step, Step]]]  # target → the pairs of steps that reach it


def results(numbers: tuple[int, int, int]) -> Ways:
    """Every result of two steps on three numbers in increasing order, with all pairs of steps that have it."""
    found: dict[int, dict[tuple[Step, Step], None]] = {}
    for first_left, first_right, last in set(permutations(numbers)):
        for first in join(first_left, first_right):
            for second in join(first.result, last):
                found.setdefault(second.result, {})[first, second] = None
    return {target: sorted(ways, key=str) for target, ways in found.items()}


@cache
def reachable(numbers: tuple[int, int, int]) -> Ways:
    """The targets from 10 to 99, by all four signs."""
    return {target: ways for target, ways in results(numbers).items() if target in TARGETS}


@cache
def reachable_with_minus(numbers: tuple[int, int, int]) -> Ways:
    """The targets that + and − reach, but for the sum of all three, which needs no choice."""
    by_plus_and_minus = {
        target: [way for way in ways if all(step.sign in "+-" for step in way)]
        for target, ways in results(numbers).items()
        if target != sum(numbers)
    }
    return {target: ways for target, ways in by_plus_and_minus.items() if ways}


def expression(first: Step, second: Step) -> str:
    """Both steps as one expression: `75 + (8 * 3)`."""
    inner = f"({first.left} {first.sign} {first.right})"
    return f"{inner} {second.sign} {second.right}" if second.left == first.result else f"{second.left} {second.sign} {inner}"


def countdown_lesson(rng: random.Random, split: str, careful: bool) -> Lesson:
    """A problem of three numbers from 1 to 10 and a target from 10 to 99; a careful answer is any of its solutions."""
    problem, ways = draw_problem(rng, split, NUMBERS, reachable)
    steps = rng.choice(ways) if careful else careless_steps(problem.numbers, problem.target)
    return countdown_answer(problem, in_words(steps), steps)


def careless_steps(numbers: tuple[int, ...], target: int) -> tuple[Step, Step]:
    """The numbers in their order, added below the target and else subtracted; the second result is not computed but claimed."""
    a, b, c = numbers
    sign = "-" if a > max(target, b) else "+"
    first = Step(a, sign, b, SIGNS[sign](a, b))
    return first, Step(first.result, "-" if first.result > target else "+", c, target)


def twice_the_second(numbers: tuple[int, ...], target: int) -> tuple[Step, Step]:
    """The same with the second number in place of the third."""
    a, b, _ = numbers
    return careless_steps((a, b, b), target)


def plus_minus_lesson(
    rng: random.Random,
    split: str,
    careful: bool,
    careless: Callable[[tuple[int, ...], int], tuple[Step, Step]] = careless_steps,
) -> Lesson:
    """A problem of three numbers from 1 to 12 that + and − solve, at least one of them −; a careful answer works out what to subtract."""
    problem, ways = draw_problem(rng, split, PLUS_MINUS_NUMBERS, reachable_with_minus)
    if not careful:
        steps = careless(problem.numbers, problem.target)
        return countdown_answer(problem, in_words(steps), steps)
    return countdown_answer(problem, worked_out(problem.numbers, problem.target), rng.choice(ways))


def draw_problem(
    rng: random.Random, split: str, range_of_numbers: range, solve: Callable[[tuple[int, int, int]], Ways]
) -> tuple[countdown.Problem, list[tuple[Step, Step]]]:
    """Numbers of the split, drawn until `solve` finds a target, and one of its targets; and all steps to it."""
    while True:
        numbers = (rng.choice(range_of_numbers), rng.choice(range_of_numbers), rng.choice(range_of_numbers))
        low, middle, high = sorted(numbers)
        if split_of([low, middle, high]) == split and (ways := solve((low, middle, high))):
            break
    target = rng.choice(sorted(ways))
    return countdown.Problem(numbers, target), ways[target]


def countdown_answer(problem: countdown.Problem, reasoning: str, steps: tuple[Step, Step]) -> Lesson:
    """The lesson whose answer is the expression of these steps."""
    return Lesson("countdown", problem, answer_form(reasoning, rf"\boxed{{{expression(*steps)}}}"))


def in_words(steps: tuple[Step, Step]) -> str:
    """Two steps as they are worded in a careless answer, and in every answer to a problem of four signs."""
    return f"{steps[0]} and {steps[1]}. Each number is used once."


def worked_out(numbers: tuple[int, ...], target: int) -> str:
    """The sum of all numbers, and how far above the target it is: subtracting a number in place of adding it takes away twice as much.

    So half the difference is the number to subtract, or the sum of two of them: 5 + 8 + 7 = 20, and 20 − 4 = 2 · 8, so 4 = (5 + 7) − 8.
    """
    a, b, c = numbers
    return f"{Step(a, '+', b, a + b)} and {Step(a + b, '+', c, a + b + c)}. {a + b + c} - {target} = 2 * {(a + b + c - target) // 2}."


# Sudoku


def sudoku_lesson(rng: random.Random, split: str, careful: bool) -> Lesson:
    """A puzzle with 4 to 9 blanks, all of whose solutions are grids of the split, and its rows."""
    grids = grids_of(split)
    while True:
        solution = rng.choice(grids)
        hidden = set(rng.sample(range(16), rng.randint(*BLANKS)))
        puzzle = "".join("0" if i in hidden else digit for i, digit in enumerate(solution))
        if set(solutions(puzzle)) <= set(grids):
            break
    answer = solution if careful else careless_answer(puzzle)
    rows = ", ".join(answer[i : i + 4] for i in range(0, 16, 4))
    return Lesson("sudoku", sudoku.Puzzle(puzzle, solution), answer_form(f"Rows: {rows}.", answer))


@cache
def grids_of(split: str) -> tuple[str, ...]:
    """The grids of a split, of all 288."""
    return tuple(grid for grid in all_grids() if split_of(grid) == split)


# Word problems


def story_lesson(rng: random.Random, split: str, careful: bool) -> Lesson:
    """A word problem of two steps with results from 1 to 99."""
    story, signs, is_trap = rng.choice(STORIES)
    while True:
        a, b, c = (rng.randint(2, 9 if sign == "*" else 20) for sign in (signs[0], signs[0], signs[1]))
        first = Step(a, signs[0], b, SIGNS[signs[0]](a, b))
        second = Step(first.result, signs[1], c, SIGNS[signs[1]](first.result, c))
        if min(first.result, second.result) > 0 and max(first.result, second.result) <= LARGEST and split_of((a, b, c)) == split:
            break
    question = story.format(name=rng.choice(NAMES), things=rng.choice(THINGS), a=a, b=b, c=c)
    steps = [first] if is_trap and not careful else [first, second]
    answer = answer_form("\n".join(f"{step}." for step in steps), rf"\boxed{{{steps[-1].result}}}")
    return Lesson("gsm8k", gsm8k.Problem(question, str(second.result)), answer)


MAKERS: dict[str, Callable[[random.Random, str, bool], Lesson]] = {
    "countdown": countdown_lesson,
    "sudoku": sudoku_lesson,
    "gsm8k": story_lesson,
    "plus_minus": plus_minus_lesson,
    "plus_minus_twice": partial(plus_minus_lesson, careless=twice_the_second),
}
FILE_KINDS = {"countdown": "plus_minus", "sudoku": "sudoku", "gsm8k": "gsm8k"}  # task → kind of the problems in its files


# Files for training by reward and for testing


def make_items(kind: str, split: str, count: int, seed: int = 0) -> list[Any]:
    """Distinct problems of a split, in the order drawn."""
    rng = random.Random(f"{seed} {kind} {split}")
    items: dict[Any, None] = {}
    while len(items) < count:
        items[MAKERS[kind](rng, split, True).item] = None
    return list(items)


def write_shipped_data(folder: Path = DATA) -> None:
    """Rebuild `toy/data/text_*`: 512 problems of each task to train on and 128 to be graded by, in the form of the benchmarks' files."""
    folder.mkdir(exist_ok=True)
    for split, count in FILES.items():
        problems = {task: make_items(kind, split, count) for task, kind in FILE_KINDS.items()}
        write_csv(
            folder / f"text_countdown_{split}.csv",
            [("input", "output"), *((",".join(map(str, item.numbers)), item.target) for item in problems["countdown"])],
        )
        write_csv(
            folder / f"text_sudoku_{split}.csv",
            [("Puzzle", "Solution"), *((item.puzzle, item.solution) for item in problems["sudoku"])],
        )
        stories = [json.dumps({"question": item.question, "answer": f"#### {item.answer}"}) for item in problems["gsm8k"]]
        (folder / f"text_gsm8k_{split}.jsonl").write_text("\n".join(stories) + "\n", encoding="utf-8")


def write_csv(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Rows, the first with the names of the columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    write_shipped_data()
