"""Two processes against one: the same rollouts, losses, weights and final parameters, up to float tolerance."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

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


@pytest.mark.parametrize("kind", KINDS)
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


def test_prompts_that_cannot_be_shared_evenly_are_refused(tmp_path):
    done = launch(2, tmp_path / "run", "train.prompts_per_round=3")
    assert done.returncode != 0
    assert "train.prompts_per_round=3: cannot be shared evenly by 2 processes; choose a multiple" in done.stderr
    assert not (tmp_path / "run").exists()
