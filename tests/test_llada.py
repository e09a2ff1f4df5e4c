"""The small checkpoint of the official layout through the same commands as the toy: another config file, no other code."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from dmpo_ref.cli import main
from dmpo_ref.config import ModelConfig
from dmpo_ref.models.loading import latest_checkpoint, load_policy
from dmpo_ref.presets.loading import load_config
from dmpo_ref.tasks.sudoku import read_puzzles, write_puzzles
from dmpo_ref.train import train
from toy.small_llada import make_checkpoint

SMALL = ["sampler.response_length=16", "sampler.block_length=8", "sampler.steps=8", "evaluation.sampler.response_length=16",
         "evaluation.sampler.block_length=8", "evaluation.sampler.steps=4", "evaluation.num_items=2", "train.rounds=4",
         "train.prompts_per_round=2", "train.num_rollouts=4", "train.steps_per_round=2", "train.checkpoint_every=1",
         "train.score_micro_batch=5", "loss.micro_batch=3", "sampler.micro_batch=3", "evaluation.sampler.micro_batch=3",
         "optimizer.learning_rate=1e-3", "device=cpu",
         # A random model solves nothing: with the baseline all weights would be 0, and nothing would be trained.
         "threads=1", "weight.baseline=none"]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("small") / "llada", d_model=32, n_heads=4, n_kv_heads=2)


def data(checkpoint, task):
    """Small local files of the task, in the columns of the public ones."""
    if task == "sudoku":
        puzzles = checkpoint.parent / "puzzles.csv"
        if not puzzles.exists():
            write_puzzles(puzzles, read_puzzles("toy/data/train.csv")[:40])
        return [f"task.train={puzzles}"]
    if task == "countdown":
        return ["task.train=toy/data/countdown_train.csv", "task.test=toy/data/countdown_test_3.csv"]
    return [f"task.{split}=toy/data/{task}_{split}.jsonl" for split in ("train", "test")]


def overrides(checkpoint, output, *more, task="sudoku"):
    return [*SMALL, f"model.path={checkpoint}", f"output={output}", *data(checkpoint, task), *more]


def metrics(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


FULL = ["model.lora_rank=0", "model.dtype=float32"]
LORA = ["model.lora_rank=4", "model.dtype=float32"]


def test_kill_resume_evaluate_export_reload_with_lora(checkpoint, tmp_path, capsys):
    """A real process and SIGKILL: the resumed run ends with the numbers of one that was never killed."""
    whole = train(load_config("llada_sudoku", *overrides(checkpoint, tmp_path / "whole", *LORA)))
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "dmpo_ref", "train", "llada_sudoku", *overrides(checkpoint, output, *LORA)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 90
    while latest_checkpoint(output) is None:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert main(["train", "llada_sudoku", "--resume", *overrides(checkpoint, output, *LORA)]) == 0
    assert metrics(output) == metrics(tmp_path / "whole")
    assert all(entry["grad_norm"] > 0 for entry in metrics(output))
    adapters = load_file(latest_checkpoint(output) / "adapter_model.safetensors")
    for name, value in load_file(latest_checkpoint(tmp_path / "whole") / "adapter_model.safetensors").items():
        assert torch.equal(adapters[name], value)

    check_exports(checkpoint, "sudoku", output, tmp_path)
    merged, _ = load_policy(ModelConfig(path=str(tmp_path / "merged")), torch.device("cpu"))
    tokens = torch.randint(0, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trained, again = whole.policy(input_ids=tokens).logits, merged(input_ids=tokens).logits
        with whole.policy.disable_adapter():
            base = whole.policy(input_ids=tokens).logits
    # The merged weights are bfloat16, as those of the base are; what was learned is far more than that rounding.
    assert (again - trained).norm() < 0.1 * (base - trained).norm()
    check_merged_weights(checkpoint, adapters, merged)
    assert main(["export", str(output), str(tmp_path / "merged"), "--merge"]) == 2
    assert "exists; give a folder that does not" in capsys.readouterr().err


def check_merged_weights(checkpoint, adapters, merged):
    """W + (α/r) B A, worked out here from the stored adapters; the difference is the rounding of two bfloat16 numbers, W and the sum."""
    base, _ = load_policy(ModelConfig(path=str(checkpoint)), torch.device("cpu"))
    expected, scale = dict(base.named_parameters()), load_config("llada_sudoku").model.lora_alpha / 4
    for name in [name for name in adapters if name.endswith("lora_A.weight")]:
        A, B = adapters[name], adapters[name.replace("lora_A", "lora_B")]
        key = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        assert B.abs().max() > 0
        expected[key] = expected[key] + scale * B @ A
    for name, before in base.named_parameters():
        learned = (expected[name] - before).abs().max().item()
        torch.testing.assert_close(merged.get_parameter(name), expected[name], rtol=2**-8, atol=2**-8 * learned)


def check_exports(checkpoint, task, output, folder, *flags):
    """What was exported answers as the run itself does, merged or as adapters."""
    exports = {"run": output} | {name: folder / name for name in (("adapters", "merged") if not flags else ("plain",))}
    for name in exports.keys() - {"run"}:
        assert main(["export", str(output), str(exports[name]), *(["--merge"] if name == "merged" else [])]) == 0
    answers = {}
    for name, path in exports.items():
        results = folder / f"results_{name}"
        arguments = [f"llada_{task}", *SMALL, *data(checkpoint, task), "model.dtype=float32", f"model.path={path}"]
        assert main(["evaluate", *arguments, "--output", str(results)]) == 0
        answers[name] = (results / f"{task}_16_confidence.jsonl").read_text().splitlines()[1:]
        assert len(answers[name]) == 2
    assert all(lines == answers["run"] for lines in answers.values())


IN_MAKE_TEST = (("gsm8k", "full"), ("countdown", "lora"))


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        pytest.param(task, kind, marks=[] if (task, kind) in IN_MAKE_TEST else pytest.mark.long)
        for task in ("sudoku", "countdown", "gsm8k", "math500")
        for kind in ("lora", "full")
    ],
)
def test_every_task_trains_stops_resumes_evaluates_exports_and_reloads(checkpoint, tmp_path, task, kind):
    class Stopped(BaseException):  # as if it had been killed: after an error, the round would be saved first
        pass

    def stop(done, policy):
        if done == 2:
            raise Stopped
        return {}

    options = LORA if kind == "lora" else FULL
    configs = [load_config(f"llada_{task}", *overrides(checkpoint, tmp_path / name, *options, task=task)) for name in ("whole", "stopped")]
    whole = train(configs[0])
    with pytest.raises(Stopped):
        train(configs[1], on_round=stop)
    resumed = train(configs[1], resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.policy.parameters(), resumed.policy.parameters(), strict=True))
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "whole")
    assert any(name.startswith("reward/") for name in whole.metrics[0])
    assert all(entry["grad_norm"] > 0 for entry in whole.metrics)
    check_exports(checkpoint, task, tmp_path / "stopped", tmp_path, *(["full"] if kind == "full" else []))
    if kind == "full":
        official = json.loads((checkpoint / "config.json").read_text())
        saved = json.loads((latest_checkpoint(tmp_path / "whole") / "config.json").read_text())
        changed = {"auto_map", "torch_dtype", "transformers_version"}
        assert {k: saved[k] for k in official if k not in changed} == {k: v for k, v in official.items() if k not in changed}


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_bfloat16_weights_train_with_float32_adapters_and_log_probabilities(checkpoint, tmp_path, dtype):
    config = load_config(
        "llada_sudoku", *overrides(checkpoint, tmp_path / "run", "model.lora_rank=4", f"model.dtype={dtype}", "train.rounds=1")
    )
    trained = train(config)
    kinds = {("lora_" in name, p.dtype) for name, p in trained.policy.named_parameters()}
    assert kinds == {(False, getattr(torch, dtype)), (True, torch.float32)}
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in trained.metrics)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["sampler.response_length=null"], "give sampler.response_length"),
        (
            ["sampler.response_length=4000"],
            "40 of 40 training items are longer, with their response, than max_sequence_length=4096 tokens",
        ),
        (["sampler.block_length=7"], "block_length=7 does not divide a response of 16 positions"),
        (["model.lora_targets=[gate_proj]"], "'gate_proj' matches no layer"),
        (["task.generate=blanks", "task.prefill=false"], "response_length=16, or that of evaluation.sampler: the template"),
    ],
)
def test_mistakes_are_one_line(checkpoint, tmp_path, capsys, extra, message):
    import re

    assert main(["train", "llada_sudoku", *overrides(checkpoint, tmp_path / "run", *extra)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not (tmp_path / "run").exists()


def test_the_preset_can_be_planned_without_weights_or_network(capsys):
    assert main(["plan", "llada_sudoku"]) == 0
    assert "fits" in capsys.readouterr().out
