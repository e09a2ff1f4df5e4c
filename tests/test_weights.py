"""Rewards to weights: worked cases, numpy in float64, and expectations over every tuple of rollouts."""

import math
from itertools import product

import numpy as np
import pytest
import torch

from dmpo_ref.config import WeightConfig
from dmpo_ref.weights import (
    baseline_weights,
    coefficient_for_ess,
    effective_sample_size,
    group_weights,
    log_weights,
    model_baseline,
    target_weights,
)

REWARD = torch.tensor([[0.0, 1.0, 0.5], [2.0, -1.0, 0.0]])
LOG_RATIO = torch.tensor([[0.3, -0.2, 0.0], [-1.0, 0.7, 0.1]], dtype=torch.float64)
ALPHA = 0.5
TARGETS = ["tilted", "reward_softmax", "reward"]


def softmax(x) -> np.ndarray:
    """Row by row, float64."""
    x = np.exp(np.asarray(x, dtype=np.float64) - np.max(x, axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def assert_equal(actual: torch.Tensor, expected, rtol: float = 1e-12) -> None:
    assert actual.dtype == torch.float64
    np.testing.assert_allclose(actual.numpy(), np.broadcast_to(expected, actual.shape), rtol=rtol, atol=1e-15)


def test_weights_worked_by_hand():
    """r = (0, α ln 2, α ln 3) gives w ∝ 1, 2, 3; a log-ratio of ln 3 on the first makes it 3, 2, 3."""
    reward = torch.tensor([[0.0, 0.2 * math.log(2), 0.2 * math.log(3)]], dtype=torch.float64)
    log_ratio = torch.zeros(1, 3, dtype=torch.float64)
    assert_equal(target_weights(log_weights(reward, log_ratio, alpha=0.2)), [1 / 6, 2 / 6, 3 / 6])
    log_ratio[0, 0] = math.log(3)
    assert_equal(target_weights(log_weights(reward, log_ratio, alpha=0.2)), [3 / 8, 2 / 8, 3 / 8])
    assert_equal(target_weights(log_weights(reward, log_ratio, alpha=0.2), coefficient=0.5), np.sqrt([3, 2, 3]) / np.sqrt([3, 2, 3]).sum())


def test_weights_are_uniform_where_policy_equals_target():
    """If p_old = p_ref e^{r/α} / Z, then log p_ref − log p_old = log Z − r/α and every rollout counts the same."""
    reward = torch.tensor([[0.0, 1.0, 0.3, -2.0]], dtype=torch.float64)
    log_z = 1.7
    weight = target_weights(log_weights(reward, log_z - reward / 0.1, alpha=0.1))
    assert_equal(weight, 1 / 4)
    assert_equal(effective_sample_size(weight), 1.0)


def test_weights_turn_samples_of_p_old_into_samples_of_the_target():
    """With every outcome once and log-ratio log(p_ref / p_old) + log p_old, w is p* itself: p_ref e^{r/α} / Z."""
    p_ref = np.array([0.5, 0.3, 0.15, 0.05])
    reward = np.array([0.0, 1.0, 0.0, 2.0])
    expected = p_ref * np.exp(reward / 0.7)
    weight = target_weights(log_weights(torch.tensor(reward[None]), torch.tensor(np.log(p_ref)[None]), alpha=0.7))
    assert_equal(weight[0], expected / expected.sum())


def expected_log_weight(target: str, sign: int = 1) -> np.ndarray:
    reward, log_ratio = sign * REWARD.double().numpy(), LOG_RATIO.numpy()
    return {"tilted": reward / ALPHA + log_ratio, "reward_softmax": reward, "reward": reward}[target]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("has_ratio", [True, False])
def test_every_target_equals_its_formula(target, has_ratio):
    log_ratio = LOG_RATIO if has_ratio else torch.zeros_like(LOG_RATIO)
    log_weight = log_weights(REWARD, log_ratio, alpha=ALPHA, target=target)
    expected = expected_log_weight(target) - (0 if has_ratio or target != "tilted" else LOG_RATIO.numpy())
    assert_equal(log_weight, expected)
    assert_equal(target_weights(log_weight, target=target), expected if target == "reward" else softmax(expected))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("coefficient", [1.0, torch.tensor([[0.25], [0.5]], dtype=torch.float64)], ids=["c=1", "c_per_prompt"])
def test_every_baseline_equals_its_formula(target, coefficient):
    def base(kind):
        return baseline_weights(kind, REWARD, LOG_RATIO, alpha=ALPHA, coefficient=coefficient, target=target)

    inverted, mean = expected_log_weight(target, sign=-1), REWARD.double().numpy().mean(axis=1, keepdims=True)
    assert_equal(base("none"), 0.0)
    # 1e-7: the next test asks for more.
    assert_equal(base("uniform"), mean if target == "reward" else 1 / 3, rtol=1e-7)
    assert_equal(base("negative"), inverted if target == "reward" else softmax(np.asarray(coefficient) * inverted))


def test_the_uniform_baseline_sums_to_one_in_float64():
    base = baseline_weights("uniform", REWARD, LOG_RATIO, alpha=ALPHA)
    assert_equal(base.sum(dim=-1), 1.0)


def test_the_uniform_baseline_stays_on_the_device_of_the_reward():
    """The meta device stands for an accelerator: it has no numbers, but a device."""
    meta = REWARD.to("meta")
    assert baseline_weights("uniform", meta, meta, alpha=ALPHA).device.type == "meta"


def test_the_negative_baseline_is_the_weight_of_the_inverted_reward():
    """With rewards ±a and no log-ratio it is the weight with the two rollouts swapped."""
    reward, log_ratio = torch.tensor([[0.4, -0.4]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    weight = target_weights(log_weights(reward, log_ratio, alpha=0.3))
    assert_equal(baseline_weights("negative", reward, log_ratio, alpha=0.3), weight.flip(-1).numpy())


@pytest.mark.parametrize("function", ["weight", "uniform", "negative", "coefficient", "model", "ess"])
@pytest.mark.parametrize("target", TARGETS)
def test_rows_never_mix(function, target):
    """Changing one prompt's numbers, however wildly, leaves the other prompt's bits alone."""

    def compute(reward, log_ratio):
        log_weight = log_weights(reward, log_ratio, alpha=ALPHA, target=target)
        if function == "weight":
            return target_weights(log_weight, target=target)
        if function == "coefficient":
            return coefficient_for_ess(log_weight, 0.6)
        if function == "model":
            return model_baseline(log_ratio, reward)
        if function == "ess":
            return effective_sample_size(log_weight.softmax(dim=-1))
        return baseline_weights(function, reward, log_ratio, alpha=ALPHA, target=target)

    wild_reward, wild_ratio = REWARD.clone(), LOG_RATIO.clone()
    wild_reward[1], wild_ratio[1] = torch.tensor([900.0, -30.0, 2.0]), torch.tensor([-700.0, 5.0, 60.0])
    assert torch.equal(compute(REWARD, LOG_RATIO)[0], compute(wild_reward, wild_ratio)[0])


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        ([0.25, 0.25, 0.25, 0.25], 1.0),
        ([0.0, 1.0, 0.0, 0.0], 1 / 4),
        ([0.5, 0.5, 0.0, 0.0], 1 / 2),
        ([0.5, 0.25, 0.25, 0.0], 1 / (4 * (4 + 1 + 1) / 16)),
    ],
)
def test_effective_sample_size_by_hand(weight, expected):
    assert_equal(effective_sample_size(torch.tensor([weight, weight], dtype=torch.float64)), expected)


@pytest.mark.parametrize("wanted", [0.3, 0.5, 0.9, 0.999])
def test_the_coefficient_reaches_the_wanted_ess(wanted):
    """At N = 2 with ℓ = (0, d) the answer is known: Σ w² = (1 + tanh²(cd/2)) / 2, so ESS = 1 / (1 + tanh²(cd/2))."""
    rng = np.random.default_rng(0)
    log_weight = torch.tensor(rng.normal(size=(5, 8)) * 40)
    c = coefficient_for_ess(log_weight, wanted)
    assert c.shape == (5, 1) and ((c > 0) & (c < 1)).all()
    w = softmax((c * log_weight).numpy())
    np.testing.assert_allclose(1 / (8 * (w**2).sum(axis=1)), wanted, rtol=1e-9)
    if wanted > 0.5:
        difference = 6.0
        c = coefficient_for_ess(torch.tensor([[0.0, difference]], dtype=torch.float64), wanted)
        assert c.item() == pytest.approx(2 / difference * math.atanh(math.sqrt(1 / wanted - 1)), rel=1e-9)


def test_the_coefficient_is_one_where_the_weights_are_even_enough():
    log_weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.2], [0.0, 0.0, 90.0], [5.0, 5.0, -800.0]], dtype=torch.float64)
    c = coefficient_for_ess(log_weight, 0.6)
    assert c[[0, 1, 3], 0].tolist() == [1.0, 1.0, 1.0]  # two of three equal: an ESS of 2/3
    assert 0 < c[2] < 1


