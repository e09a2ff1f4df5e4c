"""Tasks: text in, text out. A task knows prompts, rewards and grades; nothing here knows about models.

The protocol `base.Task` lists what a task must have. To add one: write the file, add it to `TASKS` and its name to `TaskConfig`.
"""

from __future__ import annotations

from dmpo_ref.config import TaskConfig
from dmpo_ref.tasks.base import Task
from dmpo_ref.tasks.countdown import Countdown
from dmpo_ref.tasks.gsm8k import GSM8K
from dmpo_ref.tasks.math500 import MATH500
from dmpo_ref.tasks.reasoning_gym import ReasoningGym
from dmpo_ref.tasks.sudoku import Sudoku

TASKS: dict[str, type[Sudoku | Countdown | GSM8K | MATH500 | ReasoningGym]] = {
    "sudoku": Sudoku,
    "countdown": Countdown,
    "gsm8k": GSM8K,
    "math500": MATH500,
    "reasoning_gym": ReasoningGym,
}


def build_task(config: TaskConfig) -> Task:
    """The task that the config names."""
    return TASKS[config.name](config)
