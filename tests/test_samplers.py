"""Samplers against a slow reference that fills one row at a time, the exact oracle, and models with known answers."""

from itertools import permutations

import numpy as np
import pytest
import torch

from dmpo_ref.config import SamplerConfig, TaskConfig
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.masking import stream
from dmpo_ref.samplers import proposal, sample
from dmpo_ref.samplers.rows import Rows, set_aside_finished
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku
from tests.helpers import (
    MASK,
    Dummy,
    chi_square_p_value,
    log_softmax,
    make_prompts,
    plain_log_prob,
    plain_path_log_prob,
    tiny_model,
    vocabulary,
)
from tests.slow_samplers import plain_forward, slow_fill
from toy.oracle import exact_distribution
from toy.worlds.sudoku import build_tokenizer

ALLOWED = (4, 5, 6, 7)
NAMES = ["random_order", "random", "confidence"]


def draw(model, prompts, *, num_rollouts=1, seed=0, words=None, **config):
    generators = [stream(seed, "prompt", g) for g in range(len(prompts.tokens))]
    words = words or vocabulary(ALLOWED)
    return sample(model, prompts, SamplerConfig(**config), words, num_rollouts=num_rollouts, generators=generators)


def constant(*logits: float) -> Dummy:
    """The same logits at every position of every sequence."""
    row = torch.tensor(logits, dtype=torch.float64)
    return Dummy(lambda tokens: row.expand(*tokens.shape, len(row)))


SCHEDULES = [(None, None), (2, None), (4, None), (None, 1), (None, 3), (None, 5), (2, 4), (4, 4), (4, 6), (4, 2), (1, 8), (8, 8)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "block_length", "steps"), [(n, b, s) for n in NAMES for b, s in SCHEDULES if s is None or n != "random_order"]
)
def test_temperature_0_equals_the_slow_reference(name, block_length, steps):
    """Tokens, steps, block order and the even split, for every combination of block length (L = 8) and number of steps."""
    prompts = make_prompts("_1__2_34____", "12____34____")
    for seed in range(3):
        model = tiny_model(seed)
        rollout = draw(model, prompts, num_rollouts=2, name=name, temperature=0, block_length=block_length, steps=steps)
        for g, n in np.ndindex(2, 2):
            blanks = prompts.response_mask[g].nonzero().flatten().tolist()
            observed = None if name == "confidence" else rollout.step[g, n].tolist()
            expected = slow_fill(plain_forward(model), prompts.tokens[g].tolist(), blanks, rollout.sampler, ALLOWED, observed=observed)
            assert rollout.tokens[g, n].tolist() == expected[0]
            assert {s: rollout.step[g, n, s].item() for s in blanks} == expected[1]
        assert (rollout.step[~rollout.response_mask] == -1).all()
        assert rollout.path_log_prob is None  # nothing was drawn


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_every_position_is_filled_and_prompts_are_kept(name, temperature):
    prompts = make_prompts("1_2____3", "12|____", "_")
    rollout = draw(tiny_model(1), prompts, num_rollouts=5, name=name, temperature=temperature)
    response = prompts.response_mask.unsqueeze(1).expand(-1, 5, -1)
    assert torch.isin(rollout.tokens[response], torch.tensor(ALLOWED)).all()
    assert torch.equal(rollout.tokens[~response], prompts.tokens.unsqueeze(1).expand(-1, 5, -1)[~response])
    assert torch.equal(rollout.step >= 0, response)
    for field in ("attention_mask", "prompt_mask", "response_mask"):
        assert torch.equal(getattr(rollout, field), getattr(prompts, field).unsqueeze(1).expand(-1, 5, -1))
    assert rollout.sampler == SamplerConfig(name=name, temperature=temperature)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "options"), [*((name, {}) for name in NAMES), ("confidence", {"steps": 2}), ("threshold", {"threshold": 0.3}), ("factor", {})]
)
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_confidence_is_the_probability_at_temperature_1_when_the_token_was_placed(name, options, temperature):
    """Each step again, by itself: what came later is hidden, and the softmax over the allowed tokens is read."""
    prompts, model = make_prompts("_1__2_34____", "12|____34____"), tiny_model(4)
    rollout = draw(model, prompts, num_rollouts=2, name=name, temperature=temperature, **options)
    for g, n in np.ndindex(2, 2):
        tokens, step, mask = rollout.tokens[g, n], rollout.step[g, n], rollout.attention_mask[g, n]
        for s in range(len(tokens)):
            expected = 1.0
            if step[s] >= 0:
                seen = tokens.masked_fill(step >= step[s], MASK)
                expected = np.exp(plain_log_prob(model, seen, mask, s, int(tokens[s]), ALLOWED))
            assert rollout.confidence[g, n, s].item() == pytest.approx(expected, rel=1e-5)
    assert rollout.confidence.dtype == torch.float32


