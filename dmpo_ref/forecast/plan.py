"""What a run will cost, from its config alone: memory on each process, forward passes and time of a round.

No weights are loaded and no GPU is needed. `phases` counts the passes of a round, `memory` what they keep, tensor by tensor, `work`
their operations and the bytes that they move; `hardware` has the peaks of a GPU and the shares of them that are expected.

Symbols: P tokens of the longest prompt, L of the response.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.forecast import sizes
from dmpo_ref.forecast.hardware import DEFAULT_GPU, GPU, GPUS, STRATEGIES
from dmpo_ref.forecast.memory import sampling_bytes, training_bytes
from dmpo_ref.forecast.phases import Phase, list_phases, sampling_phase
from dmpo_ref.forecast.work import call_work, forward_work, step_work
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import validate
from dmpo_ref.runtime.processes import check_division, check_quantize
from dmpo_ref.samplers.checks import check_lengths

PROMPT_LENGTH, RESPONSE_LENGTH = 256, 16  # tokens, where neither config nor command line says
OVERHEAD = 2e9  # bytes of CUDA context, library workspaces and allocator slack; a rough allowance


@dataclass
class Plan:
    """The forecast. Memory is in bytes on each process; time in seconds; counts are of one round, all processes together.

    Attributes:
        parameters: of the model, adapters included; trainable: those that the optimiser changes.
        weights, reference, adapters, gradients, optimizer, gathered: see `sizes.held_bytes`.
        passing: what sampling, scoring and a gradient step need while they run, `gathered` included; they take turns.
        cache: part of sampling, the keys and values that are kept.
        activations: part of a gradient step, kept from the forward to the backward pass; by whether blocks are checkpointed.
        logits: part of scoring and gradient step, one chunk of vocabulary logits.
        phases: in order; sampling with the most passes that it can take. fastest: sampling with the fewest.
        rounds: of the whole run.
    """

    parameters: int
    trainable: int
    gpu: GPU
    num_processes: int
    rounds: int
    rollouts: int
    response_length: int
    sequence_length: int
    sampler: SamplerConfig
    dtype: str
    checkpointing: bool
    weights: float
    reference: float
    adapters: float
    gradients: float
    optimizer: float
    gathered: float
    passing: dict[str, float]
    cache: float
    activations: dict[bool, float]
    logits: float
    phases: list[Phase]
    fastest: Phase

    @property
    def resident(self) -> float:
        """Bytes that are held all the time (gradients are counted, although they are freed between steps)."""
        return self.weights + self.reference + self.adapters + self.gradients + self.optimizer

    @property
    def peak(self) -> float:
        """Most bytes at any time."""
        return self.resident + max(self.passing.values()) + OVERHEAD

    @property
    def seconds(self) -> float:
        """Expected time of a round; rewards, optimiser steps and evaluation are not in it."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def least(self) -> float:
        """Time that a round with these passes takes at least, on any implementation of them."""
        return sum(phase.least for phase in self.phases)


def make_plan(
    config: Config,
    *,
    prompt_length: int | None = None,
    gpu: GPU = GPUS[DEFAULT_GPU],
    num_processes: int = 1,
    strategy: str = "ddp",
) -> Plan:
    """Forecast a run.

    Args:
        prompt_length: P; None: 256, or what fits into the model besides the response.
        gpu: of each process.
        strategy: what processes share, one of `STRATEGIES`.

    Raises:
        FileNotFoundError: there is no config.json of the model.
        ValueError: lengths, steps or processes that do not fit.
    """
    config = validate(config)
    model, options = sizes.load_sizes(config.model.path), config.model
    P, L = choose_lengths(config, model, prompt_length)
    check(config, L, strategy, num_processes)

    adapters = sizes.count_adapters(model, options)
    phases = list_phases(config, P, L, num_processes)
    fastest = sampling_phase(config, P, L, num_processes, fewest=True)
    compares = config.weight.log_ratio != "none" or build_objective(config.loss, config.weight).uses_log_ref
    held: dict[str, Any] = sizes.held_bytes(model, options, num_processes, strategy, compares=compares)
    needs: dict[str, Any] = sampling_bytes(config, model, phases[0], P, L) | training_bytes(config, model, phases[1:], P, L)
    for phase in [*phases, fastest]:
        measure(phase, model, config, gpu, strategy)
    return Plan(
        parameters=sizes.count_parameters(model) + adapters,
        trainable=adapters or sizes.count_parameters(model),
        gpu=gpu,
        num_processes=num_processes,
        rounds=config.train.rounds,
        rollouts=config.train.prompts_per_round * config.train.num_rollouts,
        response_length=L,
        sequence_length=P + L,
        sampler=config.sampler,
        dtype=options.dtype,
        checkpointing=options.gradient_checkpointing,
        **held,
        passing={name: needs.pop(name) + held["gathered"] for name in ("sampling", "scoring", "gradient step")},
        **needs,
        phases=phases,
        fastest=fastest,
    )


def choose_lengths(config: Config, model: LLaDAConfig, prompt_length: int | None) -> tuple[int, int]:
    """P and L, as given or by default, if the model has room for them."""
    L = config.sampler.response_length or RESPONSE_LENGTH
    longest = model.max_sequence_length - L
    P = min(PROMPT_LENGTH, longest) if prompt_length is None else prompt_length
    if not 0 <= P <= longest:
        limit = f"the model's max_sequence_length={model.max_sequence_length}"
        raise ValueError(f"a prompt of {P} and a response of {L} tokens do not fit {limit}; choose shorter ones")
    return P, L


def check(config: Config, L: int, strategy: str, num_processes: int) -> None:
    """Refuse what the run itself would refuse."""
    if strategy == "zero2":
        raise ValueError("strategy=zero2: DeepSpeed was removed in version 0.2.0; use ddp (adapters) or fsdp2 (all weights)")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy}: choose among {', '.join(STRATEGIES)}")
    if strategy == "fsdp2":
        check_quantize(config, strategy)
    if num_processes < 1:
        raise ValueError(f"num_processes={num_processes}: must be above 0")
    check_division(config.train, num_processes)
    check_lengths(config.sampler, torch.tensor([L]))


def measure(phase: Phase, model: LLaDAConfig, config: Config, gpu: GPU, strategy: str) -> None:
    """Fill in the `worth`, `least` and `seconds` of a phase."""
    S, options, calls = max(phase.fed), config.model, phase.calls // len(phase.fed)
    per_call = call_work(model, options, phase.num_processes, strategy, scored=phase.scored * phase.batch, gradient=phase.gradient)
    forward = forward_work(model, options, S, S, phase.scored)
    for fed, times in Counter(phase.fed).items():
        work = forward_work(model, options, fed, S, phase.scored, samples=phase.samples)
        if phase.gradient:
            work = step_work(model, options, S, phase.scored)
            phase.worth = work.flops / forward.flops
        if phase.of_base:
            share = phase.of_base / len(phase.fed)
            work = work * (1 - share) + forward_work(model, replace(options, lora_rank=0), fed, S, phase.scored) * share
        work = work * phase.rows + per_call * calls
        phase.least += times * work.least(options, gpu)
        phase.seconds += times * work.expected(options, gpu)
