"""From rollouts to experience, called by hand: each part against its definition, and what is refused."""

import pytest
import torch

from dmpo_ref.config import WeightConfig
from dmpo_ref.experience import estimate_log_ratio, score_on_masks, step_masks, weigh
from dmpo_ref.likelihood import sequence_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks, streams
from dmpo_ref.models.reference import FrozenReference
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from tests.helpers import make_prompts, plain_path_log_prob, tiny_model, vocabulary

POSITION = [7, 3]
ALLOWED = (4, 5, 6, 7)
VOCABULARY = vocabulary(ALLOWED)


@pytest.fixture(scope="module")
def drawn():
    """A policy, a reference, and four rollouts of two puzzles of three and two blanks."""
    policy, reference = tiny_model(0), tiny_model(1)
    config = load_config("toy_sudoku", "train.steps_per_round=3", "loss.num_masks=2")
    prompts = make_prompts("1__2_", "_3_41")
    rollout = sample(policy, prompts, config.sampler, VOCABULARY, num_rollouts=4, generators=streams(0, "rollout", POSITION))
    return policy, FrozenReference(reference), rollout, config


def test_the_log_ratio_along_the_path_is_the_difference_of_two_walks(drawn):
    policy, reference, rollout, _ = drawn
    found = estimate_log_ratio(policy, reference, rollout, VOCABULARY, WeightConfig(log_ratio="path"), [])
    for g, n in ((0, 1), (1, 3)):
        row = (rollout.tokens[g, n], rollout.attention_mask[g, n], rollout.step[g, n], ALLOWED)
        log_ref, log_old = (plain_path_log_prob(model, *row) for model in (reference.network, policy))
        assert found[g, n].item() == pytest.approx(log_ref - log_old, abs=1e-9)


def test_the_log_ratio_of_elbos_takes_both_on_the_same_masks(drawn):
    policy, reference, rollout, _ = drawn
    config = WeightConfig(log_ratio="elbo", elbo_masks="exact", elbo_num_masks=3)
    found = estimate_log_ratio(policy, reference, rollout, VOCABULARY, config, streams(0, "elbo", POSITION))
    masks = draw_masks("exact", rollout.response_mask, 3, streams(0, "elbo", POSITION))
    with torch.no_grad():
        elbos = [sequence_log_prob(token_log_prob(model, rollout, masks, VOCABULARY), masks) for model in (reference.network, policy)]
    torch.testing.assert_close(found, elbos[0] - elbos[1], rtol=0, atol=1e-12)
    assert found.abs().max() > 0.1


def test_without_a_log_ratio_it_is_0_and_no_model_is_asked(drawn):
    *_, rollout, _ = drawn
    assert not estimate_log_ratio(None, None, rollout, VOCABULARY, WeightConfig(log_ratio="none"), []).any()


def test_a_reference_or_a_path_that_is_missing_is_one_line(drawn):
    policy, reference, rollout, config = drawn
    with pytest.raises(ValueError, match=r"weight\.log_ratio=elbo: a reference policy is needed"):
        estimate_log_ratio(policy, None, rollout, VOCABULARY, WeightConfig(log_ratio="elbo"), [])
    confident = sample(policy, make_prompts("1__2_"), load_config("toy_sudoku", "sampler.name=confidence").sampler, VOCABULARY,
                       num_rollouts=2, generators=streams(0, "rollout", [0]))  # fmt: skip
    with pytest.raises(ValueError, match=r"rollouts of sampler\.name=confidence have no path probability; use elbo"):
        estimate_log_ratio(policy, reference, confident, VOCABULARY, WeightConfig(log_ratio="path"), [])
    diffu = load_config("toy_sudoku", "loss.name=diffu_grpo", "loss.kl=0.1")
    with pytest.raises(ValueError, match=r"the objective subtracts log p_ref: a reference policy is needed"):
        score_on_masks(policy, None, VOCABULARY, build_objective(diffu.loss, diffu.weight), rollout, POSITION, config)


def test_what_is_stored_is_the_policy_on_the_masks_of_each_step(drawn):
    policy, reference, rollout, config = drawn
    options = load_config("toy_sudoku", "loss.name=wddo", "train.steps_per_round=3")
    objective = build_objective(options.loss, options.weight)
    log_old, log_ref = score_on_masks(policy, reference, VOCABULARY, objective, rollout, POSITION, options)
    assert log_ref is None and log_old.shape == (3, 2, 4, 2, 5)
    for k in range(3):
        masks = step_masks(objective, rollout, POSITION, options.seed, k)
        with torch.no_grad():
            torch.testing.assert_close(log_old[k], token_log_prob(policy, rollout, masks, VOCABULARY))


def test_fresh_masks_are_keyed_by_the_step_of_the_run_and_stored_ones_by_that_of_the_round(drawn):
    def first(objective, k, step):
        return step_masks(objective, drawn[2], POSITION, 0, k, step).hidden.tolist()

    wdce, wddo = (build_objective(load_config("toy_sudoku", f"loss.name={name}").loss, WeightConfig()) for name in ("wdce", "wddo"))
    assert first(wdce, 0, 8) == first(wdce, 1, 8) != first(wdce, 0, 9)
    assert first(wddo, 0, 8) == first(wddo, 0, 9) != first(wddo, 1, 8)


def test_the_experience_holds_the_weights_of_its_rewards_and_log_ratios(drawn):
    policy, reference, rollout, _ = drawn
    config = load_config(
        "toy_sudoku", "weight.log_ratio=path", "weight.alpha=0.5", "weight.baseline=negative", "weight.baseline_strength=0.3"
    )
    reward = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)
    objective = build_objective(config.loss, config.weight)
    found = weigh(policy, reference, VOCABULARY, objective, rollout, reward, config, position=POSITION)
    assert found.position == POSITION and found.log_old is None and found.log_ref is None
    torch.testing.assert_close(found.weight, (reward / 0.5 + found.log_ratio).softmax(-1))
    torch.testing.assert_close(found.base_weight, 0.3 * (-reward / 0.5 + found.log_ratio).softmax(-1))
    assert torch.equal(found.coefficient, torch.ones(2, 1, dtype=torch.float64))
