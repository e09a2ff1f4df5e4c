"""The forecast: counted against real modules, real passes and really saved tensors, never against its own formulas."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dmpo_ref.config import ModelConfig
from dmpo_ref.forecast.hardware import BANDWIDTH_SHARE, GPUS, MATRIX_SHARE, choose_gpu
from dmpo_ref.forecast.memory import inside_bytes
from dmpo_ref.forecast.page import format_plan, format_variants
from dmpo_ref.forecast.plan import OVERHEAD, make_plan
from dmpo_ref.forecast.sizes import count_parameters
from dmpo_ref.forecast.variants import plan_variants
from dmpo_ref.likelihood import token_log_prob
from dmpo_ref.masking import Masks, stream
from dmpo_ref.models.cache import KeyValueCache
from dmpo_ref.models.llada import LLaDAConfig, LLaDAModelLM
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.train import train
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary

SIZES = {"d_model": 48, "n_layers": 4, "n_heads": 4, "mlp_hidden_size": 112, "max_sequence_length": 64, "init_std": 0.02}
HUB = "model.path=GSAI-ML/LLaDA-8B-Instruct"
ONE_OPERATION_A_SECOND = replace(GPUS["h100"], flops=1, flops_float32=1, bandwidth=1e300)
LORA = ("model.lora_rank=128", "model.dtype=bfloat16", "sampler.response_length=256", "loss.micro_batch=8")


@pytest.fixture
def folder(tmp_path):
    """Write the config.json of a tiny model; `folder(name=size, …)` gives its `model.path` override."""

    def write(**sizes):
        tiny_model(double=False, **(SIZES | sizes)).config.save_pretrained(tmp_path / "model")
        return f"model.path={tmp_path / 'model'}"

    return write


def on_meta(**sizes):
    with torch.device("meta"):
        return LLaDAModelLM(LLaDAConfig(**sizes))


def number(parameters):
    return sum(p.numel() for p in parameters)


def adapted(model, *, rank, targets, dropout=0.0):
    peft = pytest.importorskip("peft")
    names = rf".*blocks\.\d+\.({'|'.join(targets)})"
    return peft.get_peft_model(model, peft.LoraConfig(r=rank, target_modules=names, lora_dropout=dropout))


@pytest.mark.parametrize("sizes", [{}, SIZES, SIZES | {"rope": False, "n_kv_heads": 2, "vocab_size": 9, "embedding_size": 12}])
def test_parameters_are_those_of_a_model_without_storage(sizes):
    assert count_parameters(LLaDAConfig(**sizes)) == number(on_meta(**sizes).parameters())


def test_llada_8b_is_known_without_its_files(small_run):
    plan = make_plan(small_run(HUB))
    assert plan.parameters == plan.trainable == 8_015_581_184
    assert plan.weights == 4 * 8_015_581_184


@pytest.mark.parametrize("targets", [["q_proj"], ["v_proj", "attn_out", "up_proj", "ff_out"]])
def test_trained_parameters_are_those_peft_adds(small_run, folder, targets):
    path = folder(n_kv_heads=2)
    plan = make_plan(small_run(path, "model.lora_rank=3", f"model.lora_targets=[{','.join(targets)}]"))
    model = adapted(tiny_model(double=False, **SIZES, n_kv_heads=2), rank=3, targets=targets)
    assert plan.parameters == number(model.parameters())
    assert plan.trainable == number(p for p in model.parameters() if p.requires_grad)
    assert (plan.adapters, plan.gradients, plan.optimizer) == (4 * plan.trainable, 4 * plan.trainable, 8 * plan.trainable)


def test_sizes_of_a_checkpoint_that_ships_python_are_read_and_nothing_is_run(small_run, folder):
    path = folder()
    file = Path(path.removeprefix("model.path=")) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}))
    assert make_plan(small_run(path)).parameters == number(tiny_model(double=False, **SIZES).parameters())


def test_a_round_worked_by_hand(small_run, folder):
    # 3 prompts × 4 rollouts, 6 positions in 6 steps, prompts of 10 tokens; 2 steps of 2 masks for each rollout.
    options = (folder(), "sampler.response_length=6", "weight.log_ratio=elbo", "weight.elbo_num_masks=4", "loss.name=wddo")
    batches = ("sampler.micro_batch=5", "train.score_micro_batch=16", "loss.micro_batch=10")
    plan = make_plan(small_run(*options, *batches), prompt_length=10)
    phases = {p.name: (p.sequences, p.tokens, p.calls) for p in plan.phases}
    assert phases == {
        "sampling": (12 * 6, 12 * 6 * 16, 6 * 3),  # 12 rows in parts of 5: 3 calls a step
        "scoring p_ref, p_old": (2 * 48, 2 * 48 * 16, 2 * 3),
        "storing log p_old": (2 * 24, 2 * 24 * 16, 2 * 2),
        "gradient of the loss": (2 * 24, 2 * 24 * 16, 2 * 3),
        "gradient steps": (2 * 24, 2 * 24 * 16, 2 * 3),
    }
    assert {p.name: round(p.worth) for p in plan.phases} == dict.fromkeys(phases, 1) | {"gradient steps": 3}  # all weights are trained
    assert (plan.rollouts, plan.response_length, plan.sequence_length) == (12, 6, 16)
    assert plan.reference == plan.weights


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler.micro_batch=5", "loss.micro_batch=7", "weight.log_ratio=path", "train.score_micro_batch=50"],
        ["loss.name=wddo", "loss.micro_batch=5", "weight.log_ratio=elbo", "weight.elbo_num_masks=3"],
        ["weight.baseline=model", "loss.masks=path", "loss.micro_batch=100", "weight.log_ratio=none", "train.score_micro_batch=90"],
        ["sampler.name=confidence", "sampler.steps=8", "weight.log_ratio=none", "loss.masks=exact", "train.prompts_per_step=1"],
    ],
)
def test_a_real_round_calls_the_model_as_often_as_planned(small_run, overrides):
    config = small_run("task.generate=all", "train.rounds=2", *overrides)
    first = train(config).metrics[0]  # of the first round; only the last one is followed by an evaluation
    assert first["forward_passes"] == sum(p.calls for p in make_plan(config).phases)


def draw(config, model=None):
    """Rollouts as in a round of `small_run`: 3 prompts of 5 tokens, 4 responses to each."""
    L, model = config.sampler.response_length, model or tiny_model(max_sequence_length=128)
    prompts = make_prompts(*(f"1234{digit}|{'_' * L}" for digit in "234"))
    return sample(model, prompts, config.sampler, vocabulary(), num_rollouts=4, generators=[stream(0, "plan", g) for g in range(3)])


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["sampler.steps=6", "sampler.micro_batch=5"],
        ["sampler.block_length=null", "sampler.steps=4", "sampler.guidance=0.5", "sampler.micro_batch=5"],
    ],
)
def test_confidence_feeds_what_is_planned(small_run, folder, overrides, cache):
    options = ("sampler.name=confidence", "sampler.response_length=12", "sampler.block_length=4", f"sampler.cache={cache}")
    config = small_run(folder(), "weight.log_ratio=none", *options, *overrides)
    rollout, phase = draw(config), make_plan(config, prompt_length=5).phases[0]
    assert (rollout.fed_tokens, rollout.forwards) == (phase.tokens, phase.calls)


@pytest.mark.parametrize("overrides", [["sampler.name=random", "sampler.steps=6", "sampler.guidance=0.5"], ["sampler.micro_batch=7"]])
def test_random_orders_feed_what_is_planned(small_run, folder, overrides):
    config = small_run(folder(), "weight.log_ratio=none", "sampler.response_length=12", "sampler.block_length=4", *overrides)
    rollout, phase = draw(config), make_plan(config, prompt_length=5).phases[0]
    assert (rollout.fed_tokens, rollout.forwards) == (phase.tokens, phase.calls)


def test_tokens_fed_with_caches_worked_by_hand(small_run, folder):
    """5 + 8 positions, two blocks of 4 in 2 passes each: 13, then 8 or 4; 13, then 4. 12 rollouts."""
    options = (folder(), "weight.log_ratio=none", "sampler.name=confidence", "sampler.response_length=8", "sampler.block_length=4")
    for cache, fed, tokens in (("none", [13] * 4, 12 * 52), ("prefix", [13, 8, 13, 4], 12 * 38), ("dual", [13, 4, 13, 4], 12 * 34)):
        plan = make_plan(small_run(*options, "sampler.steps=4", f"sampler.cache={cache}"), prompt_length=5)
        assert (plan.phases[0].fed, plan.phases[0].tokens) == (fed, tokens)


SURE = {"threshold": "sampler.threshold=1e-12", "factor": "sampler.factor=1e12", "wino": "sampler.threshold=1e-12"}
UNSURE = {"threshold": "sampler.threshold=1", "factor": "sampler.factor=1e-12", "wino": "sampler.threshold=1"}


@pytest.mark.parametrize(
    ("name", "cache"), [*((name, cache) for name in ("threshold", "factor") for cache in ("none", "prefix", "dual")), ("wino", "none")]
)
def test_parallel_samplers_reach_both_ends_of_the_planned_range(small_run, folder, name, cache):
    """Everything above the threshold, or nothing; of 40 positions wino then takes 20, 14 (0.7 · 20), 5 and 1."""
    b = 40 if name == "wino" else 8
    options = (f"sampler.response_length={2 * b}", f"sampler.block_length={b}", f"sampler.cache={cache}", "sampler.back_threshold=1e-12")
    ends = []
    for which in (SURE, UNSURE):
        path = folder(max_sequence_length=128)
        config = small_run(path, "weight.log_ratio=none", f"sampler.name={name}", "sampler.micro_batch=5", *options, which[name])
        ends.append(draw(config))
    plan = make_plan(config, prompt_length=5)
    for rollout, phase in zip(ends, (plan.fastest, plan.phases[0]), strict=True):
        assert (rollout.fed_tokens, rollout.forwards) == (phase.tokens, phase.calls)
    assert f"{name} takes {8 if name == 'wino' else 2} to {2 * b} passes" in format_plan(plan)


def test_the_kept_keys_and_values_are_those_of_a_real_pass(small_run, folder):
    path = folder(n_kv_heads=2)
    options = ("weight.log_ratio=none", "sampler.name=confidence", "sampler.cache=dual", "sampler.micro_batch=5", "sampler.guidance=1")
    plan = make_plan(small_run(path, *options, "sampler.response_length=12", "model.dtype=bfloat16"), prompt_length=5)
    model, cache = tiny_model(double=False, **SIZES, n_kv_heads=2).bfloat16(), KeyValueCache()
    model(input_ids=torch.zeros(4, 17, dtype=torch.long), cache=cache)  # two rollouts, twice: 5 sequences would part a pair
    assert plan.cache == sum(kept.nbytes for layer in cache.layers for kept in (layer.keys, layer.values))


def peak_bytes(run, folder):
    """Most bytes of tensors alive at a time that `run()` makes, by torch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    profile.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    return max(torch.tensor([change for _, change in changes]).cumsum(dim=0)).item()


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler.name=random_order"],
        ["sampler.name=confidence", "sampler.cache=prefix"],
        ["sampler.name=threshold", "sampler.cache=dual", "sampler.guidance=1", SURE["threshold"]],
        ["sampler.name=wino", "sampler.back_threshold=1e-12", SURE["wino"]],
    ],
)
def test_sampling_needs_at_most_the_planned_memory(small_run, folder, tmp_path, overrides):
    options = (folder(), "weight.log_ratio=none", "sampler.response_length=24", "sampler.block_length=6")
    config = small_run(*options, *overrides)
    plan, model = make_plan(config, prompt_length=5), tiny_model(double=False, **SIZES)
    measured = peak_bytes(lambda: draw(config, model), tmp_path)
    assert measured < plan.passing["sampling"] < 2 * measured
    assert (plan.cache > 0) == (config.sampler.cache != "none")


