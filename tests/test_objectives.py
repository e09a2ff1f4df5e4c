"""Objectives of others: formulas summed with loops, finite differences, fixed points by enumeration at two positions, the same `train`."""

import itertools
import math

import numpy as np
import pytest
import torch

from dmpo_ref.config import LossConfig, SamplerConfig, WeightConfig
from dmpo_ref.forecast.plan import make_plan
from dmpo_ref.likelihood import build_vocabulary, path_log_prob, sequence_log_prob, token_log_prob
from dmpo_ref.losses import wdce
from dmpo_ref.masking import stream
from dmpo_ref.models.loading import load_policy
from dmpo_ref.objectives import OBJECTIVES, build_objective
from dmpo_ref.objectives.diffu_grpo import clip_loss, one_shot_masks
from dmpo_ref.objectives.log_variance import log_variance
from dmpo_ref.objectives.reinforce import reinforce
from dmpo_ref.objectives.wd1 import wd1
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Experience, Rollout
from dmpo_ref.runtime.setup import RunParts, prepare_run
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.sudoku import Puzzle
from dmpo_ref.train import train
from dmpo_ref.weights import baseline_weights, log_weights, target_weights
from tests.helpers import (
    MASK,
    Dummy,
    backward_of,
    batch_and_masks,
    collect_round,
    make_prompts,
    make_rollout,
    plain_log_prob,
    plain_path_log_prob,
    tiny_model,
    vocabulary,
)
from toy.oracle import exact_distribution
from toy.studies.objectives import order_log_prob, order_target

ALLOWED = (4, 5, 6, 7)
VOCABULARY = vocabulary(ALLOWED)
G, N, ALPHA, CLIP = 2, 3, 0.5, 0.2
LENGTH = (3, 2)
CASES = [("diffu_grpo", 0.0), ("diffu_grpo", 0.3), ("wd1", 0.0), ("reinforce", 0.0), ("reinforce", 0.3), ("log_variance", 0.0)]
IDS = [f"{name}_{kl}" for name, kl in CASES]


# Values and gradients, on two prompts of different length with 3 and 2 blanks, three rollouts each.


def streams(seed: int = 0) -> list[torch.Generator]:
    return [stream(seed, "masks", g) for g in range(G)]


def build_case(name: str, kl: float):
    """Objective, experience with log p_old and log p_ref of other random policies, and masks."""
    objective = build_objective(LossConfig(name=name, kl=kl, clip=CLIP), WeightConfig(alpha=ALPHA))
    rollout = make_rollout(make_prompts("12|_3__", "4|__1"), N)
    masks = objective.masks(rollout, streams())
    reward = torch.tensor([[1.0, 0.0, 0.25], [0.0, 1.0, 1.0]], dtype=torch.float64)
    old, ref = (token_log_prob(tiny_model(seed), rollout, masks, VOCABULARY).detach() for seed in (7, 8))
    unused = torch.full((G, N), torch.nan)
    return objective, Experience(rollout, [0, 1], reward, unused, unused, log_old=old, log_ref=ref if kl else None), masks


def one_shot(model, rollout, masks) -> list[list[list[float]]]:
    """ℓ_k of every response, from one row of all logits at a time."""
    values = [[[] for _ in range(N)] for _ in range(G)]
    for g, n in np.ndindex(G, N):
        seen = rollout.tokens[g, n].masked_fill(masks.hidden[g, n, 0], MASK)
        for s in rollout.response_mask[g, n].nonzero().flatten().tolist():
            token = int(rollout.tokens[g, n, s])
            values[g][n].append(plain_log_prob(model, seen, rollout.attention_mask[g, n], s, token, ALLOWED))
    return values


def path(model, rollout) -> np.ndarray:
    """log p(o; σ) of every response."""
    values = np.zeros((G, N))
    for g, n in np.ndindex(G, N):
        values[g, n] = plain_path_log_prob(model, rollout.tokens[g, n], rollout.attention_mask[g, n], rollout.step[g, n], ALLOWED)
    return values


