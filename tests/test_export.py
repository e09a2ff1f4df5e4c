"""What `dmpo export` leaves: a whole folder that other programs read, or nothing."""

import json
import os
import resource
import shutil
import subprocess
import sys
import venv

import pytest
import torch

from dmpo_ref.cli import main
from dmpo_ref.config import ModelConfig
from dmpo_ref.models.loading import checkpoints, latest_checkpoint, load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.runtime.files import claim
from dmpo_ref.train import train
from toy.small_llada import make_checkpoint

SMALL = ("sampler.response_length=8", "sampler.block_length=8", "sampler.steps=8", "evaluation.sampler.response_length=8",
         "evaluation.sampler.block_length=8", "evaluation.sampler.steps=8", "evaluation.num_items=2", "train.rounds=1",
         "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "train.checkpoint_every=1", "device=cpu",
         "threads=1")  # fmt: skip


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_checkpoint(tmp_path / "model", d_model=16, n_heads=2)


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


def edit(file, **fields):
    file.write_text(json.dumps(read(file) | fields))


def left(folder):
    """What is in a folder beside the source, hidden files too."""
    return sorted(path.name for path in folder.iterdir() if path.name != "model")


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "LlamaTokenizerFast", "GPT2TokenizerFast"])
def test_the_tokenizer_class_is_that_of_the_source(model, tmp_path, name):
    edit(model / "tokenizer_config.json", tokenizer_class=name, add_eos_token=False, additional_special_tokens=["<|eot_id|>"])
    assert main(["export", "model", "out"]) == 0
    assert main(["export", "out", "again"]) == 0
    before = read(model / "tokenizer_config.json")
    for folder in ("out", "again"):
        after = read(tmp_path / folder / "tokenizer_config.json")
        assert {key: after[key] for key in before} == before
        assert after.keys().isdisjoint({"backend", "is_local", "local_files_only", "extra_special_tokens", "auto_map"})
        assert (tmp_path / folder / "chat_template.jinja").read_text() == before["chat_template"]


def test_a_class_that_only_release_5_knows_is_written_by_its_older_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_toy()["tokenizer_class"] == "TokenizersBackend"
    shutil.copytree(TOY, "model")
    assert main(["export", "model", "out"]) == 0
    after = read(tmp_path / "out" / "tokenizer_config.json")
    assert after["tokenizer_class"] == "PreTrainedTokenizerFast" and "backend" not in after


TOY = os.path.abspath("toy/checkpoint")


