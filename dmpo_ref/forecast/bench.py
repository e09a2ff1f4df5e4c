"""Measurements of the library against the straightforward way of doing the same. `dmpo bench NAME`."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from dmpo_ref.config import SamplerConfig, TaskConfig
from dmpo_ref.likelihood import Vocabulary, mask_rows, sequence_log_prob, token_log_prob
from dmpo_ref.losses import wdce
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks import TASKS

SAMPLERS = {
    "confidence": {"name": "confidence", "steps": 64},
    "confidence, prefix": {"name": "confidence", "steps": 64, "cache": "prefix"},
    "confidence, dual": {"name": "confidence", "steps": 64, "cache": "dual"},
    "random": {"name": "random", "steps": 64},
    "random_order": {"name": "random_order"},
    "threshold": {"name": "threshold"},
    "threshold, dual": {"name": "threshold", "cache": "dual"},
    "factor": {"name": "factor"},
    "wino": {"name": "wino"},
}
RECORDS = {  # question and ground truth, as result files hold them
    "sudoku": ("1200341221434321", "1234341221434321"),
    "countdown": ("", [[3, 4, 5], 23]),
    "gsm8k": ("How much?", 1234.5),
    "math500": ("How much?", r"\frac{1}{2}"),
}
VOCABULARY, SEQUENCES, REPLICATES, PROMPT, RESPONSE = 126_464, 4, 4, 128, 256
WAYS = ("chunked", "full_logits")
# Otherwise glibc hands each large tensor's memory back to the system at once, and the next forward pass waits while the system clears
# the same pages again: nearly half of a batch's time on a virtual machine, none of a single row's, whose tensors are small.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}  # older glibc takes no more than 2**25


def bench_loss() -> str:
    """One WDCE step with LLaDA's vocabulary, in a process of its own for each way, so that peaks of memory do not mix.

    4 sequences × 4 replicates of 128 prompt and 256 response tokens, tiny hidden size, float32, CPU. `full_logits` projects every
    position of every sequence onto the vocabulary and lets autograd keep what it likes.
    """
    lines = [f"{'way':<14}{'seconds':>9}{'peak MB above idle':>20}{'gradient norm':>16}"]
    seconds, memory = {}, {}
    for way in WAYS:
        command = [sys.executable, "-c", f"from dmpo_ref.forecast.bench import measure_loss; measure_loss({way!r})"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds[way], memory[way], norm = map(float, out)
        lines.append(f"{way:<14}{seconds[way]:>9.2f}{memory[way]:>20.0f}{norm:>16.6f}")
    time_ratio, memory_ratio = (x["chunked"] / x["full_logits"] for x in (seconds, memory))
    return "\n".join([*lines, f"chunked / full_logits: time {time_ratio:.2f}, memory {memory_ratio:.2f}"])


def bench_samplers() -> str:
    """Every sampler on a random model of width 256, 4 layers, vocabulary 4,096: prompt 64, response 128, block 32, batch 8, T = 0.2.

    Times are the better of two. The last column is the share of the time that is not spent in the model. Random weights are never
    sure of anything: `threshold`, `factor` and `wino` show their worst case. The lines below the table compare `wino` on all 8
    prompts with 8 runs on one each.

    Measured in a process that keeps the memory it frees, see `KEEP_MEMORY`.
    """
    command = [sys.executable, "-c", "from dmpo_ref.forecast.bench import measure_samplers; measure_samplers()"]
    return subprocess.run(command, env=os.environ | KEEP_MEMORY, stdout=subprocess.PIPE, text=True, check=True).stdout.rstrip()


def measure_samplers() -> None:
    """Print the table of `bench_samplers`."""
    model, vocabulary, prompts = sampler_setting()
    measured = best_of_two(lambda name: run_sampler(name, model, vocabulary, prompts), list(SAMPLERS))
    plain = measured["confidence"][0]
    print(f"{'sampler':<20}{'seconds':>9}{'relative':>10}{'forwards':>10}{'fed tokens':>12}{'tokens/s':>10}{'overhead':>10}")
    for name, (seconds, overhead, rollout) in measured.items():
        cost = f"{rollout.forwards:>10}{rollout.fed_tokens:>12}{8 * 128 / seconds:>10.0f}{overhead:>10.1%}"
        print(f"{name:<20}{seconds:>9.2f}{seconds / plain:>10.2f}{cost}")
    for dtype in (torch.float32, torch.bfloat16):  # the toy's and LLaDA's
        print(compare_wino(model.to(dtype), vocabulary, prompts))


def compare_wino(model: LLaDAModelLM, vocabulary: Vocabulary, prompts: Prompts) -> str:
    """`wino` on all 8 prompts against 8 runs on one each, in a line."""
    runs = best_of_two(lambda only: run_sampler("wino", model, vocabulary, prompts, only=only), [None, *range(8)])
    (together, _, rollout), *alone = runs.values()
    ratio, forwards = together / sum(seconds for seconds, _, _ in alone), [rollout.forwards for _, _, rollout in alone]
    return (
        f"wino, 8 prompts at once / one by one, {str(model.dtype).removeprefix('torch.')}: time {ratio:.2f}, "
        f"forwards {rollout.forwards} / {sum(forwards)} (at most {max(forwards)})"
    )


def best_of_two(measure: Callable[[Any], tuple], cases: list) -> dict[Any, tuple]:
    """The quicker of two measurements of each case, taken in turn, so that a busy machine is busy for all."""
    first, second = ({case: measure(case) for case in cases} for _ in range(2))
    return {case: min(first[case], second[case], key=lambda measured: measured[0]) for case in cases}


def bench_grading() -> str:
    """Longest time that one answer takes each task to grade (both gradings) and to reward: usual answers, and hostile ones.

    Hostile are 1 MB of one character, 100,000 open brackets or tags, towers of powers, null characters and lone surrogates.
    """
    usual = [
        "<reasoning>\nBecause.\n</reasoning>\n<answer>\n" + answer + "\n</answer>" for answer in ("1234341221434321", r"\boxed{3+4*5}")
    ]
    usual += [r"so it is \boxed{\frac{1}{2}}", r"\boxed{1,234.50}", "no answer at all"]
    deep = [text * 100_000 for text in ("(", "{", r"\boxed{", "<answer>", r"\frac", "9**", "1+", "\0", "\ud800")]
    hostile = [
        "9" * 1_000_000,
        *deep,
        r"\boxed{9**9**9}",
        r"<answer>9^{9^{9^{9}}}</answer>",
        r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
    ]
    lines = [f"{'task':<10}{'':<9}{'grade, ms':>10}{'reward, ms':>11}"]
    for name, (question, truth) in RECORDS.items():
        item = TASKS[name].from_record(question, truth)
        configs = [TaskConfig(name=name, generate="chat", reward=reward) for reward in ("recipe", "published")]
        tasks = [TASKS[name](config) for config in configs]
        TASKS[name].grade(item, usual[0])  # what starts with the first answer, such as the process of math-verify
        for kind, texts in (("usual", usual), ("hostile", hostile)):
            grading = max(seconds(lambda: TASKS[name].grade(item, text)) for text in texts)  # noqa: B023
            rewarding = max(seconds(lambda: task.reward(item, text)) for task in tasks for text in texts)  # noqa: B023
            lines.append(f"{name:<10}{kind:<9}{1000 * grading:>10.1f}{1000 * rewarding:>11.1f}")
    return "\n".join(lines)


def seconds(call: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def run_sampler(
    name: str, model: LLaDAModelLM, vocabulary: Vocabulary, prompts: Prompts, *, only: int | None = None
) -> tuple[float, float, Rollout]:
    """Seconds of one call, the share of them outside the model, and the rollout; for all prompts, or `only` one."""
    chosen = range(len(prompts.tokens)) if only is None else range(only, only + 1)
    prompts = Prompts(*(getattr(prompts, f.name)[chosen.start : chosen.stop] for f in fields(Prompts)))
    config = SamplerConfig(temperature=0.2, block_length=32, **SAMPLERS[name])
    generators, spent = [stream(0, "bench", g) for g in chosen], [0.0]
    hooks = time_model(model, spent)
    start = time.perf_counter()
    rollout = sample(model, prompts, config, vocabulary, num_rollouts=1, generators=generators)
    seconds = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    return seconds, 1 - spent[0] / seconds, rollout


def sampler_setting() -> tuple[LLaDAModelLM, Vocabulary, Prompts]:
    """A random model, its vocabulary and 8 prompts of 64 tokens with room for 128."""
    config = LLaDAConfig(
        d_model=256,
        n_layers=4,
        n_heads=4,
        mlp_hidden_size=768,
        vocab_size=4096,
        max_sequence_length=256,
        mask_token_id=4095,
        eos_token_id=0,
        pad_token_id=0,
        init_std=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LLaDAModelLM(config).eval()
    allowed = torch.arange(4096) != 4095
    tokens = torch.full((8, 192), 4095)
    tokens[:, :64] = torch.randint(4095, (8, 64), generator=stream(0, "prompts"))
    response = (torch.arange(192) >= 64).expand(8, -1)
    return model, Vocabulary(4095, allowed), Prompts(tokens, torch.ones_like(response), ~response, response)


def time_model(model: LLaDAModelLM, spent: list[float]) -> list:
    """Hooks that add the seconds inside the model's forward passes to `spent[0]`."""
    begun = []
    before = model.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter()))
    return [before, model.register_forward_hook(lambda *_: spent.__setitem__(0, spent[0] + time.perf_counter() - begun.pop()))]


