"""What a run will cost, from its config alone: memory on each process, forward passes and time of a round.

No weights are loaded and no GPU is needed. Memory counts what the code keeps, tensor by tensor. Time is a bound from two numbers
of the hardware, arithmetic and bandwidth, not a promise. The arithmetic of the model itself is in `model_size.py`.

Symbols: G prompts, N rollouts of each, P tokens of the longest prompt, L of the response, S = P + L, K gradient steps, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from dmpo_ref import model_size
from dmpo_ref.config import Config, SamplerConfig
from dmpo_ref.head import chunk_size
from dmpo_ref.losses import build_objective
from dmpo_ref.model import LLaDAConfig
from dmpo_ref.samplers import CONFIDENT, PARALLEL, check_sampling

FLOPS = 400e12  # bf16 operations per second that one H100 or H200 achieves on large matrices, about 40 % of its peak
BANDWIDTH = 3.3e12  # bytes per second from the memory of an H100; an H200 has 4.8e12
LINK = 450e9  # bytes per second that one H100 receives from the others of its machine, NVLink's peak
STRATEGIES = ("ddp", "fsdp2", "zero2")  # the config files in presets/accelerate
PROMPT_LENGTH, RESPONSE_LENGTH = 256, 16  # tokens, where neither config nor command line says
OVERHEAD = 2e9  # bytes of CUDA context, library workspaces and allocator slack; a rough allowance
# Bytes a position of one chunk of `placing.propose` needs for each of the V tokens, at most: the restricted logits (4), and
# their float64 copy, log-probability, CDF and softmax (4 · 8). The logits of all positions come on top.
SAMPLER_BYTES = 36
ADVICE = {
    "sampling": "sampler.micro_batch",
    "scoring": "train.score_micro_batch",
    "gradient step": "loss.micro_batch, or model.gradient_checkpointing=true",
}


@dataclass
class Phase:
    """One kind of pass in a round: `rows` sequences of a process go through the model len(fed) times, `batch` in a call.

    Attributes:
        fed: tokens of a sequence, padding included, that each of these passes feeds.
        scored: positions of a sequence whose logits a pass reads, on average.
        worth: forward passes that one costs: a backward pass counts as 2, the second forward of gradient checkpointing as 1.
        seconds: at least, on each process.
    """

    name: str
    fed: list[int]
    rows: int
    batch: int
    scored: float
    num_processes: int
    worth: int = 1
    seconds: float = 0.0

    @property
    def sequences(self) -> int:
        """Forward passes of one sequence, all processes together."""
        return self.worth * len(self.fed) * self.rows * self.num_processes

    @property
    def tokens(self) -> int:
        """Tokens fed in them."""
        return self.worth * sum(self.fed) * self.rows * self.num_processes

    @property
    def calls(self) -> int:
        """Of the model, on each process."""
        return len(self.fed) * ceil(self.rows / self.batch)


@dataclass
class Plan:
    """The forecast. Memory is in bytes on each process; time in seconds; counts are of one round, all processes together.

    Attributes:
        parameters: of the model, adapters included; trainable: those that the optimiser changes.
        weights, reference, adapters, gradients, optimizer, gathered: see `model_size.held_bytes`.
        passing: what sampling, scoring and a gradient step need while they run, `gathered` included; they take turns.
        cache: part of sampling, the keys and values that are kept.
        activations: part of a gradient step, kept from the forward to the backward pass; by whether blocks are checkpointed.
        logits: part of scoring and gradient step, one chunk of vocabulary logits.
        phases: in order; sampling with the most passes that it can take. fastest: sampling with the fewest.
    """

    parameters: int
    trainable: int
    num_processes: int
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
        prompt_length: P; None: 256, or what the model has room for beside the response.
        flops: operations per second that a process achieves. bandwidth: bytes per second that it reads from its memory.
        strategy: what processes share, one of `STRATEGIES`.

    Raises:
        FileNotFoundError: there is no config.json of the model.
        ValueError: lengths, steps or processes that do not fit.
    """
    model, options = model_size.load_sizes(config.model.path), config.model
    L = config.sampler.response_length or RESPONSE_LENGTH
    P = min(PROMPT_LENGTH, model.max_sequence_length - L) if prompt_length is None else prompt_length
    check(config, model, P, L, strategy, flops=flops, bandwidth=bandwidth, num_processes=num_processes)

    adapters = model_size.count_adapters(model, options)
    phases = list_phases(config, P, L, num_processes)
    fastest = sampling_phase(config, P, L, num_processes, fewest=True)
    compares = config.weight.log_ratio != "none" or build_objective(config.loss, config.weight.alpha).uses_log_ref
    held = model_size.held_bytes(model, options, num_processes, strategy, compares=compares)
    # Every call of the model reads all weights once, and with fsdp2 first fetches those that others hold.
    whole = model_size.weight_bytes(model, options) + 4 * adapters
    read = whole / bandwidth + (whole * (1 - 1 / num_processes) / LINK if strategy == "fsdp2" else 0)
    for phase in [*phases, fastest]:
        phase.seconds = least_seconds(phase, model, config, flops, read)
    return Plan(
        parameters=model_size.count_parameters(model) + adapters,
        trainable=adapters or model_size.count_parameters(model),
        num_processes=num_processes,
        rollouts=config.train.prompts_per_round * config.train.num_rollouts,
        response_length=L,
        sequence_length=P + L,
        sampler=config.sampler,
        checkpointing=options.gradient_checkpointing,
        **held,
        **use(config, model, phases, P, L, gathered=held["gathered"]),
        phases=phases,
        fastest=fastest,
    )