def test_confidence_follows_its_rollout_through_select_beside_and_join():
    prompts, model = make_prompts("1_2____3", "12|____"), tiny_model(1)
    first, second = (draw(model, prompts, num_rollouts=2, seed=seed) for seed in (0, 1))
    assert torch.equal(first.select(torch.tensor([1])).confidence, first.confidence[1:])
    assert torch.equal(first.beside(second).confidence, torch.cat((first.confidence, second.confidence), dim=1))
    shorter = draw(model, make_prompts("_2"), num_rollouts=2)
    joined = first.join(shorter)
    assert torch.equal(joined.confidence[2, :, -2:], shorter.confidence[0]) and (joined.confidence[2, :, :-2] == 1).all()
    shorter.confidence = None  # of a checkpoint of an earlier version
    assert first.join(shorter).confidence is None and torch.equal(first.join(shorter).tokens, joined.tokens)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_different_length_place_one_token_per_step_until_they_are_full(name):
    lengths = (5, 4, 1)
    rollout = draw(tiny_model(1), make_prompts("1_2____3", "12|____", "_"), num_rollouts=3, name=name)
    for g, n in np.ndindex(3, 3):
        assert sorted(rollout.step[g, n][rollout.response_mask[g, n]].tolist()) == list(range(lengths[g]))


@pytest.mark.parametrize("name", ["random", "confidence"])
@pytest.mark.parametrize(("block_length", "steps"), [(2, 6), (3, 4), (6, 2), (6, 6), (None, 4), (None, 1)])
def test_rows_of_different_length_share_a_step_budget(name, block_length, steps):
    """At least one token per step until a row is full, and never more steps than asked for. Lengths 12, 6 and 6."""
    prompts = make_prompts("____________", "12______", "______")
    rollout = draw(tiny_model(1), prompts, num_rollouts=2, name=name, block_length=block_length, steps=steps)
    assert rollout.forwards == steps
    for g, n in np.ndindex(3, 2):
        taken = rollout.step[g, n][rollout.response_mask[g, n]]
        counts = torch.bincount(taken)
        assert (counts >= 1).all() and len(counts) <= steps
        blocks = taken.view(-1, block_length or len(taken))
        for before, after in zip(blocks[:-1], blocks[1:], strict=True):
            assert before.max() < after.min()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("micro_batch", [None, 4, 1])
def test_forwards_and_fed_tokens_are_counted(name, micro_batch):
    """Lengths 6 and 6 of 7 positions, 3 rollouts each: 6 steps for every part, every position fed in each."""
    steps = 6 if name == "random_order" else 3
    model = constant(0, 0, 0, 0, 0, 0, 0, 0)
    prompts = make_prompts("1______", "______2")
    config = {} if name == "random_order" else {"steps": 3}
    rollout = draw(model, prompts, num_rollouts=3, name=name, micro_batch=micro_batch, **config)
    parts = {None: 1, 4: 2, 1: 6}[micro_batch]
    assert rollout.forwards == model.calls == steps * parts
    assert rollout.fed_tokens == model.fed == steps * 6 * 7


def test_the_log_probability_of_constant_logits_is_known():
    """Four equally likely tokens: −n ln 4 whatever the order and the temperature."""
    for temperature in (0.3, 1.0):
        rollout = draw(constant(9, 9, 9, 9, 1, 1, 1, 1), make_prompts("12__3___"), num_rollouts=4, temperature=temperature)
        torch.testing.assert_close(rollout.path_log_prob, torch.full((1, 4), -5 * np.log(4), dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 3.0])
@pytest.mark.parametrize("block_length", [None, 2])
def test_the_path_log_probability_is_the_one_at_the_temperature_of_sampling(temperature, block_length):
    model, prompts = tiny_model(4), make_prompts("12|_3__4_", "1|____")
    rollout = draw(model, prompts, num_rollouts=4, temperature=temperature, block_length=block_length)
    assert rollout.path_log_prob.dtype == torch.float64
    for g, n in np.ndindex(2, 4):
        row = rollout.tokens[g, n], rollout.attention_mask[g, n], rollout.step[g, n]
        expected = plain_path_log_prob(model, *row, ALLOWED, temperature=temperature)
        assert rollout.path_log_prob[g, n].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["random", "confidence"])
