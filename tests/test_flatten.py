"""`weight.flatten_above`: a target that is flat over the good answers. By hand, by enumeration, in `weigh`; what is refused."""

import json
import math
from pathlib import Path

import pytest
import torch

from dmpo_ref.config import WeightConfig
from dmpo_ref.experience import draw_rollouts, weigh
from dmpo_ref.models.reference import FrozenReference
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import load_config
from dmpo_ref.weights import flatten, group_weights
from tests.helpers import make_prompts, tiny_model, vocabulary
from toy.oracle import flattened, tilted
from toy.studies import unimodal

P_REF = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
P_OLD = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
REWARD = torch.tensor([0.0, 1.0, 0.95, 1.0], dtype=torch.float64)
ALPHA, ABOVE = 0.3, 0.9


def weights_of(groups, log_old, *, share=0.0, alpha=ALPHA, baseline="uniform", **options):
    """Weights of groups [G, N] of four answers."""
    config = WeightConfig(alpha=alpha, flatten_above=ABOVE, baseline=baseline, **options)
    return group_weights(REWARD[groups], (P_REF.log() - log_old)[groups], config, reference_share=share, log_old=log_old[groups])


def expected(groups, log_old, weight):
    """E over groups of Σ_n weight_n [o_n = o], for each of the four answers; groups are all [4^N, N], of p_old."""
    terms = log_old[groups].sum(-1).exp()[:, None] * weight
    return torch.zeros(4, dtype=torch.float64).index_add(0, groups.flatten(), terms.flatten())


def test_weights_of_one_group_by_hand():
    """e^ℓ = 6, 2 and 2; the good ones are the first two, drawn with 1/2 and 1/6: their 8 of 10 are shared 2 : 6."""
    log_weight = torch.tensor([[6.0, 2.0, 2.0]], dtype=torch.float64).log()
    log_drawn = torch.tensor([[1 / 2, 1 / 6, 1 / 3]], dtype=torch.float64).log()
    found = flatten(log_weight, log_drawn, torch.tensor([[True, True, False]])).softmax(dim=-1)
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.6, 0.2]], dtype=torch.float64))


@pytest.mark.parametrize("good", [[False, False, False], [False, True, False]])
def test_one_good_rollout_or_none_has_the_papers_weights(good):
    log_weight, log_drawn = torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(flatten(log_weight, log_drawn, torch.tensor([good])), log_weight)


def test_answers_of_hundreds_of_tokens_and_a_small_temperature_stay_finite():
    found = flatten(torch.tensor([[2000.0, 0.0, -900.0]]), torch.tensor([[-800.0, -100.0, -2.0]]), torch.tensor([[True, True, False]]))
    assert found.isfinite().all() and found[0, 0] > 1999


