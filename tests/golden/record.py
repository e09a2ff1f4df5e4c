"""Numbers that a change of the code's structure must not change: recorded once, compared by `tests/test_golden.py`.

    python tests/golden/record.py tests/golden     # only after a change that is meant to change numbers; say why in LOG.md

Every run is one process, one CPU thread, float32 or bfloat16. Rounding differs between processors, and a rounding can change which
token is drawn; so `probe` stores what this processor makes of some typical operations, and the test asks for equal bits only where
the probe is equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dmpo_ref import load_config, train
from dmpo_ref.cli import main
from toy.small_llada import make_checkpoint

SMALL_LLADA = (  # the published recipe on a small random checkpoint
    *("model.lora_rank=4", "model.lora_alpha=8", "sampler.response_length=32", "sampler.block_length=16", "sampler.steps=16"),
    *("optimizer.learning_rate=1e-3", "train.rounds=3", "train.prompts_per_round=2", "train.num_rollouts=4", "train.steps_per_round=2"),
    *("loss.micro_batch=3", "train.score_micro_batch=5", "evaluation.num_items=2", "threads=1"),
    *("evaluation.sampler.response_length=32", "evaluation.sampler.block_length=16", "evaluation.sampler.steps=16"),
)
# name → (config, overrides); rounds are few where a run only covers another path through the code
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "toy_sudoku": ("toy_sudoku", ("train.rounds=15", "evaluation.every=5", "evaluation.num_items=64", "evaluation.num_samples=2")),
    "toy_two_solutions_wddo": ("toy_two_solutions", ("train.rounds=20", "loss.name=wddo", "loss.masks=path")),
    "wddo_on_masks_reuse": ("toy_two_solutions", ("train.rounds=3", "loss.name=wddo", "train.reuse_rounds=1", "loss.micro_batch=50")),
    "model_baseline_parts": (
        "toy_sudoku",
        ("train.rounds=3", "weight.baseline=model", "weight.log_ratio=elbo", "train.prompts_per_round=6", "train.prompts_per_step=4",
         "train.score_micro_batch=7", "loss.micro_batch=9", "train.resync_every=2", "evaluation.num_items=8"),
    ),  # fmt: skip
    "diffu_grpo": ("toy_two_solutions", ("train.rounds=3", "loss.name=diffu_grpo", "loss.kl=0.04", "weight.log_ratio=none")),
    "wd1": ("toy_two_solutions", ("train.rounds=3", "loss.name=wd1", "weight.log_ratio=none")),
    "reinforce": ("toy_two_solutions", ("train.rounds=3", "loss.name=reinforce", "loss.kl=0.2", "weight.log_ratio=none")),
    "log_variance": ("toy_two_solutions", ("train.rounds=3", "loss.name=log_variance", "weight.log_ratio=none")),
    "small_llada": ("llada_sudoku", SMALL_LLADA),
    "small_llada_wino": (
        "llada_sudoku",
        (*SMALL_LLADA, "sampler.name=wino", "sampler.cache=none", "sampler.steps=null", "weight.target_ess=0.9", "weight.baseline=negative",
         "sampler.stop_early=true", "weight.log_ratio=none", "loss.masks=stratified", "loss.normalise=none"),
    ),
}  # fmt: skip


def letters(item: Any, text: str) -> float:
    """A reward that differs between the answers of random weights."""
    return sum(map(ord, text)) % 7 / 7


def metrics_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """Metrics of a run, without its seconds."""
    preset, overrides = RUNS[name]
    reward: Callable | None = None
    if preset == "llada_sudoku":
        if not (folder / "small").is_dir():
            make_checkpoint(folder / "small", n_kv_heads=2)
        overrides, reward = (*overrides, f"model.path={folder / 'small'}"), letters
    trained = train(load_config(preset, f"output={folder / name}", *overrides), reward=reward)
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in trained.metrics]


def command_output(*words: str) -> str:
    """What a command prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(list(words)) == 0
    return out.getvalue()


def answers(folder: Path) -> list[dict[str, Any]]:
    """The answers that `dmpo evaluate` writes, after its first line."""
    sampler = ("evaluation.sampler.name=threshold", "evaluation.sampler.temperature=0.7", "evaluation.sampler.threshold=0.8")
    command_output("evaluate", "toy_sudoku", "--output", str(folder / "answers"), "evaluation.num_items=70", *sampler)
    (file,) = (path for path in (folder / "answers").glob("*.jsonl") if "timing" not in path.name)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[1:]]


def plan() -> str:
    """The page of `dmpo plan` for the published recipe."""
    return command_output("plan", "llada_sudoku", "--num-processes", "8", "--strategy", "fsdp2")


def probe() -> str:
    """Digest of what this processor makes of operations like those of the runs, in one thread."""
    torch.set_num_threads(1)
    generator, digest = torch.Generator().manual_seed(0), hashlib.sha256(torch.__version__.encode() + platform.machine().encode())
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (1, 3, 64, 200):
            x, w = (torch.randn(n, 64, generator=generator).to(dtype) for n in (rows, 192))
            y = (x @ w.T).requires_grad_()
            q = y.view(1, rows, 12, 16).transpose(1, 2)
            loss = torch.nn.functional.scaled_dot_product_attention(q, q, q).float().logsumexp(dim=-1).exp().log1p().sum()
            loss.backward()
            for tensor in (y, y.grad, loss, (y.float().softmax(-1).cumsum(-1))):
                digest.update(tensor.detach().float().numpy().tobytes())
    return digest.hexdigest()


def record(target: Path) -> None:
    """Write `numbers.json`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        numbers = {
            "probe": probe(),
            "metrics": {name: metrics_of(name, folder) for name in RUNS},
            "answers": answers(folder),
            "plan": plan(),
        }
    (target / "numbers.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
