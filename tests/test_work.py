"""What passes ask of a GPU: against torch's own count of operations, and the bytes of every op that runs on a small LLaDA layout."""

import math
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from dmpo_ref.config import ModelConfig
from dmpo_ref.forecast.hardware import BANDWIDTH_SHARE, COMPILED_SHARE, GPUS, MATRIX_SHARE, TF32_SHARE
from dmpo_ref.forecast.sizes import cache_bytes, count_parameters, weight_bytes
from dmpo_ref.forecast.work import Work, block_bytes, call_work, forward_work, is_lean, matrix_flops, step_work
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.samplers.proposal import draw_tokens

SIZES = {"d_model": 64, "n_layers": 8, "n_heads": 8, "n_kv_heads": 4, "mlp_hidden_size": 160, "vocab_size": 512}
SMALL = LLaDAConfig(**SIZES, max_sequence_length=64, mask_token_id=1, eos_token_id=2, pad_token_id=2)
B, S, SCORED = 4, 32, 8
ALL = ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"]
TARGETS = {"full": [], "all": ALL, "some": ["q_proj", "v_proj", "up_proj"]}


def test_operations_of_one_token_through_one_block_by_hand():
    """A multiplication and an addition for each weight, for each score q·k over 5 slots, and for each weighted value.

    Of 4 tokens one is read: in the last block, `attn_out` and the three layers of SwiGLU see that one only.
    """
    sizes = LLaDAConfig(d_model=8, n_layers=2, n_heads=2, n_kv_heads=1, mlp_hidden_size=12, vocab_size=10, max_sequence_length=16)
    options = ModelConfig(path="", lora_rank=3, lora_targets=["k_proj", "up_proj"])
    attention, after = 2 * (8 * 8 + 8 * 4 + 8 * 4) + (2 * 5 * 8 + 2 * 5 * 8), 2 * (8 * 8 + 3 * 8 * 12)
    adapters = 4 * 2 * 3 * (8 + 4) * 2 + (4 + 1) * 2 * 3 * (8 + 12)
    assert matrix_flops(sizes, options, fed=4, S=5, scored=1) == (4 * 2 * attention + (4 + 1) * after, adapters, 2 * 10 * 8)


def choose(targets, dtype="bfloat16", **more):
    lora = {"lora_rank": 8, "lora_targets": TARGETS[targets]} if targets != "full" else {}
    return ModelConfig(path="", dtype=dtype, **lora, **more)


def build(options, sizes=SMALL):
    model = LLaDAModelLM(sizes).to(getattr(torch, options.dtype))
    if options.lora_rank:
        model = add_adapters(model, options, seed=0)
    if options.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        model.disable_input_require_grads()  # as in a run
    return model


def run(model, *, gradient):
    """Forward passes of B sequences that score SCORED positions each, with their gradient or without."""
    ids = torch.arange(B * S).reshape(B, S) % 500
    select = (torch.arange(S) < SCORED).expand(B, S)
    model.train(gradient)
    with torch.set_grad_enabled(gradient):
        scores = model(input_ids=ids, attention_mask=torch.ones(B, S), select=select, targets=ids[select]).token_log_prob
        if gradient:
            scores.sum().backward()


def heads_of_keys(q, k):
    return (*q[:2], *k[2:])  # query heads share keys; the operations are those of as many


aten = torch.ops.aten
ON_CPU = {  # torch counts the attention kernels of a GPU only
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, **_: sdpa_flop_count(q, *[heads_of_keys(q, k)] * 2),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, *_, **__: sdpa_backward_flop_count(
        g, q, *[heads_of_keys(q, k)] * 2
    ),
}


def count_flops(model, *, gradient):
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        run(model, gradient=gradient)
    return counter.get_total_flops() / B


@pytest.mark.parametrize("targets", TARGETS)
def test_operations_of_a_pass_and_of_a_step_are_those_that_torch_counts(targets):
    plain, again = choose(targets), choose(targets, gradient_checkpointing=True)
    forward, step, long_step = (
        count_flops(build(options), gradient=gradient) for options, gradient in ((plain, False), (plain, True), (again, True))
    )
    assert forward_work(SMALL, plain, S, S, SCORED).flops == pytest.approx(forward, rel=1e-9)
    assert step_work(SMALL, plain, S, SCORED).flops == pytest.approx(step, rel=1e-9)
    assert step_work(SMALL, again, S, SCORED).flops == pytest.approx(long_step, rel=1e-9)


