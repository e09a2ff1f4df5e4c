"""Results files: an evaluation that is killed and resumed leaves the same file as one run; nothing stale is counted."""

import json
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from dmpo_ref.cli import main
from dmpo_ref.evaluation import answering as evaluate
from dmpo_ref.evaluation import results
from dmpo_ref.evaluation.results import evaluate_to_file, grid, timing_of
from dmpo_ref.likelihood import build_vocabulary
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.tasks import build_task

TOY = ("toy_sudoku", "evaluation.num_items=11", "evaluation.num_samples=2", "seed=3")


class Killed(BaseException):
    """What stands for SIGKILL in-process: nothing may catch it."""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small random checkpoint of LLaDA's layout."""
    from toy.small_llada import make_checkpoint

    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    make_checkpoint(folder)
    return folder


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    for module in (evaluate, results):
        monkeypatch.setattr(module, "ITEMS_PER_BATCH", 2)


def run(path: Path, *arguments: str, **share) -> None:
    """Evaluate a config into a file."""
    config = load_config(*arguments)
    task, (policy, tokenizer) = build_task(config.task), load_policy(config.model, torch.device("cpu"))
    vocabulary = build_vocabulary(tokenizer, policy.config.embedding_size, alphabet=task.alphabet, full=False)
    items = task.load(config.task.test)[: config.evaluation.num_items]
    evaluate_to_file(policy, tokenizer, task, items, config, vocabulary, path, **share)


def chat_overrides(small: Path) -> tuple[str, ...]:
    sampler = ("name=confidence", "temperature=0", "response_length=16", "block_length=8", "steps=8")
    return (
        *("llada_sudoku", f"model.path={small}", "model.dtype=float32", "model.lora_rank=0", "device=cpu", "evaluation.num_items=9"),
        *(f"evaluation.sampler.{word}" for word in sampler),
    )


@pytest.mark.parametrize("which", ["toy", "small"])
def test_killed_five_times_at_random_and_resumed_gives_the_file_of_one_run(which, small, tmp_path, monkeypatch):
    arguments = TOY if which == "toy" else chat_overrides(small)
    run(tmp_path / "whole.jsonl", *arguments)
    rng, sample, kills = random.Random(which), evaluate.sample, []

    def sometimes(*args, **kwargs):
        if len(kills) < 5 and rng.random() < 0.6:
            kills.append(1)
            raise Killed
        return sample(*args, **kwargs)

    monkeypatch.setattr(evaluate, "sample", sometimes)
    path = tmp_path / "killed.jsonl"
    for attempt in range(6):
        try:
            run(path, *arguments)
            break
        except Killed:
            part = tmp_path / "killed.jsonl.0.part"
            text = part.read_text() if part.exists() else ""  # nothing is written before there is an answer
            # A crash may also cut the last line off.
            if attempt % 2 and text.count("\n") > 2:
                part.write_text(text[:-7])
    assert len(kills) == 5
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.part"))
    costs = [json.loads(line) for line in timing_of(path).read_text().splitlines()]
    assert sum(cost["answers"] for cost in costs) == len(path.read_text().splitlines()) - 1