def slow_loss(name: str, kl: float, model, experience, masks, *, frozen=None) -> float:
    """The formulas with loops. `frozen` is the policy of the reward's KL term, through which no gradient flows."""
    rollout, r = experience.rollout, experience.reward.numpy()
    old, ref = tiny_model(7), tiny_model(8)
    total = 0.0
    if name in ("diffu_grpo", "wd1"):
        now, before, reference = (one_shot(m, rollout, masks) for m in (model, old, ref))
        for g, n in np.ndindex(G, N):
            A = r[g, n] - sum(r[g]) / N
            if name == "wd1":
                worse, better = (math.exp(s * r[g, n]) / sum(math.exp(s * x) for x in r[g]) for s in (-1, 1))
                total += (worse - better) * sum(now[g][n]) / G
                continue
            for k in range(LENGTH[g]):
                rho, d = math.exp(now[g][n][k] - before[g][n][k]), reference[g][n][k] - now[g][n][k]
                term = -min(rho * A, min(max(rho, 1 - CLIP), 1 + CLIP) * A) + kl * (math.exp(d) - d - 1)
                total += term / LENGTH[g] / (G * N)
        return total
    now, before = path(model, rollout), path(old, rollout)
    reference = path(ref, rollout)
    fixed = now if frozen is None else path(frozen, rollout)
    for g in range(G):
        if name == "log_variance":
            x = [now[g, n] - reference[g, n] - r[g, n] / ALPHA for n in range(N)]
            total += sum((a - sum(x) / N) ** 2 for a in x) / (N - 1) / G
            continue
        R = [r[g, n] - kl * (fixed[g, n] - reference[g, n]) for n in range(N)]
        for n in range(N):
            others = [R[j] for j in range(N) if j != n]
            total -= math.exp(now[g, n] - before[g, n]) * (R[n] - sum(others) / (N - 1)) / (G * N)
    return total


def with_reference(name, experience, masks):
    """log_variance always has a reference."""
    if name == "log_variance":
        experience.log_ref = token_log_prob(tiny_model(8), experience.rollout, masks, VOCABULARY).detach()
    return experience


@pytest.mark.parametrize(("name", "kl"), CASES, ids=IDS)
def test_the_loss_equals_its_formula_written_with_loops(name, kl):
    objective, experience, masks = build_case(name, kl)
    experience, model = with_reference(name, experience, masks), tiny_model(3)
    loss = objective.loss(token_log_prob(model, experience.rollout, masks, VOCABULARY), masks, experience, experience.weight)
    assert loss.item() == pytest.approx(slow_loss(name, kl, model, experience, masks), rel=1e-9)


@pytest.mark.parametrize(("name", "kl"), CASES, ids=IDS)
def test_the_gradient_in_the_parameters_equals_finite_differences_of_the_formula(name, kl):
    objective, experience, masks = build_case(name, kl)
    experience, model, frozen = with_reference(name, experience, masks), tiny_model(3), tiny_model(3)
    objective.loss(token_log_prob(model, experience.rollout, masks, VOCABULARY), masks, experience, experience.weight).backward()
    generator, h = torch.Generator().manual_seed(0), 1e-3
    parameters = list(model.parameters())
    for _ in range(2):
        direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]
        norm = torch.cat([d.flatten() for d in direction]).norm()
        direction = [d / norm for d in direction]
        start, value = [p.detach().clone() for p in parameters], {}
        with torch.no_grad():
            for k in (-2, -1, 1, 2):
                for p, s, d in zip(parameters, start, direction, strict=True):
                    p.copy_(s + k * h * d)
                value[k] = slow_loss(name, kl, model, experience, masks, frozen=frozen)
            for p, s in zip(parameters, start, strict=True):
                p.copy_(s)
        numeric = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * h)
        assert sum((p.grad * d).sum() for p, d in zip(parameters, direction, strict=True)).item() == pytest.approx(numeric, rel=1e-5)


def test_the_case_above_clips_some_ratios_on_each_side_and_not_others():
    """Else the two tests above would say nothing of the clipping."""
    _, experience, masks = build_case("diffu_grpo", 0.0)
    ratio = (token_log_prob(tiny_model(3), experience.rollout, masks, VOCABULARY) - experience.log_old).exp()
    positive = (experience.reward > experience.reward.mean(dim=-1, keepdim=True))[..., None, None] & masks.target
    negative = ~positive & masks.target
    assert ((ratio > 1 + CLIP) & positive).any()
    assert ((ratio <= 1 + CLIP) & positive).any()
    assert ((ratio < 1 - CLIP) & negative).any()
    assert ((ratio >= 1 - CLIP) & negative).any()


# Cases worked by hand.


