"""An evaluation goes on with answers only if nothing that decides one has changed, in contents and not in name; what else lies in its
folder stays, and what a process that died has left goes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dmpo_ref.cli import main
from dmpo_ref.config import ModelConfig
from dmpo_ref.evaluation import results
from dmpo_ref.evaluation.answering import with_newest
from dmpo_ref.models.loading import load_policy
from dmpo_ref.presets.loading import PRESETS, load_config
from tests.helpers import save_adapters
from toy.small_llada import make_checkpoint

ROOT = PRESETS.parent.parent
CHAT = ("llada_sudoku", "model.path=policy", "model.dtype=float32", "model.lora_rank=0", "device=cpu", "evaluation.num_items=3",
        "threads=1", "evaluation.sampler.response_length=8", "evaluation.sampler.block_length=8", "evaluation.sampler.steps=8",
        "task.test=test.csv", "--output", "out")  # fmt: skip
TOY = ("toy_sudoku", "model.path=toy", "evaluation.num_items=3", "evaluation.num_samples=2", "task.test=test.csv", "threads=1", "--output",
       "out")  # fmt: skip
FILE = Path("out/sudoku_random_order.jsonl")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A small checkpoint of LLaDA's layout, and adapters on it, side by side."""
    folder = tmp_path_factory.mktemp("originals")
    make_checkpoint(folder / "policy", d_model=16, n_heads=2)
    save_adapters(folder / "policy", folder / "adapters", lambda name, weight: weight.fill_(0.1) if "lora_B" in name else None)
    return folder


