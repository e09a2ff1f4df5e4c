"""MATH: competition problems, each with an answer in LaTeX (Hendrycks et al., arXiv 2103.03874), graded on its subset MATH-500.

A row has the columns `problem` and `answer`, or `solution` with the answer in its last `\\boxed{}`; and maybe `level`, 1 to 5.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.comparison import describe_difference
from dmpo_ref.tasks.answers.equality import need_math_verify
from dmpo_ref.tasks.answers.latex import published_equal
from dmpo_ref.tasks.answers.marked import closed_answers, marked_answer, published_box
from dmpo_ref.tasks.base import ANSWER_FORM, ChatTask, Grade, Verdict, worked
from dmpo_ref.tasks.data import read_rows

UNKNOWN_KIND = "all"


@dataclass(frozen=True)
class Problem:
    """A problem, its answer in LaTeX ("" if it is not known), and its level in words."""

    problem: str
    answer: str
    kind: str = UNKNOWN_KIND


EXAMPLES = (
    (
        Problem("What is the sum of the solutions of $x^2 - 7x + 10 = 0$?", "7"),
        worked("The equation factors as $(x - 2)(x - 5) = 0$, so $x = 2$ or $x = 5$.\nTheir sum is $2 + 5 = 7$.", "7"),
    ),
    (
        Problem("A fair die is rolled twice. What is the probability that the two numbers add up to 4? Give a fraction.", r"\frac{1}{12}"),
        worked(
            "There are $6 \\cdot 6 = 36$ outcomes.\nA sum of 4 comes from $1 + 3$, $2 + 2$ and $3 + 1$: 3 outcomes.\n"
            "The probability is $\\frac{3}{36} = \\frac{1}{12}$.",
            "\\frac{1}{12}",
        ),
    ),
    (
        Problem("Find the point in which the lines $y = 2x - 1$ and $y = 5 - x$ meet.", "(2,3)"),
        worked("Where they meet, $2x - 1 = 5 - x$, so $3x = 6$ and $x = 2$.\nThen $y = 5 - 2 = 3$.", "(2,3)"),
    ),
    (
        Problem(r"Simplify $\sqrt{50} - \sqrt{8}$.", r"3\sqrt{2}"),
        worked("$\\sqrt{50} = 5\\sqrt{2}$ and $\\sqrt{8} = 2\\sqrt{2}$.\nThe difference is $3\\sqrt{2}$.", "3\\sqrt{2}"),
    ),
)


class MATH500(ChatTask):
    """The task as `train` and `evaluate` see it. The strict grading needs the package math-verify."""

    question = "{problem}\n\n" + ANSWER_FORM.format(what=r"the final answer in \boxed{}", example=r"\boxed{the final answer}")
    examples = EXAMPLES

    def __init__(self, config: TaskConfig):
        need_math_verify()
        super().__init__(config)

    def fields(self, item: Problem) -> dict[str, str]:
        return {"problem": item.problem}

    def load(self, source: str) -> list[Problem]:
        """Problems of a file or data set (see `read_rows`).

        Raises:
            FileNotFoundError, ValueError: as `read_rows`; a row with neither an answer nor a solution with a box.
        """
        return [from_row(row, f"{source}, row {n}") for n, row in enumerate(read_rows(source, ("problem",)), start=1)]

    def parse(self, text: str) -> Problem:
        """A problem typed by hand, with `#### answer` at its end if the answer is known.

        Raises:
            ValueError: no problem, or no answer after `####`.
        """
        problem, known, answer = (part.strip() for part in text.rpartition("####"))
        if not (problem and answer if known else answer):
            raise ValueError(f"{text[:80]!r}: give a problem, with `#### answer` after it if the answer is known")
        return Problem(problem, answer) if known else Problem(answer, "")

    def reward(self, item: Problem, text: str) -> dict[str, float]:
        """Reward by component, their sum is r: `solved` 1 or 0, or `correct` up to 2 and `format` up to 1.

        `published` gives any text a `format` of 0.25; `recipe` gives 0.5 for exactly one closed `<answer>` and 0.5 for a box in it.
        """
        text = self.prefill + text
        if self.config.reward == "published":
            return {"correct": 2.0 * published_verdict(item, text).right, "format": published_format(text)}
        right = strict_verdict(item, text).right
        if self.config.reward == "solved":
            return {"solved": float(right)}
        answers = list(closed_answers(text))
        one = len(answers) == text.count("<answer>") == text.count("</answer>") == 1
        return {"correct": 2.0 * right, "format": 0.5 * one + 0.5 * (one and marked_answer(answers[0])[0] is not None)}

    @staticmethod
    def grade(item: Problem, text: str) -> Grade:
        """Both gradings: see `strict_verdict` and `published_verdict`."""
        return Grade(item.kind, strict_verdict(item, text), published_verdict(item, text))

    @staticmethod
    def record(item: Problem) -> tuple[str, str]:
        """Problem and answer as result files hold them."""
        return item.problem, item.answer

    @staticmethod
    def from_record(question: Any, ground_truth: Any) -> Problem:
        """The item of a record.

        Raises:
            ValueError: not two texts, or a Sudoku; as `describe_truth`.
        """
        if isinstance(ground_truth, str) and (problem := describe_truth(ground_truth)):
            raise ValueError(problem)
        is_sudoku = re.fullmatch(r"[1-4]{16}", str(ground_truth)) and re.search(r"[0-4]{16}", str(question))
        if not isinstance(question, str) or not isinstance(ground_truth, str) or is_sudoku:
            got = f"{str(question)[:40]!r} and {str(ground_truth)[:40]!r}"
            raise ValueError(f"a math500 record is a problem and its answer, both text; got {got}")
        return Problem(question, ground_truth)


def from_row(row: dict[str, Any], where: str) -> Problem:
    """An item from a row; ValueError with its place if there is no answer."""
    answer = row.get("answer")
    solution = row.get("solution")
    if answer is None and isinstance(solution, str) and "\\boxed" in solution:
        answer = published_box(solution)
    if answer is None or not str(answer).strip():
        raise ValueError(rf"{where}: an answer is needed, in the column answer or in the last \boxed{{}} of the column solution")
    is_text = isinstance(answer, str) and not re.match(r"\s*\[\s*['\"]", answer)  # a list that was written as text
    is_number = isinstance(answer, (int, float)) and not isinstance(answer, bool) and math.isfinite(answer)
    if not (is_text or is_number) or not isinstance(row["problem"], str):
        raise ValueError(f"{where}: problem and answer must be text; got {str(row['problem'])[:40]!r} and {str(answer)[:40]!r}")
    if problem := describe_truth(str(answer)):
        raise ValueError(f"{where}: {problem}")
    level = re.search(r"[0-9]+", str(row.get("level") or ""))
    return Problem(row["problem"], str(answer).strip(), f"level {level[0]}" if level else UNKNOWN_KIND)


def describe_truth(answer: str) -> str | None:
    r"""Why a text is not a LaTeX answer: JSON reads `"\frac"` as a form feed and "rac". None if it may be one."""
    found = re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufeff]|[\t\r](?=[A-Za-z])|\n(?=(?:eq?|abla|ot|u|i)(?![a-z]))", answer)
    if found is None:
        return None
    return f"the answer {answer[:40]!r} has the character {found[0]!r}; in JSON each backslash of LaTeX is written twice"


def strict_verdict(item: Problem, text: str) -> Verdict:
    """Right if the answer (see `marked_answer`) is equal to the truth (see `describe_difference`)."""
    answer, source = marked_answer(text)
    if not answer:
        return Verdict(0, 1, None, "nowhere" if answer is None else source, source if answer is None else "an empty answer")
    if not item.answer:
        return Verdict(0, 1, answer, source, "the right answer is not known")
    problem = describe_difference(item.answer, answer, item.problem)
    return Verdict(int(problem is None), 1, answer, source, f"{problem or 'equal'}; the right answer is {item.answer}")


def published_verdict(item: Problem, text: str) -> Verdict:
    """Right by the rules of the published evaluation: what `published_box` reads, or if that is empty the first `<answer>`."""
    answer, source = published_box(text), r"the last \boxed" if "\\boxed" in text else "the whole text, as there is no \\boxed"
    if not answer:
        answer, source = next(closed_answers(text), None), r"the first <answer>, as the last \boxed holds nothing"
    if answer is None or not item.answer:
        return Verdict(0, 1, answer, source, "no answer" if answer is None else "the right answer is not known")
    right = published_equal(answer, item.answer)
    return Verdict(int(right), 1, answer, source, f"{'the same' if right else 'not the same'} string once both are rewritten")


def published_format(text: str) -> float:
    """Half of: 1 for an `<answer>`, and 1 for `\\boxed` in the first one (in the text where there is none), else 0.5."""
    _, tag, rest = text.partition("<answer>")
    answer = rest.partition("</answer>")[0] if tag else text
    return 0.5 * (bool(tag) + (1.0 if "\\boxed" in answer else 0.5))
