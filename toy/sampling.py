"""Samplers watched and judged: what a model is fed in each forward pass, how many answers are right, how many passes each one takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dmpo_ref.config import SamplerConfig
from dmpo_ref.masking import stream
from dmpo_ref.rollout import Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import answer_texts, encode
from toy.loading import Loaded


class Spy:
    """Stands between a sampler and a model, and records what is fed.

    Attributes:
        model: is called with everything that the sampler gives.
        slots: of each forward pass, the slots whose tokens are fed; all of them without a cache.
        tokens: of each forward pass, the `input_ids` [B, S'].
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.slots: list[slice] = []
        self.tokens: list[Tensor] = []

    def __call__(self, **inputs: Any) -> Any:
        cache = inputs.get("cache")
        self.slots.append(slice(None) if cache is None else cache.fed)
        self.tokens.append(inputs["input_ids"])
        return self.model(**inputs)

    def table(self, length: int) -> Tensor:
        """[passes, length] 1 where the token of a slot is fed, else 0."""
        fed = torch.zeros(len(self.slots), length)
        for row, slots in zip(fed, self.slots, strict=True):
            row[slots] = 1
        return fed


def answer(
    loaded: Loaded, items: list[Any], sampler: SamplerConfig, *, num_rollouts: int = 1, purpose: str = "evaluate", first: int = 0
) -> Rollout:
    """N answers to each item, in one batch.

    Args:
        purpose, first: item i draws from `stream(0, purpose, first + i)`.

    Raises:
        ValueError: as `dmpo_ref.samplers.sample`.
    """
    prompts = encode(loaded.tokenizer, loaded.task, items, sampler.response_length)
    generators = [stream(0, purpose, first + i) for i in range(len(items))]
    return sample(loaded.policy, prompts, sampler, loaded.vocabulary, num_rollouts=num_rollouts, generators=generators)


def num_right(loaded: Loaded, items: list[Any], rollout: Rollout) -> int:
    """How many answers of a rollout are right, of all G·N."""
    answers = answer_texts(loaded.tokenizer, rollout)
    return sum(loaded.task.grade(item, text).correct for item, texts in zip(items, answers, strict=True) for text in texts)


def forwards_alone(rollout: Rollout) -> Tensor:
    """Forward passes until each response is complete, [G, N] int: as many as it would take without the rest of the batch."""
    return rollout.step.amax(dim=-1) + 1
