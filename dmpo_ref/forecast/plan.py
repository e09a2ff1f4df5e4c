"""What a run will cost, from its config alone: memory on each process, forward passes and time of a round.

No weights are loaded and no GPU is needed. Memory counts what the code keeps, tensor by tensor. Time is a bound from two numbers
of the hardware, arithmetic and bandwidth, not a promise. `phases.py` counts the passes of a round; `sizes.py` has the
arithmetic of the model.

Symbols: P tokens of the longest prompt, L of the response, S = P + L; V and d rows and width of the head, b bytes of a number.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from tabulate import tabulate

from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.forecast import sizes
from dmpo_ref.forecast.hardware import BANDWIDTH, FLOPS, LINK, STRATEGIES
from dmpo_ref.forecast.phases import Phase, list_phases, sampling_phase
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.models.vocabulary_head import chunk_size
from dmpo_ref.objectives import build_objective
from dmpo_ref.runtime.processes import check_division, check_quantize
from dmpo_ref.samplers.checks import CONFIDENT, check_lengths

PROMPT_LENGTH, RESPONSE_LENGTH = 256, 16  # tokens, where neither config nor command line says
OVERHEAD = 2e9  # bytes of CUDA context, library workspaces and allocator slack; a rough allowance
# Bytes a position of one chunk of `proposal.propose` needs for each of the V tokens, at most: the restricted logits (4), and
# their float64 copy, log-probability, CDF and softmax (4 · 8). The logits of all positions come on top.
SAMPLER_BYTES = 36
ADVICE = {
    "sampling": "sampler.micro_batch",
    "scoring": "train.score_micro_batch",
    "gradient step": "loss.micro_batch, or model.gradient_checkpointing=true",
}


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
    num_processes: int
    rounds: int
    rollouts: int
    response_length: int
    sequence_length: int
    sampler: SamplerConfig
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
        """Bytes that are there all the time (gradients are counted, although they go between steps)."""
        return self.weights + self.reference + self.adapters + self.gradients + self.optimizer

    @property
    def peak(self) -> float:
        """Most bytes at any time."""
        return self.resident + max(self.passing.values()) + OVERHEAD

    @property
    def seconds(self) -> float:
        """Least time of a round with these passes; rewards, optimiser steps and evaluation are not in it."""
        return sum(phase.seconds for phase in self.phases)


def make_plan(
    config: Config,
    *,
    prompt_length: int | None = None,
    flops: float = FLOPS,
    bandwidth: float = BANDWIDTH,
    num_processes: int = 1,
    strategy: str = "ddp",
) -> Plan:
    """Forecast a run.

    Args:
        prompt_length: P; None: 256, or what the model can read beside the response.
        flops: operations per second that a process achieves. bandwidth: bytes per second that it reads from its memory.
        strategy: what processes share, one of `STRATEGIES`.

    Raises:
        FileNotFoundError: there is no config.json of the model.
        ValueError: lengths, steps or processes that do not fit.
    """
    model, options = sizes.load_sizes(config.model.path), config.model
    P, L = choose_lengths(config, model, prompt_length)
    check(config, L, strategy, num_processes, flops=flops, bandwidth=bandwidth)

    adapters = sizes.count_adapters(model, options)
    phases = list_phases(config, P, L, num_processes)
    fastest = sampling_phase(config, P, L, num_processes, fewest=True)
    compares = config.weight.log_ratio != "none" or build_objective(config.loss, config.weight).uses_log_ref
    held: dict[str, Any] = sizes.held_bytes(model, options, num_processes, strategy, compares=compares)
    needs: dict[str, Any] = sampling_bytes(config, model, phases[0], P, L) | training_bytes(config, model, phases[1:], P, L)
    # Every call of the model reads all weights once, and with fsdp2 first fetches those that others hold.
    whole = sizes.weight_bytes(model, options) + 4 * adapters
    read = whole / bandwidth + (whole * (1 - 1 / num_processes) / LINK if strategy == "fsdp2" else 0)
    for phase in [*phases, fastest]:
        phase.seconds = least_seconds(phase, model, config, flops, read)
    return Plan(
        parameters=sizes.count_parameters(model) + adapters,
        trainable=adapters or sizes.count_parameters(model),
        num_processes=num_processes,
        rounds=config.train.rounds,
        rollouts=config.train.prompts_per_round * config.train.num_rollouts,
        response_length=L,
        sequence_length=P + L,
        sampler=config.sampler,
        checkpointing=options.gradient_checkpointing,
        **held,
        passing={name: needs.pop(name) + held["gathered"] for name in ADVICE},
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


def check(config: Config, L: int, strategy: str, num_processes: int, **positive: float) -> None:
    """Refuse what the run itself would refuse."""
    if strategy == "zero2":
        raise ValueError("strategy=zero2: DeepSpeed was removed in version 0.2.0; use ddp (adapters) or fsdp2 (all weights)")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy}: choose among {', '.join(STRATEGIES)}")
    if strategy == "fsdp2":
        check_quantize(config, strategy)
    for name, value in {"num_processes": num_processes, **positive}.items():
        if not value > 0:  # NaN is not
            raise ValueError(f"{name}={value}: must be above 0")
    check_division(config.train, num_processes)
    check_lengths(config.sampler, torch.tensor([L]))


def least_seconds(phase: Phase, model: LLaDAConfig, config: Config, flops: float, read: float) -> float:
    """Least time of a phase: in each pass the slower of its arithmetic and of reading the weights, once in every call.

    Reading the cache and the activations is not counted.

    Args:
        flops: operations per second. read: seconds to read the weights.
    """
    S = max(phase.fed)
    compute = {fed: phase.rows * sizes.forward_flops(model, config.model, fed, S, phase.scored) / flops for fed in set(phase.fed)}
    return phase.worth * sum(max(compute[fed], ceil(phase.rows / phase.batch) * read) for fed in phase.fed)


def sampling_bytes(config: Config, model: LLaDAConfig, phase: Phase, P: int, L: int) -> dict[str, float]:
    """Most that sampling needs beyond what a process holds, and the part of it that is `cache`.

        sequences of a call · (one block + cache + logits)  +  temporaries of a chunk of logits  +  uniforms, float64 [T + 1, S]

    Without gradients, what a block would have kept bounds what it holds while it runs.
    """
    sampler, V, S, b = config.sampler, model.embedding_size, P + L, sizes.element_bytes(config.model)
    scored = phase.batch * ceil(phase.scored)
    if sampler.name in (*CONFIDENT, "wino"):  # in the first pass of a block, all of it
        scored = phase.batch * (sampler.block_length or L)
    each = b * (2 if sampler.name == "wino" else 1)  # wino parts the logits of sequence and shadow
    if sampler.guidance:  # a copy in float32, c − u and its multiple, half as many
        each += 8
    block = sizes.activation_bytes(model, config.model, max(phase.fed))
    cache = 0 if sampler.cache == "none" else phase.batch * sizes.cache_bytes(model, config.model, S)
    uniforms = phase.rows // (2 if sampler.guidance else 1) * (len(phase.fed) + 1) * S * 8
    most = phase.batch * block + cache + scored * V * each + min(scored, chunk_size(V)) * V * SAMPLER_BYTES + uniforms
    return {"sampling": most, "cache": cache}


def training_bytes(config: Config, model: LLaDAConfig, phases: list[Phase], P: int, L: int) -> dict[str, Any]:
    """What scoring and a gradient step need beyond what a process holds, and the parts of it that `Plan` names.

        scoring        sequences of a call · one block + logits
        gradient step  activations + sequences of a call · the gradients inside one block + logits + the head's gradient

    Activations are, of every sequence, all blocks (checkpointed: one block, and the input of all), the last norm and the head's.
    """
    V, d, S, b = model.embedding_size, model.d_model, P + L, sizes.element_bytes(config.model)
    is_full = config.model.lora_rank == 0
    *scoring, step = phases
    block = sizes.activation_bytes(model, config.model, S)
    logits = 3 * 4 * min(chunk_size(V), step.batch * L) * V  # float32 logits, their softmax, a temporary
    final = S * 4 * d + (S * is_full + 2 * L) * b * d  # last norm, and what the head keeps
    kept = {False: model.n_layers * block, True: model.n_layers * S * d * b + block}
    activations = {checkpointed: step.batch * (size + final) for checkpointed, size in kept.items()}
    head = V * d * b * is_full  # its gradient is added up in place but made by a product of its size
    return {
        "scoring": max((p.batch * block + logits for p in scoring), default=0),
        "gradient step": activations[config.model.gradient_checkpointing] + step.batch * block + logits + head,
        "activations": activations,
        "logits": logits,
    }


def format_plan(plan: Plan, gpu_memory: float = 80.0) -> str:
    """The plan as a page of text, and whether it fits a GPU of `gpu_memory` GB (10⁹ bytes)."""
    if not gpu_memory > 0:  # NaN is not
        raise ValueError(f"gpu_memory={gpu_memory}: must be above 0, in GB")
    memory = {
        "weights": plan.weights,
        "reference, a second model": plan.reference,
        "adapters": plan.adapters,
        "gradients": plan.gradients,
        "optimiser states": plan.optimizer,
        "whole weights of a pass": plan.gathered,
        "while sampling, at most": plan.passing["sampling"],
        "  of it key/value cache": plan.cache,
        "while scoring": plan.passing["scoring"],
        "while in a gradient step": plan.passing["gradient step"],
        "  of it activations": plan.activations[plan.checkpointing],
        f"  ({'without' if plan.checkpointing else 'with'} checkpointing)": plan.activations[not plan.checkpointing],
        "  of it vocabulary logits": plan.logits,
        "context, workspaces, slack": OVERHEAD,
    }
    rows = [(p.name + f" (×{p.worth})" * (p.worth > 1), p.sequences, p.tokens, p.calls, p.seconds) for p in plan.phases]
    rows.append(("together", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    sizes_in_gb = [(name, bytes_ / 1e9) for name, bytes_ in memory.items()]
    passes = tabulate(rows, ("passes of a round", "sequences", "tokens", "calls each", "seconds >"), "plain", intfmt=",", floatfmt=".1f")
    return f"""\
