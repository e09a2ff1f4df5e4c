"""The command line: exit codes, one line for a mistake, nothing half-written."""

import os
import re
import subprocess
import sys

import pytest

import dmpo_ref
from dmpo_ref.cli import main
from dmpo_ref.cli.parser import EXAMPLES, WITH_OWN_PARSER, build_parser

QUICK = ("train.rounds=2", "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "evaluation.num_items=2")


@pytest.mark.parametrize("command", [*EXAMPLES, *WITH_OWN_PARSER])
def test_help_of_every_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"example:\n  dmpo {command}" in printed


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0 and all(command in printed for command in [*EXAMPLES, *WITH_OWN_PARSER]) and "%%" not in printed


def test_examples_parse():
    for line in "\n".join(EXAMPLES.values()).splitlines():
        _, rest = build_parser().parse_known_args(line.split()[1:])
        assert all("=" in word for word in rest)


def test_help_of_train_lists_every_option(capsys):
    from dmpo_ref.config import describe_options

    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert all(key in printed for key in describe_options())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["train", "toy_sudoku", "weight.alhpa=1"], "did you mean 'weight.alpha'"),
        (["train", "toy_sudoku", "weight.alpha=0"], "weight.alpha=0.0"),
        (["train", "toy_sudoku", "model.path=missing/folder/here"], "model.path=missing/folder/here: no checkpoint there"),
        (["train", "toy_sudoku", "task.train=missing.csv"], "no data file missing.csv"),
        (["train", "toy_sudoku", "device=cuda", "output=new"], "device=cuda: torch sees no CUDA device here"),
        (["train", "toy_sudoku", "log_with=wandb"], "log_with=wandb: that package is not installed; pip install wandb"),
        (["train", "toy_sudoku", "sampler.block_length=5"], "block_length=5 does not divide a response"),
        (["train", "toy_sudoku", "sampler.name=random", "sampler.steps=12"], "steps=12 for a response of"),
        (["train", "toy_sudoku", "--resume"], "holds no checkpoint to resume from"),
        (["evaluate", "toy_sudoku", "task.test=missing.csv"], "no data file missing.csv"),
        (["sample", "toy_sudoku", "--puzzle", "123"], "puzzle '123' has 3 characters, 16 are needed"),
        (["sample", "toy_sudoku", "--puzzle", "1100000000000000"], "contradictory clues"),
        (["sample", "toy_sudoku", "--item", "999"], "has the items 0 to 255"),
        (["sample", "toy_sudoku", "--num-samples", "0"], "must be at least 1"),
        (["train", "toy_sudoku", "weight.alpha=inf"], "weight.alpha=inf"),
        (["train", "toy_sudoku", "sampler.temperature=nan"], "sampler.temperature=nan"),
        (["train", "toy_sudoku", "weight.target=reward", "weight.log_ratio=path"], "weight.log_ratio=path: target=reward does not use it"),
        (["train", "toy_sudoku", "model.dtype=bfloat16"], "model.dtype=bfloat16: bfloat16 weights lose small updates"),
        (["train", "toy_sudoku", "model=3"], "a section must be a mapping of options"),
        (["train", "toy_sudoku", "weight.alpha=warm"], "wanted: float; temperature of the target"),
        (["evaluate", "toy_sudoku", "--output", __file__], "is a file; a folder is needed"),
        (["evaluate", "toy_sudoku", "toy_sudoku"], "sudoku_random_order twice: give each task, length and sampler once"),
        (["evaluate", "seed=1"], "evaluate needs a CONFIG"),
        (["evaluate", "toy_sudoku", "--lengths", "128"], "answers into a template here"),
        (["grade", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["pretrain-toy", "step=3"], "unknown key 'step'; did you mean 'steps'"),
        (["pretrain-toy", "steps=20"], "steps=20: must be at least 21"),
        (["pretrain-toy", "texts"], "'texts' is no policy to pre-train; give grid or text"),
        (["pretrain-toy", "text", "careful_share=2"], "careful_share=2.0: a share must lie between 0 and 1"),
        (["pretrain-toy", "text", "width=96"], "width=96: must be a multiple of two attention heads of 32"),
        (["pretrain-toy", "text", "correct_share=0.2"], "unknown key 'correct_share'"),
        (["pretrain-toy", "text", "device=cuda", "output=new"], "device=cuda: torch sees no CUDA device here"),
        (["pretrain-toy", "grid", "--resume"], "--resume is for text"),
        (["pretrain-toy", "text", "--resume", "output=nowhere"], "there is nothing to resume; start without --resume"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    if "device=cuda" in arguments:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("dmpo: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not list(tmp_path.rglob("metrics.jsonl")), "a run that never started left a file"
    assert not list(tmp_path.rglob("checkpoint-*"))


@pytest.mark.parametrize("arguments", [["demo", "loud"], ["trian"], ["train", "toy_sudoku", "--resum"], ["demo", "--seed", "x"], []])
def test_a_stray_word_is_refused_in_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_commands_work_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "toy_sudoku", "--traceback", "output=mine", *QUICK]) == 0
    assert "policy, metrics and config in mine" in capsys.readouterr().out
    assert main(["evaluate", "toy_sudoku", "model.path=mine", "--output", "answers", "evaluation.num_items=3"]) == 0
    lines = (tmp_path / "answers" / "sudoku_random_order.jsonl").read_text().splitlines()[1:]
    printed = capsys.readouterr().out
    assert f"/{len(lines)} " in printed and "strict" in printed
    assert main(["grade", "answers/sudoku_random_order.jsonl"]) == 0
    graded = capsys.readouterr().out
    assert re.findall(r"strict +(\d+/\d+)", graded) == re.findall(r"strict +(\d+/\d+)", printed) != []
    assert main(["sample", "toy_sudoku", "model.path=mine", "--num-samples", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("answer ") == 2
    assert "log-probability along its order" in printed
    # The reference cannot be known to be right, so ask for both ways of generating.
    assert main(["sample", "toy_sudoku", "task.generate=all", "sampler.name=confidence", "sampler.steps=8", "sampler.temperature=0"]) == 0


def test_python_dash_m_is_the_same_command_and_is_quiet_without_a_terminal(tmp_path):
    command = [sys.executable, "-m", "dmpo_ref", "train", "toy_sudoku", f"output={tmp_path / 'r'}", *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 2


def test_without_a_network_one_line_says_so_and_no_retry_does():
    code = "import sys, time; time.sleep = lambda _: None; from dmpo_ref.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "sample", "llada_gsm8k", "--puzzle", "q", "model.path=no/where"]
    nowhere = os.environ | {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(command, capture_output=True, text=True, env=nowhere)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "model.path=no/where: " in line and "check the name and the network, or give a local folder" in line


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"dmpo {dmpo_ref.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain-toy", "steps=21", "output={taken}"], "exists; give a folder that does not"),
        (["pretrain-toy", "steps=21", "learning_rate=inf"], "must be finite and above 0"),
        (["plan", "toy_sudoku", "--flops", "nan"], "flops=nan: must be finite and above 0"),
        (["export", "{taken}/nothing", "{taken}/merged", "--merge"], "no checkpoint there"),
    ],
)
def test_what_a_first_user_tried(tmp_path, capsys, arguments, message):
    assert main([word.format(taken=tmp_path) for word in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