@pytest.mark.parametrize(
    "overrides",
    [
        ["sampler.name=random", "sampler.steps=6", "sampler.guidance=1"],
        ["sampler.name=confidence", "sampler.steps=6", "sampler.cache=prefix"],
        ["sampler.name=threshold", UNSURE["threshold"], "sampler.cache=dual", "sampler.micro_batch=5"],
        ["sampler.name=wino", UNSURE["wino"]],
    ],
)
def test_operations_of_sampling_are_those_that_torch_counts(small_run, folder, overrides):
    sizes = SIZES | {"n_kv_heads": 2}
    config = small_run(folder(**sizes), "weight.log_ratio=none", "sampler.response_length=12", "sampler.block_length=4", *overrides)
    plan = make_plan(config, prompt_length=5, gpu=ONE_OPERATION_A_SECOND)
    # The fused attention kernel of a CPU is not counted; products of matrices are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        draw(config, tiny_model(double=False, **sizes))
    assert counter.get_total_flops() == pytest.approx(plan.phases[0].least)


def saved_bytes(model, *, num_rows, length):
    """Bytes of the distinct tensors that one micro-batch of a gradient step keeps for its backward pass, weights aside.

    Everything is hidden and scored, which is the most that a mask may do.
    """
    rollout = make_rollout(make_prompts("0" * (40 - length) + "|" + "_" * length), num_rows)
    everything = rollout.response_mask.unsqueeze(2)
    masks = Masks(everything, everything, torch.ones(everything.shape[:3], dtype=torch.float64))
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        total = token_log_prob(model, rollout, masks, vocabulary()).sum()
    total.backward()
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


