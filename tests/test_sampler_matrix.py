"""Every sampler × cache × block length × steps, plain, guided and stopping early, on a small checkpoint of the official layout.

At temperature 0, against the slow versions of `slow_samplers`; forward passes and fed tokens against what these add up to.
"""

from dataclasses import replace
from itertools import product

import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import decode
from tests.helpers import Dummy, make_prompts, tiny_model, vocabulary
from tests.slow_samplers import slow_fill, slow_wino, written_out_forward
from toy.small_llada import make_checkpoint

L, PROMPTS = 12, ("12|", "43214|", "3|")
LONGEST = 5 + L


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Grouped queries, float64, weights made larger so that it is sure of something."""
    folder = make_checkpoint(tmp_path_factory.mktemp("small") / "llada", n_kv_heads=2, d_model=32)
    model = LLaDAModelLM.from_pretrained(folder).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name or "ln_f" in name else 10)
    return model


class Setting:
    """Three prompts of different lengths, the tokens 20 to 59, and which of them end an answer."""

    def __init__(self, network):
        self.network, self.mask = network, network.config.mask_token_id
        self.prompts = make_prompts(*(p + "_" * L for p in PROMPTS))
        self.prompts.tokens[self.prompts.response_mask] = self.mask
        self.allowed = tuple(range(20, 60))
        self.words = Vocabulary(self.mask, torch.isin(torch.arange(network.config.embedding_size), torch.tensor(self.allowed)))
        self.ends = tuple(range(20, 60, 5))

    def draw(self, config: SamplerConfig):
        generators = [stream(0, "prompt", g) for g in range(len(PROMPTS))]
        options = {"num_rollouts": 1, "generators": generators, "end_tokens": self.ends}
        return sample(self.network, self.prompts, config, self.words, **options)

    def slow(self, config: SamplerConfig, observed):
        """For each row its tokens without padding, their steps, and the number of steps in each block that it began."""
        forward = written_out_forward(self.network)
        for g in range(len(PROMPTS)):
            row = self.prompts.tokens[g][self.prompts.attention_mask[g]].tolist()
            start = len(row) - L
            ends = self.ends if config.stop_early else ()
            if config.name == "wino":
                b = config.block_length or L
                words, placed, history = slow_wino(self.network, row, start, b, 0.6, 0.9, self.allowed, self.mask, ends)
                yield words, placed, [len(history)]
            else:
                order = observed[g, 0, -len(row) :].tolist()
                blanks = list(range(start, len(row)))
                options = {"mask": self.mask, "observed": order, "ends": ends, "start": start}
                yield slow_fill(forward, row, blanks, config, self.allowed, **options)


def cost(config: SamplerConfig, blocks: list[list[int]]) -> tuple[int, int]:
    """Forward passes and fed tokens of a batch, from the steps that each row alone takes in each block."""
    times = 2 if config.guidance else 1
    if config.cache == "none":
        rows, width = [sum(row) for row in blocks], LONGEST + ((config.block_length or L) if config.name == "wino" else 0)
        return max(rows), times * width * sum(rows)
    forwards = fed = 0
    for b in range(max(map(len, blocks))):
        there = [row[b] for row in blocks if b < len(row)]
        size = config.block_length or L
        later = size if config.cache == "dual" else L - b * size
        forwards += max(there)
        fed += times * len(there) * (LONGEST + (max(there) - 1) * later)
    return forwards, fed


def check(setting: Setting, config: SamplerConfig):
    """The real sampler equals the slow one; returns its rollout."""
    rollout = setting.draw(config)
    observed = setting.draw(replace(config, stop_early=False)).step if config.stop_early else rollout.step
    slow = list(setting.slow(config, observed))
    for g, (words, placed, _) in enumerate(slow):
        assert rollout.tokens[g, 0, -len(words) :].tolist() == words
        if config.cache == "none":  # with one, rows wait for each other, and steps are those of the batch
            steps = rollout.step[g, 0, -len(words) :].tolist()
            assert {s: steps[s] for s in range(len(words) - L, len(words))} == placed
    assert (rollout.forwards, rollout.fed_tokens) == cost(config, [blocks for _, _, blocks in slow])
    assert torch.equal(rollout.step >= 0, rollout.response_mask)
    return rollout


CASES = [
    *({"name": n, "steps": s} for n, s in product(["confidence", "random"], [None, 6, 3])),
    *({"name": "threshold", "threshold": t} for t in (0.3, 0.9)),
    *({"name": "factor", "factor": f} for f in (1.0, 0.4)),
    *({"name": n} for n in ("random_order", "wino")),
]
MATRIX = [
    case | {"cache": cache, "block_length": b}
    for case, cache, b in product(CASES, ["none", "prefix", "dual"], [None, 4, 2])
    if (cache == "none" or case["name"] not in ("random", "random_order", "wino")) and (b, case.get("steps")) != (2, 3)
]


def label(case: dict) -> str:
    return "-".join(str(value) for value in case.values())


@pytest.mark.parametrize("case", MATRIX, ids=label)
def test_tokens_steps_and_cost_equal_the_slow_version(network, case):
    check(Setting(network), SamplerConfig(temperature=0.0, **case))


@pytest.mark.parametrize("case", [c for c in MATRIX if c["name"] != "wino" and c["block_length"] == 4], ids=label)
def test_guided_sampling_equals_the_slow_version(network, case):
    check(Setting(network), SamplerConfig(temperature=0.0, guidance=1.5, **case))


def test_guidance_changes_the_answers_and_0_does_not(network):
    setting = Setting(network)
    plain, off, on = (
        setting.draw(SamplerConfig(name="confidence", temperature=0.0, **g)) for g in ({}, {"guidance": 0.0}, {"guidance": 1.5})
    )
    assert torch.equal(plain.tokens, off.tokens) and plain.fed_tokens == off.fed_tokens == on.fed_tokens // 2
    assert not torch.equal(plain.tokens, on.tokens)


@pytest.mark.parametrize("case", MATRIX, ids=label)
def test_stopping_early_equals_the_slow_version_and_costs_less(network, case):
    setting, config = Setting(network), SamplerConfig(temperature=0.0, **case)
    stopped, whole = check(setting, replace(config, stop_early=True)), setting.draw(config)
    assert stopped.forwards <= whole.forwards and stopped.fed_tokens <= whole.fed_tokens
    if case["block_length"] == 2:
        assert stopped.fed_tokens < 0.9 * whole.fed_tokens  # with one block, an answer can end late although it is short


def test_guidance_and_stopping_early_go_together(network):
    for cache in ("none", "dual"):
        check(Setting(network), SamplerConfig("threshold", 0.0, block_length=2, threshold=0.5, cache=cache, guidance=0.7, stop_early=True))


class Words:
    """A tokenizer of single letters, 4 and 5 being the ends."""

    eos_token_id, added_tokens_encoder = 4, {"<|eot_id|>": 5}

    def decode(self, tokens, skip_special_tokens):
        return "".join("____..abcdefghij"[t] for t in tokens)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("case", [c for c in MATRIX if c["block_length"] != 2], ids=label)
def test_text_is_the_same_whether_one_stops_early_or_not(case, temperature):
    """Cut at the first end token. Prompts of different length, two rollouts each, some given tokens where they may stand."""
    inside = "_" * L if case["cache"] != "none" or case["name"] == "wino" else "4" + "_" * (L // 2) + "3" + "_" * (L // 2)
    questions = ("0123", "1342", "21", "4", "3", "310", "2034", "14", "43")
    prompts = make_prompts(*(q + "|" + inside for q in questions))
    model = tiny_model(3, rope=True, n_layers=2, d_model=16, init_std=0.5, vocab_size=16)
    texts, costs = [], []
    for stop_early in (False, True):
        config = SamplerConfig(temperature=temperature, stop_early=stop_early, **case)
        generators = [stream(0, "prompt", g) for g in range(9)]
        words = vocabulary(range(4, 12), 16)
        rollout = sample(model, prompts, config, words, num_rollouts=2, generators=generators, end_tokens={4, 5})
        rows = (x.flatten(0, 1) for x in (rollout.tokens, rollout.attention_mask, rollout.prompt_mask))
        texts.append(decode(Words(), *rows))
        costs.append(rollout.fed_tokens)
        assert rollout.path_log_prob is None or not stop_early
    assert texts[0] == texts[1]
    assert len(set(map(len, texts[0]))) > 1
    assert costs[1] < costs[0] or case["block_length"] is None


def test_rows_that_have_ended_are_left_out_by_hand():
    """Blocks of 2, one token a step, the last positions first. Row 0 says `end` at its position 1, row 1 never does.

    Row 0 ends with its first block, after 2 steps; row 1 takes all 6. So 6 passes feed 2 · 2 + 4 · 1 rows of 7 positions.
    """
    seen = []

    def logits(tokens):
        seen.append(len(tokens))
        values = torch.zeros(*tokens.shape, 8, dtype=torch.float64)
        values[..., 6] = torch.arange(1.0, 8.0)
        values[tokens[:, 0] == 4, 2, 7] = 9.0
        return values

    model = Dummy(logits)
    config = SamplerConfig(name="confidence", temperature=0.0, block_length=2, stop_early=True)
    generators = [stream(0, "prompt", g) for g in range(2)]
    rollout = sample(
        model, make_prompts("1|______", "2|______"), config, vocabulary(), num_rollouts=1, generators=generators, end_tokens=[7]
    )
    assert seen == [2, 2, 1, 1, 1, 1]
    assert (rollout.forwards, rollout.fed_tokens) == (6, (2 * 2 + 4) * 7)
    assert rollout.tokens[:, 0, 1:].tolist() == [[6, 7, 7, 7, 7, 7], [6] * 6]
    assert rollout.step[:, 0, 1:].tolist() == [[1, 0, 1, 1, 1, 1], [1, 0, 3, 2, 5, 4]]


@pytest.mark.parametrize("name", ["confidence", "random", "random_order", "threshold", "factor"])
def test_guided_logits_that_are_no_numbers_are_one_clear_line(name):
    """Bad only where the prompt is masked, so that it is the unguided half that is broken."""

    def logits(tokens):
        values = torch.zeros(*tokens.shape, 8, dtype=torch.float64)
        values[tokens[:, 0] == 1] = float("nan")
        return values

    options = {"num_rollouts": 1, "generators": [stream(0, "prompt")]}
    for guidance in (0.0, 1.0):
        config = SamplerConfig(name=name, guidance=guidance)
        if guidance == 0:
            sample(Dummy(logits), make_prompts("2|____"), config, vocabulary(), **options)
            continue
        with pytest.raises(ValueError, match="logits that are NaN or all −∞") as error:
            sample(Dummy(logits), make_prompts("2|____"), config, vocabulary(), **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["confidence", "random", "random_order", "threshold", "factor"])
def test_guided_logits_are_the_ones_of_the_equation(name):
    """c and u are constants, so that tokens are independent draws from softmax((u + (s + 1)(c − u)) / T), whatever the order."""
    c, u = torch.tensor([0.3, 1.0, -0.5, 0.0]).double(), torch.tensor([1.0, -0.2, 0.4, 0.0]).double()

    def logits(tokens):
        table = torch.where((tokens[:, :1] == 1), u, c)  # [B, 4]; the mask token is 1
        return torch.cat((torch.zeros(len(tokens), 4), table), dim=1).unsqueeze(1).expand(-1, tokens.shape[1], -1)

    config = SamplerConfig(name=name, guidance=2.0, temperature=0.7, threshold=1e-9, factor=100.0, micro_batch=4096)
    if name in ("confidence", "random"):
        config.steps = 1
    rollout = sample(Dummy(logits), make_prompts("2|____"), config, vocabulary(), num_rollouts=4096, generators=[stream(0, "p")])
    expected = ((u + 3 * (c - u)) / 0.7).softmax(dim=0)
    share = torch.bincount(rollout.tokens[0, :, 1:].flatten() - 4, minlength=4) / (4 * 4096)
    assert ((share - expected).abs() < 4 * (expected * (1 - expected) / (4 * 4096)).sqrt()).all()
    steps = 4 if name == "random_order" else 1
    assert rollout.path_log_prob is None and (rollout.forwards, rollout.fed_tokens) == (2 * steps, 2 * 4096 * 5 * steps)


def test_stopping_early_needs_end_tokens():
    with pytest.raises(ValueError, match="stop_early=true needs to know what ends an answer") as error:
        options = {"num_rollouts": 1, "generators": [stream(0, "prompt")]}
        sample(tiny_model(), make_prompts("____"), SamplerConfig(stop_early=True), vocabulary(), **options)
    assert "\n" not in str(error.value)


PATH = ("weight.log_ratio=path", "weight.target=tilted")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("sampler.guidance=-1",), "must be finite and not negative"),
        (("sampler.guidance=nan",), "must be finite and not negative"),
        (("evaluation.sampler.guidance=1", "evaluation.sampler.name=wino"), "evaluation.sampler.guidance=1.0: wino has no guidance"),
        ((*PATH, "sampler.guidance=1"), "without guidance or stop_early"),
        ((*PATH, "sampler.stop_early=true"), "without guidance or stop_early"),
        (("loss.masks=path", "sampler.guidance=1"), "without guidance or stop_early"),
        (("loss.masks=path", "sampler.stop_early=true"), "without guidance or stop_early"),
        (
            ("model.compile=reduce-overhead", "evaluation.sampler.name=confidence", "evaluation.sampler.cache=dual"),
            "evaluation.sampler.cache=dual: does not go with model.compile=reduce-overhead",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused_by_name(overrides, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config("toy_sudoku", *overrides)
    assert "\n" not in str(error.value)


def test_guidance_and_stopping_early_are_fine_where_no_path_is_needed():
    load_config("toy_sudoku", "sampler.guidance=1", "evaluation.sampler.stop_early=true", "weight.log_ratio=none", "loss.masks=antithetic")
    load_config("toy_sudoku", *PATH, "evaluation.sampler.guidance=1", "evaluation.sampler.stop_early=true")


@pytest.mark.parametrize("other", [["weight.log_ratio=elbo"], ["weight.baseline=model", "loss.masks=antithetic"], ["loss.name=diffu_grpo"]])
def test_guidance_is_refused_where_the_unguided_policy_would_be_scored(other):
    with pytest.raises(ValueError, match="log p_old would be that of the unguided policy"):
        load_config("toy_sudoku", "sampler.guidance=1", "weight.log_ratio=none", *other)


@pytest.mark.long
def test_blocks_compile_once_for_all_layers_samplers_and_caches():
    """Traced, but run as they are. More layers than a function may be compiled for: nothing may depend on the number of the layer."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    model, prompts = tiny_model(2, n_layers=9, rope=True), make_prompts("12|________", "1|________")
    cases = [{"name": "wino"}, *({"name": "confidence", "cache": c} for c in ("none", "prefix", "dual"))]

    def draw(case):
        generators = [stream(0, "prompt", g) for g in range(2)]
        config = SamplerConfig(temperature=0.7, block_length=4, **case)
        return sample(model, prompts, config, vocabulary(), num_rollouts=2, generators=generators).tokens

    expected = [draw(case) for case in cases]
    for block in model.model["transformer"].blocks:
        block.compile(backend="eager")
    assert all(torch.equal(draw(case), tokens) for case, tokens in zip(cases, expected, strict=True))
    assert 0 < counters["stats"]["unique_graphs"] <= 6 and not counters["graph_break"]
    torch._dynamo.reset()


