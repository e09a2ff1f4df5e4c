"""The data stream of a run: training items in an endless, shuffled order, and which items are too long for the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import SamplerConfig, TaskConfig
from dmpo_ref.masking import stream
from dmpo_ref.samplers.checks import check_responses
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.encoding import encode, end_ids

ITEMS_PER_CHECK = 1000  # encoded at a time before the first round


@dataclass
class PromptStream:
    """Training items, reshuffled in each epoch; the order depends on the seed alone.

    Attributes:
        items: of one epoch.
        prompts_per_round: G, of all processes together.
        index, count: index of this process, and number of processes.
    """

    items: list[Any]
    prompts_per_round: int
    seed: int
    index: int = 0
    count: int = 1

    def of_round(self, number: int) -> tuple[list[Any], list[int]]:
        """This process's prompts of a round, and their places in the endless stream."""
        first = number * self.prompts_per_round
        return self._at(range(first + self.index, first + self.prompts_per_round, self.count))

    def spare_of_round(self, number: int, tries: int) -> Iterator[tuple[list[Any], list[int]]]:
        """Further prompts of a round, for each try as many as in `of_round`: a second endless stream, with places below 0."""
        for block in range(number * tries, (number + 1) * tries):
            first = -(block + 1) * self.prompts_per_round
            yield self._at(range(first + self.index, first + self.prompts_per_round, self.count))

    def _at(self, places: range) -> tuple[list[Any], list[int]]:
        size = len(self.items)
        return [self.items[self._shuffled(p // size)[p % size]] for p in places], list(places)

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(len(self.items), generator=stream(self.seed, "data", epoch)).tolist()


def load_items(task: Task, config: TaskConfig) -> tuple[list[Any], list[Any]]:
    """Training items and test items.

    Raises:
        FileNotFoundError, ValueError: from the task; it gives no list, or an empty one.
    """
    train, test = task.load(config.train), task.load(config.test)
    for name, source, items in (("train", config.train, train), ("test", config.test, test)):
        problem = f"task.{name}={source}: load of the task {type(task).__name__} returned"
        if not isinstance(items, (list, tuple)):
            raise ValueError(f"{problem} a {type(items).__name__}; return a list of items")
        if not items:
            raise ValueError(f"{problem} no item; at least one is needed")
    return list(train), list(test)


def find_fitting(
    items: list[Any],
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    sampler: SamplerConfig,
    max_length: int,
    *,
    kind: Literal["training", "test"],
    report: bool = True,
) -> list[Any]:
    """The items that fit into the model together with their response; the others are counted and listed on stderr.

    Args:
        max_length: tokens that the model can read.
        kind: of items; training items that are too long are left out, test items are counted as wrong.
        report: whether this process writes the message.

    Raises:
        ValueError: no item fits, or the sampler cannot fill a response.
    """
    fits: list[bool] = []
    section = {"training": "sampler", "test": "evaluation.sampler"}[kind]
    for start in range(0, len(items), ITEMS_PER_CHECK):
        prompts = encode(tokenizer, task, items[start : start + ITEMS_PER_CHECK], sampler.response_length)
        fit = prompts.attention_mask.sum(dim=-1) <= max_length
        fits += fit.tolist()
        if fit.any():
            check_responses(sampler, prompts.response_mask[fit], end_ids(tokenizer), section)
    long = [i for i, fit in enumerate(fits) if not fit]
    which = f"{len(long)} of {len(items)} {kind} items are longer, with their response, than max_sequence_length={max_length} tokens"
    if len(long) == len(items):
        raise ValueError(f"{which}; none is left: lower the response_length of the sampler, or choose another model")
    if long and report:
        fate = {"training": "left out", "test": "counted as wrong"}[kind]
        print(f"dmpo: {which}; {fate}: {', '.join(map(str, long[:5]))}{', …' * (len(long) > 5)}", file=sys.stderr)
    return [item for item, fit in zip(items, fits, strict=True) if fit]
