"""What each command gives to the library and prints, and how `main` ends when something stops it."""

import argparse
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmpo_ref.cli import commands, grading, main
from dmpo_ref.forecast.hardware import GPUS
from dmpo_ref.presets.loading import PRESETS, load_config, to_yaml
from dmpo_ref.runtime.interrupt import Interrupted
from dmpo_ref.train import Trained

TOY = PRESETS.parent.parent / "toy" / "checkpoint"
GOES_ON = "stopped; what was written stands, and the same command goes on"
FIRST_PUZZLE = "2341002300323214"


@pytest.fixture
def trained(monkeypatch):
    """Calls of `train`, which returns at once what `trained.result` is."""
    calls = argparse.Namespace(seen=[], result=None)

    def train(config, *, resume):
        calls.seen.append((config, resume))
        if isinstance(calls.result, BaseException):
            raise calls.result
        return calls.result

    monkeypatch.setattr(commands, "train", train)
    return calls


@pytest.mark.parametrize(
    ("metrics", "is_main", "printed"),
    [
        ([{"reward": 0.25, "evaluation/accuracy": 0.1}, {"reward": 0.5, "evaluation/accuracy": 0.75}], True,
         "reward 0.500 in the last round, test accuracy 0.750\npolicy, metrics and config in out\n"),
        ([{"reward": 0.5, "evaluation/accuracy": 0.75}], False, ""),
    ],
)  # fmt: skip
def test_train_prints_the_last_round_once(trained, capsys, metrics, is_main, printed):
    trained.result = Trained(None, None, metrics, "out", is_main)
    assert main(["train", "toy_sudoku", "output=nowhere/run", "train.rounds=3", "--resume", "weight.alpha=0.5"]) == 0
    ((config, resume),) = trained.seen
    assert (config.train.rounds, config.weight.alpha, resume) == (3, 0.5, True)
    assert capsys.readouterr().out == printed


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of two rounds, with a linear schedule; not to be written to."""
    output = tmp_path_factory.mktemp("finished") / "run"
    small = ["train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "evaluation.num_items=2"]
    assert main(["train", "toy_sudoku", f"output={output}", "train.rounds=2", "device=cpu", *small]) == 0
    return output


def test_a_finished_run_that_is_resumed_says_that_nothing_was_run(finished, capsys):
    assert main(["train", str(finished / "config.yaml"), "--resume", "evaluation.num_items=3"]) == 0
    done = f"every round was done already; nothing was run. To evaluate its policy: dmpo evaluate {finished}\n"
    assert capsys.readouterr().out == f"{done}policy, metrics and config in {finished}\n"


def test_more_rounds_of_a_run_whose_learning_rate_depends_on_them_are_refused_with_the_reason(finished, capsys):
    assert main(["train", str(finished / "config.yaml"), "--resume", "train.rounds=3"]) == 2
    line = "train.rounds=2, not 3; rounds can grow only with optimizer.schedule=constant, and this run has linear; "
    assert line in capsys.readouterr().err


def test_a_moved_run_that_is_resumed_by_its_own_config_is_told_its_folder(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "new")
    config = load_config("new/config.yaml", "output=old")
    Path("new/config.yaml").write_text(to_yaml(config))
    assert main(["train", "new/config.yaml", "--resume"]) == 2
    line = (
        "output=old holds no checkpoint to resume from, but the folder of new/config.yaml does; if the run was moved there, give output=new"
    )
    assert capsys.readouterr().err == f"dmpo: {line}\n"
    assert main(["train", "new/config.yaml", "--resume", "output=new"]) == 0


def test_the_folder_of_a_run_means_its_trained_policy_and_its_config_alone_says_which_one_it_means(finished, monkeypatch, capsys):
    checkpoint, few = finished / "checkpoint-000002", "evaluation.num_items=2"
    for words, folder, is_told in (
        ([str(finished)], checkpoint, False),
        ([str(finished), f"model.path={TOY}"], TOY, False),
        ([str(finished / "config.yaml")], TOY, True),
        ([str(finished / "config.yaml"), f"model.path={finished}"], checkpoint, False),
    ):
        assert main(["evaluate", *words, few]) == 0
        captured = capsys.readouterr()
        assert captured.out.startswith(f"policy of sudoku_random_order: {min(str(folder), os.path.relpath(folder), key=len)}\n")
        told = "names the policy that its run started from, and that policy answers; for the trained one: dmpo evaluate"
        assert captured.err == (f"dmpo: {finished / 'config.yaml'} {told} {finished}\n" if is_told else "")
    seen, load = [], commands.load_policy
    monkeypatch.setattr(commands, "load_policy", lambda config, device: seen.append(config.path) or load(config, device))
    assert main(["sample", str(finished), "sampler.name=confidence", "sampler.temperature=0"]) == 0
    assert capsys.readouterr().err == "" and seen == [str(finished)]
    assert main(["sample", str(finished / "config.yaml")]) == 0
    assert f"for the trained one: dmpo sample {finished}\n" in capsys.readouterr().err


def test_the_name_of_a_preset_stays_one_beside_a_run_of_that_name(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "toy_sudoku")
    assert commands.policy_of_run("evaluate", "toy_sudoku", []) == ("toy_sudoku", [])
    path, overrides = commands.policy_of_run("evaluate", "./toy_sudoku", [])
    assert (path, overrides) == (Path("toy_sudoku/config.yaml"), ["model.path=toy_sudoku"])


def test_words_for_several_commands_may_hold_an_option_that_one_of_them_does_not_use():
    both = ["sampler.temperature=0.5", "evaluation.sampler.temperature=0.5"]
    for command in ("evaluate", "sample"):
        assert commands.policy_of_run(command, "toy_sudoku", both) == ("toy_sudoku", both)
    with pytest.raises(ValueError, match=r"^sampler\.name: dmpo evaluate does not use it; give evaluation\.sampler\.name$"):
        commands.policy_of_run("evaluate", "toy_sudoku", ["sampler.name=wino", "evaluation.sampler.temperature=0"])


def test_a_config_may_lie_in_a_folder_with_an_equals_sign(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("a=b/lr=1")
    folder.mkdir(parents=True)
    shutil.copy(finished / "config.yaml", folder)
    assert main(["evaluate", f"{folder}/config.yaml", "evaluation.num_items=1", "evaluation.num_samples=1"]) == 0
    assert "sudoku_random_order" in capsys.readouterr().out


def test_sample_shows_the_item_and_grades_its_answers(capsys):
    """Two grids solve it, found by hand: the four blanks take 41/14 or 14/41."""
    assert main(["sample", "toy_sudoku", "--puzzle", FIRST_PUZZLE, "--num-samples", "4", "seed=3"]) == 0
    shown, *answers = capsys.readouterr().out.split("\nanswer ")
    assert "2 3 | 4 1" in shown
    assert len(answers) == 4
    for answer in answers:
        grid = "".join(c for c in answer.partition("nats\n")[2] if c.isdecimal())
        assert len(grid) == 16
        assert (": right," in answer) == (grid in ("2341412314323214", "2341142341323214"))


def test_sample_checks_its_words_before_a_policy_is_loaded(monkeypatch, capsys):
    monkeypatch.setattr(commands, "load_policy", lambda *_: pytest.fail("loaded"))
    for words in (["--item", "256"], ["--num-samples", "0"], ["--puzzle", "12"], ["--draw", "x.doc"]):
        assert main(["sample", "toy_sudoku", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 4


def test_evaluate_loads_a_policy_once_for_all_configs_that_ask_it_in_turn(tmp_path, monkeypatch, capsys):
    loaded, load = [], commands.load_policy
    monkeypatch.setattr(commands, "load_policy", lambda config, device: loaded.append(config.path) or load(config, device))
    few = ["evaluation.num_items=2", "evaluation.num_samples=1"]
    assert main(["evaluate", "toy_sudoku", "--samplers", "random_order,confidence", "--output", str(tmp_path), *few]) == 0
    assert loaded == [str(TOY)]
    names = ["sudoku_confidence", "sudoku_random_order"]
    assert sorted(file.stem for file in tmp_path.glob("*.jsonl") if "timing" not in file.name) == names
    printed = capsys.readouterr().out
    for name in names:
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert [line["index"] for line in lines[1:]] == [0, 1]
        assert f"\n{name}: " in printed


def test_an_option_that_no_sampler_of_the_evaluation_reads_is_said(capsys):
    words = ["evaluate", "toy_sudoku", "evaluation.num_items=1", "evaluation.num_samples=1", "evaluation.sampler.threshold=0.5"]
    line = "evaluation.sampler.threshold=0.5 does nothing with evaluation.sampler.name=random_order; it is for threshold, wino\n"
    assert main(words) == 0
    assert capsys.readouterr().err.endswith(f"dmpo: warning: {line}")
    assert main([*words, "--samplers", "random_order,threshold"]) == 0, "one of them reads it"
    assert "warning" not in capsys.readouterr().err
    assert main([*words[:-1], "evaluation.sampler.factor=2", "--samplers", "threshold,random_order"]) == 0
    assert "evaluation.sampler.factor=2.0 does nothing" in capsys.readouterr().err, "neither does"
    assert main(["sample", "toy_sudoku", "sampler.factor=2"]) == 0
    assert "dmpo: warning: sampler.factor=2.0 does nothing with sampler.name=random_order" in capsys.readouterr().err


def test_evaluate_checks_every_config_before_the_first_answer(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(commands, "load_policy", lambda *_: pytest.fail("loaded"))
    words = ["evaluate", "toy_sudoku", "--samplers", "confidence,random", "evaluation.sampler.steps=99", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert "steps=99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluate_with_several_processes_needs_a_folder(monkeypatch, capsys):
    several = argparse.Namespace(num_processes=2)
    monkeypatch.setattr(commands, "build_accelerator", lambda config: several)
    assert main(["evaluate", "toy_sudoku"]) == 2
    assert "give --output FOLDER" in capsys.readouterr().err


def test_grade_and_table_report_every_problem_and_fail_with_the_last(capsys):
    with pytest.raises(ValueError, match="^third$"):
        grading.report_problems(["first", "second", "third"])
    assert capsys.readouterr().err == "dmpo: first\ndmpo: second\n"
    grading.report_problems([])
    assert main(["grade", "first.jsonl", "second.jsonl"]) == 2
    assert capsys.readouterr().err == "dmpo: no file first.jsonl\ndmpo: no file second.jsonl\n"


def test_table_without_runs_prints_what_was_published(capsys):
    assert main(["table"]) == 0
    assert "DMPO (paper)" in capsys.readouterr().out


def test_plan_hands_its_flags_on(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(commands, "make_plan", lambda config, **options: seen.append((config.train.rounds, options)))
    monkeypatch.setattr(commands, "plan_variants", lambda config, **options: seen.append((config.train.rounds, options)))
    monkeypatch.setattr(commands, "format_plan", lambda plan: "page")
    monkeypatch.setattr(commands, "format_variants", lambda plan, others: "table")
    flags = ["--prompt-length", "7", "--flops", "1e12", "--bandwidth", "2e12", "--num-processes", "4", "--strategy", "fsdp2"]
    assert main(["plan", "toy_sudoku", "--gpu", "a100", "--gpu-memory", "24", *flags, "train.rounds=5"]) == 0
    gpu = replace(GPUS["a100"], flops=1e12, flops_float32=1e12, bandwidth=2e12, memory=24)
    assert seen == [(5, {"gpu": gpu, "prompt_length": 7, "num_processes": 4, "strategy": "fsdp2"})] * 2
    assert capsys.readouterr().out == "page\n\ntable\n"


def test_plan_refuses_a_strategy_that_is_not_there_in_one_line(capsys):
    assert main(["plan", "toy_sudoku", "--strategy", "zero3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "strategy=zero3" in line and "ddp" in line and "fsdp2" in line


def test_export_writes_the_weights_of_the_policy(tmp_path, capsys):
    from safetensors.torch import load_file

    assert main(["export", str(TOY), str(tmp_path / "plain")]) == 0
    assert capsys.readouterr().out == f"checkpoint in {tmp_path / 'plain'}\n"
    before, after = (load_file(f"{folder}/model.safetensors") for folder in (TOY, tmp_path / "plain"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_demo_hands_its_flags_on(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("toy.demo.run", lambda output, *, seed: seen.append((output, seed)))
    assert main(["demo", "--output", str(tmp_path), "--seed", "4"]) == 0
    assert seen == [(tmp_path, 4)]


def test_pretrain_toy_takes_options_before_and_after_a_flag(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("toy.reference.pretrain", seen.append)
    assert main(["pretrain-toy", "steps=30", "--traceback", "output=runs/p", "correct_share=0.2"]) == 0
    (config,) = seen
    assert (config.steps, config.output, config.correct_share) == (30, "runs/p", 0.2)
    assert capsys.readouterr().out.startswith("checkpoint in runs/p; ")
    monkeypatch.setattr("toy.text_pretrain.pretrain_text", lambda config, resume: seen.append((config.start, resume)))
    presets = {"mixture": "sudoku", "plus_minus": "countdown", "plus_minus_twice": "countdown", "spell_backward": "spelling"}
    for lessons, preset in presets.items():
        assert main(["pretrain-toy", "text", f"lessons={lessons}", "start=x", "--resume"]) == 0
        assert f"dmpo evaluate text_{preset} model.path=runs/pretrain_text" in capsys.readouterr().out
    assert seen[1:] == [("x", True)] * 4


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (Interrupted("stopped after round 2 of 5, saved in out"), 130, "out; the same command with --resume goes on"),
        (KeyboardInterrupt(), 130, "what was written stands, and the same command with --resume goes on"),
        (ValueError("two\n  lines"), 2, "dmpo: two lines"),
        (FileNotFoundError("no file x"), 2, "dmpo: no file x"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "out of memory; lower sampler.micro_batch"),
    ],
)
def test_what_stops_a_run_is_one_line_and_an_exit_code(trained, capsys, error, code, message):
    trained.result = error
    assert main(["train", "toy_sudoku"]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_traceback_lets_a_mistake_through_and_a_bug_is_never_hidden(trained):
    trained.result = ValueError("wrong")
    with pytest.raises(ValueError, match="wrong"):
        main(["train", "toy_sudoku", "--traceback"])
    trained.result = RuntimeError("a bug")
    with pytest.raises(RuntimeError, match="a bug"):
        main(["train", "toy_sudoku"])


@pytest.mark.parametrize(
    ("words", "module", "function", "line"),
    [
        (["demo"], "toy.demo", "run", GOES_ON),
        (["evaluate", "toy_sudoku", "--output", "x"], "dmpo_ref.cli.commands", "load_config", GOES_ON),
        (["evaluate", "toy_sudoku"], "dmpo_ref.cli.commands", "load_config", "stopped"),
        (["bench", "grading"], "toy.grading_times", "bench_grading", "stopped"),
    ],
)
def test_ctrl_c_says_how_to_go_on_where_there_is_something_to_go_on_with(words, module, function, line, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{module}.{function}", interrupt)
    assert main(words) == 130
    assert capsys.readouterr().err == f"dmpo: {line}\n"