def test_the_coefficient_and_the_weights_are_finite_for_extreme_log_weights():
    log_weight = torch.tensor([[0.0, 1e6, -1e6, 3.0], [-1e8, -1e8, -1e8, 0.0]], dtype=torch.float64)
    c = coefficient_for_ess(log_weight, 0.5)
    weight = target_weights(log_weight, coefficient=c)
    assert torch.isfinite(c).all() and (c > 0).all()
    assert torch.isfinite(weight).all()
    assert_equal(weight.sum(dim=-1), 1.0)
    assert_equal(effective_sample_size(weight), 0.5, rtol=1e-4)


def test_the_coefficient_also_tempers_the_negative_baseline():
    c = coefficient_for_ess(log_weights(REWARD, LOG_RATIO, alpha=ALPHA), 0.9)
    inverted = -REWARD.double().numpy() / ALPHA + LOG_RATIO.numpy()
    assert_equal(baseline_weights("negative", REWARD, LOG_RATIO, alpha=ALPHA, coefficient=c), softmax(c.numpy() * inverted))


P_OLD = np.array([0.5, 0.3, 0.2])
LOGITS = np.array([0.4, -0.3, 0.2])  # of the current policy p_θ


def expected_baseline_gradient(num_rollouts: int) -> np.ndarray:
    """E over all N-tuples of p_old of Σ_n w_base[n] ∇_logits log p_θ(x_n), exactly."""
    log_policy = LOGITS - np.log(np.exp(LOGITS).sum())
    score = np.eye(3) - np.exp(log_policy)  # row x: the gradient of log p_θ(x)
    tuples = np.array(list(product(range(3), repeat=num_rollouts)))
    w = model_baseline(torch.tensor(log_policy[tuples]), torch.tensor(np.log(P_OLD)[tuples])).numpy()
    probability = P_OLD[tuples].prod(axis=1)
    return np.einsum("t,tn,tnd->d", probability, w, score[tuples])