def test_the_first_inner_step_of_diffu_grpo_is_the_policy_gradient():
    """ρ = 1 and p_ref = p_θ, r = 1 and 0, so A = ±½; L = 2, N = 2: the gradient in every ℓ_k is −A/(N L) = ∓1/8, whatever β."""
    log_prob = torch.tensor([[[[-1.0, -2.0, 0.0]], [[-0.5, -0.1, 0.0]]]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([True, True, False]).expand(1, 2, 1, 3)
    advantage = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    loss = clip_loss(log_prob, log_prob.detach(), log_prob.detach(), target, advantage, clip=0.2, kl=0.7)
    (gradient,) = torch.autograd.grad(loss, log_prob)
    assert gradient.flatten().tolist() == [-0.125, -0.125, 0.0, 0.125, 0.125, 0.0]
    assert loss.item() == 0.0  # −mean A


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient"),
    [(1.5, 1, -1.2, 0), (1.5, -1, 1.5, 1.5), (0.5, 1, -0.5, -0.5), (0.5, -1, 0.8, 0), (1.1, 1, -1.1, -1.1), (0.9, -1, 0.9, 0.9)],
)
def test_clipping_worked_by_hand(ratio, advantage, value, gradient):
    """ε = 0.2. Only what would go on in the direction it has already gone too far is cut off; d ρ/d ℓ = ρ."""
    log_prob = torch.tensor([[[[math.log(ratio)]]]], dtype=torch.float64, requires_grad=True)
    target, A = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.tensor([[float(advantage)]])
    loss = clip_loss(log_prob, torch.zeros_like(log_prob), None, target, A, clip=0.2, kl=0.0)
    assert loss.item() == pytest.approx(value)
    assert torch.autograd.grad(loss, log_prob)[0].item() == pytest.approx(gradient)


def test_the_kl_term_worked_by_hand():
    """p_ref twice as large as p_θ: d = ln 2, and k3 is 2 − ln 2 − 1. Its gradient in ℓ is 1 − e^d = −1: towards p_ref."""
    log_prob = torch.zeros(1, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    target, A = torch.ones(1, 1, 1, 1, dtype=torch.bool), torch.zeros(1, 1)
    loss = clip_loss(log_prob, torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), math.log(2)), target, A, clip=0.2, kl=0.5)
    assert loss.item() == pytest.approx(0.5 * (1 - math.log(2)), rel=1e-6)
    assert torch.autograd.grad(loss, log_prob)[0].item() == pytest.approx(-0.5)


def test_reinforce_and_log_variance_worked_by_hand():
    """r = 1, 0, 0: leave-one-out advantages 1, −½, −½. With ρ = 2, 1, 1 the loss is −(2 − ½ − ½)/3."""
    reward = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    assert reinforce(torch.tensor([[2.0, 1.0, 1.0]], dtype=torch.float64).log(), reward).item() == pytest.approx(-1 / 3)
    # α = ½: residuals 1 − 2, 1, 3, of mean 1 and variance (4 + 0 + 4)/2.
    assert log_variance(torch.tensor([[1.0, 1.0, 3.0]]), reward, 0.5).item() == pytest.approx(4.0)
    # A second prompt has its own constant, and is averaged.
    two = log_variance(torch.tensor([[1.0, 1.0, 3.0], [70.0, 68.0, 68.0]]), reward.repeat(2, 1), 0.5)
    assert two.item() == pytest.approx(2.0)


def test_wd1_worked_by_hand():
    """r = ln 2, 0 (A shifts both alike): softmax(A) = 2/3, 1/3, softmax(−A) = 1/3, 2/3. ℓ = −3, −6: (−1/3)(−3) + (1/3)(−6) = −1."""
    reward = torch.tensor([[math.log(2), 0.0]], dtype=torch.float64)
    assert wd1(torch.tensor([[-3.0, -6.0]], dtype=torch.float64), reward).item() == pytest.approx(-1.0)


