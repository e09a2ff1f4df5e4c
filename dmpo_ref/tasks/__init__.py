"""Tasks: text in, text out. A task knows prompts, rewards and grades; nothing here knows a model.

A task is a class with `alphabet`, `load`, `prompt`, `template`, `reward` and `grade` (see `sudoku.Sudoku`). To add one:
write the file, add it to `TASKS` and its name to `TaskConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmpo_ref.config import TaskConfig
from dmpo_ref.rollout import Prompts

BLANK = "□"  # in a template: a position that is to be generated


@dataclass
class Grade:
    """Whether an answer is right, and the kind of item, by which accuracies are also reported."""

    correct: bool
    kind: str


def build_task(config: TaskConfig):
    """The task that the config names."""
    from dmpo_ref.tasks.sudoku import Sudoku

    return {"sudoku": Sudoku}[config.name](config)


def encode(tokenizer, task, items: list) -> Prompts:
    """Tokenise the prompts and templates of items.

    Raises:
        ValueError: an item with nothing to generate.
    """
    rows = []
    for item in items:
        prompt = tokenizer(task.prompt(item), add_special_tokens=False).input_ids
        template = task.template(item).replace(BLANK, tokenizer.mask_token)
        response = tokenizer(template, add_special_tokens=False).input_ids
        if tokenizer.mask_token_id not in response:
            raise ValueError(f"item {item!r} has nothing to generate")
        rows.append((prompt, response))
    length = max(len(prompt) + len(response) for prompt, response in rows)
    tokens = torch.full((len(rows), length), tokenizer.pad_token_id)
    attention_mask = torch.zeros_like(tokens, dtype=torch.bool)
    prompt_mask = torch.zeros_like(attention_mask)
    for i, (prompt, response) in enumerate(rows):
        start = length - len(prompt) - len(response)
        tokens[i, start:] = torch.tensor(prompt + response)
        attention_mask[i, start:] = True
        prompt_mask[i, start : start + len(prompt)] = True
    response_mask = (tokens == tokenizer.mask_token_id) & attention_mask & ~prompt_mask
    return Prompts(tokens, attention_mask, prompt_mask, response_mask)


def decode(tokenizer, tokens: Tensor, attention_mask: Tensor, prompt_mask: Tensor) -> list[str]:
    """Answers as text, special tokens removed: everything after the prompt. [B, S] each → B strings."""
    answer = attention_mask & ~prompt_mask
    return [tokenizer.decode(row[keep].tolist(), skip_special_tokens=True) for row, keep in zip(tokens, answer, strict=True)]
