"""Where KL-regularised objectives along the path have their optimum: not at p*, nor at E_σ[p_ref(o;σ) e^{r/α} / Z(σ)]."""

import math

import pytest
import torch

from dmpo_ref.objectives.log_variance import log_variance
from toy.oracle import kl_divergence
from toy.studies.objectives import along_orders, every_state, order_target, regularised_optimum


def problem(n: int, seed: int):
    """Binary conditionals π_ref(x_d | x_S) and rewards at random: log π_ref [3^n, n, 2], the states, r [2^n]."""
    draw = torch.Generator().manual_seed(seed)
    states = every_state(n, 2)
    log_ref = torch.randn(3**n, n, 2, generator=draw, dtype=torch.float64).log_softmax(dim=-1)
    return log_ref, states, torch.rand(2**n, generator=draw, dtype=torch.float64)


def mean_over_orders(log_path):
    return log_path.logsumexp(dim=0) - math.log(len(log_path))


def targets(log_ref, states, reward, alpha):
    """log p* and log E_σ[…], over the answers."""
    by_order = along_orders(log_ref, states)
    return (mean_over_orders(by_order) + reward / alpha).log_softmax(dim=-1), order_target(by_order, reward, alpha)


def regularised_reward(log_pi, log_ref, states, reward, alpha):
    """E_{σ,o}[r − α (log p_θ − log p_ref)] as a sum over every order and every answer."""
    log_p = along_orders(log_pi, states)
    return (log_p.exp() / len(log_p) * (reward - alpha * (log_p - along_orders(log_ref, states)))).sum()


def optimum_by_descent(log_ref, states, reward, alpha):
    """The same optimum without its formula: L-BFGS on the logits."""
    logits = torch.zeros_like(log_ref).requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-15, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = -regularised_reward(logits.log_softmax(dim=-1), log_ref, states, reward, alpha)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.grad.abs().max() < 1e-7
    return logits.detach().log_softmax(dim=-1)


@pytest.mark.parametrize("seed", range(4))
def test_with_three_positions_the_optimum_is_neither_p_star_nor_the_mean_of_tilted_orders(seed):
    log_ref, states, reward = problem(3, seed)
    log_target, log_order_target = targets(log_ref, states, reward, 0.2)
    found = optimum_by_descent(log_ref, states, reward, 0.2)
    formula = regularised_optimum(log_ref, states, reward, 0.2)
    value, value_by_formula = (regularised_reward(pi, log_ref, states, reward, 0.2).item() for pi in (found, formula))
    assert value_by_formula == pytest.approx(value, abs=1e-9)
    log_p, by_formula = (mean_over_orders(along_orders(pi, states)) for pi in (found, formula))
    torch.testing.assert_close(log_p.exp(), by_formula.exp(), rtol=0, atol=1e-5)
    to_orders, to_target = kl_divergence(log_order_target, log_p), kl_divergence(log_target, log_p)
    assert 2e-4 < to_orders < 2e-3 < to_target < 6e-2  # nearer to the mean of the tilted orders than to p*, at neither


def test_with_two_positions_no_conditional_is_shared_and_the_optimum_is_the_mean_of_the_tilted_orders():
    log_ref, states, reward = problem(2, 0)
    log_target, log_order_target = targets(log_ref, states, reward, 0.2)
    log_p = mean_over_orders(along_orders(regularised_optimum(log_ref, states, reward, 0.2), states))
    torch.testing.assert_close(log_p, log_order_target, rtol=0, atol=1e-12)
    assert kl_divergence(log_target, log_p) > 1e-3


def test_where_the_reference_does_not_depend_on_the_order_the_optimum_is_p_star():
    """Conditionals of one joint distribution over three positions; then the log-variance is 0 there too, on any rollouts."""
    _, states, reward = problem(3, 0)
    joint = torch.randn(8, generator=torch.Generator().manual_seed(9), dtype=torch.float64).softmax(dim=-1)
    answers, log_ref = states[(states > 0).all(dim=-1)], torch.zeros(27, 3, 2, dtype=torch.float64)
    agrees = ((states.unsqueeze(1) == 0) | (states.unsqueeze(1) == answers)).all(dim=-1).double()  # [27, 8]
    for a in (1, 2):
        log_ref[..., a - 1] = torch.stack([(agrees * (answers[:, d] == a)) @ joint for d in range(3)], dim=1).log()
    log_ref = torch.where((states == 0).unsqueeze(-1), log_ref.log_softmax(dim=-1), 0.0)
    log_target, log_order_target = targets(log_ref, states, reward, 0.2)
    by_order = along_orders(regularised_optimum(log_ref, states, reward, 0.2), states)
    torch.testing.assert_close(by_order, log_target.expand(6, 8), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_order_target, log_target, rtol=0, atol=1e-12)
    assert log_variance(by_order - along_orders(log_ref, states), reward.expand(6, 8), 0.2) < 1e-20
