"""Products of marginals: against loops over answers, and the one product whose divergence is known to be the smallest."""

from itertools import product

import numpy as np
import pytest
import torch

from toy.numerics import finite_differences
from toy.products import descend_products, log_product, marginals

ANSWERS = torch.tensor(list(product(range(3), repeat=2)))


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def forward_kl(log_p, log_q):
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def test_a_product_multiplies_the_probabilities_of_its_positions():
    q = random(4, 2, 3).softmax(dim=-1)
    found = log_product(q.log(), ANSWERS).exp()
    expected = [[q[k, 0, a] * q[k, 1, b] for a, b in ANSWERS.tolist()] for k in range(4)]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-12)
    np.testing.assert_allclose(found.sum(dim=-1), np.ones(4), rtol=1e-12)
    certain = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]], dtype=torch.float64)
    assert log_product(certain.log(), ANSWERS).exp().tolist() == pytest.approx([0.5, 0.5, 0, 0, 0, 0, 0, 0, 0])


def test_marginals_are_sums_over_the_answers_with_that_symbol():
    p = random(9).softmax(dim=0)
    expected = np.zeros((2, 3))
    for chance, answer in zip(p.tolist(), ANSWERS.tolist(), strict=True):
        for k, a in enumerate(answer):
            expected[k, a] += chance
    np.testing.assert_allclose(marginals(p.log(), ANSWERS, 3), expected, rtol=1e-12)
    q = random(2, 3, seed=1).softmax(dim=-1)  # those of a product are its own
    np.testing.assert_allclose(marginals(log_product(q.log(), ANSWERS), ANSWERS, 3), q, rtol=1e-12)


def test_the_product_of_the_marginals_is_nearest_in_forward_kl_and_descent_finds_it():
    log_p = random(9).log_softmax(dim=0)
    best = forward_kl(log_p, log_product(marginals(log_p, ANSWERS, 3).log(), ANSWERS))
    others = log_product(random(200, 2, 3, seed=2).log_softmax(dim=-1), ANSWERS)
    assert (forward_kl(log_p, others) > best).all()
    found = descend_products(lambda log_q: forward_kl(log_p, log_q), random(3, 2, 3, seed=3), ANSWERS, steps=2000)
    np.testing.assert_allclose(forward_kl(log_p, found), best.expand(3), atol=1e-8)


def test_one_step_of_adam_moves_each_logit_by_the_rate_against_its_gradient():
    """Steps of Adam begin with the sign of the gradient; that comes from finite differences."""
    target, start = random(9).log_softmax(dim=0), random(1, 2, 3, seed=4)
    reverse_kl = lambda log_q: (log_q.exp() * (log_q - target)).sum(dim=-1)  # noqa: E731
    gradient = finite_differences(lambda z: reverse_kl(log_product(z.log_softmax(dim=-1), ANSWERS)).sum(), start)
    expected = log_product((start - 0.1 * gradient.sign()).log_softmax(dim=-1), ANSWERS)
    before = start.clone()
    found = descend_products(reverse_kl, start, ANSWERS, steps=1, learning_rate=0.1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert torch.equal(start, before) and not found.requires_grad


def test_every_start_goes_its_own_way():
    target, starts = random(9).log_softmax(dim=0), random(3, 2, 3, seed=5)
    reverse_kl = lambda log_q: (log_q.exp() * (log_q - target)).sum(dim=-1)  # noqa: E731
    together = descend_products(reverse_kl, starts, ANSWERS, steps=50)
    alone = torch.cat([descend_products(reverse_kl, start[None], ANSWERS, steps=50) for start in starts])
    np.testing.assert_allclose(together, alone, rtol=1e-9)