ALL = ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj", "ff_out"]


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [(None, "float32"), *((targets, dtype) for targets in (["q_proj", "v_proj"], ALL) for dtype in ("float32", "bfloat16"))],
)
@pytest.mark.parametrize("rope", [False, True])
def test_activations_are_what_autograd_saves(small_run, folder, dtype, targets, rope):
    options = (folder(rope=rope), f"model.dtype={dtype}", "loss.micro_batch=6", "sampler.response_length=24", "loss.masks=exact")
    lora = () if targets is None else ("model.lora_rank=4", f"model.lora_targets=[{','.join(targets)}]")
    plan = make_plan(small_run(*options, *lora), prompt_length=16)
    model = tiny_model(double=False, **SIZES, rope=rope).to(getattr(torch, dtype))
    if targets is not None:
        model = adapted(model, rank=4, targets=targets)
    measured = saved_bytes(model, num_rows=6, length=24)
    assert plan.activations[False] == pytest.approx(measured, rel=0.05)


def test_gradients_inside_a_block_by_hand():
    """Of one sequence of 10 tokens, 4 bytes a number, d = 8: where most is held depends on the width m and on how much is read."""
    options = ModelConfig(path="")
    for m, scored, last, most in (
        (12, 2, 1000, 10 * 6 * 8 * 4 - 2 * 3 * 12 * 4),  # attention of the last block: 1920, and the SwiGLU of 2 tokens is gone
        (100, 2, 1000, 10 * 2 * 108 * 4 - 1000),  # SwiGLU of the block before, when the last is gone
        (12, 10, 1000, 10 * 2 * 20 * 4),  # SwiGLU of the last block, all of it
    ):
        sizes = LLaDAConfig(d_model=8, n_layers=2, n_heads=2, mlp_hidden_size=m, vocab_size=10, max_sequence_length=16)
        assert inside_bytes(sizes, options, 10, scored, 5000, last) == most


