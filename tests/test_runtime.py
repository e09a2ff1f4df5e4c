"""State, data stream, log files and processes of a run, one by one."""

import json
import os

import pytest
import torch

from dmpo_ref.config import OptimizerConfig, SamplerConfig
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.rollout import Experience
from dmpo_ref.runtime.files import read_entries, write_atomically
from dmpo_ref.runtime.logs import RunLog, describe_answers, describe_round
from dmpo_ref.runtime.processes import Processes, check_division, check_launch, is_first_process
from dmpo_ref.runtime.prompts import PromptStream, find_fitting
from dmpo_ref.runtime.state import TrainState, build_optimizer
from dmpo_ref.tasks.base import BLANK
from tests.helpers import make_prompts, make_rollout

# The data stream


def test_every_epoch_is_a_permutation_of_the_items_and_epochs_differ():
    prompts = PromptStream(list("abcdefg"), prompts_per_round=2, seed=3)
    seen = [item for number in range(14) for item in prompts.of_round(number)[0]]  # 28 = 4 epochs of 7
    epochs = [tuple(seen[i : i + 7]) for i in range(0, 28, 7)]
    assert all(sorted(epoch) == list("abcdefg") for epoch in epochs) and len(set(epochs)) == 4
    assert [prompts.of_round(number)[1] for number in (0, 5)] == [[0, 1], [10, 11]]


def test_processes_get_disjoint_parts_of_what_one_process_would_get():
    alone = PromptStream(list("abcdefg"), prompts_per_round=6, seed=1)
    parts = [PromptStream(list("abcdefg"), 6, 1, index, 3) for index in range(3)]
    for number in range(3):
        items, position = alone.of_round(number)
        shares = [part.of_round(number) for part in parts]
        assert sorted(p for _, share in shares for p in share) == position
        assert {p: item for share in shares for item, p in zip(*share, strict=True)} == dict(zip(position, items, strict=True))


class Lengths:
    """A task whose items are the numbers of tokens of their prompt; one position is to be generated."""

    prefill = ""

    def prompt(self, item):
        return "1" * (item - 1)

    def template(self, item):
        return BLANK


def test_what_the_model_can_just_read_fits_and_no_more_than_five_others_are_listed(capsys):
    _, tokenizer = load_policy(load_config("toy_sudoku").model, torch.device("cpu"))
    rest = (Lengths(), tokenizer, SamplerConfig(), 8)
    assert find_fitting([7, 8, 9], *rest, kind="test") == [7, 8]
    assert capsys.readouterr().err.endswith("max_sequence_length=8 tokens; counted as wrong: 2\n")
    for long, listed in ((5, "1, 2, 3, 4, 5"), (6, "1, 2, 3, 4, 5, …")):
        assert find_fitting([8] + [9] * long, *rest, kind="training") == [8]
        assert capsys.readouterr().err.startswith(f"dmpo: {long} of {long + 1} training items are longer, with their response, than ")
        find_fitting([8] + [9] * long, *rest, kind="training")
        assert capsys.readouterr().err.endswith(f"left out: {listed}\n")
    find_fitting([8, 9], *rest, kind="test", report=False)
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match=r"2 of 2 test items are longer, .*; none is left"):
        find_fitting([9, 10], *rest, kind="test")


# The state


def test_only_weights_that_are_trained_are_optimised_and_the_rate_follows_the_schedule():
    policy = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1))
    policy[0].requires_grad_(False)
    state = TrainState(*build_optimizer(policy, OptimizerConfig(learning_rate=0.8, schedule="linear"), num_steps=4))
    assert sum(p.numel() for group in state.optimizer.param_groups for p in group["params"]) == 3
    rates = []
    for k in range(4):
        state.optimizer.step()
        rates.append(state.end_step(loss=float(k), grad_norm=1.0))
    assert [round(entry["learning_rate"], 12) for entry in rates] == [0.8, 0.6, 0.4, 0.2]
    assert [entry["step"] for entry in rates] == [1, 2, 3, 4] and state.step == 4