parameters {plan.parameters:,}, trained {plan.trainable:,} ({plan.trainable / plan.parameters:.2%})
a round: {plan.rollouts:,} rollouts, {plan.rollouts * plan.response_length:,} tokens generated, sequences of {plan.sequence_length} tokens

memory on each process, GB (the three `while` take turns, and contain the whole weights)
{tabulate(sizes_in_gb, tablefmt="plain", floatfmt=".2f", preserve_whitespace=True)}

{passes}
{explain_passes(plan)}
{plan.rounds} rounds: > {plan.rounds * plan.seconds / 3600:.1f} hours

{verdict(plan, gpu_memory)}"""


def explain_passes(plan: Plan) -> str:
    """What the table cannot say: what a gradient step costs, passes that depend on the model, feed a part, or are fed twice."""
    sampler, (most, least) = plan.sampler, (plan.phases[0], plan.fastest)
    again = ", and one again for checkpointing" if plan.checkpointing else ""
    lines = [f"×{plan.phases[-1].worth}: a gradient step costs a forward pass, two for the backward{again}"]
    if least.calls < most.calls:
        lines.append(
            f"{sampler.name} takes {len(least.fed)} to {len(most.fed)} passes for a response, fewer where the model is confident. "
            f"Counted are {len(most.fed)}; with {len(least.fed)} sampling takes > {least.seconds:.1f} seconds"
        )
    if sampler.cache != "none":
        mean = sum(most.fed) / len(most.fed)
        lines.append(f"cache={sampler.cache}: a pass feeds {mean:.1f} of {plan.sequence_length} tokens on average")
    if sampler.guidance:
        lines.append(f"guidance={sampler.guidance:g}: each response is fed as two sequences, with its prompt and without")
    return "\n".join(lines)


def verdict(plan: Plan, gpu_memory: float) -> str:
    """One line: whether it fits, and if not, what to change first."""
    needs = f"needs {plan.peak / 1e9:.1f} GB of {gpu_memory:g} GB on each of {plan.num_processes} GPU{'s' * (plan.num_processes > 1)}"
    if plan.peak <= gpu_memory * 1e9:
        return f"{needs}: fits"
    if plan.resident + OVERHEAD > gpu_memory * 1e9:
        return f"{needs}: does not fit, whatever the micro-batches; set model.lora_rank, or model.quantize=nf4 with it, or use fsdp2"
    largest = max(plan.passing, key=lambda name: plan.passing[name])
    return f"{needs}: does not fit; most is needed for the {largest}, so set a smaller {ADVICE[largest]}"
