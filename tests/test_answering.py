"""Evaluation: shares counted by hand, independent of batching."""

import pytest
import torch

from dmpo_ref.config import ModelConfig, SamplerConfig, TaskConfig
from dmpo_ref.evaluation import answering as module
from dmpo_ref.evaluation.answering import evaluate
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.models.loading import load_policy
from dmpo_ref.tasks.sudoku import Sudoku, is_solution, read_puzzles


@pytest.fixture(scope="module")
def policy():
    model, tokenizer = load_policy(ModelConfig(path="toy/checkpoint"), torch.device("cpu"))
    return model, tokenizer, build_vocabulary(tokenizer, model.config.embedding_size, alphabet="1234")


def test_accuracy_is_the_share_of_answers_that_obey_the_rules(policy):
    model, tokenizer, vocabulary = policy
    items = read_puzzles("toy/data/test.csv")[:20]
    result = evaluate(model, tokenizer, Sudoku(TaskConfig()), items, SamplerConfig(), vocabulary, num_samples=3)
    right = [[is_solution(item.puzzle, text) for text in texts] for item, texts in zip(items, result.answers, strict=True)]
    assert result.accuracy == pytest.approx(sum(map(sum, right)) / 60)
    for blanks in range(6, 11):
        chosen = [r for item, row in zip(items, right, strict=True) if item.num_blanks == blanks for r in row]
        assert result.by_kind[f"{blanks} blanks"] == pytest.approx(sum(chosen) / len(chosen))
    assert list(result.by_kind) == [f"{b} blanks" for b in range(6, 11)]


def test_answers_do_not_depend_on_batching(policy, monkeypatch):
    model, tokenizer, vocabulary = policy
    items = read_puzzles("toy/data/test.csv")[:7]
    arguments = (model, tokenizer, Sudoku(TaskConfig()), items, SamplerConfig(), vocabulary)
    whole = evaluate(*arguments, num_samples=2)
    monkeypatch.setattr(module, "ITEMS_PER_BATCH", 3)
    assert evaluate(*arguments, num_samples=2).answers == whole.answers


def test_the_shipped_policy_is_usually_wrong_sampled_or_greedy_and_covers_the_right_answers(policy):
    model, tokenizer, vocabulary = policy
    items = read_puzzles("toy/data/test.csv")
    task = Sudoku(TaskConfig())
    sampled = evaluate(model, tokenizer, task, items, SamplerConfig(), vocabulary).accuracy
    greedy = evaluate(model, tokenizer, task, items, SamplerConfig(name="confidence", temperature=0.0), vocabulary).accuracy
    assert 0.15 < sampled < 0.3
    assert greedy < 0.6