def test_wd1_is_wdce_with_the_weights_of_the_reward_less_those_of_its_inverse():
    generator = torch.Generator().manual_seed(0)
    log_prob, reward = (torch.randn(3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    options = {"alpha": 1.0, "target": "reward_softmax"}
    weight = target_weights(log_weights(reward, torch.zeros_like(reward), **options))
    base = baseline_weights("negative", reward, torch.zeros_like(reward), **options)
    assert wd1(log_prob, reward).item() == pytest.approx(wdce(log_prob, weight - base).item(), rel=1e-12)


# Fixed points at two positions with two symbols: every order, every answer, every pair of rollouts.

SYMBOLS = (4, 5)
PATHS = list(itertools.product(range(2), range(2), range(2)))  # (order, symbol of position 0, symbol of position 1)
PAIRS = list(itertools.product(range(8), repeat=2))
REWARD = torch.tensor([[0.3, 1.0], [0.0, 0.6]], dtype=torch.float64)  # [o_0, o_1]


def random_table(seed: int) -> torch.Tensor:
    """Logits of a tabular policy [state of position 0, state of position 1, position, symbol]; state 0 is masked."""
    return torch.randn(3, 3, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tabular(table: torch.Tensor) -> Dummy:
    """The mask predictor of a table."""
    state = torch.zeros(8, dtype=torch.long)
    state[list(SYMBOLS)] = torch.tensor([1, 2])
    return Dummy(lambda tokens: torch.nn.functional.pad(table[state[tokens[:, 0]], state[tokens[:, 1]]], (4, 2)))


def log_joint(table: torch.Tensor) -> torch.Tensor:
    """log p(o; σ) [order, o_0, o_1]: order 0 fills position 0 first, order 1 position 1."""
    log_pi = table.log_softmax(dim=-1)
    first = log_pi[0, 0, 0][:, None] + log_pi[1:, 0, 1]
    second = log_pi[0, 0, 1][None, :] + log_pi[0, 1:, 0].T
    return torch.stack([first, second])


def table_of(log_p: torch.Tensor) -> torch.Tensor:
    """A table with these log-probabilities [order, o_0, o_1]."""
    table = torch.zeros(3, 3, 2, 2, dtype=torch.float64)
    table[0, 0, 0], table[0, 0, 1] = log_p[0].logsumexp(dim=1), log_p[1].logsumexp(dim=0)
    table[1:, 0, 1], table[0, 1:, 0] = log_p[0].log_softmax(dim=1), log_p[1].log_softmax(dim=0).T
    return table


def order_tilted(log_ref: torch.Tensor, alpha: float) -> torch.Tensor:
    """log p_ref(o;σ) e^{r/α} / Z(σ), [order, o_0, o_1]."""
    return (log_ref + REWARD / alpha).flatten(1).log_softmax(dim=-1).view(2, 2, 2)


def all_pairs() -> Rollout:
    """Every pair of rollouts as a prompt of its own, [64, 2, 2]."""
    tokens = torch.tensor([[[SYMBOLS[PATHS[i][1]], SYMBOLS[PATHS[i][2]]] for i in pair] for pair in PAIRS])
    step = torch.tensor([[[0, 1] if PATHS[i][0] == 0 else [1, 0] for i in pair] for pair in PAIRS])
    everything = torch.ones_like(tokens, dtype=torch.bool)
    return Rollout(tokens, everything, ~everything, everything, step, None, 2, SamplerConfig(), 0, 0)


def expected_gradient(name: str, table, old, ref, *, kl: float = 0.0, alpha: float = ALPHA, **options) -> torch.Tensor:
    """The gradient of the objective in expectation over pairs of rollouts of `old`, exactly."""
    objective, rollout = build_objective(LossConfig(name=name, kl=kl, **options), WeightConfig(alpha=alpha)), all_pairs()
    masks, table = objective.masks(rollout, [stream(0, g) for g in range(64)]), table.clone().requires_grad_()
    log_prob, log_old, log_ref = (token_log_prob(tabular(t), rollout, masks, vocabulary(SYMBOLS)) for t in (table, old, ref))
    reward = torch.stack([torch.stack([REWARD[PATHS[i][1:]] for i in pair]) for pair in PAIRS])
    experience = Experience(rollout, [], reward, reward, reward, log_old=log_old, log_ref=log_ref)
    leaf = log_prob.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.loss(leaf, masks, experience, reward), leaf)
    chance = (log_joint(old) - math.log(2)).exp()  # of a rollout: its order, and its tokens
    chance = torch.tensor([chance[PATHS[i]] * chance[PATHS[j]] for i, j in PAIRS])
    # The loss is a mean over the prompts; each pair counts as often as it is drawn.
    weighted = gradient * 64 * chance[:, None, None, None]
    return torch.autograd.grad((weighted * log_prob).sum(), table)[0]


@pytest.mark.parametrize("kl", [0.0, 0.4])
@pytest.mark.parametrize("stale", [False, True])
def test_reinforce_is_an_unbiased_gradient_of_the_regularised_reward_with_stale_rollouts_too(kl, stale):
    table, ref = random_table(0), random_table(1)
    old = random_table(2) if stale else table
    free = table.clone().requires_grad_()
    log_p = log_joint(free)
    value = (log_p.exp() / 2 * (REWARD - kl * (log_p - log_joint(ref)))).sum()
    (wanted,) = torch.autograd.grad(-value, free)
    torch.testing.assert_close(expected_gradient("reinforce", table, old, ref, kl=kl), wanted, rtol=1e-6, atol=1e-9)


def test_reinforce_ends_at_the_answer_of_largest_reward_and_with_a_kl_term_at_the_tilted_orders():
    ref = random_table(1)
    target = order_tilted(log_joint(ref), ALPHA)
    for kl in (0.0, ALPHA):
        table = ref.clone().requires_grad_()
        optimizer = torch.optim.Adam([table], lr=0.1)
        for _ in range(150):
            table.grad = expected_gradient("reinforce", table.detach(), table.detach(), ref, kl=kl)
            optimizer.step()
        p = log_joint(table.detach()).exp().mean(dim=0)
        if kl == 0:
            assert p[0, 1] > 0.99
        else:
            torch.testing.assert_close(p, target.exp().mean(dim=0), rtol=0, atol=1e-4)


def test_kl_regularised_reinforce_is_stationary_at_the_tilted_orders_and_not_at_p_star():
    """Where p_ref(o;σ) depends on σ the two differ: E_σ[p_ref e^{r/α}/Z(σ)] against E_σ[p_ref] e^{r/α}/Z."""
    ref = random_table(1)
    tilted = order_tilted(log_joint(ref), ALPHA)
    gradient = expected_gradient("reinforce", table_of(tilted), random_table(2), ref, kl=ALPHA)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)
    p_star = log_joint(ref).exp().mean(dim=0).log() + REWARD / ALPHA
    p_star = (p_star - p_star.logsumexp(dim=(0, 1))).expand(2, 2, 2)
    assert (p_star[0].exp() - tilted.exp().mean(dim=0)).abs().max() > 1e-3
    at_p_star = expected_gradient("reinforce", table_of(p_star), table_of(p_star), ref, kl=ALPHA)
    assert at_p_star.abs().max() > 1e-3


def log_variance_of_pairs(table, ref) -> torch.Tensor:
    """The loss of every pair of rollouts, [64]."""
    objective, rollout = build_objective(LossConfig(name="log_variance"), WeightConfig(alpha=ALPHA)), all_pairs()
    losses = []
    for g in range(64):
        chosen = rollout.select(torch.tensor([g]))
        masks = objective.masks(chosen, [])
        log_prob, log_ref = (token_log_prob(tabular(t), chosen, masks, vocabulary(SYMBOLS)) for t in (table, ref))
        reward = torch.stack([REWARD[PATHS[i][1:]] for i in PAIRS[g]])[None]
        losses.append(objective.loss(log_prob, masks, Experience(chosen, [], reward, reward, reward, log_ref=log_ref), reward))
    return torch.stack(losses)


def test_log_variance_is_0_at_p_star_for_any_rollouts_if_the_reference_does_not_depend_on_the_order():
    one = torch.tensor([[0.3, -0.4]], dtype=torch.float64).log_softmax(-1).T + torch.tensor([[1.0, 0.2]]).double().log_softmax(-1)
    ref = table_of(one.expand(2, 2, 2))
    p_star = (one + REWARD / ALPHA).flatten().log_softmax(dim=-1).view(2, 2)
    assert log_variance_of_pairs(table_of(p_star.expand(2, 2, 2)), ref).max() < 1e-24
    gradient = expected_gradient("log_variance", table_of(p_star.expand(2, 2, 2)), random_table(2), ref)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-9, rtol=0)
    assert log_variance_of_pairs(ref, ref).max() > 0.1


