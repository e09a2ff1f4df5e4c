"""The protocol of a task, and what tasks share: grades and chat prompts. Text in, text out; nothing here knows a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dmpo_ref.config import TaskConfig

BLANK = "□"  # in a template: a position to generate
REASONING = "<reasoning>\n"

ANSWER_FORM = """\
Think step by step, then give {what}. Use this form:

<reasoning>
your reasoning
</reasoning>
<answer>
{example}
</answer>"""


def worked(steps: str, answer: str) -> str:
    """A worked answer, in the form that the prompt asks for."""
    return f"<reasoning>\n{steps}\n</reasoning>\n<answer>\n\\boxed{{{answer}}}\n</answer>"


@dataclass(frozen=True)
class Verdict:
    """The result of one grading of one answer.

    Attributes:
        right, total: points and their maximum: 1 for a whole answer, the blank cells for Sudoku's published rule, 0 for an answer
            that is not graded.
        answer: the answer that was read; None if there is none.
        source: where it was found, in words.
        reason: why it is right or wrong, one line.
    """

    right: int
    total: int
    answer: str | None
    source: str
    reason: str


@dataclass(frozen=True)
class Grade:
    """Both gradings of an answer, and the kind of item, by which accuracies are also reported.

    `published` follows the rules behind the published tables, mistakes included; `strict` accepts right answers only.
    """

    kind: str
    strict: Verdict
    published: Verdict

    @property
    def correct(self) -> bool:
        """Whether the answer is right, by the strict grading."""
        return 0 < self.strict.right == self.strict.total


def accuracy_by_kind(grades: Iterable[Grade]) -> dict[str, float]:
    """Share of right answers, by the strict grading, for each kind of item; short names of kinds first, then by alphabet."""
    right: dict[str, list[bool]] = {}
    for grade in grades:
        right.setdefault(grade.kind, []).append(grade.correct)
    return {kind: sum(right[kind]) / len(right[kind]) for kind in sorted(right, key=lambda kind: (len(kind), kind))}


class Task(Protocol):
    """Prompts, rewards and grades of one kind of problem. An item is one problem, of any type that the task chooses.

    Attributes:
        alphabet: the characters that may be generated; None for free text.
        prefill: what a free answer starts with.
    """

    alphabet: str | None
    prefill: str

    def load(self, source: str) -> list[Any]:
        """Items of a file or a hub data set."""

    def parse(self, text: str) -> Any:
        """An item typed by hand."""

    def prompt(self, item: Any) -> str | list[dict[str, str]]:
        """Text, or chat messages, before the answer."""

    def template(self, item: Any) -> str | None:
        """The answer with `BLANK` at each position to generate; None where all of it is generated."""

    def reward(self, item: Any, text: str) -> dict[str, float]:
        """Reward of an answer by component; their sum is r."""

    def grade(self, item: Any, text: str) -> Grade:
        """Both gradings of an answer."""

    def record(self, item: Any) -> tuple[Any, Any]:
        """(question, ground truth), as results files hold them."""

    def from_record(self, question: Any, ground_truth: Any) -> Any:
        """The item of such a pair; ValueError if it is not one of this task."""

    def show(self, item: Any, text: str | None = None) -> str:
        """The item, or an answer to it, for a person to read."""


class ChatTask:
    """Base class of tasks that ask in chat messages and are answered in free text.

    A subclass has `grade` and sets `question`, a text with `{name}` for each of `fields(item)`, and `examples`, pairs of an
    item and a worked answer. `task.prompt_file` replaces the text; `task.few_shot` puts that many examples before the question, as earlier
    turns of the conversation; `task.prefill` starts the answer with `<reasoning>`.
    """

    alphabet: str | None = None
    question: str
    examples: tuple[tuple[Any, str], ...]
    grade: Callable[[Any, str], Grade]

    def __init__(self, config: TaskConfig):
        if not 0 <= config.few_shot <= len(self.examples):
            raise ValueError(
                f"task.few_shot={config.few_shot}: {config.name} has {len(self.examples)} worked examples; give 0 to that many"
            )
        self.config = config
        self.text = self.question if config.prompt_file is None else read_prompt(config.prompt_file, self.fields(self.examples[0][0]))
        self.prefill = REASONING if config.prefill else ""

    def fields(self, item: Any) -> dict[str, str]:
        """The values that the text of the question may name in braces."""
        raise NotImplementedError

    def ask(self, item: Any) -> str:
        """The question about an item."""
        return fill_in(self.text, self.fields(item))

    def prompt(self, item: Any) -> str | list[dict[str, str]]:
        """The conversation so far, as chat messages."""
        shown = self.examples[: self.config.few_shot]
        turns = [(self.ask(example), answer) for example, answer in shown]
        earlier = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
        return [*earlier, {"role": "user", "content": self.ask(item)}]

    def template(self, item: Any) -> str | None:
        """None: the whole answer is generated."""
        return None

    def show(self, item: Any, text: str | None = None) -> str:
        """The item, or an answer to it with what the strict grading read from it."""
        if text is None:
            return "\n".join(self.fields(item).values())
        verdict = self.grade(item, text).strict
        return f"{self.prefill}{text}\n[{verdict.source}: {verdict.reason}]"


def fill_in(text: str, fields: dict[str, str]) -> str:
    """Put values in place of `{name}`; other braces, as in LaTeX, stay."""
    return re.sub("|".join(re.escape(f"{{{name}}}") for name in fields), lambda found: fields[found[0][1:-1]], text)


def read_prompt(path: str, fields: dict[str, str]) -> str:
    """A prompt file; it must name every field of the task.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a field is missing, or the file is not UTF-8 text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"task.prompt_file={path}: no such file; give a text with {', '.join(f'{{{name}}}' for name in fields)}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # an editor's byte-order mark is not part of the prompt
    except UnicodeDecodeError as error:
        raise ValueError(f"task.prompt_file={path} is not UTF-8 text: {error}") from error
    if missing := [name for name in fields if f"{{{name}}}" not in text]:
        raise ValueError(f"task.prompt_file={path} does not contain {{{missing[0]}}}, where the item is to be put")
    return text
