"""The library against the straightforward way of doing the same, measured on this machine with random models. `dmpo bench NAME`."""

from __future__ import annotations

import gc
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import torch
from einops import repeat
from tabulate import tabulate
from torch import Tensor

from dmpo_ref.config import SamplerConfig, TaskConfig
from dmpo_ref.likelihood import Vocabulary, mask_rows, sequence_log_prob, token_log_prob
from dmpo_ref.losses import wdce
from dmpo_ref.masking import Masks, draw_masks, stream
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.rollout import Prompts, Rollout
from dmpo_ref.samplers import sample
from dmpo_ref.tasks import TASKS

SAMPLERS: dict[str, dict[str, Any]] = {
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
RECORDS: dict[Literal["sudoku", "countdown", "gsm8k", "math500"], tuple[str, Any]] = {  # question and ground truth, as in results files
    "sudoku": ("1200341221434321", "1234341221434321"),
    "countdown": ("", [[3, 4, 5], 23]),
    "gsm8k": ("How much?", 1234.5),
    "math500": ("How much?", r"\frac{1}{2}"),
}
USUAL = (
    *(f"<reasoning>\nBecause.\n</reasoning>\n<answer>\n{answer}\n</answer>" for answer in ("1234341221434321", r"\boxed{3+4*5}")),
    *(r"so it is \boxed{\frac{1}{2}}", r"\boxed{1,234.50}", "no answer at all"),
)
HOSTILE = (
    "9" * 1_000_000,
    *(text * 100_000 for text in ("(", "{", r"\boxed{", "<answer>", r"\frac", "9**", "1+", "\0", "\ud800")),
    *(r"\boxed{9**9**9}", r"<answer>9^{9^{9^{9}}}</answer>", r"\boxed{" + "(" * 400 + "1" + ")" * 400 + "}"),
)
VOCABULARY, SEQUENCES, NUM_MASKS, PROMPT, RESPONSE = 126_464, 4, 4, 128, 256
# Otherwise glibc hands each large tensor's memory back to the system at once, and the next forward pass waits while the system clears
# the same pages again: nearly half of a batch's time on a virtual machine, none of a single row's, whose tensors are small.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**33)}  # older glibc takes no more than 2**25
Case = TypeVar("Case")
Timed = tuple[float, float, Rollout]  # seconds, the share of them outside the model, what was drawn


def bench_loss() -> str:
    """One WDCE step with LLaDA's vocabulary, in a process of its own for each way, so that peaks of memory do not mix.

    4 sequences × 4 masks of 128 prompt and 256 response tokens, tiny hidden size, float32, CPU. `full_logits` projects every
    position of every sequence onto the vocabulary and keeps all of it for autograd.
    """
    chunked, full = (
        [float(x) for x in output_of(f"measure_loss({way!r})").split()] for way in announced([(w, w) for w in ("chunked", "full_logits")])
    )
    headers = ("way", "seconds", "peak MB above idle", "gradient norm")
    table = tabulate([("chunked", *chunked), ("full_logits", *full)], headers, "plain", floatfmt=("", ".2f", ".0f", ".6f"))
    return f"{table}\nchunked / full_logits: time {chunked[0] / full[0]:.2f}, memory {chunked[1] / full[1]:.2f}"


def bench_samplers() -> str:
    """Every sampler on a random model of width 256, 4 layers, vocabulary 4,096: prompt 64, response 128, block 32, batch 8, T = 0.2.

    Times are the better of two. The last column is the share of the time outside the model. A model with random weights is never
    confident: `threshold`, `factor` and `wino` show their worst case. The lines below the table compare `wino` on all 8 prompts
    with 8 runs on one each.

    Measured in a process that keeps the memory it frees, see `KEEP_MEMORY`.
    """
    return output_of("measure_samplers()", **KEEP_MEMORY).rstrip()


def bench_grading() -> str:
    """Longest time that one answer takes each task to grade (both gradings) and to reward: usual answers, and hostile ones.

    Hostile are 1 MB of one character, 100,000 open brackets or tags, towers of powers, null characters and lone surrogates.
    """
    rows = []
    for name, record in announced([(item, item[0]) for item in RECORDS.items()]):
        item: Any = TASKS[name].from_record(*record)
        tasks = [TASKS[name](TaskConfig(name=name, generate="chat", reward=reward)) for reward in ("recipe", "published")]
        TASKS[name].grade(item, USUAL[0])  # what starts with the first answer, such as the process of math-verify
        for kind, texts in (("usual", USUAL), ("hostile", HOSTILE)):
            grading = max(1000 * seconds_of(TASKS[name].grade, item, text) for text in texts)
            rewarding = max(1000 * seconds_of(task.reward, item, text) for task in tasks for text in texts)
            rows.append((name, kind, grading, rewarding))
    return tabulate(rows, ("task", "answers", "grade, ms", "reward, ms"), "plain", floatfmt=".1f")


def output_of(call: str, **environment: str) -> str:
    """What a function of this file prints, called in a process of its own."""
    command = [sys.executable, "-c", f"from toy import measurements; measurements.{call}"]
    return subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True).stdout