def test_memory_grows_with_the_micro_batch_and_shrinks_by_checkpointing(small_run):
    small, large = (make_plan(small_run(HUB, *LORA, f"loss.micro_batch={m}")) for m in (2, 4))
    assert large.activations[False] == 2 * small.activations[False]
    saving = make_plan(small_run(HUB, *LORA, "loss.micro_batch=4", "model.gradient_checkpointing=true"))
    assert saving.activations[True] < large.activations[False] / 10
    assert saving.peak < large.peak and saving.seconds > large.seconds
    one = make_plan(small_run(HUB, *LORA, "sampler.micro_batch=1"))
    assert one.passing["sampling"] < small.passing["sampling"]


def test_a_reference_is_a_second_model_only_without_adapters(small_run):
    full, lora = (make_plan(small_run(HUB, "weight.log_ratio=elbo", f"model.lora_rank={r}")) for r in (0, 8))
    assert full.reference == full.weights > 0 == lora.reference
    assert make_plan(small_run(HUB, "weight.log_ratio=none")).reference == 0


def test_four_bits_leave_embedding_head_and_norms_as_they_were(small_run):
    plan = make_plan(small_run(HUB, *LORA, "model.quantize=nf4"))
    blocks = number(p for name, p in on_meta().named_parameters() if "blocks" in name and "norm" not in name)
    assert plan.weights == pytest.approx(2 * (8_015_581_184 - blocks) + blocks * 4.5 / 8)


