"""Measurements: what is measured is what is claimed; never how fast this machine is."""

import pytest
import torch

from dmpo_ref.likelihood import token_log_prob
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.models.llada import LLaDAModelLM
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary
from toy import measurements


@pytest.fixture
def tiny():
    """A model for `time_sampler`: its vocabulary and length, little else."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LLaDAModelLM(measurements.model_config(4096, 256, d_model=8, n_layers=1, n_heads=2, mlp_hidden_size=8)).eval()


def test_the_straightforward_loss_has_the_log_probabilities_of_the_library():
    rollout = make_rollout(make_prompts("12|____", "13|__4_"), 3)  # without padding, as measured
    masks, model = draw_masks("antithetic", rollout.response_mask, 4, [stream(0, "masks", g) for g in range(2)]), tiny_model()
    plain = measurements.token_log_prob_full_logits(model, rollout, masks, vocabulary())
    assert plain.abs().sum() > 1
    torch.testing.assert_close(plain, token_log_prob(model, rollout, masks, vocabulary()))


def test_ratios_of_the_loss_are_chunked_over_full(monkeypatch):
    printed = {"measure_loss('chunked')": "2.0 100.0 0.5\n", "measure_loss('full_logits')": "8.0 2000.0 0.5\n"}
    monkeypatch.setattr(measurements, "output_of", lambda call: printed[call])
    header, *rows, ratios = measurements.bench_loss().splitlines()
    assert header.split("  ")[0] == "way" and "peak MB above idle" in header
    assert [row.split() for row in rows] == [["chunked", "2.00", "100", "0.500000"], ["full_logits", "8.00", "2000", "0.500000"]]
    assert ratios == "chunked / full_logits: time 0.25, memory 0.05"


def test_a_call_in_a_process_of_its_own_returns_what_it_prints():
    assert measurements.output_of("sys.stdout.write(measurements.os.environ['SOME'])", SOME="thing") == "thing"


def test_the_quicker_measurement_of_each_case_counts_and_cases_take_turns():
    seconds, asked = iter([3.0, 1.0, 2.0, 4.0]), []
    measured = measurements.best_of_two(["a", "b"], lambda case: (asked.append(case), next(seconds), None)[1:])
    assert asked == ["a", "b", "a", "b"]
    assert measured == {"a": (2.0, None), "b": (1.0, None)}


@pytest.mark.parametrize(("name", "forwards"), [("random", 64), ("confidence, dual", 64), ("random_order", 128)])
def test_a_sampler_answers_the_chosen_prompts_and_the_time_of_the_model_is_part_of_it(name, forwards, tiny):
    seconds, outside, rollout = measurements.time_sampler(name, tiny, measurements.all_but_the_mask(4096), range(2, 4))
    assert rollout.tokens.shape == (2, 1, 64 + 128) and rollout.response_mask.sum() == 2 * 128
    assert (rollout.forwards, rollout.sampler.cache) == (forwards, "dual" if "dual" in name else "none")
    assert not (rollout.tokens == 4095).any() and 0 < outside < 1 and seconds > 0
    assert not tiny._forward_hooks and not tiny._forward_pre_hooks
    one = measurements.time_sampler(name, tiny, measurements.all_but_the_mask(4096), range(3, 4))[2]
    assert torch.equal(one.tokens[0, 0, :64], rollout.tokens[1, 0, :64])


def test_the_table_of_samplers_has_a_row_for_each_and_times_relative_to_confidence(monkeypatch, capsys):
    seconds = {"confidence": 2.0, "wino": 5.0}
    monkeypatch.setattr(measurements, "SAMPLERS", tuple(seconds))

    def timed(name, model, vocabulary, chosen):
        return seconds[name], 0.25, type("Drawn", (), {"forwards": 10 * len(chosen), "fed_tokens": 7})

    monkeypatch.setattr(measurements, "time_sampler", timed)
    measurements.measure_samplers()
    header, *rows, single, double = capsys.readouterr().out.splitlines()
    assert header.split() == ["sampler", "seconds", "relative", "forwards", "fed", "tokens", "tokens/s", "overhead"]
    assert rows[0].split() == ["confidence", "2.00", "1.00", "80", "7", "512", "25.0%"]
    assert rows[1].split() == ["wino", "5.00", "2.50", "80", "7", "205", "25.0%"]
    # 5 s for 8 prompts at once, 8 · 5 s one by one; 80 forwards against 8 · 10
    assert single == "wino, 8 prompts at once / one by one, float32: time 0.12, forwards 80 / 80 (at most 10)"
    assert "bfloat16" in double


def test_grading_measures_every_task_with_usual_and_hostile_answers(monkeypatch):
    pytest.importorskip("math_verify")
    monkeypatch.setattr(measurements, "HOSTILE", ("(" * 100,))
    header, *rows = measurements.bench_grading().splitlines()
    assert header.split() == ["task", "answers", "grade,", "ms", "reward,", "ms"]
    assert [row.split()[:2] for row in rows] == [[task, kind] for task in measurements.TASKS for kind in ("usual", "hostile")]
    assert all(float(number) >= 0 for row in rows for number in row.split()[2:])
