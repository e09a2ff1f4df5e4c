"""The algorithm as one visible loop: draw rollouts, weigh them once, take several gradient steps, repeat.

Distribution Matching Policy Optimization (arXiv 2510.08233, Algorithm 1). The plumbing (loading, devices, metrics,
checkpoints) is in `run.py`. Random numbers are keyed by (seed, purpose, prompt), so neither batching nor the number of
processes changes them; only LoRA dropout follows the micro-batch and the process, and `prompts_per_step` the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmpo_ref.config import Config
from dmpo_ref.likelihood import elbo, flatten, path_log_prob, score, sequence_log_prob, token_log_prob
from dmpo_ref.masking import Masks, draw_masks, stream
from dmpo_ref.objectives.base import Objective
from dmpo_ref.rollout import Experience, Rollout
from dmpo_ref.runtime.files import claim
from dmpo_ref.runtime.interrupt import Interrupted, StopSignal
from dmpo_ref.runtime.processes import is_first_process
from dmpo_ref.runtime.run import Run
from dmpo_ref.samplers.sampling import sample
from dmpo_ref.tasks.encoding import answer_texts, encode, end_ids
from dmpo_ref.weights import (
    baseline_weights,
    coefficient_for_ess,
    effective_sample_size,
    log_weights,
    model_baseline,
    target_weights,
)


@dataclass
class Trained:
    """What `train` returns: the policy (with FSDP2 a share of it) and its tokenizer, the metrics of every step, the folder of
    the run, and whether this is the process that writes to it."""

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    metrics: list[dict[str, Any]]
    output: Path
    is_main: bool


def train(
    config: Config,
    *,
    task: Any = None,
    reward: Callable[[Any, str], float] | None = None,
    objective: Objective | None = None,
    on_round: Callable[[int, PreTrainedModel], dict[str, float]] | None = None,
    resume: bool = False,
) -> Trained:
    """Fine-tune the policy of `config.model` towards p*(o|q) ∝ p_ref(o|q) · exp(r(q,o)/α).

    Writes `metrics.jsonl` (one line per gradient step), `rollouts.jsonl` (answers to some prompts of each round), `config.yaml` and
    checkpoints to `config.output`.

    Args:
        task: instead of the task of the config, an object like `tasks.sudoku.Sudoku`.
        reward: instead of the task's reward, a function of the item and the answer's text.
        objective: instead of the one that `config.loss` names. Like `reward` it is not recorded; give it again to resume.
        on_round: called after every round with (rounds done, policy), by every process; what it returns is added to the metrics.
        resume: continue the run in `config.output` from its newest checkpoint.

    Raises:
        FileNotFoundError, ValueError: something in the config, the files or the rewards that cannot be; one line.
        Interrupted: Ctrl-C or SIGTERM, after the round under way was finished and saved; `resume=True` goes on from there.
    """
    with claim(Path(config.output)) if is_first_process() else nullcontext():
        return loop(Run(config, task=task, reward=reward, objective=objective, resume=resume), on_round)


def loop(run: Run, on_round: Callable[[int, PreTrainedModel], dict[str, float]] | None) -> Trained:
    """Algorithm 1, from the round that the run is in."""
    config, rounds, metrics = run.config, run.config.train.rounds, []
    with StopSignal() as stop, tqdm(total=rounds, initial=run.round, desc="train", disable=None if run.is_main else True) as bar:
        while run.round < rounds:
            # p_old ← p_θ: draw N rollouts for each of G prompts; reward, ℓ and w once.
            experience, collected = collect(run)
            run.buffer = [*run.buffer, experience][-(1 + config.train.reuse_rounds) :]

            # K gradient steps on the buffer. The policy that drew the rollouts is not needed again.
            steps = [gradient_step(run, k) for k in range(config.train.steps_per_round)]

            run.round += 1
            run.resync_reference()
            metrics += run.record(collected, steps, on_round)
            stopping = run.processes.any(stop.requested)
            run.save(now=stopping)
            bar.set_postfix(reward=collected["reward"], ess=collected["ess"])
            bar.update()
            if stopping and run.round < rounds:
                raise Interrupted(f"stopped after round {run.round} of {rounds}, saved in {run.output}")
    run.accelerator.end_training()
    return Trained(run.policy, run.tokenizer, run.earlier_metrics + metrics, run.output, run.is_main)


def collect(run: Run) -> tuple[Experience, dict[str, float]]:
    """One round's experience: rollouts of p_old, their rewards, ℓ, w and w_base; with its metrics."""
    config = run.config
    items, position = run.next_prompts()
    prompts = encode(run.tokenizer, run.task, items, config.sampler.response_length).to(run.device)
    generators = [stream(config.seed, "rollout", p) for p in position]
    rollout = sample(
        run.policy,
        prompts,
        config.sampler,
        run.vocabulary,
        num_rollouts=config.train.num_rollouts,
        generators=generators,
        end_tokens=end_ids(run.tokenizer),
    )
    texts = answer_texts(run.tokenizer, rollout)
    reward, components = run.score_rewards(items, texts)
    log_ratio = estimate_log_ratio(run, rollout, position)
    alpha, target = config.weight.alpha, config.weight.target
    log_weight = log_weights(reward, log_ratio, alpha=alpha, target=target)
    c = 1.0 if config.weight.target_ess is None else coefficient_for_ess(log_weight, config.weight.target_ess)
    weight = target_weights(log_weight, coefficient=c, target=target)
    base = torch.zeros_like(weight)
    if config.weight.baseline != "model":
        base = baseline_weights(config.weight.baseline, reward, log_ratio, alpha=alpha, coefficient=c, target=target)
    base = config.weight.baseline_strength * base
    experience = Experience(rollout, position, reward, weight, base, **score_on_masks(run, rollout, position))
    run.counters["rollouts"] += reward.numel() * run.processes.count
    run.keep_answers(rollout, texts, reward, weight)
    return experience, {
        "reward": reward.mean().item(),
        **components,
        "reward_std": reward.std(dim=-1, correction=0).mean().item(),
        "frac_reward_zero_std": (reward.amax(dim=-1) == reward.amin(dim=-1)).double().mean().item(),
        "answer_length": answer_length(rollout, end_ids(run.tokenizer)),
        "ess": effective_sample_size(weight).mean().item() if target != "reward" else None,
        "coefficient": float(torch.as_tensor(c).mean()),
        "log_ratio_mean": log_ratio.mean().item(),
        "log_ratio_std": log_ratio.std(dim=-1, correction=0).mean().item(),
        "weight_max": weight.amax(dim=-1).mean().item(),
    }


