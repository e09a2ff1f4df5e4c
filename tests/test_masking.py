"""The mask schemes against the exact ELBO, summed over every mask: no sampling, no tolerance beyond rounding."""

from itertools import permutations, product
from math import comb, factorial

import numpy as np
import pytest
import torch

from dmpo_ref.masking import SCHEMES, draw_masks, draw_path_steps, masks_from_uniforms, path_masks, path_steps_from_uniforms, stream

UNBIASED = ["exact", "stratified", "systematic", "antithetic"]


def subset_scores(length: int) -> dict[frozenset, float]:
    """An arbitrary score for every set of masked positions, standing for Σ_{d masked} −log π(o_d | the rest)."""
    rng = np.random.default_rng(length)
    sets = [frozenset(i for i in range(length) if bits >> i & 1) for bits in range(2**length)]
    return {s: float(len(s) and rng.exponential(len(s))) for s in sets}


def exact_nelbo(scores: dict[frozenset, float], length: int) -> float:
    """L_θ by its definition: Σ_m (1/L) (L/m) · mean over masks of size m."""
    return sum(score / len(s) / comb(length, len(s)) for s, score in scores.items() if s)


def estimates(masks, scores) -> torch.Tensor:
    """weight · score of every mask, [G, N, R]."""
    values = [scores[frozenset(row.nonzero().flatten().tolist())] for row in masks.hidden.flatten(0, 2)]
    return masks.weight * torch.tensor(values, dtype=torch.float64).view(masks.weight.shape)


def all_uniforms(length: int, num_masks: int):
    """Uniforms that visit every size and every order of positions equally often.

    Masks of one row share nothing but the size draw (stratified), the order (systematic) or the set (antithetic pairs), and expectation
    is linear, so the same order may be given to all of them.
    """
    # Both the sizes 1..L and, for pairs, 0..L are cut points of multiples of 1 / (L (L + 1)).
    grid = length * (length + 1)
    for k, order in product(range(grid), permutations(range(length))):
        yield torch.full((num_masks,), (k + 0.5) / grid), torch.tensor(order).expand(num_masks, -1) / length


def enumerate_scheme(scheme: str, length: int, num_masks: int, scores) -> torch.Tensor:
    """Expectation of every mask's estimate over all masks of a scheme, [R]."""
    size_u, position_u = (torch.stack(x).double() for x in zip(*all_uniforms(length, num_masks), strict=True))
    response = torch.ones(1, len(size_u), length, dtype=torch.bool)
    masks = masks_from_uniforms(scheme, response, size_u[None], position_u[None])
    return estimates(masks, scores).mean(dim=(0, 1))