def test_the_model_baseline_is_the_ratio_of_the_policies():
    log_policy, log_old = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[-2.0, -2.5, -2.0]])
    ratio = np.exp([1.0, -0.5, 0.0])
    assert_equal(model_baseline(log_policy, log_old)[0], ratio / ratio.sum())


def test_the_expected_gradient_of_the_model_baseline_vanishes_like_1_over_n():
    """Self-normalised importance sampling: N × bias tends to −E_{p_old}[ρ² ∇log p_θ], ρ = p_θ / p_old."""
    p = np.exp(LOGITS) / np.exp(LOGITS).sum()
    score = np.eye(3) - p
    limit = -(P_OLD * (p / P_OLD) ** 2) @ score
    bias = {N: expected_baseline_gradient(N) for N in (2, 3, 4, 8)}
    norms = [np.linalg.norm(bias[N]) for N in (2, 3, 4, 8)]
    assert norms == sorted(norms, reverse=True)
    for N, tolerance in ((2, 0.5), (3, 0.35), (4, 0.25), (8, 0.12)):
        np.testing.assert_allclose(N * bias[N], limit, atol=tolerance * np.linalg.norm(limit))
    # Uniform weights 1/N have an expected gradient that no number of rollouts removes.
    assert np.linalg.norm(P_OLD @ score) > 4 * norms[-1]


