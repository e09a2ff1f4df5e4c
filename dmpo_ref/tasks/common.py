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

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmpo_ref.config import TaskConfig

BLANK = "□"  # in a template: a position that is to be generated
END_TOKENS = ("<|eot_id|>", "<|endoftext|>")  # of a chat turn and of a text, for LLaDA
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


def until_end(text: str) -> str:
    """An answer up to its first end token."""
    return re.split("|".join(map(re.escape, END_TOKENS)), text, maxsplit=1)[0]


def last_answer(text: str) -> str | None:
    """What stands between the last `<answer>` and the `</answer>` after it (or the end), stripped; None without `<answer>`."""
    _, tag, rest = text.rpartition("<answer>")
    return rest.partition("</answer>")[0].strip() if tag else None


def marked_answer(text: str) -> tuple[str | None, str]:
    """The answer by the strict reading, and where it was found: in the last `<answer>` or the last `\\boxed{…}`, whichever begins later.

    So a box inside the answer is the answer. A box that is not closed does not count, an answer that is not closed does. Nothing
    after the first end token is read.
    """
    text = until_end(text)
    start = text.rfind("\\boxed{")
    if start > text.rfind("<answer>"):
        depth = 0
        for brace in re.finditer(r"\\.|[{}]", text[start:], flags=re.DOTALL):  # \{ and \} are signs, not braces
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0 and brace[0] == "}":
                return text[start + len("\\boxed{") : start + brace.start()].strip(), "the last \\boxed"
    return (None, "nowhere") if (answer := last_answer(text)) is None else (answer, "the last <answer>")


def closed_answers(text: str) -> Iterator[str]:
    """What stands in each `<answer>…</answer>`, stripped, in order; one that is not closed does not count. Linear in the text."""
    at = 0
    while (start := text.find("<answer>", at)) >= 0 and (end := text.find("</answer>", start)) >= 0:
        yield text[start + len("<answer>") : end].strip()
        at = end + len("</answer>")


def published_box(text: str) -> str | None:
    """What the published evaluation takes from a text with `\\boxed`, for MATH-500 and Countdown.

    What follows the last `\\boxed ` (with a space) up to `$`, if there is one; else the content of the last `\\boxed{…}`. Without
    `\\boxed`, from the last `\\fbox` to its brace; without that, the whole text. None if the braces do not balance.
    """
    if "\\boxed " in text:
        return text.rpartition("\\boxed ")[2].partition("$")[0]
    start = text.rfind("\\boxed")
    if start < 0 and (start := text.rfind("\\fbox")) < 0:
        return text
    depth = 0
    for brace in re.finditer(r"[{}]", text[start:]):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0 and brace[0] == "}":
            boxed = text[start : start + brace.end()]
            return boxed[len("\\boxed{") : -1] if boxed.startswith("\\boxed{") else boxed
    return None


def read_rows(source: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of a local CSV, JSON or JSON-lines file, or of a hub data set given as `name:split` or `name:config:split`.

    Raises:
        FileNotFoundError: neither.
        ValueError: a file that cannot be read, holds no row, or lacks a column; with its line number where there is one.
    """
    path = Path(source)
    if path.is_file():
        rows = read_file(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+){1,2}", source) or (":" in source and Path(source.split(":")[0]).is_dir()):
        rows = read_hub(source)
    else:
        raise FileNotFoundError(f"no data file {source}: give a .csv, .json or .jsonl file, or a hub data set as name:split")
    if not rows or not isinstance(rows, list):
        raise ValueError(f"{source} holds no row: a list of at least one is needed")
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict) or any(row.get(column) is None for column in columns):
            raise ValueError(f"{source}, row {number}: the columns {', '.join(columns)} are needed; got {str(row)[:80]}")
    return rows


def read_file(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV, JSON-lines or JSON file, by its ending."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel's CSV files start with a byte order mark
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            if path.suffix == ".jsonl":
                return [read_line(line, number) for number, line in enumerate(file, start=1) if line.strip()]
            if path.suffix == ".json":
                return json.load(file)
    except (ValueError, csv.Error, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {error}") from error
    raise ValueError(f"{path}: the ending must be .csv, .json or .jsonl")


def read_line(line: str, number: int) -> Any:
    """One line of JSON; its number is in the error."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def read_hub(source: str) -> list[dict[str, Any]]:
    """Rows of a data set, by the `datasets` library: from the hub, or from a local folder in its layout."""
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{source} is a hub data set, which needs the package datasets: pip install 'dmpo-ref[benchmarks]'") from error
    name, *config, split = source.split(":")
    try:
        return [dict(row) for row in load_dataset(name, *config, split=split)]
    except Exception as error:  # a family of its own; whatever it is, the data set is not to be had
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"cannot load the data set {source}: {reason}; a local file of the same columns works too") from error
