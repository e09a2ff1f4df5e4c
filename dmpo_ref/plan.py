"""What a run will cost, from its config alone: parameters, memory on each process, forward passes and time of a round.

No weights are loaded and no GPU is needed; the sizes come from the model's config.json. Memory counts what the code keeps,
tensor by tensor. Time is a bound from two numbers of the hardware, arithmetic and bandwidth, not a promise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch

from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.head import chunk_size
from dmpo_ref.losses import build_objective
from dmpo_ref.model import LLaDAConfig
from dmpo_ref.policy import base_of, locate, read_config
from dmpo_ref.samplers import check_sampling

FLOPS = 400e12  # bf16 operations per second that one H100 or H200 achieves on large matrices, about 40 % of its peak
BANDWIDTH = 3.3e12  # bytes per second from the memory of an H100; an H200 has 4.8e12
LINK = 450e9  # bytes per second that one H100 receives from the others of its machine, NVLink's peak
BUCKET = 4 * 5e8  # bytes in which DeepSpeed collects gradients before it exchanges them, its default
STRATEGIES = ("ddp", "fsdp2", "zero2")  # the config files in presets/accelerate
KNOWN_8B = "GSAI-ML/LLaDA"
PROMPT_LENGTH, RESPONSE_LENGTH = 256, 16  # tokens, where neither config nor command line says
OVERHEAD = 2e9  # bytes of CUDA context, library workspaces and allocator slack; a rough allowance
# Bytes a position of one chunk of `samplers.propose` needs for each of the V tokens, at most: the restricted logits (4), and
# their float64 copy, log-probability, CDF and softmax (4 · 8). The logits of all positions come on top.
SAMPLER_BYTES = 36
NF4_BYTES = 0.5 + 4 / 64  # a weight in 4 bits, and one float32 scale for 64 of them
ADVICE = {
    "sampling": "sampler.micro_batch",
    "scoring": "train.score_micro_batch",
    "gradient step": "loss.micro_batch, or model.gradient_checkpointing=true",
}


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
            With fsdp2 each is this process's share.
        gradients: one number per trainable parameter; ddp keeps them twice (communication buckets); zero2 and fsdp2 a share.
        optimizer: AdamW's two moments, counted in float32; zero2 adds a float32 copy of the weights, and keeps a share of all three.
        gathered: whole weights that a pass has fetched, with fsdp2: two blocks, embedding and head; their gradients at once.
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
    gathered: float
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
    def kept(self) -> float:
        """The activations as the config asks for them."""
        return self.activations_checkpointed if self.checkpointing else self.activations

    @property
    def passing(self) -> dict[str, float]:
        """Bytes that each kind of pass needs while it runs; they never run at the same time."""
        passing = {"sampling": self.sampling, "scoring": self.scoring, "gradient step": self.kept + self.backward}
        return {name: most + self.gathered for name, most in passing.items()}

    @property
    def peak(self) -> float:
        """Most bytes at any time."""
        return self.resident + max(self.passing.values()) + OVERHEAD

    @property
    def seconds(self) -> float:
        """Least time of a round; rewards, optimiser steps and evaluation are not in it."""
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
        prompt_length: tokens of the longest prompt; None: 256, or what the model has room for beside the response.
        flops: operations per second that a process achieves. bandwidth: bytes per second that it reads from its memory.
        strategy: what processes share, one of `STRATEGIES`.

    Raises:
        FileNotFoundError: there is no config.json of the model.
        ValueError: lengths, steps or processes that do not fit.
    """
    model, options = load_sizes(config.model.path), config.model
    L = config.sampler.response_length or RESPONSE_LENGTH
    P = min(PROMPT_LENGTH, model.max_sequence_length - L) if prompt_length is None else prompt_length
    check(config, model, P, L, strategy, flops=flops, bandwidth=bandwidth, num_processes=num_processes)
    S, V, element = P + L, model.embedding_size, 2 if options.dtype == "bfloat16" else 4  # bytes of a weight

    parameters, linear, adapters = count_parameters(model), model.n_layers * sum(a * b for a, b in shapes(model).values()), 0
    if options.lora_rank:
        adapters = count_adapters(model, options)
    weights = parameters * element - (linear * (element - NF4_BYTES) if options.quantize == "nf4" else 0)
    # Without its adapters the policy is p_ref; otherwise p_ref is a second model.
    compares = config.weight.log_ratio != "none" or build_objective(config.loss, config.weight.alpha).uses_log_ref
    reference = weights if compares and not adapters else 0
    trainable = adapters or parameters

    passes = list_passes(config, L, num_processes)
    sample, *scoring, step = passes
    block = S * block_bytes(model, options, S)  # of one sequence
    logits = 3 * 4 * min(chunk_size(V), step.batch * L) * V  # float32 logits, their softmax, a temporary
    final = S * 4 * model.d_model + (S * (not adapters) + 2 * L) * element * model.d_model  # last norm, and what the head keeps
    inputs = model.n_layers * S * model.d_model * element  # what checkpointing keeps: the input of every block
    # The head's gradient is added up in place but made by a product of its size, V · d.
    head_gradient = 0 if adapters else V * model.d_model * element

    # A block of a pass is fetched while the one before it is computed; embedding, head and norms stay for the whole pass.
    fetched = (parameters - linear * (1 - 2 / model.n_layers)) * element * (1 if adapters else 2) + 2 * 4 * adapters * 2 / model.n_layers
    held = {"weights": weights, "reference": reference, "adapters": 4 * adapters}
    held |= {"gradients": trainable * (4 if adapters else element), "optimizer": 2 * 4 * trainable}
    read = (weights + 4 * adapters) / bandwidth  # seconds to read every weight once, as each forward pass must
    if strategy == "fsdp2":
        read += (weights + 4 * adapters) * (1 - 1 / num_processes) / LINK  # and to fetch what others hold
    phases = [p.forecast(S, num_processes, sequence_flops(model, linear + adapters, S, p.scored) / flops, read) for p in passes]
    return Plan(
        parameters=parameters + adapters,
        trainable=trainable,
        **divide(strategy, num_processes, held, fetched),
        activations=step.batch * (model.n_layers * block + final),
        activations_checkpointed=step.batch * (inputs + block + final),
        checkpointing=options.gradient_checkpointing,
        # No gradient: what one block would have kept bounds what it holds while it runs. The uniforms are float64, [T + 1, S].
        sampling=sample.batch * (block + sample.scored * V * element)
        + min(sample.batch * sample.scored, chunk_size(V)) * V * SAMPLER_BYTES
        + sample.rows * (sample.repeats + 1) * S * 8,
        scoring=max((p.batch for p in scoring), default=0) * block + (logits if scoring else 0),
        backward=step.batch * block + logits + head_gradient,
        logits=logits,
        sequence_length=S,
        rollouts=config.train.prompts_per_round * config.train.num_rollouts,
        generated_tokens=config.train.prompts_per_round * config.train.num_rollouts * L,
        num_processes=num_processes,
        phases=phases,
    )


