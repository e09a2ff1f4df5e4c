"""The shipped text model: official layout, a tokenizer that its generator makes again, wrong for a reason but able to be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dmpo_ref import load_config
from dmpo_ref.evaluation.answering import evaluate
from toy.loading import load
from toy.small_llada import OFFICIAL_FIELDS
from toy.text_reference import build_tasks, train_tokenizer

FOLDER = Path(__file__).parent.parent / "toy" / "text_checkpoint"


def test_size_type_and_layout():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10e6
    weights = load_file(FOLDER / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert 2e6 < sum(weight.numel() for weight in weights.values()) < 5e6
    fields = json.loads((FOLDER / "config.json").read_text())
    differs = {name for name, value in OFFICIAL_FIELDS.items() if fields[name] != value}
    assert differs == {"init_std", "max_sequence_length", "rope_theta"}
    assert fields["n_kv_heads"] < fields["n_heads"], "grouped-query attention"


def test_the_tokenizer_is_the_one_that_the_lessons_give(tmp_path):
    train_tokenizer(build_tasks()).save(str(tmp_path / "tokenizer.json"))
    assert (tmp_path / "tokenizer.json").read_bytes() == (FOLDER / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("preset", ["text_countdown", "text_sudoku"])
def test_it_answers_in_the_form_that_is_asked_for_and_is_wrong_more_often_than_right(preset):
    config = load_config(preset)
    loaded = load(config)
    items = loaded.task.load(config.task.test)[:16]
    found = evaluate(loaded.policy, loaded.tokenizer, loaded.task, items, config.evaluation.sampler, loaded.vocabulary)
    assert found.accuracy <= 0.5
    closed = sum("</reasoning>\n<answer>\n" in text and text.endswith("\n</answer>") for [text] in found.answers)
    assert closed >= 0.95 * len(items)
