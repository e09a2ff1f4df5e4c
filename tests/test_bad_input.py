"""Files that are not what they should be: one line that names them, exit code 2, nothing written, no traceback."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmpo_ref.cli import main
from dmpo_ref.config import TaskConfig
from dmpo_ref.models.loading import latest_checkpoint
from dmpo_ref.presets.loading import PRESETS
from dmpo_ref.tasks.base import BLANK
from dmpo_ref.tasks.sudoku import Sudoku
from dmpo_ref.train import train
from tests.helpers import save_adapters
from toy.small_llada import make_checkpoint

SMALL = ("sampler.response_length=8", "sampler.block_length=8", "sampler.steps=8", "evaluation.sampler.response_length=8",
         "evaluation.sampler.block_length=8", "evaluation.sampler.steps=8", "evaluation.num_items=2", "train.rounds=2",
         "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1", "device=cpu",
         "threads=1")  # fmt: skip
QUICK = ("train.rounds=2", "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1",
         "evaluation.num_items=2", "device=cpu", "threads=1")  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("sound") / "llada", d_model=16, n_heads=2)


@pytest.fixture
def refused(capfd):
    """Run a command that must fail: its one line."""

    def run(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        error = capfd.readouterr().err
        assert error.startswith("dmpo: ") and error.count("\n") == 1
        return error

    return run


def shard(folder, number):
    return sorted(folder.glob("model-*.safetensors"))[number]


def edit(name, **fields):
    """Fields of a JSON file set, or removed where None."""

    def damage(folder):
        known = json.loads((folder / name).read_text()) | fields
        (folder / name).write_text(json.dumps({key: value for key, value in known.items() if value is not None}))

    return damage


def truncate(file):
    file.write_bytes(file.read_bytes()[:-200])


def rewrite(change):
    def damage(folder):
        for file in folder.glob("*.safetensors"):
            save_file({name: value for key, weight in load_file(file).items() for name, value in change(key, weight)}, file)

    return damage


def misname(key, weight):
    return [("model.transformer.norm.weight" if key == "model.transformer.ln_f.weight" else key, weight)]


def narrow(key, weight):
    return [(key, weight[:, :8].contiguous() if key.endswith("1.ff_out.weight") else weight)]


DAMAGES = {
    "missing shard": (lambda folder: shard(folder, 1).unlink(), "model-00002-of-"),
    "truncated shard": (lambda folder: truncate(shard(folder, 0)), "weights is damaged or cut off"),
    "empty shard": (lambda folder: shard(folder, 0).write_bytes(b""), "weights is damaged or cut off"),
    "index no JSON": (lambda folder: (folder / "model.safetensors.index.json").write_text("{"), "index.json is not valid JSON"),
    "wrong key": (rewrite(misname), "missing keys in the weights, first model.transformer.ln_f.weight"),
    "wrong shape": (rewrite(narrow), "model.transformer.blocks.1.ff_out.weight [16, 8] instead of [16, 48]"),
    "config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    "another architecture": (edit("config.json", model_type="llama"), "model_type='llama' is not implemented"),
    "biases": (edit("config.json", include_bias=True), "include_bias=True is not implemented"),
    "remote code instead of a known model": (
        edit("config.json", model_type="custom", auto_map={"AutoModel": "code.Model"}), "model_type='custom' is not implemented"
    ),
    "no tokenizer": (
        lambda folder: [file.unlink() for file in folder.glob("tokenizer*")], "tokenizer"
    ),
    "tokenizer that is no JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer"),
    "mask token that the tokenizer has not": (edit("config.json", mask_token_id=500), "mask_token"),
    "no padding token": (edit("tokenizer_config.json", pad_token=None), "the tokenizer has no pad_token"),
    "no chat template": (edit("tokenizer_config.json", chat_template=None), "the tokenizer has no chat template"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint(sound, tmp_path, monkeypatch, refused, damage):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked whether to run remote code"))
    shutil.copytree(sound, "model")
    change, message = DAMAGES[damage]
    change(tmp_path / "model")
    line = refused("train", "llada_sudoku", "model.path=model", "output=run", *SMALL)
    assert message in line
    assert not (tmp_path / "run").exists()


def test_fields_that_only_ask_for_python_of_their_own_are_no_obstacle(sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "auto_map" in json.loads((sound / "config.json").read_text())
    assert json.loads((sound / "tokenizer_config.json").read_text())["trust_remote_code"] is True
    assert main(["train", "llada_sudoku", f"model.path={sound}", "output=run", *SMALL]) == 0


@pytest.fixture
def adapters(sound, tmp_path):
    """A folder of adapters on the sound checkpoint."""
    return save_adapters(sound, tmp_path / "adapters")


def another_base(folder):
    other = make_checkpoint(folder.parent / "other", d_model=32, n_heads=2)
    edit("adapter_config.json", base_model_name_or_path=str(other))(folder)


ADAPTER_DAMAGES = {
    "another base": (another_base, "the adapters do not fit their base"),
    "no base": (edit("adapter_config.json", base_model_name_or_path="gone"), "adapter_config.json names the base gone"),
    "base not named": (edit("adapter_config.json", base_model_name_or_path=None), "base_model_name_or_path"),
    "truncated": (
        lambda folder: truncate(folder / "adapter_model.safetensors"),
        "adapter_model.safetensors: this file of weights is damaged",
    ),
    "missing": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "config that is no JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json"),
}


@pytest.mark.parametrize("damage", ADAPTER_DAMAGES)
def test_damaged_adapters(adapters, tmp_path, monkeypatch, refused, damage):
    monkeypatch.chdir(tmp_path)
    change, message = ADAPTER_DAMAGES[damage]
    change(adapters)
    assert message in refused("sample", "llada_sudoku", f"model.path={adapters}", "sampler.response_length=8", "sampler.steps=8",
                              "sampler.block_length=8", "device=cpu")  # fmt: skip
    assert message in refused("export", str(adapters), "out", "--merge")
    assert not (tmp_path / "out").exists()


RUN_DAMAGES = {
    "no state.pt": (lambda folder: (folder / "state.pt").unlink(), "state.pt"),
    "half a state.pt": (lambda folder: truncate(folder / "state.pt"), "is incomplete or damaged"),
    "empty state.pt": (lambda folder: (folder / "state.pt").write_bytes(b""), "is incomplete or damaged"),
    "a state.pt of something else": (lambda folder: torch.save({"step": 1}, folder / "state.pt"), "is incomplete or damaged"),
    "no run.yaml": (lambda folder: (folder / "run.yaml").unlink(), "run.yaml"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    "half the weights": (lambda folder: truncate(folder / "model.safetensors"), "model.safetensors is not as it was written"),
}


@pytest.mark.parametrize("damage", RUN_DAMAGES)
def test_a_run_that_cannot_be_resumed_stays_as_it_is(tmp_path, monkeypatch, refused, capfd, damage):
    monkeypatch.chdir(tmp_path)
    command = ("train", "toy_sudoku", "output=run", *QUICK)
    assert main(list(command)) == 0
    capfd.readouterr()
    change, message = RUN_DAMAGES[damage]
    change(latest_checkpoint(tmp_path / "run"))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert message in refused(*command, "--resume")
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_another_number_of_processes_where_each_has_a_part_of_its_own(tmp_path, monkeypatch, refused, capfd):
    monkeypatch.chdir(tmp_path)
    command = ("train", "toy_sudoku", "output=run", "train.reuse_rounds=1", *QUICK)
    assert main(list(command)) == 0
    capfd.readouterr()
    file = latest_checkpoint(tmp_path / "run") / "state.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {"buffers": state["buffers"] * 3}, file)
    (file.parent / "digests.json").unlink()
    assert "was written by 3 processes, with a part each; resume with 3, not 1" in refused(*command, "--resume")


class Longwinded(Sudoku):
    """Asks some puzzles twice over; with 16 cells to generate that is 48 tokens, and the toy reads 32."""

    def prompt(self, item):
        return super().prompt(item) * (2 if item.puzzle[0] in self.long else 1)


@pytest.fixture
def longwinded(small_run, tmp_path):
    """A config of 8 training and 4 test puzzles, and a task that asks those too long whose first cell is one of these."""
    rows = (PRESETS.parent.parent / "toy" / "data" / "train.csv").read_text().splitlines()
    blank, given = ([row for row in rows[1:] if (row[0] == "0") == is_blank] for is_blank in (True, False))
    (tmp_path / "items.csv").write_text("\n".join([rows[0], *given[:2], blank[0], *given[2:4], *blank[1:4]]) + "\n")
    (tmp_path / "fitting.csv").write_text("\n".join([rows[0], *given[:4]]) + "\n")

    def build(file: str, long: str, *overrides: str):
        files = (f"task.train={tmp_path / file}", f"task.test={tmp_path / file}", "task.generate=all", "evaluation.num_items=3")
        config = small_run(*files, *overrides)
        task = Longwinded(config.task)
        task.long = long
        return config, task

    return build


def test_items_too_long_for_the_model_are_left_out_counted_and_listed(longwinded, tmp_path, capfd):
    config, task = longwinded("items.csv", "0")
    some = train(config, task=task).metrics
    error = capfd.readouterr().err
    assert (
        "dmpo: 4 of 8 training items are longer, with their response, than max_sequence_length=32 tokens; left out: 2, 5, 6, 7\n" in error
    )
    assert "dmpo: 1 of 3 test items are longer, with their response, than max_sequence_length=32 tokens; counted as wrong: 2\n" in error
    config, task = longwinded("fitting.csv", "", f"output={tmp_path / 'fitting'}")
    same = train(config, task=task).metrics
    assert capfd.readouterr().err == ""
    assert [(entry["loss"], entry["reward"]) for entry in some] == [(entry["loss"], entry["reward"]) for entry in same]


def test_no_item_that_fits_is_an_error(longwinded, tmp_path):
    config, task = longwinded("items.csv", "01234")
    with pytest.raises(ValueError, match="8 of 8 training items are longer.*; none is left: lower the response_length"):
        train(config, task=task)
    assert not (tmp_path / "run").exists()


def own(**attributes):
    """A Sudoku task with other attributes."""
    return type("Own", (Sudoku,), attributes)(TaskConfig())


UNKNOWN = {"prompt": lambda self, item: item.puzzle.replace("0", "7"), "template": lambda self, item: 16 * BLANK}
OWN_TASKS = {
    "a class": (lambda: Sudoku, r"task=Sudoku is a class; give an object of it, as in task=Sudoku\(\)"),
    "no grade": (lambda: own(grade=None), "task Own has no grade; dmpo_ref.tasks.base.Task says what each must be"),
    "no character": (lambda: own(alphabet=""), "task Own has an empty alphabet"),
    "no item": (lambda: own(load=lambda self, source: []), "task.train=.*: load of the task Own returned no item; at least one is needed"),
    "no test item": (
        lambda: own(load=lambda self, source: Sudoku.load(self, source)[: 9 * ("train" in source)]), "task.test=.* returned no item"
    ),
    "a generator": (lambda: own(load=lambda self, source: (i for i in "1")), "task.train=.* returned a generator; return a list of items"),
    "characters that the tokenizer does not know": (lambda: own(**UNKNOWN), "the tokenizer does not know '7' in the prompt or template"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN_TASKS)
def test_a_task_from_python_that_cannot_be_trained_is_one_line_and_nothing_is_written(small_run, tmp_path, name):
    build, message = OWN_TASKS[name]
    with pytest.raises(ValueError, match=message) as caught:
        train(small_run(), task=build())
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_task_whose_reward_is_given_apart_needs_none_of_its_own(small_run):
    config = small_run("train.rounds=1")
    assert train(config, task=own(reward=None), reward=lambda item, text: float(text[0])).metrics
