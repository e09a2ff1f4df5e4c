"""Parallel decoding and caches against slow versions: one row at a time, the model written out."""

import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.masking import stream
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.samplers.blockwise import parallel_quota
from dmpo_ref.samplers.checks import threshold_of
from tests.helpers import MASK, Dummy, make_prompts, tiny_model, vocabulary
from tests.slow_samplers import slow_fill, written_out_forward

ALLOWED = [4, 5, 6, 7]
PROMPTS = ("12|________", "4|________", "123|________")


def model(**sizes):
    return tiny_model(3, **({"n_layers": 2, "rope": True} | sizes))


def draw(network, prompts, num_rollouts=1, seed=0, **config):
    generators = [stream(seed, "prompt", g) for g in range(len(prompts.tokens))]
    return sample(network, prompts, SamplerConfig(**config), vocabulary(), num_rollouts=num_rollouts, generators=generators)


def slow(network, prompt: list[int], config: dict):
    """One row of 8 generated tokens by the slow version: tokens, forward passes and fed tokens."""
    options = SamplerConfig(**config)
    blanks = list(range(len(prompt), len(prompt) + 8))
    words, _, blocks = slow_fill(written_out_forward(network), prompt + [MASK] * 8, blanks, options, ALLOWED)
    size = {"none": len(words), "dual": config["block_length"]}
    later = [size.get(options.cache, len(words) - blanks[i * config["block_length"]]) for i in range(len(blocks))]
    return words[len(prompt) :], sum(blocks), sum(len(words) + (n - 1) * m for n, m in zip(blocks, later, strict=True))


CASES = [
    {"name": "confidence", "block_length": 8, "steps": 3},
    {"name": "confidence", "block_length": 4, "steps": 4},
    {"name": "confidence", "block_length": 2},
    {"name": "threshold", "block_length": 8, "threshold": 0.5},
    {"name": "threshold", "block_length": 4, "threshold": 0.7},
    {"name": "factor", "block_length": 8, "factor": 1.0},
    {"name": "factor", "block_length": 4, "factor": 0.5},
]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_temperature_0_equals_the_slow_version_of_each_row(case, cache):
    network, config = model(), case | {"cache": cache}
    rollout = draw(network, make_prompts(*PROMPTS), temperature=0.0, **config)
    counts = []
    for g, prompt in enumerate(([4, 5], [7], [4, 5, 6])):
        tokens, forwards, _ = slow(network, prompt, config)
        assert rollout.tokens[g, 0, -8:].tolist() == tokens
        counts.append(forwards)
    # In each block the batch takes as many passes as its slowest row.
    assert max(counts) <= rollout.forwards <= sum(counts)
    assert case["name"] != "confidence" or rollout.forwards == counts[0]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case.values())))
def test_forward_passes_and_fed_tokens_of_a_row_are_those_of_the_slow_version(case, cache):
    network, config = model(), case | {"cache": cache}
    rollout = draw(network, make_prompts("12|________"), temperature=0.0, **config)
    _, forwards, fed_tokens = slow(network, [4, 5], config)
    assert (rollout.forwards, rollout.fed_tokens) == (forwards, fed_tokens)


def test_the_caches_are_approximations_and_the_prefix_of_one_layer_is_not():
    """With one layer, keys and values depend on their own token alone, so that nothing kept goes stale."""
    shallow = model(n_layers=1)
    plain, prefix, dual = (
        draw(shallow, make_prompts(*PROMPTS), name="confidence", block_length=4, temperature=0.0, cache=c).tokens
        for c in ("none", "prefix", "dual")
    )
    assert torch.equal(plain, prefix)
    assert torch.equal(plain, dual)
    changed = 0
    for seed in range(6):
        deep = tiny_model(seed, n_layers=3, rope=True)
        ends = [
            draw(deep, make_prompts(*PROMPTS), name="confidence", block_length=4, temperature=0.0, cache=c).tokens for c in ("none", "dual")
        ]
        changed += not torch.equal(*ends)
    assert changed > 0