def test_log_variance_keeps_a_residual_where_the_normaliser_depends_on_the_order():
    """At p_ref(o;σ) e^{r/α}/Z(σ) a pair of different orders has variance (log Z(0) − log Z(1))²/2, a pair of one order none."""
    ref = random_table(1)
    log_z = (log_joint(ref) + REWARD / ALPHA).logsumexp(dim=(1, 2))
    losses = log_variance_of_pairs(table_of(order_tilted(log_joint(ref), ALPHA)), ref)
    for loss, (i, j) in zip(losses, PAIRS, strict=True):
        expected = 0.0 if PATHS[i][0] == PATHS[j][0] else (log_z[0] - log_z[1]).item() ** 2 / 2
        assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-20)
    assert losses.max() > 1e-3


def test_on_policy_log_variance_and_reinforce_with_kl_have_the_same_gradient_sample_by_sample():
    """2/α times; with rollouts of another policy they differ."""
    masks, gradients = None, {}
    for name, kl in (("reinforce", ALPHA), ("log_variance", 0.0)):
        for stale in (False, True):
            objective, experience, masks = build_case(name, kl)
            experience.log_ref = token_log_prob(tiny_model(8), experience.rollout, masks, VOCABULARY).detach()
            log_prob = token_log_prob(tiny_model(3), experience.rollout, masks, VOCABULARY).detach().requires_grad_()
            if not stale:
                experience.log_old = log_prob.detach()
            (gradients[name, stale],) = torch.autograd.grad(objective.loss(log_prob, masks, experience, experience.weight), log_prob)
    torch.testing.assert_close(gradients["log_variance", False], 2 / ALPHA * gradients["reinforce", False], rtol=1e-6, atol=1e-12)
    assert (gradients["log_variance", True] - 2 / ALPHA * gradients["reinforce", True]).abs().max() > 0.1


