"""Any generator of reasoning-gym (Stojanovski et al., arXiv 2505.24760): over a hundred kinds of puzzles, each with its own verifier.

`task.train` and `task.test` are `NAME`, `NAME:SEED` or `NAME:SEED:COUNT`, as in `mini_sudoku:1000:200`; the seed is 0 and the count 500
if they are not given. reasoning-gym draws problem i of a seed s from the number s + i, so `NAME:0` and `NAME:1` share 499 of 500: train and
test whose numbers overlap are refused. Problems of different numbers may still be equal where a generator has few.

Answers are scored in a separate process (`answers.helper`): some verifiers evaluate an answer as code, and some may take very long.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.answers.helper import ask
from dmpo_ref.tasks.answers.marked import last_answer, until_end
from dmpo_ref.tasks.base import ANSWER_FORM, ChatTask, Grade, Verdict

SOURCE = re.compile(r"([a-z0-9_]+)(?::([0-9]{1,9}))?(?::([0-9]{1,7}))?")
COUNT = 500
MOST_SEED = 10**9  # exclusive
MAX_ANSWER = 2000  # characters that a verifier is given
UNSCORED: set[str] = set()  # generators whose failing verifier was already reported


@dataclass(frozen=True)
class Entry:
    """A problem: its generator, seed and index, and its text. The verifier recreates the rest from these."""

    generator: str
    seed: int
    index: int
    question: str


class ReasoningGym(ChatTask):
    """The task as `train` and `evaluate` see it. r is the verifier's score of the text in the last `<answer>`, whatever `task.reward`
    says, mostly from 0 to 1."""

    question = "{question}\n\n" + ANSWER_FORM.format(what="the answer", example="the answer")
    examples = ((Entry("leg_counting", 0, 0, "How many legs have two dogs and a duck?"), "10"),)

    def __init__(self, config: TaskConfig):
        if config.few_shot:
            raise ValueError(f"task.few_shot={config.few_shot}: reasoning_gym has no worked examples; give 0")
        super().__init__(config)
        refuse_overlap(config)

    def fields(self, item: Entry) -> dict[str, str]:
        return {"question": item.question}

    def load(self, source: str) -> list[Entry]:
        """The problems of `NAME:SEED:COUNT`.

        Raises:
            ValueError: not of this form, no such generator, one that makes no problem, or reasoning-gym is not installed.
        """
        parts = read_source(source)
        if parts is None:
            raise ValueError(
                f"{source!r:.100} names no problems of reasoning-gym; give NAME, NAME:SEED or NAME:SEED:COUNT, as mini_sudoku:1000:200"
            )
        generator, seed, count = parts
        problems = make_problems(generator, seed)
        try:
            return [Entry(generator, seed, index, str(problems[index]["question"])) for index in range(count)]
        except Exception as error:  # the code of a generator: anything may go wrong in it
            raise ValueError(f"reasoning-gym's {generator} makes no problems with seed {seed}: {first(error)}") from error

    def parse(self, text: str) -> Entry:
        """A problem by its place, `NAME:SEED#INDEX`.

        Raises:
            ValueError: not of this form; as `load`.
        """
        source, _, index = text.partition("#")
        if not re.fullmatch("[0-9]{1,6}", index) or source.count(":") > 1:
            raise ValueError(f"{text!r:.100} names no problem of reasoning-gym; give NAME:SEED#INDEX, as mini_sudoku:1#7")
        return self.load(f"{source if ':' in source else source + ':0'}:{int(index) + 1}")[-1]

    def reward(self, item: Entry, text: str) -> dict[str, float]:
        """The verifier's score; 0 for an answer that it cannot score, or without one."""
        return {"score": score(item, text)[0]}

    @staticmethod
    def grade(item: Entry, text: str) -> Grade:
        """Right if the verifier gives 1. This is the only published rule, so both gradings are the same."""
        points, answer, reason = score(item, text)
        source = "nowhere" if answer is None else "the last <answer>"
        verdict = Verdict(int(points >= 1), 1, answer, source, reason)
        return Grade(item.generator, verdict, verdict)

    @staticmethod
    def record(item: Entry) -> tuple[str, list[Any]]:
        """(question, [generator, seed, index])."""
        return item.question, [item.generator, item.seed, item.index]

    @staticmethod
    def from_record(question: Any, ground_truth: Any) -> Entry:
        """The problem of a record.

        Raises:
            ValueError: not a text and [generator, seed, index].
        """
        is_place = isinstance(ground_truth, list) and [type(part) for part in ground_truth] == [str, int, int]
        if not isinstance(question, str) or not is_place:
            raise ValueError(f"the ground truth of a reasoning_gym record is [generator, seed, index]; got {str(ground_truth):.60}")
        generator, seed, index = ground_truth
        return Entry(generator, seed, index, question)