@pytest.mark.parametrize(
    ("name", "confidence", "expected"),
    [
        ("threshold", [0.95, 0.9, 0.3, -1.0], 2),  # ≥ τ = 0.9
        ("threshold", [0.5, 0.4, 0.3, -1.0], 1),  # at least the best one
        ("factor", [0.5, 0.66, 0.74, 0.80], 2),  # falling .80 .74 .66 .50 against .50 .67 .75 .80: the third fails
        ("factor", [0.1, 0.2, 0.3, -1.0], 1),
        ("factor", [0.99, 0.98, 0.97, -1.0], 3),
        ("factor", [0.6, 0.5, 0.9, 0.99], 2),
    ],
)
def test_how_many_are_placed_by_hand(name, confidence, expected):
    quota = parallel_quota(SamplerConfig(name=name, threshold=0.9, factor=1.0), torch.tensor([confidence], dtype=torch.float64))
    assert quota.tolist() == [expected]


def test_the_published_threshold_is_the_one_that_holds_where_none_is_given():
    confidence = torch.tensor([[0.95, 0.9, 0.89, -1.0]], dtype=torch.float64)
    assert parallel_quota(SamplerConfig("threshold"), confidence).tolist() == [2]
    assert parallel_quota(SamplerConfig("threshold", threshold=0.89), confidence).tolist() == [3]
    assert (threshold_of(SamplerConfig("wino")), threshold_of(SamplerConfig("wino", threshold=0.9))) == (0.6, 0.9)


@pytest.mark.parametrize("name", ["threshold", "factor"])
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_a_prompts_rollouts_do_not_depend_on_its_neighbours_or_the_micro_batch(name, cache):
    network, prompts = model(), make_prompts(*PROMPTS)
    options = {"name": name, "block_length": 4, "temperature": 0.8, "cache": cache, "threshold": 0.6, "num_rollouts": 3}
    together = draw(network, prompts, **options)
    assert torch.equal(draw(network, prompts, micro_batch=2, **options).tokens, together.tokens)
    alone = sample(
        network,
        make_prompts(PROMPTS[1]),
        SamplerConfig(**{k: v for k, v in options.items() if k != "num_rollouts"}),
        vocabulary(),
        num_rollouts=3,
        generators=[stream(0, "prompt", 1)],
    )
    assert torch.equal(alone.tokens[0, :, -8:], together.tokens[1, :, -8:])


def test_parallel_rules_end_even_where_nothing_is_sure_and_place_everything_at_once_where_all_is():
    unsure = draw(Dummy(lambda tokens: torch.zeros(*tokens.shape, 8)), make_prompts("________"), name="threshold", temperature=1.0)
    assert unsure.forwards == 8
    table = torch.zeros(8, dtype=torch.float64)
    table[5] = 100.0
    sure = draw(Dummy(lambda tokens: table.expand(*tokens.shape, 8)), make_prompts("________"), name="threshold", temperature=1.0)
    assert sure.forwards == 1
    assert (sure.tokens == 5).all()


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_needs_blocks_that_are_slices(cache):
    with pytest.raises(ValueError, match=f"cache={cache} needs responses of one length without given tokens inside"):
        draw(model(), make_prompts("1_2_", "____"), name="confidence", cache=cache)
    with pytest.raises(ValueError, match=f"cache={cache}: random_order has no cache"):
        load_config("toy_sudoku", f"sampler.cache={cache}")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sampler.name=threshold", "sampler.threshold=1.5", "weight.log_ratio=none"], "sampler.threshold=1.5: a probability"),
        (["sampler.threshold=0"], "sampler.threshold=0.0: a probability"),
        (["sampler.factor=0"], "sampler.factor=0.0: must be finite and above 0"),
        (["sampler.factor=nan"], "sampler.factor=nan: must be finite and above 0"),
        (["sampler.name=factor", "sampler.steps=4"], "sampler.steps=4: factor takes as many steps as it needs"),
    ],
)
def test_options_out_of_range_are_one_line(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("toy_sudoku", *overrides)
