"""MATH: competition problems, each with an answer in LaTeX (Hendrycks et al., arXiv 2103.03874), graded on its subset MATH-500.

A row has the columns `problem` and `answer`, or `solution` with the answer in its last `\\boxed{}`; and maybe `level`, 1 to 5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.equality import are_equal, need_math_verify
from dmpo_ref.tasks.answers.latex import published_equal
from dmpo_ref.tasks.answers.marked import closed_answers, marked_answer, published_box
from dmpo_ref.tasks.base import ANSWER_FORM, ChatTask, Grade, Verdict
from dmpo_ref.tasks.data import read_rows

UNKNOWN_KIND = "all"
MAX_LENGTH = 2000  # characters of an answer that the strict grading looks at

# What does not change the meaning of an answer: spacing, sizes of fractions and brackets, the font of words.
REWRITE = [
    (re.compile(r"\\\$|\$|(?<!\\)\\[()!,;: ]|~"), " "),
    (re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])"), ""),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\(?:mbox|hbox|textbf|textit|textrm|mathrm|mathbf|mathit)(?![A-Za-z])"), r"\\text"),
    (re.compile(r"\\text ?\{([^{}]*)\}"), r"\\text{\1}"),
    (re.compile(r"−"), "-"),
    (re.compile(r"\\varnothing(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\s+"), " "),
    (re.compile(r"(?<![0-9A-Za-z]) | (?![0-9A-Za-z])"), ""),  # the rest stays: 5 6 is not 56
    (re.compile(r"\.$"), ""),
]
WORDS = re.compile(r"\\text\{ ?\(?[A-Za-z][^{}]*\}|[A-Za-z]{4,}")
BASE = re.compile(r"_\{?([0-9]+)\}?$")
THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:(?:,|\{,\}| )[0-9]{3})+(?:\.[0-9]+)?")
SEVERAL = re.compile(r",|\\pm|\\text\{ ?(?:or|and) ?\}")
RELATION = re.compile(r"[<>]|\\(?:[lg]eq?|in)(?![A-Za-z])")


@dataclass(frozen=True)
class Problem:
    """A problem, its answer in LaTeX ("" if it is not known), and its level in words."""

    problem: str
    answer: str
    kind: str = UNKNOWN_KIND


EXAMPLES = (
    (
        Problem("What is the sum of the solutions of $x^2 - 7x + 10 = 0$?", "7"),
        "<reasoning>\nThe equation factors as $(x - 2)(x - 5) = 0$, so $x = 2$ or $x = 5$.\nTheir sum is $2 + 5 = 7$.\n</reasoning>\n"
        "<answer>\n\\boxed{7}\n</answer>",
    ),
    (
        Problem("A fair die is rolled twice. What is the probability that the two numbers add up to 4? Give a fraction.", r"\frac{1}{12}"),
        "<reasoning>\nThere are $6 \\cdot 6 = 36$ outcomes.\nA sum of 4 comes from $1 + 3$, $2 + 2$ and $3 + 1$: 3 outcomes.\n"
        "The probability is $\\frac{3}{36} = \\frac{1}{12}$.\n</reasoning>\n<answer>\n\\boxed{\\frac{1}{12}}\n</answer>",
    ),
    (
        Problem("Find the point in which the lines $y = 2x - 1$ and $y = 5 - x$ meet.", "(2,3)"),
        "<reasoning>\nWhere they meet, $2x - 1 = 5 - x$, so $3x = 6$ and $x = 2$.\nThen $y = 5 - 2 = 3$.\n</reasoning>\n"
        "<answer>\n\\boxed{(2,3)}\n</answer>",
    ),
    (
        Problem(r"Simplify $\sqrt{50} - \sqrt{8}$.", r"3\sqrt{2}"),
        "<reasoning>\n$\\sqrt{50} = 5\\sqrt{2}$ and $\\sqrt{8} = 2\\sqrt{2}$.\nThe difference is $3\\sqrt{2}$.\n</reasoning>\n"
        "<answer>\n\\boxed{3\\sqrt{2}}\n</answer>",
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

    def show(self, item: Problem, text: str | None = None) -> str:
        """The problem, or an answer to it with what was read from it."""
        if text is None:
            return item.problem
        verdict = strict_verdict(item, text)
        return f"{self.prefill}{text}\n[{verdict.source}: {verdict.reason}]"

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
            ValueError: not two texts, or a Sudoku.
        """
        is_sudoku = re.fullmatch(r"[1-4]{16}", str(ground_truth)) and re.search(r"[0-4]{16}", str(question))
        if not isinstance(question, str) or not isinstance(ground_truth, str) or is_sudoku:
            got = f"{str(question)[:40]!r} and {str(ground_truth)[:40]!r}"
            raise ValueError(f"a math500 record is a problem and its answer, both text; got {got}")
        return Problem(question, ground_truth)


