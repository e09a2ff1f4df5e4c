"""Rollouts of p_ref among those of the policy: weights of the mixture by hand and by enumeration, who drew what, what is refused."""

import math

import pytest
import torch

from dmpo_ref.config import WeightConfig
from dmpo_ref.experience import collect, draw_rollouts, estimate_log_ratio, weigh
from dmpo_ref.masking import streams
from dmpo_ref.models.adapters import add_adapters
from dmpo_ref.models.loading import load_policy
from dmpo_ref.models.reference import AdapterReference, FrozenReference
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.encoding import allowed_vocabulary
from dmpo_ref.train import train
from dmpo_ref.weights import group_weights, mixture_log_ratios
from tests.helpers import make_prompts, plain_path_log_prob, tiny_model, vocabulary

POSITION = [7, 3]
ALLOWED = (4, 5, 6, 7)
VOCABULARY = vocabulary(ALLOWED)
P_REF, P_OLD, REWARD = (
    torch.tensor(x, dtype=torch.float64) for x in ([0.5, 0.3, 0.15, 0.05], [0.9, 0.05, 0.04, 0.01], [0.0, 1.0, 0.5, 1.0])
)


def test_the_ratios_to_the_mixture_are_those_of_its_probabilities():
    q = 0.75 * P_OLD + 0.25 * P_REF
    to_ref, to_old = mixture_log_ratios((P_REF / P_OLD).log()[None], 0.25)
    torch.testing.assert_close(to_ref[0].exp(), P_REF / q)
    torch.testing.assert_close(to_old[0].exp(), P_OLD / q)


def test_no_weight_explodes_where_the_policy_has_left_a_mode():
    to_ref, to_old = mixture_log_ratios(torch.tensor([[800.0, 30.0, -800.0]], dtype=torch.float64), 0.25)
    assert to_ref.max().item() == pytest.approx(math.log(4)) and to_old.max().item() == pytest.approx(math.log(4 / 3))
    assert to_old[0, 0].item() == pytest.approx(math.log(4) - 800) and to_ref[0, 2].item() == pytest.approx(math.log(4 / 3) - 800)