# One-shot masks.


def test_one_shot_masks_hide_and_score_the_whole_response_and_hide_given_tokens_at_random():
    rollout = make_rollout(make_prompts("1234|_3__", "4|__1"), 4000)
    masks = one_shot_masks(rollout, streams())
    assert masks.hidden.shape == (2, 4000, 1, 8)
    assert (masks.target[:, :, 0] == rollout.response_mask).all()
    assert (masks.hidden | ~masks.target).all()
    assert (masks.weight == 1).all()
    assert not (masks.hidden[:, :, 0] & ~rollout.attention_mask).any()  # padding stays
    given = rollout.attention_mask & ~rollout.response_mask
    share = masks.hidden[:, :, 0].double().mean(dim=1)[given[:, 0]]
    assert len(share) == 5 + 2  # the prompt, and the clue inside the response
    assert (share - 0.15).abs().max() < 5 * math.sqrt(0.15 * 0.85 / 4000)
    pair = masks.hidden[0, :, 0, :2].double()
    assert torch.corrcoef(pair.T)[0, 1].abs() < 0.08


def test_one_shot_masks_do_not_depend_on_the_other_prompts():
    together = one_shot_masks(make_rollout(make_prompts("12|_3__", "123412|___"), 50), streams())
    alone = one_shot_masks(make_rollout(make_prompts("12|_3__"), 50), streams()[:1])
    assert torch.equal(together.hidden[:1, ..., 3:], alone.hidden)


# The same `train`.

RUNS = {
    "diffu_grpo": ["loss.name=diffu_grpo", "loss.kl=0.04"],
    "diffu_grpo_no_kl": ["loss.name=diffu_grpo"],
    "wd1": ["loss.name=wd1"],
    "reinforce": ["loss.name=reinforce", "loss.kl=0.2"],
    "log_variance": ["loss.name=log_variance"],
    "coupled_grpo": ["loss.name=coupled_grpo", "loss.kl=0.04"],
    "spg": ["loss.name=spg"],
    "espo": ["loss.name=espo", "loss.kl=0.04"],
    "gdpo": ["loss.name=gdpo", "loss.num_masks=3"],
    "gdsd": ["loss.name=gdsd", "loss.masks=exact"],
    "stable_drl": ["loss.name=stable_drl", "loss.masks=path_steps"],
    "trace_rl": ["loss.name=trace_rl", "loss.kl=0.04"],
    "agrpo": ["loss.name=agrpo"],
    "trajectory_balance": ["loss.name=trajectory_balance"],
}
KINDS = [*list(RUNS)[:5], "coupled_grpo", "spg", "agrpo"]  # of masks and of what is stored: the others are like one of these
REFERENCE = ("diffu_grpo", "reinforce", "log_variance", "coupled_grpo")  # runs of these kinds have one
ON_RATIOS = ("diffu_grpo", "diffu_grpo_no_kl", "reinforce", "coupled_grpo", "espo", "gdpo", "trace_rl", "agrpo")


def arbitrary_reward(item, text: str) -> float:
    """Something that differs between the answers to one puzzle."""
    return sum(i % 3 * int(digit) for i, digit in enumerate(text)) / 16


def tiny_run(folder, *overrides: str) -> RunParts:
    """A run in float64 that has collected one round: three puzzles, four rollouts each."""
    small = ["train.prompts_per_round=3", "train.num_rollouts=4", "train.steps_per_round=2", "evaluation.num_items=1"]
    config = load_config("toy_sudoku", f"output={folder}", *small, *overrides)
    run = prepare_run(config)
    run.policy.double()
    if run.reference is not None:
        run.reference.network.double()
    run.state.buffer = [collect_round(run, arbitrary_reward)]
    return run


