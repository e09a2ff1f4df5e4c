"""What a model, a data file or a file name may hold must not reach a terminal, nor a path outside the folder that was named."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dmpo_ref.cli import commands, main
from dmpo_ref.cli.failures import describe_failure
from dmpo_ref.cli.terminal import Terminal, complain, neutral
from dmpo_ref.config import shorten

ATTACK = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202e\u2066"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202e\u2066"


def harmless(text: str) -> bool:
    return not any(c in text for c in ATTACK if not c.isprintable())


def test_control_characters_are_shown_as_escapes_and_text_stays_text():
    assert neutral(ATTACK) == SHOWN
    assert neutral("3 ≤ π\t名\n") == "3 ≤ π\t名\n"
    assert neutral("\ud800") == r"\ud800"
    assert neutral("é –", "latin-1") == r"é \u2013"
    assert neutral("中é", "gbk") == "中é"


@given(st.text(), st.sampled_from(["utf-8", "latin-1", "gbk", "ascii"]))
def test_any_text_can_be_written_in_any_encoding(text, encoding):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    assert Terminal(stream).write(text) == len(text)
    stream.flush()
    written = raw.getvalue().decode(encoding)
    assert all(character in "\n\t" or ord(character) not in {*range(32), *range(127, 160)} for character in written)


def test_answers_of_sample(monkeypatch, capsys):
    monkeypatch.setattr(commands, "answer_texts", lambda *_: [[ATTACK]])
    monkeypatch.setattr("dmpo_ref.tasks.sudoku.Sudoku.show", lambda self, item, answer=ATTACK: answer)
    assert main(["sample", "toy_sudoku"]) == 0
    printed = capsys.readouterr().out
    assert SHOWN in printed and harmless(printed)


def test_answers_that_grade_explains_and_names_of_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    answer = rf"<answer>\boxed{{{ATTACK}}}</answer>"
    record = {"question": ATTACK, "ground_truth": 5.0, "generations": answer}
    name = "gsm8k_\x1b[31m_256_128_0_generations.json"
    Path(name).write_text(json.dumps({"generations": [record], "metrics": {}}))
    main(["grade", name, "--explain", "0"])
    captured = capsys.readouterr()
    assert r"gsm8k_\x1b[31m_256" in captured.out and harmless(captured.out) and harmless(captured.err)
    assert main(["grade", "\x1b[31mgone.jsonl"]) == 2
    assert capsys.readouterr().err == "dmpo: no file \\x1b[31mgone.jsonl\n"


def test_an_error_line_is_cut_and_names_both_ends(capsys):
    assert complain("x" * 10**6 + " not found", code=2) == 2
    line = capsys.readouterr().err
    assert len(line) < 250 and line.endswith("x not found\n")
    complain(" ".join(["word"] * 10**5), code=2)
    assert len(capsys.readouterr().err) < 650
    assert shorten("a" * 201) == f"{'a' * 100} … {'a' * 100}" and shorten("a" * 200) == "a" * 200


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "runs/a"), "runs/a: No space left on device; free some space"),
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (OSError(30, "Read-only file system", "a"), "a: Read-only file system; choose a folder"),
        (PermissionError(13, "Permission denied", "a.yaml"), "a.yaml: Permission denied; change its permissions"),
        (OSError(36, "File name too long", "a"), "a: File name too long; choose a shorter name"),
        (FileNotFoundError("no file x"), "no file x"),
        (ValueError("wrong"), "wrong"),
        (MemoryError(), "out of memory; lower"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "out of memory; lower"),
        (RuntimeError("numel: integer multiplication overflow"), "out of memory; lower"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out of memory; lower"),
        (RuntimeError("value cannot be converted to type float without overflow"), "a number became larger than its type can hold; lower"),
        (RuntimeError("can't start new thread"), "no more threads can be started; set threads=1"),
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"), "another process of this run has ended"),
    ],
)
def test_what_the_system_or_a_library_refuses_names_the_remedy(error, line):
    assert describe_failure(error).startswith(line)


def test_any_other_error_of_a_library_is_a_bug():
    for problem in ("shapes do not match", "a stack overflow"):
        assert describe_failure(RuntimeError(problem)) is None


def test_what_cannot_be_read_is_not_called_no_yaml(tmp_path, monkeypatch, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("seed: 1\n")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    assert main(["train", str(file)]) == 2
    assert capsys.readouterr().err == f"dmpo: {file}: Permission denied; change its permissions, or choose another\n"


def run(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dmpo_ref", *words], timeout=60, stderr=subprocess.PIPE, **options)


def test_a_pipe_that_is_closed_ends_the_command_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = run("table", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "ascii"])
def test_a_terminal_of_another_encoding(encoding):
    done = run("table", stdout=subprocess.PIPE, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert done.returncode == 0 and done.stderr == b"" and b"DMPO (paper)" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("table", stdout=full)
    assert (done.returncode, done.stderr) == (2, b"dmpo: No space left on device; free some space, then repeat the command\n")


def test_a_run_writes_into_its_own_folder_alone(tmp_path, monkeypatch):
    """Items whose text looks like a path, and names with `..` in the answers, name no file."""
    monkeypatch.chdir(tmp_path)
    rows = (Path(commands.__file__).parents[2] / "toy/data/gsm8k_train.jsonl").read_text().splitlines()[:2]
    hostile = [json.dumps(json.loads(row) | {"question": "../../../escaped \x1b[2J /etc/passwd"}) for row in rows]
    (tmp_path / "d.jsonl").write_text("\n".join(hostile) + "\n")
    from toy.small_llada import make_checkpoint

    make_checkpoint("model", d_model=16, n_heads=2)
    before = set(tmp_path.rglob("*"))
    lengths = ["sampler.response_length=8", "sampler.block_length=8", "sampler.steps=8"]
    few = ["train.rounds=1", "train.prompts_per_round=2", "train.num_rollouts=2", "train.steps_per_round=1", "device=cpu", "threads=1"]
    words = [*lengths, *(f"evaluation.{word}" for word in lengths), *few, "task.train=d.jsonl", "task.test=d.jsonl", "model.path=model"]
    assert main(["train", "llada_gsm8k", "output=run", *words]) == 0
    assert main(["evaluate", "llada_gsm8k", "--output", "answers", *words]) == 0
    made = {path.relative_to(tmp_path).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert made == {"run", "answers"}


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed):
    command = f"{sys.executable} -m dmpo_ref sample toy_sudoku train.num_rollouts=2 device=cpu threads=1 {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and bool(done.stdout) == (closed == "2>&-")
