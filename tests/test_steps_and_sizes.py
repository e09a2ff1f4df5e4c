"""Steps above the length of a response, options that a sampler is given without a config, sizes against memory, steep weights."""

import numpy as np
import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.forecast.phases import count_passes
from dmpo_ref.masking import stream
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.files import claim
from dmpo_ref.samplers import sample
from dmpo_ref.samplers.checks import check_memory, has_path_log_prob
from dmpo_ref.weights import coefficient_for_ess
from tests.helpers import MASK, make_prompts, tiny_model, vocabulary
from toy.options import PretrainConfig
from toy.reference import pretrain


def draw(config, *patterns, num_rollouts=3):
    generators = [stream(0, "test", g) for g in range(len(patterns))]
    return sample(tiny_model(), make_prompts(*patterns), config, vocabulary(), num_rollouts=num_rollouts, generators=generators)


def same(a, b):
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.step, b.step) and a.forwards == b.forwards and a.num_steps == b.num_steps


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("block", "steps"), [(None, 7), (None, 8), (None, 1000), (3, 8), (3, 12), (2, 9), (6, 25)])
def test_steps_above_the_length_do_nothing(block, steps, temperature, cache):
    config = SamplerConfig(name="confidence", temperature=temperature, block_length=block, steps=steps, cache=cache)
    least = SamplerConfig(name="confidence", temperature=temperature, block_length=block, steps=6, cache=cache)
    patterns = ("12|______", "21|______")
    assert same(draw(config, *patterns), draw(least, *patterns))


def test_each_response_has_its_own_most_steps():
    """8 steps are 4 for a response of 4 and 6 for one of 6; a row alone is what it is beside a longer one."""
    config = SamplerConfig(name="confidence", temperature=1.0, steps=8)
    both = draw(config, "12|____", "21|______")
    assert both.num_steps == 6
    alone = draw(SamplerConfig(name="confidence", temperature=1.0, steps=4), "..12|____")
    assert torch.equal(both.tokens[0], alone.tokens[0])
    assert (both.tokens != MASK).all()


def published_confidence(length, block, steps):
    """How many tokens each pass of the official `get_num_transfer_tokens` places, block after block."""
    per_block = steps // (length // block)
    base, more = divmod(block, per_block)
    return [base + (i < more) for i in range(per_block)] * (length // block)


@pytest.mark.parametrize(("block", "steps"), [(6, 3), (6, 4), (6, 6), (6, 9), (3, 2), (3, 4), (3, 10), (2, 30)])
def test_tokens_placed_in_each_pass_are_those_of_the_published_code(block, steps):
    rollout = draw(SamplerConfig(name="confidence", temperature=0, block_length=block, steps=steps), "12|______", num_rollouts=1)
    step = rollout.step[rollout.response_mask]
    placed = [int((step == t).sum()) for t in range(int(step.max()) + 1)]
    assert placed == [count for count in published_confidence(6, block, steps) if count]


def test_a_forecast_counts_no_passes_that_do_nothing():
    config = SamplerConfig(name="confidence", block_length=4, steps=64)
    assert count_passes(config, 16, fewest=False) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "threshold", "threshold": 1.5}, "sampler.threshold=1.5: a probability"),
        ({"name": "wino", "threshold": 0.0}, "sampler.threshold=0.0: a probability"),
        ({"name": "wino", "back_threshold": -1.0}, "sampler.back_threshold=-1.0: a probability"),
        ({"name": "factor", "factor": float("nan")}, "sampler.factor=nan: must be finite and above 0"),
        ({"name": "factor", "factor": float("inf")}, "sampler.factor=inf: must be finite and above 0"),
        ({"name": "confidence", "temperature": float("nan")}, "sampler.temperature=nan"),
        ({"name": "confidence", "guidance": -1.0}, "sampler.guidance=-1.0"),
        ({"name": "random", "steps": 7}, "steps=7 for a response of 6"),
        ({"name": "random_order", "cache": "dual"}, "sampler.cache=dual: random_order has no cache"),
    ],
)
def test_sample_checks_its_options_as_the_config_does(options, message):
    with pytest.raises(ValueError, match=message):
        draw(SamplerConfig(**options), "12|______")


