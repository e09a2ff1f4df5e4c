"""Checkpoints: what is in one comes back, what would change the numbers is refused, what is old is removed."""

import dataclasses

import pytest
import torch

from dmpo_ref.config import flat
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.checkpoint import as_experience, check_same, load_checkpoint, save_checkpoint
from dmpo_ref.runtime.processes import Processes
from dmpo_ref.runtime.setup import prepare_run
from dmpo_ref.train import train
from tests.helpers import collect_round


@pytest.fixture
def run(small_run):
    """A run whose buffer holds a round."""
    prepared = prepare_run(small_run("train.reuse_rounds=1", "loss.name=wddo", "train.keep_checkpoints=2"))
    prepared.state.buffer = [collect_round(prepared)]
    prepared.state.round = prepared.state.step = 1
    return prepared


def save(run) -> None:
    save_checkpoint(run.config, run.state, run.policy, run.tokenizer, run.reference, Processes())


def same(a, b) -> bool:
    """Equal dataclasses, tensors included."""
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_counters_buffer_and_optimiser_come_back(run, tmp_path):
    run.state.counters["rollouts"] = 99
    (tmp_path / "run").mkdir()
    save(run)
    again = prepare_run(run.config, resume=True)
    assert (again.state.round, again.state.step, again.state.counters["rollouts"]) == (1, 1, 99)
    assert same(again.state.buffer[0], run.state.buffer[0])
    before, after = (r.state.optimizer.state_dict() for r in (run, again))
    assert before["param_groups"] == after["param_groups"]


def test_only_the_newest_stay(run, tmp_path):
    (tmp_path / "run").mkdir()
    for run.state.round in (2, 10, 9):
        save(run)
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert names == ["checkpoint-000009", "checkpoint-000010"]
    assert latest_checkpoint(tmp_path / "run").name == "checkpoint-000010"


def test_a_buffer_of_other_processes_is_refused(run, tmp_path):
    (tmp_path / "run").mkdir()
    save(run)
    found = load_checkpoint(tmp_path / "run", run.config)
    found.buffers *= 3
    with pytest.raises(ValueError, match="was written by 3 processes, with a part each; resume with 3, not 1"):
        found.restore(run.state, Processes())


def test_a_field_of_version_0_1_0_is_read(run):
    stored = dataclasses.asdict(run.state.buffer[0])
    stored["rollout"]["log_prob"] = stored["rollout"].pop("path_log_prob")
    del stored["log_ratio"], stored["coefficient"]
    experience = as_experience(stored)
    assert torch.equal(experience.rollout.path_log_prob, run.state.buffer[0].rollout.path_log_prob)
    assert experience.log_ratio is None


CHANGED = {  # one value that differs from the preset's, for every option that changes the numbers of a run
    "seed=1": "seed",
    "model.dtype=bfloat16": "model.dtype",
    "task.reward=recipe": "task.reward",
    "sampler.temperature=0.5": "sampler.temperature",
    "weight.alpha=0.2": "weight.alpha",
    "loss.num_masks=3": "loss.num_masks",
    "optimizer.beta1=0.8": "optimizer.beta1",
    "train.num_rollouts=5": "train.num_rollouts",
    "train.rounds=7": "train.rounds",
}
FREE = (
    "threads=2",
    "device=cpu",
    "train.log_prompts=3",
    "train.checkpoint_every=1",
    "train.keep_checkpoints=9",
    "loss.micro_batch=5",
    "train.score_micro_batch=5",
    "sampler.micro_batch=5",
    "evaluation.every=2",
    "evaluation.sampler.temperature=0",
    "log_with=tensorboard",
)


@pytest.mark.parametrize("override", CHANGED)
def test_what_would_change_the_numbers_is_refused_by_name(override):
    then, now = load_config("toy_sudoku"), load_config("toy_sudoku", override)
    key = CHANGED[override]
    with pytest.raises(ValueError, match=rf"was run with {key}={flat(then)[key]}, not {flat(now)[key]}; resume with the same config"):
        check_same(then, now)


@pytest.mark.parametrize("override", FREE)
def test_what_leaves_the_numbers_may_differ(override):
    check_same(load_config("toy_sudoku"), load_config("toy_sudoku", override))


def test_more_rounds_are_allowed_where_the_rate_does_not_fall_with_them():
    constant = "optimizer.schedule=constant"
    check_same(load_config("toy_sudoku", constant), load_config("toy_sudoku", constant, "train.rounds=200"))
    with pytest.raises(ValueError, match="train.rounds=120, not 100"):
        check_same(load_config("toy_sudoku", constant), load_config("toy_sudoku", constant, "train.rounds=100"))


def test_a_run_that_is_done_is_not_run_again(small_run):
    config = small_run("train.rounds=1")
    first, again = train(config), train(config, resume=True)
    assert [entry["loss"] for entry in again.metrics] == [entry["loss"] for entry in first.metrics]