def announced(cases: Iterable[tuple[Case, str]]) -> Iterator[Case]:
    """The cases one by one; before each a line on stderr, since a measurement takes minutes."""
    for case, name in cases:
        print(f"bench: {name}", file=sys.stderr, flush=True)
        yield case


def seconds_of(function: Callable[..., object], *arguments: Any) -> float:
    """Time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def measure_loss(way: str) -> None:
    """Print seconds, peak resident memory above the idle process in MB, and the norm of the gradient in the hidden layers."""
    model = LLaDAModelLM(model_config(VOCABULARY, 512, d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=64))
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=stream(0, "bench", *p.shape)) * 0.05)
    # As with LoRA: the head is frozen.
    model.get_output_embeddings().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    rollout, vocabulary = random_rollout(), all_but_the_mask(VOCABULARY)
    masks = draw_masks("antithetic", rollout.response_mask, NUM_MASKS, [stream(0, "masks")])
    weight = torch.full((1, SEQUENCES), 1 / SEQUENCES, dtype=torch.float64)
    scorer = token_log_prob if way == "chunked" else token_log_prob_full_logits
    gc.collect()
    idle, start = peak_memory(), time.perf_counter()
    log_prob = scorer(model, rollout, masks, vocabulary)
    wdce(sequence_log_prob(log_prob, masks) / RESPONSE, weight).backward()
    seconds = time.perf_counter() - start
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    print(seconds, peak_memory() - idle, norm.item())


def token_log_prob_full_logits(model: LLaDAModelLM, rollout: Rollout, masks: Masks, vocabulary: Vocabulary) -> Tensor:
    """What `likelihood.token_log_prob` computes, with the logits of every position of every mask. [G, N, R, S]"""
    rows = mask_rows(rollout, masks, vocabulary)
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    log_prob = vocabulary.restrict(logits).log_softmax(dim=-1).gather(-1, rows.target_tokens.unsqueeze(-1)).squeeze(-1)
    return (log_prob * rows.target).view(masks.target.shape)


def random_rollout() -> Rollout:
    """Random tokens in the shape of the measurement, G = 1."""
    length = PROMPT + RESPONSE
    tokens = torch.randint(VOCABULARY - 1, (1, SEQUENCES, length), generator=stream(0, "tokens"))
    response = repeat(torch.arange(length) >= PROMPT, "s -> 1 n s", n=SEQUENCES)
    return Rollout(
        *(tokens, torch.ones_like(response), ~response, response, torch.full_like(tokens, -1)),
        path_log_prob=None,
        num_steps=RESPONSE,
        sampler=SamplerConfig(),
        forwards=0,
        fed_tokens=0,
    )


def peak_memory() -> float:
    """Highest resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_samplers() -> None:
    """Print the table of `bench_samplers`."""
    vocabulary = all_but_the_mask(4096)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LLaDAModelLM(model_config(4096, 256, d_model=256, n_layers=4, n_heads=4, mlp_hidden_size=768, init_std=0.2)).eval()
    measured = best_of_two(SAMPLERS, lambda name: time_sampler(name, model, vocabulary, range(8)))
    plain = measured["confidence"][0]
    rows = [
        (name, seconds, seconds / plain, rollout.forwards, rollout.fed_tokens, 8 * 128 / seconds, f"{outside:.1%}")
        for name, (seconds, outside, rollout) in measured.items()
    ]
    headers = ("sampler", "seconds", "relative", "forwards", "fed tokens", "tokens/s", "overhead")
    print(tabulate(rows, headers, "plain", floatfmt=("", ".2f", ".2f", "", "", ".0f", ""), colalign=["left", *["right"] * 6]))
    print(describe_wino_batch(model, vocabulary))  # float32 as for the toy, then bfloat16 as for LLaDA
    print(describe_wino_batch(model.bfloat16(), vocabulary))


