"""The arithmetic of the model, from its config.json alone: parameters, bytes held, bytes that a pass keeps.

Symbols: d `d_model`, m `mlp_hidden_size`, d_kv the width of keys or values (d, or less where heads share them), V `embedding_size`,
r `lora_rank`, S tokens of a sequence, b bytes of a number (2 in bfloat16, 4 in float32).
"""

from __future__ import annotations

from collections.abc import Collection

from dmpo_ref.config import ModelConfig
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.models.loading import base_of, locate, read_config

KNOWN_8B = "GSAI-ML/LLaDA"
AFTER_ATTENTION = ("attn_out", "ff_proj", "up_proj", "ff_out")  # layers that the last block applies only where something is read
NF4_BYTES = 0.5 + 4 / 64  # a weight in 4 bits, and one float32 scale for 64 of them


def load_sizes(path: str) -> LLaDAConfig:
    """The config of a checkpoint, a run, a hub name, or the base of adapters; LLaDA-8B's is known without the hub.

    Raises:
        FileNotFoundError: there is no config.json.
    """
    where = locate(path)
    if base := base_of(where):
        return load_sizes(base)
    try:
        return read_config(path, offline=True)  # a forecast must not wait for a network
    except FileNotFoundError:
        if isinstance(where, str) and path.startswith(KNOWN_8B):
            return LLaDAConfig()
        raise


def element_bytes(options: ModelConfig) -> int:
    """b, bytes of one number in the model's own type."""
    return 2 if options.dtype == "bfloat16" else 4


def key_width(model: LLaDAConfig) -> int:
    """d_kv, numbers in the keys (or the values) of one token in one block."""
    return model.d_model // model.n_heads * model.n_kv_heads