def test_samplers_without_a_path_probability_claim_none(name):
    assert draw(tiny_model(), make_prompts("____"), name=name).path_log_prob is None


@pytest.mark.parametrize(("seed", "temperature"), [(0, 1.0), (6, 1.0), (6, 0.6)])
def test_random_order_draws_from_the_distribution_of_the_oracle(seed, temperature):
    """20,000 answers to a puzzle of 3 blanks; χ² over its 64 answers, not rejected at 1 %."""
    puzzle = "1204341221400321"
    tokenizer, model = build_tokenizer(), tiny_model(seed, d_model=16, mlp_hidden_size=16)
    words = build_vocabulary(tokenizer, 8, alphabet="1234")
    exact = exact_distribution(model, tokenizer, Sudoku(TaskConfig()), Puzzle(puzzle, ""), words, temperature=temperature)
    prompts = make_prompts(puzzle.replace("0", "_"))
    rollout = draw(model.float(), prompts, num_rollouts=20_000, words=words, temperature=temperature, seed=100)
    answers = rollout.tokens[0][:, prompts.response_mask[0]]
    counts = (answers.unsqueeze(1) == exact.tokens).all(dim=-1).sum(dim=0).numpy()
    assert counts.sum() == 20_000
    assert chi_square_p_value(counts, exact.log_prob.exp().numpy()) > 0.01


def test_the_chi_square_test_would_notice_the_wrong_order():
    """Left to right (blocks of 1) is another distribution than random order: the same test rejects it clearly."""
    puzzle = "1204341221400321"
    tokenizer, model = build_tokenizer(), tiny_model(6, d_model=16, mlp_hidden_size=16)
    words = build_vocabulary(tokenizer, 8, alphabet="1234")
    exact = exact_distribution(model, tokenizer, Sudoku(TaskConfig()), Puzzle(puzzle, ""), words)
    prompts = make_prompts(puzzle.replace("0", "_"))
    rollout = draw(model.float(), prompts, num_rollouts=8192, words=words, block_length=1, seed=11)
    answers = rollout.tokens[0][:, prompts.response_mask[0]]
    counts = (answers.unsqueeze(1) == exact.tokens).all(dim=-1).sum(dim=0).numpy()
    assert chi_square_p_value(counts, exact.log_prob.exp().numpy()) < 1e-6


@pytest.mark.parametrize("block_length", [None, 2])
def test_every_order_within_blocks_is_equally_likely(block_length):
    rollout = draw(constant(*[0] * 8), make_prompts("1____"), num_rollouts=4096, block_length=block_length)
    orders = [p for p in permutations(range(4)) if block_length is None or max(p[:2]) < min(p[2:])]
    seen = [tuple(row) for row in rollout.step[0, :, 1:].tolist()]
    counts = np.array([seen.count(order) for order in orders])
    assert counts.sum() == 4096
    assert chi_square_p_value(counts, np.ones(len(orders))) > 0.01


def test_random_remasking_places_every_subset_equally_often():
    rollout = draw(constant(*[0] * 8), make_prompts("1____"), num_rollouts=4096, name="random", steps=2)
    first = [tuple(row.nonzero().flatten().tolist()) for row in rollout.step[0, :, 1:] == 0]
    counts = np.array([first.count(pair) for pair in sorted(set(first))])
    assert len(counts) == 6 and {len(pair) for pair in first} == {2}
    assert chi_square_p_value(counts, np.ones(6)) > 0.01


def test_the_order_is_independent_of_the_tokens():
    """Two blanks, two tokens: which blank came first and what it got are drawn from different numbers."""
    rollout = draw(constant(*[0] * 8), make_prompts("__"), num_rollouts=8192, words=vocabulary((4, 5)))
    first = rollout.step[0, :, 0]
    for s in (0, 1):
        pairs = first * 2 + (rollout.tokens[0, :, s] - 4)
        assert chi_square_p_value(torch.bincount(pairs, minlength=4).numpy(), np.ones(4)) > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_tokens_follow_the_softmax_at_the_temperature(name):
    """Constant logits: 4 × 2,048 independent draws from softmax(logits / T). Confidence selects, unless all are placed at once."""
    logits = np.array([0.0, 0.5, 1.0, -1.0])
    config = {"random_order": {}, "random": {"steps": 2}, "confidence": {"steps": 1}}[name]
    rollout = draw(constant(50, 50, 50, 50, *logits), make_prompts("____"), num_rollouts=2048, name=name, temperature=0.5, **config)
    counts = torch.bincount(rollout.tokens.flatten() - 4, minlength=4).numpy()
    assert chi_square_p_value(counts, np.exp(logits / 0.5)) > 0.01


