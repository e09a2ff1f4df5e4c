"""Pre-training of the text model (`toy.text_reference`), in steps that can be interrupted and resumed.

First most answers are careful, so that the model learns to solve; then most are careless, so that it usually does not. It keeps
what it has learned first: the right answers retain much of the probability, and the reward must bring them back.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import asdict, replace
from operator import index
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.models.files import first_line
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.runtime.checkpoint import DAMAGED
from dmpo_ref.runtime.files import EntryFile, claim, discard, read_lines, written_whole
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.reasoning_gym import need_reasoning_gym
from toy.options import TextPretrainConfig, check_options
from toy.small_llada import write_checkpoint
from toy.text_reference import (
    SHARES,
    build_tasks,
    build_text_model,
    draw_lessons,
    lesson_loss,
    load_text_model,
    teach,
    train_tokenizer,
    wrap,
)
from toy.worlds.spelling import GENERATOR

LENGTHS = {32: 0.8, 64: 0.15, 128: 0.05}  # of the responses, with their shares of the steps
FIRST_CAREFUL_SHARE = 0.9  # before the part with `careful_share`
FREE = ("output", "device", "threads", "save_every")  # options that a resumed run may change
STATE = "training.pt"  # in the output while it is not finished
LOG = "log.jsonl"


def pretrain_text(config: TextPretrainConfig, *, resume: bool = False) -> Path:
    """Pre-train, or continue an interrupted run; the checkpoint is written last.

    Raises:
        OSError, ValueError: an option that is out of range, a folder that is in use, or of a run with other options.
    """
    check_options(config, resume=resume)
    if config.lessons == GENERATOR:
        need_reasoning_gym()
    config = replace(config, start=config.start and os.path.realpath(config.start))  # the same folder when it is resumed from another one
    output = Path(config.output)
    with claim(output):
        torch.set_num_threads(config.threads)
        tasks = build_tasks()
        if config.start is None:
            words = train_tokenizer(tasks, config.seed)
            model, fields = build_text_model(config, words)
        else:
            model, fields, words = load_text_model(config.start)
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


def build_optimizers(config: TextPretrainConfig, model: LLaDAModelLM) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the matrices of the blocks and AdamW for the rest: embedding, head and norms.

    Muon's steps are scaled to the root mean square of AdamW's (arXiv 2502.16982), so that both take the same learning rate.
    """
    named = dict(model.named_parameters())
    matrices = [name for name, weight in named.items() if ".blocks." in name and weight.ndim == 2] if config.optimizer == "muon" else []
    rest = [weight for name, weight in named.items() if name not in matrices]
    adamw = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    if config.optimizer == "adamw":
        return [adamw]
    muon = torch.optim.Muon([named[name] for name in matrices], lr=config.learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw]


class TextRun:
    """A pre-training that can be interrupted: all random numbers are keyed by the step, so its state is weights, optimiser and step."""

    def __init__(self, config: TextPretrainConfig, model: LLaDAModelLM, tasks: dict[str, Task], tokenizer: PreTrainedTokenizerFast):
        self.config, self.model, self.tasks, self.tokenizer = config, model, tasks, tokenizer
        self.vocabulary = build_vocabulary(tokenizer, model.config.embedding_size)
        self.optimizers = build_optimizers(config, model)
        self.schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.02, cycle_momentum=False
            )
            for optimizer in self.optimizers
        ]
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
            kind, loss = self.take_step(step)
            losses.setdefault(kind, []).append(loss)
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                means = {f"nelbo/{kind}": round(sum(values) / len(values), 4) for kind, values in sorted(losses.items())}
                log.write([{"step": self.step, **means, "seconds": round(time.perf_counter() - start, 1)}])
                losses, start = {}, time.perf_counter()
                self.save(output / STATE)

    def take_step(self, step: int) -> tuple[str, float]:
        """One gradient step on lessons of one kind; its name, and the loss in nats a response."""
        config, rng = self.config, random.Random(f"{self.config.seed} {step}")
        shares = SHARES[config.lessons]
        kind = rng.choices(list(shares), list(shares.values()))[0]
        length = rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]
        is_first_part = step < (1 - config.careless_part) * config.steps
        careful_share = FIRST_CAREFUL_SHARE if is_first_part else config.careful_share
        lessons = draw_lessons(rng, kind, "pretrain", config.batch_size, careful_share)
        rollout = teach(self.tokenizer, self.tasks[lessons[0].task], lessons, length).to(self.model.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=self.model.device.type == "cuda"):
            loss = lesson_loss(self.model, self.vocabulary, rollout, stream(config.seed, "pretrain text", step))
        (loss / length).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
        self.model.zero_grad()
        self.step = step + 1
        return kind, loss.item()

    def parts(self) -> dict[str, list[Any]]:
        """What a state holds."""
        return {"model": [self.model], "optimizers": self.optimizers, "schedules": self.schedules}

    def save(self, path: Path) -> None:
        """Write the state; the old one is kept until the new one is complete.

        Raises:
            OSError: it cannot be written, as on a full disk; the old one stays.
        """
        partial = path.with_name(f".{path.name}.partial")
        parts = {name: [part.state_dict() for part in many] for name, many in self.parts().items()}
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
            then = {"start": "not yet an option (before version 0.10.0)"} | saved["options"]
            now = {key: value for key, value in asdict(self.config).items() if key not in FREE}
            changed = [f"{key} was {then.get(key)}" for key, value in now.items() if then.get(key) != value]
            if not changed:
                for name, many in self.parts().items():
                    for part, state in zip(many, saved[name], strict=True):
                        part.load_state_dict(state)
                self.step = index(saved["step"])
                done = {schedule.last_epoch for schedule in self.schedules}
                if done != {self.step} or not all(optimizer.state for optimizer in self.optimizers):
                    raise ValueError(f"its parts are not of the same step {self.step}")
        except (*DAMAGED, BadZipFile) as error:
            raise ValueError(f"{path} is damaged: {first_line(error)}; put a copy of it back, or start again elsewhere") from error
        if changed:
            raise ValueError(f"{changed[0]} in {path.parent}; give the same, or another output")
