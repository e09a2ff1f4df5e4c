"""A plan as a page of text, compared with what other settings would take."""

from __future__ import annotations

from tabulate import tabulate

from dmpo_ref.forecast.hardware import BANDWIDTH_SHARE, MATRIX_SHARE
from dmpo_ref.forecast.plan import OVERHEAD, Plan

ADVICE = {
    "sampling": "sampler.micro_batch",
    "scoring": "train.score_micro_batch",
    "gradient step": "loss.micro_batch, or model.gradient_checkpointing=true",
}


def format_plan(plan: Plan) -> str:
    """The plan as a page of text, and whether it fits its GPU."""
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
    rows = [(p.name + f" (×{p.worth:.2f})" * p.gradient, p.sequences, p.tokens, p.calls, p.least, p.seconds) for p in plan.phases]
    rows.append(("together", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    widest, longest = max(map(len, memory)), len(f"{max(memory.values()) / 1e9:.2f}")
    sizes_in_gb = "\n".join(f"{name:{widest}}  {bytes_ / 1e9:{longest}.2f}" for name, bytes_ in memory.items())
    header = ("passes of a round", "sequences", "tokens", "calls each", "seconds >", "expected")
    passes = tabulate(rows, header, "plain", intfmt=",", floatfmt=".1f")
    return f"""\
parameters {plan.parameters:,}, trained {plan.trainable:,} ({plan.trainable / plan.parameters:.2%})
a round: {plan.rollouts:,} rollouts, {plan.rollouts * plan.response_length:,} tokens generated, sequences of {plan.sequence_length} tokens

memory on each process, GB (the three `while` take turns, and contain the whole weights)
{sizes_in_gb}

{passes}
{explain_passes(plan)}
{plan.rounds} rounds: > {plan.rounds * plan.least / 3600:.1f} hours, expected {plan.rounds * plan.seconds / 3600:.1f}

{verdict(plan)}"""


def explain_passes(plan: Plan) -> str:
    """What the table does not show: cost of a gradient step, assumptions about times; passes that depend on the model, feed a part of
    a sequence, or feed it twice."""
    sampler, (most, least) = plan.sampler, (plan.phases[0], plan.fastest)
    parts = f"forward, gradients of inputs and of {'adapters' if plan.adapters else 'weights'}"
    again = ", the blocks again for checkpointing" * plan.checkpointing
    peak = plan.gpu.flops if plan.dtype == "bfloat16" else plan.gpu.flops_float32
    lines = [
        f"×{plan.phases[-1].worth:.2f}: {parts}{again}, in forward passes",
        f">: {plan.gpu.name} at its peaks; expected: {MATRIX_SHARE:.0%} of {peak / 1e12:g} TFLOPS in matrix products, "
        f"{BANDWIDTH_SHARE:.0%} of {plan.gpu.bandwidth / 1e12:g} TB/s in all else (not measured)",
    ]
    if least.calls < most.calls:
        lines.append(
            f"{sampler.name} takes {len(least.fed)} to {len(most.fed)} passes for a response, fewer where the model is confident. "
            f"Counted are {len(most.fed)}; with {len(least.fed)} sampling takes > {least.least:.1f} seconds, expected {least.seconds:.1f}"
        )
    if sampler.cache != "none":
        mean = sum(most.fed) / len(most.fed)
        lines.append(f"cache={sampler.cache}: a pass feeds {mean:.1f} of {plan.sequence_length} tokens on average")
    if sampler.guidance:
        lines.append(f"guidance={sampler.guidance:g}: each response is fed as two sequences, with its prompt and without")
    return "\n".join(lines)


def verdict(plan: Plan) -> str:
    """One line: whether it fits, and if not, what to change first."""
    gpu_memory = plan.gpu.memory
    needs = f"needs {plan.peak / 1e9:.1f} GB of {gpu_memory:g} GB on each of {plan.num_processes} GPU{'s' * (plan.num_processes > 1)}"
    if plan.peak <= gpu_memory * 1e9:
        return f"{needs}: fits"
    if plan.resident + OVERHEAD > gpu_memory * 1e9:
        return f"{needs}: does not fit, whatever the micro-batches; set model.lora_rank, or model.quantize=nf4 with it, or use fsdp2"
    largest = max(plan.passing, key=lambda name: plan.passing[name])
    return f"{needs}: does not fit; most is needed for the {largest}, so set a smaller {ADVICE[largest]}"


def format_variants(plan: Plan, others: dict[str, Plan]) -> str:
    """A round of the plan next to those of other settings, see `plan_variants`."""
    rows = [(name, other.least, other.seconds, other.peak / 1e9) for name, other in {"as it is": plan, **others}.items()]
    return tabulate(rows, ("a round", "seconds >", "expected", "GB"), "plain", floatfmt=".1f")
