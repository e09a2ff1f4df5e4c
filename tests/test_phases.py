"""The passes of a round, counted by hand: a prompt of 8 tokens, a response of 4, two prompts with three rollouts."""

import pytest

from dmpo_ref.forecast.phases import count_passes, list_phases, sampling_phase, tokens_fed
from dmpo_ref.presets.loading import load_config

P, L = 8, 4
ROUND = ("train.prompts_per_round=2", "train.num_rollouts=3", "train.steps_per_round=5")


def phases(*overrides: str, num_processes: int = 1):
    return {phase.name: phase for phase in list_phases(load_config("toy_sudoku", *ROUND, *overrides), P, L, num_processes)}


def test_a_plain_round_samples_and_takes_gradient_steps():
    found = phases()
    assert list(found) == ["sampling", "gradient steps"]
    sampling, steps = found.values()
    assert (sampling.fed, sampling.rows, sampling.scored) == ([12] * 4, 6, 1.0)  # a token a step, of all 12
    # 5 steps on 2 masks of each of 6 rollouts
    assert (steps.fed, steps.rows, steps.gradient, steps.samples) == ([12] * 5, 12, True, False)
    assert (sampling.gradient, sampling.samples) == (False, True)
    assert (steps.sequences, steps.tokens, steps.calls) == (60, 720, 5)


def test_the_log_ratio_adds_passes_of_both_models():
    along_the_path = phases("weight.log_ratio=path")["scoring p_ref"]
    assert (along_the_path.rows, along_the_path.sequences) == (6 * 4, 24)  # every step of every rollout, p_ref alone
    by_elbos = phases("weight.log_ratio=elbo", "weight.elbo_num_masks=3")["scoring p_ref, p_old"]
    assert (by_elbos.rows, len(by_elbos.fed)) == (6 * 3, 2)


def test_what_is_stored_costs_a_pass_for_each_step_or_one_along_the_path():
    assert phases("loss.name=wddo")["storing log p_old"].sequences == 5 * 12
    assert phases("loss.name=wddo", "loss.masks=path")["storing log p_old"].sequences == 6 * 4
    assert "gradient of the loss" in phases("loss.name=wddo", "loss.micro_batch=4")  # not linear, so a pass of its own
    assert "gradient of the loss" not in phases("loss.micro_batch=4")


def test_steps_of_the_path_are_as_many_as_are_drawn_or_all():
    for num_masks, rows in ((2, 6 * 2), (4, 6 * 4), (9, 6 * 4)):
        step = phases("loss.masks=path_steps", f"loss.num_masks={num_masks}")["gradient steps"]
        assert (step.rows, step.scored) == (rows, 1.0)


def test_only_passes_of_a_reference_that_was_never_re_synced_are_of_the_base():
    options = ("model.lora_rank=4", "loss.name=reinforce", "loss.masks=path", "loss.kl=0.1")
    of_base = {name: (phase.of_base, len(phase.fed)) for name, phase in phases(*options).items()}
    assert of_base["storing log p_ref"] == (1, 1)
    assert phases("model.lora_rank=4", "weight.log_ratio=path")["scoring p_ref"].of_base == 1
    assert phases("model.lora_rank=4", "weight.log_ratio=elbo")["scoring p_ref, p_old"].of_base == 1
    assert of_base["storing log p_old"][0] == of_base["gradient steps"][0] == of_base["sampling"][0] == 0
    assert not phases("model.lora_rank=4", "weight.log_ratio=path", "train.resync_every=3")["scoring p_ref"].of_base
    assert not any(phase.of_base for phase in phases(*options[1:]).values())  # a second model


def test_processes_share_the_rows():
    alone, shared = phases()["gradient steps"], phases(num_processes=2)["gradient steps"]
    assert (shared.rows, shared.sequences) == (alone.rows / 2, alone.sequences)


@pytest.mark.parametrize(
    ("cache", "fed"),
    [("none", [12, 12, 12, 12]), ("prefix", [12, 4, 12, 2]), ("dual", [12, 2, 12, 2])],
)
def test_two_blocks_of_two_with_each_cache(cache, fed):
    sampler = load_config("toy_sudoku", "sampler.name=confidence", "weight.log_ratio=none", f"sampler.cache={cache}",
                          "sampler.block_length=2").sampler  # fmt: skip
    assert tokens_fed(sampler, P, L, count_passes(sampler, L, fewest=False)) == fed


def test_wino_feeds_its_block_a_second_time_and_needs_at_least_three_passes_for_32_positions():
    sampler = load_config("toy_sudoku", "sampler.name=wino", "weight.log_ratio=none", "sampler.block_length=4").sampler
    assert tokens_fed(sampler, P, L, 1) == [P + L + 4]
    # 32 open: 20 at most, then ⌊0.7 · 12⌋ = 8, then 5 of the last 4
    sampler.block_length = 32
    assert count_passes(sampler, 32, fewest=True) == 3
    assert count_passes(sampler, 32, fewest=False) == 32


def test_guidance_feeds_two_sequences_for_a_rollout():
    config = load_config("toy_sudoku", *ROUND, "sampler.guidance=1", "sampler.micro_batch=3")
    phase = sampling_phase(config, P, L, 1)
    assert (phase.rows, phase.batch) == (12, 2)
