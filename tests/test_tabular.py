"""Models as tables: two tokens by hand, three binary positions by a dictionary, a network by one forward pass at a time."""

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch

from dmpo_ref.likelihood import sequence_log_prob
from dmpo_ref.masking import draw_masks, stream
from tests.helpers import make_prompts, plain_log_prob, plain_path_log_prob, tiny_model, vocabulary
from toy.tabular import TabularModel, one_shot_marginals, tabulate, two_tokens

THETA = [[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_two_tokens_by_hand():
    model = two_tokens(torch.tensor(THETA, dtype=torch.float64))
    (a, a0, a1), (b, b0, b1) = [[sigmoid(x) for x in row] for row in THETA]  # chance of a 1, given nothing, a 0, a 1
    assert model.answers.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    first_then_second = [(1 - a) * (1 - b0), (1 - a) * b0, a * (1 - b1), a * b1]
    second_then_first = [(1 - b) * (1 - a0), b * (1 - a1), (1 - b) * a0, b * a1]
    np.testing.assert_allclose(model.path_log_probs().exp(), [first_then_second, second_then_first], rtol=1e-12)
    np.testing.assert_allclose(model.log_prob().exp(), np.mean([first_then_second, second_then_first], axis=0), rtol=1e-12)
    only_first, only_second = [1 - a0, 1 - a1, a0, a1], [1 - b0, b0, 1 - b1, b1]
    both = [(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b]
    np.testing.assert_allclose(model.mask_log_probs(), np.log([[1] * 4, only_first, only_second, both]), rtol=1e-12, atol=1e-15)
    estimates = np.array([2 * np.log(only_first), 2 * np.log(only_second), np.log(both)])
    np.testing.assert_allclose(model.mask_estimates(), estimates, rtol=1e-12)
    np.testing.assert_allclose(model.elbo(), [0.25, 0.25, 0.5] @ estimates, rtol=1e-12)


def three_positions():
    """A random table of three binary positions, and the same as a dictionary: (values, None where hidden) → P(1) of each position."""
    rng, n = np.random.default_rng(0), 3
    chances, log_pi = {}, torch.full((27, n, 2), torch.nan, dtype=torch.float64)
    for seen in product((None, 0, 1), repeat=n):
        state = sum(0 if x is None else (1 + x) * 3**d for d, x in enumerate(seen))
        chances[seen] = rng.uniform(0.1, 0.9, size=n)
        for d in range(n):
            if seen[d] is None:
                log_pi[state, d] = torch.tensor([1 - chances[seen][d], chances[seen][d]]).log()
    answers = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1]])
    return TabularModel(log_pi.nan_to_num(0.0), answers), chances


def token_chance(chances, answer, hidden, d):
    p = chances[tuple(None if h else x for x, h in zip(answer, hidden, strict=True))][d]
    return p if answer[d] else 1 - p


def test_scores_are_the_conditionals_of_what_is_hidden():
    model, chances = three_positions()
    for hidden in product((False, True), repeat=3):
        found = model.score(model.answers, torch.tensor(hidden))
        for answer, row in zip(model.answers.tolist(), found.tolist(), strict=True):
            assert row == pytest.approx([math.log(token_chance(chances, answer, hidden, d)) if hidden[d] else 0 for d in range(3)])


def test_an_order_multiplies_its_conditionals_and_probability_is_the_mean_over_orders():
    model, chances = three_positions()
    expected = np.zeros((6, 4))
    for i, order in enumerate(permutations(range(3))):
        for c, answer in enumerate(model.answers.tolist()):
            hidden = [True] * 3
            for d in order:
                expected[i, c] += math.log(token_chance(chances, answer, hidden, d))
                hidden[d] = False
        np.testing.assert_allclose(model.path_log_prob(order), expected[i], rtol=1e-12)
    np.testing.assert_allclose(model.path_log_probs(), expected, rtol=1e-12)
    np.testing.assert_allclose(model.log_prob(), np.log(np.exp(expected).mean(axis=0)), rtol=1e-12)
    np.testing.assert_allclose(model.elbo(), expected.mean(axis=0), rtol=1e-12)


