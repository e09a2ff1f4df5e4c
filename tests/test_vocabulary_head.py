"""The chunked vocabulary head against the plain computation with all logits, and the size of what it allocates."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dmpo_ref.models import vocabulary_head as head
from dmpo_ref.models.vocabulary_head import head_log_prob

K, D, V = 96, 16, 8192


def inputs(dtype=torch.float64, vocabulary=V):
    rng = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, D, generator=rng, dtype=torch.float64) for n in (K, vocabulary))
    allowed = torch.rand(vocabulary, generator=rng) < 0.9
    tokens = allowed.nonzero().flatten()[torch.randint(int(allowed.sum()), (K,), generator=rng)]
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), tokens, allowed


def plain(hidden, weight, tokens, allowed, temperature):
    """All logits at once, autograd throughout."""
    logits = (hidden @ weight.T).masked_fill(~allowed, -torch.inf) / temperature
    return logits.log_softmax(dim=-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("positions_per_chunk", [1, 7, 96, 1000])
def test_values_and_both_gradients_equal_those_of_all_logits_at_once(monkeypatch, positions_per_chunk, temperature):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", positions_per_chunk * V)
    slope = torch.randn(K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for function in (head_log_prob, plain):
        hidden, weight, tokens, allowed = inputs()
        value = function(hidden, weight, tokens, allowed, temperature)
        (value * slope).sum().backward()
        results.append((value.detach(), hidden.grad, weight.grad))
    for chunked, expected in zip(*results, strict=True):
        torch.testing.assert_close(chunked, expected, rtol=1e-9, atol=1e-12)


def test_float32_gradients_agree_to_1e_5():
    gradients = []
    for function in (head_log_prob, plain):
        hidden, weight, tokens, allowed = inputs(torch.float32)
        function(hidden, weight, tokens, allowed, 1.0).sum().backward()
        gradients.append((hidden.grad, weight.grad))
    for chunked, expected in zip(*gradients, strict=True):
        assert ((chunked - expected).norm() / expected.norm()).item() < 1e-5


def test_a_bfloat16_model_gives_float32_scores():
    hidden, weight, tokens, allowed = inputs(torch.bfloat16)
    value = head_log_prob(hidden, weight, tokens, allowed, 1.0)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("train_the_head", [False, True])
def test_no_tensor_is_larger_than_a_chunk_of_logits_or_the_head(monkeypatch, train_the_head):
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 4 * V)
    hidden, weight, tokens, allowed = inputs(torch.float32)
    with LargestTensor() as largest:
        head_log_prob(hidden, weight if train_the_head else weight.detach(), tokens, allowed, 1.0).sum().backward()
    assert largest.elements <= max(4 * V, D * V)
    with LargestTensor() as largest:
        plain(hidden, weight, tokens, allowed, 1.0).sum().backward()
    assert largest.elements == K * V


def test_a_frozen_head_gets_no_gradient_and_nothing_to_score_is_fine():
    hidden, weight, tokens, allowed = inputs()
    head_log_prob(hidden, weight.detach(), tokens, allowed, 1.0).sum().backward()
    assert weight.grad is None
    assert head_log_prob(hidden[:0], weight, tokens[:0], allowed, 1.0).shape == (0,)


def test_a_second_derivative_is_refused_not_wrong():
    """The gradient is formed in the forward pass; autograd would differentiate the slope alone and leave out the rest."""
    hidden, weight, tokens, allowed = inputs()
    loss = head_log_prob(hidden, weight, tokens, allowed).square().sum()
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()
