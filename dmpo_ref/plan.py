"""What a run will cost, from its config alone: parameters, memory on each process, forward passes and time of a round.

No weights are loaded and no GPU is needed; the sizes come from the model's config.json. Memory counts what the code keeps,
tensor by tensor. Time is a bound from two numbers of the hardware, arithmetic and bandwidth, not a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from transformers import AutoConfig

from dmpo_ref.checkpoint import latest_checkpoint
from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.head import chunk_size
from dmpo_ref.model import LLaDAConfig
from dmpo_ref.samplers import check_sampling

FLOPS = 400e12  # bf16 operations per second that one H100 or H200 achieves on large matrices, about 40 % of its peak
BANDWIDTH = 3.3e12  # bytes per second from the memory of an H100; an H200 has 4.8e12
PROMPT_LENGTH, RESPONSE_LENGTH = 256, 16  # tokens, where neither config nor command line says
OVERHEAD = 2e9  # bytes of CUDA context, library workspaces and allocator slack; a rough allowance
# Bytes a sampled position needs for each of the V tokens, at most: logits and their restricted copy (4 + 4), and the
# float64 log-probability, CDF, logits and softmax that `samplers.propose` holds at its end (4 · 8).
SAMPLER_BYTES = 40
NF4_BYTES = 0.5 + 4 / 64  # a weight in 4 bits, and one float32 scale for 64 of them
ADVICE = {"sampling": "sampler.micro_batch", "scoring": "train.score_micro_batch", "gradient step": "loss.micro_batch"}


@dataclass
class Phase:
    """One kind of pass through the model in a round.

    Attributes:
        sequences: forward passes of one sequence, all processes together; a backward pass counts as 2, the second forward
            pass of gradient checkpointing as 1.
        tokens: the same in tokens, padding included.
        calls: of the model, on each process.
        seconds: at least, on each process.
    """

    name: str
    sequences: int
    tokens: int
    calls: int
    seconds: float


@dataclass
class Plan:
    """The forecast. Memory is in bytes on each process; time in seconds; counts are of one round, all processes together.

    Attributes:
        parameters: of the model, adapters included; trainable: those that the optimiser changes.
        weights, reference, adapters: the policy, a second frozen copy of it where p_ref needs one, LoRA matrices (float32).
        gradients: one number per trainable parameter; several processes keep them twice (communication buckets).
        optimizer: AdamW's two moments, counted in float32.
        activations: of one micro-batch of a gradient step, kept from the forward to the backward pass;
            `activations_checkpointed`: with gradient checkpointing; `checkpointing`: which of them the config asks for.
        sampling, scoring: most that these hold beyond what is resident.
        backward: what a gradient step holds beyond the activations: the gradients inside one block, and `logits`.
        logits: chunk of vocabulary logits when tokens are scored.
        sequence_length: S, prompt and response; rollouts: G·N; generated_tokens: G·N·L.
    """

    parameters: int
    trainable: int
    weights: float
    reference: float
    adapters: float
    gradients: float
    optimizer: float
    activations: float
    activations_checkpointed: float
    checkpointing: bool
    sampling: float
    scoring: float
    backward: float
    logits: float
    sequence_length: int
    rollouts: int
    generated_tokens: int
    num_processes: int
    phases: list[Phase]

    @property
    def resident(self) -> float:
        """Bytes that are there all the time (gradients are counted, although they go between steps)."""
        return self.weights + self.reference + self.adapters + self.gradients + self.optimizer

    @property
    def passing(self) -> dict[str, float]:
        """Bytes that each kind of pass needs while it runs; they never run at the same time."""
        kept = self.activations_checkpointed if self.checkpointing else self.activations
        return {"sampling": self.sampling, "scoring": self.scoring, "gradient step": kept + self.backward}

    @property
    def peak(self) -> float:
        """Most bytes at any time."""
        return self.resident + max(self.passing.values()) + OVERHEAD

    @property
    def seconds(self) -> float:
        """Least time of a round; rewards, optimiser steps and evaluation are not in it."""
        return sum(phase.seconds for phase in self.phases)


def make_plan(
    config: Config, *, prompt_length: int | None = None, flops: float = FLOPS, bandwidth: float = BANDWIDTH, num_processes: int = 1
) -> Plan:
    """Forecast a run.

    Args:
        prompt_length: tokens of the longest prompt; None: 256, or what the model has room for beside the response.
        flops: operations per second that a process achieves. bandwidth: bytes per second it reads from its memory.

    Raises:
        FileNotFoundError: no config.json of the model. ValueError: lengths, steps or processes that do not fit.
    """
    model, (G, N, K) = model_config(config.model.path), (getattr(config.train, k) for k in ("prompts_per_round", "num_rollouts", "steps_per_round"))
    L = config.sampler.response_length or RESPONSE_LENGTH
    S = L + (max(1, min(PROMPT_LENGTH, model.max_sequence_length - L)) if prompt_length is None else prompt_length)
    check(config, model, L, S, {"flops": flops, "bandwidth": bandwidth, "num_processes": num_processes})
    check_sampling(config.sampler, torch.tensor([L]))

    T = config.sampler.steps or L  # forward passes that fill a response
    views = T if config.loss.masks == "path" else config.loss.num_replicates
    subtracts_log_old = config.loss.name == "wddo" or config.weight.baseline == "model"
    step_rollouts = (config.train.prompts_per_step or G) * N
    rows = G * N // num_processes  # of a process, as are all the batches below
    sample_batch = batch(config.sampler.micro_batch, rows)
    loss_batch = batch(config.loss.micro_batch, step_rollouts * views // num_processes)

    # Parameters, and what they keep resident.
    parameters, linear, adapters = count_parameters(model), model.n_layers * sum(map(size, shapes(model).values())), count_adapters(config.model, model)
    trainable = adapters or parameters
    element = 2 if config.model.dtype == "bfloat16" else 4  # bytes
    weights = parameters * element - (linear * (element - NF4_BYTES) if config.model.quantize == "nf4" else 0)
    has_reference = config.weight.log_ratio != "none" and adapters == 0  # without its adapters the policy is p_ref

    # Passes: (name, rollouts × views, sequences in a call, positions scored per sequence, forward passes each is worth).
    half = (L + 1) / 2  # mean number of positions hidden by a random mask
    passes = [("sampling", G * N * T, sample_batch, decoded(config, L, T), 1)]
    score = config.train.score_micro_batch
    for wanted, name, count, scored in (
        (config.weight.log_ratio == "path", "scoring p_ref", G * N * T, L / T),
        (config.weight.log_ratio == "elbo", "scoring p_ref, p_old", 2 * G * N * config.weight.elbo_replicates, half),
        (subtracts_log_old, "storing log p_old", (1 if config.loss.masks == "path" else K) * G * N * views, half),
    ):
        if wanted:
            models = 2 if config.weight.log_ratio == "elbo" and "p_ref" in name else 1
            sets = K if name == "storing log p_old" and config.loss.masks != "path" else models
            passes.append((name, count, batch(score, count // sets // num_processes), scored, 1))
    # A backward pass forms gradients of inputs and of weights, each as dear as a forward pass (frozen weights: less).
    # Weights that depend on the loss's own log-probabilities, taken a micro-batch at a time, need these beforehand.
    worth = 3 + config.model.gradient_checkpointing + (subtracts_log_old and config.loss.micro_batch is not None)
    passes.append(("gradient steps", K * step_rollouts * views, loss_batch, half, worth))

    read = (weights + 4 * adapters) / bandwidth  # seconds to read every weight once, which each pass has to
    phases = []
    for name, count, size_of_call, scored, worth in passes:
        calls = ceil(count / num_processes / size_of_call)
        seconds = worth * max(count / num_processes * sequence_flops(model, linear + adapters, S, scored) / flops, calls * read)
        phases.append(Phase(name, count * worth, count * worth * S, calls, seconds))
    return None
