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


def check_task(task: Any, *, has_reward: bool = False) -> None:
    """Check that a task from Python has what `train` calls, so that nothing is found missing after hours.

    Args:
        has_reward: a reward function replaces the task's own, which may then be missing.

    Raises:
        ValueError: a class instead of an object, a method or an attribute that is missing, an empty alphabet.
    """
    if isinstance(task, type):
        raise ValueError(f"task={task.__name__} is a class; give an object of it, as in task={task.__name__}()")
    methods = ["load", "prompt", "template", "grade"] + ["reward"] * (not has_reward)
    missing = [name for name in methods if not callable(getattr(task, name, None))]
    missing += [name for name in ("alphabet", "prefill") if not hasattr(task, name)]
    name = type(task).__name__
    if missing:
        raise ValueError(f"task {name} has no {', '.join(missing)}; dmpo_ref.tasks.base.Task says what each must be")
    if task.alphabet is not None and not task.alphabet:
        raise ValueError(f"task {name} has an empty alphabet; give the characters that may be generated, or None for free text")


class ChatTask:
    """Base class of tasks that ask in chat messages and are answered in free text.

    A subclass sets `question`, a text with `{name}` for each of `fields(item)`, and has the methods of `Task` that are not here. It may
    set `examples`, pairs of an item and a worked answer. `task.prompt_file` replaces the text; `task.few_shot` puts that many examples
    before the question, as earlier turns of the conversation; `task.prefill` starts the answer with `<reasoning>`.
    """

    alphabet: str | None = None
    question: str
    examples: tuple[tuple[Any, str], ...] = ()
    grade: Callable[[Any, str], Grade]

    def __init__(self, config: TaskConfig):
        name, known = type(self).__name__, len(self.examples)
        if not hasattr(self, "question"):
            raise ValueError(f"task {name} has no question; set it to the text that asks about an item, with its fields in braces")
        if not 0 <= config.few_shot <= known:
            raise ValueError(f"task.few_shot={config.few_shot}: {name} has {known} worked examples; give 0 to that many")
        self.config = config
        self.text = self.question if config.prompt_file is None else read_prompt(config.prompt_file)
        self.prefill = REASONING if config.prefill else ""
        for item, _ in self.examples[:1]:
            self.ask(item)  # a prompt file that does not fit is refused before any item is loaded

    def fields(self, item: Any) -> dict[str, str]:
        """The values that the text of the question may name in braces."""
        raise ValueError(f"task {type(self).__name__} has no fields; write the method, or return {{}} from it")

    def ask(self, item: Any) -> str:
        """The question about an item.

        Raises:
            ValueError: `task.prompt_file` does not name one of its fields.
        """
        fields, file = self.fields(item), self.config.prompt_file
        if file is not None and (missing := [name for name in fields if f"{{{name}}}" not in self.text]):
            raise ValueError(f"task.prompt_file={file} does not contain {{{missing[0]}}}, where the item is to be put")
        return fill_in(self.text, fields)

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
            return "\n".join(map(str, self.fields(item).values()))
        verdict = self.grade(item, text).strict
        return f"{self.prefill}{text}\n[{verdict.source}: {verdict.reason}]"


def fill_in(text: str, fields: dict[str, str]) -> str:
    """Put values in place of `{name}`; other braces, as in LaTeX, stay."""
    return re.sub(r"\{([^{}]*)\}", lambda found: str(fields.get(found[1], found[0])), text)


def read_prompt(path: str) -> str:
    """A prompt file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not UTF-8 text.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"task.prompt_file={path}: no such file; give a text with the task's fields in braces")
    try:
        return Path(path).read_text(encoding="utf-8-sig")  # an editor's byte-order mark is not part of the prompt
    except UnicodeDecodeError as error:
        raise ValueError(f"task.prompt_file={path} is not UTF-8 text: {error}") from error