def divide(strategy: str, n: int, held: dict[str, float], fetched: float) -> dict[str, float]:
    """Of what one process alone would hold, the bytes on each of n; see `Plan`."""
    if n == 1 or strategy == "ddp":
        return held | {"gradients": held["gradients"] * (1 if n == 1 else 2), "gathered": 0.0}
    if strategy == "zero2":
        copy = held["optimizer"] / 2  # float32 weights, as large as one of the moments
        return held | {"gradients": held["gradients"] / n + BUCKET, "optimizer": (held["optimizer"] + copy) / n, "gathered": 0.0}
    return {name: size / n for name, size in held.items()} | {"gathered": fetched}


def load_sizes(path: str) -> LLaDAConfig:
    """The config of a checkpoint, a run, a hub name, or the base of adapters; LLaDA-8B's is known without the hub."""
    where = locate(path)
    if base := base_of(where):
        return load_sizes(base)
    try:
        return read_config(path, offline=True)  # a forecast must not wait for a network
    except FileNotFoundError:
        if isinstance(where, str) and path.startswith(KNOWN_8B):
            return LLaDAConfig()
        raise


def check(config: Config, model: LLaDAConfig, P: int, L: int, strategy: str, **positive: float) -> None:
    """Refuse what the run itself would refuse."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy}: choose among {', '.join(STRATEGIES)}")
    if strategy == "fsdp2" and config.model.quantize != "none":
        raise ValueError(f"model.quantize={config.model.quantize}: 4-bit weights cannot be divided by fsdp2; use none, or ddp")
    for name, value in positive.items():
        if value <= 0:
            raise ValueError(f"{name}={value}: must be above 0")
    if not 0 <= P <= model.max_sequence_length - L:
        raise ValueError(
            f"a prompt of {P} and a response of {L} tokens do not fit the model's max_sequence_length={model.max_sequence_length}"
        )
    for key in ("prompts_per_round", "prompts_per_step"):
        if (getattr(config.train, key) or 0) % positive["num_processes"]:
            raise ValueError(f"train.{key}={getattr(config.train, key)}: cannot be shared evenly by {positive['num_processes']} processes")
    check_sampling(config.sampler, torch.tensor([L]))


def shapes(model: LLaDAConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers of one block."""
    d, m, kv = model.d_model, model.mlp_hidden_size, model.d_model // model.n_heads * model.n_kv_heads
    return {
        **{"q_proj": (d, d), "k_proj": (d, kv), "v_proj": (d, kv), "attn_out": (d, d)},
        **{"ff_proj": (d, m), "up_proj": (d, m), "ff_out": (m, d)},
    }


