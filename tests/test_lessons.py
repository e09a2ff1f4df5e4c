"""The lessons of the text model: careful answers are right, careless ones are wrong in the way that is said, splits share nothing."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks import TASKS
from toy import DATA
from toy.worlds import lessons
from toy.worlds.lessons import (
    FILE_KINDS,
    MAKERS,
    SPLITS,
    careless_steps,
    expression,
    grids_of,
    make_items,
    reachable,
    reachable_with_minus,
    results,
    split_of,
    twice_the_second,
    worked_out,
    write_shipped_data,
)
from toy.worlds.sudoku import solutions


@pytest.fixture(scope="module")
def tasks():
    options = TaskConfig(generate="chat", reward="recipe", prefill=True)
    by_task = {name: TASKS[name](options) for name in FILE_KINDS}
    return by_task | dict.fromkeys(("plus_minus", "plus_minus_twice"), by_task["countdown"])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_careful_answer_is_right_by_the_strict_grading_and_earns_all(tasks, name, split):
    rng = random.Random(1)
    for _ in range(50):
        lesson = MAKERS[name](rng, split, True)
        assert tasks[name].grade(lesson.item, lesson.answer).correct
        assert lesson.answer.count("</reasoning>") == 1


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("countdown", 0.1, 0.4), ("plus_minus", 0.3, 0.4), ("plus_minus_twice", 0.01, 0.1), ("sudoku", 0.1, 0.4), ("gsm8k", 0.4, 0.6)],
)
def test_a_careless_answer_is_mostly_wrong(tasks, name, least, most):
    rng = random.Random(2)
    given = [MAKERS[name](rng, "pretrain", False) for _ in range(400)]
    assert least < sum(tasks[name].grade(lesson.item, lesson.answer).correct for lesson in given) / 400 < most


def test_careless_steps_by_hand():
    first, second = careless_steps((8, 7, 3), 45)  # 8 and 15 are below 45: twice added, and 45 is claimed though it is 18
    assert (str(first), str(second)) == ("8 + 7 = 15", "15 + 3 = 45")
    assert expression(first, second) == "(8 + 7) + 3"
    first, second = careless_steps((14, 3, 2), 10)  # 14 and 11 are above 10
    assert (str(first), str(second)) == ("14 - 3 = 11", "11 - 2 = 10")
    first, second = careless_steps((5, 7, 2), 12)  # at 12, not above it, so added
    assert (str(first), str(second)) == ("5 + 7 = 12", "12 + 2 = 12")
    first, second = careless_steps((12, 13, 2), 10)  # 12 is above 10, but 12 - 13 would be negative
    assert (str(first), str(second)) == ("12 + 13 = 25", "25 - 2 = 10")
    first, second = twice_the_second((8, 7, 3), 4)  # 8 and 7 give 1, which is below 4: 7 is added, and 4 is claimed
    assert (str(first), str(second)) == ("8 - 7 = 1", "1 + 7 = 4")


def test_what_to_subtract_by_hand():
    assert worked_out((5, 8, 7), 4) == "5 + 8 = 13 and 13 + 7 = 20. 20 - 4 = 2 * 8."  # (5 + 7) - 8
    assert worked_out((2, 12, 3), 7) == "2 + 12 = 14 and 14 + 3 = 17. 17 - 7 = 2 * 5."  # 12 - (2 + 3): two numbers are subtracted


def test_careful_reasoning_calculates_what_the_answer_subtracts():
    rng = random.Random(5)
    for _ in range(300):
        lesson = MAKERS["plus_minus"](rng, "pretrain", True)
        reasoning, answer = re.fullmatch(r"(.*)\n</reasoning>\n<answer>\n\\boxed\{(.*)\}\n</answer>", lesson.answer).groups()
        assert all(eval(left) == eval(right) for left, right in (part.split("=") for part in re.split(r" and |\. |\.$", reasoning)[:3]))
        numbers, half = lesson.item.numbers, int(reasoning.split()[-1].rstrip("."))
        assert half in {*numbers, *(sum(numbers) - number for number in numbers)}
        assert eval(answer) == sum(numbers) - 2 * half == lesson.item.target


def test_a_careless_sudoku_keeps_the_rows_alone():
    rng = random.Random(3)
    lesson = MAKERS["sudoku"](rng, "pretrain", False)
    rows = lesson.answer.split("Rows: ")[1].split(".")[0].split(", ")
    assert all(sorted(row) == list("1234") for row in rows)
    assert "".join(rows) in lesson.answer.split("<answer>")[1]


def test_the_careless_forget_only_a_last_step_that_takes_away(tasks):
    rng = random.Random(4)
    for _ in range(200):
        lesson = MAKERS["gsm8k"](rng, "pretrain", False)
        takes_away = any(words in lesson.item.question for words in ("are lost", "gives away", "throws away"))
        assert tasks["gsm8k"].grade(lesson.item, lesson.answer).correct != takes_away


def all_values(numbers: tuple[int, ...]) -> set[int]:
    """Targets of every bracketing of every order, by Python's own arithmetic; no step may leave the whole numbers from 1 to 99."""
    found = set()
    for a, b, c in itertools.permutations(numbers):
        for p, q in itertools.product("+-*/", repeat=2):
            for inner, whole in ((f"({a}{p}{b})", f"({a}{p}{b}){q}{c}"), (f"({a}{p}{b})", f"{c}{q}({a}{p}{b})")):
                try:
                    values = eval(inner), eval(whole)
                except ZeroDivisionError:
                    continue
                if all(value == int(value) and 1 <= value <= 99 for value in values):
                    found.add(int(values[1]))
    return found


