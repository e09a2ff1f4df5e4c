"""Countdown: reach a target from given numbers, each used once, with + − × ÷ and brackets.

A file has the columns `input,output` ("30,100,93" and "23"), the form of the published test file of d1 (Zhao et al.,
arXiv 2504.12216), or `nums,target`, that of the hub data set Jiayi-Pan/Countdown-Tasks-3to4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.arithmetic import MAX_DIGITS, evaluate_expression, plain, python_value
from dmpo_ref.tasks.answers.marked import closed_answers, last_answer, marked_answer, published_box, until_end
from dmpo_ref.tasks.answers.units import NO_UNIT
from dmpo_ref.tasks.base import ANSWER_FORM, ChatTask, Grade, Verdict, worked
from dmpo_ref.tasks.data import read_rows

TOLERANCE = 1e-5  # of the published rule; the strict one is exact
MAX_ANSWER = 2000  # characters of an answer that the strict grading reads
MOST_NUMBERS = 10

QUESTION = """\
Reach {target} with the numbers {numbers}: write one arithmetic expression that uses each of them exactly once, and no other number. \
It may add, subtract, multiply and divide with + - * / and group with parentheses. \
"""


@dataclass(frozen=True)
class Problem:
    """Numbers, each to be used once, and the target."""

    numbers: tuple[int, ...]
    target: int


class Countdown(ChatTask):
    """The task as `train` and `evaluate` see it: items, prompts, reward, grade. Text in, text out, no model.

    The answer is asked for in a box, which both gradings read. The published reward does not, so with it no box is requested.
    """

    question = QUESTION + ANSWER_FORM.format(what=r"the expression in \boxed{}", example=r"\boxed{the expression}")
    examples: tuple[tuple[Problem, str], ...] = (
        (Problem((8, 75, 3), 99), worked("8 * 3 = 24 and 75 + 24 = 99. Each number is used once.", "75 + 8 * 3")),
        (Problem((28, 5, 40), 60), worked("60 is 5 * 12, and 40 - 28 = 12. Each number is used once.", "5 * (40 - 28)")),
        (
            Problem((12, 90, 6), 27),
            worked("90 - 12 is far too much. 90 / 6 = 15 and 15 + 12 = 27. Each number is used once.", "90 / 6 + 12"),
        ),
    )

    def __init__(self, config: TaskConfig):
        if config.reward == "published":
            self.question = without_box(self.question)
            self.examples = tuple((item, without_box(answer)) for item, answer in self.examples)
        super().__init__(config)

    def load(self, source: str) -> list[Problem]:
        """Problems of a file, or of a hub data set, from which only those with three numbers are taken, as published.

        Raises:
            FileNotFoundError, ValueError: from `read_rows`; a malformed row, with its number.
        """
        problems = []
        for number, row in enumerate(read_rows(source, ()), start=1):
            try:
                names = ("input", "output") if "input" in row else ("nums", "target")
                problems.append(make_problem(*(row.get(name) for name in names)))
            except ValueError as error:
                raise ValueError(f"{source}, row {number}: {error}") from error
        if not Path(source).is_file():
            problems = [item for item in problems if len(item.numbers) == 3]
        return problems

    def parse(self, text: str) -> Problem:
        """A problem typed by hand, as in `30,100,93=23`.

        Raises:
            ValueError: malformed.
        """
        numbers, _, target = text.partition("=")
        return make_problem(numbers, target)

    def show(self, item: Problem, text: str | None = None) -> str:
        """The problem, or an answer to it with what the strict grading says of it."""
        if text is None:
            return f"{', '.join(map(str, item.numbers))} -> {item.target}"
        verdict = grade_strict(item, *marked_answer(text))
        return verdict.reason if verdict.answer is None else f"{short(verdict.answer)}: {verdict.reason}"

    def fields(self, item: Problem) -> dict[str, str]:
        return {"numbers": ", ".join(map(str, item.numbers)), "target": str(item.target)}

    def reward(self, item: Problem, text: str) -> dict[str, float]:
        """Reward by component: `solved` 1 or 0 by the strict grading; or `answer`, 1 if right, 0.1 if wrong, 0 if missing.

        `recipe` reads the last `<answer>` as the strict grading does. `published` reads the last `<answer>…</answer>`, unchanged,
        by the published rule.
        """
        if self.config.reward == "solved":
            return {"solved": float(self.grade(item, text).correct)}
        if self.config.reward == "published":
            answer = ([None, *closed_answers(text)])[-1]
            is_right = answer is not None and check_published(item, answer)[0]
        else:
            place = last_answer(text := until_end(text))
            answer = None if place is None else text[: place[2] if place[2] >= 0 else None]  # a box after the answer does not count
            is_right = answer is not None and grade_strict(item, *marked_answer(answer)).right == 1
        return {"answer": 0.0 if answer is None else 1.0 if is_right else 0.1}

    @staticmethod
    def grade(item: Problem, text: str) -> Grade:
        r"""Both gradings.

        Strict: the answer (see `marked_answer`) is an expression that `evaluate_expression` can read, LaTeX allowed, which uses each
        number once and whose value is the target. It may be an equation of several such sides, as in `30 + 100 - 93 = 130 - 93 = 37`:
        then each side must equal the target, and one must use each number once.
        Published: from the box (see `published_box`), where its braces do not balance from the first `<answer>…</answer>`, else from the
        whole text; `\div`, `\times`, `\cdot` replaced; cut to the expression of the first `expression = number`; see `check_published`.
        """
        answer, source = published_expression(text)
        is_right, reason = check_published(item, answer)
        published = Verdict(int(is_right), 1, answer, source, reason)
        return Grade(f"{len(item.numbers)} numbers", grade_strict(item, *marked_answer(text)), published)

    @staticmethod
    def record(item: Problem) -> tuple[str, list[Any]]:
        """(question, ground truth) as in d1's result files: [[numbers], target]."""
        return f"Numbers: {list(item.numbers)}\nTarget: {item.target}", [list(item.numbers), item.target]

    @staticmethod
    def from_record(question: str, ground_truth: Any) -> Problem:
        """The problem of a record, which is in its ground truth.

        Raises:
            ValueError: a record of another task, or a malformed one.
        """
        if not isinstance(ground_truth, (list, tuple)) or len(ground_truth) != 2 or isinstance(ground_truth[0], str):
            raise ValueError(f"the ground truth of a Countdown record is [[numbers], target]; got {short(ground_truth)}")
        return make_problem(*ground_truth)