def count_parameters(model: LLaDAConfig) -> int:
    """Linear layers and two norms in every block; embedding, head and last norm; learned positions where there is no RoPE."""
    block = sum(a * b for a, b in shapes(model).values()) + 2 * model.d_model
    positions = 0 if model.rope else model.max_sequence_length
    return model.n_layers * block + (2 * model.embedding_size + 1 + positions) * model.d_model


def count_adapters(model: LLaDAConfig, options: ModelConfig) -> int:
    """LoRA adds A [r, inputs] and B [outputs, r] to each target."""
    known = shapes(model)
    if unknown := set(options.lora_targets) - set(known):
        raise ValueError(f"model.lora_targets: no layer {sorted(unknown)[0]!r}; choose among {', '.join(known)}")
    return model.n_layers * options.lora_rank * sum(sum(known[name]) for name in set(options.lora_targets))


def block_bytes(model: LLaDAConfig, options: ModelConfig, S: int) -> float:
    """Bytes per token that one block keeps from the forward to the backward pass.

        norms:      2 · (4 d + 4)        their input in float32, and 1 / its root mean square
        attention:  b (2 d + 2 d_kv)     q, k, v and the result; + 4 heads (log-sum-exp) + b S (the padding mask, as numbers)
        SwiGLU:     3 b m                gate, silu(gate), up
        inputs of linear layers, which the gradient of their weights needs:
          all trained:  b (4 d + m)      both norms' outputs, before and after their weight, and the input of `ff_out`
          LoRA:         4 r for each target, and its input: a float32 copy of its own in bfloat16 or with dropout (and then
                        1 byte of mask); as it is in float32, where q, k, v share theirs, gate and up too

    with b bytes per element. Softmax probabilities [S, S] are never kept: attention is computed in tiles.
    """
    d, m, r, b = model.d_model, model.mlp_hidden_size, options.lora_rank, 2 if options.dtype == "bfloat16" else 4
    kv = d // model.n_heads * model.n_kv_heads
    kept = 2 * (4 * d + 4) + b * (2 * d + 2 * kv) + 4 * model.n_heads + b * S + 3 * b * m
    if r == 0:
        return kept + b * (4 * d + m)
    targets = set(options.lora_targets)
    kept += 4 * r * len(targets)
    if b == 4 and options.lora_dropout == 0:
        shared = (bool(targets & {"q_proj", "k_proj", "v_proj"}) + bool(targets & {"ff_proj", "up_proj"})) * d
        return kept + b * (shared + m * ("ff_out" in targets))  # the input of `attn_out` is the result of attention
    return kept + (5 if options.lora_dropout else 4) * sum(shapes(model)[name][0] for name in targets)


@dataclass
class Pass:
    """`repeats` times, a process puts `rows` sequences through the model, `batch` in a call, and scores `scored` positions of each.
    One is `worth` so many forward passes."""

    name: str
    repeats: int
    rows: int
    batch: int
    scored: float
    worth: int = 1

    @property
    def calls(self) -> int:
        return self.repeats * ceil(self.rows / self.batch)

    def forecast(self, S: int, num_processes: int, compute: float, read: float) -> Phase:
        """Counts and least time, from the seconds that one sequence takes to compute and one call to read the weights."""
        rows = self.worth * self.repeats * self.rows
        seconds = max(rows * compute, self.worth * self.calls * read)
        return Phase(self.name, rows * num_processes, rows * num_processes * S, self.calls, seconds)


def list_passes(config: Config, L: int, num_processes: int) -> list[Pass]:
    """What a process does in a round, in order: sampling, scoring if there is any, gradient steps."""
    train, loss, log_ratio = config.train, config.loss, config.weight.log_ratio
    N, K, T = train.num_rollouts, train.steps_per_round, config.sampler.steps or L
    rollouts = train.prompts_per_round * N // num_processes
    in_step = (train.prompts_per_step or train.prompts_per_round) * N // num_processes
    objective = build_objective(loss, config.weight.alpha)
    is_path = objective.follows_path
    views, hidden = (T, L / T) if is_path else (loss.num_replicates, L / 2)  # views of a rollout, positions scored in each
    if loss.name in ("diffu_grpo", "wd1"):  # one shot
        views, hidden = 1, L
    stored = ["log p_old"] if objective.uses_log_old or config.weight.baseline == "model" else []
    stored += ["log p_ref"] if objective.uses_log_ref else []

    def build(name: str, repeats: int, rows: int, micro_batch: int | None, scored: float, worth: int = 1) -> Pass:
        return Pass(name, repeats, rows, min(micro_batch or rows, rows), scored, worth)

    passes = [build("sampling", T, rollouts, config.sampler.micro_batch, decoded_per_step(config, L))]
    if log_ratio == "path":
        passes.append(build("scoring p_ref", 1, rollouts * T, train.score_micro_batch, L / T))
    if log_ratio == "elbo":
        passes.append(build("scoring p_ref, p_old", 2, rollouts * config.weight.elbo_replicates, train.score_micro_batch, L / 2))
    for name in stored:
        passes.append(build(f"storing {name}", 1 if is_path else K, rollouts * views, train.score_micro_batch, hidden))
    if stored and loss.micro_batch:  # a loss that is not linear needs its slopes before it is taken in parts
        passes.append(build("slopes of the loss", K, in_step * views, loss.micro_batch, hidden))
    # Backward counts as two: gradients of the inputs and of the weights (frozen weights skip the second). Checkpointing runs each
    # block again.
    return [*passes, build("gradient steps", K, in_step * views, loss.micro_batch, hidden, 3 + config.model.gradient_checkpointing)]


