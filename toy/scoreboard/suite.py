"""The settings of the scoreboard, from `suite.yaml`, and its cells, one training run each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from dmpo_ref.config import shorten

Rows = list[dict[str, Any]]
SETTINGS = Path(__file__).with_name("suite.yaml")
POINTS = ("group_size", "groups_per_step", "many_puzzles", "mixtures")
PARTS = ("tuning", "report", *POINTS)


@dataclass(frozen=True)
class Cell:
    """One run: its purpose, puzzle and method, and everything that differs between runs.

    Attributes:
        part: one of `PARTS`; `group_size/tuning` and the like for the runs that choose a learning rate there.
        puzzle: the puzzles of the world, one or more, with a space between them.
        overrides: of the preset toy_two_solutions, without task, output and seed.
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
        """What distinguishes its row from those of other cells; the overrides say whether it was run with these settings."""
        return key_of(asdict(self))


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """`Cell.key` of a row of results."""
    own = tuple(word for word in row["overrides"] if word.startswith("loss.kl="))
    return (*(row[name] for name in ("part", "world", "method", "num_rollouts", "rollouts_per_step", "learning_rate", "seed")), own)


def read_suite(*, quick: bool = False) -> dict[str, Any]:
    """The settings; with `quick` those that are changed by its section, as a separate version, so that rows of both are never mixed."""
    suite = dict(yaml.safe_load(SETTINGS.read_text(encoding="utf-8")))
    changed = {"version": f"{suite['version']}, quick"} | suite.pop("quick")
    return choose_methods(suite | changed, changed["only"]) if quick else suite


def choose_methods(suite: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The suite with some of its methods; all if none is named.

    Raises:
        ValueError: a name that the suite does not have.
    """
    known = list(dict.fromkeys([*suite["methods"], *(name for part in POINTS for name in suite[part]["methods"])]))
    for name in names:
        if name not in known:
            raise ValueError(f"--method={shorten(name)!r} is not in the suite; choose among {'; '.join(known)}")
    if not names:
        return suite
    points = {part: suite[part] | {"methods": [name for name in suite[part]["methods"] if name in names]} for part in POINTS}
    return suite | {"methods": {name: method for name, method in suite["methods"].items() if name in names}} | points


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
        yield from point_cells(suite, part, rows)


def tuning_cells(suite: dict[str, Any], name: str | None = None) -> Iterator[Cell]:
    """Each method on the tuning puzzles, with every learning rate and every value of its own option."""
    tuning = suite["tuning"]
    for seed, world, method in product(tuning["seeds"], tuning["worlds"], suite["methods"] if name is None else [name]):
        grid = suite["methods"][method].get("grid", {})
        own = [[f"{option}={value}" for value in values] for option, values in grid.items()]
        for learning_rate, *words in product(suite["learning_rates"], *own):
            yield make_cell(suite, "tuning", world, method, (learning_rate, tuple(words)), seed=seed)


def point_cells(suite: dict[str, Any], part: str, rows: Rows) -> Iterator[Cell]:
    """The cells of one of `POINTS`: each method, N and size of the run with every learning rate, then with the best of them."""
    settings = suite[part]
    for name, run, N in product(settings["methods"], settings["runs"], settings["num_rollouts"]):

        def make(kind: str, learning_rates: list[float], name: str = name, **sizes: Any) -> Iterator[Cell]:
            for seed, world, learning_rate in product(settings[kind]["seeds"], settings[kind]["worlds"], learning_rates):
                of_kind = f"{part}/tuning" if kind == "tuning" else part
                yield make_cell(suite, of_kind, world, name, (learning_rate, ()), seed=seed, **sizes)

        tuning = list(make("tuning", settings["tuning"]["learning_rates"], num_rollouts=N, run=run))
        yield from tuning
        if (best := best_setting(suite, tuning, rows)) is not None:
            yield from make("report", [best[0]], num_rollouts=N, run=run)


Setting = tuple[float, tuple[str, ...]]  # learning rate, value of the method's own option


def method_of(suite: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of a method in the suite; those of `mixtures` are baselines of the method itself, which aims at the target."""
    return suite["methods"].get(name) or suite["variants"].get(name) or {"aim": "target", "options": []}


def best_setting(suite: dict[str, Any], cells: Iterable[Cell], rows: Rows) -> Setting | None:
    """The setting whose cells are best, in the mean, by the aim of their method; None while one of them has not been run.

    Probabilities of a right answer count in whole percents, and of equal ones the lowest learning rate is the best: many reach 1.00.
    """
    found, losses = {key_of(row): row for row in rows}, defaultdict[Setting, list[float]](list)
    for cell in cells:
        if (row := found.get(cell.key)) is None:
            return None
        method = method_of(suite, cell.method)
        own = tuple(word for word in cell.overrides if word.partition("=")[0] in method.get("grid", {}))
        losses[cell.learning_rate, own].append(row["kl_target_policy"] if method["aim"] == "target" else -round(row["valid"], 2))
    return min(losses, key=lambda setting: mean(losses[setting]))


@cache
def make_puzzle_list(count: int, low: int, high: int, num_solutions: int, seed: int) -> str:
    """`count` puzzles of the training grids as one text, see `make_puzzles`."""
    from toy.worlds.sudoku import make_puzzles, split_grids  # takes seconds (transformers); --help does not need it

    made = make_puzzles(split_grids()[0], count, blanks=(low, high), num_solutions=num_solutions, seed=seed)
    return " ".join(puzzle.puzzle for puzzle in made)


def puzzles_of(world: str | dict[str, Any]) -> str:
    """The puzzles of a world of the suite, which gives one as text or says how several are made."""
    return world if isinstance(world, str) else make_puzzle_list(world["count"], *world["blanks"], world["num_solutions"], world["seed"])


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
    words += [*method_of(suite, method)["options"], *own, f"optimizer.learning_rate={learning_rate:g}"]
    return Cell(
        part, world, puzzles_of(suite["worlds"][world]), method, N, run["rollouts"], learning_rate, tuple(words), seed, measurements
    )