def test_confidence_remasking_draws_from_its_exact_distribution():
    """Two blanks, two steps, T = 4: both propose, the one whose token is likelier at temperature 1 stays, the other is drawn again.

    At temperature 4 the winner would often be the other one: 0.71 beats 0.50 here, but 0.36 loses to 0.48 there.
    """
    table = torch.tensor([[0, 0, 0, 0, 3, 3, -9, -9], [0, 0, 0, 0, 2, 0, 0, 0]], dtype=torch.float64)
    sure, p = (np.exp([log_softmax(row / t) for row in table[:, 4:].numpy()]) for t in (1.0, 4.0))
    expected = np.zeros((2, 4, 4))  # [filled first, token 0, token 1]
    for a, b, again in np.ndindex(4, 4, 4):
        winner = int(sure[1, b] > sure[0, a])
        kept = (a, again) if winner == 0 else (again, b)
        expected[(winner, *kept)] += p[0, a] * p[1, b] * p[1 - winner, again]
    model = Dummy(lambda tokens: table.expand(len(tokens), -1, -1))
    rollout = draw(model, make_prompts("__"), num_rollouts=8192, name="confidence", temperature=4.0)
    index = rollout.step[0, :, 0] * 16 + (rollout.tokens[0, :, 0] - 4) * 4 + (rollout.tokens[0, :, 1] - 4)
    assert chi_square_p_value(torch.bincount(index, minlength=32).numpy(), expected.flatten()) > 0.01


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0, 10.0])
def test_tokens_that_are_not_allowed_are_never_drawn_whatever_their_logits(name, temperature):
    """Mask token, end token and padded rows at 10,000, allowed ones at 0, one allowed one at −10,000."""
    model = constant(1e4, 1e4, 1e4, 1e4, 0.0, 0.0, -1e4, 1e4)
    rollout = draw(model, make_prompts("12______"), num_rollouts=64, name=name, temperature=temperature, words=vocabulary((4, 5, 6)))
    assert torch.isin(rollout.tokens[0, :, 2:], torch.tensor([4, 5])).all()


def test_a_likely_token_at_the_edge_of_the_vocabulary_is_drawn():
    """The last row, and the row before a run of forbidden ones: where a rounded CDF would fall off the end."""
    for token in (0, 3, 7):
        logits = [-1e4] * 8
        logits[token] = 0.0
        rollout = draw(constant(*logits), make_prompts("____"), num_rollouts=256, words=vocabulary((0, 3, 7)))
        assert (rollout.tokens == token).all()


def test_the_ends_of_the_uniform_interval_give_tokens_of_positive_probability():
    """u = 0 where the first rows are forbidden, the largest double below 1 where the last ones are, and a jump of the CDF.

    Four equally likely tokens, so that the jumps are where they should be to the last bit.
    """
    logits = torch.tensor([-torch.inf, -torch.inf, 0.3, 0.3, 0.3, 0.3, -torch.inf], dtype=torch.float64).expand(3, -1)
    token, log_prob, _ = proposal.draw_tokens(logits, 1.0, torch.tensor([0.0, 1 - 2**-53, 0.25], dtype=torch.float64))
    assert token.tolist() == [2, 5, 3]  # the token whose CDF exceeds u comes after the one whose CDF equals it
    np.testing.assert_allclose(log_prob.numpy(), -np.log([4.0, 4.0, 4.0]))


def test_a_draw_has_the_probabilities_of_the_softmax_at_both_temperatures():
    """Confidence at temperature 1, log-probability at T, whatever the size of the logits."""
    logits = torch.tensor([[3.0, -torch.inf, -1.0, 0.5], [-900.0, -torch.inf, -901.0, -904.0], [800.0, -torch.inf, 801.0, -1e4]])
    for temperature in (0.0, 0.2, 1.0, 3.0):
        for u in (0.0, 0.5, 0.999999):
            token, log_prob, confidence = proposal.draw_tokens(logits.double(), temperature, torch.full((3,), u, dtype=torch.float64))
            for i, row in enumerate(logits[:, [0, 2, 3]].double().numpy()):
                k = [0, None, 1, 2][token[i]]
                assert k == row.argmax() or temperature > 0
                cdf = np.append(0, np.cumsum(np.exp(log_softmax(row / (temperature or 1.0)))))
                assert temperature == 0 or cdf[k] <= u + 1e-12 and u < cdf[k + 1] + 1e-12
                assert log_prob[i].item() == pytest.approx(log_softmax(row / (temperature or 1.0))[k], rel=1e-12, abs=1e-15)
                assert confidence[i].item() == pytest.approx(np.exp(log_softmax(row)[k]), rel=1e-12)