def at_peaks(*, flops, bandwidth):
    return replace(GPUS["h100"], flops=flops, flops_float32=flops, bandwidth=bandwidth)


def test_time_is_at_least_the_slower_of_arithmetic_and_reading_the_weights(small_run):
    # Reading 8.02 B float32 weights but the embedding, of which a few rows are looked up, takes 30 s at 1e9 bytes per second, and 16
    # steps fill a response.
    read = 4 * (8.015581184 - 0.126464 * 4.096)
    slow_memory = make_plan(small_run(HUB), gpu=at_peaks(flops=1e30, bandwidth=1e9))
    assert slow_memory.phases[0].least == pytest.approx(16 * read)
    # 2 operations for each weight of the blocks and token; attention and head are small beside it.
    slow_arithmetic = make_plan(small_run(HUB), gpu=at_peaks(flops=1e12, bandwidth=1e30))
    assert slow_arithmetic.phases[0].least == pytest.approx(2 * 6.979e9 * slow_arithmetic.phases[0].tokens / 1e12, rel=0.05)
    assert slow_arithmetic.phases[0].seconds == pytest.approx(slow_arithmetic.phases[0].least / MATRIX_SHARE)
    # So with a cache, where the passes are as many but feed less, and read the kept keys and values: of 12 rows and 268 slots,
    # 2 · 32 · 4096 numbers each, in 12 of 16 passes.
    cached = ("weight.log_ratio=none", "sampler.name=confidence", "sampler.block_length=4", "sampler.cache=dual")
    slow_memory, slow_arithmetic = (
        make_plan(small_run(HUB, *cached), gpu=at_peaks(flops=f, bandwidth=b)) for f, b in ((1e30, 1e9), (1e12, 1e30))
    )
    kept = 12 * 12 * 268 * 2 * 32 * 4096 * 4 / 1e9
    assert slow_memory.phases[0].least == pytest.approx(16 * read + kept)
    assert slow_arithmetic.phases[0].tokens == 3 * 4 * 4 * (272 + 3 * 4)
    assert slow_arithmetic.phases[0].least == pytest.approx(2 * 6.979e9 * slow_arithmetic.phases[0].tokens / 1e12, rel=0.05)


def test_the_base_scores_without_adapters_until_it_is_re_synced(small_run):
    """Rank 128 on all layers: 336 million products a token beside 6,979 and those of attention and head, at half the speed."""
    gpu = at_peaks(flops=1e12, bandwidth=1e30)
    options = (HUB, *LORA, "weight.log_ratio=elbo", "sampler.name=confidence")
    base, moved = (make_plan(small_run(*options, f"train.resync_every={every}"), gpu=gpu).phases[1] for every in (0, 5))
    assert (base.name, base.of_base, moved.of_base) == ("scoring p_ref, p_old", 1, 0)
    # One of two passes: 2 · 336 million operations for each of its tokens, in TF32. Of 512 tokens 128 are read, and 384 leave out what
    # follows the attention of the last block.
    after = 128 * (2 * 4096 + 3 * (4096 + 12288))
    assert moved.least - base.least == pytest.approx(2 * (335.54432e6 - 384 / 512 * after) * base.tokens / 2 / 0.5e12)