def read_toy():
    with open(f"{TOY}/tokenizer_config.json", encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("options", [("model.lora_rank=2",), ("model.lora_rank=0", "model.dtype=float32")], ids=["lora", "full"])
def test_checkpoints_have_the_tokenizer_of_the_source(model, tmp_path, options):
    train(load_config("llada_sudoku", "model.path=model", "output=run", *SMALL, *options))
    after = read(latest_checkpoint(tmp_path / "run") / "tokenizer_config.json")
    before = read(model / "tokenizer_config.json")
    assert {key: after[key] for key in ("tokenizer_class", "added_tokens_decoder", "add_bos_token", "pad_token")} == {
        key: before[key] for key in ("tokenizer_class", "added_tokens_decoder", "add_bos_token", "pad_token")
    }


READER = """
import json, sys
from transformers import AutoTokenizer, PretrainedConfig, __version__
found = []
for folder in sys.argv[1:]:
    words = AutoTokenizer.from_pretrained(folder)
    message = [{"role": "user", "content": "1+1?"}]
    text = words.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    fields = PretrainedConfig.get_config_dict(folder)[0]
    found.append([__version__, words(text + "<|mdm_mask|> naïve 12").input_ids, text, words.special_tokens_map, words.pad_token_id,
                  fields.get("torch_dtype"), fields.get("use_cache")])
print(json.dumps(found))
"""


@pytest.mark.long
def test_transformers_of_the_official_code_reads_source_export_and_checkpoint_alike(model, tmp_path):
    """In an environment of its own, with the release that the official code pins."""
    venv.create(tmp_path / "env", with_pip=True)
    python = str(tmp_path / "env" / "bin" / "python")
    installed = subprocess.run([python, "-m", "pip", "install", "-q", "transformers==4.49.0", "jinja2"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"transformers 4.49 cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")
    edit(model / "tokenizer_config.json", additional_special_tokens=["<|start_header_id|>", "<|end_header_id|>"])
    train(load_config("llada_sudoku", "model.path=model", "output=run", "model.lora_rank=0", "model.dtype=float32", *SMALL))
    assert main(["export", "model", "out"]) == 0
    folders = ["model", "out", str(latest_checkpoint(tmp_path / "run"))]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, "-c", READER, *folders], capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    source, *others = json.loads(done.stdout.splitlines()[-1])
    assert source[0] == "4.49.0"
    for other in others:
        other[3].pop("mask_token", None)  # which the source leaves to the config of the model
        assert other[:5] == source[:5]
    _, words = load_policy(ModelConfig(path="model"), torch.device("cpu"))
    assert source[1] == words(source[2] + "<|mdm_mask|> naïve 12").input_ids
    assert [other[5:] for other in others] == [["bfloat16", False], ["float32", False]]


@pytest.mark.parametrize("room", [1_000, 10_000, 20_000], ids=lambda room: f"{room} bytes")
def test_a_disk_that_is_full_leaves_nothing(model, tmp_path, capfd, room):
    """No file may be longer than this: the config (1.5 kB), the tokenizer (15 kB) or the weights (48 kB) are too long."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        code = main(["export", "model", "new/out"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capfd.readouterr().err
    assert code == 2 and error.count("\n") == 1
    assert "new/out cannot be written: " in error
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("[enforce fail] write"), Exception("os error 28")])
def test_whatever_a_library_makes_of_a_full_disk_is_one_line(model, tmp_path, monkeypatch, capfd, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", fail)
    assert main(["export", "model", "out"]) == 2
    message = capfd.readouterr().err
    assert message.startswith("dmpo: out cannot be written: ") and message.count("\n") == 1
    assert left(tmp_path) == []


def test_an_interrupt_leaves_nothing(model, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", stop)
    assert main(["export", "model", "out"]) == 130
    assert left(tmp_path) == []


def test_what_a_killed_export_left_is_cleaned_by_the_next(model, tmp_path):
    rest = tmp_path / ".out.partial"
    (rest / "folder").mkdir(parents=True)
    (rest / "model-00001-of-00009.safetensors").write_bytes(b"half")
    assert main(["export", "model", "out"]) == 0
    assert left(tmp_path) == ["out"]
    assert not (tmp_path / "out" / "model-00001-of-00009.safetensors").exists() and not (tmp_path / "out" / "folder").exists()


def test_a_link_in_the_place_of_what_is_written_is_replaced_and_not_followed(model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("years")
    (tmp_path / ".out.partial").symlink_to("mine")
    assert main(["export", "model", "out"]) == 0
    assert (tmp_path / "mine" / "thesis").read_text() == "years" and not (tmp_path / "out").is_symlink()


def test_two_exports_to_one_folder_do_not_meet(model, tmp_path, capfd):
    with claim(tmp_path / ".out.partial"):
        (tmp_path / ".out.partial" / "written").write_text("by the other")
        assert main(["export", "model", "out"]) == 2
        assert "is being written by another process" in capfd.readouterr().err
        assert left(tmp_path) == [".out.partial"] and (tmp_path / ".out.partial" / "written").exists()


@pytest.mark.long
def test_two_exports_at_once_leave_one_whole_folder(model, tmp_path):
    command = [sys.executable, "-m", "dmpo_ref", "export", "model", "out"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    errors = [process.communicate()[1] for process in running]
    assert sorted(process.returncode for process in running) == [0, 2], errors
    assert "another process" in "".join(errors) or "exists; give a folder that does not" in "".join(errors)
    assert left(tmp_path) == ["out"]
    load_policy(ModelConfig(path="out"), torch.device("cpu"))


def test_nothing_is_written_over(model, tmp_path, capfd):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    for target in ("model", "file", "link"):
        assert main(["export", "model", target]) == 2
        assert f"{target} exists; give a folder that does not" in capfd.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_checkpoints_are_numbers_and_nothing_else(model, tmp_path):
    run = tmp_path / "run"
    for name in ("checkpoint-900", "checkpoint-1000", "checkpoint-000002", "checkpoint-1000-backup-1", "checkpoint-2000.old", "checkpoint-",
                 "checkpoint-٣٠٠٠", "checkpoint-9e9", "old-checkpoint-5000"):  # fmt: skip
        shutil.copytree(model, run / name)
    (run / "checkpoint-3000").write_text("a file")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-000002", "checkpoint-900", "checkpoint-1000"]
    assert latest_checkpoint(run).name == "checkpoint-1000"
    edit(run / "checkpoint-1000" / "config.json", rope_theta=123.0)
    policy, _ = load_policy(ModelConfig(path="run"), torch.device("cpu"))
    assert policy.config.rope_theta == 123.0
    assert checkpoints(model) == [] and latest_checkpoint(tmp_path / "nowhere") is None