@pytest.mark.parametrize("seed", range(20))
def test_the_odds_of_good_answers_are_those_of_mara_up_to_the_bounds_that_are_stated(seed):
    """MARA gives each good answer the mass p_ref(z) e^{r_z/α} of the one that is most probable under p_ref."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(5, generator=generator, dtype=torch.float64)
    log_ref, reward = (p / p.sum()).log(), torch.rand(5, generator=generator, dtype=torch.float64)
    good = reward >= reward.sort().values[2]  # three of them, all different
    anchor = log_ref.masked_fill(~good, -torch.inf).argmax()
    augmented = torch.where(good, reward[anchor] + ALPHA * (log_ref[anchor] - log_ref), reward)
    odds = [(p[good].sum() / p[~good].sum()).item() for p in (tilted(log_ref, augmented, ALPHA).exp(), ours(log_ref, reward, good))]
    least = ((reward[anchor] - reward.max()) / ALPHA).exp().item()
    assert least * (1 - 1e-9) <= odds[0] / odds[1] <= 3 * (1 + 1e-9)


def ours(log_ref, reward, good):
    return flattened(log_ref, reward, ALPHA, reward[good].min().item()).exp()


def test_the_target_keeps_the_mass_of_good_answers_and_shares_it_evenly():
    """p* in plain Python: the good ones have the mass of p* together, a third each, and what is not good its own."""
    target = [p * math.exp(r / ALPHA) for p, r in zip(P_REF.tolist(), REWARD.tolist(), strict=True)]
    good = sum(target[1:]) / sum(target)
    torch.testing.assert_close(flattened(P_REF.log(), REWARD, ALPHA, ABOVE).exp().tolist(), [1 - good, good / 3, good / 3, good / 3])
    torch.testing.assert_close(flattened(P_REF.log(), REWARD, ALPHA, 1.1), tilted(P_REF.log(), REWARD, ALPHA))


def test_many_rollouts_of_any_policy_estimate_the_flattened_target():
    """In a group that holds each answer as often as p_old gives it, N p_old(o) times, the weights are those of the target exactly."""
    group = torch.arange(4).repeat_interleave((10 * P_OLD).round().long())[None]
    weight = weights_of(group, P_OLD.log()).weight
    found = torch.zeros(4, dtype=torch.float64).index_add(0, group[0], weight[0])
    torch.testing.assert_close(found, flattened(P_REF.log(), REWARD, ALPHA, ABOVE).exp())


def test_over_answers_and_orders_the_marginal_is_flat_and_the_rest_is_as_in_the_papers_target():
    """Two blanks, three values, random conditionals that agree between orders nowhere: all 18 pairs (o, σ), each once, so q is 1/18."""
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 3, *shape, generator=draw, dtype=torch.float64).log_softmax(dim=-1) for shape in ((), (3,)))
    log_p = torch.stack([first[0][:, None] + second[0], (first[1][:, None] + second[1]).T]).flatten(1)  # [2, 9] log p_ref(o;σ)
    reward = torch.tensor([0.0, 1, 0, 0.95, 0, 0, 0, 0, 1], dtype=torch.float64)
    log_weight = (log_p + reward / ALPHA).flatten()[None]
    found = flatten(log_weight, torch.zeros(1, 18, dtype=torch.float64), (reward >= ABOVE).repeat(2)[None]).softmax(dim=-1)
    marginal = flattened(log_p.logsumexp(dim=0) - math.log(2), reward, ALPHA, ABOVE).exp()
    torch.testing.assert_close(found.view(2, 9).sum(dim=0), marginal)
    torch.testing.assert_close(found.view(2, 9)[0, reward >= ABOVE], found.view(2, 9)[1, reward >= ABOVE])  # in every order the same


@pytest.mark.parametrize(("share", "target_ess"), [(0.0, None), (0.0, 0.9), (0.25, None), (0.5, None)])
def test_where_good_answers_are_all_the_target_is_an_exact_fixed_point(share, target_ess):
    """Whatever was drawn of them: w is the baseline, rollout by rollout. With the paper's weights it is not."""
    log_old = torch.tensor([1e-300, 1 / 3, 1 / 3, 1 / 3], dtype=torch.float64).log()
    groups = torch.randint(1, 4, (50, 6), generator=torch.Generator().manual_seed(0))
    found = weights_of(groups, log_old, share=share, target_ess=target_ess)
    assert (found.weight - found.base_weight).abs().max() < 1e-9
    paper = group_weights(REWARD[groups], (P_REF.log() - log_old)[groups], WeightConfig(alpha=ALPHA, baseline="uniform"))
    assert (paper.weight - 1 / 6).abs().max() > 0.1


def test_at_the_target_the_expected_step_falls_with_the_group_and_with_the_mass_of_other_answers():
    """E[Σ (w − 1/N) 1{o}] over all groups at p_old = p̃ is about 0.4 p̃(not good)/N: A is a mean over the good rollouts of the group."""

    def largest(N, alpha):
        log_target = flattened(P_REF.log(), REWARD, alpha, ABOVE)
        groups = torch.cartesian_prod(*[torch.arange(4)] * N)
        found = weights_of(groups, log_target, alpha=alpha)
        return expected(groups, log_target, found.weight - found.base_weight).abs().max().item()

    for alpha in (0.3, 0.15, 0.1):
        not_good = flattened(P_REF.log(), REWARD, alpha, ABOVE)[0].exp().item()
        for N in (2, 4, 8):
            assert 0.3 < N * largest(N, alpha) / not_good < 0.6


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_expected_steps_of_a_tabular_policy_end_at_the_flattened_target(share):
    """Gradient flow, the group of N = 4 enumerated, from p_ref, where the rarest good answer is six times rarer than the first."""
    alpha = 0.15
    log_target, logits = flattened(P_REF.log(), REWARD, alpha, ABOVE), P_REF.log()
    groups, own = torch.cartesian_prod(*[torch.arange(4)] * 4), 4 - round(4 * share)
    for _ in range(1000):
        log_old = logits.log_softmax(dim=-1)
        found = weights_of(groups, log_old, share=share, alpha=alpha)
        terms = (log_old[groups[:, :own]].sum(-1) + P_REF.log()[groups[:, own:]].sum(-1)).exp()[:, None] * (
            found.weight - found.base_weight
        )
        pull = torch.zeros(4, dtype=torch.float64).index_add(0, groups.flatten(), terms.flatten())
        logits = logits + 2.0 * (pull - pull.sum() * log_old.exp())
    assert (log_target.exp() * (log_target - logits.log_softmax(dim=-1))).sum() < 1e-4
    paper = tilted(P_REF.log(), REWARD, alpha)
    assert (log_target.exp() * (log_target - paper)).sum() > 0.1


def toy(*words):
    return load_config("toy_two_solutions", *words)


