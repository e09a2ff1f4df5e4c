"""The exact oracle: the whole distribution of a masked diffusion policy over the answers to one small puzzle.

Under uniformly random unmasking order, the probability of a partial assignment x_S of the n blanks is

    P(x_S) = Σ_{d ∈ S} P(x_{S∖d}) · π(x_d | x_{S∖d}) / (n − |S| + 1),    P(nothing) = 1,

since each of the n − |S| + 1 blanks still open was equally likely to be next. π is over the allowed vocabulary of A tokens,
so there are (A + 1)^n partial assignments and A^n answers, all visited, in float64.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from tqdm import tqdm

from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.tasks.encoding import decode, encode

MAX_STATES = 5**8  # 390,625 forward rows; one more blank would take minutes
ROWS_PER_FORWARD = 256  # larger tensors take longer in all: their memory is asked from the system each time


@dataclass
class Exact:
    """Exact distribution of a policy over all C = A^n answers to one item.

    Attributes:
        texts: the C answers as text.
        tokens: [C, n] their token ids at the blanks, in reading order.
        log_prob: [C] float64 log p_θ(o), in nats, with random unmasking order: log E_σ p_θ(o; σ).
        elbo: [C] float64, the exact −L_θ(o) ≤ log_prob; the difference is the gap.
    """

    texts: list[str]
    tokens: Tensor
    log_prob: Tensor
    elbo: Tensor

    def probability_of(self, text: str) -> float:
        """p_θ of one answer."""
        return self.log_prob[self.texts.index(text)].exp().item()


@torch.no_grad()
def exact_distribution(model: Module, tokenizer, task, item: Any, vocabulary: Vocabulary, *, temperature: float = 1.0) -> Exact:
    """Enumerate the policy on one item.

    Args:
        model: the policy; a float64 copy is evaluated, the model itself is not changed.
        vocabulary: its allowed tokens are the A values a blank can take.
        temperature: T > 0 of softmax(logits / T).

    Raises:
        ValueError: more than 5^8 partial assignments.
    """
    prompts = encode(tokenizer, task, [item])
    blanks = prompts.response_mask[0].nonzero().squeeze(-1)
    symbols = vocabulary.allowed.nonzero().squeeze(-1)
    n, A = len(blanks), len(symbols)
    if (A + 1) ** n > MAX_STATES:
        raise ValueError(f"{n} blanks with {A} values each are {(A + 1) ** n} partial assignments; at most {MAX_STATES} are enumerated")
    # State s in base A + 1: digit i is 0 while blank i is open, else 1 + the index of its symbol.
    place = (A + 1) ** torch.arange(n)
    digits = torch.arange((A + 1) ** n).unsqueeze(-1) // place % (A + 1)  # [states, n]
    log_pi = conditional_log_prob(model, prompts, blanks, symbols, digits, vocabulary, temperature)
    log_prob = arrival_log_prob(log_pi, digits, place)
    answers = (digits > 0).all(dim=-1).nonzero().squeeze(-1)
    tokens = prompts.tokens.repeat(len(answers), 1)
    tokens[:, blanks] = symbols[digits[answers] - 1]
    same = [mask.expand(len(answers), -1) for mask in (prompts.attention_mask, prompts.prompt_mask)]
    return Exact(
        texts=decode(tokenizer, tokens, *same),
        tokens=tokens[:, blanks],
        log_prob=log_prob[answers],
        elbo=exact_elbo(log_pi, digits[answers], place),
    )


def conditional_log_prob(
    model, prompts, blanks: Tensor, symbols: Tensor, digits: Tensor, vocabulary: Vocabulary, temperature: float
) -> Tensor:
    """log π(blank i takes symbol a | state s), [states, n, A] float64; 0 where the blank is not open."""
    exact_model = copy.deepcopy(model).double().cpu().eval()
    n, A = digits.shape[1], len(symbols)
    values = torch.cat((torch.tensor([vocabulary.mask_token_id]), symbols))
    log_pi = torch.zeros(len(digits), n, A, dtype=torch.float64)
    parts = (digits == 0).any(dim=-1).nonzero().squeeze(-1).split(ROWS_PER_FORWARD)  # nothing is asked of a full answer
    for rows in tqdm(parts, desc="enumerate", disable=None if len(parts) > 1 else True, leave=False):
        tokens = prompts.tokens.repeat(len(rows), 1)
        tokens[:, blanks] = values[digits[rows]]
        select = torch.zeros_like(tokens, dtype=torch.bool)
        select[:, blanks] = digits[rows] == 0
        attention_mask = prompts.attention_mask.expand(len(rows), -1)
        logits = exact_model(input_ids=tokens, attention_mask=attention_mask, select=select).logits
        log_p = (vocabulary.restrict(logits) / temperature).log_softmax(dim=-1)[:, symbols]
        is_open = (digits[rows] == 0).unsqueeze(-1).expand(-1, -1, A)
        log_pi[rows] = log_pi[rows].masked_scatter(is_open, log_p)
    return log_pi


def arrival_log_prob(log_pi: Tensor, digits: Tensor, place: Tensor) -> Tensor:
    """log P(x_S) of every state, [states], by the recursion over |S|."""
    n = digits.shape[1]
    filled = (digits > 0).sum(dim=-1)
    log_p = torch.full((len(digits),), -torch.inf, dtype=torch.float64)
    log_p[0] = 0.0
    for size in range(1, n + 1):
        states = (filled == size).nonzero().squeeze(-1)
        ways = []
        for d in range(n):
            value = digits[states, d]
            before = states - value * place[d]
            arrival = log_p[before] + log_pi[before, d, (value - 1).clamp(min=0)]
            ways.append(torch.where(value > 0, arrival, -torch.inf))
        log_p[states] = torch.stack(ways).logsumexp(dim=0) - torch.tensor(n - size + 1.0, dtype=torch.float64).log()
    return log_p


def exact_elbo(log_pi: Tensor, answers: Tensor, place: Tensor) -> Tensor:
    """−L_θ(o) = Σ over mask sets M ≠ ∅ of 1 / (|M| C(n, |M|)) · Σ_{d ∈ M} log π(o_d | o outside M), [C] float64."""
    n = answers.shape[1]
    total = torch.zeros(len(answers), dtype=torch.float64)
    for subset in range(1, 2**n):
        members = [d for d in range(n) if subset >> d & 1]
        m = len(members)
        state = (answers * place).sum(dim=-1) - (answers[:, members] * place[members]).sum(dim=-1)
        total += sum(log_pi[state, d, answers[:, d] - 1] for d in members) / (m * comb(n, m))
    return total


def tilted(log_ref: Tensor, reward: Tensor, alpha: float) -> Tensor:
    """log p* for p*(o) = p_ref(o) · e^{r(o)/α} / Z, normalised over all C answers. [C]"""
    return (log_ref + reward / alpha).log_softmax(dim=-1)


def flattened(log_ref: Tensor, reward: Tensor, alpha: float, above: float) -> Tensor:
    """log p̃, the target of `weight.flatten_above`: p*, in which the answers of reward ≥ `above` share their mass evenly. [C]"""
    log_target, good = tilted(log_ref, reward, alpha), reward >= above
    return torch.where(good, log_target.masked_fill(~good, -torch.inf).logsumexp(dim=-1) - good.sum().log(), log_target)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> float:
    """KL(p‖q) = Σ p (log p − log q), in nats; an answer that p never gives contributes 0."""
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum().item()


def with_the_rest(log_prob: Tensor, chosen: list[int]) -> list[float]:
    """Probabilities of some answers, and of all others together; they add up to 1. [C] → len(chosen) + 1"""
    shown = log_prob[chosen].exp()
    return [*shown.tolist(), 1 - shown.sum().item()]


def rewards(task, item: Any, exact: Exact) -> Tensor:
    """Reward of every answer, [C] float64."""
    return torch.tensor([sum(task.reward(item, text).values()) for text in exact.texts], dtype=torch.float64)