def move(policy) -> None:
    """Another policy than p_old and p_ref."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("name", ON_RATIOS)
def test_before_the_first_step_every_ratio_is_1_on_the_masks_of_every_step(tmp_path, name):
    """p_θ = p_old = p_ref on the very masks that each step uses, so the loss is −mean A = 0, and the steps' masks differ."""
    run = tiny_run(tmp_path, *RUNS[name])
    hidden = []
    for k in range(2):
        batch, masks = batch_and_masks(run, k)
        log_prob = token_log_prob(run.policy, batch.rollout, masks, run.vocabulary)
        torch.testing.assert_close(log_prob, batch.log_old, rtol=0, atol=1e-12)
        assert run.objective.loss(log_prob, masks, batch, batch.weight).item() == pytest.approx(0, abs=1e-12)
        hidden.append(masks.hidden)
    assert torch.equal(*hidden) == run.objective.follows_path


@pytest.mark.parametrize("name", KINDS)
def test_micro_batches_give_the_gradient_of_the_whole(tmp_path, name):
    run = tiny_run(tmp_path, *RUNS[name])
    move(run.policy)
    batch, masks = batch_and_masks(run, 1)
    log_prob = token_log_prob(run.policy, batch.rollout, masks, run.vocabulary)
    loss = run.objective.loss(log_prob, masks, batch, batch.weight)
    wanted = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(run.policy.parameters()))])
    assert wanted.norm() > 1e-3
    for micro_batch in (11, 1000):
        run.config.loss.micro_batch = micro_batch
        run.policy.zero_grad()
        assert backward_of(run, batch, masks).item() == pytest.approx(loss.item(), rel=1e-6, abs=1e-9)
        gradient = torch.cat([p.grad.flatten() for p in run.policy.parameters()])
        assert (gradient - wanted).norm() < 1e-6 * wanted.norm()


def test_along_the_path_p_old_has_the_temperature_of_the_rollouts_and_p_ref_temperature_1(tmp_path):
    run = tiny_run(tmp_path, "loss.name=reinforce", "loss.kl=0.2", "sampler.temperature=0.7")
    move(run.policy)
    run.state.buffer = [collect_round(run, arbitrary_reward)]
    batch, masks = batch_and_masks(run, 0)
    torch.testing.assert_close(sequence_log_prob(batch.log_old, masks), batch.rollout.path_log_prob)
    reference = path_log_prob(run.reference.network, batch.rollout, run.vocabulary)
    torch.testing.assert_close(sequence_log_prob(batch.log_ref, masks), reference)
    assert (batch.rollout.path_log_prob - reference).abs().max() > 0.1


@pytest.mark.parametrize("name", RUNS)
def test_every_rival_learns_to_solve_a_puzzle(tmp_path, name):
    """A third of the answers solve it before, and more than half after 12 rounds."""
    options = [
        "train.rounds=12",
        "train.num_rollouts=16",
        "train.steps_per_round=2",
        "optimizer.learning_rate=1e-3",
        "weight.log_ratio=none",
    ]
    trained = train(load_config("toy_two_solutions", f"output={tmp_path / 'run'}", *RUNS[name], *options))
    assert np.mean([entry["reward"] for entry in trained.metrics[:2]]) < 0.45
    assert np.mean([entry["reward"] for entry in trained.metrics[-8:]]) > 0.55


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "overrides",
    [
        [*RUNS["diffu_grpo"], "train.reuse_rounds=1", "train.prompts_per_step=2", "train.resync_every=3"],
        pytest.param(
            [*RUNS["log_variance"], "train.reuse_rounds=1", "model.lora_rank=4", "model.lora_dropout=0.2"], marks=pytest.mark.long
        ),
    ],
    ids=["diffu_grpo", "log_variance_lora"],
)
def test_a_killed_run_resumes_to_the_same_numbers(small_run, tmp_path, overrides):
    """log p_ref lies in the buffer of the checkpoint; LoRA's reference is the policy without its adapters."""
    whole = train(small_run(*overrides, f"output={tmp_path / 'whole'}"))

    def kill(done, policy):
        if done == 3:
            raise Killed
        return {}

    broken = small_run(*overrides, f"output={tmp_path / 'broken'}")
    with pytest.raises(Killed):
        train(broken, on_round=kill)
    resumed = train(broken, resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True))


