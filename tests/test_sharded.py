"""Weights divided among two processes (FSDP2 over gloo, no GPU) against one process with whole weights; killed and resumed as well."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from dmpo_ref.config import Config, ModelConfig
from dmpo_ref.forecast.plan import make_plan
from dmpo_ref.presets.loading import PRESETS
from dmpo_ref.runtime.processes import check_launch
from dmpo_ref.train import train
from tests.sharded_runs import settings

LAUNCHES = sorted((PRESETS / "accelerate").glob("*.yaml"))


@pytest.fixture(scope="module", params=["full", "lora", pytest.param("mixed", marks=pytest.mark.long)])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    """The runs of two processes."""
    return launch(tmp_path_factory.mktemp("sharded"), kind)


def launch(path: Path, kind: str) -> Path:
    """The runs of a kind in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "tests.sharded_runs"]
    variables = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    # A process that waits for a pass which another does not make would wait for ever.
    done = subprocess.run([*command, str(path), kind], capture_output=True, text=True, env={**os.environ, **variables}, timeout=240)
    assert done.returncode == 0, done.stderr
    return path


def metrics(path: Path) -> list[dict]:
    entries = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in entry.items() if name != "seconds"} for entry in entries]


def weights(path: Path) -> dict[str, torch.Tensor]:
    (file,) = path.glob("checkpoint-*/*model.safetensors")
    return load_file(file)


def test_shares_of_the_weights_give_the_results_of_whole_ones(folder, kind, tmp_path):
    train(settings(tmp_path, kind))
    whole, shared = metrics(tmp_path / kind), metrics(folder / "whole" / kind)
    assert len(whole) == len(shared) == 8
    near = {"rel": 0.03, "abs": 0.005} if kind == "mixed" else {"rel": 1e-3, "abs": 1e-5}  # bfloat16 has 8 bits
    for a, b in zip(whole, shared, strict=True):
        for name in ("step", "reward", "ess", "loss", "grad_norm", "log_ratio_mean", "log_ratio_std", "weight_max"):
            assert b[name] == pytest.approx(a[name], **near), name
    ours, theirs = weights(tmp_path / kind), weights(folder / "whole" / kind)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, rtol=1e-3, atol=1e-3 if kind == "mixed" else 1e-5)
    written = [{path.name for path in next(run.glob("checkpoint-*")).iterdir()} for run in (tmp_path / kind, folder / "whole" / kind)]
    assert written[0] == written[1]


def test_a_killed_run_with_shares_resumes_to_the_same_numbers_bit_for_bit(folder, kind):
    assert metrics(folder / "resumed" / kind) == metrics(folder / "whole" / kind)
    whole, resumed = weights(folder / "whole" / kind), weights(folder / "resumed" / kind)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


@pytest.mark.long
def test_processes_that_replace_different_numbers_of_groups_do_not_wait_for_each_other(tmp_path):
    folder = launch(tmp_path, "by_reference")
    assert len(metrics(folder / "whole" / "by_reference")) == 8
    assert metrics(folder / "resumed" / "by_reference") == metrics(folder / "whole" / "by_reference")


def test_a_process_holds_what_the_plan_says(folder, kind, tmp_path):
    plan = make_plan(settings(tmp_path, kind), num_processes=2, strategy="fsdp2")
    held = metrics(folder / "whole" / kind)[-1]["bytes"]
    assert held == pytest.approx(plan.weights + plan.adapters, rel=0.06)  # the first process has the odd rows


@pytest.mark.parametrize("file", LAUNCHES, ids=lambda file: file.stem)
def test_accelerate_reads_every_launch_file_and_what_it_sets_is_accepted(file, monkeypatch):
    assert f"--config_file dmpo_ref/presets/accelerate/{file.name} -m dmpo_ref train" in file.read_text().splitlines()[0]
    assert load_config_from_file(str(file)).num_processes == (1 if file.stem == "one_gpu" else 8)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", str(file), "-m", "dmpo_ref"]))
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    check_launch(Config(model=ModelConfig()))
    assert os.environ.get("ACCELERATE_USE_FSDP", "false") == str(file.stem.startswith("fsdp2")).lower()


@pytest.mark.parametrize(
    ("variables", "model", "message"),
    [
        ({"FSDP_VERSION": "1"}, {}, "fsdp_version=1 in the accelerate config is not supported; use 2"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "True"}, {}, "fsdp_cpu_ram_efficient_loading=true .* use false"),
        ({"FSDP_OFFLOAD_PARAMS": "true"}, {}, "fsdp_offload_params=true .* use false"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, {}, "mixed_precision=bf16 in the accelerate config is not supported; use no"),
        (
            {"ACCELERATE_USE_FSDP": "false", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            {},
            "gradient_accumulation_steps=4 in the accelerate config is not supported; use 1",
        ),
        ({}, {"quantize": "nf4"}, "model.quantize=nf4: 4-bit weights cannot be sharded"),
    ],
)
def test_a_launch_that_would_not_do_what_it_says_is_refused_in_one_line(monkeypatch, variables, model, message):
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message) as caught:
        check_launch(Config(model=ModelConfig(**model)))
    assert "\n" not in str(caught.value)
