"""One thread for tiny models, and nothing from the environment: no hub, no trackers, no colours."""

import os
import signal

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import pytest
import torch

from dmpo_ref.presets.loading import PRESETS

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a job in the background of a script has it, and all that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def small_run(tmp_path):
    """A config of a run of a few seconds: `small_run("key=value", …)`; its output is a fresh folder."""
    from dmpo_ref.presets.loading import load_config

    def build(*overrides: str):
        small = [
            *("train.rounds=4", "train.prompts_per_round=3", "train.num_rollouts=4", "train.steps_per_round=2", "train.checkpoint_every=2"),
            *("evaluation.every=0", "evaluation.num_items=4", "evaluation.num_samples=1", f"output={tmp_path / 'run'}"),
        ]
        return load_config(PRESETS / "toy_sudoku.yaml", *small, *overrides)

    return build