def test_dropout_is_off_where_log_probabilities_are_compared(small_run, tmp_path):
    """So the second loss of log_variance, which subtracts no log p_old but log p_ref, does not change with it."""
    losses = []
    for dropout in (0.0, 0.5):
        options = ["model.lora_rank=4", f"model.lora_dropout={dropout}", "train.rounds=1", "train.prompts_per_round=1"]
        config = small_run(*RUNS["log_variance"], *options, f"output={tmp_path / str(dropout)}")
        losses.append(train(config, reward=arbitrary_reward).metrics[1]["loss"])
    assert losses[0] == losses[1] > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.name=wd1", "weight.log_ratio=path"], r"weight\.log_ratio=path: loss\.name=wd1 has no importance weights; use none"),
        (["loss.name=reinforce", "weight.baseline=uniform"], r"weight\.baseline=uniform: .*use none"),
        (["loss.name=log_variance", "weight.target=reward"], r"weight\.target=reward: .*use tilted"),
        (["loss.name=diffu_grpo", "weight.target_ess=0.5"], r"weight\.target_ess=0\.5: .*use null"),
        (["loss.name=wd1", "loss.kl=0.1"], r"loss\.kl=0\.1: for diffu_grpo, reinforce, coupled_grpo, espo, gdpo, gdsd, trace_rl, agrpo; "),
        (["loss.name=trajectory_balance", "loss.kl=0.1"], r"loss\.kl=0\.1: for diffu_grpo"),
        (["loss.name=agrpo", "sampler.name=confidence"], r"loss\.name=agrpo: only sampler\.name=random_order"),
        (["loss.name=espo", "loss.masks=path", "sampler.name=confidence"], r"loss\.masks=path: only sampler\.name=random_order"),
        (["loss.name=spg", "weight.baseline=uniform"], r"weight\.baseline=uniform: .*use none"),
        (["loss.name=diffu_grpo", "loss.kl=-1"], r"loss\.kl=-1\.0: must be finite and not negative"),
        (["loss.clip=0"], r"loss\.clip=0\.0: must be above 0"),
        (["loss.name=reinforce", "sampler.name=confidence"], r"loss\.name=reinforce: only sampler\.name=random_order"),
        (["loss.name=log_variance", "sampler.temperature=0"], r"loss\.name=log_variance: only .*above temperature 0"),
        (["loss.name=reinforce", "train.resync_every=2"], r"train\.resync_every=2"),
    ],
)
def test_combinations_that_make_no_sense_are_one_line(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_config("toy_sudoku", *overrides)
    assert "\n" not in str(caught.value)


def test_a_reference_that_only_the_objective_needs_may_move():
    assert load_config("toy_sudoku", *RUNS["diffu_grpo"], "train.resync_every=2").train.resync_every == 2


@pytest.mark.parametrize("name", KINDS)
def test_a_real_round_calls_the_model_as_often_as_planned(small_run, name):
    options = ["task.generate=all", "train.rounds=2", "train.prompts_per_round=1", "loss.micro_batch=3", "train.score_micro_batch=10"]
    config = small_run(*RUNS[name], *options)
    plan = make_plan(config)
    assert train(config).metrics[0]["forward_passes"] == sum(p.calls for p in plan.phases)
    assert plan.reference == (plan.weights if name in REFERENCE else 0)


def test_every_name_of_the_config_is_built():
    for name in OBJECTIVES:
        assert build_objective(LossConfig(name=name), WeightConfig()).masks is not None


# The targets of the experiment.


def test_path_probabilities_over_all_orders_average_to_the_exact_distribution():
    config = load_config("toy_two_solutions")
    policy, tokenizer = load_policy(config.model, torch.device("cpu"))
    task, item = build_task(config.task), Puzzle("0234341221434300", "1234341221434321")  # 3 blanks
    arguments = (policy, tokenizer, task, item, build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet))
    by_order = order_log_prob(*arguments)
    assert by_order.shape == (6, 64)
    torch.testing.assert_close(by_order.exp().mean(dim=0), exact_distribution(*arguments).log_prob.exp(), rtol=1e-9, atol=1e-15)
    # At two positions, by hand: log p_ref(o;σ) of two orders and two answers, rewards ln 2 and 0 at α = 1.
    log_ref = torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=torch.float64).log()
    p = order_target(log_ref, torch.tensor([math.log(2), 0.0], dtype=torch.float64), 1.0).exp()
    assert p.tolist() == pytest.approx([(2 / 3 + 1 / 3) / 2, (1 / 3 + 2 / 3) / 2])
