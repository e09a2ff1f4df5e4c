"""Gaussian mixtures on a grid: everything is a finite sum, so everything is checked against one."""

from itertools import product

import numpy as np
import pytest
import torch

from dmpo_ref.losses import wdce
from dmpo_ref.weights import log_weights, model_baseline, target_weights
from toy.studies.baselines import baseline_study, main, table
from toy.worlds.mixture import (
    GaussianMixturePolicy,
    TabularPolicy,
    World,
    fit,
    fit_forward,
    fit_reverse,
    forward_objective,
    one_gaussian,
    reverse_objective,
    two_modes,
    world_1d,
    world_2d,
)


def numpy_target(world: World) -> np.ndarray:
    """p* by its definition, without logarithms."""
    p = np.exp(world.log_ref.numpy()) * np.exp(world.reward.numpy() / world.alpha)
    return p / p.sum()


@pytest.mark.parametrize("world", [world_1d(), world_2d(), world_1d(32, alpha=0.5)])
def test_the_target_is_the_tilted_reference(world):
    np.testing.assert_allclose(world.log_target.exp().numpy(), numpy_target(world), rtol=1e-12)
    assert world.log_ref.exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_the_reference_is_the_mixture_it_claims_to_be():
    """Density of 0.55 N(−2, 2²) + 0.45 N(2, 2²), renormalised over the cells."""
    world = world_1d()
    x = world.points[:, 0].numpy()
    density = 0.55 * np.exp(-((x + 2) ** 2) / 8) + 0.45 * np.exp(-((x - 2) ** 2) / 8)
    np.testing.assert_allclose(world.log_ref.exp().numpy(), density / density.sum(), rtol=1e-12)


@pytest.mark.parametrize(("world", "modes"), [(world_1d(), 4), (world_2d(), 5)])
def test_the_target_has_the_modes_it_claims_and_each_has_its_share(world, modes):
    shares = world.mode_mass(world.log_target)
    assert len(shares) == modes
    assert shares.sum().item() == pytest.approx(1)
    assert shares.min().item() > 0.5 / modes


def test_a_cell_belongs_to_the_mode_at_the_smallest_distance():
    world = world_2d(6)
    squared = ((world.points[:, None].numpy() - world.modes.numpy()) ** 2).sum(axis=-1)
    chosen = squared[range(36), world.nearest.numpy()]
    np.testing.assert_allclose(chosen, squared.min(axis=1))
    assert set(world.nearest.tolist()) == set(range(5))


def test_a_policy_that_is_the_target_on_some_modes_has_their_ratios_and_pays_minus_log_of_their_share():
    world = world_2d(16)
    kept = torch.tensor([True, False, True, True, False])
    share = sum(numpy_target(world)[i] for i, mode in enumerate(world.nearest.tolist()) if kept[mode])
    log_prob = world.log_target.masked_fill(~kept[world.nearest], -torch.inf).log_softmax(dim=0)
    np.testing.assert_allclose(world.mode_ratios(log_prob), np.where(kept, 1 / share, 0), rtol=1e-12)
    policy = TabularPolicy(world, log_prob.clamp(min=-1e3))
    history = fit_reverse(world, policy, rounds=0)
    assert history.reverse_kl == [pytest.approx(-np.log(share))]


@pytest.mark.parametrize(("distance", "alpha", "heights"), [(1.0, 1.0, (1.0, 1.0)), (2.5, 0.5, (1.0, 3.0))])
def test_two_modes_on_a_line(distance, alpha, heights):
    """p* ∝ N(0, 3²) · (h₁ e^{−(x+d)²/2·0.6²} + h₂ e^{−(x−d)²/2·0.6²})^{1/α}"""
    world = two_modes(distance, alpha=alpha, heights=heights)
    x = np.linspace(-6, 6, 96)
    bumps = sum(h * np.exp(-((x - c) ** 2) / 0.72) for h, c in zip(heights, (-distance, distance), strict=True))
    p = np.exp(-(x**2) / 18) * bumps ** (1 / alpha)
    np.testing.assert_allclose(world.log_target.exp(), p / p.sum(), rtol=1e-9)
    assert world.modes.flatten().tolist() == [-distance, distance]


def test_one_gaussian_starts_where_it_is_put():
    world = two_modes(1.0)
    x = world.points[:, 0].numpy()
    p = np.exp(-((x - 0.7) ** 2) / (2 * 1.3**2))
    np.testing.assert_allclose(one_gaussian(world, 0.7, 1.3).log_prob().exp().detach(), p / p.sum(), rtol=1e-12)
    plane = world_2d(8)
    squared = ((plane.points.numpy() - 0.5) ** 2).sum(axis=1)
    p = np.exp(-squared / 8)
    np.testing.assert_allclose(one_gaussian(plane, 0.5, 2.0).log_prob().exp().detach(), p / p.sum(), rtol=1e-12)


