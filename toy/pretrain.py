"""Pre-training of the tiny reference policy on the writing of a careless teacher.

The teacher answers a puzzle correctly in a minority of cases. In the others each row's missing digits are written in
increasing order: rows come out right, columns and boxes mostly do not. So the policy has learned to solve puzzles and
usually does not, neither when sampled at temperature 1 nor greedily; what the reward must change is which of two habits
prevails. (Random corruption of cells would not do: it averages out, and greedy answers stay right.)
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import SamplerConfig, TaskConfig, option
from dmpo_ref.likelihood import Vocabulary, build_vocabulary, sequence_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.tasks.encoding import encode
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku
from toy.worlds.sudoku import build_tokenizer, split_grids


@dataclass
class PretrainConfig:
    output: str = option("runs/pretrain_toy", "folder of the checkpoint")
    seed: int = option(0, "key of every random stream")
    steps: int = option(8000, "gradient steps")
    batch_size: int = option(64, "answers in a step")
    learning_rate: float = option(3e-3, "AdamW learning rate at its highest; linear warm-up over 5 %, then cosine to 0")
    correct_share: float = option(0.25, "share of puzzles that the teacher answers correctly")
    prompted_share: float = option(0.33, "share of steps in the layout of task.generate=all: the puzzle, then all 16 cells")
    width: int = option(64, "d_model; the feed-forward layers are twice as wide")
    layers: int = option(2, "transformer blocks")
    threads: int = option(1, "CPU threads")


def careless_answer(puzzle: str) -> str:
    """Each row's missing digits in increasing order: "1003" becomes "1243", whatever columns and boxes say."""
    answer = []
    for row in (puzzle[i : i + 4] for i in range(0, 16, 4)):
        missing = iter(sorted(set("1234") - set(row)))
        answer += [next(missing) if digit == "0" else digit for digit in row]
    return "".join(answer)


def teach(rng: random.Random, grids: list[str], correct_share: float) -> tuple[Puzzle, str]:
    """A puzzle with 1 to 16 blanks from one of the grids, and the teacher's answer."""
    solution = rng.choice(grids)
    hidden = set(rng.sample(range(16), rng.randint(1, 16)))
    puzzle = "".join("0" if i in hidden else digit for i, digit in enumerate(solution))
    answer = solution if rng.random() < correct_share else careless_answer(puzzle)
    return Puzzle(puzzle, solution), answer


def pretrain(config: PretrainConfig) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """Maximise the ELBO of the teacher's answers; the grids of the test split are never shown. Saves the checkpoint.

    The loss is the mean over answers of L_θ(o|q) / L with masks of the `exact` scheme.

    Raises:
        ValueError: an option out of its range.
    """
    check_options(config)
    torch.set_num_threads(config.threads)
    tokenizer, (grids, _) = build_tokenizer(), split_grids()
    model, vocabulary = build_model(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.05)
    rng = random.Random(config.seed)
    tasks = {layout: Sudoku(TaskConfig(generate=layout)) for layout in ("blanks", "all")}
    for step in tqdm(range(config.steps), desc="pretrain", disable=None):
        task = tasks["all" if rng.random() < config.prompted_share else "blanks"]
        puzzles, answers = zip(*(teach(rng, grids, config.correct_share) for _ in range(config.batch_size)), strict=True)
        batch = as_rollout(encode(tokenizer, task, list(puzzles)), tokenizer, answers)
        masks = draw_masks("exact", batch.response_mask, 1, [stream(config.seed, "pretrain", step)])
        log_prob = sequence_log_prob(token_log_prob(model, batch, masks, vocabulary), masks)
        loss = -(log_prob / batch.response_mask.sum(dim=-1)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    output = Path(config.output)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return model, tokenizer


def check_options(config: PretrainConfig) -> None:
    """Refuse values that cannot be, naming the option."""
    for name in ("steps", "batch_size", "layers", "threads"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}: must be at least 1")
    if Path(config.output).exists():
        raise ValueError(f"output={config.output} exists; give a folder that does not")
    for name in ("correct_share", "prompted_share"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}: a share must lie between 0 and 1")
    if not (config.learning_rate > 0 and math.isfinite(config.learning_rate)):
        raise ValueError(f"learning_rate={config.learning_rate}: must be finite and above 0")
    if config.width < 4 or config.width % 4:
        raise ValueError(f"width={config.width}: must be a multiple of the 4 attention heads")


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[LLaDAModelLM, Vocabulary]:
    """The tiny policy with fresh weights: LLaDA's architecture with learned positions, which learn the grid where RoPE does not."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = LLaDAModelLM(
            LLaDAConfig(
                d_model=config.width,
                n_layers=config.layers,
                n_heads=4,
                mlp_hidden_size=2 * config.width,
                vocab_size=len(tokenizer),
                max_sequence_length=32,
                rope=False,
                mask_token_id=tokenizer.mask_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return model.train(), build_vocabulary(tokenizer, len(tokenizer), alphabet=Sudoku.alphabet)


def as_rollout(prompts: Prompts, tokenizer: PreTrainedTokenizerBase, answers: tuple[str, ...]) -> Rollout:
    """Given answers in the form of rollouts, G = 1 and N = batch size, so that the likelihood code serves both."""
    tokens = prompts.tokens.clone()
    answer = prompts.attention_mask & ~prompts.prompt_mask
    tokens[answer] = torch.tensor(tokenizer(list(answers), add_special_tokens=False).input_ids).flatten()
    fields = (tokens, prompts.attention_mask, prompts.prompt_mask, prompts.response_mask)
    tokens, *masks = (rearrange(x, "n s -> 1 n s") for x in fields)
    return Rollout(
        tokens, *masks, step=torch.full_like(tokens, -1), path_log_prob=None, num_steps=0, sampler=SamplerConfig(), forwards=0, fed_tokens=0
    )
