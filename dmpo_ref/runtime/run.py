"""The plumbing of a training run: loading, devices, the data stream, metrics, checkpoints. No algorithm here."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config, OptimizerConfig, flat
from dmpo_ref.evaluation.answering import ITEMS_PER_BATCH, answer_items
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.models.adapters import add_adapters, trained_weights
from dmpo_ref.models.loading import latest_checkpoint, load_policy
from dmpo_ref.models.reference import AdapterReference, FrozenReference
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.base import Objective
from dmpo_ref.presets.loading import to_yaml
from dmpo_ref.rollout import Experience, Rollout
from dmpo_ref.runtime.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dmpo_ref.runtime.files import EntryFile, read_entries, write_atomically
from dmpo_ref.runtime.processes import Processes, build_accelerator
from dmpo_ref.runtime.sharding import gather
from dmpo_ref.samplers.checks import check_responses, has_path_log_prob
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.encoding import encode, end_ids
from dmpo_ref.weights import check_finite

ITEMS_PER_CHECK = 1000  # encoded at a time before the first round


class Run:
    """What a training run holds between rounds.

    Attributes:
        policy: p_θ; `wrapped` is the same model as Accelerate prepared it, for forward passes with a gradient.
        reference: p_ref (see `policy.py`); None if neither the log-ratio nor the objective needs it.
        subtracts_log_old, keeps_masks: whether log p_old, or it or log p_ref, is stored on the masks of each step and compared there.
        slope_is_known: the loss is linear in the token log-probabilities, so no pass of its own is needed to find its slopes.
        buffer: experience of the newest rounds, oldest first.
        round, step: rounds and gradient steps done.
        earlier_metrics, earlier_answers: entries of the rounds before a resumed run goes on.
        answers: what this round adds to rollouts.jsonl.
    """

    def __init__(
        self,
        config: Config,
        *,
        task: Any = None,
        reward: Callable[[Any, str], float] | None = None,
        objective: Objective | None = None,
        resume: bool = False,
    ):
        if (folder := latest_checkpoint(Path(config.model.path))) is not None:
            # This very checkpoint of that run: it may go on, and p_ref must not go with it when this one is resumed.
            config = replace(config, model=replace(config.model, path=str(folder)))
        self.config, self.output = config, Path(config.output)
        found = self._find_checkpoint(resume)
        if config.model.dtype == "bfloat16" and config.model.lora_rank == 0:
            # Adam's steps at usual learning rates are smaller than half the spacing of bfloat16 numbers: most would be lost.
            raise ValueError(
                "model.dtype=bfloat16: bfloat16 weights lose small updates; use float32, or train adapters with model.lora_rank"
            )
        self.task, self.custom_reward = task or build_task(config.task), reward
        self.train_items, self.test_items = self.task.load(config.task.train), self.task.load(config.task.test)
        self.accelerator = build_accelerator(config)
        self.processes = Processes(self.accelerator)
        self.device, self.is_main = self.processes.device, self.processes.is_main
        for key in ("prompts_per_round", "prompts_per_step"):
            if (value := getattr(config.train, key)) is not None and value % self.processes.count:
                raise ValueError(f"train.{key}={value}: cannot be shared evenly by {self.processes.count} processes; choose a multiple")

        policy, self.tokenizer = self._load_policy(found)
        self.vocabulary = build_vocabulary(
            self.tokenizer, policy.config.embedding_size, alphabet=self.task.alphabet, full=config.model.vocabulary == "full"
        )
        self.objective = objective or build_objective(config.loss, config.weight.alpha)
        if self.objective.follows_path and not has_path_log_prob(config.sampler):
            needed = "sampler.name=random_order above temperature 0, without guidance or stop_early"
            raise ValueError(f"sampler.name={config.sampler.name}: the objective follows the path of a rollout, which needs {needed}")
        self.subtracts_log_old = self.objective.uses_log_old or config.weight.baseline == "model"
        self.keeps_masks = self.subtracts_log_old or self.objective.uses_log_ref
        self.slope_is_known = self.objective.is_linear and not self.keeps_masks
        self.processes.divide(policy)  # before the next model is loaded
        self.reference = self._load_reference(policy)
        if found is not None and found.reference:
            self.reference.load(found.reference)
        optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.optimizer.learning_rate,
            betas=(config.optimizer.beta1, config.optimizer.beta2),
            weight_decay=config.optimizer.weight_decay,
        )
        num_steps = config.train.rounds * config.train.steps_per_round
        self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(config.optimizer, step, num_steps))
        self.wrapped = self.processes.prepare(policy, optimizer, max_grad_norm=config.optimizer.max_grad_norm)
        self.policy = policy
        self.round, self.step, self.buffer = 0, 0, []
        self.counters = {"rollouts": 0, "forward_passes": 0, "seconds": 0.0}
        if found is not None:
            self._restore(found)
        self._check_items()
        self._count_forward_passes()
        self.metrics_file = self.rollouts_file = None
        self.earlier_metrics, self.earlier_answers = (
            read_entries(self.output / name, before_round=self.round) for name in ("metrics.jsonl", "rollouts.jsonl")
        )
        self.clock = time.perf_counter()

    def _load_policy(self, found: Checkpoint | None) -> tuple[Module, PreTrainedTokenizerBase]:
        """The policy to train, with its tokenizer: of a checkpoint, or the one to start from, with new adapters if it gets any."""
        config = self.config.model
        start = config if found is None else replace(config, path=str(found.folder))
        policy, tokenizer = load_policy(start, self.device, trainable=True)
        if config.lora_rank and found is None:
            policy = add_adapters(policy, config, seed=self.config.seed)
        if config.gradient_checkpointing:
            # The name that Transformers has given it since, or the one that it had in 5.0.
            enable = getattr(policy, "activation_checkpointing_enable", policy.gradient_checkpointing_enable)
            enable({"use_reentrant": False})
        return policy, tokenizer

    def _restore(self, found: Checkpoint) -> None:
        """Go on where a checkpoint left off; policy and reference have been loaded from it."""
        self.processes.check_resume(found.folder, found.buffers)
        self.round, self.step, self.counters = found.state["round"], found.state["step"], found.state["counters"]
        if any(found.buffers):
            self.buffer = [experience.to(self.device) for experience in found.buffers[self.processes.index]]
        self.processes.load_optimizer(found.state["optimizer"], found.folder)
        self.schedule.load_state_dict(found.state["schedule"])

    def _check_items(self) -> None:
        """Leave out training items that are too long, and refuse a sampler that does not fit a response, before the first round."""
        config, room = self.config, self.policy.config.max_sequence_length
        kinds = {
            "training": (self.train_items, config.sampler, "left out"),
            "test": (self.test_items[: config.evaluation.num_items], config.evaluation.sampler, "counted as wrong"),
        }
        for kind, (items, sampler, fate) in kinds.items():
            fits = []
            for start in range(0, len(items), ITEMS_PER_CHECK):
                prompts = encode(self.tokenizer, self.task, items[start : start + ITEMS_PER_CHECK], sampler.response_length)
                fit = prompts.attention_mask.sum(dim=-1) <= room
                fits += fit.tolist()
                if fit.any():
                    check_responses(sampler, prompts.response_mask[fit], end_ids(self.tokenizer))
            long = [i for i, fit in enumerate(fits) if not fit]
            which = f"{len(long)} of {len(items)} {kind} items are longer, with their response, than max_sequence_length={room} tokens"
            if len(long) == len(items):
                raise ValueError(f"{which}; none is left: lower the response_length of the sampler, or choose another model")
            if long and self.is_main:
                print(f"dmpo: {which}; {fate}: {', '.join(map(str, long[:5]))}{', …' * (len(long) > 5)}", file=sys.stderr)
            if long and kind == "training":
                self.train_items = [item for item, fit in zip(items, fits, strict=True) if fit]

    def _count_forward_passes(self) -> None:
        """Count what this process needs of the policy and the reference: sampling, scoring, gradient steps, evaluation."""
        models = [self.policy]
        if isinstance(self.reference, FrozenReference):
            models.append(self.reference.network)

        def count(module: Module, _: Any) -> None:
            # A copy of a model carries its hooks along; its passes are not this run's.
            is_ours = any(module is model for model in models)
            self.counters["forward_passes"] += is_ours and not self.processes.for_company

        for model in models:
            model.register_forward_pre_hook(count)

    def _open_output(self) -> None:
        """The files of the run, not before there is something to write: a run that fails at once leaves nothing behind."""
        write_atomically(self.output / "config.yaml", to_yaml(self.config))
        self.metrics_file = EntryFile(self.output / "metrics.jsonl", self.earlier_metrics)
        self.rollouts_file = EntryFile(self.output / "rollouts.jsonl", self.earlier_answers)
        if self.config.log_with != "none":
            shown = {key: str(value) if isinstance(value, list) else value for key, value in flat(self.config).items()}
            self.accelerator.init_trackers("dmpo_ref", config=shown)

    def _find_checkpoint(self, resume: bool) -> Checkpoint | None:
        found = load_checkpoint(self.output, self.config) if resume else None
        if resume and found is None:
            raise FileNotFoundError(f"output={self.output} holds no checkpoint to resume from; start without --resume")
        # Without a checkpoint there is nothing to lose: a run killed that early simply starts again.
        if not resume and latest_checkpoint(self.output) is not None:
            how = "continue it with --resume (from Python resume=True)"
            raise ValueError(f"output={self.output} already holds a run; {how}, or choose another output")
        if self.output.resolve() == Path(self.config.model.path).resolve():
            raise ValueError(f"output={self.output} is model.path too, where p_ref is read from; choose another output")
        folder = latest_checkpoint(Path(self.config.model.path)) or Path(self.config.model.path)
        if found is None and (folder / "adapter_config.json").is_file():
            path = self.config.model.path
            raise ValueError(f"model.path={path} holds adapters; start from a full checkpoint: dmpo export {path} merged --merge")
        return found

    def _load_reference(self, policy: Module) -> FrozenReference | AdapterReference | None:
        """p_ref as the run started; a checkpoint's, if it has moved since, is put into it afterwards."""
        if self.config.weight.log_ratio == "none" and not self.objective.uses_log_ref:
            return None
        if self.config.model.lora_rank:
            return AdapterReference(policy, self.processes.join)
        reference = FrozenReference(load_policy(self.config.model, self.device)[0])
        self.processes.divide(reference.network)
        return reference

    def next_prompts(self) -> tuple[list[Any], list[int]]:
        """This process's prompts of the round and their positions in the endless, shuffled stream of training items."""
        G, size = self.config.train.prompts_per_round, len(self.train_items)
        first = self.round * G + self.processes.index
        position = list(range(first, (self.round + 1) * G, self.processes.count))
        return [self.train_items[self._shuffled(p // size)[p % size]] for p in position], position

    def _shuffled(self, epoch: int) -> list[int]:
        return torch.randperm(len(self.train_items), generator=stream(self.config.seed, "data", epoch)).tolist()

    def score_rewards(self, items: list[Any], texts: list[list[str]]) -> tuple[Tensor, dict[str, float]]:
        """Rewards [G, N] of answers, and the mean of each component."""

        def components(item: Any, text: str) -> dict[str, float]:
            if self.custom_reward is None:
                return self.task.reward(item, text)
            value = self.custom_reward(item, text)
            try:
                if isinstance(value, str):  # float("0.7") would be taken
                    raise TypeError
                return {"custom": float(value)}
            except (TypeError, ValueError):
                raise ValueError(f"reward(item, text) returned {value!r} for the answer {text[:40]!r}; return a number") from None

        scores = [[components(item, text) for text in row] for item, row in zip(items, texts, strict=True)]
        reward = torch.tensor([[sum(parts.values()) for parts in row] for row in scores], dtype=torch.float64, device=self.device)
        check_finite(reward, "reward")
        flat_scores = [parts for row in scores for parts in row]
        return reward, {f"reward/{name}": sum(p[name] for p in flat_scores) / len(flat_scores) for name in flat_scores[0]}

    def keep_answers(self, rollout: Rollout, texts: list[list[str]], reward: Tensor, weight: Tensor) -> None:
        """What rollouts.jsonl gets of a round: the answers to its first `log_prompts` prompts, with their reward and weight."""
        self.answers = []
        for g, answers in enumerate(texts[: self.config.train.log_prompts]):
            given = rollout.tokens[g, 0].masked_fill(rollout.response_mask[g, 0], self.vocabulary.mask_token_id)
            asked = rollout.prompt_mask[g, 0]
            # Without a prompt the question stands in the answer itself, as clues between the masks.
            prompt = self.tokenizer.decode(given[asked if asked.any() else rollout.attention_mask[g, 0]])
            rated = zip(answers, reward[g].tolist(), weight[g].tolist(), strict=True)
            rated = [{"text": text, "reward": r, "weight": w} for text, r, w in rated]
            self.answers.append({"round": self.round, "prompt": prompt, "answers": rated})

    def minibatch(self, k: int) -> Experience:
        """What the k-th step of a round looks at: the buffered rounds in turn, the newest first, some or all prompts of one."""
        experience = self.buffer[-1 - k % len(self.buffer)]
        if self.config.train.prompts_per_step is None:
            return experience.select(range(len(experience.position)), k)
        size, total = self.config.train.prompts_per_step // self.processes.count, len(experience.position)
        order = torch.randperm(total, generator=stream(self.config.seed, "order", self.round)).tolist()
        start = k // len(self.buffer) * size
        return experience.select([order[(start + i) % total] for i in range(size)], k)

    def resync_reference(self) -> None:
        """p_ref ← p_θ every `resync_every` rounds; the target moves only if it is told to."""
        every = self.config.train.resync_every
        if every and self.round % every == 0:
            self.reference.sync(self.policy)

    def record(self, collected: dict, steps: list[dict], on_round: Callable | None) -> list[dict[str, Any]]:
        """Metrics of a finished round, one entry per gradient step, evaluation in the last one; written and returned."""
        config, is_last = self.config, self.round == self.config.train.rounds
        last = on_round(self.round, self.policy) if on_round else {}
        self.processes.join()
        if is_last or (config.evaluation.every and self.round % config.evaluation.every == 0):
            last = last | {"evaluation/accuracy": self.test_accuracy()}
        self.counters["seconds"] += time.perf_counter() - self.clock
        self.clock = time.perf_counter()
        collected, *steps = (self.processes.mean(values) for values in (collected, *steps))
        entries = [{"round": self.round - 1, **step, **collected, **self.counters} for step in steps]
        entries[-1] |= last
        if self.metrics_file is None and self.is_main:
            self._open_output()
        if self.is_main:
            self.metrics_file.write(entries)
            self.rollouts_file.write(self.answers)
        for entry in entries if config.log_with != "none" else []:
            self.accelerator.log(entry, step=entry["step"])
        return entries

    def test_accuracy(self) -> float:
        """Share of the answers to the test items that are right; each process asks its part of the batches."""
        config, items = self.config.evaluation, self.test_items[: self.config.evaluation.num_items]
        starts = range(0, len(items), ITEMS_PER_BATCH)[self.processes.index :: self.processes.count]
        batches = answer_items(
            self.policy,
            self.tokenizer,
            self.task,
            items,
            config.sampler,
            self.vocabulary,
            starts,
            num_samples=config.num_samples,
            seed=self.config.seed,
        )
        answers = [answer for batch in batches for answer in batch.answers]
        right = sum(self.task.grade(items[answer.index], answer.generation or "").correct for answer in answers)
        self.processes.join()
        right, total = self.processes.sum([right, len(answers)])
        return right / total

    def save(self, *, now: bool) -> None:
        """Write a checkpoint if it is time, if it is the last round, or now."""
        due = self.round % self.config.train.checkpoint_every == 0 or self.round == self.config.train.rounds
        if not (due or now):
            return
        kept = self.buffer[-self.config.train.reuse_rounds :] if self.config.train.reuse_rounds else []
        buffers = gather_object([[experience.to(torch.device("cpu")) for experience in kept]])
        weights = gather(trained_weights(self.policy), keep=self.is_main) if self.processes.shares else None
        has_moved = 0 < self.config.train.resync_every <= self.round
        reference = gather(self.reference.state(), keep=self.is_main) if has_moved else {}
        optimizer, parts = self.processes.optimizer_state(self.output)
        if not self.is_main:
            return
        save_checkpoint(
            self.output,
            config=self.config,
            policy=self.policy,
            weights=weights,
            tokenizer=self.tokenizer,
            reference=reference,
            buffers=buffers,
            parts=parts,
            state={
                "round": self.round,
                "step": self.step,
                "counters": self.counters,
                "optimizer": optimizer,
                "schedule": self.schedule.state_dict(),
            },
        )


def rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate at a step, as a share of its highest: linear warm-up, then constant or decaying to 0."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    progress = min(1.0, (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps))
    return {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[config.schedule]
