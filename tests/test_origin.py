"""Where numbers come from: a run goes on only with the data and the p_ref that it began with, its folder says what it was, and what is
not its own stays."""

import hashlib
import json
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import dmpo_ref
from dmpo_ref.cli import main
from dmpo_ref.config import TaskConfig
from dmpo_ref.objectives import build_objective
from dmpo_ref.presets.loading import PRESETS, load_config, to_yaml
from dmpo_ref.runtime.origin import digests_of_data
from dmpo_ref.tasks.sudoku import Puzzle, Sudoku
from dmpo_ref.train import train

ROOT = PRESETS.parent.parent
QUICK = ("train.rounds=2", "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1",
         "optimizer.schedule=constant", "evaluation.num_items=2", "device=cpu", "threads=1")  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a base and data of its own."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "toy/checkpoint", "base")
    for name in ("train", "test"):
        shutil.copy(ROOT / f"toy/data/{name}.csv", f"{name}.csv")
    return tmp_path


OWN = ("model.path=base", "task.train=train.csv", "task.test=test.csv")


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def refused(capfd, *words: str) -> str:
    """The one line of a command that must fail, and leave everything as it is."""
    capfd.readouterr()
    before = contents(Path())
    assert main(list(words)) == 2
    error = capfd.readouterr().err
    assert error.startswith("dmpo: ") and error.count("\n") == 1
    assert contents(Path()) == before
    return error


