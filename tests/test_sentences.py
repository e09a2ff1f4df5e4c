"""The world of sentences against Bayes' rule in plain loops, and numbers worked by hand."""

import math

import numpy as np
import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.masking import stream
from dmpo_ref.samplers import sample
from toy.sampling import Spy
from toy.worlds.sentences import END, MASK, QUESTION, Library, draw, watch

SENTENCES = {"a b": 0.5, "c b": 0.3, "c d": 0.2}
WORDS = [MASK, QUESTION, END, "a", "b", "c", "d"]


def emission(d, word, sentence, length):
    """1 − ε_d at the sentence's word, and ε_d shared by all words; ε_d from 0.001 at the question to 0.002 at the end."""
    noise = 1e-3 * (1 + d / length)
    said = [QUESTION, *sentence.split(), *[END] * length]
    return noise / len(WORDS) + (1 - noise) * (word == said[d])


def by_bayes(seen, d, length):
    """{word: π(word at position d | {position: word seen})}, in probabilities, one sentence after the other."""
    fit = {s: p * math.prod(emission(at, word, s, length) for at, word in seen.items()) for s, p in SENTENCES.items()}
    return {word: sum(f * emission(d, word, s, length) for s, f in fit.items()) / sum(fit.values()) for word in WORDS}


def test_words_are_sorted_after_the_special_ones():
    library = Library(SENTENCES, length=3)
    assert library.words == WORDS and library.ids == {word: i for i, word in enumerate(WORDS)}
    assert library.vocabulary.mask_token_id == 0
    assert library.emission.shape == (3, 4, 7) and Library(SENTENCES).emission.shape == (3, 13, 7)
    np.testing.assert_allclose(library.emission.sum(dim=2), np.ones((3, 4)), rtol=1e-12)
    assert library.vocabulary.allowed.tolist() == [False, False, True, True, True, True, True]


@pytest.mark.parametrize("seen", [{}, {1: "c"}, {2: "b"}, {1: "a", 2: "d"}, {1: "c", 3: END}, {1: "c", 2: "b", 3: END}])
def test_the_predictor_is_bayes_rule(seen):
    library = Library(SENTENCES, length=3)
    line = {0: QUESTION, **seen}
    tokens = torch.tensor([[library.ids[line.get(d, MASK)] for d in range(4)]])
    found = library(tokens, torch.ones(1, 4, dtype=torch.bool)).logits.exp()
    expected = [[by_bayes(line, d, 3)[word] for word in WORDS] for d in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_first_pass_by_hand():
    """ε is 0.0015 and 0.002 at the two words: π(a) = 0.5 (1 − ε) + ε/7, π(b) = 0.8 (1 − ε) + ε/7."""
    library = Library(SENTENCES, length=2)
    question = library.question()
    logits = library(question.tokens, question.response_mask).logits
    assert logits[0, library.ids["a"]].exp().item() == pytest.approx(0.5 * 0.9985 + 0.0015 / 7, rel=1e-12)
    assert logits[1, library.ids["b"]].exp().item() == pytest.approx(0.8 * 0.998 + 0.002 / 7, rel=1e-12)


def test_a_shadow_slot_sees_what_it_may_see_and_stands_where_it_says():
    """As WINO feeds it: a mask token behind the sequence that stands for position 1 and sees all but the word there."""
    library = Library(SENTENCES, length=2)
    tokens = torch.tensor([[library.ids[word] for word in (QUESTION, "c", "d", MASK)]])
    visible = torch.ones(1, 4, 4, dtype=torch.bool)
    visible[0, 3, 1] = False
    select = torch.tensor([[False, False, False, True]])
    found = library(tokens, select, position_ids=torch.tensor([[0, 1, 2, 1]]), visible=visible).logits.exp()
    expected = by_bayes({0: QUESTION, 2: "d"}, 1, 2)
    np.testing.assert_allclose(found, [[expected[word] for word in WORDS]], rtol=1e-12)


def test_question_and_text():
    library = Library(SENTENCES, length=3)
    question = library.question()
    assert question.tokens.tolist() == [[1, 0, 0, 0]]
    assert question.prompt_mask.tolist() == [[True, False, False, False]]
    assert question.response_mask.tolist() == [[False, True, True, True]] and question.attention_mask.all()
    assert library.read(torch.tensor([1, 5, 0, 2])) == f"c {MASK}"
    assert library.decode([1, 2]) == f"{QUESTION} {END}"


def test_the_path_probability_of_a_drawn_sentence_is_the_product_along_its_order():
    library = Library(SENTENCES, length=2)
    rollout = draw(library, "random_order", num=50, temperature=1.0)
    assert len(set(map(library.read, rollout.tokens[0]))) > 1
    for tokens, step, log_prob in zip(rollout.tokens[0].tolist(), rollout.step[0].tolist(), rollout.path_log_prob[0].tolist(), strict=True):
        seen, product = {0: QUESTION}, 1.0
        for d in sorted((1, 2), key=lambda d: step[d]):
            # The mask and the question mark are never drawn: the rest sums to 1.
            chances = {word: p for word, p in by_bayes(seen, d, 2).items() if word not in (MASK, QUESTION)}
            product *= chances[WORDS[tokens[d]]] / sum(chances.values())
            seen[d] = WORDS[tokens[d]]
        assert log_prob == pytest.approx(math.log(product), rel=1e-9)


def test_a_draw_is_the_samplers_with_a_stream_for_each_number_of_sentences():
    library = Library(SENTENCES, length=2)
    config = SamplerConfig("random_order", temperature=1.0)
    streams = [stream(0, "sentences", 50)]
    expected = sample(library, library.question(), config, library.vocabulary, num_rollouts=50, generators=streams)
    assert torch.equal(draw(library, "random_order", num=50, temperature=1.0).tokens, expected.tokens)
    one = draw(library, "confidence")  # greedy: b with 0.8, then a with 0.5/0.8
    assert one.tokens.shape == (1, 1, 3) and library.read(one.tokens[0, 0]) == "a b" and one.sampler.temperature == 0


def test_a_model_can_stand_before_the_library_and_an_end_token_ends():
    library = Library(SENTENCES, length=8)
    spy = Spy(library)
    rollout = draw(library, "confidence", model=spy, block_length=4, stop_early=True)
    assert len(spy.tokens) == rollout.forwards == 4  # all of the first block of two
    assert library.read(rollout.tokens[0, 0]) == "a b"


def test_what_is_watched(capsys):
    """b has 0.95 and is placed first; then a has 0.55/0.95, c 0.4/0.95."""
    library = Library({"a b": 0.55, "c b": 0.4, "c d": 0.05}, length=2)
    watch(library, "confidence")
    assert capsys.readouterr().out.splitlines() == [f"   {MASK} b", "   a b   (2 forwards)"]
    watch(library, "confidence", steps=1)
    assert capsys.readouterr().out.splitlines() == ["   a b   (1 forward)"]
    watch(library, "wino", threshold=0.9)  # feeds shadow slots behind the sentence, which are not shown
    assert capsys.readouterr().out.splitlines() == [f"   {MASK} b", "   a b   (2 forwards)"]