@pytest.fixture
def folder(originals, tmp_path, monkeypatch):
    """A working directory with policies and data of its own; the adapters lie on the policy in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("policy", "adapters"):
        shutil.copytree(originals / name, name)
    edit(Path("adapters/adapter_config.json"), base_model_name_or_path=str(tmp_path / "policy"))
    shutil.copytree(ROOT / "toy/checkpoint", "toy")
    shutil.copy(ROOT / "toy/data/test.csv", "test.csv")
    return tmp_path


def edit(file: Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def evaluate(*words: str) -> int:
    return main(["evaluate", *words])


def contents() -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()}


def refused(capfd, *words: str) -> str:
    """The one line of an evaluation that must fail, and leave everything as it is."""
    capfd.readouterr()
    before = contents()
    assert evaluate(*words) == 2
    error = capfd.readouterr().err
    assert error.startswith("dmpo: ") and error.count("\n") == 1
    assert contents() == before
    return error


def add_to_weights(name: str):
    def change(folder: Path) -> None:
        for file in folder.glob("*.safetensors"):
            weights = load_file(file)
            for key in weights:
                if name in key:
                    weights[key] += 0.01
            save_file(weights, file, metadata={"format": "pt"})

    return change


def other_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        file.write_text(file.read_text() + "\n")
    else:
        known = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
        edit(folder / "tokenizer_config.json", chat_template=known + "\n")


POLICY_CHANGES = {
    "rope_theta": ("policy", lambda folder: edit(folder / "config.json", rope_theta=500.0), "model.path config.json="),
    "rms_norm_eps": ("policy", lambda folder: edit(folder / "config.json", rms_norm_eps=1e-3), "model.path config.json="),
    "chat template": ("policy", other_template, "model.path tokenizer="),
    "a weight in the middle": ("policy", add_to_weights("blocks.1.q_proj"), "model.path weights="),
    "lora_alpha": ("adapters", lambda folder: edit(folder / "adapter_config.json", lora_alpha=1), "model.path adapter_config.json="),
    "adapters": ("adapters", add_to_weights("lora_A"), "model.path weights="),
    "weights of the base": ("adapters", lambda folder: add_to_weights("ff_proj")(Path("policy")), "model.path base weights="),
    "config of the base": ("adapters", lambda folder: edit(Path("policy/config.json"), rope_theta=500.0), "model.path base config.json="),
}


@pytest.mark.parametrize("change", POLICY_CHANGES)
def test_answers_of_another_policy_of_the_same_name_are_refused(folder, capfd, change):
    name, edit_policy, key = POLICY_CHANGES[change]
    assert evaluate(*CHAT, f"model.path={name}") == 0
    assert evaluate(*CHAT, f"model.path={name}") == 0
    edit_policy(Path(name))
    assert f"was made with {key}" in (line := refused(capfd, *CHAT, f"model.path={name}"))
    assert "choose another output folder, or remove it" in line


def test_the_first_line_names_what_decides_an_answer(folder):
    assert evaluate(*CHAT, "model.path=adapters") == 0
    header = json.loads(Path("out/sudoku_8_confidence.jsonl").read_text().splitlines()[0])
    assert header["policy"].keys() == {
        f"model.path {part}" for part in ("adapter_config.json", "weights", "tokenizer", "base config.json", "base weights")
    }
    assert header["versions"].keys() == {"dmpo_ref", "torch", "transformers", "tokenizers"}
    assert {"seed", "model.dtype", "task.name", "task.prompt_file", "evaluation.sampler.name"} <= header["setting"].keys()


def test_answers_of_other_versions_are_refused(folder, capfd, monkeypatch):
    assert evaluate(*TOY) == 0
    monkeypatch.setattr(results, "versions", lambda: {"dmpo_ref": "9.9", "torch": "1.0", "transformers": "1", "tokenizers": "1"})
    assert "was made with dmpo_ref=" in refused(capfd, *TOY)


def test_a_file_of_version_0_2_0_is_refused_by_evaluate_and_read_by_grade_and_table(folder, capfd):
    assert evaluate(*TOY) == 0
    lines = FILE.read_text().splitlines()
    old = {"setting": json.loads(lines[0])["setting"], "fingerprint": "0123456789abcdef", "prompt_text": None}
    FILE.write_text("\n".join([json.dumps(old), *lines[1:]]) + "\n")
    line = refused(capfd, *TOY)
    assert "was made by an earlier version" in line and "choose another output folder to evaluate anew" in line
    assert main(["grade", str(FILE)]) == 0
    assert main(["table", "out"]) == 0


@pytest.mark.parametrize("part", ["setting", "policy", "versions"])
def test_a_first_line_of_another_shape_is_refused(folder, capfd, part):
    assert evaluate(*TOY) == 0
    lines = FILE.read_text().splitlines()
    FILE.write_text("\n".join([json.dumps(json.loads(lines[0]) | {part: []}), *lines[1:]]) + "\n")
    assert "choose another output folder" in refused(capfd, *TOY)


def test_of_a_test_set_that_has_become_shorter_only_its_items_are_counted(folder, capfd):
    words = [word for word in TOY if "num_items" not in word]
    lines = Path("test.csv").read_text().splitlines()
    Path("test.csv").write_text("\n".join(lines[:6]) + "\n")
    assert evaluate(*words, "evaluation.num_items=null") == 0
    assert "/10 " in capfd.readouterr().out
    Path("test.csv").write_text("\n".join(lines[:4]) + "\n")
    assert evaluate(*words, "evaluation.num_items=null") == 0
    assert "/6 " in capfd.readouterr().out


# Lines


@pytest.mark.parametrize("line", ["{", "", "[]", "null", "5", "[" * 99_999, '{"index": 1}', '{"index": "1", "sample": 0}'])
def test_an_answer_that_was_damaged_is_asked_again_and_the_file_is_as_it_was(folder, line):
    assert evaluate(*TOY) == 0
    whole = FILE.read_bytes()
    lines = FILE.read_text().splitlines()
    FILE.write_text("\n".join([*lines[:2], line, *lines[3:]]) + "\n")
    assert evaluate(*TOY) == 0
    assert FILE.read_bytes() == whole


def test_an_answer_that_stands_twice_is_named_with_its_line(folder, capfd):
    assert evaluate(*TOY) == 0
    lines = FILE.read_text().splitlines()
    FILE.write_text("\n".join([*lines, lines[3]]) + "\n")
    message = f"{FILE}, line 8: item 1, answer 0 stands in line 4 already; remove one of the two lines"
    assert message in refused(capfd, *TOY)


@pytest.mark.parametrize("text", ["a list of mine\n", "a list of mine", '{"index": 0, "sample": 0}\n', "[]\n", "\n"])
def test_a_file_that_no_evaluation_has_written_is_not_replaced(folder, capfd, text):
    FILE.parent.mkdir()
    FILE.write_text(text)
    assert f"{FILE}: the first line does not say what was evaluated" in refused(capfd, *TOY)


def test_without_its_first_line_no_answer_is_trusted(folder, capfd):
    assert evaluate(*TOY) == 0
    FILE.write_text("".join(f"{line}\n" for line in FILE.read_text().splitlines()[1:]))
    assert "the first line does not say what was evaluated" in refused(capfd, *TOY)


def test_a_lost_file_of_costs_is_said(folder, capfd):
    assert evaluate(*TOY) == 0
    results.timing_of(FILE).unlink()
    capfd.readouterr()
    assert evaluate(*TOY) == 0
    assert "timing.jsonl is missing, which held what they have cost" in capfd.readouterr().out


# The folder


def test_a_second_evaluation_into_the_same_folder_is_refused(folder, capfd):
    code = "import sys, pathlib; from dmpo_ref.runtime.files import claim\nwith claim(pathlib.Path('out')): print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert "--output out is being written by another process; wait for it, or choose" in refused(capfd, *TOY)
        other.communicate(b"\n")
    assert evaluate(*TOY) == 0


def test_an_evaluation_that_fails_leaves_nothing_and_what_another_left_goes(folder, capfd):
    for file in Path("policy").glob("*.safetensors"):
        weights = load_file(file)
        save_file({key: value * float("nan") for key, value in weights.items()}, file, metadata={"format": "pt"})
    refused(capfd, *CHAT)
    assert not Path("out").exists()
    FILE.parent.mkdir()
    assert evaluate(*TOY) == 0
    whole = contents()
    # The first line of an evaluation with other weights, which had no answer; half a file; a file of somebody.
    FILE.with_name(f"{FILE.name}.0.part").write_text(json.dumps({"setting": {"seed": 9}, "fingerprint": "x", "prompt_text": None}) + "\n")
    FILE.with_name(f".{FILE.name}.partial").write_text("half")
    FILE.with_name("notes.part").write_text("mine")
    assert evaluate(*TOY) == 0
    assert contents() == whole | {Path("out/notes.part"): b"mine"}


def test_a_checkpoint_that_a_running_training_has_removed_is_read_anew(folder):
    run, tries = Path("run"), []
    for number in (9, 10):
        shutil.copytree("toy", run / f"checkpoint-{number}")
    shutil.move(run / "checkpoint-10", "next")

    def use(path: str) -> str:
        tries.append(path)
        if len(tries) == 1:  # retention strikes between two files
            shutil.move("next", run / "checkpoint-10")
            shutil.rmtree(run / "checkpoint-9")
        return str(load_policy(ModelConfig(path=path), torch.device("cpu"))[0].config.vocab_size)

    assert with_newest("run", use) and tries == ["run/checkpoint-9", "run/checkpoint-10"]
    shutil.rmtree(run / "checkpoint-10")
    (run / "checkpoint-11").mkdir()
    with pytest.raises(FileNotFoundError):  # broken, and the newest: tried once
        with_newest("run", use)
    assert len(tries) == 3


def test_an_evaluation_of_a_training_run_notes_the_checkpoint_that_it_has_read(folder, monkeypatch):
    """Retention replaces the newest checkpoint between loading and noting: both are done anew."""
    from dmpo_ref.cli import commands

    run, load = Path("run"), commands.load_policy
    shutil.copytree("toy", run / "checkpoint-000001")

    def meanwhile(config, *rest, **options):
        loaded = load(config, *rest, **options)
        if Path(config.path).name == "checkpoint-000001":
            shutil.move(run / "checkpoint-000001", run / "checkpoint-000002")
            add_to_weights("ln_f")(run / "checkpoint-000002")
        return loaded

    monkeypatch.setattr(commands, "load_policy", meanwhile)
    assert evaluate(*TOY, "model.path=run") == 0
    assert (
        json.loads(FILE.read_text().splitlines()[0])["policy"]
        == results.describe_evaluation(load_config("toy_sudoku", "model.path=run"))["policy"]
    )