def test_the_model_baseline_has_no_gradient():
    log_policy = torch.tensor([[-1.0, -3.0]], requires_grad=True)
    base = model_baseline(log_policy, torch.zeros(1, 2))
    assert not base.requires_grad
    (base * log_policy).sum().backward()  # so only the factor that is there has one
    assert_equal(log_policy.grad[0].double(), softmax([-1.0, -3.0]), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 0.0}, "alpha=0.0: the temperature"),
        ({"alpha": -1.0}, "alpha=-1.0: the temperature"),
        ({"alpha": math.inf}, "alpha=inf: the temperature"),
        ({"alpha": math.nan}, "alpha=nan: the temperature"),
        ({"reward": REWARD[:, :1], "log_ratio": LOG_RATIO[:, :1]}, "N=1 rollout.*at least 2"),
        ({"reward": torch.tensor([[1.0, 2.0, 3.0], [0.0, math.nan, 1.0]])}, "reward of prompt 1, rollout 1 is nan"),
        ({"reward": torch.tensor([[1.0, 2.0, -math.inf], [0.0, math.nan, 1.0]])}, "reward of prompt 0, rollout 2 is -inf"),
        ({"log_ratio": torch.tensor([[0.0, 0.0, 0.0], [math.inf, 0.0, 0.0]])}, "log_ratio of prompt 1, rollout 0 is inf"),
    ],
)
def test_bad_input_is_one_clear_line(arguments, message):
    given = {"reward": REWARD, "log_ratio": LOG_RATIO, "alpha": 1.0} | arguments
    with pytest.raises(ValueError, match=message) as error:
        log_weights(given["reward"], given["log_ratio"], alpha=given["alpha"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wanted", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_wanted_ess_outside_0_to_1_is_refused(wanted):
    with pytest.raises(ValueError, match=f"target_ess={wanted}"):
        coefficient_for_ess(torch.zeros(1, 2), wanted)


def test_an_unknown_baseline_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="baseline='mean' is not one of none, uniform, negative, model"):
        baseline_weights("mean", REWARD, LOG_RATIO, alpha=1.0)


def test_an_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target='rewards'"):
        log_weights(REWARD, LOG_RATIO, alpha=1.0, target="rewards")


@pytest.mark.parametrize("target_ess", [None, 0.6])
@pytest.mark.parametrize("baseline", ["none", "uniform", "negative", "model"])
def test_the_weights_of_a_group_are_its_parts_put_together(target_ess, baseline):
    """w = softmax(c ℓ), strength · w_base with the same c, c = 1 or the one that reaches the share; rows by numpy."""
    reward = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.1, 0.0]], dtype=torch.float64)
    log_ratio = torch.tensor([[0.3, -0.2, 0.5], [0.0, 0.2, -0.1]], dtype=torch.float64)
    config = WeightConfig(alpha=0.5, baseline=baseline, baseline_strength=0.3, target_ess=target_ess)
    weight, base, c = group_weights(reward, log_ratio, config)
    assert c.shape == (2, 1) and c[1].item() == 1.0  # the second group is even enough as it is
    for g in range(2):
        up, down = (np.exp(c[g].item() * (sign * reward[g].numpy() / 0.5 + log_ratio[g].numpy())) for sign in (1, -1))
        wanted = {"none": 0.0, "model": 0.0, "uniform": 0.3 / 3, "negative": 0.3 * down / down.sum()}[baseline]
        np.testing.assert_allclose(weight[g], up / up.sum(), rtol=1e-12)
        np.testing.assert_allclose(base[g], np.broadcast_to(wanted, 3), rtol=1e-12)
    share = 1 / (3 * np.square(weight[0].numpy()).sum())
    assert share < 0.6 if target_ess is None else abs(share - 0.6) < 1e-9