def other_row(file: Path) -> None:
    """The last puzzle of a file replaced by its first."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:-1], lines[1]]) + "\n")


def other_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.transformer.ln_f.weight"][0] += 0.01
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def other_field(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"rms_norm_eps": 1e-3}))


CHANGES = {
    "train": (lambda: other_row(Path("train.csv")), "task.train=train.csv: the contents are not those that run was run with"),
    "test": (lambda: other_row(Path("test.csv")), "task.test=test.csv: the contents are not those that run was run with"),
    "weights": (lambda: other_weight(Path("base")), "model.path=base: the weights of p_ref in it are not those that run was run with"),
    "config": (lambda: other_field(Path("base")), "model.path=base: the config.json of p_ref in it are not those"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_resuming_with_other_contents_of_the_same_name_is_refused(folder, capfd, change):
    command = ("train", "toy_sudoku", "output=run", "weight.log_ratio=path", *QUICK, *OWN)
    assert main([*command]) == 0
    edit, message = CHANGES[change]
    edit()
    assert message in refused(capfd, *command, "train.rounds=3", "--resume")


def test_another_base_under_the_adapters_is_refused_and_the_same_one_elsewhere_taken(folder, capfd):
    command = ("train", "toy_sudoku", "output=run", "weight.log_ratio=none", "model.lora_rank=2", *QUICK, *OWN)
    assert main([*command]) == 0
    shutil.move("base", "moved")
    moved = (*command, "model.path=moved", "--resume")
    other = (*command, "model.path=other", "--resume")
    shutil.copytree("moved", "other")
    other_weight(Path("other"))
    assert "model.path=other: the weights of p_ref in it" in refused(capfd, *other, "train.rounds=3")
    assert main([*moved, "train.rounds=3"]) == 0
    shutil.copytree("moved", "base")  # the old name is there: then another one is another p_ref
    assert "was run with model.path=moved, not other" in refused(capfd, *other, "train.rounds=4")


def test_where_p_ref_is_not_read_again_it_may_be_gone(folder):
    command = ("train", "toy_sudoku", "output=run", "weight.log_ratio=none", "weight.baseline=none", *QUICK, *OWN)
    assert main([*command]) == 0
    shutil.rmtree("base")
    assert main([*command, "train.rounds=3", "--resume"]) == 0


def test_another_text_in_the_prompt_file_is_another_digest(folder):
    file, task = folder / "prompt.txt", Sudoku(TaskConfig())
    config = load_config("toy_sudoku", f"task.prompt_file={file}")
    found = []
    for text in ("Solve {puzzle}.", "Please solve {puzzle}."):
        file.write_text(text)
        found.append(digests_of_data(config, task, [], [])["task.prompt_file"])
        assert found[-1] == hashlib.sha256(text.encode()).hexdigest()
    assert found[0] != found[1]


def test_digests_of_many_items_take_no_time_and_see_each():
    items = [Puzzle(f"{i:016d}", f"{i:016d}") for i in range(20_000)]
    config, task = load_config("toy_sudoku"), Sudoku(TaskConfig())
    start = time.perf_counter()
    found = digests_of_data(config, task, items, items[:-1])
    assert time.perf_counter() - start < 1
    assert found["task.train"] != found["task.test"] == digests_of_data(config, task, items[:-1], [])["task.train"]


class Plain(Sudoku):
    """A task for training only: no `record`, and items that print as their place in memory."""

    def __init__(self):
        super().__init__(TaskConfig())

    def __getattribute__(self, name):
        if name == "record":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def load(self, source):
        return [type("Item", (), vars(item) | {"num_blanks": item.num_blanks})() for item in super().load(source)]


def test_a_task_without_records_is_known_by_its_files(folder, small_run):
    words = ("task.train=train.csv", "optimizer.schedule=constant")
    assert train(small_run(*words, "train.rounds=1"), task=Plain()).metrics
    assert len(train(small_run(*words, "train.rounds=2"), task=Plain(), resume=True).metrics) == 4
    other_row(Path("train.csv"))
    with pytest.raises(ValueError, match=r"task\.train=train\.csv: the contents are not those"):
        train(small_run(*words, "train.rounds=3"), task=Plain(), resume=True)


# What is not the run's


def test_the_metrics_of_a_run_whose_checkpoints_were_removed_are_not_overwritten(folder, capfd):
    command = ("train", "toy_sudoku", "output=run", *QUICK, "train.checkpoint_every=5")  # the only one is that of the end
    assert main([*command]) == 0
    shutil.rmtree("run/checkpoint-000002")
    message = "output=run holds the metrics of a run whose checkpoints were removed; choose another output"
    assert message in refused(capfd, *command)
    (folder / "run/run.json").unlink()  # as version 0.2.0 left it
    assert message in refused(capfd, *command)


@pytest.mark.parametrize(
    ("last", "is_lost"),
    [({"round": 4}, False), ({"round": 5}, True), ({"round": 1, "evaluation/accuracy": 0.5}, True)],
)
def test_a_run_of_an_earlier_version_without_checkpoints_is_lost_only_if_it_came_as_far_as_one(folder, capfd, last, is_lost):
    """Version 0.2.0 wrote no run.json; killed before its first checkpoint, after round 5 of numbers from 0, a run starts again."""
    (folder / "run").mkdir()
    (folder / "run/metrics.jsonl").write_text(json.dumps(last | {"step": 1}) + "\n")
    command = ("train", "toy_sudoku", "output=run", *QUICK, "train.checkpoint_every=5")
    if is_lost:
        assert "holds the metrics of a run whose checkpoints were removed" in refused(capfd, *command)
    else:
        assert main([*command]) == 0


@pytest.mark.parametrize("where", ["own", "own/config.yaml of a copy"])
def test_a_config_of_the_users_own_is_not_replaced(folder, capfd, where):
    (folder / "own").mkdir()
    config = load_config("toy_sudoku", *QUICK)
    text = to_yaml(config) if "copy" in where else "# mine\n" + to_yaml(config)
    (folder / "own/config.yaml").write_text(text)
    assert "own/config.yaml was not written by a run" in refused(capfd, "train", "own/config.yaml", "output=own")
    assert main(["train", "own/config.yaml", "output=run"]) == 0
    # The config that a run has written may be named, and is renewed; not with a note in it.
    again = ("train", "run/config.yaml", "train.rounds=3", "--resume")
    assert main([*again]) == 0
    with (folder / "run/config.yaml").open("a") as file:
        file.write("# a note\n")
    assert "run/config.yaml was not written by a run" in refused(capfd, *again)


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl", "run.json"])
def test_files_of_another_program_are_not_replaced(folder, capfd, name):
    (folder / "run").mkdir()
    (folder / "run" / name).write_text('{"epoch": 3}\n')
    assert f"run/{name}" in refused(capfd, "train", "toy_sudoku", "output=run", *QUICK)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"starts": 5}',
        '{"starts": [1]}',
        '{"starts": [{}]}',
        '{"starts": [{"versions": 5, "from_python": 5}]}',
        "[" * 99_999,
    ],
)
def test_a_damaged_run_file_is_named_and_without_it_the_run_goes_on(folder, capfd, text):
    command = ("train", "toy_sudoku", "output=run", *QUICK)
    assert main([*command]) == 0
    (folder / "run/run.json").write_text(text)
    again = (*command, "train.rounds=3", "--resume")
    assert "run/run.json is not as a run has written it; move it away, and the same command goes on" in refused(capfd, *again)
    (folder / "run/run.json").unlink()
    assert main([*again]) == 0
    assert json.loads((folder / "run/run.json").read_text())["checkpoint"] == 3


# run.json


def test_the_folder_of_a_run_says_what_it_was(folder, small_run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dmpo", "train", "mine"])
    config = small_run("train.rounds=2", "seed=7", "optimizer.schedule=constant")
    train(config, reward=lambda item, text: 0.5)
    output = Path(config.output)
    assert load_config(output / "config.yaml") == config
    monkeypatch.setattr(sys, "argv", ["dmpo", "train", "mine", "--resume"])
    train(small_run("train.rounds=4", "seed=7", "optimizer.schedule=constant"), reward=lambda item, text: 0.5, resume=True)
    found = json.loads((output / "run.json").read_text())
    assert (found["seed"], found["checkpoint"]) == (7, 4)
    first, second = found["starts"]
    assert (first["round"], first["command"], first["from_python"]) == (0, ["dmpo", "train", "mine"], ["reward"])
    assert (second["round"], second["command"][-1]) == (2, "--resume")

    wanted = {"python": sys.version.split()[0], "dmpo_ref": dmpo_ref.__version__}
    assert first["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # some builds add their CUDA to one of them
    assert wanted.items() <= first["versions"].items() and first["versions"]["transformers"] == transformers.__version__
    assert first["git"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", first["git"])


def test_a_rerun_gives_the_same_metrics_bit_for_bit_and_one_line_says_where_not(folder, capfd):
    command = ["train", "toy_sudoku", "output=run", *QUICK]
    assert main(command) == 0
    before = contents(Path("run"))
    capfd.readouterr()
    assert main(["rerun", "run"]) == 0
    assert capfd.readouterr().out == "equal: every metric of 2 steps, bit for bit; the new run is in run_rerun\n"
    assert "run_rerun holds a finished run, so nothing would be run; remove it, or choose another" in refused(capfd, "rerun", "run")
    assert main(["rerun", "run", "output=other", "weight.alpha=0.7"]) == 1
    metrics = [json.loads((folder / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("run", "other")]
    key = next(key for key in metrics[0] if key not in ("seconds", "forward_passes") and metrics[0][key] != metrics[1][key])
    line = f"different at step 1: {key} {metrics[1][key]} instead of {metrics[0][key]}; "
    line += "a difference is expected, because of what was given here: weight.alpha=0.7; the new run is in other\n"
    assert capfd.readouterr().out == line
    assert contents(Path("run")) == before
    # Of a run that stopped earlier, what both have is compared.
    assert main(["rerun", "run", "output=short", "train.rounds=1"]) == 0
    assert "equal: every metric of 1 step," in capfd.readouterr().out


def test_a_rerun_from_inside_the_run_stands_beside_it(folder, capfd, monkeypatch):
    assert main(["train", "toy_sudoku", f"output={folder / 'run'}", *QUICK]) == 0
    (folder / "run/inner").mkdir()
    for inside, word in (("run", "."), ("run/inner", "..")):
        monkeypatch.chdir(folder / inside)
        assert main(["rerun", word]) == 0
        assert f"the new run is in {folder / 'run_rerun'}\n" in capfd.readouterr().out
        shutil.rmtree(folder / "run_rerun")


def test_a_run_with_on_round_alone_can_be_repeated(folder, small_run, capfd):
    trained = train(small_run("train.rounds=1"), on_round=lambda done, policy: {"mine": 0.5})
    assert trained.metrics[-1]["mine"] == 0.5
    assert main(["rerun", str(trained.output)]) == 0
    assert "equal: every metric of 2 steps" in capfd.readouterr().out


def test_a_rerun_that_was_stopped_goes_on_and_compares(folder, capfd):
    assert main(["train", "toy_sudoku", "output=run", *QUICK, "train.keep_checkpoints=2"]) == 0
    assert main(["rerun", "run"]) == 0
    shutil.rmtree("run_rerun/checkpoint-000002")
    capfd.readouterr()
    assert main(["rerun", "run"]) == 0
    assert capfd.readouterr().out == "equal: every metric of 2 steps, bit for bit; the new run is in run_rerun\n"


@pytest.mark.parametrize("own", ["output=run", "output=./run", "output={}/run", "output=link", "output=run/../run"])
def test_a_run_is_not_compared_with_itself(folder, capfd, own):
    assert main(["train", "toy_sudoku", "output=first", *QUICK]) == 0
    (folder / "first").rename("run")
    (folder / "link").symlink_to("run")
    assert "is the run itself, which is to be compared; choose another output" in refused(capfd, "rerun", "run", own.format(folder))


@pytest.mark.parametrize("missing", [("reward", "loss"), ("loss",)])
def test_metrics_without_reward_and_loss_are_no_run_to_be_repeated(folder, capfd, missing):
    assert main(["train", "toy_sudoku", "output=run", *QUICK]) == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    for name in missing:
        del lines[-1][name]
    Path("run/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "the lines of metrics.jsonl, with reward and loss, are needed" in refused(capfd, "rerun", "run")


def test_a_changed_digit_of_the_metrics_and_another_version_are_seen(folder, capfd):
    assert main(["train", "toy_sudoku", "output=run", *QUICK]) == 0
    file = folder / "run/metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["grad_norm"] += 1e-9
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = json.loads((folder / "run/run.json").read_text())
    known["starts"][-1]["versions"]["torch"] = "1.0"
    (folder / "run/run.json").write_text(json.dumps(known))
    capfd.readouterr()
    assert main(["rerun", "run"]) == 1
    line = capfd.readouterr().out
    assert line.count("\n") == 1 and line.startswith("different at step 2: grad_norm ") and "torch 1.0 then, " in line


def test_what_cannot_be_run_again_is_said(folder, small_run, capfd):
    (folder / "empty").mkdir()
    assert "empty holds no run that could be repeated" in refused(capfd, "rerun", "empty")
    trained = train(small_run("train.rounds=1"), reward=lambda item, text: 0.5)
    assert "was run from Python with reward=, which no file holds" in refused(capfd, "rerun", str(trained.output))
    known = json.loads((trained.output / "run.json").read_text())
    starts = [known["starts"][0], known["starts"][0] | {"from_python": []}]  # as an earlier version let it go on
    (trained.output / "run.json").write_text(json.dumps(known | {"starts": starts}))
    assert "was run from Python with reward=, which no file holds" in refused(capfd, "rerun", str(trained.output))


# What a run goes on with


GIVEN = {
    "reward": lambda config: {"reward": lambda item, text: 0.5},
    "task": lambda config: {"task": Sudoku(config.task)},
    "objective": lambda config: {"objective": build_objective(config.loss, config.weight)},
}


@pytest.mark.parametrize("name", GIVEN)
def test_what_came_from_python_is_given_again_or_the_run_does_not_go_on(folder, small_run, name):
    def config(rounds, output):
        return small_run(f"train.rounds={rounds}", "optimizer.schedule=constant", f"output={output}")

    given, seen = GIVEN[name](config(1, "with")), {"on_round": lambda done, policy: {}}
    train(config(1, "with"), **given, **seen)
    train(config(1, "without"))
    before = contents(Path())
    with pytest.raises(ValueError, match=f"output=with was run with {name}= from Python; give it again, from Python, or choose another"):
        train(config(2, "with"), resume=True)
    with pytest.raises(ValueError, match=f"output=without was run without {name}= from Python; leave it out, or choose another"):
        train(config(2, "without"), **given, resume=True)
    assert contents(Path()) == before
    assert len(train(config(2, "with"), **given, resume=True).metrics) == 4
    assert len(train(config(2, "without"), **seen, resume=True).metrics) == 4


def test_other_versions_are_one_line_of_warning(folder, capfd):
    command = ("train", "toy_sudoku", "output=run", *QUICK)
    assert main([*command]) == 0
    known = json.loads((folder / "run/run.json").read_text())
    known["starts"][-1]["versions"]["torch"] = "1.0"
    (folder / "run/run.json").write_text(json.dumps(known))
    capfd.readouterr()
    assert main([*command, "train.rounds=3", "--resume"]) == 0
    warning = "dmpo: warning: run goes on with other versions, so its numbers may differ: torch 1.0 then, "
    assert [line[: len(warning)] for line in capfd.readouterr().err.splitlines() if "warning" in line] == [warning]
    assert main([*command, "train.rounds=4", "--resume"]) == 0
    assert "warning" not in capfd.readouterr().err


LOGS = {  # what is left of four lines, of two steps in each of two rounds → what is said
    "nothing": (lambda lines: None, "has no line of round 0"),
    "no line": (lambda lines: [], "has no line of round 0"),
    "the first round": (lambda lines: lines[:2], "has no line of round 1"),
    "the second round": (lambda lines: lines[2:], "has no line of round 0"),
    "all but the last line": (lambda lines: lines[:3], "does not end round 1 with the line of step 4 that this run wrote"),
    "a last line of another run": (
        lambda lines: [*lines[:3], lines[3].replace('"seconds": ', '"seconds": 1')], "does not end round 1 with the line of step 4"
    ),
}  # fmt: skip


@pytest.mark.parametrize("left", LOGS)
def test_a_run_goes_on_only_after_its_own_metrics(folder, capfd, left):
    command = ("train", "toy_sudoku", "output=run", *QUICK, "train.steps_per_round=2", "train.rounds=3")
    assert main([*command[:-1], "train.rounds=2"]) == 0
    keep, problem = LOGS[left]
    file = folder / "run/metrics.jsonl"
    whole = file.read_text()
    lines = keep(whole.splitlines(keepends=True))
    file.unlink() if lines is None else file.write_text("".join(lines))
    line = refused(capfd, *command, "--resume")
    assert f"run/metrics.jsonl {problem}" in line and "put the file of this run back, or start another run" in line
    file.write_text(whole)
    assert main([*command, "--resume"]) == 0
