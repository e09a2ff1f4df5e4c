"""Checkpoints: what is in one comes back, what would change the numbers is refused, what is old is removed."""

import dataclasses
import json
import shutil

import pytest
import torch

from dmpo_ref.config import ModelConfig, flat
from dmpo_ref.models.loading import latest_checkpoint, load_policy
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
    for weight in prepared.policy.parameters():
        weight.grad = torch.zeros_like(weight)
    prepared.state.optimizer.step()
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
    run.state.last_line = '{"round": 0, "step": 1}\n'
    (tmp_path / "run/metrics.jsonl").write_text(run.state.last_line)
    save(run)
    again = prepare_run(run.config, resume=True)
    assert (again.state.round, again.state.step, again.state.counters["rollouts"]) == (1, 1, 99)
    assert same(again.state.buffer[0], run.state.buffer[0])
    before, after = (r.state.optimizer.state_dict() for r in (run, again))
    assert before["param_groups"] == after["param_groups"]


@pytest.mark.parametrize(("every", "rounds", "is_kept"), [(0, 2, False), (3, 2, False), (2, 2, True), (1, 2, True)])
def test_the_reference_is_in_a_checkpoint_once_it_has_moved(every, rounds, is_kept, small_run, tmp_path):
    run = prepare_run(small_run(f"train.resync_every={every}", "weight.log_ratio=path"))
    run.state.round = rounds
    (tmp_path / "run").mkdir()
    save(run)
    assert (tmp_path / "run" / "checkpoint-000002" / "reference.safetensors").exists() == is_kept


def test_only_the_newest_stay(run, tmp_path):
    (tmp_path / "run").mkdir()
    for run.state.round in (2, 10, 9):
        save(run)
    names = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert names == ["checkpoint-000009", "checkpoint-000010"]
    assert latest_checkpoint(tmp_path / "run").name == "checkpoint-000010"
    run.state.round = 3  # what was just written stays, whatever numbers the others have
    save(run)
    assert (tmp_path / "run/checkpoint-000003/state.pt").is_file()