def without_box(text: str) -> str:
    r"""A prompt that no longer asks for `\boxed{…}`, or a worked answer without the box."""
    return re.sub(r" in \\boxed\{\}|\\boxed\{(.*)\}", lambda box: box[1] or "", text)


def make_problem(numbers: Any, target: Any) -> Problem:
    """A problem from two columns of a file: numbers as a list, or as text with commas or spaces between; the target as a number or text.

    Raises:
        ValueError: not 2 to 10 non-negative integers and an integer, of at most 20 digits.
    """
    parts = re.split(r"[,\s]+", numbers.strip().strip("[]").strip()) if isinstance(numbers, str) else numbers
    whole = re.compile(rf"[0-9]{{1,{MAX_DIGITS}}}")
    if not isinstance(parts, Sequence) or not 2 <= len(parts) <= MOST_NUMBERS or not all(whole.fullmatch(str(part)) for part in parts):
        raise ValueError(f"2 to {MOST_NUMBERS} non-negative integers are needed, as in 30,100,93; got {short(numbers)}")
    if not re.fullmatch(rf"-?[0-9]{{1,{MAX_DIGITS}}}", str(target).strip()):
        raise ValueError(f"the target must be an integer; got {short(target)}")
    return Problem(tuple(int(part) for part in parts), int(target))