def from_row(row: dict[str, Any], where: str) -> Problem:
    """An item from a row; ValueError with its place if there is no answer."""
    answer = row.get("answer")
    if answer is None and "\\boxed" in str(row.get("solution")):
        answer = published_box(row["solution"])
    if answer is None or not str(answer).strip():
        raise ValueError(rf"{where}: an answer is needed, in the column answer or in the last \boxed{{}} of the column solution")
    level = re.search(r"[0-9]+", str(row.get("level") or ""))
    return Problem(str(row["problem"]), str(answer).strip(), f"level {level[0]}" if level else UNKNOWN_KIND)


def strict_verdict(item: Problem, text: str) -> Verdict:
    """Right if the answer (see `marked_answer`) says the same as the truth, or math-verify finds them equal.

    Any form of the same value counts, also one that is not simplified; a percentage is both its number and its hundredth.
    Three things are compared here, because math-verify is too lenient with them: words must be the same; the base of a number must be
    the same or left out; the brackets of a list must match, since a pair or an interval is not a set, and one value is not a list.
    What math-verify cannot decide within the bounds of `equality` counts as wrong.
    """
    answer, source = marked_answer(text)
    if not answer:
        return Verdict(0, 1, None, source, "no <answer> and no \\boxed, or an empty one")
    if not item.answer:
        return Verdict(0, 1, answer, source, "the right answer is not known")
    right, reason = check_strict(item.answer, answer)
    return Verdict(int(right), 1, answer, source, f"{reason}; the right answer is {item.answer}")


def check_strict(truth: str, answer: str) -> tuple[bool, str]:
    """Whether an answer is equal to the truth by the strict grading, and why."""
    if len(answer) > MAX_LENGTH:
        return False, f"more than {MAX_LENGTH} characters"
    truth, answer = rewrite(truth), rewrite(answer)
    if truth == answer:
        return True, "the same but for spacing and fonts"
    if WORDS.fullmatch(truth) or WORDS.fullmatch(answer):
        right = bare_words(truth) == bare_words(answer)
        return right, "the same words" if right else "not the same words"
    bases = {found[1] for found in (BASE.search(truth), BASE.search(answer)) if found}
    if len(bases) == 2:
        return False, "numbers in two bases"
    if list_form(truth) != list_form(answer) and not RELATION.search(truth + answer):
        return False, "one value, a list, a pair or an interval in place of another of these"
    equal = are_equal(truth, answer)
    if equal is None:
        return False, "too long, too large or too slow to compare"
    return equal, "equal" if equal else "not equal"


def rewrite(text: str) -> str:
    """An answer without what does not change its meaning."""
    text = text.strip()
    for pattern, new in REWRITE:
        text = pattern.sub(new, text.strip())
    return re.sub(r"[^0-9.-]", "", text) if THOUSANDS.fullmatch(text) else text


def bare_words(text: str) -> str:
    """Words of an answer without `\\text`, brackets and case."""
    return " ".join(re.sub(r"\\text|[{}().]", " ", text).casefold().split())


def list_form(text: str) -> str:
    """What holds the parts of an answer together: "" for one value, "{}" for a set or a bare list, else its brackets, as in "[)"."""
    text = text.rpartition("=")[2].replace(r"\{", "{").replace(r"\}", "}")
    if not SEVERAL.search(text) or "\\begin" in text or "\\cup" in text:
        return ""
    ends = text[0] + text[-1]
    return ends if ends in ("()", "[]", "(]", "[)") and is_enclosed(text) else "{}"


def is_enclosed(text: str) -> bool:
    """Whether the first bracket of a text is closed by its last character."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0:
            return at == len(text) - 1
    return False


def published_verdict(item: Problem, text: str) -> Verdict:
    """Right by the rules of the published evaluation: what `published_box` reads, or if that is nothing the first `<answer>`."""
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