def test_a_fit_takes_gradient_steps_and_keeps_every_second_distribution_and_the_last():
    """The gradient of the forward objective in the logits is p_θ − p*."""
    world = world_1d(8)
    logits = torch.linspace(-1, 2, 8, dtype=torch.float64)
    film = fit(world, TabularPolicy(world, logits), forward_objective, steps=5, learning_rate=0.4, every=2, method=torch.optim.SGD)
    z, seen = np.linspace(-1, 2, 8), []
    for _ in range(6):
        p = np.exp(z) / np.exp(z).sum()
        seen.append(p)
        z = z - 0.4 * (p - numpy_target(world))
    np.testing.assert_allclose(torch.stack(film).exp(), [seen[0], seen[2], seen[4], seen[5]], rtol=1e-12)
    assert logits.tolist() == torch.linspace(-1, 2, 8, dtype=torch.float64).tolist(), "the start that was given has not moved"
    assert len(fit(world, TabularPolicy(world), reverse_objective, steps=5)) == 2


def test_the_forward_objective_is_the_divergence_and_the_entropy_of_the_target():
    world = world_1d(16)
    q = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    p = numpy_target(world)
    expected = (p * (np.log(p) - q.numpy())).sum() - (p * np.log(p)).sum()
    assert forward_objective(world, q).item() == pytest.approx(expected, rel=1e-12)


def test_the_recorded_divergences_are_those_of_numpy():
    world = world_1d(16)
    history = fit_reverse(world, TabularPolicy(world), rounds=0)
    p, q = numpy_target(world), np.exp(world.log_ref.numpy())
    assert history.forward_kl == [pytest.approx((p * np.log(p / q)).sum(), rel=1e-10)]
    assert history.reverse_kl == [pytest.approx((q * np.log(q / p)).sum(), rel=1e-10)]
    assert history.reward == [pytest.approx((q * world.reward.numpy()).sum(), rel=1e-10)]


@pytest.mark.parametrize("build", [TabularPolicy, lambda world: GaussianMixturePolicy(world, 2)])
def test_the_gradient_of_the_reverse_objective_equals_finite_differences(build):
    world = world_1d(12)
    policy = build(world)
    reverse_objective(world, policy.log_prob()).backward()
    for parameter in policy.parameters():
        flat, gradient, h = parameter.data.view(-1), parameter.grad.view(-1), 1e-5
        for i in range(len(flat)):
            with torch.no_grad():
                flat[i] += h
                above = reverse_objective(world, policy.log_prob()).item()
                flat[i] -= 2 * h
                below = reverse_objective(world, policy.log_prob()).item()
                flat[i] += h
            assert gradient[i].item() == pytest.approx((above - below) / (2 * h), abs=1e-6)


def test_the_reverse_objective_is_the_divergence_up_to_log_z():
    world = world_1d(16)
    q = torch.randn(16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).log_softmax(0)
    log_z = np.log((np.exp(world.log_ref.numpy()) * np.exp(world.reward.numpy())).sum())
    p = numpy_target(world)
    divergence = (q.exp().numpy() * (q.numpy() - np.log(p))).sum()
    assert reverse_objective(world, q).item() == pytest.approx(divergence - log_z, rel=1e-10)


@pytest.mark.parametrize("baseline", ["uniform", "model"])
def test_at_the_target_a_centred_weight_moves_nothing(baseline):
    """With p_old = p*, ℓ is the same for every sample, so w = 1/N = w_base, for `model` too in the first step.

    One step only: Adam divides by the size of the gradient, so that rounding errors grow from step to step.
    """
    world = world_1d()
    policy = TabularPolicy(world)
    policy.logits.data.copy_(world.log_target)
    fit_forward(world, policy, num_rollouts=8, rounds=1, steps_per_round=1, baseline=baseline)
    torch.testing.assert_close(policy.log_prob().detach(), world.log_target, rtol=0, atol=1e-8)


def test_at_the_target_the_bare_weight_does_move():
    world = world_1d()
    policy = TabularPolicy(world)
    policy.logits.data.copy_(world.log_target)
    history = fit_forward(world, policy, num_rollouts=4, rounds=10, baseline="none")
    assert history.forward_kl[0] == pytest.approx(0, abs=1e-12)
    assert history.forward_kl[-1] > 0.01