def answer_length(rollout: Rollout, end_tokens: set[int]) -> float:
    """Mean number of generated tokens of a rollout up to its first end token, that one included."""
    ends = torch.tensor(sorted(end_tokens), device=rollout.tokens.device)
    is_end = rollout.response_mask & torch.isin(rollout.tokens, ends)
    after_end = is_end.cumsum(dim=-1) - is_end.long() > 0
    return (rollout.response_mask & ~after_end).sum(dim=-1).double().mean().item()


def estimate_log_ratio(run: Run, rollout: Rollout, position: list[int]) -> Tensor:
    """log p_ref − log p_old of each rollout, [G, N] float64 nats: along its path, by ELBOs on the same masks, or 0."""
    config, micro_batch = run.config, run.config.train.score_micro_batch
    if config.weight.log_ratio == "none":
        return torch.zeros(rollout.tokens.shape[:2], dtype=torch.float64, device=run.device)
    if config.weight.log_ratio == "path":
        with run.reference.model() as reference:
            return path_log_prob(reference, rollout, run.vocabulary, micro_batch=micro_batch) - rollout.path_log_prob
    generators = [stream(config.seed, "elbo", p) for p in position]
    masks = draw_masks(config.weight.elbo_masks, rollout.response_mask, config.weight.elbo_num_masks, generators)
    with run.reference.model() as reference:
        log_ref = elbo(reference, rollout, masks, run.vocabulary, micro_batch=micro_batch)
    return log_ref - elbo(run.policy, rollout, masks, run.vocabulary, micro_batch=micro_batch)


@torch.no_grad()
def score_on_masks(run: Run, rollout: Rollout, position: list[int]) -> dict[str, Tensor]:
    """log p_old and log p_ref on the masks of each of the round's K steps, [K, G, N, R, S], if the objective subtracts them.

    Along the path log p_old is the log-probability that the rollouts were drawn with, at their temperature; all else is
    taken at temperature 1, as in the `elbo` log-ratio.
    """
    if not run.keeps_masks:
        return {}
    config, on_path = run.config, run.objective.follows_path
    sets = [run.objective.masks(rollout, mask_streams(run, position, k)) for k in range(1 if on_path else config.train.steps_per_round)]

    def score_sets(model: PreTrainedModel, temperature: float = 1.0) -> Tensor:
        micro_batch = config.train.score_micro_batch
        scored = (token_log_prob(model, rollout, masks, run.vocabulary, temperature=temperature, micro_batch=micro_batch) for masks in sets)
        return torch.stack(list(scored))

    stored = {}
    if run.subtracts_log_old:
        stored["log_old"] = score_sets(run.policy, config.sampler.temperature if on_path else 1.0)
    if run.objective.uses_log_ref:
        with run.reference.model() as reference:
            stored["log_ref"] = score_sets(reference)
    return stored


