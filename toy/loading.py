"""Loading what a config names: the policy with its tokenizer, the task, and the vocabulary that both allow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from dmpo_ref.config import Config
from dmpo_ref.likelihood import Vocabulary
from dmpo_ref.models.llada import LLaDAModelLM
from dmpo_ref.models.loading import load_policy
from dmpo_ref.tasks import build_task
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.encoding import allowed_vocabulary


@dataclass
class Loaded:
    """A policy and what is needed to sample from it: its tokenizer, the task, the allowed vocabulary."""

    policy: LLaDAModelLM
    tokenizer: PreTrainedTokenizerBase
    task: Task
    vocabulary: Vocabulary


def load(config: Config, device: torch.device | str = "cpu") -> Loaded:
    """Load `model.path` and build the task. Errors as in `load_policy`."""
    policy, tokenizer = load_policy(config.model, torch.device(device))
    task = build_task(config.task)
    return Loaded(policy, tokenizer, task, allowed_vocabulary(config.model, task, policy, tokenizer))