def test_weigh_takes_the_probability_of_each_rollouts_own_order():
    """Every answer is good: w = softmax(−log p_old(o;σ)), at the temperature of the rollouts, whatever p_ref."""
    policy, reference, prompts = tiny_model(0), FrozenReference(tiny_model(1)), make_prompts("1__2_", "_3_41")
    config = toy("weight.flatten_above=0", "train.num_rollouts=4", "sampler.temperature=0.7")
    rollout = draw_rollouts(policy, reference, prompts, vocabulary((4, 5, 6, 7)), [7, 3], (), config)
    objective, reward = build_objective(config.loss, config.weight), torch.rand(2, 4, dtype=torch.float64)
    found = weigh(policy, reference, vocabulary((4, 5, 6, 7)), objective, rollout, reward, config)
    torch.testing.assert_close(found.weight, (-rollout.path_log_prob).softmax(dim=-1))


def test_a_reward_of_exactly_the_bound_is_a_good_one():
    """α = 1, p_ref = p_old = (1/2, 1/4), rewards 1 and 1: shared evenly each drawn answer weighs 1/p_old, so 1/3 and 2/3."""
    reward, zero = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    log_old = torch.tensor([[1 / 2, 1 / 4]], dtype=torch.float64).log()
    found = group_weights(reward, zero, WeightConfig(alpha=1.0, flatten_above=1.0), log_old=log_old)
    torch.testing.assert_close(found.weight, torch.tensor([[1 / 3, 2 / 3]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weight.log_ratio=elbo"], "weight.log_ratio=elbo: .*flatten_above"),
        (["weight.log_ratio=none"], "weight.log_ratio=none: .*flatten_above"),
        (["weight.log_ratio=none", "weight.target=reward_softmax"], "weight.log_ratio=none: .*flatten_above"),
        (["weight.log_ratio=path", "weight.target=reward"], "weight.target=reward: .*flatten_above"),
        (["weight.baseline=negative"], "weight.baseline=negative: .*flatten_above"),
        (["loss.name=reinforce", "weight.log_ratio=none"], "flatten_above"),
        (["loss.name=log_variance"], "no importance weights"),
        (["weight.flatten_above=nan"], "weight.flatten_above=nan: must be a finite number"),
        (["weight.flatten_above=high"], "weight.flatten_above"),
    ],
)
def test_what_does_not_go_with_it_is_refused(words, message):
    with pytest.raises(ValueError, match=message):
        toy("weight.flatten_above=1", *words)


@pytest.mark.parametrize("words", [["weight.target_ess=0.5"], ["loss.name=wddo"], ["weight.baseline=model", "loss.masks=path"],
                                   ["train.reference_share=0.25", "weight.baseline=uniform"]])  # fmt: skip
def test_what_goes_with_it_is_taken(words):
    assert toy("weight.flatten_above=1", *words).weight.flatten_above == 1.0


def test_weights_without_the_probabilities_are_refused():
    zero = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match="flatten_above=1.0: log p_old"):
        group_weights(zero, zero, WeightConfig(flatten_above=1.0))
    with pytest.raises(ValueError, match="log p_old of prompt 0, rollout 1 is -inf"):
        group_weights(zero, zero, WeightConfig(flatten_above=1.0), log_old=torch.tensor([[0.0, -math.inf]]))


def stored():
    return [json.loads(line) for line in unimodal.FILE.read_text(encoding="utf-8").splitlines()]


def test_the_stored_shares_are_those_of_an_enumeration(tmp_path):
    """The puzzle with two solutions; shares from the odds p_ref(a)/p_ref(b) · e^{d/α} and P, not from `tilted`."""
    _, puzzle = unimodal.load_puzzle("two solutions", tmp_path)
    rows = [row for row in stored() if row.get("puzzle") == "two solutions"]
    assert len(rows) == len(unimodal.CASES) * len(unimodal.ALPHAS)
    weak, strong = sorted(puzzle.exact.probability_of(text) for text in puzzle.solutions)
    for row in rows[::7]:
        difference, is_flat = unimodal.CASES[row["case"]]
        mass = [weak * math.exp((1 + difference) / row["alpha"]), strong * math.exp(1 / row["alpha"])]
        good = sum(mass) / (sum(mass) + 1 - weak - strong)
        expected = [good / 2, good / 2] if is_flat else [good * x / sum(mass) for x in mass]
        assert row["shares"] == pytest.approx(expected, abs=1e-9) and row["p_ref"] == pytest.approx([weak, strong], abs=1e-9)


def test_the_numbers_under_the_figure_are_those_of_the_stored_runs():
    ends = {kind: [row["curve"][-1]["kl_flat"] for row in stored() if row.get("run") == kind] for kind in unimodal.RUNS}
    assert [len(found) for found in ends.values()] == [3, 3]
    text = (Path(__file__).parent.parent / "book/method.md").read_text(encoding="utf-8")
    said = [f"{min(found):.3f} to {max(found):.3f}" for found in ends.values()]
    assert f"KL(p̃‖p_θ) {said[0]} as published, where the target is another one, and {said[1]} flattened." in text