def mask_streams(run: Run, position: list[int], k: int) -> list[torch.Generator]:
    """Fresh masks at every gradient step; the k-th stored ones where log p_old or log p_ref was measured on them."""
    use = k if run.keeps_masks else f"step {run.step}"
    return [stream(run.config.seed, "masks", p, use) for p in position]


def gradient_step(run: Run, k: int) -> dict[str, float]:
    """The k-th step of a round: masks, token log-probabilities, loss, AdamW. Returns its metrics."""
    batch = run.minibatch(k)
    masks = run.objective.masks(batch.rollout, mask_streams(run, batch.position, k))
    # Dropout must be off where log p_θ is compared with a stored log p_old or log p_ref, and where a second pass takes up the
    # slopes of a first one, which dropped other things.
    run.policy.train(run.slope_is_known)
    with own_random_state(run):
        loss = backward(run, masks, batch)
    run.policy.eval()
    grad_norm = run.processes.clip_gradients()
    for name, value in (("loss", loss), ("gradient norm", grad_norm)):
        if not torch.isfinite(value):
            raise ValueError(f"the {name} of step {run.step} is {value.item()}; lower optimizer.learning_rate or look at metrics.jsonl")
    learning_rate = run.schedule.get_last_lr()[0]
    run.processes.step()
    run.schedule.step()
    run.step += 1
    return {"step": run.step, "loss": loss.item(), "grad_norm": float(grad_norm), "learning_rate": learning_rate}


@contextmanager
def own_random_state(run: Run) -> Iterator[None]:
    """Dropout, which knows only torch's global generators, draws from a stream of this step; the global state is put back."""
    seed, has_cuda = stream(run.config.seed, "dropout", run.step, run.processes.index).initial_seed(), run.device.type == "cuda"
    with torch.random.fork_rng(devices=[run.device] if has_cuda else []):
        torch.default_generator.manual_seed(seed)
        if has_cuda:
            torch.cuda.manual_seed(seed)
        yield


def backward(run: Run, masks: Masks, batch: Experience) -> Tensor:
    """Accumulate the gradient of the objective; returns the loss. Memory is bounded by `loss.micro_batch` sequences."""

    def loss_of(log_prob: Tensor) -> Tensor:
        return run.objective.loss(log_prob, masks, batch, real_weight(run, log_prob, masks, batch))

    micro_batch = run.config.loss.micro_batch
    if micro_batch is None:
        loss = loss_of(token_log_prob(run.wrapped, batch.rollout, masks, run.vocabulary))
        run.processes.backward(loss)
        return loss.detach()

    # Chain rule in two passes: the slope of the loss in every token log-probability, then that slope into the weights,
    # a micro-batch at a time. A linear loss has the same slope everywhere, so it needs no first pass.
    if run.slope_is_known:
        log_prob = torch.zeros(masks.hidden.shape, device=run.device)
    else:
        with torch.no_grad():
            log_prob = token_log_prob(run.policy, batch.rollout, masks, run.vocabulary, micro_batch=micro_batch)
    log_prob.requires_grad_()
    loss = loss_of(log_prob)
    (slope,) = torch.autograd.grad(loss, log_prob)
    loss = loss.detach()
    slopes = rearrange(slope, "g n r s -> (g n r) s").split(micro_batch)
    parts = flatten(batch.rollout, masks, run.vocabulary).split(micro_batch)
    spare = run.processes.most(len(parts)) - len(parts)  # passes that only other processes need
    parts, slopes = [*parts, *parts[:1] * spare], [*slopes, *[torch.zeros_like(slopes[0])] * spare]
    for i, (rows, slope) in enumerate(zip(parts, slopes, strict=True)):
        with run.processes.accumulate(is_last=i == len(parts) - 1):
            part = (slope * score(run.wrapped, rows, run.vocabulary)).sum()
            run.processes.backward(part)
        if run.slope_is_known:
            loss = loss + part.detach()  # the loss at 0 so far; linear, so what it gains is slope · log-probability
    return loss


def real_weight(run: Run, log_prob: Tensor, masks: Masks, batch: Experience) -> Tensor:
    """w_real = w − strength · w_base, [G, N] float64."""
    weight = batch.weight - batch.base_weight
    if run.config.weight.baseline == "model":
        log_policy, log_old = sequence_log_prob(log_prob.detach(), masks), sequence_log_prob(batch.log_old, masks)
        weight = weight - run.config.weight.baseline_strength * model_baseline(log_policy, log_old)
    return weight
