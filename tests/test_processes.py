"""Two processes against one: the same rollouts, losses, weights and final parameters, up to float tolerance."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
SETTING = ["train.rounds=3", "train.prompts_per_round=4", "train.num_rollouts=4", "train.steps_per_round=2", "evaluation.every=0",
           "evaluation.num_items=130", "evaluation.num_samples=1", "device=cpu", "threads=1"]  # fmt: skip
KINDS = {
    "full": ["weight.log_ratio=path", "train.reuse_rounds=1", "train.checkpoint_every=2"],
    "lora_in_micro_batches": [
        "model.lora_rank=4",
        "weight.log_ratio=elbo",
        "loss.name=wddo",
        "loss.micro_batch=7",
        "train.prompts_per_step=2",
    ],
}


def launch(processes: int, output, *overrides: str) -> subprocess.CompletedProcess:
    """`dmpo train` on one or more processes of this machine, over gloo."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *start, "-m", "dmpo_ref", "train", "toy_sudoku", f"output={output}", *SETTING, *overrides]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)


@pytest.mark.parametrize("kind", ["full", pytest.param("lora_in_micro_batches", marks=pytest.mark.long)])
def test_results_do_not_depend_on_the_number_of_processes(tmp_path, kind):
    for processes in (1, 2):
        done = launch(processes, tmp_path / str(processes), *KINDS[kind])
        assert done.returncode == 0, done.stderr
    one, two = ([json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in "12")
    assert len(one) == len(two) == 6
    for a, b in zip(one, two, strict=True):
        assert [a[name] for name in ("round", "step", "rollouts")] == [b[name] for name in ("round", "step", "rollouts")]
        if kind == "full":  # with prompts_per_step each process chooses among its own prompts
            for name in ("loss", "grad_norm", "reward", "ess", "log_ratio_mean"):
                assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), name
    assert two[0]["reward"] == pytest.approx(one[0]["reward"])
    assert two[0]["ess"] == pytest.approx(one[0]["ess"])
    if kind == "full":
        # 130 items are three batches, two for one process and one for the other.
        assert two[-1]["evaluation/accuracy"] == one[-1]["evaluation/accuracy"] > 0
        files = [next((tmp_path / n).glob("checkpoint-*")) / "model.safetensors" for n in "12"]
        ours, theirs = (load_file(file) for file in files)
        for name, weight in ours.items():
            torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-5)


ON_ROUND = """
import os, sys
from dmpo_ref import load_config, train

def on_round(done, policy):
    if done == 2 and os.environ["RANK"] == "0":
        raise OSError("the user's own disk is full")

train(load_config("toy_sudoku", *sys.argv[1:]), on_round=on_round)
"""


def test_an_error_of_on_round_in_one_process_ends_all_of_them_and_the_round_is_saved(tmp_path):
    (tmp_path / "mine.py").write_text(ON_ROUND)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path / "mine.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*start, f"output={tmp_path / 'run'}", *SETTING], capture_output=True, text=True, env=environment, timeout=100, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "OSError: the user's own disk is full" in done.stderr
    assert (tmp_path / "run" / "checkpoint-000002").is_dir() and len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_prompts_that_cannot_be_shared_evenly_are_refused(tmp_path):
    done = launch(2, tmp_path / "run", "train.prompts_per_round=3")
    assert done.returncode != 0
    assert "train.prompts_per_round=3: cannot be shared evenly by 2 processes; choose a multiple" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_two_machines_train_as_one(tmp_path):
    """The command of book/howto/machine.md, in two shells of this machine; the second one reaches the first at another loopback address."""
    page = (ROOT / "book" / "howto" / "machine.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^accelerate (launch .*--main_process_ip 127\.0\.0\.2 .*)$", page, re.MULTILINE)
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        line = line.replace("--main_process_port 29500", f"--main_process_port {free.getsockname()[1]}")
    line = line.replace("output=runs/two_machines", f"output={tmp_path / 'run'}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
    started = []
    for rank in "01":
        words = [*shlex.split(line.replace("--machine_rank 0", f"--machine_rank {rank}")), *SETTING]
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", *words]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.terminate()  # it ends the process that it has started, too
    assert [process.returncode for process in started] == [0, 0], said
    assert "policy, metrics and config in" in said[0] and "policy, metrics" not in said[1]
    assert launch(1, tmp_path / "alone").returncode == 0
    alone, two = ([json.loads(line) for line in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("alone", "run"))
    assert len(two) == len(alone) == 6
    for a, b in zip(alone, two, strict=True):
        for name in ("loss", "grad_norm", "reward", "ess"):
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), name