@pytest.mark.long
def test_a_compiled_policy_gives_the_same_tokens_and_saves_the_same_weights(tmp_path):
    import shutil
    from pathlib import Path

    from dmpo_ref.config import ModelConfig
    from dmpo_ref.models.adapters import add_adapters
    from dmpo_ref.models.loading import load_policy

    if not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("no C++ compiler")
    folder = make_checkpoint(tmp_path / "m", n_kv_heads=2, d_model=32)
    prompts = make_prompts("12|________", "1|________")
    tokens, states = [], []
    for compile in ("none", "default"):
        policy, tokenizer = load_policy(ModelConfig(path=str(folder), compile=compile), torch.device("cpu"))
        words = Vocabulary(tokenizer.mask_token_id, torch.arange(policy.config.embedding_size) < 200)
        prompts.tokens[prompts.response_mask] = tokenizer.mask_token_id
        for cache in ("none", "dual"):
            config = SamplerConfig(name="confidence", temperature=0.0, block_length=4, cache=cache)
            options = {"num_rollouts": 1, "generators": [stream(0, "p", g) for g in range(2)]}
            tokens.append(sample(policy, prompts, config, words, **options).tokens)
        policy.save_pretrained(tmp_path / compile)
        states.append({path.name: path.read_bytes() for path in Path(tmp_path / compile).glob("*.safetensors")})
        adapted = add_adapters(policy, ModelConfig(path="", lora_rank=2), seed=0)
        policy.gradient_checkpointing_enable()
        adapted.train()
        logits = adapted(prompts.tokens, attention_mask=prompts.attention_mask).logits
        logits.float().square().mean().backward()
        gradients = {name: p.grad for name, p in adapted.named_parameters() if p.requires_grad}
        states[-1] = states[-1], gradients
    assert torch.equal(tokens[0], tokens[2]) and torch.equal(tokens[1], tokens[3])
    assert states[0][0] == states[1][0] and states[0][0]
    for name, gradient in states[0][1].items():
        torch.testing.assert_close(gradient, states[1][1][name], rtol=1e-3, atol=1e-6)
