"""What is fed, what is right, and how many passes an answer takes by itself."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from dmpo_ref.config import SamplerConfig
from dmpo_ref.masking import stream
from dmpo_ref.presets.loading import load_config
from dmpo_ref.samplers import sample
from dmpo_ref.tasks.encoding import encode
from dmpo_ref.tasks.sudoku import is_solution
from toy.loading import load
from toy.sampling import Spy, answer, forwards_alone, num_right
from toy.studies import text

CONFIG = load_config("toy_sudoku", "task.generate=all")


@pytest.fixture(scope="module")
def sudoku():
    torch.set_num_threads(1)
    return load(CONFIG)


@pytest.fixture(scope="module")
def puzzles(sudoku):
    return sudoku.task.load(CONFIG.task.test)[:6]


def test_a_spy_hands_on_everything_and_records_what_is_fed():
    asked = []
    spy = Spy(lambda **inputs: asked.append(inputs) or len(asked))
    first, second = torch.zeros(1, 4), torch.ones(1, 2)
    assert spy(input_ids=first, select="s") == 1
    assert spy(input_ids=second, cache=SimpleNamespace(fed=slice(1, 3)), select="s") == 2
    assert asked[0] == {"input_ids": first, "select": "s"} and asked[1]["input_ids"] is second
    assert spy.tokens[0] is first and spy.tokens[1] is second
    assert spy.table(4).tolist() == [[1, 1, 1, 1], [0, 1, 1, 0]]


def test_every_fed_token_is_in_the_table(sudoku, puzzles):
    """Two blocks of 8 cells behind a prompt of 16: of each block a full pass, then 7 with what the cache leaves."""
    for cache, rest in (("none", (32, 32)), ("prefix", (16, 8)), ("dual", (8, 8))):
        spy = Spy(sudoku.policy)
        sampler = SamplerConfig("confidence", block_length=8, cache=cache, temperature=0.0)
        rollout = answer(replace(sudoku, policy=spy), puzzles[:1], sampler)
        assert spy.table(32).sum(dim=1).tolist() == [32, *[rest[0]] * 7, 32, *[rest[1]] * 7]
        assert spy.table(32).sum().item() == rollout.fed_tokens


@pytest.mark.parametrize(("given", "key"), [({}, ("evaluate", 0)), ({"purpose": "a purpose", "first": 5}, ("a purpose", 5))])
def test_an_answer_is_the_samplers_with_a_stream_for_each_item(sudoku, puzzles, given, key):
    sampler, (purpose, first) = SamplerConfig("random_order", temperature=1.0), key
    found = answer(sudoku, puzzles[:3], sampler, num_rollouts=2, **given)
    for i, puzzle in enumerate(puzzles[:3]):
        prompts = encode(sudoku.tokenizer, sudoku.task, [puzzle])
        streams = [stream(0, purpose, first + i)]
        alone = sample(sudoku.policy, prompts, sampler, sudoku.vocabulary, num_rollouts=2, generators=streams)
        assert torch.equal(found.tokens[i], alone.tokens[0]) and torch.equal(found.step[i], alone.step[0])


def test_right_answers_are_those_that_keep_the_rules(sudoku, puzzles):
    rollout = answer(sudoku, puzzles, SamplerConfig("random_order", temperature=1.0), num_rollouts=4)
    digits = [["".join(sudoku.tokenizer.convert_ids_to_tokens(row[16:])) for row in rows] for rows in rollout.tokens.tolist()]
    expected = sum(is_solution(puzzle.puzzle, text) for puzzle, texts in zip(puzzles, digits, strict=True) for text in texts)
    assert 0 < num_right(sudoku, puzzles, rollout) == expected < 24


def test_passes_alone_are_those_of_a_batch_of_one(sudoku, puzzles):
    sampler = SamplerConfig("threshold", threshold=0.7, temperature=0.0)
    together = answer(sudoku, puzzles, sampler)
    alone = [answer(sudoku, [puzzle], sampler, first=i).forwards for i, puzzle in enumerate(puzzles)]
    assert forwards_alone(together)[:, 0].tolist() == alone and len(set(alone)) > 1
    assert together.forwards == max(alone)


def test_a_study_of_samplers_adds_up_its_batches(sudoku, puzzles, monkeypatch):
    sampler = SamplerConfig("threshold", temperature=0.0)
    monkeypatch.setattr(text, "ITEMS_PER_BATCH", 4)
    found = text.ask(sudoku, puzzles, sampler)
    each = [answer(sudoku, [puzzle], sampler, first=i) for i, puzzle in enumerate(puzzles)]
    assert found["right"] == sum(num_right(sudoku, [puzzle], one) for puzzle, one in zip(puzzles, each, strict=True))
    assert found["total"] == 6 and found["forwards"] == pytest.approx(sum(one.forwards for one in each) / 6)
    assert found["fed_tokens"] == pytest.approx(sum(one.fed_tokens for one in each) / 6)
