"""Answers of a policy to the items of a task, and their accuracy.

Each item has its own random stream, keyed by (seed, its index), so answers depend on neither batching nor processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TypeVar

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmpo_ref.config import EvaluationConfig, SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.models.loading import locate
from dmpo_ref.rollout import Rollout
from dmpo_ref.runtime.processes import Processes
from dmpo_ref.samplers import sample
from dmpo_ref.samplers.checks import check_responses
from dmpo_ref.tasks.base import Grade, Task, accuracy_by_kind
from dmpo_ref.tasks.encoding import answer_texts, encode, end_ids

T = TypeVar("T")
ITEMS_PER_BATCH = 64  # finished answers are written after each batch


@dataclass
class Answer:
    """One answer to one item.

    Attributes:
        index, sample: place of the item in the test set; which of its answers.
        text: as rewards and people read it, up to the first end token, special tokens removed.
        generation: all that was generated, special tokens included, as the published grading reads it; None: never asked,
            because prompt and answer together are longer than the model can read.
        num_tokens: tokens that were generated, given ones not counted, up to and including the first end token.
    """

    index: int
    sample: int
    text: str
    generation: str | None
    num_tokens: int


@dataclass
class Batch:
    """Answers to consecutive items, item by item, and what they cost."""

    answers: list[Answer]
    seconds: float
    forwards: int
    fed_tokens: int


@dataclass
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        accuracy: share of all answers that are right, by the strict grading.
        by_kind: the same for each kind of item, in sorted order (Sudoku: by number of blanks).
        answers: for each item its `num_samples` texts.
        forwards: number of forward passes.
    """

    accuracy: float
    by_kind: dict[str, float]
    answers: list[list[str]]
    forwards: int


def with_newest(path: str, use: Callable[[str], T]) -> T:
    """The result of `use` for a policy's folder; for a run, the folder is its newest checkpoint. If the run continues and has
    removed that checkpoint meanwhile, the next one is tried.

    Args:
        path: as in `model.path`.
    """
    while True:
        folder = str(locate(path))
        try:
            return use(folder)
        except (OSError, ValueError):
            if str(locate(path)) == folder:
                raise


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: list,
    sampler: SamplerConfig,
    vocabulary: Vocabulary,
    *,
    num_samples: int = 1,
    seed: int = 0,
) -> Evaluation:
    """Let the policy answer every item `num_samples` times and grade the answers. An item too long to be asked counts as wrong."""
    starts = range(0, len(items), ITEMS_PER_BATCH)
    batches = list(answer_items(model, tokenizer, task, items, sampler, vocabulary, starts, num_samples=num_samples, seed=seed))
    answers: list[list[str]] = [[] for _ in items]
    for answer in (answer for batch in batches for answer in batch.answers):
        answers[answer.index].append(answer.text)
    grades = grade_answers(task, items, batches)
    accuracy = sum(grade.correct for grade in grades) / len(grades)
    return Evaluation(accuracy, accuracy_by_kind(grades), answers, sum(batch.forwards for batch in batches))


def test_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: list,
    config: EvaluationConfig,
    vocabulary: Vocabulary,
    *,
    seed: int,
    processes: Processes,
) -> float:
    """Share of right answers, by the strict grading, as in `evaluate`; each process answers its part of the batches."""
    starts = range(0, len(items), ITEMS_PER_BATCH)[processes.index :: processes.count]
    batches = answer_items(model, tokenizer, task, items, config.sampler, vocabulary, starts, num_samples=config.num_samples, seed=seed)
    grades = grade_answers(task, items, batches)
    processes.join()
    right, total = processes.sum([sum(grade.correct for grade in grades), len(grades)])
    return right / total


def grade_answers(task: Task, items: list, batches: Iterable[Batch]) -> list[Grade]:
    """Both gradings of every answer; an item that was never asked counts as an empty answer."""
    return [task.grade(items[answer.index], answer.generation or "") for batch in batches for answer in batch.answers]


def answer_items(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    items: list,
    sampler: SamplerConfig,
    vocabulary: Vocabulary,
    starts: Sequence[int],
    *,
    num_samples: int,
    seed: int,
) -> Iterator[Batch]:
    """Answers to the batches that begin at these indices of `items`."""
    device, longest = next(model.parameters()).device, model.config.max_sequence_length
    for start in tqdm(starts, desc="evaluate", disable=None if len(starts) > 1 else True, leave=False):
        clock = time.perf_counter()
        indices = range(start, min(start + ITEMS_PER_BATCH, len(items)))
        prompts = encode(tokenizer, task, [items[i] for i in indices], sampler.response_length)
        lengths = prompts.attention_mask.sum(dim=-1).tolist()
        fits = [i for i, length in zip(indices, lengths, strict=True) if length <= longest]
        answers = [Answer(i, n, "", None, 0) for i in indices if i not in fits for n in range(num_samples)]
        forwards = fed_tokens = 0
        if fits:
            if answers:  # without the items that are too long, the others need less padding
                prompts = encode(tokenizer, task, [items[i] for i in fits], sampler.response_length)
            check_responses(sampler, prompts.response_mask, end_ids(tokenizer), "evaluation.sampler")
            rollout = sample(
                model,
                prompts.to(device),
                sampler,
                vocabulary,
                num_rollouts=num_samples,
                generators=[stream(seed, "evaluate", i) for i in fits],
                end_tokens=end_ids(tokenizer),
            )
            forwards, fed_tokens = rollout.forwards, rollout.fed_tokens
            answers += read_answers(tokenizer, rollout.to(torch.device("cpu")), fits)
        answers.sort(key=lambda answer: (answer.index, answer.sample))
        yield Batch(answers, time.perf_counter() - clock, forwards, fed_tokens)


def read_answers(tokenizer: PreTrainedTokenizerBase, rollout: Rollout, indices: list[int]) -> list[Answer]:
    """The answers of a rollout to the items of these indices."""
    ends, answers = end_ids(tokenizer), []
    for g, texts in enumerate(answer_texts(tokenizer, rollout)):
        for n, text in enumerate(texts):
            tokens, drawn = rollout.tokens[g, n], rollout.tokens[g, n][rollout.response_mask[g, n]].tolist()
            before_end = sum(1 for _ in takewhile(lambda token: token not in ends, drawn))
            generation = str(tokenizer.decode(tokens[rollout.attention_mask[g, n] & ~rollout.prompt_mask[g, n]]))
            answers.append(Answer(indices[g], n, text, generation, num_tokens=min(before_end + 1, len(drawn))))
    return answers
