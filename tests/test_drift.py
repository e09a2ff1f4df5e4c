"""Many steps on groups of rollouts: against all ordered groups, one round by hand, and the library's own training loop."""

from itertools import product

import numpy as np
import pytest
import torch

from dmpo_ref.masking import stream
from toy.drift import descend, divergence, expected_path, expected_step, lost, noisy_fit, simulate
from toy.worlds.mixture import TabularPolicy, draw_cells, fit_forward, make_world

REWARD = np.array([0.0, 1.0, 0.4])
P_OLD, P_THETA = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])


def numpy_step(group, p_theta):
    """Σ_n w_n (e_{x_n} − p_θ), w = softmax(r): minus the gradient of the weighted cross-entropy in the logits."""
    weight = np.exp(REWARD[group])
    weight /= weight.sum()
    return sum(w * (np.eye(3)[x] - p_theta) for w, x in zip(weight, group, strict=True))


def step(groups, log_theta, log_old):
    """The same for many groups and policies."""
    rows = [numpy_step(group, p) for group, p in zip(groups.tolist(), log_theta.exp().numpy(), strict=True)]
    return torch.tensor(np.array(rows))


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)


def test_steps_on_one_group_by_hand():
    p = P_OLD
    for _ in range(3):
        p = softmax(np.log(p) + 0.7 * numpy_step([0, 0, 2], p))
    old = torch.from_numpy(np.log([P_OLD, P_THETA]))
    found = descend(step, torch.tensor([[0, 0, 2], [1, 1, 1]]), old, steps=3, rate=0.7)
    np.testing.assert_allclose(found[0].exp(), p, rtol=1e-12)
    assert found[1, 1] > old[1, 1]  # the other group has a policy of its own, and answer 1 alone in it
    assert torch.equal(descend(step, torch.tensor([[0], [1]]), old, steps=0, rate=1.0), old)


def test_the_old_policy_stays_while_the_new_one_moves():
    seen = []
    watch = lambda groups, log_theta, log_old: seen.append((log_theta, log_old)) or step(groups, log_theta, log_old)  # noqa: E731
    old = torch.from_numpy(np.log(P_OLD))[None]
    end = descend(watch, torch.tensor([[0, 2]]), old, steps=3, rate=0.5)
    assert all(torch.equal(log_old, old) for _, log_old in seen)
    distances = [(log_theta - old).abs().max().item() for log_theta, _ in seen]
    assert distances[0] == 0 < distances[1] < distances[2] < (end - old).abs().max().item()


def test_the_expected_step_is_the_mean_over_all_ordered_groups_of_the_old_policy():
    groups = [list(group) for group in product(range(3), repeat=4)]
    chance = np.array([P_OLD[group].prod() for group in groups])
    steps = np.array([numpy_step(group, P_THETA) for group in groups])
    mean, variance = expected_step(step, 4, torch.from_numpy(np.log(P_THETA)), torch.from_numpy(np.log(P_OLD)))
    np.testing.assert_allclose(mean, chance @ steps, rtol=1e-12)
    np.testing.assert_allclose(variance, chance @ (steps - chance @ steps) ** 2, rtol=1e-12)


def test_the_expected_path_follows_the_policy():
    """With N = 1 the only rollout has weight 1, so the expected step at p_θ = p_old is 0; with N = 2, two steps by all nine pairs."""
    start = torch.from_numpy(np.log(P_OLD))
    torch.testing.assert_close(expected_path(step, 1, start, steps=5), start, rtol=0, atol=1e-14)
    p = P_OLD
    for _ in range(2):
        pairs = list(product(range(3), repeat=2))
        p = softmax(np.log(p) + 0.2 * sum(p[i] * p[j] * numpy_step([i, j], p) for i, j in pairs))
    np.testing.assert_allclose(expected_path(step, 2, start, steps=2).exp(), p, rtol=1e-12)


