"""Objectives of 2025 and 2026: formulas with loops, finite differences, cases worked by hand, enumeration at two and three positions."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from dmpo_ref.config import LossConfig, WeightConfig
from dmpo_ref.likelihood import sequence_log_prob, token_log_prob
from dmpo_ref.masking import Masks, draw_masks, path_masks, path_steps_from_uniforms
from dmpo_ref.objectives import build_objective
from dmpo_ref.objectives.agrpo import agrpo
from dmpo_ref.objectives.coupled_grpo import complementary_masks, couple
from dmpo_ref.objectives.diffu_grpo import clip_loss
from dmpo_ref.objectives.espo import espo
from dmpo_ref.objectives.gdpo import gdpo
from dmpo_ref.objectives.gdsd import gdsd
from dmpo_ref.objectives.log_variance import log_variance
from dmpo_ref.objectives.policy_gradient import centred, k2, k3, leave_one_out
from dmpo_ref.objectives.spg import spg, upper_bound
from dmpo_ref.objectives.stable_drl import stable_drl
from dmpo_ref.objectives.trace_rl import standardised
from dmpo_ref.objectives.trajectory_balance import log_normaliser, trajectory_balance
from dmpo_ref.rollout import Experience
from tests.helpers import MASK, log_softmax, make_prompts, make_rollout, tiny_model
from tests.test_objectives import (
    ALLOWED,
    LENGTH,
    VOCABULARY,
    expected_gradient,
    log_joint,
    order_tilted,
    random_table,
    streams,
    table_of,
)

G, N, ALPHA = 2, 3, 0.5
REWARD = [[1.0, 0.0, 0.25], [0.0, 1.0, 1.0]]
CASES = {
    "coupled_grpo": {"kl": 0.3},
    "coupled_grpo, no kl": {},
    "spg": {"masks": "exact", "num_masks": 3},
    "spg, one mask": {"masks": "exact", "num_masks": 1},
    "espo": {"masks": "exact", "kl": 0.3},
    "espo, path": {"masks": "path"},
    "gdpo": {"kl": 0.3},
    "gdsd": {"masks": "exact", "kl": 0.3, "clip": 0.9},
    "gdsd, wide": {"masks": "exact", "clip": 30.0},
    "stable_drl": {"masks": "exact"},
    "trace_rl": {"kl": 0.3},
    "agrpo": {"kl": 0.3},
    "trajectory_balance": {},
}


def make_case(case: str):
    """Objective, experience with log p_old and log p_ref of other random policies, masks and options; L = 3 and 2."""
    options = LossConfig(name=case.partition(",")[0], **({"clip": 0.2} | CASES[case]))
    objective = build_objective(options, WeightConfig(alpha=ALPHA))
    rollout = make_rollout(make_prompts("12|_3__", "4|__1"), N)
    masks = objective.masks(rollout, streams())
    old, ref = (token_log_prob(tiny_model(seed), rollout, masks, VOCABULARY).detach() for seed in (7, 8))
    reward, unused = torch.tensor(REWARD, dtype=torch.float64), torch.full((G, N), torch.nan)
    needs = (objective.uses_log_old, objective.uses_log_ref)
    old, ref = (x if needed else None for x, needed in zip((old, ref), needs, strict=True))
    return objective, Experience(rollout, [0, 1], reward, unused, unused, log_old=old, log_ref=ref), masks, options


# What follows is written from the formulas: token log-probabilities from rows of logits, one row of the model at a time, in loops.


@torch.no_grad()
def rows_of(model, rollout, masks) -> dict[tuple[int, int], list[dict[int, float]]]:
    """(g, n) → for each mask, the log-probability of every scored position."""
    found = {}
    for g, n in np.ndindex(G, N):
        found[g, n] = []
        for hidden, target in zip(masks.hidden[g, n], masks.target[g, n], strict=True):
            tokens = rollout.tokens[g, n].masked_fill(hidden, MASK)
            logits = model(input_ids=tokens[None], attention_mask=rollout.attention_mask[g, n][None]).logits[0].double().numpy()
            values = {}
            for s in target.nonzero().flatten().tolist():
                values[s] = float(log_softmax(logits[s][list(ALLOWED)])[ALLOWED.index(int(rollout.tokens[g, n, s]))])
            found[g, n].append(values)
    return found


def clipped(ratio: float, A: float, clip: float) -> float:
    return min(ratio * A, min(max(ratio, 1 - clip), 1 + clip) * A)


def weights_of(rows, options, L: int) -> list[float]:
    """By which the sum of each mask is multiplied before the mean over masks."""
    if options.name == "gdpo":  # two nodes
        return [2 * 0.5 / t for t in (0.5 - 0.5 / math.sqrt(3), 0.5 + 0.5 / math.sqrt(3))]
    if options.masks == "exact":
        return [L / len(row) for row in rows]
    return [float(len(rows))] * len(rows)


def elbo_of(rows, options, L: int) -> float:
    return sum(w * sum(row.values()) for w, row in zip(weights_of(rows, options, L), rows, strict=True)) / len(rows)


def eubo_of(rows, L: int, b: float) -> float:
    logs = []
    for s in {s for row in rows for s in row}:
        logs.append(math.log(sum(L / len(row) * math.exp(row[s]) ** b for row in rows if s in row) / len(rows)))
    return sum(logs) / b / len(logs)


def coupled_of(rows, first_weight: float) -> dict[int, float]:
    t = 1.5 / first_weight
    return {s: (rows[0][s] + (rows[1][s] / t if s in rows[1] else rows[2][s] / (1 - t))) / 2 for s in rows[0]}


def slow_loss(options, now, old, ref, masks, frozen) -> float:
    """The formulas with loops. `frozen` are the scores of the policy where no gradient flows."""
    name, kl, clip, total = options.name, options.kl, options.clip, 0.0
    for g in range(G):
        r, L = REWARD[g], LENGTH[g]
        mean, spread = sum(r) / N, math.sqrt(sum((x - sum(r) / N) ** 2 for x in r) / (N - 1))
        path = [[sum(sum(row.values()) for row in x[g, n]) for n in range(N)] for x in (now, old, ref)]
        elbo, before, reference, stopped = ([elbo_of(x[g, n], options, L) for n in range(N)] for x in (now, old, ref, frozen))
        truncated = [min(max(math.exp((stopped[n] - before[n]) / L), 1 - clip), 1 + clip) for n in range(N)]
        for n in range(N):
            A, share = r[n] - mean, 1 / (G * N)
            if name == "coupled_grpo":
                A = r[n] - (sum(r) - r[n]) / (N - 1)
                x, y, z = (coupled_of(scores[g, n], masks.weight[g, n, 1].item()) for scores in (now, old, ref))
                for s in x:
                    total -= share / L * clipped(math.exp(x[s] - y[s]), A, clip)
                    total += share / L * kl * (math.exp(z[s] - x[s]) - (z[s] - x[s]) - 1)
            elif name == "spg":
                lower = sum(sum(row.values()) / len(row) for row in now[g, n]) / len(now[g, n])
                total -= share * A * (lower if A > 0 else 0.5 * eubo_of(now[g, n], L, 1.5) + 0.5 * lower)
            elif name == "espo":
                total -= share * clipped(math.exp((elbo[n] - before[n]) / L), A, clip)
                total += share * kl * (elbo[n] - reference[n]) ** 2 / 2 / L
            elif name == "gdpo":
                d = reference[n] - elbo[n]
                total += share / L * (kl * (math.exp(d) - d - 1) - clipped(math.exp(elbo[n] - before[n]), A, clip))
            elif name == "gdsd":
                w = weights_of(now[g, n], options, L)
                x, y, z = ([c * sum(row.values()) for c, row in zip(w, scores[g, n], strict=True)] for scores in (now, old, ref))
                for r_ in range(len(w)):
                    change = min(max(x[r_] - y[r_], math.log(1 - clip) if clip < 1 else -1e9), math.log(1 + clip))
                    total += share / len(w) * ((change / L - A) ** 2 + kl / L * (x[r_] - z[r_]) ** 2 / 2)
            elif name == "stable_drl":
                total -= truncated[n] / sum(truncated) * A * elbo[n] / L / G
            elif name in ("trace_rl", "agrpo"):
                A = A / spread if name == "trace_rl" else A
                R = len(now[g, n])
                for j in range(R):
                    # The steps drawn of a row of L tokens: the size of stratum j, and the mean over L tokens of the whole path.
                    times = (j + 1) * L // R - j * L // R if name == "agrpo" else 1 / L
                    for s in now[g, n][j]:
                        x, y, z = (scores[g, n][j][s] for scores in (now, old, ref))
                        total += share * times * (kl * (math.exp(z - x) - (z - x) - 1) - clipped(math.exp(x - y), A, clip))
            else:
                weights = [math.exp(r[j] / ALPHA + path[2][j] - path[1][j]) for j in range(N) if j != n]
                total += share * (math.log(sum(weights) / (N - 1)) + path[0][n] - path[2][n] - r[n] / ALPHA) ** 2
    return total


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_equal_the_formula_written_with_loops_and_its_finite_differences(case):
    objective, experience, masks, options = make_case(case)
    model, rollout = tiny_model(3), experience.rollout
    loss = objective.loss(token_log_prob(model, rollout, masks, VOCABULARY), masks, experience, experience.weight)
    old, ref, frozen = (rows_of(tiny_model(seed), rollout, masks) for seed in (7, 8, 3))
    assert loss.item() == pytest.approx(slow_loss(options, frozen, old, ref, masks, frozen), rel=1e-9)
    loss.backward()
    generator, h = torch.Generator().manual_seed(0), 1e-3
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]
    norm = torch.cat([d.flatten() for d in direction]).norm()
    start, value = [p.detach().clone() for p in model.parameters()], {}
    for k in (-2, -1, 1, 2):
        with torch.no_grad():
            for p, s, d in zip(model.parameters(), start, direction, strict=True):
                p.copy_(s + k * h * d / norm)
        value[k] = slow_loss(options, rows_of(model, rollout, masks), old, ref, masks, frozen)
    numeric = (8 * (value[1] - value[-1]) - (value[2] - value[-2])) / (12 * h)
    gradient = sum((p.grad * d).sum() for p, d in zip(model.parameters(), direction, strict=True)).item() / norm.item()
    assert abs(numeric) > 1e-4
    assert gradient == pytest.approx(numeric, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("case", ["coupled_grpo, no kl", "espo, path", "gdsd", "trace_rl", "agrpo"])
def test_these_cases_clip_some_and_not_others(case):
    """Else the test above would say nothing of the clipping."""
    objective, experience, masks, _ = make_case(case)
    experience.log_ref = None  # whose term is not clipped
    scores = token_log_prob(tiny_model(3), experience.rollout, masks, VOCABULARY).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(objective.loss(scores, masks, experience, experience.weight), scores)
    assert (gradient[masks.target] == 0).any() and (gradient[masks.target] != 0).any()


# Cases worked by hand.


def one(*values: float) -> torch.Tensor:
    """[1, len] float64 with a gradient."""
    return torch.tensor([values], dtype=torch.float64, requires_grad=True)


def test_advantages_worked_by_hand():
    reward = one(1.0, 0.0, 0.0, 0.0)
    assert centred(reward).tolist() == [[0.75, -0.25, -0.25, -0.25]]
    assert leave_one_out(reward).flatten().tolist() == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])
    assert standardised(reward).flatten().tolist() == pytest.approx([1.5, -0.5, -0.5, -0.5])  # the deviation is √(0.75/3)
    assert standardised(one(0.1, 0.1, 0.1)).abs().max() < 1e-9


def test_coupled_grpo_worked_by_hand():
    """t = ½, S = {0}: ℓ_0 = ½(−1 − 3/½), ℓ_1 = ½(−2 − 4/½)."""
    masks = complementary_masks(torch.ones(1, 1, 2, dtype=torch.bool), torch.tensor([[0.5]]), torch.tensor([[[0.1, 0.9]]]))
    assert masks.hidden[0, 0].tolist() == [[True, True], [True, False], [False, True]]
    scores = torch.tensor([[[[-1.0, -2.0], [-3.0, 0.0], [0.0, -4.0]]]])
    assert couple(scores, masks).flatten().tolist() == pytest.approx([-3.5, -5.0])
    assert sequence_log_prob(scores, masks).item() == pytest.approx(-8.5)  # Σ_k ℓ_k


def test_spg_worked_by_hand():
    """Masks {0} and {0, 1} of two tokens, weights 2 and 1, π = ¼; ½, ⅛. EUBO/L at b = 1: ½ [ln (2·¼ + ½)/2 + ln (⅛/2)] = −2.5 ln 2,
    below ELBO/L = ½ · ½ [2 ln ¼ + ln ½ + ln ⅛] = −2 ln 2: two masks are too few for a bound."""
    hidden = torch.tensor([[[[True, False], [True, True]]]])
    masks, scores = Masks(hidden, hidden, torch.tensor([[[2.0, 1.0]]])), torch.tensor([[[[0.25, 1.0], [0.5, 0.125]]]]).log()
    assert upper_bound(scores, masks, exponent=1.0).item() == pytest.approx(-2.5 * math.log(2))
    assert sequence_log_prob(scores, masks).item() / 2 == pytest.approx(-2 * math.log(2))
    # b = 2: ½ · ½ [ln (2/16 + 1/4)/2 + ln (1/64)/2] = ¼ [ln 3/16 − ln 128]
    assert upper_bound(scores, masks, exponent=2.0).item() == pytest.approx((math.log(3 / 16) - math.log(128)) / 4)
    only = Masks(hidden[:, :, :1], hidden[:, :, :1], torch.tensor([[[2.0]]]))  # token 1 is left out: ln (2 · ¼)
    assert upper_bound(scores[:, :, :1], only, exponent=1.0).item() == pytest.approx(-math.log(2))
    # r = 1, 0: A = ±½; s = −2 and ¼ · −1 + ¾ · −3 = −2.5, so −½ (½ · −2 − ½ · −2.5)
    lower, upper = one(-2.0, -3.0), one(-1.0, -1.0)
    loss = spg(lower, upper, one(1.0, 0.0), mixture=0.25)
    assert loss.item() == pytest.approx(-0.125)
    gradients = torch.autograd.grad(loss, (lower, upper))
    assert [x.flatten().tolist() for x in gradients] == [[-0.25, 0.1875], [0.0, 0.0625]]


def test_espo_and_gdpo_worked_by_hand():
    """L = 4, ε = 0.2. The ratio per token of ESPO and the ratio of GDPO are both 1.5 here."""
    length, A = torch.tensor([[4, 4]]), one(1.0, -1.0)
    per_token = one(4 * math.log(1.5), 4 * math.log(1.5))
    loss = espo(per_token, None, length, A, clip=0.2, kl=0.0)
    assert loss.item() == pytest.approx((-1.2 + 1.5) / 2)
    assert torch.autograd.grad(loss, per_token)[0].flatten().tolist() == pytest.approx([0.0, 1.5 / 4 / 2])
    assert espo(torch.zeros(1, 2), one(2.0, 0.0), length, 0 * A, clip=0.2, kl=0.5).item() == pytest.approx(0.5 * 2 / 4 / 2)
    whole = one(math.log(1.5), math.log(1.5))
    loss = gdpo(whole, None, length, A, clip=0.2, kl=0.0)
    assert loss.item() == pytest.approx((-1.2 + 1.5) / 4 / 2)
    assert torch.autograd.grad(loss, whole)[0].flatten().tolist() == pytest.approx([0.0, 1.5 / 4 / 2])
    # p_ref twice p_θ: k3 is 2 − ln 2 − 1.
    half = one(-math.log(2), 0.0)
    assert gdpo(torch.zeros(1, 2), half, length, 0 * A, clip=0.2, kl=0.5).item() == pytest.approx(0.5 * (1 - math.log(2)) / 4 / 2)


def test_gdsd_worked_by_hand():
    """L = 2, ψ = 3, A = ±½, ε = ½. Δ = 0.4 < ln 1.5 counts; Δ = −1 < ln ½ is cut off, though it has gone where A wants it."""
    change = torch.tensor([[[0.4], [-1.0]]], dtype=torch.float64, requires_grad=True)
    length, A = torch.tensor([[2, 2]]), one(0.5, -0.5)
    loss = gdsd(change, None, length, A, psi=3.0, clip=0.5, kl=0.0)
    assert loss.item() == pytest.approx(((0.2 - 1.5) ** 2 + (math.log(0.5) / 2 + 1.5) ** 2) / 2)
    assert torch.autograd.grad(loss, change)[0].flatten().tolist() == pytest.approx([(0.2 - 1.5) / 2, 0.0])
    to_ref = torch.tensor([[[2.0], [0.0]]], dtype=torch.float64)
    assert gdsd(0 * to_ref, to_ref, length, 0 * A, psi=3.0, clip=2.0, kl=0.5).item() == pytest.approx(0.5 * 2 / 2 / 2)


def test_stable_drl_worked_by_hand():
    """ρ = 2 and ½ are clipped to 1.2 and 0.8, whatever A: shares 0.6 and 0.4. A = ±½: −(0.6 · ½ · −1 − 0.4 · ½ · −3) = −0.3."""
    score = one(-1.0, -3.0)
    old = score.detach() - one(math.log(2), -math.log(2)).detach()
    loss = stable_drl(score, old, one(0.5, -0.5), clip=0.2)
    assert loss.item() == pytest.approx(-0.3)
    assert torch.autograd.grad(loss, score)[0].flatten().tolist() == pytest.approx([-0.3, 0.2])
    # ε = 4 cuts off at 5 alone: 2 and ½ stay.
    assert stable_drl(score, old, one(0.5, -0.5), clip=4.0).item() == pytest.approx(-(0.8 * 0.5 * -1 - 0.2 * 0.5 * -3))


def test_trace_rl_and_agrpo_worked_by_hand():
    """One rollout of two steps, ρ = 1.5 and 1, A = 1, ε = 0.2: gains 1.2 and 1; the mean, and twice one of them for each draw of R = 1."""
    step, A = torch.tensor([[[0, 1]]]), torch.tensor([[1.0]])
    scores = torch.diag(torch.tensor([1.5, 1.0]).log())[None, None]
    path = path_masks(step, 2)
    assert clip_loss(scores, 0 * scores, None, path.target, A, clip=0.2, kl=0.0).item() == pytest.approx(-1.1)
    for u, j, gain in ((0.25, 0, 1.2), (0.75, 1, 1.0)):
        masks, row = path_steps_from_uniforms(step, 2, torch.tensor([[[u]]])), scores[:, :, j : j + 1]
        assert torch.equal(masks.target[0, 0, 0], step[0, 0] == j)
        assert agrpo(row, 0 * row, None, masks, A, clip=0.2, kl=0.0).item() == pytest.approx(-2 * gain)


def test_trajectory_balance_worked_by_hand():
    """r/α = ln 4, 0, ln 2 and p_old = p_ref: Ẑ of the others (1 + 2)/2, (4 + 2)/2, (4 + 1)/2; with p_θ = p_ref too, three residuals."""
    reward = 0.5 * one(4.0, 1.0, 2.0).log()
    log_z = log_normaliser(torch.zeros(1, 3), reward, 0.5)
    assert log_z.exp().flatten().tolist() == pytest.approx([1.5, 3.0, 2.5])
    residuals = [math.log(x) for x in (1.5 / 4, 3.0, 2.5 / 2)]
    loss = trajectory_balance(torch.zeros(1, 3), log_z, reward, 0.5)
    assert loss.item() == pytest.approx(sum(x**2 for x in residuals) / 3)


# What is claimed of them, summed over everything that can be drawn.


def test_k2_has_the_gradient_of_the_kl_that_it_should_and_k3_that_of_the_other_one():
    """On rollouts of p_θ, over three symbols; the value of k3 is right on average."""
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    logits = torch.tensor([0.0, 1.0, -1.0], dtype=torch.float64, requires_grad=True)
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    forward, reverse = (p * (log_p - ref.log())).sum(), (ref * (ref.log() - log_p)).sum()

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    estimates = {k: (p.detach() * k(log_p - ref.log())).sum() for k in (k2, k3)}
    torch.testing.assert_close(gradient(estimates[k2]), gradient(forward))
    torch.testing.assert_close(gradient(estimates[k3]), gradient(reverse))
    assert estimates[k3].item() == pytest.approx(forward.item())
    assert (gradient(forward) - gradient(reverse)).abs().max() > 0.02


@pytest.mark.parametrize(
    ("name", "times", "options"),
    [
        ("spg", 1 / 4, {"masks": "path"}),
        ("espo", 1 / 4, {"masks": "path"}),
        ("stable_drl", 1 / 4, {"masks": "path"}),
        ("gdsd", 1 / 2, {"masks": "path"}),
        ("agrpo", 1 / 2, {}),
    ],
)
def test_the_first_gradient_of_a_round_is_that_of_reinforce(name, times, options):
    """Over all pairs of rollouts of p_θ: (N−1)/N = ½ because A has its own reward in its mean, 1/L = ½, and 2ψ for gdsd."""
    table = random_table(0)
    wanted = expected_gradient("reinforce", table, table, table)
    torch.testing.assert_close(expected_gradient(name, table, table, table, **options), times * wanted, rtol=1e-6, atol=1e-9)


def test_espo_along_the_path_with_k2_is_stationary_at_p_star_of_another_temperature():
    """α = β N/(N−1) = 2β for pairs, and not α = β; p_ref does not depend on the order here."""
    both = torch.tensor([[0.3, -0.4]], dtype=torch.float64).log_softmax(-1).T + torch.tensor([[1.0, 0.2]]).double().log_softmax(-1)
    ref, beta = table_of(both.expand(2, 2, 2)), 0.3
    at = {alpha: table_of(order_tilted(log_joint(ref), alpha)) for alpha in (beta, 2 * beta)}
    size = {alpha: expected_gradient("espo", t, t, ref, kl=beta, masks="path").abs().max().item() for alpha, t in at.items()}
    assert size[2 * beta] < 1e-9 and size[beta] > 1e-3


def test_agrpo_over_all_draws_of_steps_is_the_sum_along_the_path_clipped_or_not():
    """Three tokens, R = 1 and 2, stale rollouts: the loss and its gradient."""
    rollout, model = make_rollout(make_prompts("12|_3__"), N), tiny_model(3)
    A = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)

    def loss_on(masks):
        now, old, ref = (token_log_prob(m, rollout, masks, VOCABULARY) for m in (model, tiny_model(7), tiny_model(8)))
        return agrpo(now, old.detach(), ref.detach(), masks, A, clip=0.2, kl=0.3)

    def with_gradient(loss):
        return torch.cat([loss.detach().view(1), *(g.flatten() for g in torch.autograd.grad(loss, list(model.parameters())))])

    whole = with_gradient(loss_on(path_masks(rollout.step, 3)))
    for draws in ([(u / 3 + 0.1,) for u in range(3)], [(0.5, u / 2 + 0.1) for u in range(2)]):
        parts = [with_gradient(loss_on(path_steps_from_uniforms(rollout.step, 3, torch.tensor([[u] * N]).double()))) for u in draws]
        torch.testing.assert_close(torch.stack(parts).mean(dim=0), whole, rtol=1e-9, atol=1e-9)


def test_coupled_masks_score_every_token_once_in_the_pair_and_its_weights_sum_to_three_halves():
    """Over all S of three tokens, at several t: each position is in the first mask and in one of the two others."""
    scores = torch.full((1, 1, 3, 3), -1.0, dtype=torch.float64)
    for u in (0.0, 0.3, 0.999):
        t, mean = 0.2 + 0.6 * u, torch.zeros(3, dtype=torch.float64)
        for bits in product([False, True], repeat=3):
            position_u = torch.tensor([[[t - 1e-9 if chosen else t + 1e-9 for chosen in bits]]], dtype=torch.float64)
            masks = complementary_masks(torch.ones(1, 1, 3, dtype=torch.bool), torch.tensor([[u]], dtype=torch.float64), position_u)
            assert masks.hidden[0, 0, 0].all() and torch.equal(masks.hidden[0, 0, 1], torch.tensor(bits))
            assert torch.equal(masks.hidden[0, 0, 1], ~masks.hidden[0, 0, 2])
            log_prob = couple(scores * masks.target, masks).flatten()
            assert ((log_prob <= -1.124) & (log_prob >= -3.001)).all()
            mean += t ** sum(bits) * (1 - t) ** (3 - sum(bits)) * log_prob
        torch.testing.assert_close(mean, torch.full((3,), -1.5, dtype=torch.float64))


def bounds_of(log_pi: torch.Tensor, b: float) -> tuple[float, float, float]:
    """ELBO, log p(o) and EUBO of an answer of two tokens, from log π [token, before or after the other]: all masks, m ~ U{1, 2}."""
    hidden = torch.tensor([[True, False], [False, True], [True, True]])[None, None]
    masks = Masks(hidden, hidden, torch.full((1, 1, 3), 1.5, dtype=torch.float64))  # 3 · (¼, ¼, ½) · L/m
    scores = torch.stack([log_pi[0, 1], log_pi[1, 1], log_pi[0, 0], log_pi[1, 0]])
    rows = torch.stack([scores[[0, 0]], scores[[1, 1]], scores[[2, 3]]])[None, None] * hidden
    log_p = torch.stack([log_pi[0, 0] + log_pi[1, 1], log_pi[1, 0] + log_pi[0, 1]]).logsumexp(dim=0) - math.log(2)
    return sequence_log_prob(rows, masks).item(), log_p.item(), 2 * upper_bound(rows, masks, exponent=b).item()


def test_the_upper_bound_of_spg_is_one_where_orders_agree_and_need_not_be_one_elsewhere():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # a joint distribution of two tokens: its conditionals agree
        joint = torch.rand(2, 2, generator=generator, dtype=torch.float64)
        joint = joint / joint.sum()
        first, second, both = joint.sum(dim=1)[0], joint.sum(dim=0)[0], joint[0, 0]
        for b in (1.0, 1.5, 3.0):
            lower, exact, upper = bounds_of(torch.stack([first, both / second, second, both / first]).log().view(2, 2), b)
            assert lower == pytest.approx(exact) and upper >= exact - 1e-12
    orders = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
    lower, exact, upper = bounds_of(orders, 1.0)
    assert math.exp(exact) == pytest.approx(0.41) and math.exp(upper) == pytest.approx(0.25) and lower < upper < exact
    assert bounds_of(orders, 1.5)[2] < exact


def test_from_one_mask_the_upper_bound_of_spg_has_the_gradient_of_the_elbo():
    objective, experience, masks, _ = make_case("spg, one mask")
    scores = token_log_prob(tiny_model(3), experience.rollout, masks, VOCABULARY).detach().requires_grad_()
    length = torch.tensor(LENGTH)[:, None]
    lower, upper = sequence_log_prob(scores, masks) / length, upper_bound(scores, masks, exponent=1.5)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), scores)[0] * masks.target for x in (lower, upper)))
    torch.testing.assert_close(upper - lower, masks.weight[..., 0].log() / 1.5)


def test_where_each_position_is_scored_once_the_upper_bound_of_spg_pulls_all_alike():
    """1/L, for any policy: (1/L) (1/b) log(weight · π^b / R) has no other derivative in log π."""
    _, experience, _, _ = make_case("spg")
    masks = draw_masks("antithetic", experience.rollout.response_mask, 2, streams())
    for seed in (3, 4):
        scores = token_log_prob(tiny_model(seed), experience.rollout, masks, VOCABULARY).detach().requires_grad_()
        (found,) = torch.autograd.grad(upper_bound(scores, masks, exponent=1.5).sum(), scores)
        each = (found * masks.target).sum(dim=2)
        torch.testing.assert_close(each, experience.rollout.response_mask / torch.tensor(LENGTH)[:, None, None], check_dtype=False)


def test_along_the_path_both_bounds_of_spg_are_the_exact_log_probability():
    rollout = make_rollout(make_prompts("12|_3__", "4|_1__"), N)
    masks = path_masks(rollout.step, 3)
    scores = token_log_prob(tiny_model(3), rollout, masks, VOCABULARY).detach()
    torch.testing.assert_close(upper_bound(scores, masks, exponent=1.5), sequence_log_prob(scores, masks) / 3)


def test_trajectory_balance_at_the_best_log_z_of_each_group_is_the_log_variance():
    generator = torch.Generator().manual_seed(0)
    log_ratio, reward = (torch.randn(2, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    best = (reward / ALPHA - log_ratio).mean(dim=-1, keepdim=True)
    value = trajectory_balance(log_ratio, best, reward, ALPHA)
    assert value.item() == pytest.approx(4 / 5 * log_variance(log_ratio, reward, ALPHA).item())
    assert trajectory_balance(log_ratio, best + 0.1, reward, ALPHA) > value < trajectory_balance(log_ratio, best - 0.1, reward, ALPHA)


def test_the_first_gradient_of_trajectory_balance_is_that_of_reinforce_with_a_kl_and_later_its_noise_matters():
    """2/α times, over all pairs; stale rollouts move it away from p*, where log-variance stays."""
    both = torch.tensor([[0.3, -0.4]], dtype=torch.float64).log_softmax(-1).T + torch.tensor([[1.0, 0.2]]).double().log_softmax(-1)
    consistent = table_of(both.expand(2, 2, 2))
    table, ref = random_table(0), random_table(1)
    wanted = 2 / ALPHA * expected_gradient("reinforce", table, table, ref, kl=ALPHA)
    torch.testing.assert_close(expected_gradient("trajectory_balance", table, table, ref), wanted, rtol=1e-6, atol=1e-9)
    p_star = table_of(order_tilted(log_joint(consistent), ALPHA))
    assert expected_gradient("trajectory_balance", p_star, p_star, consistent).abs().max() < 1e-9
    assert expected_gradient("trajectory_balance", p_star, table, consistent).abs().max() > 1e-2
    assert expected_gradient("log_variance", p_star, table, consistent).abs().max() < 1e-9