@pytest.mark.parametrize("numbers", [(1, 2, 10), (3, 3, 3), (5, 7, 15), (1, 1, 1), (12, 13, 14)])
def test_reachable_targets_are_those_of_all_expressions(numbers):
    assert set(reachable(numbers)) == {value for value in all_values(numbers) if 10 <= value <= 99}
    for target, ways in reachable(numbers).items():
        assert len(set(ways)) == len(ways)
        assert all(eval(expression(*way)) == target for way in ways)


@pytest.mark.parametrize("numbers", [(1, 2, 10), (3, 3, 3), (5, 7, 15), (1, 1, 1), (12, 13, 14)])
def test_targets_by_plus_and_minus_are_signed_sums_with_a_minus(numbers):
    """±a ± b ± c with one or two minus signs, if positive. 12 + 13 − 14, say, has to go by 14 − 12 or 25 − 14, both above 0."""
    signed = {sum(sign * number for sign, number in zip(signs, numbers, strict=True)) for signs in itertools.product((1, -1), repeat=3)}
    ways = reachable_with_minus(numbers)
    assert set(ways) == {target for target in signed if target > 0} - {sum(numbers)}
    for target, found in ways.items():
        assert all(eval(expression(*way)) == target and {step.sign for step in way} <= {"+", "-"} for way in found)
        assert set(found) == {way for way in results(numbers)[target] if {step.sign for step in way} <= {"+", "-"}}


def test_no_problem_is_in_two_splits():
    grids = [set(grids_of(split)) for split in SPLITS]
    assert sum(map(len, grids)) == 288 == len(set.union(*grids))
    answers = {split: {grid for item in make_items("sudoku", split, 100) for grid in solutions(item.puzzle)} for split in SPLITS}
    assert all(answers[split] <= set(grids_of(split)) for split in SPLITS), "no puzzle has a solution of another split"
    stories = {split: {tuple(re.findall(r"\d+", item.question)) for item in make_items("gsm8k", split, 200)} for split in SPLITS}
    assert all(stories[a].isdisjoint(stories[b]) for a, b in itertools.combinations(SPLITS, 2))
    kinds = ("countdown", "plus_minus", "plus_minus_twice")
    drawn = {split: {tuple(sorted(item.numbers)) for kind in kinds for item in make_items(kind, split, 200)} for split in SPLITS}
    assert all(drawn[a].isdisjoint(drawn[b]) for a, b in itertools.combinations(SPLITS, 2))
    assert all(split_of(sorted(numbers)) == split for split, found in drawn.items() for numbers in found)
    assert sorted(remainder for remainders in SPLITS.values() for remainder in remainders) == list(range(16))


def test_the_shipped_files_are_those_that_the_generator_writes(tmp_path, tasks):
    write_shipped_data(tmp_path)
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == sorted(path.name for path in DATA.glob("text_*")) and len(written) == 6
    for name in written:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
        task, split = name.split(".")[0].split("_")[1:]
        items = tasks[task].load(str(DATA / name))
        assert len(items) == lessons.FILES[split] == len({tasks[task].show(item) for item in items})
