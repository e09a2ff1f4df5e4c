"""A batch in which nothing is padded: known where it is made, and from then on attention gets no mask, to the same numbers."""

from dataclasses import replace

import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.likelihood import elbo
from dmpo_ref.masking import draw_masks, stream
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.base import BLANK
from dmpo_ref.tasks.encoding import encode
from tests.helpers import make_prompts, make_rollout, tiny_model, vocabulary
from toy.worlds.sudoku import build_tokenizer


class Masks:
    """A model that remembers whether it was given a mask."""

    def __init__(self, model):
        self.model, self.given = model, []

    def __call__(self, **inputs):
        self.given.append(inputs["attention_mask"] is not None)
        return self.model(**inputs)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_prompts_of_one_length_are_sampled_and_scored_without_a_mask_to_the_same_numbers(cache, guidance):
    config = SamplerConfig(name="confidence", block_length=2, temperature=0.8, cache=cache, guidance=guidance)
    results = []
    for padded in (True, False):
        model = Masks(tiny_model(3, rope=True))
        prompts = replace(make_prompts("12|____", "34|____"), padded=padded)
        rollout = sample(model, prompts, config, vocabulary(), num_rollouts=3, generators=[stream(0, "p", g) for g in range(2)])
        masks = draw_masks("exact", rollout.response_mask, 2, [stream(1, "p", g) for g in range(2)])
        results.append((rollout.tokens, elbo(model, rollout, masks, vocabulary(), micro_batch=5)))
        assert set(model.given) == {padded}
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-12, atol=1e-12)


class Lengths:
    """A task whose items are the lengths of its prompts."""

    prefill = ""

    def prompt(self, item):
        return "1" * item

    def template(self, item):
        return BLANK * 3


@pytest.mark.parametrize(("items", "padded"), [([4], False), ([4, 4], False), ([4, 3], True)])
def test_a_batch_is_known_to_be_without_padding_where_it_is_made(items, padded):
    prompts = encode(build_tokenizer(), Lengths(), items)
    assert prompts.padded == (not prompts.attention_mask.all()) == padded
    assert prompts.to(torch.device("cpu")).repeat(2).select(torch.tensor([0])).padded == padded


def test_rollouts_of_two_lengths_are_padded_once_they_are_joined():
    short, other, long = (replace(make_rollout(make_prompts(pattern), 2), padded=False) for pattern in ("1|__", "2|__", "12|__"))
    assert not short.join(other).padded and not short.select(torch.tensor([0])).padded
    assert short.join(long).padded and long.join(short).padded and short.join(replace(other, padded=True)).padded
