"""What the scoreboard runs: the settings of `suite.yaml`, and its cells, one training run each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

Rows = list[dict[str, Any]]
SETTINGS = Path(__file__).with_name("suite.yaml")
SIZE_PARTS = ("group_size", "groups_per_step")
PARTS = ("tuning", "report", *SIZE_PARTS)


@dataclass(frozen=True)
class Cell:
    """One run: what it is for, which puzzle, which method, and everything that is not the same in all of them.

    Attributes:
        part: one of `PARTS`; `group_size/tuning` and the like for the runs that choose a learning rate there.
        overrides: of the preset toy_two_solutions, but for task, output and seed.
    """

    part: str
    world: str
    puzzle: str
    method: str
    num_rollouts: int
    rollouts_per_step: int
    learning_rate: float
    overrides: tuple[str, ...]
    seed: int
    measurements: int = 1

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells its row from those of other cells; the overrides say whether it was run with these settings."""
        return key_of(asdict(self))


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """`Cell.key` of a row of results."""
    own = tuple(word for word in row["overrides"] if word.startswith("loss.kl="))
    return (*(row[name] for name in ("part", "world", "method", "num_rollouts", "rollouts_per_step", "learning_rate", "seed")), own)


def read_suite(*, quick: bool = False) -> dict[str, Any]:
    """The settings; with `quick` those that are changed by its section."""
    suite = dict(yaml.safe_load(SETTINGS.read_text(encoding="utf-8")))
    changed = suite.pop("quick")
    return choose_methods(suite | changed, changed["only"]) if quick else suite


def choose_methods(suite: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The suite with some of its methods; all if none is named.

    Raises:
        ValueError: a name that the suite does not have.
    """
    for name in names:
        if name not in suite["methods"]:
            raise ValueError(f"--method={name!r} is not in the suite; choose among {', '.join(suite['methods'])}")
    return suite | {"methods": {name: suite["methods"][name] for name in names}} if names else suite


def list_cells(suite: dict[str, Any], part: str, rows: Rows) -> Iterator[Cell]:
    """The cells of a part, all methods with the first seed first. Those that need a tuned setting find it in the rows there are.

    A method whose tuning is not complete has no cells of the report yet.
    """
    if part == "tuning":
        yield from tuning_cells(suite)
    elif part == "report":
        for seed, world, name in product(suite["report"]["seeds"], suite["report"]["worlds"], suite["methods"]):
            if (best := best_setting(suite, tuning_cells(suite, name), rows)) is not None:
                few_blanks = suite["worlds"][world].count("0") <= 5
                yield make_cell(suite, "report", world, name, best, seed=seed, measurements=suite["curve"] if few_blanks else 1)
    else:
        sizes = suite["sizes"]
        for name, settings in product(suite[part]["methods"], size_settings(suite, part)):
            if name in suite["methods"]:
                tuning = list(size_cells(suite, part, name, settings))
                yield from tuning
                if (best := best_setting(suite, tuning, rows)) is not None:
                    for seed in sizes["seeds"]:
                        yield make_cell(suite, part, sizes["world"], name, best, seed=seed, **settings)


def tuning_cells(suite: dict[str, Any], name: str | None = None) -> Iterator[Cell]:
    """Each method on the tuning puzzle, with every learning rate and every value of its own option."""
    tuning = suite["tuning"]
    for seed, world, method in product(tuning["seeds"], tuning["worlds"], suite["methods"] if name is None else [name]):
        grid = suite["methods"][method].get("grid", {})
        own = [[f"{option}={value}" for value in values] for option, values in grid.items()]
        for learning_rate, *words in product(suite["learning_rates"], *own):
            yield make_cell(suite, "tuning", world, method, (learning_rate, tuple(words)), seed=seed)


def size_settings(suite: dict[str, Any], part: str) -> list[dict[str, Any]]:
    """How the rollouts of a run are divided, for each point of a part: N, and sizes of the run."""
    of_part = suite[part]
    if part == "group_size":
        return [{"num_rollouts": N, "run": of_part["run"]} for N in of_part["num_rollouts"]]
    runs = [{"rounds": of_part["total"] // rollouts, "rollouts": rollouts, "steps": 1} for rollouts in of_part["rollouts"]]
    return [{"num_rollouts": of_part["num_rollouts"], "run": run} for run in runs]


def size_cells(suite: dict[str, Any], part: str, name: str, settings: dict[str, Any]) -> Iterator[Cell]:
    """One point of a part with every learning rate, on the first tuning puzzle."""
    for learning_rate, seed in product(suite["sizes"]["learning_rates"], suite["tuning"]["seeds"]):
        yield make_cell(suite, f"{part}/tuning", suite["tuning"]["worlds"][0], name, (learning_rate, ()), seed=seed, **settings)


Setting = tuple[float, tuple[str, ...]]  # learning rate, value of the method's own option


def best_setting(suite: dict[str, Any], cells: Iterable[Cell], rows: Rows) -> Setting | None:
    """The setting whose cells are best, in the mean, by the aim of their method; None while one of them has not been run."""
    found, losses = {key_of(row): row for row in rows}, defaultdict[Setting, list[float]](list)
    for cell in cells:
        if (row := found.get(cell.key)) is None:
            return None
        method = suite["methods"][cell.method]
        own = tuple(word for word in cell.overrides if word.partition("=")[0] in method.get("grid", {}))
        losses[cell.learning_rate, own].append(row["kl_target_policy"] if method["aim"] == "target" else -row["valid"])
    return min(losses, key=lambda setting: mean(losses[setting]))


def make_cell(
    suite: dict[str, Any],
    part: str,
    world: str,
    method: str,
    setting: Setting,
    *,
    seed: int,
    measurements: int = 1,
    num_rollouts: int | None = None,
    run: dict[str, int] | None = None,
) -> Cell:
    """A cell; N and the sizes of the run are those of the suite unless given."""
    run = run or suite["run"]
    N = num_rollouts or suite["run"]["num_rollouts"]
    sizes = {"rounds": run["rounds"], "num_rollouts": N, "prompts_per_round": run["rollouts"] // N, "steps_per_round": run["steps"]}
    learning_rate, own = setting
    words = [*suite["common"], *(f"train.{name}={value}" for name, value in sizes.items())]
    words += [*suite["methods"][method]["options"], *own, f"optimizer.learning_rate={learning_rate:g}"]
    return Cell(part, world, suite["worlds"][world], method, N, run["rollouts"], learning_rate, tuple(words), seed, measurements)