def test_seconds_are_added_up():
    state = TrainState(*build_optimizer(torch.nn.Linear(1, 1), OptimizerConfig(), 1))
    state.clock -= 2.0
    state.count_seconds()
    state.clock -= 1.0
    state.count_seconds()
    assert 3.0 <= state.counters["seconds"] < 3.5


# The log files


@pytest.fixture
def experience():
    """Two prompts with two rollouts; the first end token of the answers stands at different places."""
    rollout = make_rollout(make_prompts("12|____", "3|_1__"), 2)
    weight = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64)
    reward = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    return Experience(rollout, [0, 1], reward, weight, 0 * weight, log_ratio=torch.tensor([[0.0, 0.2], [0.1, 0.1]], dtype=torch.float64),
                      coefficient=torch.ones(2, 1, dtype=torch.float64))  # fmt: skip


def test_metrics_of_a_round_by_hand(experience):
    found = describe_round(experience, {"reward/solved": 0.75}, {0}, target="tilted")
    assert found["reward"] == 0.75 and found["reward/solved"] == 0.75
    assert found["reward_std"] == pytest.approx(0.25) and found["frac_reward_zero_std"] == 0.5
    assert found["ess"] == pytest.approx((1 / (2 * (0.81 + 0.01)) + 1) / 2)
    assert found["weight_max"] == pytest.approx(0.7) and found["log_ratio_mean"] == pytest.approx(0.1)
    assert found["log_ratio_std"] == pytest.approx(0.05)
    assert found["answer_length"] == (4 + 4 + 3 + 3) / 4  # no end token among the digits: all that is generated
    assert describe_round(experience, {}, {0}, target="reward")["ess"] is None


class Words:
    """A tokenizer that shows its ids."""

    mask_token_id = 1

    def decode(self, ids):
        return " ".join(map(str, torch.as_tensor(ids).tolist()))


def test_answers_are_written_with_their_trajectories_and_their_prompt_or_where_there_is_none_with_the_clues(experience):
    rollout = experience.rollout
    rollout.confidence = rollout.step.clamp(min=0) / 8 + 0.01234
    (entry,) = describe_answers(experience, [["a", "b"]], Words(), 5)
    answers = entry.pop("answers")
    assert entry == {"round": 5, "prompt": "4 5"}
    assert [{key: answer[key] for key in ("text", "reward", "weight")} for answer in answers] == [
        {"text": "a", "reward": 1.0, "weight": 0.9},
        {"text": "b", "reward": 0.0, "weight": 0.1},
    ]
    for n, answer in enumerate(answers):
        assert answer["pieces"] == [str(token) for token in rollout.tokens[0, n, -4:].tolist()]
        assert answer["step"] == rollout.step[0, n, -4:].tolist()
        assert answer["confidence"] == [round(max(step, 0) / 8 + 0.01234, 3) for step in answer["step"]]
    experience.rollout.prompt_mask[:] = False
    assert describe_answers(experience, [["a", "b"]], Words(), 5)[0]["prompt"] == "4 5 1 1 1 1"


def test_a_resumed_log_drops_what_came_after_the_checkpoint_and_is_not_touched_before_there_is_something_to_write(tmp_path):
    config = load_config("toy_sudoku", f"output={tmp_path}")
    written = "".join(json.dumps({"round": number, "step": number}) + "\n" for number in range(4))
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        (tmp_path / name).write_text(written + '{"round": 4, "st')  # cut off by a crash
    log = RunLog(config, Processes(), before_round=2)
    assert [entry["round"] for entry in log.earlier] == [0, 1]
    assert (tmp_path / "metrics.jsonl").read_text().startswith(written) and not (tmp_path / "config.yaml").exists()
    log.write([{"round": 2, "step": 9}], [{"round": 2, "prompt": "q"}])
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 1, 9]
    assert json.loads((tmp_path / "rollouts.jsonl").read_text().splitlines()[-1]) == {"round": 2, "prompt": "q"}
    assert load_config(tmp_path / "config.yaml") == config


LINE, NEXT = '{"round": 0, "step": 1}\n', '{"round": 0, "step": 2}\n'


