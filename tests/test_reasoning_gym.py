"""reasoning-gym's generators as a task: problems by seed, the verifier's score as reward, and verifiers that fail or never end."""

from __future__ import annotations

import importlib.util
import json
import logging
import os

import pytest

from dmpo_ref import load_config, train
from dmpo_ref.cli import main
from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks import reasoning_gym
from dmpo_ref.tasks.answers import helper
from dmpo_ref.tasks.reasoning_gym import Entry, ReasoningGym, make_problems
from dmpo_ref.tasks.sudoku import is_solution
from toy.small_llada import make_checkpoint


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("base") / "llada", d_model=16, n_heads=2)


def gym(train: str = "mini_sudoku", test: str = "mini_sudoku:500", **options) -> ReasoningGym:
    return ReasoningGym(TaskConfig(name="reasoning_gym", train=train, test=test, **options))


def answer(text: str) -> str:
    return f"because\n</reasoning>\n<answer>\n{text}\n</answer>"


def test_problems_are_those_of_the_seed_and_seeds_differ():
    task = gym()
    items = task.load("mini_sudoku:3:5")
    assert [item.index for item in items] == [0, 1, 2, 3, 4] and items == task.load("mini_sudoku:3:8")[:5]
    assert not set(item.question for item in items) & set(item.question for item in task.load("mini_sudoku:40:5"))
    assert len(task.load("leg_counting")) == 500
    assert task.parse("mini_sudoku:3#4") == items[4] and task.parse("mini_sudoku#0") == task.load("mini_sudoku:0:1")[0]
    assert items[0].question in task.prompt(items[0])[0]["content"] and task.template(items[0]) is None


def test_every_entry_of_two_generators_scores_its_own_solution_1_and_another_less():
    for source in ("mini_sudoku:5:4", "countdown:5:4"):
        for item in gym().load(source):
            right = make_problems(item.generator, item.seed)[item.index]["answer"]
            assert gym().reward(item, answer(right)) == {"score": 1.0} and gym().grade(item, answer(right)).correct
            wrong = gym().grade(item, answer(right.replace("1", "2").replace("3", "1")))
            assert not wrong.correct and wrong.kind == item.generator and wrong.strict == wrong.published


def test_a_countdown_expression_worked_by_hand():
    """Another order of a sum is right; a number left out earns what the verifier gives for that."""
    item = next(item for item in gym().load("countdown:5:200") if "+" in make_problems("countdown", 5)[item.index]["answer"])
    right = make_problems("countdown", 5)[item.index]["answer"]
    assert gym().reward(item, answer(f"0 + {right}"))["score"] < 1, "0 is not among the numbers"
    assert gym().reward(item, answer(f"({right})"))["score"] == 1.0


def test_a_sudoku_that_is_another_solution_is_no_less_right():
    """Its verifier compares the grid with the clues and the rules, as `is_solution` does."""
    item = gym().load("mini_sudoku:5:1")[0]
    solution = make_problems("mini_sudoku", 5)[0]["answer"]
    digits = "".join(sign for sign in solution if sign.isdigit())
    assert is_solution("0" * 16, digits)
    assert gym().reward(item, answer(solution))["score"] == 1.0


@pytest.mark.parametrize("text", ["", "no answer", "<answer>", "<answer></answer>", "<answer>\x00\ud800</answer>", answer("x" * 3000)])
def test_any_text_has_a_finite_reward(text):
    item = gym().load("leg_counting:0:1")[0]
    assert 0 <= gym().reward(item, text)["score"] < 1
    reason = gym().grade(item, text).strict.reason
    assert ("longer than 2000 characters" in reason) == (len(text) > 2000)
    assert reason and "\n" not in reason