def test_what_is_expected_is_never_less_than_the_bound_and_shrinks_with_every_peak(small_run):
    plan = make_plan(small_run(HUB, *LORA))
    assert all(phase.seconds > phase.least > 0 for phase in [*plan.phases, plan.fastest])
    for faster in (choose_gpu("h100", flops=2e15), choose_gpu("h100", bandwidth=1e13)):
        assert make_plan(small_run(HUB, *LORA), gpu=faster).seconds < plan.seconds
    by_speed = [make_plan(small_run(HUB, *LORA), gpu=GPUS[name]).seconds for name in ("h200", "h100", "a100", "rtx4090", "rtx3090")]
    assert by_speed == sorted(by_speed)
    assert make_plan(small_run(HUB, *LORA), gpu=GPUS["rtx3090"]).peak == plan.peak


def test_memory_alone_sets_the_time_of_what_is_no_matrix_product(small_run):
    """With matrix products and weights for nothing, the time is the bytes that move, at the share of the bandwidth."""
    options = (HUB, *LORA, "weight.log_ratio=none")
    slow, slower = (make_plan(small_run(*options), gpu=at_peaks(flops=1e30, bandwidth=b)).seconds for b in (2e12, 1e12))
    assert slower == pytest.approx(2 * slow)
    # 2.27 MB for a token and block: the bytes of `test_work`, 552 numbers of width 4,096 where m = 3 d. Weights and logits come on top.
    sampling = make_plan(small_run(*options, "sampler.name=random", "sampler.steps=1"), gpu=at_peaks(flops=1e30, bandwidth=1e12)).phases[0]
    assert sampling.seconds == pytest.approx(sampling.tokens * 32 * 2.27e6 / 1e12 / BANDWIDTH_SHARE, rel=0.2)


def test_other_settings_stand_beside_the_plan(small_run):
    options = (HUB, *LORA, "sampler.name=confidence", "sampler.block_length=32", "sampler.cache=prefix", "weight.log_ratio=elbo")
    config = small_run(*options, "model.gradient_checkpointing=true", "train.prompts_per_round=8")
    plan, others = make_plan(config), plan_variants(config, gpu=GPUS["h100"], prompt_length=None)
    fewer, fused, lean, dual, together, recipe = others.values()
    settings = [
        "model.gradient_checkpointing=false loss.micro_batch=4",
        "model.compile=default",
        "model.lora_lean=true",
        "sampler.cache=dual",
    ]
    assert list(others) == [*settings, " ".join(settings), "as published, 8 H200"]
    assert all(other.seconds < plan.seconds for other in (fewer, fused, lean, dual))
    assert together.seconds < min(fewer.seconds, fused.seconds, lean.seconds, dual.seconds)
    assert fused.least == plan.least and fused.peak == plan.peak
    assert (recipe.num_processes, recipe.gpu.name, recipe.weights < plan.weights / 2) == (8, "H200", True)
    table = format_variants(plan, others).splitlines()
    assert len(table) == 8 and table[1].split() == ["as", "it", "is", f"{plan.least:.1f}", f"{plan.seconds:.1f}", f"{plan.peak / 1e9:.1f}"]


def test_settings_that_a_run_has_or_cannot_have_are_not_beside_it(small_run, folder):
    arguments = {"gpu": GPUS["h100"], "prompt_length": None}
    assert list(plan_variants(small_run(folder(), "model.compile=default"), **arguments)) == ["model.gradient_checkpointing=true"]
    confident = ("sampler.name=confidence", "weight.log_ratio=none", "model.compile=reduce-overhead")
    assert list(plan_variants(small_run(folder(), *confident), **arguments)) == ["model.gradient_checkpointing=true"]
    only = plan_variants(small_run(folder(), "model.compile=default", "model.gradient_checkpointing=true"), **arguments)
    assert list(only) == ["model.gradient_checkpointing=false"]  # no micro-batch that could be smaller
    one_prompt = plan_variants(small_run(HUB, *LORA, "train.prompts_per_round=1"), **arguments)
    assert not any("published" in name for name in one_prompt)  # eight GPUs cannot share it