@pytest.mark.parametrize("scheme", UNBIASED)
@pytest.mark.parametrize("num_masks", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_unbiased_schemes_equal_the_exact_elbo_summed_over_every_mask(scheme, length, num_masks):
    scores = subset_scores(length)
    mean = enumerate_scheme(scheme, length, num_masks, scores).mean().item()
    assert mean == pytest.approx(exact_nelbo(scores, length), rel=1e-12)


@pytest.mark.parametrize("scheme", ["exact", "antithetic"])
def test_each_mask_is_unbiased_by_itself(scheme):
    scores = subset_scores(4)
    for mean in enumerate_scheme(scheme, 4, 3, scores).tolist():
        assert mean == pytest.approx(exact_nelbo(scores, 4), rel=1e-12)


def published_expectation(length: int, scores) -> float:
    """The `paper` scheme integrated by Gauss-Legendre over u and summed over every Bernoulli mask, through the code."""
    nodes, node_weights = np.polynomial.legendre.leggauss(2 * length + 2)
    total = 0.0
    for u, node_weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
        p = 0.1 + 0.9 * u
        for bits in product([False, True], repeat=length):
            chosen = torch.tensor(bits)
            position_u = torch.where(chosen, 0.0, 1 - 1e-12).double().expand(1, 1, 2, -1)
            masks = masks_from_uniforms("paper", torch.ones(1, 1, length, dtype=torch.bool), torch.full((1, 1, 2), u), position_u)
            probability = p ** sum(bits) * (1 - p) ** (length - sum(bits))
            total += node_weight * probability * estimates(masks, scores).mean().item()
    return total


def gauss_expectation(length: int, num_masks: int, scores) -> float:
    """The `gauss` scheme summed over every Bernoulli mask at the nodes of numpy, through the code."""
    nodes, total = (np.polynomial.legendre.leggauss(num_masks)[0] + 1) / 2, 0.0
    for bits in product([False, True], repeat=length):
        position_u = torch.where(torch.tensor(bits), 0.0, 1 - 1e-12).double().expand(1, 1, num_masks, -1)
        masks = masks_from_uniforms("gauss", torch.ones(1, 1, length, dtype=torch.bool), torch.zeros(1, 1, num_masks), position_u)
        probability = nodes ** sum(bits) * (1 - nodes) ** (length - sum(bits))
        total += (torch.from_numpy(probability) * estimates(masks, scores)[0, 0]).mean().item()
    return total


@pytest.mark.parametrize("num_masks", [1, 2, 3, 4])
@pytest.mark.parametrize("length", range(1, 8))
def test_gauss_is_unbiased_up_to_twice_as_many_tokens_as_masks_and_biased_as_its_docstring_says_by_one_more(length, num_masks):
    """f(t) = Σ_S t^(|S|−1) (1−t)^(L−|S|) score(S); for L = 2R + 1 its derivative of order 2R is a constant."""
    scores, R = subset_scores(length), num_masks
    error = exact_nelbo(scores, length) - gauss_expectation(length, R, scores)
    if length <= 2 * R:
        assert error == pytest.approx(0, abs=1e-12 * exact_nelbo(scores, length))
        return
    assert abs(error) > 1e-8
    if length == 2 * R + 1:
        highest = sum((-1) ** (length - len(s)) * score for s, score in scores.items() if s)  # coefficient of t^2R
        derivative = factorial(2 * R) * highest
        assert error == pytest.approx(derivative * factorial(R) ** 4 / ((2 * R + 1) * factorial(2 * R) ** 3), rel=1e-8)


def test_gauss_hides_at_the_nodes_and_weighs_by_them():
    """Three nodes in closed form: (1 ∓ √(3/5))/2 and 1/2, of weights 5/18 and 8/18."""
    response = torch.tensor([False, *[True] * 1000]).expand(1, 1, 1001)
    position_u = torch.cat([torch.zeros(1), (torch.arange(1000) + 0.5) / 1000]).double().expand(1, 1, 3, -1)
    masks = masks_from_uniforms("gauss", response, torch.zeros(1, 1, 3), position_u)
    t = [(1 - 0.6**0.5) / 2, 0.5, (1 + 0.6**0.5) / 2]
    assert masks.hidden.sum(dim=-1).flatten().tolist() == [round(1000 * x) for x in t]
    assert masks.weight.flatten().tolist() == pytest.approx([3 * w / x for w, x in zip((5 / 18, 8 / 18, 5 / 18), t, strict=True)])
    assert not masks.hidden[..., 0].any()


@pytest.mark.parametrize("length", [2, 3, 4, 5])
def test_the_published_scheme_fails_the_same_check(length):
    scores = subset_scores(length)
    assert abs(published_expectation(length, scores) / exact_nelbo(scores, length) - 1) > 0.01


def test_complementary_pairs_with_uncorrected_weights_are_wrong():
    """m ~ U{1..L} with weights L/m for the set and L/(L−m) for its complement, as one might write it at first."""
    scores, L = subset_scores(4), 4
    by_size = {m: np.mean([v for s, v in scores.items() if len(s) == m]) for m in range(L + 1)}
    wrong = np.mean([(L / m * by_size[m] + (L / (L - m) * by_size[L - m] if m < L else 0)) / 2 for m in range(1, L + 1)])
    assert abs(wrong / exact_nelbo(scores, L) - 1) > 0.02


@pytest.mark.parametrize("num_masks", [1, 2, 3, 4, 5, 6])
def test_antithetic_pairs_are_complements_and_an_odd_last_one_stands_alone(num_masks):
    response, L = torch.tensor([False, True, True, True, True, False]).expand(1, 30, 6), 4
    masks = draw_masks("antithetic", response, num_masks, [stream(0, "test")])
    size = masks.hidden.sum(dim=-1)
    for r in range(0, num_masks - 1, 2):
        assert torch.equal(masks.hidden[:, :, r] ^ masks.hidden[:, :, r + 1], response)
        pair = torch.where(size[..., r : r + 2] > 0, (L + 1) / size[..., r : r + 2].double(), 0.0)
        torch.testing.assert_close(masks.weight[..., r : r + 2], pair)
    if num_masks % 2:
        assert (size[..., -1] > 0).all()
        torch.testing.assert_close(masks.weight[..., -1], L / size[..., -1].double())


@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_response_positions_are_masked_and_rows_may_differ_in_length(scheme):
    response = torch.zeros(2, 3, 10, dtype=torch.bool)
    response[0, :, 2:5] = True
    response[1, :, 1:9] = True
    masks = draw_masks(scheme, response, 4, [stream(1, g) for g in range(2)])
    assert not (masks.hidden & ~response.unsqueeze(2)).any()
    if scheme in UNBIASED[:3]:
        m = masks.hidden.sum(dim=-1)
        assert (m >= 1).all()
        L = response.sum(dim=-1, keepdim=True)
        torch.testing.assert_close(masks.weight, L / m.double())


@pytest.mark.parametrize("scheme", ["stratified", "systematic"])
def test_stratified_sizes_cover_the_range(scheme):
    response = torch.ones(1, 50, 12, dtype=torch.bool)
    sizes = draw_masks(scheme, response, 12, [stream(2)]).hidden.sum(dim=-1)
    assert torch.equal(sizes.sort(dim=-1).values, torch.arange(1, 13).expand(1, 50, -1))


def test_systematic_masks_walk_through_one_order():
    """By hand: L = 4, R = 2, U = 0.6: sizes 1 + ⌊4·0.3⌋ = 2 and 1 + ⌊4·0.8⌋ = 4; the order of the positions is 3, 0, 4, 1."""
    response = torch.tensor([[[True, True, False, True, True]]])
    order = torch.tensor([0.3, 0.9, 0.0, 0.1, 0.5]).expand(1, 1, 2, -1).double()
    size_u = torch.tensor([[[0.6, 0.0]]]).double()
    masks = masks_from_uniforms("systematic", response, size_u, order)
    assert masks.hidden[0, 0].int().tolist() == [[1, 0, 0, 1, 0], [1, 1, 0, 1, 1]]
    assert masks.weight[0, 0].tolist() == [2.0, 1.0]
    size_u[..., 0] = 0.1  # sizes 1 and 3: the first in the order, then all others
    masks = masks_from_uniforms("systematic", response, size_u, order)
    assert masks.hidden[0, 0].int().tolist() == [[0, 0, 0, 1, 0], [1, 1, 0, 0, 1]]
    assert masks.weight[0, 0].tolist() == pytest.approx([4, 4 / 3])


@pytest.mark.parametrize(("L", "R"), [(5, 2), (5, 4), (7, 3), (32, 4)])
def test_systematic_masks_hide_every_position_about_equally_often(L, R):
    hidden = draw_masks("systematic", torch.ones(1, 100, L, dtype=torch.bool), R, [stream(3)]).hidden[0].sum(dim=1)
    assert (hidden.amax(dim=-1) - hidden.amin(dim=-1)).max() <= 1


def test_streams_depend_on_every_part_of_the_key_and_not_on_the_global_state():
    def numbers(*key):
        return torch.rand(3, generator=stream(*key)).tolist()

    torch.manual_seed(0)
    first = numbers(0, "masks", 5)
    torch.manual_seed(1)
    assert numbers(0, "masks", 5) == first
    keys = [(0, "masks", 5), (1, "masks", 5), (0, "rollout", 5), (0, "masks", 6), (0, "masks", "5")]
    assert len({tuple(numbers(*key)) for key in keys}) == len(keys)


def test_drawing_masks_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    draw_masks("exact", torch.ones(1, 2, 4, dtype=torch.bool), 2, [stream(0)])
    assert torch.equal(torch.get_rng_state(), before)


def test_masks_of_a_prompt_do_not_depend_on_its_neighbours():
    response = torch.ones(3, 2, 5, dtype=torch.bool)
    together = draw_masks("exact", response, 4, [stream(0, g) for g in range(3)])
    alone = draw_masks("exact", response[1:2], 4, [stream(0, 1)])
    assert torch.equal(together.hidden[1:2], alone.hidden)


def test_path_masks_walk_along_the_order():
    masks = path_masks(torch.tensor([[[-1, 2, 0, -1, 1]]]), 3)
    assert masks.hidden[0, 0].int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 0, 0, 1], [0, 1, 0, 0, 0]]
    assert masks.target[0, 0].int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 1, 0, 0, 0]]
    assert masks.weight.tolist() == [[[3.0, 3.0, 3.0]]]


