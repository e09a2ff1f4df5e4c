"""GSM8K: word problems of grade school, each with a number as its answer (Cobbe et al., arXiv 2110.14168).

A row has the columns `question` and `answer`; the number stands after the last `####` of the answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.marked import closed_answers, marked_answer
from dmpo_ref.tasks.answers.numerals import read_number
from dmpo_ref.tasks.base import ANSWER_FORM, ChatTask, Grade, Verdict, worked
from dmpo_ref.tasks.data import read_rows

KIND = "all"  # there is one kind of problem
LARGEST = 1e15  # above, a float does not tell integers apart


@dataclass(frozen=True)
class Problem:
    """A question and its answer, a decimal number as text with or without commas; None if it is not known."""

    question: str
    answer: str | None

    @property
    def value(self) -> Fraction | None:
        """The answer as an exact number."""
        return None if self.answer is None else Fraction(self.answer.replace(",", ""))


EXAMPLES = (
    (
        Problem("A gardener plants 6 rows of 14 tulips. Rabbits eat 9 of them. How many tulips are left?", "75"),
        worked("There are 6 * 14 = 84 tulips.\nAfter the rabbits 84 - 9 = 75 are left.", "75"),
    ),
    (
        Problem("A ticket costs $12, and children pay half. What do 2 adults and 3 children pay together, in dollars?", "42"),
        worked(
            "A child pays 12 / 2 = 6 dollars.\nThe adults pay 2 * 12 = 24 and the children 3 * 6 = 18 dollars.\n"
            "Together that is 24 + 18 = 42 dollars.",
            "42",
        ),
    ),
    (
        Problem("A pump fills 250 litres in 5 minutes. How many minutes does it need for 1,500 litres?", "30"),
        worked("In one minute it fills 250 / 5 = 50 litres.\nFor 1500 litres it needs 1500 / 50 = 30 minutes.", "30"),
    ),
    (
        Problem("Ines reads 18 pages on Monday and a third more on Tuesday. How many pages does she read on both days?", "42"),
        worked("A third of 18 is 18 / 3 = 6, so on Tuesday she reads 18 + 6 = 24 pages.\nOn both days she reads 18 + 24 = 42 pages.", "42"),
    ),
)


class GSM8K(ChatTask):
    """The task as `train` and `evaluate` see it."""

    question = "{question}\n\n" + ANSWER_FORM.format(what=r"the number that is asked for in \boxed{}", example=r"\boxed{the number}")
    examples = EXAMPLES

    def __init__(self, config: TaskConfig):
        super().__init__(config)
        self.rewards = {"solved": self.solved, "recipe": recipe_rewards, "published": published_rewards}[config.reward]

    def fields(self, item: Problem) -> dict[str, str]:
        return {"question": item.question}

    def load(self, source: str) -> list[Problem]:
        """Problems of a file or data set (see `read_rows`).

        Raises:
            FileNotFoundError, ValueError: as `read_rows`; an answer without `####` and a number after it.
        """
        rows = read_rows(source, ("question", "answer"))
        return [from_answer(row["question"], row["answer"], f"{source}, row {n}") for n, row in enumerate(rows, start=1)]

    def parse(self, text: str) -> Problem:
        """A question typed by hand, with `#### number` at its end if the answer is known.

        Raises:
            ValueError: no question, or no number after `####`.
        """
        question, known, _ = text.rpartition("####")
        if not (question if known else text).strip():
            raise ValueError(f"{text[:80]!r} has no question: give one, with `#### number` after it if the answer is known")
        return from_answer(question.strip(), text, "the question") if known else Problem(text.strip(), None)

    def reward(self, item: Problem, text: str) -> dict[str, float]:
        """Reward by component, their sum is r: `solved` 1 or 0, or the five components of the recipe."""
        return self.rewards(item, self.prefill + text)

    @staticmethod
    def solved(item: Problem, text: str) -> dict[str, float]:
        return {"solved": float(strict_verdict(item, text).right)}

    @staticmethod
    def grade(item: Problem, text: str) -> Grade:
        """Both gradings: see `strict_verdict` and `published_verdict`."""
        return Grade(KIND, strict_verdict(item, text), published_verdict(item, text))

    @staticmethod
    def record(item: Problem) -> tuple[str, float | None]:
        """Question and ground truth, a number or None, as result files hold them."""
        return item.question, None if item.value is None else float(item.value)

    @staticmethod
    def from_record(question: Any, ground_truth: Any) -> Problem:
        """The item of a record.

        Raises:
            ValueError: not a text and a number below 1e15, or None.
        """
        is_number = isinstance(ground_truth, (int, float)) and not isinstance(ground_truth, bool) and abs(ground_truth) < LARGEST
        if not isinstance(question, str) or not (is_number or ground_truth is None):
            got = f"{str(question)[:40]!r} and {str(ground_truth)[:40]!r}"
            raise ValueError(f"a gsm8k record is a question and a number, or null; got {got}")
        if ground_truth is None:
            return Problem(question, None)
        return Problem(question, str(int(ground_truth)) if ground_truth == int(ground_truth) else repr(ground_truth))


def from_answer(question: Any, answer: Any, where: str) -> Problem:
    """An item from the columns of a row; ValueError with its place unless a number follows the last `####`."""
    _, _, truth = str(answer).rpartition("####")
    if not re.fullmatch(r"\s*-?(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,30})(?:\.[0-9]{1,30})?\s*", truth) or "####" not in str(answer):
        raise ValueError(f"{where}: a number is needed after #### in the answer; got {str(answer)[-40:]!r}")
    if not isinstance(question, str):
        raise ValueError(f"{where}: the question must be a text, got {str(question)[:40]!r}")
    return Problem(question, truth.strip())


def strict_verdict(item: Problem, text: str) -> Verdict:
    """Right if the answer is one number and exactly the truth (see `marked_answer`, `read_number`)."""
    answer, source = marked_answer(text)
    if answer is None:
        return Verdict(0, 1, None, "nowhere", source)
    number, reading = read_number(answer, item.question)
    return Verdict(0, 1, answer, source, reading) if number is None else verdict_of(number, item.value, answer, source)


def published_verdict(item: Problem, text: str) -> Verdict:
    """Right by the rules of the published evaluation: the first `\\boxed{}` with a number, or else the first `<answer>`, as a float."""
    truth = None if item.value is None else float(item.value)
    for box in published_boxes(text):
        number = published_number(box, at=0)
        if number is not None:
            return verdict_of(number, truth, box, r"the first \boxed with a number")
    answer = next(closed_answers(text), "")
    number = published_number(answer, at=-1)
    if number is None:
        return Verdict(0, 1, answer or None, r"no \boxed with a number", "no number in the first <answer>")
    return verdict_of(number, truth, answer, r"the first <answer>, as no \boxed has a number")


def verdict_of(number: float | Fraction, truth: float | Fraction | None, answer: str, source: str) -> Verdict:
    """The verdict about a number that was read."""
    if truth is None:
        return Verdict(0, 1, answer, source, f"reads {number}; the right answer is not known")
    return Verdict(int(number == truth), 1, answer, source, f"reads {number}, the right answer is {truth}")


def published_boxes(text: str) -> list[str]:
    """Contents of each `\\boxed{…}` up to the first `}` on its line, stripped."""
    # Lines are cut at their last }: unclosed boxes would cost the square of their number.
    lines = (line[: line.rfind("}") + 1] for line in text.split("\n") if "\\boxed" in line)
    return [box.strip() for line in lines for box in re.findall(r"\\boxed\{([^}]*)\}", line)]


def published_number(text: str, at: int) -> float | None:
    """A text as a float, or else its number at an index, where a comma ends a number; None if there is none."""
    try:
        return float(text)
    except ValueError:
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
        return float(numbers[at]) if numbers else None


def published_rewards(item: Problem, text: str) -> dict[str, float]:
    """The five components as published. Reasoning of more than one line earns neither format reward: `.` does not match line breaks."""
    answer = text.rpartition("<answer>")[2].partition("</answer>")[0].strip()  # the whole text where there is no <answer>
    lines = text.split("\n")
    form = lines[:1] + lines[2:4] + lines[5:6] == ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]
    return {
        "tags": published_tags(text),
        "soft_format": 0.5 * starts_with_tags(text, across_lines=False),
        "strict_format": 0.5 * (form and lines[6:] in ([""], ["", ""])),
        "integer": 0.5 * answer.isdigit(),
        "correct": 2.0 * (answer == item.answer),
    }


def published_tags(text: str) -> float:
    """0.125 for each of four tags that occurs once, 0.001 less for each character of text after the answer, counted twice.

    After the answer means after `\\n</answer>\\n`; it is the whole text if that never occurs.
    """
    once = [text.count(tag) == 1 for tag in ("<reasoning>\n", "\n</reasoning>\n", "\n<answer>\n", "\n</answer>")]
    behind = len(text.rpartition("\n</answer>\n")[2]) if once[2] else 0
    behind_again = len(text.rpartition("\n</answer>")[2]) - 1 if once[3] else 0
    return 0.125 * sum(once) - 0.001 * (behind + behind_again)


def recipe_rewards(item: Problem, text: str) -> dict[str, float]:
    """The five components with their mistakes corrected: reasoning may have many lines, the answer is read as a number, none is negative.

    The strict form is the four tags once each, alone on their lines, with nothing before or after.
    """
    text = text.strip()
    tags = ("<reasoning>", "</reasoning>", "<answer>", "</answer>")
    once = [text.count(tag) == 1 for tag in tags]
    behind = len(text.rpartition("</answer>")[2]) if once[3] else 0
    ends = text.startswith("<reasoning>\n") and text.endswith("\n</answer>")
    verdict = strict_verdict(item, text)
    number = read_number(verdict.answer or "", item.question)[0]
    return {
        "tags": max(0.0, 0.125 * sum(once) - 0.001 * behind),
        "soft_format": 0.5 * starts_with_tags(text, across_lines=True),
        "strict_format": 0.5 * (all(once) and ends and "\n</reasoning>\n<answer>\n" in text),
        "integer": 0.5 * (number is not None and number.denominator == 1),
        "correct": 2.0 * verdict.right,
    }


def starts_with_tags(text: str, *, across_lines: bool) -> bool:
    """Whether `<reasoning>…</reasoning>`, white space, `<answer>…</answer>` starts a text; each … on one line unless `across_lines`.

    A regular expression for this takes quadratic time on bad text; this code looks at each character a few times.
    """
    if not text.startswith("<reasoning>"):
        return False
    first_break = text.find("\n")
    closing = line_end = -1
    for found in re.finditer(r"</reasoning>\s*<answer>", text):
        if not across_lines and 0 <= first_break < found.start():
            return False
        if closing < found.end():
            closing = text.find("</answer>", found.end())
        if closing < 0:
            return False
        if line_end < found.end():
            line_end = text.find("\n", found.end()) % (len(text) + 1)  # −1, no break, becomes the end
        if across_lines or closing < line_end:
            return True
    return False