def test_runs_take_fresh_groups_of_their_own_policy_in_each_round():
    seen = []
    watch = lambda groups, log_theta, log_old: seen.append((groups, log_old)) or step(groups, log_theta, log_old)  # noqa: E731
    history = simulate(watch, 5, torch.from_numpy(np.log(P_OLD)), rounds=3, steps=2, runs=200)
    assert history.shape == (4, 200, 3) and len(seen) == 6
    np.testing.assert_allclose(history.exp().sum(dim=-1), np.ones((4, 200)), rtol=1e-12)
    np.testing.assert_allclose(history[0].exp(), np.tile(P_OLD, (200, 1)), rtol=1e-12)
    for k, (groups, log_old) in enumerate(seen):
        assert groups.shape == (200, 5) and torch.equal(log_old, history[k // 2]) and torch.equal(groups, seen[k // 2 * 2][0])
        torch.testing.assert_close(history[k // 2 + 1], descend(step, groups, log_old, steps=2, rate=1.0))
    share = torch.bincount(seen[0][0].flatten(), minlength=3) / 1000
    assert (share - torch.from_numpy(P_OLD)).abs().max() < 4 * (0.25 / 1000) ** 0.5
    assert not torch.equal(seen[0][0], seen[2][0])
    assert torch.equal(history, simulate(step, 5, history[0, 0], rounds=3, steps=2, runs=200))
    assert not torch.equal(history, simulate(step, 5, history[0, 0], rounds=3, steps=2, runs=200, seed=1))


def test_divergence_and_lost_answers_of_many_policies():
    policies = np.array([P_OLD, P_THETA, [0.94, 0.05, 0.01], [0.94, 0.029, 0.031]])
    log_target, log_p = torch.from_numpy(np.log(P_OLD)), torch.from_numpy(np.log(policies))
    expected = (P_OLD * np.log(P_OLD / policies)).sum(axis=-1)
    np.testing.assert_allclose(divergence(log_target, log_p.view(2, 2, 3)).flatten(), expected, rtol=1e-12, atol=1e-15)
    assert divergence(log_target, log_target + 1e-17) >= 0
    assert lost(log_target, log_p) == 0.5  # 0.01 is less than a tenth of 0.2, 0.029 less than a tenth of 0.3


LINE = make_world(12, ([[0.0]], 2.0, [1.0]), ([[-2.0], [2.0]], 0.6, [1.0, 1.5]), 1.0)


@pytest.mark.parametrize("baseline", ["none", "uniform", "negative"])
def test_without_noise_a_noisy_fit_is_the_fit(baseline):
    policy = TabularPolicy(LINE)
    history = fit_forward(LINE, policy, num_rollouts=8, rounds=5, baseline=baseline, learning_rate=0.03, seed=2)
    found = noisy_fit(LINE, baseline, noise=0.0, optimizer=torch.optim.Adam, rate=0.03, rounds=5, seed=2, num_rollouts=8)
    assert found == pytest.approx(history.forward_kl[-1], rel=1e-12)


def test_noise_multiplies_each_log_likelihood_anew_in_every_step():
    """One round of plain descent in numpy, with the same random numbers: z ← z + η Σ_n w_n (1 + ν ξ_n) (e_{x_n} − p)."""
    log_p, xi = LINE.log_ref.numpy(), stream(3, "noise")
    cells = draw_cells(LINE.log_ref, (1, 6), stream(3, "rollout", 0))[0].numpy()
    weight = softmax(LINE.reward.numpy()[cells]) - 1 / 6
    for _ in range(4):
        factor = 1 + 2.0 * torch.randn(1, 6, dtype=torch.float64, generator=xi)[0].numpy()
        p = softmax(log_p)
        log_p = log_p + 0.5 * sum(w * f * (np.eye(12)[x] - p) for w, f, x in zip(weight, factor, cells, strict=True))
    target = LINE.log_target.exp().numpy()
    expected = (target * np.log(target / softmax(log_p))).sum()
    found = noisy_fit(LINE, "uniform", noise=2.0, optimizer=torch.optim.SGD, rate=0.5, rounds=1, seed=3, num_rollouts=6)
    assert found == pytest.approx(expected, rel=1e-10)
