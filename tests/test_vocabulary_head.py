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
    upstream = torch.randn(K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for function in (head_log_prob, plain):
        hidden, weight, tokens, allowed = inputs()
        value = function(hidden, weight, tokens, allowed, temperature)
        (value * upstream).sum().backward()
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


def test_float32_logits_take_the_rounding_of_logits_out_of_a_bfloat16_score():
    """Exact: the same bfloat16 h and W, in float64. Logits of about 20 are rounded by up to 1/16, and a score by as much."""
    rng = torch.Generator().manual_seed(0)
    hidden, weight = (5 * torch.randn(K, 64, generator=rng)).bfloat16(), torch.randn(512, 64, generator=rng).bfloat16() / 5
    allowed = torch.ones(512, dtype=torch.bool)
    exact = (hidden.double() @ weight.double().T).log_softmax(dim=-1)
    tokens = exact.argmax(dim=-1)
    error = {}
    for wide in (False, True):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        scores = head_log_prob(h, w, tokens, allowed, float32_logits=wide)
        scores.sum().backward()
        error[wide] = (scores.double() - exact.gather(-1, tokens[:, None])[:, 0]).abs().max().item()
        p = exact.exp()
        direction = torch.nn.functional.one_hot(tokens, 512) - p
        expected = direction @ weight.double(), direction.T @ hidden.double()
        for gradient, by_hand in zip((h.grad, w.grad), expected, strict=True):
            assert gradient.dtype == torch.bfloat16
            assert (gradient.double() - by_hand).norm() < 0.05 * by_hand.norm()
    assert error[True] < 1e-5 < 1e-2 < error[False]


def test_the_option_reaches_every_score_of_a_policy(tmp_path):
    """Of a base, of one with adapters; with float32 weights it changes nothing."""
    from dmpo_ref.config import ModelConfig
    from dmpo_ref.models.loading import load_policy
    from tests.helpers import save_adapters
    from toy.small_llada import make_checkpoint

    base = make_checkpoint(tmp_path / "base", d_model=32, n_heads=4)
    adapters = save_adapters(base, tmp_path / "adapters")
    tokens = torch.arange(40).reshape(2, 20)
    for path, dtype in ((base, "bfloat16"), (adapters, "bfloat16"), (base, "float32")):
        scores = []
        for wide in (False, True):
            policy, _ = load_policy(ModelConfig(path=str(path), dtype=dtype, float32_logits=wide), torch.device("cpu"))
            with torch.no_grad():
                scores.append(policy(input_ids=tokens, select=tokens >= 0, targets=tokens.flatten()).token_log_prob)
        assert torch.equal(*scores) == (dtype == "float32")


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
    """The gradient is formed in the forward pass; autograd would differentiate that gradient alone and leave out the rest."""
    hidden, weight, tokens, allowed = inputs()
    loss = head_log_prob(hidden, weight, tokens, allowed).square().sum()
    (gradient,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()