def grade_strict(item: Problem, answer: str | None, source: str) -> Verdict:
    """The strict grading of an answer that was found."""

    def verdict(right: int, reason: str) -> Verdict:
        return Verdict(right, 1, answer, source, reason)

    if answer is None:
        return Verdict(0, 1, None, "nowhere", source)
    if len(answer) > MAX_ANSWER:
        return verdict(0, f"longer than {MAX_ANSWER} characters")
    try:
        sides = [evaluate_expression(side) for side in sides_of(answer)]
    except ValueError as error:
        return verdict(0, f"not an expression: {error}")
    for side in sides:
        if side.value != item.target:
            return verdict(0, f"{'is' if len(sides) == 1 else 'a side is'} {show_value(side.value)}, not {item.target}")
    if not any(sorted(side.numbers) == sorted(item.numbers) for side in sides):
        return verdict(0, describe_numbers(item, max(sides, key=lambda side: len(side.numbers)).numbers))
    return verdict(1, f"equals {item.target} and uses each number once")


def sides_of(answer: str) -> list[str]:
    """The sides of an equation, or a single expression, without a name before it, as in `x = 30 + 7` or `Answer: 30 + 7`."""
    text = plain(answer)
    name = re.match(r"\s*([A-Za-z][A-Za-z ]{0,40}):", text)
    text = re.sub(r"[.;]\s*$", "", text[name.end() :] if name and is_label(name[1]) else text).strip()
    for mark in ("**", "__", "*", "_", '"', "'"):  # bold, italic, quoted
        text = text.removeprefix(mark).removesuffix(mark).strip() if text.startswith(mark) and text.endswith(mark) else text
    text = re.sub(r"^(?:#+|python\b)? ?=?(?!=)", "", text)  # a heading, the language of a block of code, "= 30 + 7"
    sides = re.sub(r"\( ?= ?([0-9]+) ?\)$", r"= \1", text).replace("==", "=").split("=")
    return sides[1:] if len(sides) > 1 and re.fullmatch(r"\s*[A-Za-z][A-Za-z ]{0,40}", sides[0]) and is_label(sides[0]) else sides


def is_label(text: str) -> bool:
    """Whether words before an expression name it, and do not deny or change it (not, wrong, twice)."""
    return not NO_UNIT & set(text.casefold().split())


def published_expression(text: str) -> tuple[str, str]:
    """(the expression that the published evaluation reads, where it found it)."""
    found, source = published_box(text), "the last box" if "\\boxed" in text or "\\fbox" in text else "the whole text"
    if found is None:
        found, source = next(closed_answers(text), None), "the first <answer>"
    if found is None:
        found, source = text, "the whole text"
    for command, sign in (("\\div", "/"), ("\\times", "*"), ("\\cdot", "*")):
        found = found.replace(command, sign)
    for left, right in pairwise(found.split("=")):
        expression = left[len(left.rstrip("0123456789+-*/() ")) :]
        if expression and right and right[0] in "0123456789. ":
            return expression.strip(), f"{source}, before an ="
    return found, source


def check_published(item: Problem, expression: str) -> tuple[bool, str]:
    """Whether an expression is right by the published rule, and why.

    The runs of digits, as integers, are the given numbers, and `python_value` is within 1e-5 of the target.
    """
    runs = [run[0].lstrip("0") or "0" for run in islice(re.finditer(r"\d+", expression), len(item.numbers) + 1)]
    if any(len(run) > MAX_DIGITS for run in runs) or sorted(map(int, runs)) != sorted(item.numbers):
        return False, describe_numbers(item, [short(run) for run in runs])
    try:
        value = python_value(expression)
        if abs(value - item.target) < TOLERANCE:
            return True, f"is within {TOLERANCE} of {item.target} and uses each number once"
    except (ValueError, OverflowError) as error:
        return False, str(error)
    return False, f"is {show_value(value)}, not {item.target}"


def describe_numbers(item: Problem, used: Sequence[int | str]) -> str:
    """The message that the numbers used are not the given ones."""
    given = ", ".join(map(str, item.numbers))
    return f"uses {', '.join(map(str, used[: len(item.numbers) + 1])) or 'no number'}, not each of {given} once"


def show_value(value: Fraction | complex) -> str:
    """A value, short even where an integer has more digits than Python prints."""
    if isinstance(value, Fraction):
        return short(str(value))
    return "a large number" if isinstance(value, int) and value.bit_length() > 64 else f"{value:.6g}"


def short(value: Any) -> str:
    """The start of a value, on one line."""
    text = " ".join(str(value)[:200].split())
    return text if len(text) <= 60 else f"{text[:59]}…"
