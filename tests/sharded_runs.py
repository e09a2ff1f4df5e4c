"""The processes of tests/test_sharded.py: a run of `KINDS`, whole, and once more killed in round 3 and resumed.

python -m torch.distributed.run --nproc_per_node 2 -m tests.sharded_runs FOLDER KIND
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from dmpo_ref.config import Config
from dmpo_ref.presets.loading import PRESETS, load_config
from dmpo_ref.train import train

KINDS = {
    # p_ref is a second model, which moves. Each process samples in as many steps as its own puzzles need.
    "full": ["sampler.name=threshold", "sampler.threshold=0.5", "weight.log_ratio=elbo", "train.resync_every=2", "train.reuse_rounds=1"],
    # An adapter has 3 rows for 2 processes. Slopes first, then several backward passes, in which blocks are computed again. One
    # process may still sample while another puts the adapters of p_ref into the policy.
    "lora": [
        *("sampler.name=threshold", "sampler.threshold=0.5"),
        *("model.lora_rank=3", "model.gradient_checkpointing=true", "weight.log_ratio=elbo", "train.resync_every=2"),
        *("loss.name=wddo", "loss.micro_batch=13"),
    ],
    # An adapter has 1 row: the second process holds none of it. Path masks differ in number, so backward passes do.
    "mixed": [
        *("model.lora_rank=1", "model.dtype=bfloat16", "weight.log_ratio=path", "loss.masks=path", "loss.micro_batch=23"),
        *("weight.baseline=model", "sampler.micro_batch=5", "train.score_micro_batch=31"),
    ],
    # p_ref draws too, again for groups that are replaced, of which one process may have more tries than the other.
    "by_reference": [
        *("model.lora_rank=3", "train.resync_every=1", "train.reference_share=0.5", "train.skip_equal_groups=3"),
        *("weight.log_ratio=path", "weight.baseline=uniform"),
    ],
}


class Killed(BaseException):
    """What a process does not survive."""


def settings(folder: Path, kind: str) -> Config:
    """A run of a second."""
    small = ["train.rounds=4", "train.prompts_per_round=4", "train.num_rollouts=4", "train.steps_per_round=2", "train.checkpoint_every=2",
             "evaluation.every=0", "evaluation.num_items=5", "evaluation.num_samples=1", "device=cpu", "threads=1"]  # fmt: skip
    return load_config(PRESETS / "toy_sudoku.yaml", *small, f"output={folder / kind}", *KINDS[kind])


def look(done: int, policy: torch.nn.Module) -> dict[str, float]:
    """Nothing would be tested if each process had all weights: the bytes of them that it has."""
    assert all(isinstance(weight, DTensor) for weight in policy.parameters()), "the weights are not divided"
    return {"bytes": sum(weight.to_local().nbytes for weight in policy.parameters())}


def kill(done: int, policy: torch.nn.Module) -> dict[str, float]:
    """At the end of round 3, which is then run again from the checkpoint of round 2."""
    if done == 3:
        raise Killed
    return look(done, policy)


def main(folder: Path, kind: str) -> None:
    Accelerator.end_training = lambda self: None  # it would end the exchange between processes, which the next run needs
    train(settings(folder / "whole", kind), on_round=look)
    try:
        train(settings(folder / "resumed", kind), on_round=kill)
    except Killed:
        train(settings(folder / "resumed", kind), on_round=look, resume=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
