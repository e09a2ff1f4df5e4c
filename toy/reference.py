"""The tiny reference policy, and its pre-training on answers that are mostly wrong.

A quarter of the answers are right. In the others each row's missing digits are in increasing order, whatever columns and boxes say:
rows come out right, columns and boxes mostly do not. So the policy has learned to solve puzzles but usually does not, neither when
sampled at temperature 1 nor greedily, and the reward must change which of the two habits prevails. (Random wrong cells would not do:
they average out, and greedy answers stay right.)
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import TaskConfig
from dmpo_ref.likelihood import Vocabulary, build_vocabulary, sequence_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.rollout import given_responses
from dmpo_ref.runtime.files import claim, written_whole
from dmpo_ref.tasks.encoding import encode
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku
from toy.options import PretrainConfig, check_options
from toy.worlds.sudoku import build_tokenizer, careless_answer, split_grids


def teach(rng: random.Random, grids: list[str], correct_share: float) -> tuple[Puzzle, str]:
    """A puzzle with 1 to 16 blanks from one of the grids, and an answer: the right one with probability `correct_share`."""
    solution = rng.choice(grids)
    hidden = set(rng.sample(range(16), rng.randint(1, 16)))
    puzzle = "".join("0" if i in hidden else digit for i, digit in enumerate(solution))
    answer = solution if rng.random() < correct_share else careless_answer(puzzle)
    return Puzzle(puzzle, solution), answer


def pretrain(config: PretrainConfig) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """Maximise the ELBO of such answers; the grids of the test split are never shown. Saves the checkpoint.

    The loss is the mean over answers of L_θ(o|q) / L with masks of the `exact` scheme.

    Raises:
        OSError, ValueError: an option that is out of range, a folder that cannot be made or that another process writes to, a full disk.
    """
    check_options(config)
    with claim(Path(config.output)):
        return fit(config)


def fit(config: PretrainConfig) -> tuple[LLaDAModelLM, PreTrainedTokenizerBase]:
    """`pretrain` into the folder, which is there and is this process's alone."""
    torch.set_num_threads(config.threads)
    tokenizer, (grids, _) = build_tokenizer(), split_grids()
    model, vocabulary = build_model(config, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.05)
    rng = random.Random(config.seed)
    tasks = {layout: Sudoku(TaskConfig(generate=layout)) for layout in ("blanks", "all")}
    for step in tqdm(range(config.steps), desc="pretrain", disable=None):
        task = tasks["all" if rng.random() < config.prompted_share else "blanks"]
        examples = [teach(rng, grids, config.correct_share) for _ in range(config.batch_size)]
        prompts = encode(tokenizer, task, [puzzle for puzzle, _ in examples])
        batch = given_responses(prompts, tokenizer([answer for _, answer in examples], add_special_tokens=False).input_ids)
        masks = draw_masks("exact", batch.response_mask, 1, [stream(config.seed, "pretrain", step)])
        log_prob = sequence_log_prob(token_log_prob(model, batch, masks, vocabulary), masks)
        loss = -(log_prob / batch.response_mask.sum(dim=-1)).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()
    with written_whole(Path(config.output), "repeat the command") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model, tokenizer


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