def describe_wino_batch(model: LLaDAModelLM, vocabulary: Vocabulary) -> str:
    """`wino` on all 8 prompts against 8 runs on one each, in a line."""
    cases = [range(8), *(range(g, g + 1) for g in range(8))]
    (together, _, rollout), *alone = best_of_two(cases, lambda chosen: time_sampler("wino", model, vocabulary, chosen)).values()
    ratio, forwards = together / sum(seconds for seconds, _, _ in alone), [rollout.forwards for _, _, rollout in alone]
    return (
        f"wino, 8 prompts at once / one by one, {str(model.dtype).removeprefix('torch.')}: time {ratio:.2f}, "
        f"forwards {rollout.forwards} / {sum(forwards)} (at most {max(forwards)})"
    )


def best_of_two(cases: Iterable[Case], measure: Callable[[Case], Timed]) -> dict[Case, Timed]:
    """The quicker of two measurements of each case, taken in turn, so that a busy machine is busy for all."""
    cases = list(cases)
    first, second = (
        {case: measure(case) for case in announced([(case, f"{case}, measured for the {time} time") for case in cases])}
        for time in ("first", "second")
    )
    return {case: min(first[case], second[case], key=lambda timed: timed[0]) for case in cases}


def time_sampler(name: str, model: LLaDAModelLM, vocabulary: Vocabulary, chosen: range) -> Timed:
    """One call of a sampler, on the chosen ones of 8 prompts of 64 tokens that leave 128 to be generated."""
    tokens = torch.full((8, 192), 4095)
    tokens[:, :64] = torch.randint(4095, (8, 64), generator=stream(0, "prompts"))
    response = (torch.arange(192) >= 64).expand(8, -1)
    prompts = Prompts(*(x[chosen.start : chosen.stop] for x in (tokens, torch.ones_like(response), ~response, response)))
    config = SamplerConfig(temperature=0.2, block_length=32, **SAMPLERS[name])
    generators = [stream(0, "bench", g) for g in chosen]
    begun: list[float] = []
    spent: list[float] = []
    hooks = (
        model.register_forward_pre_hook(lambda *_: begun.append(time.perf_counter())),
        model.register_forward_hook(lambda *_: spent.append(time.perf_counter() - begun[-1])),
    )
    start = time.perf_counter()
    rollout = sample(model, prompts, config, vocabulary, num_rollouts=1, generators=generators)
    seconds = time.perf_counter() - start
    for hook in hooks:
        hook.remove()
    return seconds, 1 - sum(spent) / seconds, rollout


def model_config(vocabulary: int, longest: int, **sizes: Any) -> LLaDAConfig:
    """The config of a model for a measurement; the mask token is the last of its vocabulary."""
    sizes |= {"vocab_size": vocabulary, "max_sequence_length": longest}
    return LLaDAConfig(mask_token_id=vocabulary - 1, eos_token_id=0, pad_token_id=0, **sizes)


def all_but_the_mask(size: int) -> Vocabulary:
    """A vocabulary in which everything but the mask token, its last, may be generated."""
    return Vocabulary(size - 1, torch.arange(size) != size - 1)