# Own steps of a row → those of its positions: one token at a time, several at once, steps that others of the batch took alone.
ORDERS = {"one": [0], "two": [1, 0], "three": [2, -1, 0, 1], "four": [3, 1, 0, 2], "five": [4, 0, -1, 2, 1, 3],
          "several_at_once": [0, 2, 0, 1, 2, 2], "gaps": [6, -1, 1, 4, 4]}  # fmt: skip
LONGEST = 8  # steps of the longest response of the batch, more than any of these took


def all_step_draws(order: list[int], num_masks: int):
    """Masks of every draw of steps, each of which is equally likely: T! uniforms hit every step of any stratum equally often."""
    T = len(set(order) - {-1})
    grid = (torch.arange(60) + 0.5) / 60  # 60 = lcm(1, …, 5) cut every stratum of up to 5 steps evenly
    sizes = [(j + 1) * T // num_masks - j * T // num_masks for j in range(num_masks)]
    columns = [grid[:: 60 // max(n, 1)] if n else grid[:1] for n in sizes]
    step_u = torch.cartesian_prod(*columns).double().view(-1, num_masks)
    step = torch.tensor(order).expand(1, len(step_u), -1)
    return path_steps_from_uniforms(step, LONGEST, step_u[None])


@pytest.mark.parametrize("num_masks", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_path_steps_over_all_draws_give_the_sum_along_the_path(order, num_masks):
    """An arbitrary score of each step stands for the log-probability of what it placed."""
    own = sorted(set(order) - {-1})
    score = dict(zip(own, np.random.default_rng(len(order)).exponential(size=len(own)), strict=True))
    masks = all_step_draws(order, num_masks)
    positions, total = torch.tensor(order), 0.0
    for n in range(masks.hidden.shape[1]):
        drawn = []
        for r in range(num_masks):
            hidden, target, weight = masks.hidden[0, n, r], masks.target[0, n, r], masks.weight[0, n, r].item()
            if not target.any():  # an empty stratum
                assert not hidden.any() and weight == 0
                continue
            (now,) = set(positions[target].tolist())
            assert torch.equal(target, positions == now) and torch.equal(hidden, positions >= now)
            drawn.append(now)
            total += weight * score[now] / num_masks / masks.hidden.shape[1]
        assert len(set(drawn)) == len(drawn) == min(num_masks, len(own))  # without replacement
    torch.testing.assert_close(masks.weight.mean(dim=-1), torch.full((1, masks.weight.shape[1]), float(len(own)), dtype=torch.float64))
    assert total == pytest.approx(sum(score.values()), rel=1e-12)


def test_path_steps_are_those_of_the_path_where_as_many_are_drawn_as_a_row_took():
    step = torch.tensor([[[2, -1, 0, 1], [0, -1, 2, 1]]])
    drawn, path = draw_path_steps(step, 3, 3, [stream(0)]), path_masks(step, 3)
    for field in ("hidden", "target", "weight"):
        assert torch.equal(getattr(drawn, field), getattr(path, field))


def test_no_more_path_steps_are_drawn_than_there_are():
    step = torch.tensor([[[-1, 0, 2, 1]]])
    assert torch.equal(draw_path_steps(step, 3, 8, [stream(0)]).target, path_masks(step, 3).target)


def test_path_steps_of_a_prompt_do_not_depend_on_its_neighbours():
    step = torch.tensor([[[4, 0, 3, 1, 2]], [[-1, 1, -1, 0, 2]]]).expand(2, 6, 5)
    together = draw_path_steps(step, 5, 2, [stream(0, g) for g in range(2)])
    alone = draw_path_steps(step[1:, :, 1:], 3, 2, [stream(0, 1)])
    assert torch.equal(together.hidden[1:, ..., 1:], alone.hidden) and torch.equal(together.weight[1:], alone.weight)


@pytest.mark.parametrize(
    ("scheme", "response", "num_masks", "message"),
    [
        ("bernoulli", torch.ones(1, 1, 4).bool(), 1, "masks='bernoulli' is not a mask scheme; choose one of exact"),
        ("exact", torch.ones(1, 1, 4).bool(), 0, "num_masks=0"),
        ("exact", torch.zeros(1, 1, 4).bool(), 1, "nothing to generate"),
    ],
)
def test_bad_input_is_one_clear_line(scheme, response, num_masks, message):
    with pytest.raises(ValueError, match=message):
        draw_masks(scheme, response, num_masks, [stream(0)])


def test_paper_hides_with_probability_0_1_to_1_and_then_the_others():
    """A tenth at u = 0, all at u = 1; the weight of m hidden positions is L/m, that of none L."""
    response = torch.ones(1, 1, 1000, dtype=torch.bool)
    position_u = ((torch.arange(1000) + 0.5) / 1000).double().expand(1, 1, 2, -1)
    for u, hidden, weights in ((0.0, 100, (10, 10 / 9)), (0.5, 550, (20 / 11, 20 / 9)), (1.0, 1000, (1, 1000))):
        masks = masks_from_uniforms("paper", response, torch.full((1, 1, 2), u).double(), position_u)
        assert masks.hidden.sum(dim=-1).flatten().tolist() == [hidden, 1000 - hidden]
        assert masks.weight.flatten().tolist() == pytest.approx(weights)
    one = masks_from_uniforms("paper", response[..., :3], torch.zeros(1, 1, 2).double(), torch.tensor([[[[0.05, 0.5, 0.5]] * 2]]).double())
    assert one.weight.flatten().tolist() == pytest.approx([3, 1.5])


@pytest.mark.parametrize("scheme", ["stratified", "systematic"])
@pytest.mark.parametrize("num_masks", [1, 2, 4])
def test_the_largest_uniform_does_not_make_a_stratified_mask_larger_than_the_response(scheme, num_masks):
    """j + U is rounded to R there; the size is L, and not L + 1 or 1."""
    size_u = torch.full((1, 1, num_masks), 1 - 2**-53, dtype=torch.float64)
    response = torch.ones(1, 1, 7, dtype=torch.bool)
    masks = masks_from_uniforms(scheme, response, size_u, torch.rand(1, 1, num_masks, 7, dtype=torch.float64))
    assert (masks.hidden.sum(dim=-1)[0, 0, -1], masks.weight[0, 0, -1]) == (7, 1)