def test_weights_of_one_group_by_hand():
    """ε = 1/2, α = 1, N = 2, rewards log 2 and 0, p_ref/p_old = 1 and 3: q/p_old = 1 and 2; ℓ = log(2 · 1) and log(3/2)."""
    reward, log_ratio = torch.tensor([[math.log(2), 0.0]], dtype=torch.float64), torch.tensor([[0.0, math.log(3)]], dtype=torch.float64)
    found = group_weights(reward, log_ratio, WeightConfig(alpha=1.0, baseline="uniform"), reference_share=0.5)
    torch.testing.assert_close(found.weight, torch.tensor([[4 / 7, 3 / 7]], dtype=torch.float64))
    torch.testing.assert_close(found.base_weight, torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_under_the_mixture_the_weights_stand_for_the_target_and_for_the_old_policy(share):
    """Enumerated: E_q[p_ref e^{r/α} f / q] / Z is E_{p*}[f], and E_q[p_old f / q] is E_{p_old}[f], for every f."""
    q, alpha = (1 - share) * P_OLD + share * P_REF, 0.3
    to_ref, to_old = mixture_log_ratios((P_REF / P_OLD).log()[None], share)
    target = P_REF * (REWARD / alpha).exp()
    for f in torch.eye(4, dtype=torch.float64):
        weighed = (q * (REWARD / alpha + to_ref[0]).exp() * f).sum() / target.sum()
        torch.testing.assert_close(weighed, (target / target.sum() * f).sum())
        torch.testing.assert_close((q * to_old[0].exp() * f).sum(), (P_OLD * f).sum())


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_at_the_target_every_real_weight_is_0_whatever_was_drawn(share):
    """The fixed point: with p_old = p* the weights are those of the baseline, rollout by rollout, for any group."""
    alpha, config = 0.3, WeightConfig(alpha=0.3, baseline="uniform")
    log_target = (P_REF.log() + REWARD / alpha).log_softmax(dim=-1)
    drawn = torch.randint(4, (50, 6), generator=torch.Generator().manual_seed(0))
    found = group_weights(REWARD[drawn], (P_REF.log() - log_target)[drawn], config, reference_share=share)
    assert (found.weight - found.base_weight).abs().max() < 1e-12
    off = group_weights(REWARD[drawn], (P_REF.log() - P_OLD.log())[drawn], config, reference_share=share)
    assert (off.weight - off.base_weight).abs().max() > 0.1


def test_expected_steps_end_at_the_target_of_a_tabular_policy():
    """Gradient flow on four answers, the group of N = 4 enumerated: 3 of p_old, 1 of p_ref, starting where an answer is nearly lost."""
    config, alpha = WeightConfig(alpha=0.3, baseline="uniform"), 0.3
    log_target = (P_REF.log() + REWARD / alpha).log_softmax(dim=-1)
    logits = torch.tensor([3.0, 3.0, 3.0, -6.0], dtype=torch.float64)
    groups = torch.cartesian_prod(*[torch.arange(4)] * 4)
    for _ in range(400):
        log_old = logits.log_softmax(dim=-1)
        weights = group_weights(REWARD[groups], (P_REF.log() - log_old)[groups], config, reference_share=0.25)
        probability = (log_old[groups[:, :3]].sum(-1) + P_REF.log()[groups[:, 3]]).exp()
        pull = torch.zeros(4, dtype=torch.float64).index_add(
            0, groups.flatten(), (probability[:, None] * (weights.weight - weights.base_weight)).flatten()
        )
        logits = logits + 2.0 * (pull - pull.sum() * log_old.exp())
    assert (log_target.exp() * (log_target - logits.log_softmax(-1))).sum().item() < 1e-6


def share_config(*words: str, preset: str = "toy_sudoku"):
    return load_config(
        preset, "train.num_rollouts=4", "train.reference_share=0.25", "weight.log_ratio=path", "weight.baseline=uniform", *words
    )


def test_the_last_rollouts_are_of_the_reference_and_all_have_the_log_probability_of_the_policy():
    policy, reference, prompts = tiny_model(0), FrozenReference(tiny_model(1)), make_prompts("1__2_", "_3_41")
    config = share_config("train.reference_share=0.5")
    rollout = draw_rollouts(policy, reference, prompts, VOCABULARY, POSITION, (), config)
    own = sample(policy, prompts, config.sampler, VOCABULARY, num_rollouts=2, generators=streams(0, "rollout", POSITION))
    others = sample(reference.network, prompts, config.sampler, VOCABULARY, num_rollouts=2,
                    generators=streams(0, "reference rollout", POSITION))  # fmt: skip
    assert torch.equal(rollout.tokens, torch.cat([own.tokens, others.tokens], dim=1))
    assert torch.equal(rollout.step, torch.cat([own.step, others.step], dim=1)) and rollout.forwards == own.forwards + others.forwards
    log_ratio = estimate_log_ratio(policy, reference, rollout, VOCABULARY, config.weight, [])
    for g, n in ((0, 0), (0, 3), (1, 2)):
        row = (rollout.tokens[g, n], rollout.attention_mask[g, n], rollout.step[g, n], ALLOWED)
        log_ref, log_old = (plain_path_log_prob(model, *row) for model in (reference.network, policy))
        assert rollout.path_log_prob[g, n].item() == pytest.approx(log_old, abs=1e-9)
        assert log_ratio[g, n].item() == pytest.approx(log_ref - log_old, abs=1e-9)


def test_without_a_share_every_rollout_is_the_policys_and_the_weights_are_the_papers():
    policy, prompts = tiny_model(0), make_prompts("1__2_", "_3_41")
    config = share_config("train.reference_share=0")
    rollout = draw_rollouts(policy, None, prompts, VOCABULARY, POSITION, (), config)
    own = sample(policy, prompts, config.sampler, VOCABULARY, num_rollouts=4, generators=streams(0, "rollout", POSITION))
    assert torch.equal(rollout.tokens, own.tokens) and torch.equal(rollout.path_log_prob, own.path_log_prob)
    reward, log_ratio = torch.rand(2, 4, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    plain, none = group_weights(reward, log_ratio, config.weight), group_weights(reward, log_ratio, config.weight, reference_share=0.0)
    assert torch.equal(plain.weight, none.weight) and torch.equal(plain.base_weight, torch.full((2, 4), 0.25, dtype=torch.float64))
    nearly = group_weights(reward, log_ratio, config.weight, reference_share=1e-9)
    torch.testing.assert_close(nearly.weight, plain.weight)
    torch.testing.assert_close(nearly.base_weight, plain.base_weight)


def test_weigh_takes_the_share_of_the_config():
    policy, reference, prompts = tiny_model(0), FrozenReference(tiny_model(1)), make_prompts("1__2_", "_3_41")
    config = share_config()
    rollout = draw_rollouts(policy, reference, prompts, VOCABULARY, POSITION, (), config)
    reward = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)
    found = weigh(policy, reference, VOCABULARY, build_objective(config.loss, config.weight), rollout, reward, config, position=POSITION)
    ratio = found.log_ratio.exp()  # p_ref/p_old
    unnormalised = (reward / config.weight.alpha).exp() * ratio / (0.75 + 0.25 * ratio)
    torch.testing.assert_close(found.weight, unnormalised / unnormalised.sum(-1, keepdim=True))
    base = 1 / (0.75 + 0.25 * ratio)
    torch.testing.assert_close(found.base_weight, base / base.sum(-1, keepdim=True))


def test_with_adapters_the_reference_draws_without_them():
    config = share_config("model.lora_rank=2")
    prompts, generators = make_prompts("12|____"), lambda: streams(0, "reference rollout", [0])
    base, policy = (load_policy(config.model, torch.device("cpu"))[0] for _ in range(2))
    expected = sample(base, prompts, config.sampler, VOCABULARY, num_rollouts=1, generators=generators())
    policy = add_adapters(policy, config.model, seed=0)
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1))
    rollout = draw_rollouts(policy, AdapterReference(policy), prompts, VOCABULARY, [0], (), config)
    assert torch.equal(rollout.tokens[:, 3:], expected.tokens)
    with_adapters = sample(policy, prompts, config.sampler, VOCABULARY, num_rollouts=1, generators=generators())
    assert not torch.equal(with_adapters.tokens, expected.tokens)


