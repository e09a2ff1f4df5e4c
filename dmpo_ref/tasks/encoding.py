"""From items to tokens and back: prompts and templates for a sampler, the texts of a rollout."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import ModelConfig, shorten
from dmpo_ref.likelihood import Vocabulary, build_vocabulary
from dmpo_ref.models.files import first_line
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.tasks.answers.marked import END_TOKENS
from dmpo_ref.tasks.base import BLANK, Task


def encode(tokenizer: PreTrainedTokenizerBase, task: Task, items: list, response_length: int | None = None) -> Prompts:
    """Tokenise the prompts and templates of items.

    Args:
        task: chat messages of its prompts become text by the tokenizer's chat template.
        response_length: L, positions of a free response (one without a template).

    Raises:
        ValueError: an item with nothing to generate or with characters that the tokenizer does not know, chat messages without a chat
            template, a free response without a length, or a length for a response that has a template.
    """
    prompts, templates = [task.prompt(item) for item in items], [task.template(item) for item in items]
    if None in templates and response_length is None:
        where = "sampler.response_length, or evaluation.sampler.response_length to evaluate"
        raise ValueError(f"an answer of this task can have any length: give {where}, in tokens")
    if response_length is not None and any(template is not None for template in templates):
        given = f"sampler.response_length={response_length}, or that of evaluation.sampler"
        raise ValueError(f"{given}: the template of this task says what is generated; use null")
    texts = [prompt if isinstance(prompt, str) else chat_text(tokenizer, prompt) + task.prefill for prompt in prompts]
    texts += [(template or "").replace(BLANK, tokenizer.mask_token) for template in templates]
    ids = tokenizer(texts, add_special_tokens=False).input_ids
    for item, text, row in zip(items * 2, texts, ids, strict=True):
        if tokenizer.unk_token_id in row and (piece := unknown_piece(tokenizer, text, row)):
            problem = f"the tokenizer does not know {shorten(repr(piece), 40)} in the prompt or template of item {shorten(repr(item), 60)}"
            raise ValueError(f"{problem}; write it in characters that it knows, or use a model whose tokenizer does")
    free = [tokenizer.mask_token_id] * (response_length or 0)
    rows = [
        (prompt, free if template is None else response)
        for prompt, response, template in zip(ids[: len(items)], ids[len(items) :], templates, strict=True)
    ]
    for item, (_, response) in zip(items, rows, strict=True):
        if tokenizer.mask_token_id not in response:
            raise ValueError(f"item {item!r} has nothing to generate")
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
    return Prompts(tokens, attention_mask, prompt_mask, response_mask, padded=not attention_mask.all())


def unknown_piece(tokenizer: PreTrainedTokenizerBase, text: str, ids: list[int]) -> str | None:
    """The first part of a text that became the unknown token without being its name."""
    if tokenizer.is_fast:
        pieces = [text[start:end] for start, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping]
    else:
        pieces = tokenizer.tokenize(text)
    unknown = (piece for piece, token in zip(pieces, ids, strict=True) if token == tokenizer.unk_token_id)
    return next((piece for piece in unknown if piece != tokenizer.unk_token), None)


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """Chat messages in the form that the model was trained on, up to where its answer begins."""
    if tokenizer.chat_template is None:
        raise ValueError("this task asks in chat messages, but the tokenizer has no chat template: use an instruction-tuned checkpoint")
    try:
        text = str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        if missing := [message for message in messages if message["content"].strip() not in text]:
            raise ValueError(f"it leaves out the message {missing[0]['content'][:40]!r}")
        return text
    except Exception as error:  # a template is a program, run in a sandbox: anything may go wrong in it
        problem = f"the tokenizer's chat template cannot be used: {first_line(error)}"
        raise ValueError(f"{problem}; put the template of this model into tokenizer_config.json or chat_template.jinja") from error


def allowed_vocabulary(config: ModelConfig, task: Task, policy: LLaDAModelLM, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The tokens that the policy may generate for a task: the task's alphabet, if it has one; every row with `model.vocabulary=full`."""
    return build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet, full=config.vocabulary == "full")


def end_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that end an answer."""
    return {tokenizer.eos_token_id, *map(tokenizer.added_tokens_encoder.get, END_TOKENS)} - {None}


def decode(tokenizer: PreTrainedTokenizerBase, tokens: Tensor, attention_mask: Tensor, prompt_mask: Tensor) -> list[str]:
    """Answers as text: what follows the prompt, up to the first end token, special tokens removed. [B, S] each → B strings."""
    ends = end_ids(tokenizer)
    answers = (row[keep].tolist() for row, keep in zip(tokens, attention_mask & ~prompt_mask, strict=True))
    return [str(tokenizer.decode(list(takewhile(lambda t: t not in ends, answer)), skip_special_tokens=True)) for answer in answers]


def answer_texts(tokenizer: PreTrainedTokenizerBase, rollout: Rollout) -> list[list[str]]:
    """The texts of a rollout, for each of the G prompts its N answers."""
    host = (x.cpu() for x in (rollout.tokens, rollout.attention_mask, rollout.prompt_mask))  # once, not a row at a time
    return [decode(tokenizer, *of_prompt) for of_prompt in zip(*host, strict=True)]


def trajectory(tokenizer: PreTrainedTokenizerBase, rollout: Rollout, prompt: int = 0, sample: int = 0) -> dict[str, list[Any]]:
    """How one response was generated, an entry for each token of the answer, clues inside it included.

    Returns:
        pieces: the text of the token; of tokens that share a character, the last one has it and the others are "".
        step: the forward pass, from 0, that (last) placed it; −1 where it was given.
        confidence: see `Rollout`, three digits after the point.
    """
    answer = rollout.attention_mask[prompt, sample] & ~rollout.prompt_mask[prompt, sample]
    known = torch.ones_like(rollout.step, dtype=torch.float32) if rollout.confidence is None else rollout.confidence
    tokens, step, confidence = (x[prompt, sample][answer].tolist() for x in (rollout.tokens, rollout.step, known))
    pieces = texts_of_tokens(tokenizer, tokens)
    return {"pieces": pieces, "step": step, "confidence": [round(c, 3) for c in confidence]}


def texts_of_tokens(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> list[str]:
    """The text of each token. In a byte-level tokenizer a token may be part of a character; at most four make up a whole one."""
    alone = {token: str(tokenizer.decode([token])) for token in set(tokens)}  # a puzzle has five different tokens in its 16 cells
    texts: list[str] = []
    while len(texts) < len(tokens):
        start, text, n = len(texts), alone[tokens[len(texts)]], 1
        for more in range(2, min(4, len(tokens) - start) + 1):
            if "\ufffd" not in text:
                break
            text, n = str(tokenizer.decode(tokens[start : start + more])), more
        if "\ufffd" in text:  # no character begins here
            text, n = alone[tokens[start]], 1
        texts += [""] * (n - 1) + [text]
    return texts
