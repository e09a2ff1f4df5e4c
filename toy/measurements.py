"""The measurements of `dmpo bench`, each in a separate process so that peaks of memory do not mix: the library, and for comparison the
straightforward way (`toy.straightforward`).

    loss      forward and backward pass of one gradient step
    elbo      ELBOs of two models, which weigh a rollout
    samplers  responses to a batch of prompts
    round     one round of `train`: rollouts, rewards, weights, gradient steps

Without a config the model is random, of width 256 and 4 layers, and one prompt of 128 tokens has 8 responses of 256, or 8 prompts of 64
have one of 128 for the samplers. A model with random weights is never confident: `threshold`, `factor` and `wino` show their worst case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from einops import repeat
from torch import Tensor
from torch.nn import Module
from torch.utils.flop_counter import FlopCounterMode

from dmpo_ref.config import Config
from dmpo_ref.experience import collect, score_on_masks, step_masks
from dmpo_ref.gradient import backward, choose_batch, gradient_step, real_weight
from dmpo_ref.likelihood import Vocabulary, elbo, sequence_log_prob
from dmpo_ref.masking import draw_masks, stream, streams
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from dmpo_ref.models.reference import FrozenReference, Reference
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.base import Objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Experience, Prompts, Rollout
from dmpo_ref.runtime.processes import Processes, build_accelerator
from dmpo_ref.runtime.prompts import PromptStream
from dmpo_ref.runtime.setup import load_reference, load_trainable
from dmpo_ref.runtime.state import build_optimizer
from dmpo_ref.samplers import sample
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.encoding import answer_texts, encode
from dmpo_ref.tasks.rewards import score_answers
from toy.machine import LiveBytes, finish, peak_memory, reset_peak
from toy.straightforward import (
    random_order_full_logits,
    sample_full_logits,
    step_full_logits,
    token_log_prob_full_logits,
    weigh_full_logits,
)

STANDARD: tuple[str, ...] = ("loss.masks=antithetic", "loss.num_masks=4", "loss.micro_batch=4", "weight.log_ratio=elbo")
STANDARD += ("weight.elbo_num_masks=4", "train.score_micro_batch=4", "sampler.temperature=0.2", "sampler.block_length=32")
STANDARD += ("sampler.name=confidence", "sampler.steps=64")
SAMPLERS: dict[str, dict[str, Any]] = {
    "confidence": {"name": "confidence"},
    "confidence, prefix": {"name": "confidence", "cache": "prefix"},
    "confidence, dual": {"name": "confidence", "cache": "dual"},
    "random": {"name": "random"},
    "random_order": {"name": "random_order", "steps": None},
    "threshold": {"name": "threshold", "steps": None},
    "threshold, dual": {"name": "threshold", "steps": None, "cache": "dual"},
    "factor": {"name": "factor", "steps": None},
    "wino": {"name": "wino", "steps": None},
}
SIZES = {"loss": (1, 128, 256, 32_000), "elbo": (1, 128, 256, 32_000), "samplers": (8, 64, 128, 4096)}  # prompts, P, L, vocabulary
PLAIN = "straightforward"
PARTS = ("whole", "rollouts, weights", "gradient steps")
CASES = {"loss": (PLAIN, "library"), "elbo": (PLAIN, "library"), "samplers": (PLAIN, *SAMPLERS), "round": (PLAIN, *PARTS)}
Work = Callable[[], dict[str, Any]]  # one run; what it returns goes into the row


@dataclass
class Subject:
    """What is measured: models, vocabulary and prompts [G, S] on their device, and the config that says how."""

    policy: LLaDAModelLM
    reference: Reference
    vocabulary: Vocabulary
    prompts: Prompts
    config: Config
    objective: Objective

    def rollout(self) -> Rollout:
        """N answers of random tokens to each prompt, in a random order."""
        N, host, generator = self.config.train.num_rollouts, self.prompts.to(torch.device("cpu")), stream(0, "bench")
        allowed = self.vocabulary.allowed.cpu().nonzero().flatten()
        tokens, attention_mask, prompt_mask, response = (
            repeat(x, "g s -> g n s", n=N) for x in (host.tokens, host.attention_mask, host.prompt_mask, host.response_mask)
        )
        drawn = allowed[torch.randint(len(allowed), tokens.shape, generator=generator)]
        order = torch.rand(tokens.shape, generator=generator).masked_fill(~response, torch.inf).argsort(dim=-1).argsort(dim=-1)
        longest, step = int(response.sum(dim=-1).max()), order.masked_fill(~response, -1)
        tokens = torch.where(response, drawn, tokens)
        rollout = Rollout(
            *(tokens, attention_mask, prompt_mask, response, step),
            path_log_prob=None,
            num_steps=longest,
            sampler=self.config.sampler,
            forwards=0,
            fed_tokens=0,
            padded=self.prompts.padded,
        )
        return rollout.to(self.prompts.tokens.device)


def build_subject(what: str, config_name: str | None, overrides: list[str]) -> Subject:
    """The subject of a config, on prompts of its task; or the standard one, which overrides may change."""
    is_random = config_name is None and what != "round"
    config = load_config(config_name or "toy_sudoku", *(STANDARD if is_random else ()), *overrides)
    objective = build_objective(config.loss, config.weight)
    processes = Processes(build_accelerator(config))
    if not is_random:
        task = build_task(config.task)
        policy, tokenizer, vocabulary = load_trainable(config, None, task, processes)
        items = task.load(config.task.train)[: config.train.prompts_per_round]
        prompts = encode(tokenizer, task, items, config.sampler.response_length).to(processes.device)
        return Subject(policy, load_reference(config, None, policy, processes), vocabulary, prompts, config, objective)
    rows, prompt, response, size = SIZES[what]
    config = replace(config, train=replace(config.train, num_rollouts=8))
    dtype, prompts = getattr(torch, config.model.dtype), random_prompts(rows, prompt, response, size).to(processes.device)
    policy, reference = (Module.to(random_model(size, seed), processes.device, dtype) for seed in (0, 1))
    return Subject(policy, FrozenReference(reference), all_but_the_mask(size), prompts, config, objective)


def random_model(vocabulary: int, seed: int) -> LLaDAModelLM:
    """Width 256, 4 layers; the mask token is the last of its vocabulary."""
    sizes: dict[str, Any] = {"d_model": 256, "n_layers": 4, "n_heads": 4, "mlp_hidden_size": 768, "max_sequence_length": 512}
    tokens: dict[str, Any] = {"vocab_size": vocabulary, "mask_token_id": vocabulary - 1, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LLaDAModelLM(LLaDAConfig(**sizes, **tokens, init_std=0.2)).eval()


def random_prompts(rows: int, prompt: int, response: int, vocabulary: int) -> Prompts:
    """Random prompts of one length, with room for responses of one length."""
    tokens = torch.full((rows, prompt + response), vocabulary - 1)
    tokens[:, :prompt] = torch.randint(vocabulary - 1, (rows, prompt), generator=stream(0, "prompts"))
    is_response = (torch.arange(prompt + response) >= prompt).expand(rows, -1)
    return Prompts(tokens, torch.ones_like(is_response), ~is_response, is_response, padded=False)


def all_but_the_mask(size: int) -> Vocabulary:
    """A vocabulary in which everything but the mask token, its last, may be generated."""
    return Vocabulary(size - 1, torch.arange(size) != size - 1)


def prepare_loss(subject: Subject, way: str) -> Work:
    """Forward and backward pass; the norm of the gradient is the same both ways."""
    policy, config, objective, vocabulary = subject.policy, subject.config, subject.objective, subject.vocabulary
    rollout = subject.rollout()
    G, N = rollout.tokens.shape[:2]
    weight = torch.rand(G, N, dtype=torch.float64, generator=stream(0, "weights")).softmax(dim=-1).to(rollout.tokens.device)
    position = list(range(G))
    stored = score_on_masks(policy, subject.reference, vocabulary, objective, rollout, position, config)
    batch = Experience(rollout, position, weight, weight, torch.zeros_like(weight), *stored).of_step(0)
    masks = step_masks(objective, rollout, position, config.seed, 0)

    def work() -> dict[str, Any]:
        policy.zero_grad()
        if way == PLAIN:
            scores = token_log_prob_full_logits(policy, rollout, masks, vocabulary)
            objective.loss(scores, masks, batch, real_weight(scores, masks, batch, config.weight)).backward()
        else:
            backward(policy, vocabulary, objective, batch, masks, config)
        norm = torch.stack([p.grad.float().norm() for p in policy.parameters() if p.grad is not None]).norm()
        return {"result": norm.item(), "tokens": masks.hidden.numel()}

    return work


def prepare_elbo(subject: Subject, way: str) -> Work:
    """ELBOs of policy and reference on the same masks; their mean difference is the same both ways."""
    rollout, config, vocabulary = subject.rollout(), subject.config, subject.vocabulary
    generators = streams(0, "elbo", list(range(len(rollout.tokens))))
    masks = draw_masks(config.weight.elbo_masks, rollout.response_mask, config.weight.elbo_num_masks, generators)

    @torch.no_grad()
    def score(model: Any) -> Tensor:
        if way == PLAIN:
            return sequence_log_prob(token_log_prob_full_logits(model, rollout, masks, vocabulary), masks)
        return elbo(model, rollout, masks, vocabulary, micro_batch=config.train.score_micro_batch)

    def work() -> dict[str, Any]:
        with subject.reference.model() as reference:
            log_ref = score(reference)
        return {"result": (log_ref - score(subject.policy)).mean().item(), "tokens": 2 * masks.hidden.numel()}

    return work


def prepare_samplers(subject: Subject, way: str) -> Work:
    """One response to each prompt: forward passes and tokens generated."""
    options = {"cache": "none", "threshold": None, "stop_early": False, "guidance": 0.0, **SAMPLERS.get(way, SAMPLERS["confidence"])}
    prompts, sampler, model = subject.prompts, replace(subject.config.sampler, **options), subject.policy
    generated = int(prompts.response_mask.sum())

    def work() -> dict[str, Any]:
        if way == PLAIN:
            sample_full_logits(model, prompts, sampler, subject.vocabulary)
            return {"tokens": generated}
        generators = streams(0, "bench", list(range(len(prompts.tokens))))
        rollout = sample(model, prompts, sampler, subject.vocabulary, num_rollouts=1, generators=generators)
        read = rollout.forwards * sum(p.nbytes for p in model.parameters())  # each pass reads all weights
        return {"tokens": generated, "forwards": rollout.forwards, "fed": rollout.fed_tokens, "read": read}

    return work


def prepare_round(subject: Subject, way: str) -> Work:
    """One round of training, or a part of it. Files and evaluation are not in it.

    Raises:
        NotImplementedError: the straightforward way is not written for this config.
    """
    config, policy, task = subject.config, subject.policy, build_task(subject.config.task)
    tokenizer, plain = load_policy(config.model, torch.device("cpu"))[1], way == PLAIN
    if plain and (config.sampler.name != "random_order" or subject.objective.reuses_masks or config.train.num_reference_rollouts):
        raise NotImplementedError("needs sampler.name=random_order, and an objective that subtracts no stored log-probabilities")
    prompts = PromptStream(task.load(config.task.train), config.train.prompts_per_round, config.seed, 0, 1)
    optimizer = build_optimizer(policy, config.optimizer, config.train.steps_per_round)[0]
    rounds = iter(range(10**6))

    def draw() -> Experience:
        items, position = prompts.of_round(next(rounds))
        if plain:
            encoded = encode(tokenizer, task, items, config.sampler.response_length).to(subject.prompts.tokens.device)
            rollout = random_order_full_logits(policy, encoded, config.sampler, subject.vocabulary, config.train.num_rollouts)
            reward = score_answers(task, items, answer_texts(tokenizer, rollout))[0].to(rollout.tokens.device)
            return weigh_full_logits(policy, subject.reference, subject.vocabulary, rollout, reward, config, position)
        models = policy, subject.reference, tokenizer, subject.vocabulary
        return collect(*models, task, items, subject.objective, config, position=position).experience

    drawn = draw()

    def work() -> dict[str, Any]:
        experience = drawn if way == "gradient steps" else draw()
        for k in range(0 if way == "rollouts, weights" else config.train.steps_per_round):
            batch = choose_batch([experience], k, config, 0)
            masks = step_masks(subject.objective, batch.rollout, batch.position, config.seed, k, k)
            take_step = step_full_logits if plain else gradient_step
            take_step(policy, optimizer, subject.vocabulary, subject.objective, batch, masks, config)
        return {"tokens": int(experience.rollout.response_mask.sum())}

    return work


PREPARE = {"loss": prepare_loss, "elbo": prepare_elbo, "samplers": prepare_samplers, "round": prepare_round}


def measure(what: str, way: str, config_name: str | None, overrides: list[str], repeats: int, seconds: float) -> None:
    """Print a row as one line of JSON: median time of at most `repeats` runs in about `seconds`, after one to warm up and one whose
    operations in matrix products are counted; the highest memory above the idle process, and that of the tensors alone; and what the
    work reports."""
    subject = build_subject(what, config_name, overrides)
    device, begun = subject.prompts.tokens.device, time.perf_counter()
    try:
        work = PREPARE[what](subject, way)
    except NotImplementedError as error:
        print(json.dumps({"why": f"is not measured: {error}"}))
        return
    idle = reset_peak(device)
    row = work()
    with (
        FlopCounterMode(display=False) as counter,
        LiveBytes() as tensors,
    ):  # not the first run: under a mode torch would compile nothing, then or later
        work()
    times: list[float] = []
    while len(times) < repeats and (not times or time.perf_counter() - begun < seconds):
        finish(device)
        start = time.perf_counter()
        work()
        finish(device)
        times.append(time.perf_counter() - start)
    row |= {"seconds": median(times), "runs": len(times), "flop": counter.get_total_flops(), "peak": peak_memory(device) - idle}
    row["tensors"] = tensors.peak
    if what == "samplers":
        row |= {"outside": outside_model(subject.policy, work, device)}
    print(json.dumps({"measured": what, "way": way, **row}))


def outside_model(model: LLaDAModelLM, work: Work, device: torch.device) -> float:
    """The share of the time of a work that is spent outside the model's forward passes."""
    begun: list[float] = []
    spent: list[float] = []

    def before(*_: Any) -> None:
        finish(device)
        begun.append(time.perf_counter())

    def after(*_: Any) -> None:
        finish(device)
        spent.append(time.perf_counter() - begun[-1])

    hooks = model.register_forward_pre_hook(before), model.register_forward_hook(after)
    finish(device)
    start = time.perf_counter()
    work()
    finish(device)
    seconds = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    return 1 - sum(spent) / seconds