@pytest.fixture
def broken(monkeypatch, tmp_path):
    """A generator whose verifier fails, never ends, or returns what is no number, as the answer says; in processes of their own."""
    (tmp_path / "broken_gym.py").write_text("""
from dataclasses import dataclass
from typing import Optional
from reasoning_gym.factory import DATASETS, ProceduralDataset, register_dataset

@dataclass
class Config:
    seed: Optional[int] = None
    size: int = 500

class Broken(ProceduralDataset):
    def __init__(self, config):
        super().__init__(config, config.seed, config.size)
    def __getitem__(self, index):
        return {"question": f"{index}?", "answer": "1", "metadata": {}}
    def score_answer(self, answer, entry):
        if answer == "fail":
            raise KeyError("no such\\nkey")
        if answer == "hang":
            10 ** 10 ** 10
        return {"nan": float("nan"), "none": None}.get(answer, 0.5)

if "broken" not in DATASETS:
    register_dataset("broken", Broken, Config)
""")
    # A wrapper of the module that the separate process runs: it registers the generator first.
    (tmp_path / "with_broken.py").write_text("""
import broken_gym
from dmpo_ref.tasks.reasoning_gym import prepare, verify
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(helper, "SECONDS", 1)
    monkeypatch.setattr(helper, "HELPERS", {})
    monkeypatch.setattr(reasoning_gym, "UNSCORED", set())
    monkeypatch.setattr(reasoning_gym, "ask", lambda function, *words: helper.ask("with_broken:verify", *words))
    import broken_gym  # noqa: F401

    make_problems.cache_clear()
    yield Entry("broken", 0, 3, "3?")
    helper.stop_helpers()


def test_a_verifier_that_raises_or_never_ends_counts_0_and_is_said_once(broken, caplog):
    with caplog.at_level(logging.WARNING):
        assert gym().reward(broken, answer("fail")) == {"score": 0.0}
        assert gym().reward(broken, answer("fail")) == {"score": 0.0}
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]
    assert "broken:0#3, answer 'fail': the verifier of broken cannot score it: KeyError" in caplog.messages[0]
    assert gym().reward(broken, answer("other")) == {"score": 0.5}
    assert "it took too long" in gym().grade(broken, answer("hang")).strict.reason
    assert gym().reward(broken, answer("other")) == {"score": 0.5}, "the next answer starts a new process"
    assert "its score is nan" in gym().grade(broken, answer("nan")).strict.reason
    assert "TypeError" in gym().grade(broken, answer("none")).strict.reason


def test_an_answer_is_not_evaluated_in_this_process(tmp_path):
    """The verifier of countdown hands an answer to a parser that runs code."""
    item, mark = gym().load("countdown:0:1")[0], tmp_path / "ran"
    process = os.getpid()
    gym().reward(item, answer(f"__import__('os').kill({process}, 0) or open({str(mark)!r}, 'w').write(str(__import__('os').getpid()))"))
    assert not mark.exists() or mark.read_text() != str(process)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mini_sudok", "reasoning-gym has no generator mini_sudok; did you mean mini_sudoku?"),
        ("zzzzzz", "reasoning-gym has no generator zzzzzz; it has "),
        ("mini_sudoku:x", "give NAME, NAME:SEED or NAME:SEED:COUNT"),
        ("mini_sudoku:0:0", "give NAME, NAME:SEED or NAME:SEED:COUNT"),
        ("data.csv", "names no problems of reasoning-gym"),
    ],
)
def test_a_wrong_source_is_one_line(source, message):
    with pytest.raises(ValueError) as caught:
        gym().load(source)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_problem_i_of_a_seed_is_that_of_their_sum():
    """As reasoning-gym draws them, for a generator of text, of numbers and of a grid."""
    for generator in ("spell_backward", "chain_sum", "mini_sudoku"):
        assert make_problems(generator, 3)[4]["question"] == make_problems(generator, 0)[7]["question"]


@pytest.mark.parametrize(
    ("train", "test", "shared", "advice"),
    [
        ("countdown", "countdown", 500, "countdown:500:500"),
        ("countdown:0", "countdown:1", 499, "countdown:500:500"),
        ("countdown:10:5", "countdown:0:100", 5, "countdown:15:100"),
        ("countdown:3:7", "countdown:9:20", 1, "countdown:10:20"),
        ("countdown:9:20", "countdown:3:7", 1, "countdown:29:7"),
        ("countdown:999999990:20", "countdown:999999999:5", 5, "countdown:0:5"),
    ],
)
def test_train_and_test_that_share_problems_are_refused(train, test, shared, advice):
    with pytest.raises(ValueError) as caught:
        gym(train, test)
    assert f"task.train={train} and task.test={test} have {shared} problems in common" in str(caught.value)
    assert str(caught.value).endswith(f"give task.test={advice}") and "\n" not in str(caught.value)
    gym(train, advice)


def test_train_and_test_that_share_no_number_are_accepted():
    for sources in (("countdown:3:7", "countdown:10:20"), ("countdown:10:20", "countdown:3:7"), ("countdown", "mini_sudoku")):
        gym(*sources)


def test_what_else_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="has no worked examples"):
        gym(few_shot=1)
    with pytest.raises(ValueError, match="give NAME:SEED#INDEX"):
        gym().parse("mini_sudoku")
    for truth in (None, ["a", 1], ["a", "1", 2], ["a", True, 2]):
        with pytest.raises(ValueError, match=r"is \[generator, seed, index\]"):
            gym().from_record("?", truth)
    make_problems.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (lambda: gym().load("mini_sudoku"), lambda: gym().reward(Entry("mini_sudoku", 0, 0, "?"), answer("1"))):
        with pytest.raises(ValueError, match=r"needs the package reasoning-gym: pip install 'dmpo-ref\[gym\]'") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_record_gives_the_item_back_and_files_are_graded(tmp_path, small_checkpoint, capsys):
    item = gym().load("mini_sudoku:5:2")[1]
    assert gym().from_record(*json.loads(json.dumps(gym().record(item)))) == item
    options = [f"model.path={small_checkpoint}", "task.name=reasoning_gym", "task.train=leg_counting", "task.test=leg_counting:500:3"]
    options += ["sampler.response_length=8", "sampler.block_length=8", "sampler.steps=4", "evaluation.sampler.response_length=8"]
    options += ["evaluation.sampler.block_length=8", "evaluation.sampler.steps=4", "task.reward=solved"]
    assert main(["evaluate", "llada_gsm8k", *options, "--output", str(tmp_path / "results")]) == 0
    files = sorted((tmp_path / "results").glob("reasoning_gym*.jsonl"))
    assert main(["grade", *map(str, files)]) == 0
    assert "leg_counting" in capsys.readouterr().out


def test_training_on_a_generator(tmp_path, small_checkpoint):
    config = load_config(
        "llada_gsm8k",
        *(f"model.path={small_checkpoint}", f"output={tmp_path / 'run'}", "task.name=reasoning_gym", "task.train=mini_sudoku:0:8"),
        *("task.test=mini_sudoku:8:2", "task.reward=solved", "sampler.response_length=8", "sampler.block_length=8", "sampler.steps=4"),
        *("train.rounds=1", "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "evaluation.every=0"),
        *("evaluation.sampler.response_length=8", "evaluation.sampler.block_length=8", "evaluation.sampler.steps=4"),
    )
    trained = train(config)
    assert 0 <= trained.metrics[0]["reward/score"] <= 1
