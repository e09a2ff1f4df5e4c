"""The shipped text models: official layout, a tokenizer that its generator makes again, wrong for a reason but able to be right."""

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

TOY = Path(__file__).parent.parent / "toy"
FOLDERS = [TOY / "text_checkpoint", TOY / "countdown_checkpoint"]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_size_type_and_layout(folder):
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    weights = load_file(folder / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert 2e6 < sum(weight.numel() for weight in weights.values()) < 5e6
    fields = json.loads((folder / "config.json").read_text())
    differs = {name for name, value in OFFICIAL_FIELDS.items() if fields[name] != value}
    assert differs == {"init_std", "max_sequence_length", "rope_theta"}
    assert fields["n_kv_heads"] < fields["n_heads"], "grouped-query attention"


def test_the_tokenizer_is_the_one_that_the_lessons_give(tmp_path):
    train_tokenizer(build_tasks()).save(str(tmp_path / "tokenizer.json"))
    assert all((tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes() for folder in FOLDERS)


def test_the_second_goes_on_from_the_first():
    """Same layout and tokenizer; its weights are correlated with those of the first, as two models trained from nothing are not."""
    first, second = FOLDERS
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    before, after = (load_file(folder / "model.safetensors") for folder in FOLDERS)
    assert before.keys() == after.keys() and not any(torch.equal(before[name], after[name]) for name in before)
    matrices = [name for name, weight in before.items() if weight.ndim == 2]
    old, new = (torch.cat([weights[name].float().flatten() for name in matrices]) for weights in (before, after))
    assert torch.cosine_similarity(old, new, dim=0) > 0.5


@pytest.mark.parametrize("preset", ["text_countdown", "text_sudoku"])
def test_it_answers_in_the_form_that_is_asked_for_and_is_wrong_more_often_than_right(preset):
    config = load_config(preset)
    loaded = load(config)
    items = loaded.task.load(config.task.test)[:16]
    found = evaluate(loaded.policy, loaded.tokenizer, loaded.task, items, config.evaluation.sampler, loaded.vocabulary)
    assert found.accuracy <= 0.5
    closed = sum("</reasoning>\n<answer>\n" in text and text.endswith("\n</answer>") for [text] in found.answers)
    assert closed >= 0.95 * len(items)
