"""Parallel decoding and caches against slow versions: one row at a time, plain loops, attention written out."""

import math

import pytest
import torch

from dmpo_ref.config import SamplerConfig, load_config
from dmpo_ref.masking import stream
from dmpo_ref.samplers import parallel_quota, sample
from tests.helpers import MASK, Dummy, make_prompts, tiny_model, vocabulary

ALLOWED = [4, 5, 6, 7]
PROMPTS = ("12|________", "4|________", "123|________")


def model(**sizes):
    return tiny_model(3, **({"n_layers": 2, "rope": True} | sizes))


def draw(network, prompts, num_rollouts=1, seed=0, **config):
    generators = [stream(seed, "prompt", g) for g in range(len(prompts.tokens))]
    return sample(network, prompts, SamplerConfig(**config), vocabulary(), num_rollouts=num_rollouts, generators=generators)


def slow_forward(network, tokens: list[int], frozen: list | None, fed: range):
    """One unpadded row through the equations of the model in float64; returns logits by position and every layer's keys and values.

    Args:
        frozen: keys and values of an earlier pass, used at every position that is not in `fed`; None: all are fed.
    """
    weights = {name.removeprefix("model.transformer."): w.detach() for name, w in network.state_dict().items()}
    heads, size = network.config.n_heads, network.config.d_model // network.config.n_heads

    def norm(x, name):
        return x / (x.square().mean() + network.config.rms_norm_eps).sqrt() * weights[name]

    def rotated(x, position):
        half = size // 2
        angle = [position * network.config.rope_theta ** (-2 * (i % half) / size) for i in range(size)]
        return torch.stack(
            [x[i] * math.cos(angle[i]) + (-x[i + half] if i < half else x[i - half]) * math.sin(angle[i]) for i in range(size)]
        )

    x = {s: weights["wte.weight"][tokens[s]] for s in fed}
    kept = []
    for layer in range(network.config.n_layers):
        name = f"blocks.{layer}."
        q, kv = {}, {} if frozen is None else dict(frozen[layer])
        for s in fed:
            h = norm(x[s], name + "attn_norm.weight")
            project = {p: (weights[f"{name}{p}_proj.weight"] @ h).view(heads, size) for p in "qkv"}
            q[s] = torch.stack([rotated(project["q"][a], s) for a in range(heads)])
            kv[s] = (torch.stack([rotated(project["k"][a], s) for a in range(heads)]), project["v"])
        for s in fed:
            out = []
            for a in range(heads):
                score = torch.stack([q[s][a] @ kv[j][0][a] for j in range(len(tokens))]) / math.sqrt(size)
                out.append(sum(w * kv[j][1][a] for j, w in enumerate(score.softmax(0))))
            x[s] = x[s] + weights[name + "attn_out.weight"] @ torch.cat(out)
            h = norm(x[s], name + "ff_norm.weight")
            gate = torch.nn.functional.silu(weights[name + "ff_proj.weight"] @ h) * (weights[name + "up_proj.weight"] @ h)
            x[s] = x[s] + weights[name + "ff_out.weight"] @ gate
        kept.append(kv)
    return {s: weights["ff_out.weight"] @ norm(x[s], "ln_f.weight") for s in fed}, kept


def how_many(name: str, falling: list[float], quota: int, threshold: float, factor: float) -> int:
    """How many of the candidates, by falling confidence, are placed."""
    if name == "confidence":
        return quota
    if name == "threshold":
        return max(1, sum(c >= threshold for c in falling))
    run = 0
    while run < len(falling) and falling[run] >= 1 - factor / (run + 2):
        run += 1
    return max(1, run)


def slow_greedy(network, prompt: list[int], length: int, block_length: int, steps: int | None, config: dict):
    """One row at temperature 0: tokens, forward passes and fed tokens."""
    tokens, forwards, fed_tokens = prompt + [MASK] * length, 0, 0
    for start in range(len(prompt), len(tokens), block_length):
        left, frozen, i = list(range(start, start + block_length)), None, 0
        steps_here = block_length if steps is None else steps // (length // block_length)
        while left:
            stop = {"none": None, "prefix": len(tokens), "dual": start + block_length}[config.get("cache", "none")]
            fed = range(len(tokens)) if stop is None or i == 0 else range(start, stop)
            logits, kept = slow_forward(network, tokens, frozen if i else None, fed)
            frozen = frozen if i else kept
            p = {s: logits[s][ALLOWED].softmax(0) for s in left}
            order = sorted(left, key=lambda s: -p[s].max())
            quota = block_length // steps_here + (i < block_length % steps_here)
            falling = [p[s].max().item() for s in order]
            count = how_many(config["name"], falling, quota, config.get("threshold", 0.9), config.get("factor", 1.0))
            for s in order[:count]:
                tokens[s] = ALLOWED[p[s].argmax()]
                left.remove(s)
            i, forwards, fed_tokens = i + 1, forwards + 1, fed_tokens + len(fed)
    return tokens[len(prompt) :], forwards, fed_tokens


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
        tokens, forwards, _ = slow_greedy(network, prompt, 8, case["block_length"], case.get("steps"), config)
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
    _, forwards, fed_tokens = slow_greedy(network, [4, 5], 8, case["block_length"], case.get("steps"), config)
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
        (["sampler.factor=0"], "sampler.factor=0.0: must be above 0"),
        (["sampler.name=factor", "sampler.steps=4"], "sampler.steps=4: factor takes as many steps as it needs"),
    ],
)
def test_options_out_of_range_are_one_line(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_config("toy_sudoku", *overrides)
