"""From rollouts to experience, called by hand: each part against its definition, and what is refused."""

import pytest
import torch

from dmpo_ref.config import SamplerConfig, WeightConfig
from dmpo_ref.experience import collect, estimate_log_ratio, score_on_masks, step_masks, weigh
from dmpo_ref.likelihood import path_log_prob, sequence_log_prob, token_log_prob
from dmpo_ref.masking import draw_masks, streams
from dmpo_ref.models.loading import load_policy
from dmpo_ref.models.reference import FrozenReference
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.prompts import PromptStream
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.base import BLANK
from dmpo_ref.tasks.encoding import allowed_vocabulary
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


def test_log_old_on_path_steps_is_that_of_the_steps_drawn_at_the_temperature_of_the_sampler(drawn):
    policy, reference, rollout, _ = drawn
    options = load_config("toy_sudoku", "loss.name=wddo", "loss.masks=path_steps", "train.steps_per_round=3", "sampler.temperature=0.5")
    objective = build_objective(options.loss, options.weight)
    log_old, _ = score_on_masks(policy, reference, VOCABULARY, objective, rollout, POSITION, options)
    sets = [step_masks(objective, rollout, POSITION, options.seed, k) for k in range(3)]
    assert not torch.equal(sets[0].target, sets[1].target)
    for k, masks in enumerate(sets):
        torch.testing.assert_close(log_old[k], token_log_prob(policy, rollout, masks, VOCABULARY, temperature=0.5).detach())


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


def test_rollouts_of_other_lengths_are_joined_without_a_change_of_what_they_mean():
    model, short, long = tiny_model(), make_prompts("1__2_", "_3_41"), make_prompts("2341|_2__4")
    parts = [
        sample(model, prompts, SamplerConfig(), VOCABULARY, num_rollouts=3, generators=streams(0, "rollout", position))
        for prompts, position in ((short, [0, 1]), (long, [2]))
    ]
    both = parts[0].join(parts[1])
    assert both.tokens.shape == (3, 3, 9) and both.forwards == sum(part.forwards for part in parts)
    expected = torch.cat([path_log_prob(model, part, VOCABULARY) for part in parts])
    torch.testing.assert_close(path_log_prob(model, both, VOCABULARY), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(both.path_log_prob, expected, rtol=0, atol=1e-9)
    turned = parts[1].join(parts[0])
    torch.testing.assert_close(path_log_prob(model, turned, VOCABULARY), expected[[2, 0, 1]], rtol=0, atol=1e-12)


class Puzzles:
    """A task whose items are a puzzle such as "1__2_" and whether its reward is the sum of the digits, or always 0."""

    alphabet, prefill = "1234", ""

    def prompt(self, item):
        return ""

    def template(self, item):
        return item[0].replace("_", BLANK)

    def reward(self, item, text):
        return {"sum": float(sum(map(int, text))) if item[1] else 0.0}


@pytest.fixture(scope="module")
def toy():
    """Policy, tokenizer and vocabulary of the toy."""
    config = load_config("toy_sudoku", "train.num_rollouts=4", "sampler.temperature=10")
    policy, tokenizer = load_policy(config.model, torch.device("cpu"))
    return policy, tokenizer, allowed_vocabulary(config.model, Puzzles(), policy, tokenizer), config


def collected(toy, items, spare=(), **options):
    policy, tokenizer, words, config = toy
    return collect(
        policy, None, tokenizer, words, Puzzles(), items, build_objective(config.loss, config.weight), config, spare=spare, **options
    )


EVEN, UNEVEN = ("1__2____", False), ("________", True)


def test_groups_without_a_difference_in_reward_are_replaced_in_their_places(toy):
    other = ("1_______", True)
    plain = collected(toy, [UNEVEN, EVEN, UNEVEN, EVEN])
    spare = [([EVEN, other], [-4, -3]), ([other, EVEN], [-8, -7])]
    found = collected(toy, [UNEVEN, EVEN, UNEVEN, EVEN], spare)
    assert found.experience.position == [0, -3, 2, -8] and found.num_drawn == (4 + 2 + 1) * 4
    for g in (0, 2):  # what was kept is what it was
        assert found.texts[g] == plain.texts[g]
        assert torch.equal(found.experience.reward[g], plain.experience.reward[g])
    for g, place in ((1, -3), (3, -8)):  # and what is new is drawn as it would be alone
        alone = collected(toy, [other], position=[place])
        assert found.texts[g] == alone.texts[0]
        torch.testing.assert_close(found.experience.weight[g], alone.experience.weight[0])
    assert (found.experience.reward.std(dim=-1) > 0).all()
    rewards = [plain.experience.reward, torch.zeros(1, 4), *(collected(toy, [other], position=[p]).experience.reward for p in (-3, -8))]
    assert found.components["reward/sum"] == pytest.approx(torch.cat(rewards).double().mean().item())  # over all that were drawn


def test_after_the_last_try_equal_groups_stay_and_without_one_nothing_more_is_drawn(toy):
    spare = [([EVEN, EVEN], [-2, -1]), ([EVEN, EVEN], [-4, -3])]
    found = collected(toy, [EVEN, UNEVEN], spare)
    assert found.experience.position == [0, 1] and found.num_drawn == (2 + 1 + 1) * 4
    assert collected(toy, [UNEVEN, UNEVEN], iter(spare)).num_drawn == 2 * 4


def test_spare_prompts_have_places_of_their_own_in_every_round_try_and_process():
    items, seen = list(range(7)), []
    for number in range(5):
        whole = list(PromptStream(items, 4, 0).spare_of_round(number, 3))
        shared = [list(PromptStream(items, 4, 0, index, 2).spare_of_round(number, 3)) for index in range(2)]
        for t, (chosen, places) in enumerate(whole):
            assert sorted(p for part in shared for p in part[t][1]) == places
            assert all(chosen[places.index(p)] == item for part in shared for item, p in zip(*part[t], strict=True))
            seen += zip(places, chosen, strict=True)
    places = [p for p, _ in seen]
    assert len(set(places)) == 5 * 3 * 4 and max(places) == -1 and min(places) == -60
    first_epoch = sorted(item for p, item in seen if -7 <= p < 0)
    assert first_epoch == items  # every item once before any comes again
