"""The text model: LLaDA's layout with 3 million weights, pre-trained from scratch on lessons of three kinds (`toy.worlds.lessons`).

First most answers are careful, so that the model learns to solve; then most are careless, so that it usually does not. It keeps
what it has learned first: the right answers retain much of the probability, and the reward must bring them back.
"""

from __future__ import annotations

import random
import time
from dataclasses import asdict
from operator import index
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from dmpo_ref.config import TaskConfig
from dmpo_ref.likelihood import Vocabulary, build_vocabulary, sequence_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.files import first_line
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.rollout import Rollout, given_responses
from dmpo_ref.runtime.checkpoint import DAMAGED
from dmpo_ref.runtime.files import EntryFile, claim, discard, read_lines, written_whole
from dmpo_ref.tasks import TASKS
from dmpo_ref.tasks.answers.marked import END_TOKENS
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.encoding import encode
from toy.options import TextPretrainConfig, check_options
from toy.small_llada import ADDED_TOKEN, BOS, CHAT_TEMPLATE, EOS, MASK, SPECIAL_TOKENS, official_fields, write_checkpoint
from toy.worlds.lessons import MAKERS, Lesson

SHARES = {"countdown": 0.55, "sudoku": 0.35, "gsm8k": 0.1}  # of the steps
LENGTHS = {32: 0.8, 64: 0.15, 128: 0.05}  # of the responses, with their shares of the steps
FIRST_CAREFUL_SHARE = 0.9  # before the part with `careful_share`
FREE = ("output", "device", "threads", "save_every")  # options that a resumed run may change
STATE = "training.pt"  # in the output while it is not finished
LOG = "log.jsonl"
LESSONS_FOR_TOKENIZER = 3000
VOCABULARY_SIZE = 768
HEAD_WIDTH = 32
END_OF_TURN = END_TOKENS[0]
LONGEST_TOKEN = 24  # characters; without a bound each fixed sentence of a prompt would become one token


def build_tasks() -> dict[str, Task]:
    """The three tasks, asked as the presets `text_*` ask them."""
    return {name: TASKS[name](TaskConfig(generate="chat", reward="recipe", prefill=True)) for name in MAKERS}


def draw_lessons(rng: random.Random, task: str, split: str, count: int, careful_share: float) -> list[Lesson]:
    """Lessons of a task, each careful with a probability."""
    return [MAKERS[task](rng, split, rng.random() < careful_share) for _ in range(count)]


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
    lessons = [draw_lessons(rng, rng.choice(list(MAKERS)), "pretrain", 1, 0.5)[0] for _ in range(LESSONS_FOR_TOKENIZER)]
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
    sizes = {
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


def pretrain_text(config: TextPretrainConfig, *, resume: bool = False) -> Path:
    """Pre-train, or continue an interrupted run; the checkpoint is written last.

    Raises:
        OSError, ValueError: an option that is out of range, a folder that is in use, or of a run with other options.
    """
    check_options(config, resume=resume)
    output = Path(config.output)
    with claim(output):
        torch.set_num_threads(config.threads)
        tasks = build_tasks()
        words = train_tokenizer(tasks, config.seed)
        model, fields = build_text_model(config, words)
        torch.nn.Module.to(model, choose_device(config.device))
        run = TextRun(config, model, tasks, wrap(words))
        if resume:
            run.load(output / STATE)
        run.fit(output)
        discard(output / "checkpoint")  # of a process that died here
        with written_whole(output / "checkpoint", "go on with --resume") as folder:
            write_checkpoint(folder, model.eval().bfloat16(), fields, words)
        for file in (output / "checkpoint").iterdir():
            file.replace(output / file.name)
        (output / "checkpoint").rmdir()
        (output / STATE).unlink(missing_ok=True)
    return output


def choose_device(name: str) -> torch.device:
    """`auto` takes CUDA if it is available.

    Raises:
        ValueError: CUDA is requested and not available.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch sees no CUDA device here; use device=cpu, or install a CUDA build of torch")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def wrap(words: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as Transformers would load it."""
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "mask_token": MASK}
    return PreTrainedTokenizerFast(tokenizer_object=words, chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False, **special)