def decoded_per_step(config: Config, L: int) -> int:
    """Positions of a row whose logits one sampling step reads, at most: `confidence` all of its block, the others those it fills."""
    block = config.sampler.block_length or L
    steps = (config.sampler.steps or L) * block // L
    return block if config.sampler.name == "confidence" else ceil(block / steps)


def sequence_flops(model: LLaDAConfig, linear: int, S: int, scored: float) -> float:
    """Operations of one forward pass of one sequence, a multiplication and an addition each.

    2 for each weight of the blocks and token; 2 S d for the scores and 2 S d for the values of attention, per token and
    block; the head's 2 V d at scored positions only.
    """
    return S * (2 * linear + 4 * model.n_layers * S * model.d_model) + 2 * scored * model.embedding_size * model.d_model


def format_plan(plan: Plan, gpu_memory: float = 80.0) -> str:
    """The plan as a page of text, and whether it fits a GPU of `gpu_memory` GB (10⁹ bytes)."""
    if gpu_memory <= 0:
        raise ValueError(f"gpu_memory={gpu_memory}: must be above 0, in GB")
    other = "without" if plan.checkpointing else "with"
    memory = {
        "weights": plan.weights,
        "reference, a second model": plan.reference,
        "adapters": plan.adapters,
        "gradients": plan.gradients,
        "optimiser states": plan.optimizer,
        "whole weights of a pass": plan.gathered,
        "while sampling, at most": plan.passing["sampling"],
        "while scoring": plan.passing["scoring"],
        "while in a gradient step": plan.passing["gradient step"],
        "  of it activations": plan.kept,
        f"  ({other} checkpointing)": plan.activations + plan.activations_checkpointed - plan.kept,
        "  of it vocabulary logits": plan.logits,
        "context, workspaces, slack": OVERHEAD,
    }
    lines = [
        f"parameters {plan.parameters:,}, trained {plan.trainable:,} ({plan.trainable / plan.parameters:.2%})",
        f"a round: {plan.rollouts:,} rollouts, {plan.generated_tokens:,} tokens generated, sequences of {plan.sequence_length} tokens",
        *("", "memory on each process, GB (the three `while` take turns, and contain the whole weights)"),
        *(f"  {name:<30}{bytes_ / 1e9:9.2f}" for name, bytes_ in memory.items()),
        *("", f"{'forward passes of a round':<28}{'sequences':>12}{'tokens':>16}{'calls each':>12}{'seconds >':>12}"),
        *(f"  {p.name:<26}{p.sequences:>12,}{p.tokens:>16,}{p.calls:>12,}{p.seconds:>12.1f}" for p in plan.phases),
        f"  {'together':<26}{sum(p.sequences for p in plan.phases):>12,}{sum(p.tokens for p in plan.phases):>16,}"
        f"{sum(p.calls for p in plan.phases):>12,}{plan.seconds:>12.1f}",
        "",
        verdict(plan, gpu_memory),
    ]
    return "\n".join(lines)


def verdict(plan: Plan, gpu_memory: float) -> str:
    """One line: whether it fits, and if not, what to change first."""
    needs = f"needs {plan.peak / 1e9:.1f} GB of {gpu_memory:g} GB on each of {plan.num_processes} GPU{'s' * (plan.num_processes > 1)}"
    if plan.peak <= gpu_memory * 1e9:
        return f"{needs}: fits"
    if plan.resident + OVERHEAD > gpu_memory * 1e9:
        return f"{needs}: does not fit, whatever the micro-batches; set model.lora_rank, or model.quantize=nf4 with it, or use fsdp2"
    largest = max(plan.passing, key=plan.passing.get)
    return f"{needs}: does not fit; most is needed for the {largest}, so set a smaller {ADVICE[largest]}"
