"""Memory that sampling, scoring and a gradient step need while they run, beyond what a process holds all the time (`sizes.held_bytes`).

Symbols: P tokens of the longest prompt, L of the response, S = P + L; V and d rows and width of the head, b bytes of a number.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.forecast import sizes
from dmpo_ref.forecast.phases import Phase
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.models.vocabulary_head import chunk_size
from dmpo_ref.objectives import build_objective
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
                       sequences of a call · the gradients inside one block, see `inside_bytes`

    Activations are, of every sequence, all blocks (checkpointed: one block, and the input of all), the last norm and the head's. The last
    block, norm and head keep what they compute where something is scored, at most all L positions.
    """
    V, d, S, b = model.embedding_size, model.d_model, P + L, sizes.element_bytes(config.model)
    is_full = config.model.lora_rank == 0
    *scoring, step = phases
    block = sizes.activation_bytes(model, config.model, S)
    logits = 3 * 4 * min(chunk_size(V), step.batch * L) * V  # float32 logits, their softmax, a temporary
    pairs = config.loss.masks in ("antithetic", "paper") and config.loss.num_masks % 2 == step.batch % 2 == 0  # which share out all L
    is_known = build_objective(config.loss, config.weight).needs_path or (config.loss.name in ("wdce", "wddo") and pairs)
    scored = step.scored if is_known else L  # of a sequence, in the mean of a call
    last = sizes.activation_bytes(model, config.model, S, scored)
    final = scored * (4 * d + (1 + 2 * is_full) * b * d)  # last norm, and what the head keeps
    kept = {False: (model.n_layers - 1) * block + last, True: model.n_layers * S * d * b + max(block * (model.n_layers > 1), last)}
    activations = {checkpointed: step.batch * (size + final) for checkpointed, size in kept.items()}
    head = V * d * b * is_full  # its gradient is added up in place but made by a product of its size
    inside = inside_bytes(model, config.model, S, scored, block, last)
    return {
        "scoring": max((p.batch * block + logits for p in scoring), default=0),
        "gradient step": activations[config.model.gradient_checkpointing] + max(logits + head, step.batch * inside),
        "activations": activations,
        "logits": logits,
    }


def inside_bytes(model: LLaDAConfig, options: ModelConfig, S: int, scored: float, block: float, last: float) -> float:
    """The gradients inside one block of a sequence at their most, less the activations that are gone by then.

        SwiGLU      b (2 m + 2 d) for a token: of the product and its two factors, whose input is gone, and of the residual stream
        attention   6 b d: of queries, keys, values, what they are made of, the result, and the residual stream

    The last block has SwiGLU where something is scored, and attention when its gate, silu(gate) and up, 3 b m, are gone; the block before
    it has SwiGLU everywhere, when all of the last block is gone. With adapters a block's own activations bound its gradients.

    Args:
        block, last: bytes that a block, and the last one, keep of a sequence.
    """
    d, m, b = model.d_model, model.mlp_hidden_size, sizes.element_bytes(options)
    swiglu = b * 2 * (m + d)
    if options.gradient_checkpointing:  # one block is there at a time
        return block if options.lora_rank else S * swiglu
    if options.lora_rank:
        return max(last, block - last)
    return max(scored * swiglu, S * b * 6 * d - scored * 3 * b * m, S * swiglu - last)