def test_what_a_step_of_llada_8b_is_worth():
    """Products a token, in millions: blocks 6,979 (of them ff_out 1,611), attention 134, adapters 336, head 130 (a quarter is scored).

    With adapters (2 · 6979 + 3.5 · 134 + 3 · 336 + 2 · 130 − 52) / 7579 = 2.06, and the blocks again; all trained
    (3 · 6979 + 3.5 · 134 + 4 · 130) / 7243 = 3.03, and the blocks but ff_out again. 52: gradients of the first block's inputs.
    """
    sizes = LLaDAConfig()
    for targets, checkpointing, worth in (("all", False, 2.064), ("all", True, 3.041), ("full", False, 3.03), ("full", True, 3.79)):
        options = choose(targets, gradient_checkpointing=checkpointing)
        if options.lora_rank:
            options.lora_rank = 128
        step, forward = step_work(sizes, options, 512, 128), forward_work(sizes, options, 512, 512, 128)
        assert step.flops / forward.flops == pytest.approx(worth, abs=0.006)


class Traffic(TorchDispatchMode):
    """Bytes that every op but matrix products reads and writes, by its name; a stride of 0 is read once."""

    def __init__(self):
        super().__init__()
        self.bytes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if not func.is_view and name not in ("mm", "bmm", "addmm", "addmm_", "_unsafe_view"):
            tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
            self.bytes[name] += sum(map(span, tensors)) * (3 if name == "logsumexp" else 1)
            if name == "logsumexp":  # in one op here; elsewhere the largest, the difference, the exponential, the sum
                self.bytes[name] += 3 * span(tensors[0])
        return result


def span(tensor):
    return tensor.element_size() * math.prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)


def count_bytes(options, *, gradient, sizes=SMALL):
    model = build(options, sizes)
    run(model, gradient=gradient)  # an adapter's first pass may set something up
    model.zero_grad()
    with Traffic() as traffic:
        run(model, gradient=gradient)
    return sum(traffic.bytes.values()) / B


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", TARGETS)
def test_bytes_that_move_are_those_of_the_ops_that_run(targets, dtype):
    plain, again = choose(targets, dtype), choose(targets, dtype, gradient_checkpointing=True)
    assert forward_work(SMALL, plain, S, S, SCORED).moved == pytest.approx(count_bytes(plain, gradient=False), rel=0.06)
    assert step_work(SMALL, plain, S, SCORED).moved == pytest.approx(count_bytes(plain, gradient=True), rel=0.06)
    assert step_work(SMALL, again, S, SCORED).moved == pytest.approx(count_bytes(again, gradient=True), rel=0.06)


@pytest.mark.parametrize("targets", ["all", "some"])
def test_lean_adapters_move_their_own_rounding_and_nothing_of_the_tokens(targets):
    lean, plain = choose(targets, lora_lean=True), choose(targets)
    call = call_work(SMALL, lean, 1, "ddp", gradient=False)
    planned = forward_work(SMALL, lean, S, S, SCORED).moved + call.moved / B
    assert planned == pytest.approx(count_bytes(lean, gradient=False), rel=0.06)
    assert forward_work(SMALL, lean, S, S, SCORED).moved == forward_work(SMALL, choose("full"), S, S, SCORED).moved
    rounded, full = forward_work(SMALL, lean, S, S, SCORED), forward_work(SMALL, plain, S, S, SCORED)
    assert (rounded.own, rounded.adapters) == (full.own + full.adapters, 0)  # no product of float32 numbers is left
    assert step_work(SMALL, lean, S, SCORED) == step_work(SMALL, plain, S, SCORED)  # which need a gradient
    assert not is_lean(choose(targets, "float32", lora_lean=True))


def test_what_is_read_of_the_last_block_is_copied(monkeypatch):
    """Its input and its result of attention, 64 numbers of 4 bytes, read and written; in a step also their gradients, and zeros."""
    plain, again = choose("full", "float32"), choose("full", "float32", gradient_checkpointing=True)

    def works():
        return [forward_work(SMALL, plain, S, S, 3).moved, *(step_work(SMALL, options, S, 3).moved for options in (plain, again))]

    counted = works()
    monkeypatch.setattr("dmpo_ref.forecast.work.read_bytes", lambda *_: 0)
    copy = 2 * 2 * 64 * 4
    assert [a - b for a, b in zip(counted, works(), strict=True)] == [
        3 * copy,
        2 * 3 * copy + S * 2 * 64 * 4,
        3 * 3 * copy + S * 2 * 64 * 4,
    ]


