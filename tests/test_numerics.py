"""Derivatives and minima of functions whose derivatives and minima are known."""

import pytest
import torch

from toy.numerics import compare_gradients, finite_differences, minimise


def test_finite_differences_of_a_polynomial():
    """d/dx (x³ + 2xy) = 3x² + 2y and d/dy = 2x, to h² of the third derivative."""
    point = torch.tensor([[1.5], [-0.5]], dtype=torch.float64)
    found = finite_differences(lambda x: x[0, 0] ** 3 + 2 * x[0, 0] * x[1, 0], point)
    torch.testing.assert_close(found, torch.tensor([[5.75], [3.0]], dtype=torch.float64), rtol=0, atol=1e-8)


def test_the_minimum_of_a_quadratic_and_of_a_cross_entropy():
    """½ (x − 3)ᵀ A (x − 3) at 3; −Σ p log softmax(z) at z = log p + const."""
    A = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)
    start = torch.zeros(2, dtype=torch.float64)
    found = minimise(lambda x: (x - 3) @ A @ (x - 3) / 2, start)
    torch.testing.assert_close(found, torch.full((2,), 3.0, dtype=torch.float64), rtol=0, atol=1e-7)
    assert start.tolist() == [0, 0] and not found.requires_grad
    p = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    found = minimise(lambda z: -p @ z.log_softmax(dim=0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(found.softmax(dim=0), p, rtol=0, atol=1e-7)


@pytest.mark.parametrize("loss", [lambda x: x.sum(), lambda x: (x * torch.nan).sum()])
def test_a_loss_without_a_minimum_is_told_in_one_line(loss):
    with pytest.raises(ArithmeticError, match="no minimum was found: the gradient is still") as error:
        minimise(loss, torch.zeros(2, dtype=torch.float64))
    assert "\n" not in str(error.value)


def test_three_gradients_are_compared_component_by_component():
    right = torch.tensor([[0.5, -1e-9]], dtype=torch.float64)
    rows = compare_gradients(right, right, right + 5e-10)
    assert rows == [["[0, 0]", *["0.50000"] * 3], ["[0, 1]", *["0.00000"] * 3]]  # no −0
    nothing = torch.tensor([[0.5, torch.nan]], dtype=torch.float64)
    for changed in ((right + 2e-9, right, right), (right, right - 2e-9, right), (right, right, right - 2e-9), (right, right, nothing)):
        with pytest.raises(ArithmeticError, match="two of the three gradients differ by"):
            compare_gradients(*changed)
