"""The allowed vocabulary, token log-probabilities and ELBOs against loops over positions and sums over every mask."""

import math
from itertools import product
from math import comb

import numpy as np
import pytest
import torch

from dmpo_ref.config import ModelConfig, TaskConfig
from dmpo_ref.likelihood import Vocabulary, build_vocabulary, elbo, mask_rows, path_log_prob, score_rows, sequence_log_prob, token_log_prob
from dmpo_ref.masking import Masks, draw_masks, path_masks, stream
from dmpo_ref.models.loading import load_policy
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku
from tests.helpers import MASK, Dummy, log_softmax, make_prompts, make_rollout, plain_log_prob, plain_path_log_prob, tiny_model, vocabulary
from toy.oracle import exact_distribution
from toy.worlds.sudoku import build_tokenizer

ALLOWED = (3, 4, 6)
PATTERNS = ("12|_3__", "4|__1", "___")


@pytest.fixture
def case():
    """Prompts of three lengths, two responses each, four arbitrary masks of which only some hidden positions are scored."""
    rollout = make_rollout(make_prompts(*PATTERNS), 2, allowed=ALLOWED)
    masks = draw_masks("antithetic", rollout.response_mask, 4, [stream(0, g) for g in range(3)])
    keep = torch.rand(masks.hidden.shape, generator=stream(1)) < 0.7
    return rollout, Masks(masks.hidden, masks.hidden & keep, masks.weight)


@pytest.mark.parametrize("temperature", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("double", [True, False])
def test_token_log_probabilities_equal_a_loop_over_positions(case, temperature, double):
    rollout, masks = case
    model = tiny_model(3, double=double)
    computed = token_log_prob(model, rollout, masks, vocabulary(ALLOWED), temperature=temperature).detach()
    assert computed.dtype == (torch.float64 if double else torch.float32)
    for g, n, r, s in np.ndindex(*computed.shape):
        if not masks.target[g, n, r, s]:
            assert computed[g, n, r, s] == 0
            continue
        tokens, attention_mask = rollout.tokens[g, n], rollout.attention_mask[g, n]
        seen = tokens.masked_fill(masks.hidden[g, n, r], MASK)
        expected = plain_log_prob(model, seen, attention_mask, s, int(tokens[s]), ALLOWED, temperature=temperature)
        assert computed[g, n, r, s].item() == pytest.approx(expected, rel=1e-10 if double else 1e-4, abs=1e-12 if double else 1e-5)


@pytest.mark.parametrize("micro_batch", [1, 5, 24, 1000])
def test_the_size_of_the_micro_batch_does_not_matter(case, micro_batch):
    rollout, masks = case
    model, words = tiny_model(3), vocabulary(ALLOWED)
    whole = token_log_prob(model, rollout, masks, words)
    torch.testing.assert_close(token_log_prob(model, rollout, masks, words, micro_batch=micro_batch), whole, rtol=1e-12, atol=1e-12)
    parts = path_log_prob(model, rollout, words, micro_batch=micro_batch)
    torch.testing.assert_close(parts, path_log_prob(model, rollout, words), rtol=1e-12, atol=1e-12)


def test_a_micro_batch_bounds_the_number_of_sequences_in_a_forward(case):
    rollout, masks = case
    sizes = []

    def logits(tokens):
        sizes.append(len(tokens))
        return torch.zeros(*tokens.shape, 8)

    token_log_prob(Dummy(logits), rollout, masks, vocabulary(ALLOWED), micro_batch=5)
    assert sizes == [5, 5, 5, 5, 4]  # 3 prompts × 2 rollouts × 4 masks


def test_the_model_sees_the_mask_token_exactly_at_hidden_positions(case):
    rollout, masks = case
    seen = []
    token_log_prob(Dummy(lambda tokens: seen.append(tokens) or torch.zeros(*tokens.shape, 8)), rollout, masks, vocabulary(ALLOWED))
    fed = seen[0].view(masks.hidden.shape)
    assert torch.equal(fed == MASK, masks.hidden)
    assert torch.equal(fed[~masks.hidden], rollout.tokens.unsqueeze(2).expand_as(fed)[~masks.hidden])


@pytest.mark.parametrize("allowed", [(4, 5, 6, 7), (0, 2, 3), (5,)])
@torch.no_grad()
def test_probabilities_of_the_allowed_tokens_sum_to_one_and_the_others_are_zero(allowed):
    """Whatever the logits of the mask token and of padded rows are."""
    words = vocabulary(allowed)
    model = tiny_model(5)
    model.get_output_embeddings().weight[MASK] *= 1000
    rollout = make_rollout(make_prompts("12__"), 8, allowed=range(8))
    rollout.tokens[0, :, 3] = torch.arange(8)
    hidden = rollout.response_mask.unsqueeze(2)
    target = hidden.clone()
    target[..., 2] = False
    probability = token_log_prob(model, rollout, Masks(hidden, target, torch.ones(1, 8, 1)), words)[0, :, 0, 3].exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (probability > 0).nonzero().flatten().tolist() == list(allowed)


def test_the_allowed_vocabulary_is_all_but_the_mask_and_padded_rows():
    tokenizer = build_tokenizer()  # <|endoftext|> 0, <|mdm_mask|> 1, <|unk|> 2, digits 0 to 4 from 3 to 7
    assert build_vocabulary(tokenizer, 11).allowed.nonzero().flatten().tolist() == [0, 2, 3, 4, 5, 6, 7]
    assert build_vocabulary(tokenizer, 11, alphabet="1234").allowed.nonzero().flatten().tolist() == [4, 5, 6, 7]
    assert build_vocabulary(tokenizer, 11, full=True).allowed.tolist() == [True] * 11
    assert build_vocabulary(tokenizer, 11, alphabet="1234", full=True).allowed.tolist() == [True] * 11
    words = build_vocabulary(tokenizer, 8)
    assert words.mask_token_id == 1


def test_restricted_logits_are_at_least_float32():
    words = vocabulary((1, 2), size=4)
    for dtype, expected in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)):
        restricted = words.restrict(torch.tensor([0.5, 1.5, -2.0, 9.0], dtype=dtype))
        assert restricted.dtype == expected
        assert restricted.tolist() == [-math.inf, 1.5, -2.0, -math.inf]