def expected_gradient(log_theta, log_old, log_ref, reward, N, baseline):
    """Gradient in the logits, averaged over every one of the C^N groups of rollouts with its probability under p_old."""
    logits, total = log_theta.clone().requires_grad_(), 0.0
    for cells in product(range(len(log_old)), repeat=N):
        index = torch.tensor([cells])
        weight = target_weights(log_weights(reward[index], (log_ref - log_old)[index], alpha=1.0))
        log_policy = logits.log_softmax(0)[index]
        if baseline == "model":
            weight = weight - model_baseline(log_policy, log_old[index])
        total = total + log_old[index].sum().exp() * wdce(log_policy, weight)
    return torch.autograd.grad(total, logits)[0]


def test_the_model_baseline_changes_the_expected_gradient_by_one_over_n():
    rng = torch.Generator().manual_seed(1)
    log_theta, log_old, log_ref = (torch.randn(3, dtype=torch.float64, generator=rng).log_softmax(0) for _ in range(3))
    reward = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    gaps = []
    for N in (2, 4, 8):
        bare, centred = (expected_gradient(log_theta, log_old, log_ref, reward, N, b) for b in ("none", "model"))
        gaps.append((bare - centred).norm().item() * N)
    assert gaps[0] > 0
    assert max(gaps) < 2 * min(gaps)  # the difference itself shrinks like 1/N


def test_forward_covers_every_mode_and_reverse_gives_some_up():
    world = world_1d()
    forward, reverse = (GaussianMixturePolicy(world, num_components=2) for _ in range(2))
    fit_forward(world, forward, num_rollouts=16, groups=16, baseline="uniform", rounds=60, learning_rate=0.05)
    fit_reverse(world, reverse, rounds=100, learning_rate=0.05)
    target = world.mode_mass(world.log_target)
    covered, sought = (world.mode_mass(policy.log_prob()) / target for policy in (forward, reverse))
    assert covered.min().item() > 0.5
    assert (sought < 0.05).sum().item() == 2


def test_the_centred_baselines_help_in_one_dimension():
    """The claim of the README with margin: at N = 8, `uniform` and `model` at least halve the divergence of `none`."""
    rows = baseline_study(num_rollouts=(8,), seeds=range(3))
    kl = {b: np.mean([r["kl"] for r in rows if r["baseline"] == b]) for b in ("none", "uniform", "model", "negative")}
    assert kl["uniform"] < kl["none"] / 2
    assert kl["model"] < kl["none"] / 2
    assert kl["negative"] > 2 * kl["uniform"]


def test_equal_seeds_give_equal_fits_and_other_seeds_others():
    world = world_1d()
    ends = [fit_forward(world, TabularPolicy(world), num_rollouts=4, rounds=5, seed=s).forward_kl[-1] for s in (0, 0, 1)]
    assert ends[0] == ends[1] != ends[2]


def test_the_grid_does_not_matter_to_the_probability_of_a_mode():
    coarse, fine = (world_1d(num_bins) for num_bins in (64, 256))
    torch.testing.assert_close(coarse.mode_mass(coarse.log_target), fine.mode_mass(fine.log_target), rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: world_1d(alpha=0.0), "alpha=0.0: the temperature"),
        (lambda: world_1d(1), "num_bins=1"),
        (lambda: GaussianMixturePolicy(world_1d(), 0), "num_components=0"),
        (lambda: fit_forward(world_1d(), TabularPolicy(world_1d()), num_rollouts=1), "num_rollouts=1"),
        (lambda: fit_forward(world_1d(), TabularPolicy(world_1d()), num_rollouts=4, baseline="best"), "baseline='best'"),
    ],
)
def test_bad_input_is_one_line(attempt, message):
    with pytest.raises(ValueError, match=message) as caught:
        attempt()
    assert "\n" not in str(caught.value)


def test_the_table_of_the_baselines_has_mean_and_deviation_over_the_seeds():
    rows = [{"baseline": "none", "N": 4, "seed": seed, "kl": kl, "reward": 0.5} for seed, kl in enumerate((1.0, 2.0, 3.0))]
    found = table(rows)
    assert found.headers == ["baseline", "N", "KL(p*||p_theta), nats", "E[r]"]
    assert found.rows == [["none", "4", "2.000 ± 1.000", "0.500"]]


def test_the_command_of_the_baselines_prints_its_table_and_draws_its_figure(tmp_path, monkeypatch, capsys):
    quick = {"num_rollouts": (4,), "seeds": range(2), "rounds": 2}
    monkeypatch.setattr("toy.studies.baselines.baseline_study", lambda world, **fit: baseline_study(world, **quick, **fit))
    main(["--output", str(tmp_path / "deep" / "figure.png")])
    printed = capsys.readouterr().out
    assert all(f"{baseline}" in printed for baseline in ("none", "uniform", "negative", "model"))
    assert (tmp_path / "deep" / "figure.png").stat().st_size > 20_000