@pytest.mark.parametrize("name", ["metrics.jsonl", "rollouts.jsonl"])
@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "{",
        "null",
        "[]",
        "5",
        '{"step": 2}',
        '{"round": "1"}',
        '{"round": true}',
        '{"round": -1}',
        '{"round": 0, "step": 1}',
        '{"round": 0, "step": "2"}',
        "\0\0",
        "[" * 100_000,
    ],
)
def test_a_line_that_no_run_has_written_is_named_and_the_run_goes_on_without_it(tmp_path, name, line):
    config = load_config("toy_sudoku", f"output={tmp_path}")
    (tmp_path / name).write_text(LINE + line + "\n" + NEXT)
    with pytest.raises(ValueError, match=rf"{name}, line 2: not an entry of a run, .*; remove the line, or move the file away if"):
        RunLog(config, Processes(), before_round=1)
    (tmp_path / name).write_text(LINE + NEXT)
    assert len(RunLog(config, Processes(), before_round=1).entries[name]) == 2
    (tmp_path / name).unlink()
    assert RunLog(config, Processes(), before_round=1).entries[name] == []


@pytest.mark.parametrize("tail", [b'{"round": 1, "st', b'{"text": "\xc3', b"\0\0\0"])
def test_a_last_line_that_a_crash_cut_off_in_the_middle_of_a_letter_is_dropped(tmp_path, tail):
    (tmp_path / "metrics.jsonl").write_bytes(LINE.encode() + tail)
    assert read_entries(tmp_path / "metrics.jsonl", before_round=9) == [{"round": 0, "step": 1}]


def test_a_folder_in_the_place_of_a_log_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(ValueError, match=r"metrics\.jsonl is not a file; move it away"):
        RunLog(load_config("toy_sudoku", f"output={tmp_path}"), Processes(), before_round=1)


def test_a_pipe_in_the_place_of_a_log_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(ValueError, match=r"metrics\.jsonl is not a file; move it away"):
        read_entries(tmp_path / "metrics.jsonl", before_round=1)


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # left over in a shell: the lock on the folder must stay
        ({"RANK": "1", "WORLD_SIZE": "1"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
    ],
)
def test_a_rank_counts_only_where_there_are_several_processes(monkeypatch, environment, is_first):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays_alone(tmp_path, monkeypatch):
    write_atomically(tmp_path / "x.jsonl", "old\n")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"x\.jsonl cannot be written: No space left on device; make space or repair the folder$"):
        write_atomically(tmp_path / "x.jsonl", "new\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.jsonl", "old\n")]


# Processes


def test_one_process_outside_a_run_changes_nothing():
    alone, policy = Processes(), torch.nn.Linear(1, 1)
    alone.shard(policy)
    alone.prepare(policy)
    assert alone.wrapped(policy) is policy and alone.most(3) == 3 and alone.gather("x") == ["x"]
    assert alone.mean({"a": 0.5, "b": None, "c": 3}) == {"a": 0.5, "b": None, "c": 3}
    assert alone.any(True) is True and alone.any(False) is False


def test_prompts_that_cannot_be_shared_are_refused():
    check_division(load_config("toy_sudoku", "train.prompts_per_round=6", "train.prompts_per_step=3").train, 3)
    with pytest.raises(ValueError, match=r"train\.prompts_per_step=4: cannot be shared evenly by 3 processes; choose a multiple"):
        check_division(load_config("toy_sudoku", "train.prompts_per_round=6", "train.prompts_per_step=4").train, 3)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {"ACCELERATE_USE_MEGATRON_LM": "true"},
            r"Megatron-LM is not supported; use ddp_8_gpus\.yaml \(adapters\) or fsdp2_8_gpus\.yaml",
        ),
        (
            {"ACCELERATE_USE_DEEPSPEED": "true"},
            r"DeepSpeed was removed in version 0\.2\.0; use ddp_8_gpus\.yaml \(adapters\) or fsdp2_8_gpus\.yaml",
        ),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed_precision=bf16 in the accelerate config is not supported; use no"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version=1 in the accelerate config is not supported; use 2"),
    ],
)
def test_launch_settings_that_would_be_ignored_are_refused(environment, message, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        check_launch(load_config("toy_sudoku"))
