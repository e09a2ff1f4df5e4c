"""Measurements of the library against the straightforward way of doing the same. `dmpo bench NAME`."""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
import time

import torch
from einops import repeat
from torch import Tensor

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary, flatten, log_likelihood, token_log_prob
from dmpo_ref.losses import wdce
from dmpo_ref.masking import draw_views, stream
from dmpo_ref.model import LLaDAConfig, LLaDAModelLM
from dmpo_ref.rollout import Rollout

VOCABULARY, SEQUENCES, REPLICATES, PROMPT, RESPONSE = 126_464, 4, 4, 128, 256
WAYS = ("chunked", "full_logits")


def bench_loss() -> str:
    """One WDCE step with LLaDA's vocabulary, in a process of its own for each way, so that peaks of memory do not mix.

    4 sequences × 4 replicates of 128 prompt and 256 response tokens, tiny hidden size, float32, CPU. `full_logits` projects every
    position of every sequence onto the vocabulary and lets autograd keep what it likes.
    """
    lines = [f"{'way':<14}{'seconds':>9}{'peak MB above idle':>20}{'gradient norm':>16}"]
    seconds, memory = {}, {}
    for way in WAYS:
        command = [sys.executable, "-c", f"from dmpo_ref.bench import measure_loss; measure_loss({way!r})"]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds[way], memory[way], norm = map(float, out)
        lines.append(f"{way:<14}{seconds[way]:>9.2f}{memory[way]:>20.0f}{norm:>16.6f}")
    time_ratio, memory_ratio = (x["chunked"] / x["full_logits"] for x in (seconds, memory))
    return "\n".join([*lines, f"chunked / full_logits: time {time_ratio:.2f}, memory {memory_ratio:.2f}"])


def measure_loss(way: str) -> None:
    """Print seconds, peak resident memory above the idle process in MB, and the norm of the gradient in the hidden layers."""
    config = LLaDAConfig(
        d_model=32, n_layers=1, n_heads=2, mlp_hidden_size=64, vocab_size=VOCABULARY, max_sequence_length=512, mask_token_id=VOCABULARY - 1
    )
    model = LLaDAModelLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=stream(0, "bench", *p.shape)) * 0.05)
    # As with LoRA: the head is frozen.
    model.get_output_embeddings().requires_grad_(False)
    model.get_input_embeddings().requires_grad_(False)
    rollout = example_rollout()
    views = draw_views("antithetic", rollout.response_mask, REPLICATES, [stream(0, "masks")])
    allowed = torch.ones(VOCABULARY, dtype=torch.bool)
    allowed[-1] = False
    vocabulary = Vocabulary(VOCABULARY - 1, allowed)
    weight = torch.full((1, SEQUENCES), 1 / SEQUENCES, dtype=torch.float64)
    scorer = token_log_prob if way == "chunked" else token_log_prob_full_logits
    gc.collect()
    idle, start = peak_memory(), time.perf_counter()
    log_prob = scorer(model, rollout, views, vocabulary)
    wdce(log_likelihood(log_prob, views) / RESPONSE, weight).backward()
    seconds = time.perf_counter() - start
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    print(seconds, peak_memory() - idle, norm.item())


def token_log_prob_full_logits(model: LLaDAModelLM, rollout: Rollout, views, vocabulary: Vocabulary) -> Tensor:
    """What `likelihood.token_log_prob` computes, with the logits of every position of every view. [G, N, R, S]"""
    rows = flatten(rollout, views, vocabulary)
    logits = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    log_prob = vocabulary.restrict(logits).log_softmax(dim=-1).gather(-1, rows.target_tokens.unsqueeze(-1)).squeeze(-1)
    return (log_prob * rows.target).view(views.target.shape)


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