def run_two(path: Path, *arguments: str) -> None:
    """Two processes, as threads that wait for each other; thread `p` is named after its process p."""
    barrier, wrong = threading.Barrier(2, timeout=60), []

    def one(process: int) -> None:
        try:
            run(path, *arguments, process=process, num_processes=2, wait=barrier.wait)
        except Exception as error:
            wrong.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, args=(process,), name=str(process)) for process in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def test_two_processes_leave_the_file_of_one(tmp_path):
    run(tmp_path / "one.jsonl", *TOY)
    run_two(tmp_path / "two.jsonl", *TOY)
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    # One of two was killed; a single process takes over what is missing.
    run(tmp_path / "three.jsonl", *TOY, process=1, num_processes=2)
    run(tmp_path / "three.jsonl", *TOY)
    assert (tmp_path / "three.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_what_a_kill_left_over_is_shared_out_among_all_processes(tmp_path, monkeypatch):
    # Of six batches 0, 2 and 4 are done: those left would all be process 1's if batches were dealt by their number.
    run(tmp_path / "one.jsonl", *TOY)
    run(tmp_path / "two.jsonl", *TOY, process=0, num_processes=2)
    asked, sample = [], evaluate.sample
    monkeypatch.setattr(evaluate, "sample", lambda *a, **k: (asked.append(threading.current_thread().name), sample(*a, **k))[1])
    run_two(tmp_path / "two.jsonl", *TOY)
    assert sorted(asked) == ["0", "0", "1"]
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_parts_that_a_kill_left_beside_the_finished_file_go(tmp_path, monkeypatch):
    unlink = Path.unlink

    def killed(path, *arguments, **options):
        if path.suffix == ".part":
            raise Killed
        unlink(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", killed)
        run(tmp_path / "x.jsonl", *TOY)
    before = [(tmp_path / name).read_bytes() for name in ("x.jsonl", "x.timing.jsonl")]
    assert len(list(tmp_path.glob("*.part"))) == 1
    run(tmp_path / "x.jsonl", *TOY)
    assert not list(tmp_path.glob("*.part"))
    assert [(tmp_path / name).read_bytes() for name in ("x.jsonl", "x.timing.jsonl")] == before


def test_answers_to_another_test_set_of_the_same_name_are_refused(tmp_path):
    header, *rows = Path("toy/data/test.csv").read_text().splitlines()
    puzzles = tmp_path / "test.csv"
    arguments = (*TOY, f"task.test={puzzles}", "evaluation.num_items=4")
    puzzles.write_text("\n".join([header, *rows[:4]]) + "\n")
    run(tmp_path / "x.jsonl", *arguments)
    puzzles.write_text("\n".join([header, *rows[:3], rows[5]]) + "\n")
    with pytest.raises(ValueError, match="item 3 of task.test is another one now; choose another output folder"):
        run(tmp_path / "x.jsonl", *arguments)
    run(tmp_path / "x.jsonl", *arguments, "evaluation.num_items=3")  # those are as they were


def test_another_text_in_the_prompt_file_is_refused(small, tmp_path):
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Solve {puzzle}.")
    arguments = (*chat_overrides(small), "evaluation.num_items=2", f"task.prompt_file={prompt}")
    run(tmp_path / "x.jsonl", *arguments)
    run(tmp_path / "x.jsonl", *arguments)
    prompt.write_text("Please solve {puzzle}.")
    with pytest.raises(ValueError, match=r"was made with prompt_text=\w{16}, not \w{16}; choose another"):
        run(tmp_path / "x.jsonl", *arguments)


def test_what_decides_no_answer_may_change(tmp_path):
    header = results.describe_evaluation(load_config("toy_sudoku"))
    for word in (
        "compile=default",
        "gradient_checkpointing=true",
        "float32_logits=true",
        "lora_rank=4",
        "lora_alpha=3",
        "lora_dropout=0.1",
        "lora_targets=[q_proj]",
    ):
        word = f"model.{word}"
        assert results.describe_evaluation(load_config("toy_sudoku", word)) == header, word
    shutil.copytree("toy/checkpoint", tmp_path / "elsewhere")
    for word in (
        "model.vocabulary=full",
        "model.dtype=bfloat16",
        "model.lora_lean=true",
        "task.few_shot=1",
        f"model.path={tmp_path / 'elsewhere'}",
    ):
        assert results.describe_evaluation(load_config("toy_sudoku", word)) != header, word


def test_of_a_file_with_more_items_only_those_asked_for_are_counted(tmp_path, capsys):
    words = ["evaluate", "toy_sudoku", "seed=3", "--output", str(tmp_path)]
    assert main([*words, "evaluation.num_items=2"]) == 0
    few = capsys.readouterr().out
    assert "the file holds more" not in few and few.splitlines()[2].startswith("sudoku_random_order  ")
    assert main([*words, "evaluation.num_items=6"]) == 0
    assert "/24 " in capsys.readouterr().out  # four answers each
    assert main([*words, "evaluation.num_items=2"]) == 0
    again = capsys.readouterr().out
    assert "the first 2 items are counted; the file holds more" in again
    # The cost, which is that of all, and the line that says so aside, the report is that of two items.
    assert [line for line in again.splitlines() if "forward passes" not in line and "the file holds" not in line] == [
        line for line in few.splitlines() if "forward passes" not in line
    ]


def test_every_answer_stands_once_in_order_with_all_that_a_grader_needs(tmp_path):
    run(tmp_path / "x.jsonl", *TOY)
    header, *lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [(line["index"], line["sample"]) for line in lines] == [(i, n) for i in range(11) for n in range(2)]
    assert header["setting"]["evaluation.sampler.name"] == "random_order"
    assert all(len(line["generation"]) == 16 and line["num_tokens"] == line["question"].count("0") for line in lines)


def test_a_finished_evaluation_asks_nothing_and_more_items_ask_only_for_those(tmp_path, monkeypatch):
    asked, sample = [], evaluate.sample
    monkeypatch.setattr(
        evaluate, "sample", lambda model, prompts, *a, **k: (asked.append(len(prompts.tokens)), sample(model, prompts, *a, **k))[1]
    )
    run(tmp_path / "x.jsonl", *TOY)
    assert sum(asked) == 11
    run(tmp_path / "x.jsonl", *TOY)
    assert sum(asked) == 11
    run(tmp_path / "x.jsonl", *TOY, "evaluation.num_items=14")
    assert sum(asked) <= 11 + 4  # the batch of item 10 is asked again, its answers are not counted twice
    run(tmp_path / "y.jsonl", *TOY, "evaluation.num_items=14")
    assert (tmp_path / "x.jsonl").read_bytes() == (tmp_path / "y.jsonl").read_bytes()


def test_answers_of_another_setting_or_other_weights_are_refused(small, tmp_path):
    run(tmp_path / "x.jsonl", *TOY)
    with pytest.raises(ValueError, match=r"was made with seed=3, not 4; choose another output folder"):
        run(tmp_path / "x.jsonl", *TOY, "seed=4")
    with pytest.raises(ValueError, match="evaluation.sampler.temperature=1.0, not 0.5"):
        run(tmp_path / "x.jsonl", *TOY, "evaluation.sampler.temperature=0.5")
    run(tmp_path / "x.jsonl", *TOY, "evaluation.sampler.micro_batch=3", "task.reward=recipe", "train.rounds=7")


def test_items_too_long_for_the_model_are_listed_and_the_others_scored(small, tmp_path, monkeypatch, capsys):
    puzzles = tmp_path / "prompt.txt"
    puzzles.write_text("Solve {puzzle}.")
    arguments = ("evaluate", *chat_overrides(small), "evaluation.num_items=3", f"task.prompt_file={puzzles}")
    from dmpo_ref.tasks.sudoku import Sudoku

    ask = Sudoku.ask
    monkeypatch.setattr(Sudoku, "ask", lambda self, item: ask(self, item) * (1 + 999 * (item == self.load("toy/data/test.csv")[1])))
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "never asked, counted as wrong: 1 item longer than the model can read, index 1" in printed
    lines = (tmp_path / "out" / "sudoku_16_confidence.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)["generation"] is None for line in lines] == [False, True, False]


def test_the_grid_scales_steps_and_names_files(small):
    config = load_config("llada_sudoku")
    got = dict(grid(config, [128, 512], ["confidence+prefix", "wino"]))
    assert list(got) == ["sudoku_128_confidence+prefix", "sudoku_128_wino", "sudoku_512_confidence+prefix", "sudoku_512_wino"]
    assert "evaluation.sampler.steps=256" in got["sudoku_512_confidence+prefix"]
    assert "evaluation.sampler.steps=null" in got["sudoku_512_wino"]
    assert [name for name, _ in grid(config, [], [])] == ["sudoku_256_confidence"]
    with pytest.raises(ValueError, match="answers into a template"):
        list(grid(load_config("toy_sudoku"), [128], []))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lengths", "99999"], "a generation length of 99999: the model reads at most"),
        (["--lengths", "16,99999"], "a generation length of 99999: the model reads at most"),
        (["--lengths", "16,20"], "block_length=8 does not divide"),
        (["--lengths", "16,x"], "is not a list of lengths"),
        (["--samplers", "greedy"], "evaluation.sampler.name"),
        (["--samplers", "wino+prefix"], "wino has no cache"),
    ],
)
def test_an_impossible_grid_is_one_line(words, message, small, tmp_path, capsys):
    try:
        code = main(["evaluate", *chat_overrides(small), *words, "--output", str(tmp_path / "out")])
    except SystemExit as stopped:  # argparse leaves that way
        code = stopped.code
    assert code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.long
def test_a_real_evaluation_killed_by_the_system_goes_on(tmp_path):
    words = [sys.executable, "-m", "dmpo_ref", "evaluate", "toy_sudoku", "evaluation.num_samples=8", "--output"]
    subprocess.run([*words, str(tmp_path / "whole")], check=True, capture_output=True)
    rng = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen([*words, str(tmp_path / "killed")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(5 + 4 * rng.random())
        process.kill()
        process.wait()
    subprocess.run([*words, str(tmp_path / "killed")], check=True, capture_output=True)
    name = "sudoku_random_order.jsonl"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
