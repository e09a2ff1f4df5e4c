"""The options of `dmpo pretrain-toy`, and what they may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dmpo_ref.config import FINITE_ABOVE_0, SEED, option

FEWEST_STEPS = 21  # so that the warm-up, 5 % of them, is more than one step


@dataclass
class PretrainConfig:
    output: str = option("runs/pretrain_toy", "folder of the checkpoint")
    seed: int = option(0, "key of every random stream")
    steps: int = option(8000, "gradient steps")
    batch_size: int = option(64, "answers in a step")
    learning_rate: float = option(3e-3, "AdamW learning rate at its highest; linear warm-up over 5 %, then cosine to 0")
    correct_share: float = option(0.25, "share of the answers that are right")
    prompted_share: float = option(0.33, "share of steps in the layout of task.generate=all: the puzzle, then all 16 cells")
    width: int = option(64, "d_model; the feed-forward layers are twice as wide")
    layers: int = option(2, "transformer blocks")
    threads: int = option(1, "CPU threads")


def check_options(config: PretrainConfig) -> None:
    """Refuse values that are out of range, naming the option.

    Raises:
        ValueError: the first one.
    """
    for name, least, most in (
        *(("steps", FEWEST_STEPS, 10**9), ("batch_size", 1, 10**5), ("layers", 1, 1000), ("threads", 1, 1024)),
        ("width", 4, 2**14),
    ):
        if not least <= getattr(config, name) <= most:
            raise ValueError(f"{name}={getattr(config, name)}: must be at least {least}, and at most {most}")
    if Path(config.output).exists():
        raise ValueError(f"output={config.output} exists; give a folder that does not")
    for name in ("correct_share", "prompted_share"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)}: a share must lie between 0 and 1")
    for name, bound in (("learning_rate", FINITE_ABOVE_0), ("seed", SEED)):
        if not bound.holds(getattr(config, name)):
            raise ValueError(f"{name}={getattr(config, name)}: {bound.words}")
    if config.width % 4:
        raise ValueError(f"width={config.width}: must be a multiple of the 4 attention heads")