def test_temperature_is_applied_in_float32_also_to_a_bfloat16_model():
    """The sampler casts first, so the two would otherwise disagree on the log-probability of a drawn token."""
    logits = torch.tensor([3.0, 1.0, -2.0, 0.5], dtype=torch.bfloat16)
    rollout = make_rollout(make_prompts("_"), 1, allowed=(4,))
    masks = Masks(*(rollout.response_mask.unsqueeze(2),) * 2, torch.ones(1, 1, 1))
    rows = torch.zeros(8, dtype=torch.bfloat16)
    rows[4:] = logits
    computed = token_log_prob(Dummy(lambda tokens: rows.expand(*tokens.shape, 8)), rollout, masks, vocabulary(), temperature=0.7)
    assert computed.item() == pytest.approx(log_softmax(logits.double().numpy() / 0.7)[0], rel=1e-5)


class FakeTokenizer:
    """Only what `build_vocabulary` asks of a tokenizer."""

    mask_token, pad_token, eos_token, unk_token_id = "<mask>", "<pad>", "<eos>", 2
    mask_token_id, pad_token_id, eos_token_id = 1, 0, 0

    def __init__(self, **changes):
        vars(self).update(changes)

    def __len__(self):
        return 6

    def __call__(self, texts, add_special_tokens):
        assert not add_special_tokens
        return type("Encoding", (), {"input_ids": [{"a": [3], "b": [4, 5]}.get(text, [2]) for text in texts]})


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"mask_token": None}, {}, "no mask_token"),
        ({"pad_token": None}, {}, "no pad_token"),
        ({}, {"embedding_size": 5}, "6 tokens but the model only 5 rows"),
        ({}, {"alphabet": "ab"}, "alphabet 'ab'"),  # b is two tokens
        ({}, {"alphabet": "az"}, "alphabet 'az'"),  # z is unknown
    ],
)
def test_a_vocabulary_that_cannot_be_is_one_clear_line(changes, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        build_vocabulary(FakeTokenizer(**changes), **({"embedding_size": 8} | arguments))
    assert "\n" not in str(error.value)


def test_the_mask_token_of_the_official_checkpoint_is_found(tmp_path):
    """As in GSAI-ML/LLaDA-8B-Instruct: `<|mdm_mask|>` is an added token, but tokenizer_config.json has no `mask_token`."""
    tokenizer = build_tokenizer()
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path)
    tiny_model(double=False).save_pretrained(tmp_path)
    policy, tokenizer = load_policy(ModelConfig(path=str(tmp_path)), torch.device("cpu"))
    assert policy.config.mask_token_id == MASK and tokenizer.convert_ids_to_tokens(MASK) == "<|mdm_mask|>"
    assert tokenizer.mask_token_id == MASK


def every_mask(response_mask: torch.Tensor) -> Masks:
    """All 2^L − 1 masks of each response, weighted so that their mean is the sum in the definition of the ELBO."""
    L = int(response_mask[0, 0].sum())
    choices = [c for c in product([False, True], repeat=L) if any(c)]
    hidden = torch.zeros(*response_mask.shape[:2], len(choices), response_mask.shape[-1], dtype=torch.bool)
    for r, choice in enumerate(choices):
        hidden[:, :, r][response_mask] = torch.tensor(choice * response_mask.shape[0] * response_mask.shape[1])
    weight = [len(choices) / (sum(c) * comb(L, sum(c))) for c in choices]
    return Masks(hidden, hidden, torch.tensor(weight, dtype=torch.float64).expand(*hidden.shape[:3]))