def test_only_what_a_run_has_written_is_removed_and_taken_for_its_newest(run, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    run.state.round = 999_999
    save(run)
    mine = [output / name for name in ("checkpoint-000002-backup-1", "checkpoint-000003_2", "my-checkpoint-000004", "checkpoint-7")]
    for folder in mine[:3]:
        shutil.copytree(output / "checkpoint-999999", folder)
    mine[3].mkdir()  # another program's: it has no run.yaml
    shutil.copytree(output / "checkpoint-999999", tmp_path / "elsewhere")
    (output / "checkpoint-8").symlink_to(tmp_path / "elsewhere")
    for run.state.round in (1_000_000, 1_000_001):  # more digits than the name has room for: as numbers, not as words
        save(run)
    assert all(folder.is_dir() for folder in mine) and (tmp_path / "elsewhere" / "state.pt").is_file()
    found = sorted(path.name for path in output.iterdir() if path.is_dir() and path not in mine and not path.is_symlink())
    assert found == ["checkpoint-1000000", "checkpoint-1000001"]
    assert load_checkpoint(output, run.config).state["round"] == 1_000_001


def flip(file, place: float) -> None:
    """One bit of one byte."""
    content = bytearray(file.read_bytes())
    content[int(place * (len(content) - 1))] ^= 4
    file.write_bytes(content)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run with two whole checkpoints, of rounds 1 and 2, a full buffer and a reference that has moved; its config."""
    small = ("train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1", "train.rounds=2")
    kinds = ("train.keep_checkpoints=2", "train.reuse_rounds=1", "train.resync_every=1", "weight.log_ratio=path", "evaluation.num_items=2")
    config = load_config("toy_sudoku", *small, *kinds, f"output={tmp_path_factory.mktemp('written') / 'run'}")
    train(config)
    return config


@pytest.fixture
def saved(written, tmp_path):
    """A copy of it; its config."""
    shutil.copytree(written.output, tmp_path / "run")
    return dataclasses.replace(written, output=str(tmp_path / "run"))


FILES = ["checkpoint.json", "config.json", "digests.json", "model.safetensors", "reference.safetensors", "run.yaml", "state.pt",
         "tokenizer.json", "tokenizer_config.json"]  # fmt: skip


def test_the_files_of_a_checkpoint_are_those(saved, tmp_path):
    assert sorted(path.name for path in (tmp_path / "run/checkpoint-000002").iterdir() if path.name != "generation_config.json") == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.6, 1.0])
def test_one_flipped_bit_is_refused_and_the_whole_checkpoint_before_is_named(saved, tmp_path, name, place):
    newest, before = (tmp_path / "run" / f"checkpoint-00000{number}" for number in (2, 1))
    flip(newest / name, place)
    named = ".*" if name == "digests.json" else name  # a digest that is not the file's, or a name of no file
    way_on = f"checkpoint-000002 is incomplete or damaged, .*{named}.*; move it away, and --resume goes on from {before}, which is whole$"
    with pytest.raises(ValueError, match=way_on):
        load_checkpoint(tmp_path / "run", saved)
    newest.rename(tmp_path / "away")
    assert load_checkpoint(tmp_path / "run", saved).state["round"] == 1


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "tokenizer.json", "digests.json"])
@pytest.mark.parametrize("length", [0, 100, -1])
def test_a_file_cut_off_or_gone_is_refused_and_without_a_whole_checkpoint_before_none_is_named(saved, tmp_path, name, length):
    flip(tmp_path / "run/checkpoint-000001/state.pt", 0.5)
    file = tmp_path / "run/checkpoint-000002" / name
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match=f"incomplete or damaged, .*{name}.*; put a copy of it back, or remove the run and start again$"):
        load_checkpoint(tmp_path / "run", saved)
    if name != "digests.json":
        file.unlink()
        with pytest.raises(ValueError, match=f"incomplete or damaged, .*{name} is missing"):
            load_checkpoint(tmp_path / "run", saved)


@pytest.mark.parametrize(
    ("adapters", "name"),
    [
        *((0, name) for name in ("model.safetensors", "config.json", "tokenizer_config.json")),
        *((2, name) for name in ("adapter_model.safetensors", "adapter_config.json")),
    ],
)
def test_a_policy_with_a_changed_file_is_not_loaded_from_a_checkpoint(small_run, adapters, name):
    trained = train(small_run("train.rounds=1", f"model.lora_rank={adapters}"))
    folder = latest_checkpoint(trained.output)
    load_policy(ModelConfig(path=str(trained.output)), torch.device("cpu"))
    (folder / "state.pt").write_bytes(b"decides no answer")
    load_policy(ModelConfig(path=str(trained.output)), torch.device("cpu"))
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {"rms_norm_eps": 0.1, "lora_alpha": 3}))
    else:
        flip(folder / name, 0.7)
    with pytest.raises(ValueError, match=rf"{name} is not as it was written; put a sound copy .*, or remove digests\.json if"):
        load_policy(ModelConfig(path=str(trained.output)), torch.device("cpu"))
    (folder / "digests.json").unlink()
    load_policy(ModelConfig(path=str(trained.output)), torch.device("cpu"))


def test_a_checkpoint_whose_digests_were_emptied_is_refused(small_run):
    folder = latest_checkpoint(train(small_run("train.rounds=1")).output)
    (folder / "digests.json").write_text("{}")
    with pytest.raises(ValueError, match=r"digests.json has no digest of checkpoint.json; put a sound copy in its place"):
        load_policy(ModelConfig(path=str(folder)), torch.device("cpu"))


@pytest.mark.parametrize("name", ["chat_template.jinja", "special_tokens_map.json", "added_tokens.json"])
def test_a_file_that_decides_answers_and_was_not_written_is_refused(small_run, name):
    folder = latest_checkpoint(train(small_run("train.rounds=1")).output)
    (folder / "notes.txt").write_text("mine")
    load_policy(ModelConfig(path=str(folder)), torch.device("cpu"))
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"digests.json has no digest of {name}"):
        load_policy(ModelConfig(path=str(folder)), torch.device("cpu"))


def test_a_run_whose_checkpoints_are_gone_is_not_sent_to_the_next_refusal(small_run):
    config = small_run("train.rounds=1")
    shutil.rmtree(latest_checkpoint(train(config).output))
    for resume in (True, False):
        with pytest.raises(ValueError, match="metrics of a run whose checkpoints were removed; choose another output"):
            train(config, resume=resume)


def test_where_the_base_of_adapters_lies_may_be_written_anew(small_run):
    config = small_run("train.rounds=2", "model.lora_rank=2", "optimizer.schedule=constant")
    file = latest_checkpoint(train(config).output) / "adapter_config.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"base_model_name_or_path": "moved"}))
    assert load_checkpoint(file.parent.parent, config).state["round"] == 2
    file.write_text(json.dumps(fields | {"lora_alpha": 3}))
    with pytest.raises(ValueError, match="adapter_config.json is not as it was written"):
        load_checkpoint(file.parent.parent, config)


def test_a_file_in_the_place_of_a_checkpoint_stays(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/checkpoint-000001").write_text("mine")
    with pytest.raises(OSError, match="checkpoint-000001 cannot be written: .*Not a directory"):
        save(run)
    assert (tmp_path / "run/checkpoint-000001").read_text() == "mine" and not list((tmp_path / "run").glob(".*"))


def without_digests(tmp_path, change) -> None:
    """The newest checkpoint as version 0.2.0 wrote it, its state changed."""
    folder = tmp_path / "run/checkpoint-000002"
    (folder / "digests.json").unlink()
    state = torch.load(folder / "state.pt", weights_only=True)
    torch.save(change(state), folder / "state.pt")


def buffered(name, value):
    def change(state):
        state["buffers"][0][0][name][0, 0] = value
        return state

    return change


CHANGED_STATES = {
    "no round": lambda state: {key: value for key, value in state.items() if key != "round"},
    "no counters": lambda state: {key: value for key, value in state.items() if key != "counters"},
    "no optimizer": lambda state: {key: value for key, value in state.items() if key != "optimizer"},
    "round x": lambda state: state | {"round": "x"},
    "round None": lambda state: state | {"round": None},
    "step x": lambda state: state | {"step": "x"},
    "counters 5": lambda state: state | {"counters": 5},
    "counters of words": lambda state: state | {"counters": {"rollouts": "x", "forward_passes": 1, "seconds": 1.0}},
    "optimizer {}": lambda state: state | {"optimizer": {}},
    "optimizer without its state": lambda state: state | {"optimizer": state["optimizer"] | {"state": {}}},
    "optimizer 5": lambda state: state | {"optimizer": 5},
    "schedule 5": lambda state: state | {"schedule": 5},
    "buffers 5": lambda state: state | {"buffers": 5},
    "a tensor": lambda state: torch.zeros(3),
    "a list": lambda state: [],
    "NaN weight": buffered("weight", float("nan")),
    "infinite base weight": buffered("base_weight", float("inf")),
    "NaN reward": buffered("reward", float("nan")),
}


@pytest.mark.parametrize("change", CHANGED_STATES)
def test_a_state_without_digests_that_is_not_one_is_refused_too(saved, tmp_path, change):
    without_digests(tmp_path, CHANGED_STATES[change])
    with pytest.raises(ValueError, match=r"checkpoint-000002 is incomplete or damaged, .*; move it away, and --resume goes on from .*01,"):
        prepare_run(saved, resume=True)


def test_a_reference_that_has_moved_and_is_gone_is_missed_without_digests_too(saved, tmp_path):
    without_digests(tmp_path, lambda state: state)
    (tmp_path / "run/checkpoint-000002/reference.safetensors").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-000002 is incomplete .*: reference.safetensors is missing; move it away, and .*01,"):
        prepare_run(saved, resume=True)


@pytest.mark.parametrize("has_record", [True, False], ids=["", "of an earlier version"])
def test_a_checkpoint_under_the_number_of_another_round_is_refused(saved, tmp_path, has_record):
    run, wrong = tmp_path / "run", "checkpoint-000099 holds the state after round 1, not 99; rename it, or move it away"
    shutil.copytree(run / "checkpoint-000001", run / "checkpoint-000099")
    if not has_record:
        for name in ("checkpoint.json", "digests.json"):
            (run / "checkpoint-000099" / name).unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=wrong):
        train(dataclasses.replace(saved, train=dataclasses.replace(saved.train, rounds=3)), resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    if has_record:
        with pytest.raises(ValueError, match=wrong):
            load_policy(ModelConfig(path=str(run)), torch.device("cpu"))
    flip(run / "checkpoint-000099/state.pt", 0.5)  # nor is one named as whole
    (run / "checkpoint-000099").rename(run / "checkpoint-000003")
    shutil.copytree(run / "checkpoint-000002", run / "checkpoint-000100")
    flip(run / "checkpoint-000100/state.pt", 0.5)
    with pytest.raises(ValueError, match=r"--resume goes on from .*checkpoint-000002, which is whole"):
        load_checkpoint(run, saved)


def test_a_checkpoint_without_digests_is_loaded(saved, tmp_path):
    without_digests(tmp_path, lambda state: {key: value for key, value in state.items() if key != "origin"})
    assert prepare_run(saved, resume=True).state.round == 2


def test_digests_are_those_of_the_files(saved, tmp_path):
    """SHA-256 of the content, as `sha256sum` prints it."""
    from hashlib import sha256

    folder = tmp_path / "run/checkpoint-000002"
    found = json.loads((folder / "digests.json").read_text())
    assert found.keys() == {path.name for path in folder.iterdir()} - {"digests.json"}
    for name, value in found.items():
        assert value == sha256((folder / name).read_bytes()).hexdigest()


def test_a_full_disk_before_the_first_checkpoint_advises_what_the_next_command_accepts(small_run, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(OSError, match="checkpoint-000002 cannot be written: .*No space left .*, then start again, without --resume"):
            train(small_run())
        with pytest.raises(FileNotFoundError, match="no checkpoint to resume from; start without --resume"):
            train(small_run(), resume=True)
    assert not list((tmp_path / "run").glob(".*"))
    done = train(small_run()).metrics
    assert [entry["step"] for entry in done] == list(range(1, 9))
    longer = small_run("train.rounds=6", "optimizer.schedule=constant")
    for config in (small_run("optimizer.schedule=constant", f"output={tmp_path / 'second'}"),):
        train(config)
        longer.output = config.output
        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", full_disk)
            with pytest.raises(OSError, match="make space or repair the folder, then go on with --resume"):
                train(longer, resume=True)
        assert len(train(longer, resume=True).metrics) == 12


def test_what_is_half_written_goes_when_the_next_run_meets_it_and_nothing_else(small_run, tmp_path):
    output = tmp_path / "run"
    (output / ".checkpoint-000003.partial").mkdir(parents=True)
    (output / ".checkpoint-000003.partial" / "state.pt").write_text("half")
    (output / ".checkpoint-000002.partial").write_text("a file")
    for name in ("metrics.jsonl", "run.json", "config.yaml", "x.jsonl.0.part"):
        (output / f".{name}.partial").write_text("half")
    others = [output / name for name in (".mine.partial", ".checkpoint-x.partial", "checkpoint-3.partial")]
    for file in others:
        file.write_text("another program's")
    train(small_run("train.rounds=2"))
    assert sorted(output.glob("*.partial")) == sorted(others)


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