@pytest.mark.parametrize("num_equal", [0, 1, 2])
def test_adapters_are_exchanged_equally_often_however_many_groups_are_replaced(num_equal):
    """All processes wait for each other there: with weights of p_ref, on entering and on leaving."""
    config = share_config("model.lora_rank=2", "train.skip_equal_groups=2")
    task, joined = build_task(config.task), []
    policy, tokenizer = load_policy(config.model, torch.device("cpu"))
    words = allowed_vocabulary(config.model, task, policy, tokenizer)
    policy = add_adapters(policy, config.model, seed=0)
    reference = AdapterReference(policy, lambda: joined.append(1))
    reference.sync(policy)
    items, objective = task.load(config.task.train)[:2], build_objective(config.loss, config.weight)
    rewards = iter([0.0] * 4 * num_equal + [0.0, 1.0] * 4 * (2 - num_equal) + [0.0, 1.0] * 99)
    spare = [(items, [-1, -2]), (items, [-3, -4])]
    found = collect(policy, reference, tokenizer, words, task, items, objective, config, spare=spare, reward=lambda *_: next(rewards))
    assert (found.num_drawn, len(joined)) == (8 + 4 * num_equal, 8)


def test_nothing_is_scored_for_weights_that_do_not_ask_for_it(monkeypatch):
    monkeypatch.setattr("dmpo_ref.experience.path_log_prob", pytest.fail)
    policy, reference, prompts = tiny_model(0), FrozenReference(tiny_model(1)), make_prompts("1__2_", "_3_41")
    rollout = draw_rollouts(policy, reference, prompts, VOCABULARY, POSITION, (), share_config("weight.log_ratio=elbo"))
    assert rollout.path_log_prob is None and rollout.tokens.shape[:2] == (2, 4)


def test_the_metrics_are_of_the_policys_own_rollouts(tmp_path):
    """Every answer of the policy earns 0 and every one of p_ref 1, told apart by the order in which they are graded."""
    size = ("train.rounds=1", "train.prompts_per_round=2", "train.steps_per_round=1", "evaluation.num_items=2", "evaluation.every=0")
    rewards = iter([0.0, 0.0, 0.0, 1.0] * 2)
    config = share_config(f"output={tmp_path / 'run'}", *size)
    metrics = train(config, reward=lambda item, text: next(rewards)).metrics[-1]
    assert metrics["reward"] == metrics["reward/custom"] == 0.0 and metrics["reward_std"] > 0.4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train.reference_share=0.1"], r"train\.reference_share=0\.1: that is 0 of train\.num_rollouts=4, and p_ref and the policy must"),
        (["train.reference_share=0.9"], r"train\.reference_share=0\.9: that is 4 of train\.num_rollouts=4"),
        (["train.reference_share=1"], r"train\.reference_share=1\.0: must lie in \[0, 1\)"),
        (["weight.baseline=negative"], r"weight\.baseline=negative: not known for rollouts of p_ref"),
        (["weight.baseline=model"], r"weight\.baseline=model: not known for rollouts of p_ref"),
        (["weight.log_ratio=none"], r"weight\.log_ratio=none: with train\.reference_share the weights need p_ref/p_old"),
        (["weight.target_ess=0.5"], r"weight\.target_ess=0\.5: with train\.reference_share the weights are not tempered"),
        (["weight.baseline=none", "loss.name=wddo"], r"loss\.name=wddo: rollouts of p_ref"),
        (["sampler.temperature=0.5"], r"sampler\.temperature=0\.5: p_ref is taken at temperature 1"),
    ],
)
def test_what_does_not_go_with_a_share_is_one_line(words, line):
    with pytest.raises(ValueError, match=line):
        share_config(*words)