def test_the_steps_of_an_order_are_its_conditionals():
    """Two tokens, order (2, 1), answer 10: the second token is 0 with all hidden, then the first is 1 beside a 0."""
    theta = torch.tensor([[0.3, -0.8, 0.6], [-0.2, 1.0, 0.4]], dtype=torch.float64)
    steps = two_tokens(theta).path_steps((1, 0))
    assert steps.shape == (2, 4)
    torch.testing.assert_close(steps[:, 2], torch.stack([-theta[1, 0], theta[0, 1]]).sigmoid().log())


def test_a_model_with_all_its_answers_is_a_distribution_along_every_order():
    model, _ = three_positions()
    model.answers = torch.tensor(list(product(range(2), repeat=3)))
    np.testing.assert_allclose(model.path_log_probs().exp().sum(dim=1), np.ones(6), rtol=1e-12)


def test_scores_of_drawn_masks_give_an_estimate_of_the_elbo():
    """Shapes of the library, [G, N, R, L]; 4,000 masks of each answer, in units of standard errors."""
    model = two_tokens(torch.tensor(THETA, dtype=torch.float64))
    masks = draw_masks("exact", torch.ones(1, 4, 2, dtype=torch.bool), 4000, [stream(0, "masks")])
    scores = model.score(model.answers[None, :, None], masks.hidden)
    assert scores.shape == (1, 4, 4000, 2)
    spread = (masks.weight * scores.sum(dim=-1)).std(dim=-1) / 4000**0.5
    assert ((sequence_log_prob(scores, masks) - model.elbo()).abs() < 4 * spread).all()


def test_sums_of_a_table_can_be_differentiated():
    theta = torch.tensor(THETA, dtype=torch.float64)
    for of in (lambda t: two_tokens(t).log_prob(), lambda t: two_tokens(t).elbo(), lambda t: two_tokens(t).mask_estimates()[0]):
        assert torch.autograd.gradcheck(of, theta.clone().requires_grad_())


def test_the_table_of_a_network_holds_what_its_forward_passes_give():
    """Two blanks and four digits: along both orders, one position at a time."""
    model, prompts = tiny_model(4), make_prompts("1_34|2_1")
    table = tabulate(model, prompts, vocabulary())
    blanks = prompts.response_mask[0].nonzero().flatten()
    n = len(blanks)
    assert table.log_pi.shape == (5**n, n, 4) and not table.log_pi.requires_grad
    assert sorted(table.answers.tolist()) == [list(answer) for answer in product(range(4), repeat=n)]
    step = torch.full_like(prompts.tokens[0], -1)
    for order in permutations(range(n)):
        along = table.path_log_prob(order)
        for k, d in enumerate(order):
            step[blanks[d]] = k
        for c in (0, 1, len(along) - 1):
            tokens = prompts.tokens[0].clone()
            tokens[blanks] = 4 + table.answers[c]
            expected = plain_path_log_prob(model, tokens, prompts.attention_mask[0], step, (4, 5, 6, 7))
            assert along[c].item() == pytest.approx(expected, rel=1e-10)


def test_one_shot_marginals_are_those_of_a_forward_pass_with_all_blanks_hidden():
    model, prompts = tiny_model(4), make_prompts("1_34|2_1")
    found = one_shot_marginals(model, prompts, vocabulary())
    blanks = prompts.response_mask[0].nonzero().flatten().tolist()
    assert found.shape == (len(blanks), 4) and not found.requires_grad
    for d, row in zip(blanks, found.tolist(), strict=True):
        line = prompts.tokens[0], prompts.attention_mask[0], d
        assert row == pytest.approx([plain_log_prob(model, *line, token, (4, 5, 6, 7)) for token in (4, 5, 6, 7)], rel=1e-10)
