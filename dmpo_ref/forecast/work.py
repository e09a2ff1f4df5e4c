"""The work of one pass on a GPU, from config.json alone: operations on matrices, bytes that move between them, and their time.

Matrix products run at a share of the peak. Everything else (norms, rotations, SiLU · up, residuals, casts of the adapters,
attention, the softmax over the vocabulary) does little arithmetic and waits for memory: its time is the bytes it moves.

Symbols: d `d_model`, d_kv the width of keys or values, m `mlp_hidden_size`, V `embedding_size`, S tokens of a sequence,
b bytes of a number (2 in bfloat16, 4 in float32), c bytes of casting a number to float32 or back: b + 4, or 0 where it is float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from dmpo_ref.config import ModelConfig
from dmpo_ref.forecast import sizes
from dmpo_ref.forecast.hardware import BANDWIDTH_SHARE, COMPILED_SHARE, GPU, MATRIX_SHARE, TF32_SHARE
from dmpo_ref.models.llada import LLaDAConfig
from dmpo_ref.models.vocabulary_head import chunk_size

# Bytes that `proposal.propose` moves for each of the V tokens at a position, besides the cast to float32: masking (8), the float64
# copy (12), less the largest (8 + 16), exponential and sum (16 + 8), temperature, exponential, CDF (16 each).
SAMPLING_BYTES = 116
LOG_SOFTMAX_BYTES = 48  # of `vocabulary_head`: masking, temperature (8 each), log-sum-exp in four ops (24), less it (8)


@dataclass
class Work:
    """The work of one pass of some sequences; two of them can be added.

    Attributes:
        own, adapters: operations on matrices in the type of the model, and of its adapters, which are float32.
        moved: bytes of everything but matrix products, op by op, each op reading its inputs and writing its outputs.
        kept: bytes of kept keys and values that are read; they are in `moved` too.
        read: bytes of weights, read by each call of the model. updated: bytes that a call moves to add up gradients.
        fetched: bytes that a call receives from other GPUs.
    """

    own: float = 0.0
    adapters: float = 0.0
    moved: float = 0.0
    kept: float = 0.0
    read: float = 0.0
    updated: float = 0.0
    fetched: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: float) -> Work:
        return Work(*(getattr(self, f.name) * times for f in fields(self)))

    @property
    def flops(self) -> float:
        """Operations on matrices, of both types."""
        return self.own + self.adapters

    def matrix_seconds(self, options: ModelConfig, gpu: GPU) -> float:
        """Time of the matrix products at the peak."""
        if options.dtype == "float32":
            return self.flops / gpu.flops_float32
        return self.own / gpu.flops + self.adapters / (TF32_SHARE * gpu.flops)

    def least(self, options: ModelConfig, gpu: GPU) -> float:
        """Lower bound on the time: the slower of the matrix products, at the peak, and of reading weights, keys and values."""
        return max(self.matrix_seconds(options, gpu), (self.read + self.kept) / gpu.bandwidth + self.fetched / gpu.link)

    def expected(self, options: ModelConfig, gpu: GPU) -> float:
        """Expected time, at the shares of the peaks in `hardware`: matrix products while weights are read, then everything else in turn."""
        products = max(
            self.matrix_seconds(options, gpu) / MATRIX_SHARE, self.read / (BANDWIDTH_SHARE * gpu.bandwidth) + self.fetched / gpu.link
        )
        return products + (self.moved + self.updated) / (BANDWIDTH_SHARE * gpu.bandwidth)


def forward_work(model: LLaDAConfig, options: ModelConfig, fed: int, S: int, scored: float, *, samples: bool = False) -> Work:
    """A pass of one sequence without gradient that feeds `fed` of its S tokens; `samples`: tokens are drawn at the scored positions."""
    blocks, adapters, head = matrix_flops(model, options, fed, S, scored)
    if is_lean(options):  # in the type of the model
        blocks, adapters = blocks + adapters, 0.0
    moved = fused_share(options) * of_blocks(model, fed, scored, *block_bytes(model, options)) + scored * norm_bytes(model, options)
    moved += scored * read_bytes(model, options)
    moved += scored * model.embedding_size * (cast_bytes(options) + (SAMPLING_BYTES if samples else LOG_SOFTMAX_BYTES))
    return Work(blocks + head, adapters, moved + attention_bytes(model, options, fed, S), kept=sizes.cache_bytes(model, options, S - fed))


def step_work(model: LLaDAConfig, options: ModelConfig, S: int, scored: float) -> Work:
    """A pass of one sequence with its gradient, in units of what the products of the forward pass cost:

        blocks, frozen     2    forward, gradient of the inputs, which the first block's q, k, v and their A do not need
        trained, adapters  3    and gradient of the weights
        attention          3.5  backward makes five products for the forward's two: the scores are computed once more
        head               2    logits, and the mean of the head's rows, which is the gradient of its inputs; trained 4

    With checkpointing each block runs again, up to the last tensor that its backward pass needs: to the input of `ff_out`, or
    where that layer has an adapter, to the input of its B.
    """
    blocks, adapters, head = matrix_flops(model, options, S, S, scored)
    full, c, again = options.lora_rank == 0, cast_bytes(options), int(options.gradient_checkpointing)
    attention, in_ff_out = attention_flops(model, S, S), 2 * model.d_model * of_blocks(model, S, scored, 0, 1)
    is_adapted = "ff_out" in options.lora_targets and not full
    blocks_again = blocks - (0 if is_adapted else model.mlp_hidden_size * in_ff_out)
    adapters_again = adapters - (options.lora_rank * in_ff_out if is_adapted else 0)
    first = {name: size for name, size in sizes.linear_layers(model).items() if name in ("q_proj", "k_proj", "v_proj") and not full}
    needless = 2 * S * sum(inputs * outputs for inputs, outputs in first.values())
    needless_adapters = 2 * S * options.lora_rank * sum(inputs for name, (inputs, _) in first.items() if name in options.lora_targets)
    own = (2 + full) * (blocks - attention) + 3.5 * attention + again * blocks_again + (4 if full else 2) * head - needless
    of_token = zip(block_bytes(model, options, trains=True), backward_bytes(model, options), strict=True)
    moved = fused_share(options) * of_blocks(model, S, scored, *((1 + again) * forward + backward for forward, backward in of_token))
    moved += scored * 3 * norm_bytes(model, options)
    moved += scored * (2 + again) * read_bytes(model, options) + S * read_bytes(model, options) / 2  # gradients, 0 where nothing is read
    softmax = LOG_SOFTMAX_BYTES + 8 + 2 * c  # the exponential, and its cast
    softmax = 2 * softmax + 24 if full else softmax  # computed again, negated, one-hot added, scaled
    moved += scored * model.embedding_size * softmax + (3 + again) * attention_bytes(model, options, S, S)
    return Work(own, 3 * adapters + again * adapters_again - needless_adapters, moved)


def call_work(model: LLaDAConfig, options: ModelConfig, num_processes: int, strategy: str, *, scored: float = 0.0, gradient: bool) -> Work:
    """The work of each call of the model that does not depend on the number of its sequences.

    Weights, except unused rows of the embedding, are read in the forward pass, for the gradient of the inputs, and
    where blocks run again; lean adapters are rounded first. Gradients are added to those that are
    there (two reads and a write), the trained head's once for each chunk of the `scored` positions. With fsdp2 weights are fetched for the
    forward and for the backward pass, and gradients sent.
    """
    adapters, b = 4 * sizes.count_adapters(model, options), sizes.element_bytes(options)
    weights = sizes.weight_bytes(model, options) + adapters
    passes = 2 + options.gradient_checkpointing if gradient else 1
    shared = (1 - 1 / num_processes) * (strategy == "fsdp2")
    work = Work(read=passes * (weights - b * model.embedding_size * model.d_model), fetched=shared * min(passes, 2) * weights)
    if is_lean(options) and not gradient:
        work.moved = (4 + 2) / 4 * adapters
    if gradient:
        trained = adapters or weights
        chunks = 0 if adapters else max(scored / chunk_size(model.embedding_size), 1)
        work.updated = 3 * trained + 3 * b * chunks * model.embedding_size * model.d_model
        work.fetched += shared * trained
    return work


def matrix_flops(model: LLaDAConfig, options: ModelConfig, fed: int, S: int, scored: float) -> tuple[float, float, float]:
    """Operations of one forward pass of one sequence, a multiplication and an addition each: of blocks, adapters and head.

        fed · (2 · weights of the blocks  +  4 · layers · S · d),   fed · 2 · weights of the adapters,   2 · scored · V · d

    `fed` of its S tokens go through the blocks and attend to all S (2 S d for the scores and 2 S d for the values, per token
    and block); the head is applied at `scored` positions, and so are the layers of the last block that follow its attention: for them,
    `scored` takes the place of `fed`.
    """
    after = sizes.count_linear_after_attention(model)
    blocks = of_blocks(model, fed, scored, sizes.count_linear(model) / model.n_layers - after, after)
    after_adapters = sizes.count_adapters(model, options, sizes.AFTER_ATTENTION) / model.n_layers
    adapters = sizes.count_adapters(model, options) / model.n_layers - after_adapters
    adapters = of_blocks(model, fed, scored, adapters, after_adapters)
    return 2 * blocks + attention_flops(model, fed, S), 2 * adapters, 2 * scored * model.embedding_size * model.d_model


def of_blocks(model: LLaDAConfig, fed: float, scored: float, attention: float, after: float) -> float:
    """What all blocks do for a sequence, if one block does `attention` for a token up to its attention and `after` from there on.

    In the last block only what is `scored` goes further than attention: nothing else is read.
    """
    return fed * model.n_layers * attention + (fed * (model.n_layers - 1) + scored) * after


def attention_flops(model: LLaDAConfig, fed: int, S: int) -> float:
    """Operations of attention in all blocks: scores and weighted values."""
    return 4 * model.n_layers * fed * S * model.d_model


def cast_bytes(options: ModelConfig) -> int:
    """c, the bytes of casting a number to float32 or back."""
    return 0 if options.dtype == "float32" else sizes.element_bytes(options) + 4


def is_lean(options: ModelConfig) -> bool:
    """Whether passes without a gradient take adapters rounded to the type of the model (`models.adapters.Lean`)."""
    return options.lora_lean and options.lora_rank > 0 and options.dtype == "bfloat16"


def fused_share(options: ModelConfig) -> float:
    """Share of the bytes that blocks move op by op that remains with `model.compile`."""
    return 1.0 if options.compile == "none" else COMPILED_SHARE


def norm_bytes(model: LLaDAConfig, options: ModelConfig) -> float:
    """Bytes of one RMSNorm, forward: cast, square, mean, product, cast, product with the weight."""
    return model.d_model * (20 + 2 * cast_bytes(options) + 2 * sizes.element_bytes(options))


def read_bytes(model: LLaDAConfig, options: ModelConfig) -> int:
    """Bytes of copying what is read of a token in the last block: its input and its result of attention, each read and written."""
    return 4 * sizes.element_bytes(options) * model.d_model


def attention_bytes(model: LLaDAConfig, options: ModelConfig, fed: int, S: int) -> float:
    """Bytes of all blocks, forward: queries and results of what is fed, keys and values of all S. The kernel needs no scores in memory."""
    return sizes.element_bytes(options) * model.n_layers * (2 * model.d_model * fed + 2 * sizes.key_width(model) * S)


def block_bytes(model: LLaDAConfig, options: ModelConfig, *, trains: bool = False) -> tuple[float, float]:
    """Bytes of one token in the forward pass of one block, without attention itself: up to it, and after it.

        norms        `norm_bytes`; the same
        rotation     (d + d_kv) (40 + 2 c)     cast, · cos, rotate half (negate, join), · sin, sum, cast
        residuals    0; 6 b d
        SwiGLU       0; 5 b m                  SiLU, · up
        adapters     c for each input, and 16 + b + c for each output: scaled, added, cast; dropout in training 9 for each input

    Lean adapters move nothing for a token: B times A x is added in the product itself.
    """
    d, b, c = model.d_model, sizes.element_bytes(options), cast_bytes(options)
    until, after = norm_bytes(model, options) + rotation_bytes(model, options), norm_bytes(model, options)
    after += 6 * b * d + 5 * b * model.mlp_hidden_size
    if is_lean(options) and not trains:
        return until, after
    of_input, of_output = c + 9 * (trains and options.lora_dropout > 0), 16 + b + c
    adapters = [of_input * inputs + of_output * outputs for inputs, outputs in adapted_widths(model, options)]
    return until + adapters[0], after + adapters[1]


def backward_bytes(model: LLaDAConfig, options: ModelConfig) -> tuple[float, float]:
    """The same for the backward pass, without what it recomputes.

    norms        d (68 + 2 b + 2 c), and 4 b d for the gradient of a trained weight; the same
    rotation     as forward
    gradients    9 b d; 6 b d              of what is used more than once, added up: x, h by q, k, v; x, h by gate and up
    SwiGLU       0; 9 b m
    adapters     3 b + c for each input, and 8 + 2 c for each output; dropout 9 for each input
    """
    d, b, c = model.d_model, sizes.element_bytes(options), cast_bytes(options)
    norm = d * (68 + 2 * b + 2 * c + 4 * b * (options.lora_rank == 0))
    until = norm + rotation_bytes(model, options) + 9 * b * d
    after = norm + 6 * b * d + 9 * b * model.mlp_hidden_size
    of_input, of_output = 3 * b + c + 9 * (options.lora_dropout > 0), 8 + 2 * c
    adapters = [of_input * inputs + of_output * outputs for inputs, outputs in adapted_widths(model, options)]
    return until + adapters[0], after + adapters[1]


def rotation_bytes(model: LLaDAConfig, options: ModelConfig) -> float:
    """Bytes of rotating queries and keys of one token in one block; 0 with learned positions."""
    return model.rope * (model.d_model + sizes.key_width(model)) * (40 + 2 * cast_bytes(options))


def adapted_widths(model: LLaDAConfig, options: ModelConfig) -> list[tuple[int, int]]:
    """Inputs and outputs of all layers of a block that have adapters, added up: of those up to attention, and of those after it."""
    layers, after = sizes.linear_layers(model), set(sizes.AFTER_ATTENTION)
    targets = set(options.lora_targets) if options.lora_rank else set()
    parts = [[layers[name] for name in part] for part in (targets - after, targets & after)]
    return [(sum(inputs for inputs, _ in part), sum(outputs for _, outputs in part)) for part in parts]
