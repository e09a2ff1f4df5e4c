"""What tasks share: grades, chat prompts, the ends of an answer, and reading of data files. Text only; nothing knows a model.

A task is a class with

    alphabet              the characters that may be generated, or None for free text
    load(source)          items of a file or a hub data set
    prompt(item)          text, or chat messages, before the answer;  prefill: what the answer starts with
    template(item)        the answer with `BLANK` at what is to be generated, or None where all of it is
    reward(item, text)    reward by component; their sum is r
    grade(item, text)     a `Grade`, both gradings
    record(item)          (question, ground truth), as result files hold them;  from_record: the item back
    show(item, text)      the item, or an answer to it, for a person to read
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dmpo_ref.config import TaskConfig

BLANK = "□"  # in a template: a position that is to be generated
REASONING = "<reasoning>\n"

ANSWER_FORM = """\
Think step by step, then give {what}. Use this form:

<reasoning>
your reasoning
</reasoning>
<answer>
{example}
</answer>"""


@dataclass(frozen=True)
class Verdict:
    """What one grading found in one answer.

    Attributes:
        right, total: points and the most there are: 1 for a whole answer, the blank cells for Sudoku's published rule.
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

    `published` follows the rules behind the published tables, mistakes included; `strict` is right only where the answer is.
    """

    kind: str
    strict: Verdict
    published: Verdict

    @property
    def correct(self) -> bool:
        """Whether the answer is right, by the strict grading."""
        return self.strict.right == self.strict.total


class Task(Protocol):
    """Shim."""

    alphabet: str | None
    prefill: str

    def load(self, source: str) -> list[Any]: ...
    def parse(self, text: str) -> Any: ...
    def prompt(self, item: Any) -> str | list[dict[str, str]]: ...
    def template(self, item: Any) -> str | None: ...
    def reward(self, item: Any, text: str) -> dict[str, float]: ...
    def grade(self, item: Any, text: str) -> Grade: ...
    def record(self, item: Any) -> tuple[Any, Any]: ...
    def from_record(self, question: Any, ground_truth: Any) -> Any: ...
    def show(self, item: Any, text: str | None = None) -> str: ...


class ChatTask:
    """Prompts of a task that is asked in chat messages and answered in free text.

    A class of a task sets `question`, a text with `{name}` for each of `fields(item)`, and `examples`, pairs of an item and a
    worked answer. `task.prompt_file` replaces the text; `task.few_shot` puts that many examples before the question, as earlier
    turns of the conversation; `task.prefill` starts the answer with `<reasoning>`.
    """

    alphabet: str | None = None
    question: str
    examples: tuple[tuple[Any, str], ...]

    def __init__(self, config: TaskConfig):
        if not 0 <= config.few_shot <= len(self.examples):
            raise ValueError(
                f"task.few_shot={config.few_shot}: {config.name} has {len(self.examples)} worked examples; give 0 to that many"
            )
        self.config = config
        self.text = self.question if config.prompt_file is None else read_prompt(config.prompt_file, self.fields(self.examples[0][0]))
        self.prefill = REASONING if config.prefill else ""

    def fields(self, item: Any) -> dict[str, str]:
        """What the text of the question may name in braces."""
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
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"task.prompt_file={path} is not UTF-8 text: {error}") from error
    if missing := [name for name in fields if f"{{{name}}}" not in text]:
        raise ValueError(f"task.prompt_file={path} does not contain {{{missing[0]}}}, where the item is to be put")
    return text