@pytest.mark.parametrize("preset", ["llada_sudoku", "llada_countdown", "llada_gsm8k", "llada_math500"])
def test_a_preset_fits_80_gb_and_keeps_what_is_free(preset):
    """No block is computed again, and that takes no memory that sampling would not."""
    config = load_config(preset)
    plan, others = make_plan(config), plan_variants(config, gpu=GPUS["h100"], prompt_length=None)
    assert plan.peak < 80e9 and not plan.checkpointing
    assert plan.peak == others["model.gradient_checkpointing=true"].peak
    assert plan.seconds < others["model.gradient_checkpointing=true"].seconds


def test_processes_share_the_prompts(small_run):
    alone, shared = (make_plan(small_run(HUB, "train.prompts_per_round=4"), num_processes=n) for n in (1, 4))
    assert [p.sequences for p in alone.phases] == [p.sequences for p in shared.phases]
    assert shared.seconds < alone.seconds and shared.gradients == 2 * alone.gradients


def test_what_eight_gpus_hold_of_all_weights_of_llada_8b_worked_by_hand(small_run):
    """8.0156e9 float32 weights are 32.06 GB: policy, p_ref and gradients each, twice that for the two moments."""
    config = small_run(HUB, "train.prompts_per_round=8", "weight.log_ratio=elbo", "sampler.name=confidence")
    plans = {strategy: make_plan(config, num_processes=8, strategy=strategy) for strategy in ("ddp", "fsdp2")}
    held = {strategy: (plan.weights, plan.reference, plan.gradients, plan.optimizer) for strategy, plan in plans.items()}
    assert [round(size / 1e9, 2) for size in held["ddp"]] == [32.06, 32.06, 64.12, 64.12]
    assert [round(size / 1e9, 2) for size in held["fsdp2"]] == [4.01, 4.01, 4.01, 8.02]
    # Embedding and head, 126,464 · 4,096 each, and two of 32 blocks of 218 M, in float32, with their gradients.
    assert plans["fsdp2"].gathered == pytest.approx(2 * 4 * (2 * 126464 * 4096 + 2 * 218.1e6), rel=0.001)
    assert [format_plan(plan).endswith("fits") for plan in plans.values()] == [False, True]
    assert plans["fsdp2"].seconds >= plans["ddp"].seconds  # blocks are fetched while others are computed
    slow = replace(GPUS["h100"], link=1e9)
    assert make_plan(config, gpu=slow, num_processes=8, strategy="fsdp2").seconds > 2 * plans["ddp"].seconds


def test_a_folder_of_adapters_is_planned_as_its_base(small_run, folder, tmp_path):
    path = folder()
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": path.removeprefix("model.path=")}))
    of_adapters, of_base = (make_plan(small_run(p, "model.lora_rank=2")) for p in (f"model.path={tmp_path / 'adapters'}", path))
    assert of_adapters == of_base


def test_the_page_says_whether_it_fits_and_what_to_do(small_run):
    plan = make_plan(small_run(HUB, *LORA))
    assert plan.peak > plan.resident + OVERHEAD

    def page(memory):
        return format_plan(replace(plan, gpu=choose_gpu("h100", gpu_memory=memory)))

    assert page(plan.peak / 1e9 + 1).endswith("fits")
    assert "does not fit" in page(plan.peak / 1e9 - 1) and "micro_batch" in page(plan.peak / 1e9 - 1).splitlines()[-1]
    assert "whatever the micro-batches" in page(10)
    assert "of 24 GB" in format_plan(make_plan(small_run(HUB, *LORA), gpu=GPUS["rtx4090"]))


