"""Tasks: text in, text out. A task knows prompts, rewards and grades; nothing here knows a model.

A task is a class with `alphabet`, `load`, `prompt`, `template`, `reward` and `grade` (see `sudoku.Sudoku`). To add one:
write the file, add it to `build_task` and its name to `TaskConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from dmpo_ref.config import TaskConfig
from dmpo_ref.rollout import Prompts

BLANK = "□"  # in a template: a position that is to be generated
END_OF_TURN = "<|eot_id|>"  # ends a chat answer, as does the tokenizer's eos token


@dataclass
class Grade:
    """Whether an answer is right, and the kind of item, by which accuracies are also reported."""

    correct: bool
    kind: str


def build_task(config: TaskConfig):
    """The task that the config names."""
    from dmpo_ref.tasks.sudoku import Sudoku

    return {"sudoku": Sudoku}[config.name](config)


def encode(tokenizer, task, items: list, response_length: int | None = None) -> Prompts:
    """Tokenise the prompts and templates of items.

    Args:
        task: `prompt(item)` is text, or chat messages, which the tokenizer's chat template makes text; `template(item)` is the
            response with `BLANK` at what is to be generated, or None where all of a free response is.
        response_length: L, positions of a free response.

    Raises:
        ValueError: an item with nothing to generate, chat messages without a chat template, a free response without a length,
            or a length for a response that has a template.
    """
    rows = []
    for item in items:
        prompt, template = task.prompt(item), task.template(item)
        if not isinstance(prompt, str):
            prompt = chat_text(tokenizer, prompt)
        if template is None and response_length is None:
            raise ValueError("an answer of this task can have any length: give sampler.response_length, in tokens")
        if template is not None and response_length is not None:
            raise ValueError(f"sampler.response_length={response_length}: the template of this task says what is generated; use null")
        texts = [prompt, (template or "").replace(BLANK, tokenizer.mask_token)]
        prompt, response = tokenizer(texts, add_special_tokens=False).input_ids
        if template is None:
            response = [tokenizer.mask_token_id] * response_length
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


def chat_text(tokenizer, messages: list[dict[str, str]]) -> str:
    """Chat messages as the model was taught to read them, up to where its answer begins."""
    if tokenizer.chat_template is None:
        raise ValueError("this task asks in chat messages, but the tokenizer has no chat template: use an instruction-tuned checkpoint")
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def decode(tokenizer, tokens: Tensor, attention_mask: Tensor, prompt_mask: Tensor) -> list[str]:
    """Answers as text: what follows the prompt, up to the first end token, special tokens removed. [B, S] each → B strings."""
    ends = {tokenizer.eos_token_id, tokenizer.added_tokens_encoder.get(END_OF_TURN)}
    answers = (row[keep].tolist() for row, keep in zip(tokens, attention_mask & ~prompt_mask, strict=True))
    return [tokenizer.decode(list(takewhile(lambda t: t not in ends, answer)), skip_special_tokens=True) for answer in answers]