LENGTHS = ("12|_3__", "4|____1_", "__")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("micro_batch", [1, 2, 5])
def test_results_do_not_depend_on_the_micro_batch(name, temperature, micro_batch):
    model, prompts = tiny_model(2), make_prompts(*LENGTHS)
    whole = draw(model, prompts, num_rollouts=3, name=name, temperature=temperature)
    parts = draw(model, prompts, num_rollouts=3, name=name, temperature=temperature, micro_batch=micro_batch)
    assert torch.equal(whole.tokens, parts.tokens)
    assert torch.equal(whole.step, parts.step)


NEIGHBOURS = {
    "of the same shape": ["12|_3__", "4|1_2_3", "1|_2__3"],
    "with more padding": ["12|_3__", "1234|___"],
    "with more blanks": ["12|_3__", "1|_____"],
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("neighbours", NEIGHBOURS)
def test_results_for_a_prompt_do_not_depend_on_other_prompts_in_the_batch(name, temperature, neighbours):
    model, patterns = tiny_model(2), NEIGHBOURS[neighbours]
    together = draw(model, make_prompts(*patterns), num_rollouts=8, name=name, temperature=temperature)
    alone = draw(model, make_prompts(patterns[0]), num_rollouts=8, name=name, temperature=temperature)
    padding = together.tokens.shape[-1] - alone.tokens.shape[-1]
    assert torch.equal(together.tokens[:1, :, padding:], alone.tokens)
    assert torch.equal(together.step[:1, :, padding:], alone.step)


def test_rollouts_and_prompts_have_random_numbers_of_their_own():
    rollout = draw(constant(*[0] * 8), make_prompts("_" * 12, "_" * 12), num_rollouts=6)
    rows = rollout.tokens.flatten(0, 1).tolist()
    assert len(set(map(tuple, rows))) == 12
    assert len(set(map(tuple, rollout.step.flatten(0, 1).tolist()))) == 12


def test_sampling_leaves_the_global_random_state_alone_and_repeats_itself():
    before = torch.get_rng_state()
    first, second = (draw(tiny_model(2), make_prompts("____"), num_rollouts=8) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.tokens, second.tokens)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_one_clear_line(name, temperature, bad):
    """NaN, +∞ or −∞ in the allowed tokens at one position of one row."""

    def logits(tokens):
        values = torch.zeros(*tokens.shape, 8, dtype=torch.float64)
        values[-1, 1, 4:] = bad
        return values

    with pytest.raises(ValueError, match="logits that are NaN or all −∞") as error:
        draw(Dummy(logits), make_prompts("____", "1___"), name=name, temperature=temperature)
    assert "\n" not in str(error.value)


def test_nan_at_tokens_that_are_not_allowed_does_no_harm():
    model = constant(float("nan"), float("nan"), 0, 0, 0, 0, 0, 0)
    assert torch.isfinite(draw(model, make_prompts("____")).path_log_prob).all()


@pytest.mark.parametrize(
    ("patterns", "config", "message"),
    [
        (("______",), {"block_length": 4}, "block_length=4 does not divide a response of 6"),
        (("______", "_____"), {"block_length": 3}, "block_length=3 does not divide a response of 5"),
        (("____",), {"block_length": 8}, "block_length=8 does not divide a response of 4"),
        (("____",), {"steps": 5}, "steps=5 for a response of 4 positions; choose 1 to 4"),
        (("______", "___"), {"steps": 4}, "steps=4 for a response of 3 positions; choose 1 to 3"),
        (("____",), {"steps": 0}, "steps=0 for a response of 4"),
        (("______",), {"block_length": 2, "steps": 4}, "steps=4 is not a multiple of the 3 blocks"),
        (("12",), {}, "nothing to generate"),
        (("____", "12"), {}, "nothing to generate"),
    ],
)
def test_block_lengths_and_steps_that_do_not_fit_are_one_clear_line(patterns, config, message):
    with pytest.raises(ValueError, match=message) as error:
        draw(tiny_model(), make_prompts(*patterns), name="random", **config)
    assert "\n" not in str(error.value)


def test_the_mask_token_is_what_the_model_sees_at_open_positions():
    """In step t exactly n − t positions hold the mask token; a row that is full is fed no more."""
    seen = []
    model = Dummy(lambda tokens: seen.append((tokens == MASK).sum(dim=-1).tolist()) or torch.zeros(*tokens.shape, 8))
    draw(model, make_prompts("1____", "12___"), num_rollouts=1)
    assert seen == [[4, 3], [3, 2], [2, 1], [1]]


@pytest.mark.parametrize("name", ["random", "confidence"])
def test_a_row_keeps_its_own_schedule_beside_a_longer_one(name):
    """Lengths 8 and 4 in blocks of 2 and 4 steps: one step a block for the long row, two for the short one, in any batch."""
    prompts = make_prompts("________", "____")
    options = {"name": name, "block_length": 2, "steps": 4, "temperature": 0.9}
    together = draw(tiny_model(4), prompts, **options)
    alone = draw(tiny_model(4), prompts, micro_batch=1, **options)
    assert torch.equal(together.tokens, alone.tokens)
    assert together.step[0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert sorted(together.step[1, 0][-4:].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 2.5])
def test_a_proposal_is_a_token_by_inverse_cdf_with_its_two_probabilities(temperature):
    """Against numpy, position by position: the token, its log-probability at T (at 1 for T = 0), its probability at 1."""
    logits = 3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    allowed, words = [3, 4, 6, 7], vocabulary((3, 4, 6, 7))
    token, log_prob, confidence = proposal.propose(logits, words, temperature, uniform)
    assert token.shape == log_prob.shape == confidence.shape == (40,)
    for k in range(40):
        row = logits[k, allowed].double().numpy()
        log_p, log_p_at_1 = log_softmax(row / (temperature or 1.0)), log_softmax(row)
        chosen = int(row.argmax()) if temperature == 0 else int((np.exp(log_p).cumsum() <= uniform[k].item()).sum())
        assert token[k].item() == allowed[chosen]
        assert log_prob[k].item() == pytest.approx(log_p[chosen], abs=1e-12)
        assert confidence[k].item() == pytest.approx(np.exp(log_p_at_1[chosen]), abs=1e-12)
    one = [proposal.propose(logits[k : k + 1], words, temperature, uniform[k : k + 1]) for k in range(40)]
    for together, alone in zip((token, log_prob, confidence), zip(*one, strict=True), strict=True):
        assert torch.equal(together, torch.cat(alone))
    if temperature == 0:
        np.testing.assert_allclose(proposal.token_probability(logits, words, token), confidence, rtol=1e-12)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        ({}, 4),  # one token a step, of the longest response
        ({"name": "confidence"}, 4),
        ({"name": "confidence", "steps": 2}, 2),
        ({"name": "random", "steps": 1}, 1),
        ({"name": "confidence", "steps": 9}, 4),  # those above the length find nothing masked
        ({"name": "threshold"}, 4),
    ],
)
def test_a_rollout_says_the_most_steps_that_its_sampler_can_take(config, most):
    rollout = draw(tiny_model(), make_prompts("1__2_", "____1"), num_rollouts=2, **config)
    assert rollout.num_steps == most and rollout.step.max() < most
    if config.get("name", "random_order") == "random_order":
        assert rollout.step.amax(dim=-1).tolist() == [[2, 2], [3, 3]]


def test_what_an_ended_answer_is_filled_up_with_has_confidence_1():
    """Also where a token had been placed and was taken back."""
    prompts = make_prompts("12|____")
    state = Rows.start(prompts, None, torch.zeros(1, 2, prompts.tokens.shape[1]))
    state.tokens[0, -4:] = torch.tensor([4, 5, MASK, MASK])
    state.masked[0, -4:-2], state.confidence[0, -4:] = False, torch.tensor([0.5, 0.25, 0.125, 1.0])
    finished: list[Rows] = []
    set_aside_finished(state, finished, state.masked, torch.tensor([5]), now=3)
    [row] = finished
    assert row.tokens[0, -4:].tolist() == [4, 5, 5, 5] and row.step[0, -2:].tolist() == [3, 3]
    assert row.confidence[0, -4:].tolist() == [0.5, 0.25, 1.0, 1.0]