def test_the_page_says_how_long_a_whole_run_takes_and_what_a_gradient_step_costs(small_run):
    plan = make_plan(small_run(HUB, *LORA, "train.rounds=250", "model.gradient_checkpointing=true"))
    page = format_plan(plan)
    least, expected = (250 * sum(getattr(phase, name) for phase in plan.phases) / 3600 for name in ("least", "seconds"))
    assert f"250 rounds: > {least:.1f} hours, expected {expected:.1f}" in page
    assert "gradient steps (×3.04)" in page and "of adapters, the blocks again for checkpointing" in page
    assert "H100 at its peaks; expected: 65% of 989 TFLOPS in matrix products, 80% of 3.35 TB/s in all else" in page
    assert "65% of 67 TFLOPS" in format_plan(make_plan(small_run(HUB)))  # float32, which no tensor core multiplies
    assert "(×2.06)" in format_plan(make_plan(small_run(HUB, *LORA, "model.gradient_checkpointing=false")))
    assert "(×3.0" in (full := format_plan(make_plan(small_run(HUB)))) and "gradients of inputs and of weights" in full


def test_the_page_says_what_the_sampler_changes(small_run):
    options = (HUB, *LORA, "sampler.block_length=32", "weight.log_ratio=none", "sampler.name=confidence", "sampler.steps=128")
    plain = format_plan(make_plan(small_run(*options)))
    assert not any(word in plain for word in ("passes for a response", "on average", "two sequences"))
    # Prompts of 256: 8 blocks of 16 passes, 15 of which feed 256, 224, … 32 tokens, so (8 · 512 + 15 · 1152) / 128 a pass.
    page = format_plan(make_plan(small_run(*options, "sampler.cache=prefix", "sampler.guidance=2")))
    assert "cache=prefix: a pass feeds 167.0 of 512 tokens" in page and "guidance=2: each response is fed as two sequences" in page


@pytest.mark.parametrize(
    ("overrides", "arguments", "message"),
    [
        (["model.path=/nowhere"], {}, "model.path=/nowhere: no checkpoint there"),
        (["model.path=nobody/nothing"], {}, "model.path=nobody/nothing: "),
        ([], {"prompt_length": 30}, "max_sequence_length=32"),
        ([], {"num_processes": 2}, "train.prompts_per_round=3"),
        ([], {"num_processes": 0}, "num_processes=0: must be above 0"),
        ([], {"strategy": "fsdp"}, "strategy=fsdp: choose among ddp, fsdp2"),
        ([], {"strategy": "zero2"}, r"strategy=zero2: DeepSpeed was removed in version 0\.2\.0; use ddp \(adapters\) or fsdp2"),
        (
            ["model.lora_rank=2", "model.quantize=nf4"],
            {"strategy": "fsdp2"},
            "model.quantize=nf4: 4-bit weights cannot be sharded by fsdp2",
        ),
        (["sampler.block_length=5"], {}, "block_length=5 does not divide"),
        (["model.lora_rank=2", "model.lora_targets=[query]"], {}, "no layer 'query'"),
    ],
)
def test_mistakes_are_one_line(small_run, overrides, arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        make_plan(small_run(*overrides), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "peaks", "message"),
    [
        ("v100", {}, "gpu=v100: choose among h100, h200, a100, rtx4090, rtx3090"),
        ("x" * 5000, {}, "gpu=xxx"),
        ("h100", {"flops": 0}, "flops=0: must be finite and above 0"),
        ("h100", {"bandwidth": float("nan")}, "bandwidth=nan"),
        ("h100", {"gpu_memory": -1}, "gpu_memory=-1"),
    ],
)
def test_a_gpu_that_cannot_be_is_one_line(name, peaks, message):
    with pytest.raises(ValueError, match=message) as caught:
        choose_gpu(name, **peaks)
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


def test_numbers_that_are_given_take_the_place_of_a_gpus():
    gpu = choose_gpu("a100", bandwidth=1e12, gpu_memory=40)
    assert (gpu.flops, gpu.bandwidth, gpu.memory) == (312e12, 1e12, 40)
    assert choose_gpu("a100") == GPUS["a100"]
    assert (choose_gpu("a100", flops=1e12).flops, choose_gpu("a100", flops=1e12).flops_float32) == (1e12, 1e12)