def check(config: Config, model: LLaDAConfig, P: int, L: int, strategy: str, **positive: float) -> None:
    """Refuse what the run itself would refuse."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy}: choose among {', '.join(STRATEGIES)}")
    if strategy == "fsdp2" and config.model.quantize != "none":
        raise ValueError(f"model.quantize={config.model.quantize}: 4-bit weights cannot be divided by fsdp2; use none, or ddp")
    for name, value in positive.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")
    if not 0 <= P <= (most := model.max_sequence_length) - L:
        raise ValueError(f"a prompt of {P} and a response of {L} tokens do not fit the model's max_sequence_length={most}")
    for key in ("prompts_per_round", "prompts_per_step"):
        if (getattr(config.train, key) or 0) % positive["num_processes"]:
            raise ValueError(f"train.{key}={getattr(config.train, key)}: cannot be shared evenly by {positive['num_processes']} processes")
    check_sampling(config.sampler, torch.tensor([L]))


def list_phases(config: Config, P: int, L: int, num_processes: int) -> list[Phase]:
    """What each process does in a round, in order: sampling, scoring if there is any, gradient steps."""
    train, loss, log_ratio = config.train, config.loss, config.weight.log_ratio
    rollouts = train.prompts_per_round * train.num_rollouts // num_processes
    in_step = (train.prompts_per_step or train.prompts_per_round) * train.num_rollouts // num_processes
    K, T = train.steps_per_round, config.sampler.steps or L
    objective = build_objective(loss, config.weight.alpha)
    views, scored = loss.num_replicates, L / 2  # views of a rollout in one step, positions scored in each
    if objective.follows_path:
        views, scored = T, L / T
    if loss.name in ("diffu_grpo", "wd1"):  # one shot
        views, scored = 1, L

    def phase(name: str, passes: int, rows: int, micro_batch: int | None, scored: float, worth: int = 1) -> Phase:
        return Phase(name, [P + L] * passes, rows, min(micro_batch or rows, rows), scored, num_processes, worth)

    phases = [sampling_phase(config, P, L, num_processes)]
    if log_ratio == "path":
        phases.append(phase("scoring p_ref", 1, rollouts * T, train.score_micro_batch, L / T))
    if log_ratio == "elbo":
        phases.append(phase("scoring p_ref, p_old", 2, rollouts * config.weight.elbo_replicates, train.score_micro_batch, L / 2))
    stored = ["log p_old"] * (objective.uses_log_old or config.weight.baseline == "model") + ["log p_ref"] * objective.uses_log_ref
    for name in stored:
        phases.append(phase(f"storing {name}", 1 if objective.follows_path else K, rollouts * views, train.score_micro_batch, scored))
    if stored and loss.micro_batch:  # a loss that is not linear needs its slopes before it is taken in parts
        phases.append(phase("slopes of the loss", K, in_step * views, loss.micro_batch, scored))
    # Backward counts as two: gradients of the inputs and of the weights (frozen weights skip the second). Checkpointing runs each
    # block again.
    return [*phases, phase("gradient steps", K, in_step * views, loss.micro_batch, scored, 3 + config.model.gradient_checkpointing)]


def sampling_phase(config: Config, P: int, L: int, num_processes: int, *, fewest: bool = False) -> Phase:
    """Sampling as `samplers.sample` does it. With guidance a rollout is two sequences, the second with its prompt masked."""
    sampler, copies = config.sampler, 2 if config.sampler.guidance else 1
    rows = copies * config.train.prompts_per_round * config.train.num_rollouts // num_processes
    batch = copies * max(1, (sampler.micro_batch or rows) // copies)
    b = sampler.block_length or L
    n = passes_of_block(sampler, L, fewest=fewest)
    scored = b / n
    if sampler.name in CONFIDENT:  # all that is still open: b, then b/n fewer after every pass
        scored = b * (n + 1) / (2 * n)
    if sampler.name == "wino":  # what is open in the sequence, what is placed in the shadow
        scored = b
    return Phase("sampling", tokens_fed(sampler, P, L, n), rows, min(batch, rows), scored, num_processes)


def passes_of_block(sampler: SamplerConfig, L: int, *, fewest: bool) -> int:
    """Forward passes that fill a block of b positions: T b / L with a budget of T, and b without one.

    How many `threshold`, `factor` and `wino` take depends on how sure the model is. At least one token is placed in each, so b are
    the most; the fewest are one, or for wino what its limit of min(max(⌊0.7 · open⌋, 5), 20) tokens in a pass allows.
    """
    b = sampler.block_length or L
    if not fewest or sampler.name not in (*PARALLEL, "wino"):
        return (sampler.steps or L) * b // L
    if sampler.name in PARALLEL:
        return 1
    passes = 0
    while b > 0:
        b, passes = b - min(max(7 * b // 10, 5), 20), passes + 1
    return passes


def tokens_fed(sampler: SamplerConfig, P: int, L: int, n: int) -> list[int]:
    """Tokens of one sequence that each pass feeds, block after block of b positions, n passes each.

        cache=none      P + L, with wino b more: the shadow of the block
        cache=prefix    P + L in the first pass of a block; then the block and all that follows it
        cache=dual      P + L in the first pass of a block; then the block, b
    """
    b, fed = sampler.block_length or L, []
    whole = P + L + (b if sampler.name == "wino" else 0)
    for start in range(0, L, b):
        later = {"none": whole, "prefix": L - start, "dual": b}[sampler.cache]
        fed += [whole] + [later] * (n - 1)
    return fed


def least_seconds(phase: Phase, model: LLaDAConfig, config: Config, flops: float, read: float) -> float:
    """Least time of a phase: in each pass the slower of its arithmetic and of reading the weights, once in every call.

    Reading the cache and the activations is not counted.

    Args:
        flops: operations per second. read: seconds to read the weights.
    """
    S = max(phase.fed)
    compute = {fed: phase.rows * model_size.forward_flops(model, config.model, fed, S, phase.scored) / flops for fed in set(phase.fed)}
    return phase.worth * sum(max(compute[fed], ceil(phase.rows / phase.batch) * read) for fed in phase.fed)


def use(config: Config, model: LLaDAConfig, phases: list[Phase], P: int, L: int, *, gathered: float) -> dict:
    """Bytes that a process needs while a phase runs, beyond what it holds: `passing` of `Plan`, and parts of it.

        sampling       micro-batch · (one block + cache + logits) + temporaries of a chunk of logits + uniforms, float64 [T + 1, S]
        scoring        micro-batch · one block + logits
        gradient step  activations + micro-batch · the gradients inside one block + logits + the head's gradient

    Without gradients, what a block would have kept bounds what it holds while it runs.
    """
    options, b, V, d, S = config.model, model_size.element_bytes(config.model), model.embedding_size, model.d_model, P + L
    adapters = model_size.count_adapters(model, options)
    sample, *scoring, step = phases
    block = model_size.activation_bytes(model, options, S)
    logits = 3 * 4 * min(chunk_size(V), step.batch * L) * V  # float32 logits, their softmax, a temporary
    final = S * 4 * d + (S * (not adapters) + 2 * L) * b * d  # last norm, and what the head keeps
    inputs = model.n_layers * S * d * b  # what checkpointing keeps: the input of every block
    activations = {False: step.batch * (model.n_layers * block + final), True: step.batch * (inputs + block + final)}
    # The head's gradient is added up in place but made by a product of its size, V · d.
    gradient_step = activations[options.gradient_checkpointing] + step.batch * block + logits + (0 if adapters else V * d * b)

    cache = sample.batch * model_size.cache_bytes(model, options, S) if config.sampler.cache != "none" else 0
    most_scored = sample.batch * positions_scored(config.sampler, L)
    copies = {"wino": 2 * b}.get(config.sampler.name, b) + (8 if config.sampler.guidance else 0)  # of a logit; see `positions_scored`
    sampling = sample.batch * model_size.activation_bytes(model, options, max(sample.fed)) + cache + most_scored * V * copies
    sampling += min(most_scored, chunk_size(V)) * V * SAMPLER_BYTES + sample.rows * (len(sample.fed) + 1) * S * 8
    passing = {
        "sampling": sampling,
        "scoring": max((p.batch * block + logits for p in scoring), default=0),
        "gradient step": gradient_step,
    }
    passing = {name: size + gathered for name, size in passing.items()}
    return {"passing": passing, "cache": cache, "activations": activations, "logits": logits}


def format_plan(plan: Plan, gpu_memory: float = 80.0) -> str:
    """The plan as a page of text, and whether it fits a GPU of `gpu_memory` GB (10⁹ bytes)."""
    if gpu_memory <= 0:
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
    rows = [(p.name, p.sequences, p.tokens, p.calls, p.seconds) for p in plan.phases]
    rows.append(("together", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    lines = [
        f"parameters {plan.parameters:,}, trained {plan.trainable:,} ({plan.trainable / plan.parameters:.2%})",
        f"a round: {plan.rollouts:,} rollouts, {plan.rollouts * plan.response_length:,} tokens generated, "
        f"sequences of {plan.sequence_length} tokens",
        *("", "memory on each process, GB (the three `while` take turns, and contain the whole weights)"),
        *(f"  {name:<30}{bytes_ / 1e9:9.2f}" for name, bytes_ in memory.items()),
        *("", f"{'forward passes of a round':<28}{'sequences':>12}{'tokens':>16}{'calls each':>12}{'seconds >':>12}"),
        *(f"  {name:<26}{s:>12,}{tokens:>16,}{calls:>12,}{seconds:>12.1f}" for name, s, tokens, calls, seconds in rows),
        *explain_sampling(plan),
        *("", verdict(plan, gpu_memory)),
    ]
    return "\n".join(lines)


def explain_sampling(plan: Plan) -> list[str]:
    """What the table cannot say: passes that depend on the model, passes that feed a part, sequences fed twice."""
    sampler, (most, least), lines = plan.sampler, (plan.phases[0], plan.fastest), []
    if least.calls < most.calls:
        lines.append(
            f"  {sampler.name} takes {len(least.fed)} to {len(most.fed)} passes for a response, fewer the surer the model is. Counted are "
            f"{len(most.fed)}; with {len(least.fed)} sampling takes > {least.seconds:.1f} seconds"
        )
    if sampler.cache != "none":
        lines.append(f"  cache={sampler.cache}: a pass feeds {sum(most.fed) / len(most.fed):.1f} of {plan.sequence_length} tokens on average")
    if sampler.guidance:
        lines.append(f"  guidance={sampler.guidance:g}: each response is fed as two sequences, with its prompt and without")
    return lines


def verdict(plan: Plan, gpu_memory: float) -> str:
    """One line: whether it fits, and if not, what to change first."""
    needs = f"needs {plan.peak / 1e9:.1f} GB of {gpu_memory:g} GB on each of {plan.num_processes} GPU{'s' * (plan.num_processes > 1)}"
    if plan.peak <= gpu_memory * 1e9:
        return f"{needs}: fits"
    if plan.resident + OVERHEAD > gpu_memory * 1e9:
        return f"{needs}: does not fit, whatever the micro-batches; set model.lora_rank, or model.quantize=nf4 with it, or use fsdp2"
    largest = max(plan.passing, key=plan.passing.get)
    return f"{needs}: does not fit; most is needed for the {largest}, so set a smaller {ADVICE[largest]}"
