"""A masked diffusion model as a table: n positions, A symbols, one conditional for each position and each state of the others.

Small enough that every answer along every order and under every mask can be listed. `two_tokens` makes one from six numbers, and
`tabulate` one from a network on a small puzzle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import factorial, log

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import logsigmoid

from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.rollout import Prompts
from toy.enumeration import all_masks, elbo_over_masks, mask_sizes
from toy.oracle import conditional_log_prob


@dataclass
class TabularModel:
    """The conditionals of a masked diffusion model, and sums of them. All sums can be differentiated.

    Attributes:
        log_pi: [(A + 1)^n, n, A] log π(position d takes symbol a | state), in nats; only read where d is hidden. State Σ_d s_d (A + 1)^d
            has s_d = 0 where position d is hidden, else 1 + its symbol, as in `toy.oracle`.
        answers: [C, n] int64, the answers in the order in which they are listed.
    """

    log_pi: Tensor
    answers: Tensor

    def score(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """log π(o_d | what is not hidden) at hidden positions, 0 elsewhere: [..., n], [..., n] bool → [..., n]."""
        n, A = self.log_pi.shape[1:]
        state = (torch.where(hidden, 0, 1 + tokens) * (A + 1) ** torch.arange(n)).sum(dim=-1, keepdim=True)
        return self.log_pi[state, torch.arange(n), tokens] * hidden

    def path_steps(self, order: Sequence[int]) -> Tensor:
        """log π(o_{σ_k} | o_{σ_1}, …, o_{σ_{k−1}}) of every answer in each step k of one order, [n, C]."""
        hidden = torch.ones(len(order), len(order), dtype=torch.bool)
        for k in range(len(order)):
            hidden[k, list(order[:k])] = False
        return self.score(self.answers, hidden.unsqueeze(1))[range(len(order)), :, list(order)]

    def path_log_prob(self, order: Sequence[int]) -> Tensor:
        """log p(o; σ), the sum of the steps, of every answer along one order, [C]."""
        return self.path_steps(order).sum(dim=0)

    def path_log_probs(self) -> Tensor:
        """log p(o; σ) along all orders, in the order of `itertools.permutations`, [n!, C]."""
        return torch.stack([self.path_log_prob(order) for order in permutations(range(self.answers.shape[1]))])

    def log_prob(self) -> Tensor:
        """log p(o) = log of the mean of p(o; σ) over orders, [C]."""
        return self.path_log_probs().logsumexp(dim=0) - log(factorial(self.answers.shape[1]))

    def mask_log_probs(self) -> Tensor:
        """Σ over hidden d of log π(o_d | what is not hidden), for each mask of `toy.enumeration.all_masks`, [2^n, C]."""
        return self.score(self.answers, all_masks(self.answers.shape[1]).unsqueeze(1)).sum(dim=-1)

    def mask_estimates(self) -> Tensor:
        """(n/m) Σ log π, the estimate of log p(o) from each mask with m ≥ 1 hidden positions, [2^n − 1, C]."""
        n = self.answers.shape[1]
        return (n / mask_sizes(n)[1:]).unsqueeze(1) * self.mask_log_probs()[1:]

    def elbo(self) -> Tensor:
        """The exact ELBO −L(o) ≤ log p(o), in nats, [C]."""
        return elbo_over_masks(self.mask_log_probs())


def two_tokens(theta: Tensor) -> TabularModel:
    """The model of two binary tokens; its answers are 00, 01, 10, 11.

    π(o_d = 1 | state u of the other token) = sigmoid(θ[d, u])

    Args:
        theta: [2, 3] logits; the other token is hidden (u = 0), a 0 (u = 1) or a 1 (u = 2).
    """
    log_prob = torch.stack([logsigmoid(-theta), logsigmoid(theta)], dim=-1)
    log_pi = theta.new_zeros(9, 2, 2)
    log_pi[[0, 3, 6], 0] = log_prob[0]
    log_pi[[0, 1, 2], 1] = log_prob[1]
    return TabularModel(log_pi, torch.tensor(list(product(range(2), repeat=2))))


def one_shot_marginals(model: Module, prompts: Prompts, vocabulary: Vocabulary) -> Tensor:
    """log π(o_k = a | all n blanks hidden) at the blanks of one prompt, [n, A] float64, at temperature 1.

    The one-shot log-probability adds these, and the first token of a rollout is drawn from one of them.
    """
    blanks, symbols = prompts.response_mask[0].nonzero().squeeze(-1), vocabulary.allowed.nonzero().squeeze(-1)
    nothing = torch.zeros(1, len(blanks), dtype=torch.long)
    with torch.no_grad():
        return conditional_log_prob(model, prompts, blanks, symbols, nothing, vocabulary, 1.0)[0]


def tabulate(model: Module, prompts: Prompts, vocabulary: Vocabulary, *, temperature: float = 1.0) -> TabularModel:
    """All conditionals of a network at the n blanks of one prompt, from (A + 1)^n forward rows in float64.

    Args:
        prompts: one row. vocabulary: its allowed tokens are the A symbols.

    Returns:
        The table; its answers are in the order of `toy.oracle.exact_distribution`.
    """
    blanks, symbols = prompts.response_mask[0].nonzero().squeeze(-1), vocabulary.allowed.nonzero().squeeze(-1)
    base = len(symbols) + 1
    digits = torch.arange(base ** len(blanks)).unsqueeze(-1) // base ** torch.arange(len(blanks)) % base
    with torch.no_grad():
        log_pi = conditional_log_prob(model, prompts, blanks, symbols, digits, vocabulary, temperature)
    return TabularModel(log_pi, digits[(digits > 0).all(dim=-1)] - 1)
