"""Answers of a policy to the items of a task, and their accuracy.

Each item has its own random stream, keyed by (seed, its index), so answers depend on neither batching nor processes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.rollout import Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode, end_ids

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
    seconds: float = 0.0
    forwards: int = 0
    fed_tokens: int = 0


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


def evaluate(
    model: Module,
    tokenizer,
    task,
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
    answers, right, total = [[] for _ in items], Counter(), Counter()
    for answer in (answer for batch in batches for answer in batch.answers):
        answers[answer.index].append(answer.text)
        grade = task.grade(items[answer.index], answer.generation or "")
        total[grade.kind] += 1
        right[grade.kind] += grade.correct
    kinds = sorted(total, key=lambda kind: (len(kind), kind))
    return Evaluation(
        accuracy=right.total() / total.total(),
        by_kind={kind: right[kind] / total[kind] for kind in kinds},
        answers=answers,
        forwards=sum(batch.forwards for batch in batches),
    )


def answer_items(
    model: Module,
    tokenizer,
    task,
    items: list,
    sampler: SamplerConfig,
    vocabulary: Vocabulary,
    starts: Sequence[int],
    *,
    num_samples: int,
    seed: int,
) -> Iterator[Batch]:
    """Answers to the batches that begin at these indices of `items`."""
    device, room = next(model.parameters()).device, model.config.max_sequence_length
    for start in tqdm(starts, desc="evaluate", disable=None if len(starts) > 1 else True, leave=False):
        clock = time.perf_counter()
        indices = range(start, min(start + ITEMS_PER_BATCH, len(items)))
        prompts = encode(tokenizer, task, [items[i] for i in indices], sampler.response_length)
        fits = [i for i, length in zip(indices, prompts.attention_mask.sum(dim=-1).tolist(), strict=True) if length <= room]
        batch = Batch([Answer(i, n, "", None, 0) for i in indices if i not in fits for n in range(num_samples)])
        if fits:
            if len(fits) < len(indices):
                prompts = encode(tokenizer, task, [items[i] for i in fits], sampler.response_length)
            rollout = sample(
                model,
                prompts.to(device),
                sampler,
                vocabulary,
                num_rollouts=num_samples,
                generators=[stream(seed, "evaluate", i) for i in fits],
                end_tokens=end_ids(tokenizer),
            )
            batch.forwards, batch.fed_tokens = rollout.forwards, rollout.fed_tokens
            batch.answers += read_answers(tokenizer, rollout, fits)
        batch.answers.sort(key=lambda answer: (answer.index, answer.sample))
        batch.seconds = time.perf_counter() - clock
        yield batch


def read_answers(tokenizer, rollout: Rollout, indices: list[int]) -> list[Answer]:
    """The answers of a rollout to the items of these indices."""
    ends, answers = end_ids(tokenizer), []
    for g, texts in enumerate(answer_texts(tokenizer, rollout)):
        for n, text in enumerate(texts):
            tokens, response, prompt = (x[g, n] for x in (rollout.tokens, rollout.response_mask, rollout.prompt_mask))
            drawn = tokens[response].tolist()
            before_end = sum(1 for _ in takewhile(lambda token: token not in ends, drawn))
            raw = tokenizer.decode(tokens[rollout.attention_mask[g, n] & ~prompt])
            answers.append(Answer(indices[g], n, text, raw, num_tokens=min(before_end + 1, len(drawn))))
    return answers


def test_accuracy(model, tokenizer, task, items, config, vocabulary, *, seed, processes):
    starts = range(0, len(items), ITEMS_PER_BATCH)[processes.index :: processes.count]
    batches = answer_items(model, tokenizer, task, items, config.sampler, vocabulary, starts, num_samples=config.num_samples, seed=seed)
    answers = [answer for batch in batches for answer in batch.answers]
    right = sum(task.grade(items[answer.index], answer.generation or "").correct for answer in answers)
    processes.join()
    right, total = processes.sum([right, len(answers)])
    return right / total
