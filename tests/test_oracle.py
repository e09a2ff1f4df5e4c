"""The exact oracle against brute force over every order, and identities that hold for any model."""

import math
from itertools import permutations, product

import numpy as np
import pytest
import torch

from dmpo_ref.config import TaskConfig
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku, is_solution
from tests.helpers import MASK, make_prompts, plain_log_prob, tiny_model
from toy.oracle import exact_distribution, kl_divergence, rewards, tilted, with_the_rest
from toy.worlds.sudoku import build_tokenizer

TOKENIZER = build_tokenizer()
PUZZLES = {1: "1234341221434021", 2: "1204341221430321", 3: "1204341221400321"}
SOLUTION = "1234341221434321"


def oracle(model, n: int, *, alphabet="1234", task=None, **options):
    words = build_vocabulary(TOKENIZER, 8, alphabet=alphabet)
    return exact_distribution(model, TOKENIZER, task or Sudoku(TaskConfig()), Puzzle(PUZZLES[n], SOLUTION), words, **options)


def order_log_probs(model, n: int, answer: list[int], allowed, *, temperature: float = 1.0) -> np.ndarray:
    """log p(o; σ) of one answer for each of the n! orders, a forward pass at a time."""
    prompts = make_prompts(PUZZLES[n].replace("0", "_"))
    tokens, attention_mask = prompts.tokens[0], prompts.attention_mask[0]
    blanks = prompts.response_mask[0].nonzero().flatten().tolist()
    totals = []
    for order in permutations(range(n)):
        state, total = tokens.clone(), 0.0
        for d in order:
            total += plain_log_prob(model, state, attention_mask, blanks[d], answer[d], allowed, temperature=temperature)
            state[blanks[d]] = answer[d]
        assert MASK not in state
        totals.append(total)
    return np.array(totals)


CASES = [(1, "1234", 1.0), (2, "1234", 0.6), (3, "123", 1.0), (3, "123", 1.8)]


@pytest.mark.parametrize(("n", "alphabet", "temperature"), CASES)
def test_the_recursion_equals_brute_force_over_every_order(n, alphabet, temperature):
    """p(o) = mean over σ of p(o; σ), and the ELBO = mean over σ of log p(o; σ), for every answer."""
    model = tiny_model(4)
    exact = oracle(model, n, alphabet=alphabet, temperature=temperature)
    allowed = [3 + int(symbol) for symbol in alphabet]
    answers = [list(answer) for answer in product(allowed, repeat=n)]
    assert sorted(exact.tokens.tolist()) == answers
    for answer, log_prob, elbo in zip(exact.tokens.tolist(), exact.log_prob.tolist(), exact.elbo.tolist(), strict=True):
        paths = order_log_probs(model, n, answer, allowed, temperature=temperature)
        assert log_prob == pytest.approx(math.log(np.exp(paths).mean()), rel=1e-11)
        assert elbo == pytest.approx(paths.mean(), rel=1e-11)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_probabilities_sum_to_one_and_the_elbo_is_below(n, seed):
    exact = oracle(tiny_model(seed), n)
    assert len(exact.log_prob) == 4**n
    assert exact.log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-9)
    gap = exact.log_prob - exact.elbo
    assert (gap >= -1e-12).all()
    assert (gap.max() > 1e-5) == (n > 1)  # with one blank there is one order, and no gap


def test_orders_matter_for_this_model():
    """Else brute force over orders would test nothing: the spread of log p(o; σ) over σ is large."""
    assert np.ptp(order_log_probs(tiny_model(4), 3, [4, 5, 6], (4, 5, 6, 7))) > 0.3


def test_texts_are_the_answers_with_the_clues_between_them():
    exact = oracle(tiny_model(0), 3)
    assert len(set(exact.texts)) == 64
    for text, tokens in zip(exact.texts, exact.tokens.tolist(), strict=True):
        digits = iter(str(token - 3) for token in tokens)
        assert text == "".join(next(digits) if symbol == "0" else symbol for symbol in PUZZLES[3])
    text = exact.texts[17]
    assert exact.probability_of(text) == pytest.approx(math.exp(exact.log_prob[17].item()))


def test_the_model_itself_stays_as_it_is():
    model = tiny_model(0, double=False).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exact = oracle(model, 2)
    assert exact.log_prob.dtype == exact.elbo.dtype == torch.float64
    assert model.training and all(p.dtype == torch.float32 for p in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_tilted_distribution_and_its_divergence_equal_numpy():
    """p* = p_ref e^{r/α} / Z over all answers; KL(p*‖p_ref) and KL(p_ref‖p*) by their sums."""
    task = Sudoku(TaskConfig(reward="recipe"))
    exact, alpha = oracle(tiny_model(0), 3, task=task), 0.3
    item = Puzzle(PUZZLES[3], SOLUTION)
    reward = rewards(task, item, exact)
    blanks = [i for i, symbol in enumerate(PUZZLES[3]) if symbol == "0"]
    expected_reward = np.array([sum(text[i] == SOLUTION[i] for i in blanks) / 3 for text in exact.texts])
    np.testing.assert_allclose(reward.numpy(), expected_reward)
    p_ref = np.exp(exact.log_prob.numpy())
    p_star = p_ref * np.exp(expected_reward / alpha)
    p_star /= p_star.sum()
    log_star = tilted(exact.log_prob, reward, alpha)
    np.testing.assert_allclose(log_star.exp().numpy(), p_star, rtol=1e-10)
    for log_p, log_q, p, q in ((log_star, exact.log_prob, p_star, p_ref), (exact.log_prob, log_star, p_ref, p_star)):
        assert kl_divergence(log_p, log_q) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-9)
    assert kl_divergence(log_star, log_star) == 0.0
    # α → ∞ leaves p_ref, α → 0 keeps only the best answer.
    assert kl_divergence(exact.log_prob, tilted(exact.log_prob, reward, 1e9)) == pytest.approx(0.0, abs=1e-9)
    best = tilted(exact.log_prob, reward, 1e-3).argmax().item()
    assert is_solution(PUZZLES[3], exact.texts[best])


def test_too_many_blanks_are_one_clear_line():
    """4 values and 9 blanks are 5^9 = 1,953,125 partial assignments."""
    item = Puzzle("0" * 9 + SOLUTION[9:], SOLUTION)
    words = build_vocabulary(TOKENIZER, 8, alphabet="1234")
    with pytest.raises(ValueError, match="9 blanks with 4 values each are 1953125 .* at most 390625") as error:
        exact_distribution(tiny_model(0), TOKENIZER, Sudoku(TaskConfig()), item, words)
    assert "\n" not in str(error.value)


def test_probabilities_of_some_answers_and_of_the_rest():
    log_prob = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
    assert with_the_rest(log_prob, [0]) == pytest.approx([0.1, 0.9])
    assert with_the_rest(log_prob, [3, 1]) == pytest.approx([0.4, 0.2, 0.4])