def linear_layers(model: LLaDAConfig) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of the linear layers of one block."""
    d, m, kv = model.d_model, model.mlp_hidden_size, key_width(model)
    attention = {"q_proj": (d, d), "k_proj": (d, kv), "v_proj": (d, kv), "attn_out": (d, d)}
    return attention | {"ff_proj": (d, m), "up_proj": (d, m), "ff_out": (m, d)}


def count_linear(model: LLaDAConfig) -> int:
    """Weights of the linear layers of all blocks."""
    return model.n_layers * sum(inputs * outputs for inputs, outputs in linear_layers(model).values())


def count_linear_after_attention(model: LLaDAConfig) -> int:
    """Those of one block that follow its attention."""
    return sum(inputs * outputs for name, (inputs, outputs) in linear_layers(model).items() if name in AFTER_ATTENTION)


def count_parameters(model: LLaDAConfig) -> int:
    """Linear layers and two norms in every block; embedding, head and last norm; learned positions where there is no RoPE."""
    positions = 0 if model.rope else model.max_sequence_length
    return count_linear(model) + (2 * model.n_layers + 2 * model.embedding_size + 1 + positions) * model.d_model


def count_adapters(model: LLaDAConfig, options: ModelConfig, layers: Collection[str] | None = None) -> int:
    """LoRA adds A [r, inputs] and B [outputs, r] to each target, or to those among some `layers`.

    Raises:
        ValueError: a target that is not a linear layer.
    """
    if options.lora_rank == 0:
        return 0
    known = linear_layers(model)
    if unknown := set(options.lora_targets) - set(known):
        raise ValueError(f"model.lora_targets: no layer {sorted(unknown)[0]!r}; choose among {', '.join(known)}")
    targets = set(options.lora_targets) & set(known if layers is None else layers)
    return model.n_layers * options.lora_rank * sum(sum(known[name]) for name in targets)


def weight_bytes(model: LLaDAConfig, options: ModelConfig) -> float:
    """All weights, adapters aside. 4 bits are for the linear layers of the blocks alone."""
    b, in_4_bits = element_bytes(options), count_linear(model) if options.quantize == "nf4" else 0
    return b * (count_parameters(model) - in_4_bits) + NF4_BYTES * in_4_bits


def held_bytes(model: LLaDAConfig, options: ModelConfig, n: int, strategy: str, *, compares: bool) -> dict[str, float]:
    """What each of n processes holds of the model all the time.

        weights     of the policy; reference: as many again where p_ref is a second model
        adapters    LoRA matrices, float32
        gradients   one number for each trainable parameter
        optimizer   AdamW's two moments, float32
        gathered    whole weights that a pass has fetched, and their gradients: fsdp2 only, and not counted as resident

    `ddp` keeps gradients twice (communication buckets). `fsdp2` keeps a shard of everything.

    Args:
        compares: p_ref is needed. It is the policy without its adapters, or where there are none a second model.
    """
    parameters, adapters, weights = count_parameters(model), count_adapters(model, options), weight_bytes(model, options)
    trainable, b = adapters or parameters, element_bytes(options)
    held = {"weights": weights, "reference": weights if compares and not adapters else 0.0, "adapters": 4 * adapters}
    held |= {"gradients": trainable * (4 if adapters else b), "optimizer": 2 * 4 * trainable}
    if n == 1 or strategy == "ddp":
        return held | {"gradients": held["gradients"] * (1 if n == 1 else 2), "gathered": 0.0}
    # A block is fetched while the one before it is computed; embedding, head and norms stay for the whole pass.
    two_blocks = min(2, model.n_layers) / model.n_layers  # as a share of all
    whole = (parameters - count_linear(model) * (1 - two_blocks)) * b
    return {name: size / n for name, size in held.items()} | {"gathered": whole + 2 * 4 * adapters * two_blocks if adapters else 2 * whole}


def cache_bytes(model: LLaDAConfig, options: ModelConfig, S: int) -> int:
    """Keys and values of every block for one sequence: 2 · layers · d_kv · S · b."""
    return 2 * model.n_layers * key_width(model) * S * element_bytes(options)


def activation_bytes(model: LLaDAConfig, options: ModelConfig, S: int, scored: float | None = None) -> float:
    """Bytes that one block keeps of one sequence from the forward to the backward pass. For each of its S tokens:

        norm, attention:  4 d + 4              its input in float32, and 1 / its root mean square
                          b (2 d + 2 d_kv)     q, k, v and the result; + 4 heads (log-sum-exp) + b S (the padding mask, as numbers)
        norm, SwiGLU:     4 d + 4, 3 b m       as before; gate, silu(gate), up
        inputs of linear layers, which the gradient of their weights needs:
          all trained:    2 b d; b (2 d + m)   each norm's output, before and after its weight; and the input of `ff_out`
          LoRA:           4 r for each target, and its input: a separate float32 copy in bfloat16 or with dropout (and then
                          1 byte of mask); else the input itself, which q, k, v share, and gate and up too

    Softmax probabilities [S, S] are never kept: attention is computed in tiles. What follows attention is kept of `scored` tokens only in
    the last block, and then also the results of attention there, b d, if they are an input of a trained layer.
    """
    d, r, b = model.d_model, options.lora_rank, element_bytes(options)
    norm = 4 * d + 4
    attention: float = norm + b * (2 * d + 2 * key_width(model)) + 4 * model.n_heads + b * S
    attention += kept_inputs(model, options, set(linear_layers(model)) - set(AFTER_ATTENTION))
    after = norm + 3 * b * model.mlp_hidden_size + kept_inputs(model, options, set(AFTER_ATTENTION))
    if scored is None:
        return S * (attention + after)
    copied = b * d if r == 0 or ("attn_out" in options.lora_targets and b == 4 and options.lora_dropout == 0) else 0
    return S * attention + scored * (after + copied)


def kept_inputs(model: LLaDAConfig, options: ModelConfig, layers: set[str]) -> float:
    """Bytes of one token that some linear layers of a block keep for the gradient of their weights, see `activation_bytes`."""
    d, m, r, b = model.d_model, model.mlp_hidden_size, options.lora_rank, element_bytes(options)
    if r == 0:
        return b * (2 * d + m * ("ff_out" in layers))  # the input of `attn_out` is the result of attention
    targets = layers & set(options.lora_targets)
    if b == 4 and options.lora_dropout == 0:
        shared = (bool(targets & {"q_proj", "k_proj", "v_proj"}) + bool(targets & {"ff_proj", "up_proj"})) * d
        return 4 * r * len(targets) + b * (shared + m * ("ff_out" in targets))
    return 4 * r * len(targets) + (5 if options.lora_dropout else 4) * sum(linear_layers(model)[name][0] for name in targets)