@pytest.mark.parametrize("puzzle", ["1204341221400321", "1234341221434021"], ids=["three_blanks", "one_blank"])
def test_the_elbo_summed_over_every_mask_is_the_exact_one_of_the_oracle(puzzle):
    item, model, tokenizer = Puzzle(puzzle, ""), tiny_model(2), build_tokenizer()
    words = build_vocabulary(tokenizer, 8, alphabet="1234")
    exact = exact_distribution(model, tokenizer, Sudoku(TaskConfig()), item, words)
    prompts = make_prompts(puzzle.replace("0", "_"))
    rollout = make_rollout(prompts, len(exact.tokens))
    rollout.tokens[:, :, prompts.response_mask[0]] = exact.tokens
    computed = elbo(model, rollout, every_mask(rollout.response_mask), words)
    torch.testing.assert_close(computed[0], exact.elbo, rtol=1e-11, atol=1e-11)


def test_the_elbo_of_sampled_masks_is_unbiased():
    """2,000 stratified pairs against the sum over every mask: within four standard errors."""
    model, words = tiny_model(2), vocabulary()
    rollout = make_rollout(make_prompts("1_2__"), 1)
    exact = elbo(model, rollout, every_mask(rollout.response_mask), words).item()
    many = make_rollout(make_prompts("1_2__"), 2000)
    many.tokens[:] = rollout.tokens
    for scheme in ("exact", "stratified", "antithetic"):
        estimates = elbo(model, many, draw_masks(scheme, many.response_mask, 2, [stream(5, scheme)]), words)
        assert abs(estimates.mean().item() - exact) < 4 * estimates.std().item() / math.sqrt(2000)


def test_path_log_prob_equals_a_loop_along_the_order():
    rollout = make_rollout(make_prompts(*PATTERNS), 2, allowed=ALLOWED)
    model = tiny_model(3)
    for temperature in (1.0, 0.7):
        computed = path_log_prob(model, rollout, vocabulary(ALLOWED), temperature=temperature)
        for g, n in np.ndindex(3, 2):
            row = rollout.tokens[g, n], rollout.attention_mask[g, n], rollout.step[g, n]
            assert computed[g, n].item() == pytest.approx(plain_path_log_prob(model, *row, ALLOWED, temperature=temperature), rel=1e-12)


def test_a_likelihood_is_that_of_the_policy_itself_unless_a_temperature_is_given():
    rollout, model, words = make_rollout(make_prompts("12|____"), 1, allowed=ALLOWED), tiny_model(3), vocabulary(ALLOWED)
    masks = path_masks(rollout.step, rollout.num_steps)
    row = rollout.tokens[0, 0], rollout.attention_mask[0, 0], rollout.step[0, 0]
    expected = plain_path_log_prob(model, *row, ALLOWED)
    assert path_log_prob(model, rollout, words).item() == pytest.approx(expected, rel=1e-12)
    assert score_rows(model, mask_rows(rollout, masks, words), words).sum().item() == pytest.approx(expected, rel=1e-12)


def test_likelihoods_have_no_gradient():
    rollout = make_rollout(make_prompts("__"), 1)
    assert not path_log_prob(tiny_model(), rollout, vocabulary()).requires_grad
    assert not elbo(tiny_model(), rollout, path_masks(rollout.step, rollout.num_steps), vocabulary()).requires_grad
    assert token_log_prob(tiny_model(), rollout, path_masks(rollout.step, rollout.num_steps), vocabulary()).requires_grad


def test_float32_terms_are_summed_in_float64():
    """100,000 terms around −7: a float32 sum is off by a hundredth of a nat, which is what two models may differ by."""
    terms = -7 + torch.randn(100_000, generator=stream(0))
    exact = math.fsum(terms.double().tolist())
    masks = Masks(*(torch.ones(1, 1, 1, 100_000, dtype=torch.bool),) * 2, torch.ones(1, 1, 1, dtype=torch.float64))
    computed = sequence_log_prob(terms.view(1, 1, 1, -1), masks)
    assert computed.dtype == torch.float64
    assert computed.item() == pytest.approx(exact, rel=1e-13)
    one_by_one = terms.cumsum(0, dtype=torch.float32)[-1].item()
    assert abs(one_by_one - exact) > 1e-3


def test_a_vocabulary_stays_where_it_is_when_a_model_elsewhere_uses_it():
    """The oracle reads `allowed` on the CPU after a policy on another device has used it; `meta` stands for that device."""
    words = Vocabulary(0, torch.tensor([False, True, True]))
    assert words.on(torch.device("meta")).device.type == "meta" and words.allowed.device.type == "cpu"
    assert words.on(torch.device("cpu")).tolist() == [False, True, True]