def read_source(source: str) -> tuple[str, int, int] | None:
    """Generator, seed and count; None: not of the form."""
    found = SOURCE.fullmatch(source)
    return None if found is None or found[3] == "0" else (found[1], int(found[2] or 0), int(found[3] or COUNT))


def refuse_overlap(config: TaskConfig) -> None:
    """Raise ValueError if train and test have numbers in common, seed to seed + count − 1."""
    train, test = read_source(config.train), read_source(config.test)
    if train is None or test is None or train[0] != test[0]:
        return
    (generator, first_train, num_train), (_, first_test, num_test) = train, test
    shared = min(first_train + num_train, first_test + num_test) - max(first_train, first_test)
    if shared > 0:
        after = first_train + num_train
        free = after if after < MOST_SEED else 0  # so that the advice is of the form that is read
        raise ValueError(
            f"task.train={config.train} and task.test={config.test} have {shared} problems in common, "
            f"since problem i of seed s is that of s + i; give task.test={generator}:{free}:{num_test}"
        )


def need_reasoning_gym() -> None:
    """Raise ValueError if reasoning-gym is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise ValueError("the task reasoning_gym needs the package reasoning-gym: pip install 'dmpo-ref[gym]'")


@cache
def make_problems(generator: str, seed: int) -> Any:
    """The generator's data set: item i is that of the seed and i, whatever its size.

    Raises:
        ValueError: no such generator, or reasoning-gym is not installed.
    """
    need_reasoning_gym()
    from reasoning_gym.factory import DATASETS, create_dataset  # optional, and seconds of import

    if generator not in DATASETS:
        near = difflib.get_close_matches(generator, DATASETS, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(DATASETS)[:5])} and {len(DATASETS) - 5} more"
        raise ValueError(f"reasoning-gym has no generator {generator}; {hint}")
    return create_dataset(generator, seed=seed)


def score(item: Entry, text: str) -> tuple[float, str | None, str]:
    """Points, the answer that was scored (None: there is none), and why."""
    need_reasoning_gym()
    text = until_end(text)
    place = last_answer(text)
    if place is None:
        return 0.0, None, "no <answer>"
    answer = text[place[0] : place[1]].strip()
    if len(answer) > MAX_ANSWER:
        return 0.0, answer, f"longer than {MAX_ANSWER} characters"
    found = ask("dmpo_ref.tasks.reasoning_gym:verify", item.generator, item.seed, item.index, answer)
    if isinstance(found, float):
        return found, answer, f"the verifier gives {found:g}"
    problem = f"the verifier of {item.generator} cannot score it: {found or 'it took too long, or too much memory'}"
    if item.generator not in UNSCORED:
        UNSCORED.add(item.generator)
        where = f"{item.generator}:{item.seed}#{item.index}"
        logging.getLogger(__name__).warning("%s, answer %.60r: %s; such answers count 0, and this is said once", where, answer, problem)
    return 0.0, answer, problem


def prepare() -> None:
    """The imports of the separate process before it answers."""
    make_problems("leg_counting", 0)


@cache
def entry(generator: str, seed: int, index: int) -> dict[str, Any]:
    """A problem with what its verifier needs."""
    return make_problems(generator, seed)[index]


def verify(generator: str, seed: int, index: int, answer: str) -> float | str:
    """The verifier's score, or in words why there is none. Runs in the separate process."""
    try:
        found = float(make_problems(generator, seed).score_answer(answer, entry=entry(generator, seed, index)))
    except Exception as error:  # the code of a verifier: anything may go wrong in it
        return first(error)
    return found if -1e6 < found < 1e6 else f"its score is {found}"


def first(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
