"""The demonstration, shortened: its files, its summary, its picture, and that it is shown again rather than run again."""

import json

import numpy as np
import pytest

from dmpo_ref.presets.loading import load_config
from toy import acts, demo
from toy.loading import load
from toy.options import PretrainConfig
from toy.reference import pretrain
from toy.studies import acts as study


@pytest.fixture
def short(monkeypatch):
    """Both acts with two rounds each and few test puzzles."""
    load = acts.load_config
    small = ("train.rounds=2", "train.prompts_per_round=2", "train.num_rollouts=4", "evaluation.num_items=8")
    monkeypatch.setattr(acts, "load_config", lambda source, *overrides: load(source, *overrides, *small))


def test_the_demo_leaves_one_folder_with_everything(short, tmp_path, capsys):
    output = tmp_path / "demo"
    summary = demo.run(output, seed=3)
    assert summary == json.loads((output / "summary.json").read_text())
    assert (output / "demo.png").stat().st_size > 20_000
    for act in ("act_a", "act_b"):
        assert (output / act / "metrics.jsonl").is_file()
        assert list((output / act).glob("checkpoint-*/model.safetensors"))
    a, b = summary["act_a"], summary["act_b"]
    assert a["reference_moves"] is True
    assert b["reference_moves"] is False
    assert b["before"]["kl_target_policy"] > 0.5
    assert all(0.3 < share < 0.7 for share in b["target_shares"])
    assert len(b["puzzle"].replace("0", "")) <= 12
    assert summary["rollouts"] == 2 * (2 * 4) * 2
    printed = capsys.readouterr().out
    assert "the reference moves with the policy" in printed
    assert str(output / "demo.png") in printed


def test_a_finished_demo_is_shown_again_and_another_seed_is_refused(short, tmp_path, monkeypatch, capsys):
    demo.run(tmp_path, seed=0)
    monkeypatch.setattr(acts, "learn_to_solve", lambda *_, **__: pytest.fail("ran again"))
    demo.run(tmp_path, seed=0)
    assert "shown again" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds the demonstration with seed 0; give another --output"):
        demo.run(tmp_path, seed=1)


@pytest.mark.parametrize(("vocabulary", "tokens"), [("allowed", ["1", "2", "3", "4"]), ("full", None)])
def test_what_a_config_names_is_loaded_with_the_vocabulary_that_it_allows(vocabulary, tokens):
    loaded = load(load_config("toy_sudoku", f"model.vocabulary={vocabulary}"))
    allowed = loaded.tokenizer.convert_ids_to_tokens(loaded.vocabulary.allowed.nonzero().flatten().tolist())
    assert allowed == (tokens or loaded.tokenizer.convert_ids_to_tokens(range(loaded.policy.config.embedding_size)))
    assert not loaded.policy.training


def test_the_exact_puzzle_is_compared_with_its_target_as_the_definitions_say():
    puzzle = acts.load_two_solutions(load_config("toy_two_solutions", "weight.alpha=0.2"))
    p_ref = puzzle.exact.log_prob.exp().numpy()
    solved = np.array([text in puzzle.solutions for text in puzzle.exact.texts])
    target = p_ref * np.exp(solved / 0.2)
    target /= target.sum()
    found = puzzle.compare(puzzle.distribution(puzzle.policy))
    assert len(puzzle.solutions) == 2 and solved.sum() == 2
    assert found["shares"] == pytest.approx([p_ref[puzzle.exact.texts.index(text)] for text in puzzle.solutions], rel=1e-12)
    assert found["kl_target_policy"] == pytest.approx((target * np.log(target / p_ref)).sum(), rel=1e-9)
    assert found["kl_policy_target"] == pytest.approx((p_ref * np.log(p_ref / target)).sum(), rel=1e-9)


def test_committed_results_meet_what_the_readme_claims():
    """The bounds of the results table, on the committed numbers; `make study` makes them anew."""
    act_a = study.by_name(study.read("act_a"))
    moving = act_a["reference moves (log_ratio none)"]
    assert len(moving) == 3
    assert sum(r["after"]["temperature_1"] for r in moving) / 3 >= 0.90
    assert all(r["after"]["greedy"] >= r["before"]["greedy"] for rows in act_a.values() for r in rows)
    act_b = study.read("act_b")
    divergences = sorted(r["after"]["kl_target_policy"] for r in act_b)
    assert len(divergences) == 15
    assert divergences[7] <= 0.03
    assert divergences[-1] <= 0.06
    assert max(map(study.share_error, act_b)) <= 0.1
    assert all(r["before"]["kl_target_policy"] >= 0.5 for r in act_b)


def test_pretraining_lowers_the_nelbo_and_its_checkpoint_evaluates(tmp_path):
    from dmpo_ref.cli import main

    config = PretrainConfig(output=str(tmp_path / "policy"), steps=60, width=16, layers=1, batch_size=16)
    pretrain(config)
    small = [f"model.path={tmp_path / 'policy'}", "evaluation.num_items=4", "evaluation.num_samples=1"]
    assert main(["evaluate", "toy_sudoku", *small]) == 0


@pytest.mark.long
def test_the_shipped_checkpoint_is_what_its_command_makes(tmp_path):
    """Five minutes. Not bit for bit: float32 training differs between processors."""
    from safetensors.torch import load_file

    pretrain(PretrainConfig(output=str(tmp_path)))
    made, shipped = (load_file(f"{folder}/model.safetensors") for folder in (tmp_path, "toy/checkpoint"))
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in shipped.items()}


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_the_whole_demo_reaches_its_bounds(tmp_path, seed):
    summary = demo.run(tmp_path, seed=seed)
    assert summary["act_a"]["after"]["temperature_1"] >= 0.88
    assert summary["act_b"]["after"]["kl_target_policy"] <= 0.06
    assert summary["seconds"]["total"] <= 180