class TextRun:
    """A pre-training that can be interrupted: all random numbers are keyed by the step, so its state is weights, optimiser and step."""

    def __init__(self, config: TextPretrainConfig, model: LLaDAModelLM, tasks: dict[str, Task], tokenizer: PreTrainedTokenizerFast):
        self.config, self.model, self.tasks, self.tokenizer = config, model, tasks, tokenizer
        self.vocabulary = build_vocabulary(tokenizer, model.config.embedding_size)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.02, cycle_momentum=False
        )
        self.step = 0

    def fit(self, output: Path) -> None:
        """The steps that are left. Every `save_every` of them the state is saved and the mean losses are logged.

        Raises:
            ValueError: the log of the steps done has other lines than this class writes, or does not end with the last of them.
        """
        entries = [line or {} for line in read_lines(output / LOG)]
        steps = [entry.get("step") for entry in entries]
        if not all(type(step) is int for step in steps) or self.step not in [*steps, 0]:
            raise ValueError(f"{output / LOG} is not the log of the {self.step} steps done; put that back, or start again elsewhere")
        log = EntryFile(output / LOG, [entry for entry in entries if entry["step"] <= self.step])
        losses: dict[str, list[float]] = {}
        start = time.perf_counter()
        for step in tqdm(range(self.step, self.config.steps), initial=self.step, total=self.config.steps, desc="pretrain", disable=None):
            task, loss = self.take_step(step)
            losses.setdefault(task, []).append(loss)
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                means = {f"nelbo/{task}": round(sum(values) / len(values), 4) for task, values in sorted(losses.items())}
                log.write([{"step": self.step, **means, "seconds": round(time.perf_counter() - start, 1)}])
                losses, start = {}, time.perf_counter()
                self.save(output / STATE)

    def take_step(self, step: int) -> tuple[str, float]:
        """One gradient step on lessons of one task; its name, and the loss in nats a response."""
        config, rng = self.config, random.Random(f"{self.config.seed} {step}")
        task = rng.choices(list(SHARES), list(SHARES.values()))[0]
        length = rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]
        is_first_part = step < (1 - config.careless_part) * config.steps
        careful_share = FIRST_CAREFUL_SHARE if is_first_part else config.careful_share
        lessons = draw_lessons(rng, task, "pretrain", config.batch_size, careful_share)
        rollout = teach(self.tokenizer, self.tasks[task], lessons, length).to(self.model.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.model.device.type == "cuda"):
            loss = lesson_loss(self.model, self.vocabulary, rollout, stream(config.seed, "pretrain text", step))
        (loss / length).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.step = step + 1
        return task, loss.item()

    def save(self, path: Path) -> None:
        """Write the state; the old one is kept until the new one is complete.

        Raises:
            OSError: it cannot be written, as on a full disk; the old one stays.
        """
        partial = path.with_name(f".{path.name}.partial")
        parts = {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")}
        try:
            torch.save({"options": asdict(self.config), "step": self.step, **parts}, partial)
            partial.replace(path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk by the second
            raise OSError(f"{path} cannot be written: {first_line(error)}; make space, then go on with --resume") from error
        finally:
            partial.unlink(missing_ok=True)

    def load(self, path: Path) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: there is none, one of other options, or one that is damaged.
        """
        if not path.is_file():
            raise ValueError(f"{path}: there is nothing to resume; start without --resume")
        changed: list[str] = []
        try:
            with ZipFile(path) as archive:
                if broken := archive.testzip():  # torch writes checksums, and does not look at them
                    raise ValueError(f"{broken} in it is not as it was written")
            saved = torch.load(path, weights_only=True, map_location=self.model.device)
            then = saved["options"]
            changed = [f"{key} was {then[key]}" for key, value in asdict(self.config).items() if then[key] != value and key not in FREE]
            if not changed:
                for name in ("model", "optimizer", "schedule"):
                    getattr(self, name).load_state_dict(saved[name])
                self.step = index(saved["step"])
                if not self.optimizer.state or self.step != self.schedule.last_epoch:
                    raise ValueError(f"its parts are not of the same step {self.step}")
        except (*DAMAGED, BadZipFile) as error:
            raise ValueError(f"{path} is damaged: {first_line(error)}; put a copy of it back, or start again elsewhere") from error
        if changed:
            raise ValueError(f"{changed[0]} in {path.parent}; give the same, or another output")