@pytest.mark.parametrize(
    ("options", "known"),
    [
        ({}, True),
        ({"temperature": 0.3}, True),
        ({"temperature": 0.0}, False),
        ({"guidance": 1.0}, False),
        ({"stop_early": True}, False),
        ({"name": "confidence"}, False),
    ],
)
def test_which_rollouts_have_a_path_probability(options, known):
    config = SamplerConfig(**options)
    generators = [stream(0, "rollout", 0)]
    rollout = sample(tiny_model(), make_prompts("12|____"), config, vocabulary(), num_rollouts=1, generators=generators, end_tokens={0})
    assert (rollout.path_log_prob is not None) is has_path_log_prob(config) is known


def test_more_rollouts_than_memory_are_refused_before_they_are_drawn():
    with pytest.raises(ValueError, match=r"100,000,000,000 rollouts: the random numbers alone take .* lower train\.num_rollouts"):
        draw(SamplerConfig(), "12|______", num_rollouts=10**11)
    with pytest.raises(ValueError, match=r"lower train\.num_rollouts=1000000 or train\.prompts_per_round=1000000"):
        load_config("toy_sudoku", "train.num_rollouts=1000000", "train.prompts_per_round=1000000")


def test_the_message_has_both_sizes_in_gigabytes(monkeypatch):
    """10⁹ rollouts of 4 positions in a sequence of 7: 8 · 10⁹ · 35 bytes are 280 GB."""
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**22}.__getitem__)
    with pytest.raises(ValueError, match="the random numbers alone take 280 GB, of 17 here; lower x"):
        check_memory(SamplerConfig(), 10**9, 4, 7, "x")


def test_one_step_is_enough_and_none_is_not():
    assert draw(SamplerConfig(name="random", steps=1), "12|______").num_steps == 1
    with pytest.raises(ValueError, match="steps=0 for a response of 6 positions; choose 1 to 6"):
        draw(SamplerConfig(name="random", steps=0), "12|______")


def test_memory_is_that_of_the_random_numbers(monkeypatch):
    """5 rollouts of 4 positions in a sequence of 7: 5 · (4 + 1) · 7 numbers of 8 bytes are 1400; of 2 steps, 840."""
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 100, "SC_PHYS_PAGES": 14}.__getitem__)
    check_memory(SamplerConfig(), 5, 4, 7, "x")
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1399, "SC_PHYS_PAGES": 1}.__getitem__)
    with pytest.raises(ValueError, match="5 rollouts"):
        check_memory(SamplerConfig(), 5, 4, 7, "x")
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 840, "SC_PHYS_PAGES": 1}.__getitem__)
    check_memory(SamplerConfig(name="confidence", steps=2), 5, 4, 7, "x")


def ess(c, log_weight):
    """Effective sample size as a share, numpy."""
    values = np.exp(c * (log_weight - log_weight.max()))
    weight = values / values.sum()
    return 1 / (len(weight) * (weight**2).sum())


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e12, 1e15, 1e30, 1e100, 1e300])
@pytest.mark.parametrize("target", [0.3, 0.5, 0.9])
def test_the_coefficient_is_above_0_and_reaches_the_ess_at_any_scale(scale, target):
    log_weight = scale * np.array([3.0, 1.0, 0.0, -1.0, 2.9])
    c = float(coefficient_for_ess(torch.tensor(log_weight)[None], target))
    assert 0 < c <= 1
    assert ess(c, log_weight) >= target * (1 - 1e-12)
    if c < 1:
        assert ess(c, log_weight) == pytest.approx(target, rel=1e-5)


def test_steep_and_flat_rows_do_not_touch_each_other():
    flat, steep = torch.tensor([[0.0, 1.0, 5.0]]).double(), torch.tensor([[0.0, 1e14, 5e14]]).double()
    both = coefficient_for_ess(torch.cat((flat, steep)), 0.5)
    assert torch.equal(both[:1], coefficient_for_ess(flat, 0.5))
    assert float(both[1] * 1e14) == pytest.approx(float(both[0]), rel=1e-7)


def test_two_pretrainings_into_one_folder(tmp_path):
    with claim(tmp_path / "p"), pytest.raises(ValueError, match="exists; give a folder that does not"):
        pretrain(PretrainConfig(output=str(tmp_path / "p"), steps=21))
    with pytest.raises(OSError, match=r"output=/proc/x: no folder can be made there"):
        pretrain(PretrainConfig(output="/proc/x", steps=21))


@pytest.mark.parametrize("steps", [21, 22, 39, 40, 41])
def test_the_fewest_steps_of_pre_training_divide_by_nothing(steps, tmp_path):
    pretrain(PretrainConfig(output=str(tmp_path / "p"), steps=steps, batch_size=1, width=4, layers=1))
    assert (tmp_path / "p" / "config.json").is_file()