def test_learned_positions_rotate_nothing():
    sizes = LLaDAConfig(**SIZES, max_sequence_length=64, rope=False, mask_token_id=1, eos_token_id=2, pad_token_id=2)
    options = choose("full", "float32")
    moved = forward_work(sizes, options, S, S, SCORED).moved
    assert moved == pytest.approx(count_bytes(options, gradient=False, sizes=sizes), rel=0.09)
    assert moved < 0.8 * forward_work(SMALL, options, S, S, SCORED).moved


def test_dropout_moves_a_copy_and_a_mask_of_every_input_both_ways():
    """One float32 number read, one written, one byte of mask: 9, in the forward pass, and again in the backward pass."""
    without, dropped = (step_work(SMALL, choose("some", lora_dropout=p), S, SCORED).moved for p in (0.0, 0.05))
    assert dropped - without == 2 * 9 * (S * 8 * (64 + 64) + (S * 7 + SCORED) * 64)  # q, v; up, of what is read of the last block
    assert block_bytes(SMALL, choose("some", lora_dropout=0.05)) == block_bytes(SMALL, choose("some"))  # nothing is dropped while scoring


def test_bytes_of_drawing_tokens_are_those_of_the_ops_that_run():
    """A chunk of 64 positions over 512 tokens, float32 as the model gives them."""
    logits, uniform = torch.randn(64, 512), torch.rand(64, dtype=torch.float64)
    words = Vocabulary(1, torch.ones(512, dtype=torch.bool))
    with Traffic() as traffic:
        draw_tokens(words.restrict(logits).double(), 0.2, uniform)
    options = choose("full", "float32")
    planned = [forward_work(SMALL, options, S, S, scored, samples=True).moved for scored in (0, 64)]
    assert planned[1] - planned[0] == pytest.approx(sum(traffic.bytes.values()), rel=0.15)


def test_a_pass_of_a_block_reads_the_kept_keys_and_values_of_all_else():
    options = choose("full")
    part, whole = (forward_work(SMALL, options, fed, S, 0) for fed in (4, S))
    assert (part.kept, whole.kept) == (cache_bytes(SMALL, options, S - 4), 0)
    # Eight blocks: queries and results of 4 tokens, 64 wide; keys and values of 32, 32 wide; 2 bytes each.
    of_tokens = 4 * (whole.moved - 8 * 2 * (2 * 64 * S + 2 * 32 * S)) / S
    assert part.moved == pytest.approx(of_tokens + 8 * 2 * (2 * 64 * 4 + 2 * 32 * S))


def test_compiled_blocks_move_a_share_and_compute_the_same():
    eager, fused = (forward_work(SMALL, choose("all", compile=mode), S, S, 0) for mode in ("none", "default"))
    until, after = block_bytes(SMALL, choose("all"))
    blocks = 8 * S * until + 7 * S * after
    assert eager.moved - fused.moved == pytest.approx((1 - COMPILED_SHARE) * blocks)
    assert eager.flops == fused.flops


def test_a_call_reads_all_weights_and_a_step_as_often_as_it_computes():
    lora = choose("all")
    weights, adapters = weight_bytes(SMALL, lora) - 2 * 512 * 64, 4 * 8 * 8 * (2 * 128 + 2 * 96 + 3 * 224)
    assert call_work(SMALL, lora, 1, "ddp", gradient=False) == Work(read=weights + adapters)
    step = call_work(SMALL, choose("all", gradient_checkpointing=True), 1, "ddp", gradient=True)
    assert step == Work(read=3 * (weights + adapters), updated=3 * adapters)  # two reads and a write of their gradients
    shards = call_work(SMALL, choose("full"), 4, "fsdp2", gradient=True)
    assert shards.fetched == pytest.approx(0.75 * 3 * 2 * count_parameters(SMALL))  # weights twice, gradients once


def test_time_by_hand():
    """H100: 989e12 operations, half in TF32, 67e12 in float32; 3.35e12 bytes per second."""
    gpu, b16, b32 = GPUS["h100"], choose("all"), choose("all", "float32")
    work = Work(own=989e12, adapters=989e12, moved=3.35e12, kept=3.35e12, read=2 * 3.35e12, updated=3.35e12)
    assert TF32_SHARE == 0.5
    assert work.least(b16, gpu) == pytest.approx(3)  # arithmetic 1 + 2; memory 3
    assert (work * 2).least(b32, gpu) == pytest.approx(4 * 989 / 67)
    assert work.expected(b16, gpu) == pytest.approx(3 / MATRIX_SHARE + 2 / BANDWIDTH_SHARE)
    assert (work + Work(read=3.35e13)).expected(b16, gpu) == pytest.approx(14 / BANDWIDTH_SHARE)
    assert Work(fetched=450e9).least(b16, gpu) == Work(fetched=450e9).expected(b16, gpu) == 1
