"""The text model: LLaDA's layout with 3 million weights, its tokenizer, and lessons (`toy.worlds.lessons`) as the sequences it learns.

`toy.text_pretrain` trains it.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from dmpo_ref.config import ModelConfig, TaskConfig
from dmpo_ref.likelihood import Vocabulary, sequence_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks
from dmpo_ref.models.files import first_line
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from dmpo_ref.rollout import Rollout, given_responses
from dmpo_ref.tasks import TASKS
from dmpo_ref.tasks.answers.marked import END_TOKENS
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.encoding import encode
from toy.options import TextPretrainConfig
from toy.small_llada import ADDED_TOKEN, BOS, CHAT_TEMPLATE, EOS, MASK, SPECIAL_TOKENS, official_fields
from toy.worlds.lessons import FILE_KINDS, MAKERS, Lesson
from toy.worlds.spelling import GENERATOR, spelling_lesson

KINDS = MAKERS | {GENERATOR: spelling_lesson}  # of lessons
SHARES = {  # of the steps, by `lessons`
    "mixture": {"countdown": 0.55, "sudoku": 0.35, "gsm8k": 0.1},
    "plus_minus": {"plus_minus": 1.0},
    "plus_minus_twice": {"plus_minus_twice": 1.0},
    GENERATOR: {GENERATOR: 1.0},
}
LESSONS_FOR_TOKENIZER = 3000
VOCABULARY_SIZE = 768
HEAD_WIDTH = 32
END_OF_TURN = END_TOKENS[0]
LONGEST_TOKEN = 24  # characters; without a bound each fixed sentence of a prompt would become one token


def build_tasks() -> dict[str, Task]:
    """The tasks of all lessons, asked as the presets `text_*` ask them."""
    return {name: TASKS[name](TaskConfig(generate="chat", reward="recipe", prefill=True)) for name in (*FILE_KINDS, "reasoning_gym")}


def draw_lessons(rng: random.Random, kind: str, split: str, count: int, careful_share: float) -> list[Lesson]:
    """Lessons of a kind, each careful with a probability."""
    return [KINDS[kind](rng, split, rng.random() < careful_share) for _ in range(count)]


def question(task: Task, lesson: Lesson) -> str:
    """The message of the user."""
    messages = task.prompt(lesson.item)
    assert not isinstance(messages, str)
    return messages[-1]["content"]


def train_tokenizer(tasks: dict[str, Task], seed: int = 0) -> Tokenizer:
    """Byte-level BPE learned from prompts and answers, with LLaDA's special tokens; any text can be encoded and decoded.

    Digits are cut into pairs from the left, and every pair is one token: so is each number of a problem, and each half of a Sudoku row.
    Everything else is not split beforehand, so a token may hold several words, as in SuperBPE (arXiv 2503.13423): the prompts, which are
    mostly fixed sentences, take a third of the tokens that words would.
    """
    words = Tokenizer(models.BPE())
    pairs = pre_tokenizers.Split(Regex(r"\d{1,2}"), "isolated")
    words.pre_tokenizer = pre_tokenizers.Sequence([pairs, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words.decoder = decoders.ByteLevel()
    rng = random.Random(seed)
    kinds = list(SHARES["mixture"])
    lessons = [draw_lessons(rng, rng.choice(kinds), "pretrain", 1, 0.5)[0] for _ in range(LESSONS_FOR_TOKENIZER)]
    texts = [f"{question(tasks[lesson.task], lesson)}\n\n{lesson.answer}" for lesson in lessons]
    texts += ["".join(f"{number:02d}" for number in range(100)), "user\n\n", "assistant\n\n"] * (LESSONS_FOR_TOKENIZER // 10)
    words.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            max_token_length=LONGEST_TOKEN,
            show_progress=False,
        ),
    )
    words.add_special_tokens([AddedToken(token, special=True, **ADDED_TOKEN) for token in SPECIAL_TOKENS])
    return words


def build_text_model(config: TextPretrainConfig, words: Tokenizer) -> tuple[LLaDAModelLM, dict[str, Any]]:
    """The model with fresh weights, and the fields of its config.json."""
    sizes: dict[str, Any] = {
        "d_model": config.width,
        "n_layers": config.layers,
        "n_heads": config.width // HEAD_WIDTH,
        "n_kv_heads": config.width // (2 * HEAD_WIDTH),  # grouped-query attention
        "mlp_hidden_size": 8 * config.width // 3 // 64 * 64,
        "max_sequence_length": 512,
        "rope_theta": 200.0,  # LLaDA's 500,000 turns most pairs too slowly to tell positions of so short texts apart
        "init_std": round(0.06 * (192 / config.width) ** 0.5, 4),  # about 1/sqrt(width), as LLaDA's 0.02 is
    }
    fields = official_fields(words, words.get_vocab_size(), sizes)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = LLaDAModelLM(LLaDAConfig(**fields | {"torch_dtype": "float32"}))
    return model.train(), fields


def load_text_model(path: str) -> tuple[LLaDAModelLM, dict[str, Any], Tokenizer]:
    """A text model to go on from, in float32; the fields of its config.json; its tokenizer.

    Raises:
        ValueError: there is none, or it is damaged, as in `load_policy`; or it is another kind of model.
    """
    try:
        model, _ = load_policy(ModelConfig(path=path), torch.device("cpu"))
        words = Tokenizer.from_file(f"{path}/tokenizer.json")  # as it was written; that of Transformers has additions
        fields = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except Exception as error:  # tokenizers raises no more special one
        raise ValueError(f"start={path} cannot be read: {first_line(error).removeprefix(f'model.path={path}: ')}") from error
    pairs = [words.token_to_id(f"{number:02d}") for number in range(100)]
    if None in pairs:  # digits are tokens of their own
        raise ValueError(f"start={path} is no text model; give a folder that dmpo pretrain-toy text has written, or null")
    return model.train(), fields, words


def teach(tokenizer: PreTrainedTokenizerFast, task: Task, lessons: list[Lesson], response_length: int) -> Rollout:
    """Lessons as finished sequences, G = 1 and N of them: after the answer the end of the turn, then end tokens up to the length.

    So the model also learns where to stop, and an answer can be generated at any length (LLaDA does the same, arXiv 2502.09992).

    Raises:
        ValueError: an answer is longer than the length.
    """
    prompts = encode(tokenizer, task, [lesson.item for lesson in lessons], response_length)
    ids = tokenizer([lesson.answer + END_OF_TURN for lesson in lessons], add_special_tokens=False).input_ids
    if (longest := max(map(len, ids))) > response_length:
        raise ValueError(f"an answer of {longest} tokens does not fit response_length={response_length}")
    answers = [answer + [tokenizer.eos_token_id] * (response_length - len(answer)) for answer in ids]
    return given_responses(prompts, answers)


def lesson_loss(model: LLaDAModelLM, vocabulary: Vocabulary, rollout: Rollout, generator: torch.Generator) -> Tensor:
    """Mean over lessons of L_θ(o|q), one mask each; nats."""
    masks = draw_masks("exact", rollout.response_mask, 1, [generator])
    return -sequence_log_prob(token_log_prob(model, rollout, masks, vocabulary), masks).mean()


def wrap(words: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as Transformers would load it."""
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "mask_token": MASK}
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False, **special)
