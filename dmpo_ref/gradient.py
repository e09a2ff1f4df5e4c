"""One gradient step on a batch of experience: masks, token log-probabilities, w_real, loss, gradient, update.

Algorithm 1 of arXiv 2510.08233, the part after the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite

import torch
from einops import rearrange
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import Module

from dmpo_ref.config import Config, WeightConfig
from dmpo_ref.likelihood import Vocabulary, mask_rows, score_rows, sequence_log_prob, token_log_prob
from dmpo_ref.masking import Masks, stream
from dmpo_ref.objectives.base import Objective, need
from dmpo_ref.rollout import Experience
from dmpo_ref.runtime.processes import Processes
from dmpo_ref.weights import model_baseline

ALONE = Processes()  # one process, outside a run


class NotFinite(ValueError):
    """A loss or gradient is NaN or infinite."""


def choose_batch(buffer: list[Experience], k: int, config: Config, round_number: int, num_processes: int = 1) -> Experience:
    """The batch of the k-th step of a round: all or some prompts of one buffered round; the rounds take turns, the newest first."""
    experience = buffer[-1 - k % len(buffer)]
    total = len(experience.position)
    if config.train.prompts_per_step is None:
        return experience.of_step(k)
    size = config.train.prompts_per_step // num_processes
    order = torch.randperm(total, generator=stream(config.seed, "order", round_number)).tolist()
    start = k // len(buffer) * size
    return experience.of_step(k, [order[(start + i) % total] for i in range(size)])


def gradient_step(
    policy: Module,
    optimizer: torch.optim.Optimizer,
    vocabulary: Vocabulary,
    objective: Objective,
    batch: Experience,
    masks: Masks,
    config: Config,
    *,
    step: int = 0,
    processes: Processes = ALONE,
) -> tuple[float, float]:
    """One step of the optimiser: token log-probabilities, loss, gradient, update. Returns the loss and the norm of the gradient.

    Args:
        batch: `Experience.of_step`, as returned by `choose_batch`. masks: `experience.step_masks` of this batch.
        step: number of gradient steps done in the run; it keys the LoRA dropout.

    Raises:
        NotFinite: loss or gradient is not finite. After this and every other error the weights are as before, without gradients.
    """
    optimizer.zero_grad()  # what the caller may have left
    try:
        # Dropout must be off where log p_θ is compared with a stored log p_old or log p_ref, and where a second pass uses the
        # gradients of a first one, whose dropout was different.
        policy.train(objective.gradient_is_known)
        with own_random_state(stream(config.seed, "dropout", step, processes.index), batch.reward.device):
            loss = backward(policy, vocabulary, objective, batch, masks, config, processes=processes, checks=step == 0)
        grad_norm = clip_gradients(policy, config.optimizer.max_grad_norm)
        numbers = torch.stack((loss.double(), grad_norm.double())).tolist()  # waits for the GPU only once
        for name, value in zip(("loss", "gradient norm"), numbers, strict=True):
            if not isfinite(value):
                raise NotFinite(f"the {name} of step {step} is {value}")
        optimizer.step()
    finally:
        policy.eval()
        optimizer.zero_grad()
    return numbers[0], numbers[1]


def backward(
    policy: Module,
    vocabulary: Vocabulary,
    objective: Objective,
    batch: Experience,
    masks: Masks,
    config: Config,
    *,
    processes: Processes = ALONE,
    checks: bool = False,
) -> Tensor:
    """Accumulate the gradient of the objective; returns the loss. Memory is bounded by `loss.micro_batch` sequences.

    Args:
        checks: verify `is_linear`, which makes the host wait for the GPU.

    Raises:
        ValueError: the loss is no single number with a gradient, or not linear although `is_linear` says so.
    """

    def loss_of(scores: Tensor) -> Tensor:
        loss = objective.loss(scores, masks, batch, real_weight(scores, masks, batch, config.weight))
        if not (isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad):
            raise ValueError("the objective's loss must be a tensor of one number that depends on token_log_prob")
        return loss

    micro_batch, model = config.loss.micro_batch, processes.wrapped(policy)
    if micro_batch is None:
        loss = loss_of(token_log_prob(model, batch.rollout, masks, vocabulary))
        loss.backward()
        return loss.detach()

    # Chain rule in two passes: the gradient of the loss with respect to every token log-probability, then back from there to the
    # weights, a micro-batch at a time. A linear loss has the same gradient everywhere, so it needs no first pass.
    if objective.gradient_is_known:  # any scores will do: the `model` baseline, which reads them, never takes this branch
        scores = torch.zeros(masks.hidden.shape, device=masks.hidden.device)
    else:
        with torch.no_grad():
            scores = token_log_prob(policy, batch.rollout, masks, vocabulary, micro_batch=micro_batch)
    scores.requires_grad_()
    loss = loss_of(scores)
    (gradient,) = torch.autograd.grad(loss, scores)
    loss = loss.detach()
    if objective.gradient_is_known and checks:
        check_linear(loss_of, loss, gradient)
    gradients = list(rearrange(gradient, "g n r s -> (g n r) s").split(micro_batch))
    parts = mask_rows(batch.rollout, masks, vocabulary).split(micro_batch)
    spare = processes.most(len(parts)) - len(parts)  # passes that only other processes need
    parts, gradients = parts + parts[:1] * spare, gradients + [torch.zeros_like(gradients[0])] * spare
    for i, (rows, of_rows) in enumerate(zip(parts, gradients, strict=True)):
        with processes.accumulate(policy, is_last=i == len(parts) - 1):
            part = (of_rows * score_rows(model, rows, vocabulary)).sum()
            part.backward()
        if objective.gradient_is_known:
            loss = loss + part.detach()  # so far the loss at scores of 0; it is linear, so gradient · log-probability is added
    return loss


def check_linear(loss_of: Callable[[Tensor], Tensor], at_0: Tensor, gradient: Tensor) -> None:
    """Raise ValueError unless the loss at some other scores is what its value and gradient at 0 say; not if a number is not finite,
    for which `gradient_step` has a message."""
    probe = -20 * torch.rand(gradient.shape, generator=stream(0, "probe"), dtype=torch.float64).to(gradient)
    found, rise = loss_of(probe.requires_grad_()).detach().double(), gradient.double() * probe.detach().double()
    if not (found + at_0 + rise.abs().sum()).isfinite():
        return
    if not torch.allclose(found, at_0.double() + rise.sum(), rtol=1e-3, atol=1e-3 * rise.abs().sum().item()):
        raise ValueError("the objective says is_linear=True, but its loss is not linear in token_log_prob; leave is_linear out")


def real_weight(scores: Tensor, masks: Masks, batch: Experience, config: WeightConfig) -> Tensor:
    """w_real = w − strength · w_base, [G, N] float64.

    Args:
        scores: [G, N, R, S] token log-probabilities of the current policy, for the `model` baseline; their gradient is stopped.
    """
    weight = batch.weight - batch.base_weight  # base_weight already includes the strength
    if config.baseline == "model":
        log_policy, log_old = sequence_log_prob(scores.detach(), masks), sequence_log_prob(need(batch.log_old), masks)
        weight = weight - config.baseline_strength * model_baseline(log_policy, log_old)
    return weight


def clip_gradients(policy: Module, max_norm: float) -> Tensor:
    """Scale the gradients down to at most `max_norm`; returns their norm before that."""
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextmanager
def own_random_state(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, the only ones that dropout uses, with the stream of this step; restore their state afterwards."""
    has_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if has_cuda else []):
        torch.default_generator.manual_seed(generator.initial_seed())
        if has_cuda:
            torch.cuda.manual_seed(generator.initial_seed())
        yield
