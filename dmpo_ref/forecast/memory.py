"""Memory that sampling, scoring and a gradient step need while they run, beyond what a process holds all the time (`sizes.held_bytes`).

Symbols: P tokens of the longest prompt, L of the response, S = P + L; V and d rows and width of the head, b bytes of a number.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from dmpo_ref.config import Config
from dmpo_ref.forecast import sizes
from dmpo_ref.forecast.phases import Phase
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.models.vocabulary_head import chunk_size
from dmpo_ref.samplers.checks import CONFIDENT

# Bytes a position of one chunk of `proposal.propose` needs for each of the V tokens, at most: the restricted logits (4), and
# their float64 copy, log-probability, CDF and softmax (4 · 8). The logits of all positions come on top.
SAMPLER_BYTES = 36


def sampling_bytes(config: Config, model: LLaDAConfig, phase: Phase, P: int, L: int) -> dict[str, float]:
    """Largest memory that sampling needs beyond what a process holds, and the part of it for the `cache`.

        sequences of a call · (one block + cache + logits)  +  temporaries of a chunk of logits  +  uniforms, float64 [T + 1, S]

    Without gradients, a block holds at most what it would keep for the backward pass.
    """
    sampler, V, S, b = config.sampler, model.embedding_size, P + L, sizes.element_bytes(config.model)
    scored = phase.batch * ceil(phase.scored)
    if sampler.name in (*CONFIDENT, "wino"):  # in the first pass of a block, all of it
        scored = phase.batch * (sampler.block_length or L)
    each = b * (2 if sampler.name == "wino" else 1)  # wino splits the logits of sequence and shadow
    if sampler.guidance:  # a copy in float32, c − u and its multiple, half as many
        each += 8
    block = sizes.activation_bytes(model, config.model, max(phase.fed))
    cache = 0 if sampler.cache == "none" else phase.batch * sizes.cache_bytes(model, config.model, S)
    uniforms = phase.rows // (2 if sampler.guidance else 1) * (len(phase.fed) + 1) * S * 8
    most = phase.batch * block + cache + scored * V * each + min(scored, chunk_size(V)) * V * SAMPLER_BYTES + uniforms
    return {"sampling": most, "cache": cache}


def training_bytes(config: Config, model: LLaDAConfig, phases: list[Phase], P: int, L: int) -> dict[str, Any]:
    """Memory that scoring and a gradient step need beyond what a process holds, and the parts of it that `Plan` names.

        scoring        sequences of a call · one block + logits
        gradient step  activations + the larger of logits + the head's gradient, where the backward pass begins, and
                       sequences of a call · the gradients inside one block

    All trained, those gradients are at most b (2 m + 2 d) for a token: of the product in SwiGLU and its two factors, whose input is
    gone by then, and of the residual stream. With adapters a block's own activations bound them.
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
    inside = S * b * 2 * (model.mlp_hidden_size + d) if is_full else block
    return {
        "scoring": max((p.batch * block + logits for p in scoring), default=0),
        "gradient step": activations[config.model.gradient_checkpointing] + max(logits + head, step.batch * inside),
        "activations": activations,
        "logits": logits,
    }
