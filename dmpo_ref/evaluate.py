"""Accuracy of a policy on the items of a task."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from einops import rearrange
from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.rollout import Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks import decode, encode

ITEMS_PER_BATCH = 256


@dataclass
class Evaluation:
    """Result of `evaluate`.

    Attributes:
        accuracy: share of all answers that are right.
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
    """Let the policy answer every item `num_samples` times and grade the answers.

    Each item has its own random stream, keyed by (seed, its index), so results do not depend on batching.
    """
    device = next(model.parameters()).device
    right, total, answers, forwards = Counter(), Counter(), [], 0
    starts = range(0, len(items), ITEMS_PER_BATCH)
    for start in tqdm(starts, desc="evaluate", disable=None if len(starts) > 1 else True, leave=False):
        batch = items[start : start + ITEMS_PER_BATCH]
        generators = [stream(seed, "evaluate", start + i) for i in range(len(batch))]
        prompts = encode(tokenizer, task, batch, sampler.response_length).to(device)
        rollout = sample(model, prompts, sampler, vocabulary, num_rollouts=num_samples, generators=generators)
        forwards += rollout.forwards
        for item, texts in zip(batch, answer_texts(tokenizer, rollout), strict=True):
            answers.append(texts)
            for text in texts:
                grade = task.grade(item, text)
                total[grade.kind] += 1
                right[grade.kind] += grade.correct
    kinds = sorted(total, key=lambda kind: (len(kind), kind))
    return Evaluation(
        accuracy=right.total() / total.total(),
        by_kind={kind: right[kind] / total[kind] for kind in kinds},
        answers=answers,
        forwards=forwards,
    )


def answer_texts(tokenizer, rollout: Rollout) -> list[list[str]]:
    """The texts of a rollout, for each of the G prompts its N answers."""
    rows = (rearrange(x, "g n s -> (g n) s") for x in (rollout.tokens, rollout.attention_mask, rollout.prompt_mask))
    texts, n = decode(tokenizer, *rows), rollout.tokens.shape[1]
    return [texts[i : i + n] for i in range(0, len(texts), n)]