def measure_loss(way: str) -> None:
    """Print seconds, peak resident memory above the idle process in MB, and the norm of the gradient in the hidden layers."""
    config = LLaDAConfig(
        d_model=32,
        n_layers=1,
        n_heads=2,
        mlp_hidden_size=64,
        vocab_size=VOCABULARY,
        max_sequence_length=512,
        mask_token_id=VOCABULARY - 1,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LLaDAModelLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=stream(0, "bench", *p.shape)) * 0.05)
    # As with LoRA: the head is frozen.
    model.get_output_embeddings().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    rollout = example_rollout()
    masks = draw_masks("antithetic", rollout.response_mask, REPLICATES, [stream(0, "masks")])
    allowed = torch.ones(VOCABULARY, dtype=torch.bool)
    allowed[-1] = False
    vocabulary = Vocabulary(VOCABULARY - 1, allowed)
    weight = torch.full((1, SEQUENCES), 1 / SEQUENCES, dtype=torch.float64)
    scorer = token_log_prob if way == "chunked" else token_log_prob_full_logits
    gc.collect()
    idle, start = peak_memory(), time.perf_counter()
    log_prob = scorer(model, rollout, masks, vocabulary)
    wdce(sequence_log_prob(log_prob, masks) / RESPONSE, weight).backward()
    seconds = time.perf_counter() - start
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    print(seconds, peak_memory() - idle, norm.item())


def token_log_prob_full_logits(model: LLaDAModelLM, rollout: Rollout, masks, vocabulary: Vocabulary) -> Tensor:
    """What `likelihood.token_log_prob` computes, with the logits of every position of every mask. [G, N, R, S]"""
    rows = mask_rows(rollout, masks, vocabulary)
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    log_prob = vocabulary.restrict(logits).log_softmax(dim=-1).gather(-1, rows.target_tokens.unsqueeze(-1)).squeeze(-1)
    return (log_prob * rows.target).view(masks.target.shape)


def example_rollout() -> Rollout:
    """Random tokens in the shape of the measurement, G = 1."""
    length = PROMPT + RESPONSE
    tokens = torch.randint(VOCABULARY - 1, (1, SEQUENCES, length), generator=stream(0, "tokens"))
    response = repeat(torch.arange(length) >= PROMPT, "s -> 1 n s", n=SEQUENCES)
    everything = torch.ones_like(response)
    step = torch.full_like(tokens, -1)
    return Rollout(tokens, everything, ~response, response, step, None, RESPONSE, SamplerConfig(), 0, 0)


def peak_memory() -> float:
    """Highest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
