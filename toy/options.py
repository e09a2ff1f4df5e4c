"""The options of `dmpo pretrain-toy`, for the grid and for text, and what they may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Optional

from dmpo_ref.config import FINITE_ABOVE_0, SEED, option

FEWEST_STEPS = 21  # so that the warm-up, 5 % of them, is more than one step


@dataclass
class PretrainConfig:
    output: str = option("runs/pretrain_toy", "folder of the checkpoint")
    seed: int = option(0, "key of every random stream")
    steps: int = option(8000, "gradient steps")
    batch_size: int = option(64, "answers in a step")
    learning_rate: float = option(3e-3, "AdamW learning rate at its highest; warm-up over 5 %, then cosine to 0")
    correct_share: float = option(0.25, "share of the answers that are right")
    prompted_share: float = option(0.33, "share of steps in the layout of task.generate=all: the puzzle, then all 16 cells")
    width: int = option(64, "d_model; the feed-forward layers are twice as wide")
    layers: int = option(2, "transformer blocks")
    threads: int = option(1, "CPU threads")


@dataclass
class TextPretrainConfig:
    output: str = option("runs/pretrain_text", "folder of the checkpoint")
    start: Optional[str] = option(None, "text model to go on from, a folder of this command; null: fresh weights of `width` and `layers`")
    lessons: Literal["mixture", "plus_minus", "plus_minus_twice", "spell_backward"] = option(
        "mixture",
        "`mixture`: Countdown with all four signs, Sudoku, word problems; `plus_minus`: Countdown with + and − alone, whose "
        "careful answers work out what to subtract; `plus_minus_twice`: the same, but careless answers use the second number twice; "
        "`spell_backward`: reasoning-gym's words, needs the extra `gym`",
    )
    seed: int = option(0, "key of every random stream")
    steps: int = option(9000, "gradient steps")
    batch_size: int = option(16, "lessons in a step")
    optimizer: Literal["adamw", "muon"] = option("adamw", "`muon` for the matrices of the blocks, AdamW for the rest; or AdamW for all")
    learning_rate: float = option(1.5e-3, "learning rate at its highest; warm-up over 2 %, then cosine to 0")
    careless_part: float = option(
        0.2, "share of the steps, the last ones, in which `careful_share` of the answers are careful; before, 0.9"
    )
    careful_share: float = option(0.35, "share of careful answers in that part")
    width: int = option(192, "d_model; heads are 32 wide, a key and value head for two of them")
    layers: int = option(6, "transformer blocks")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "`auto` takes CUDA if it is there; there the passes are in bfloat16")
    save_every: int = option(200, "steps between two states that --resume can go on from")
    threads: int = option(2, "CPU threads")


LEAST = {"steps": FEWEST_STEPS, "batch_size": 1, "layers": 1, "threads": 1, "width": 4, "save_every": 1}
MOST = {"steps": 10**9, "batch_size": 10**5, "layers": 1000, "threads": 1024, "width": 2**14, "save_every": 10**9}
SHARES = ("correct_share", "prompted_share", "careful_share", "careless_part")


def check_options(config: PretrainConfig | TextPretrainConfig, *, resume: bool = False) -> None:
    """Refuse values that are out of range, naming the option.

    Raises:
        ValueError: the first one.
    """
    for name, value in asdict(config).items():
        if name in LEAST and not LEAST[name] <= value <= MOST[name]:
            raise ValueError(f"{name}={value}: must be at least {LEAST[name]}, and at most {MOST[name]}")
        if name in SHARES and not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: a share must lie between 0 and 1")
        bound = {"learning_rate": FINITE_ABOVE_0, "seed": SEED}.get(name)
        if bound is not None and not bound.holds(value):
            raise ValueError(f"{name}={value}: {bound.words}")
    if Path(config.output).exists() and not resume:
        raise ValueError(f"output={config.output} exists; give a folder that does not")
    if isinstance(config, TextPretrainConfig) and config.start is not None:
        default = TextPretrainConfig()
        for name in ("width", "layers"):
            if getattr(config, name) != getattr(default, name):
                raise ValueError(f"{name}={getattr(config, name)}: the model of start={config.start} has its own; leave {name} out")
    unit, reason = (4, "the 4 attention heads") if isinstance(config, PretrainConfig) else (64, "two attention heads of 32")
    if config.width % unit:
        raise ValueError(f"width={config.width}: must be a multiple of {reason}")
