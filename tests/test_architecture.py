"""The floor plan, read from every import of the code, late ones too: downwards only, no cycle, and no file or function too long."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lowest first. A module imports what is on lower floors, or beside it on its own.
FLOORS = (
    ("config",),
    ("rollout", "masking"),
    ("models",),
    ("likelihood",),
    ("weights", "samplers"),
    ("losses",),
    ("objectives",),
    ("presets",),
    ("tasks",),
    ("runtime",),
    ("plots",),
    ("evaluation",),
    ("experience",),
    ("gradient",),
    ("train",),
    ("forecast",),
    ("cli",),
)
FLAT = {
    "config",
    "rollout",
    "masking",
    "likelihood",
    "weights",
    "losses",
    "experience",
    "gradient",
    "train",
    "minimal",
}  # the method, in reading order
TOY_FLOORS = (
    ("oracle", "loading", "options", "notebook", "small_llada", "numerics", "sampling"),
    ("enumeration", "worlds"),
    ("tabular", "drift", "products"),
    ("reference", "acts"),
    ("text_reference",),
    ("text_pretrain",),
    ("figures",),
    ("scoreboard",),
    ("studies",),
    ("demo", "pretrain", "machine", "straightforward", "measurements", "grading_times", "bench", "growth", "ladder"),
)
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 320, 60
# path, or path:function → the reason why it may be longer
LONGER: dict[str, str] = {
    "dmpo_ref/models/llada.py": "the whole architecture, which a reader compares with the published one",
}


@dataclass(frozen=True)
class Import:
    """An import: which module imports which, in which line; `late` inside a function, `typing` for type checkers alone."""

    source: str
    target: str
    line: int
    late: bool
    typing: bool


@cache
def modules() -> dict[str, Path]:
    """Dotted name → file, of all modules of the library and the toy."""
    found = {}
    for package in ("dmpo_ref", "toy"):
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def names_in(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules that an import statement names; `from package import module` names the module."""
    for alias in node.names:
        name = alias.name if isinstance(node, ast.Import) else f"{node.module}.{alias.name}"
        yield name if isinstance(node, ast.Import) or name in modules() else str(node.module)


def walk(node: ast.AST, late: bool = False, typing: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """Every import below a node, whether it is inside a function, and whether type checkers alone run it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            assert getattr(child, "level", 0) == 0, "imports name the whole path"
            yield child, late, typing
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for_checkers = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from walk(child, late or is_function, typing or for_checkers)


@cache
def imports() -> list[Import]:
    """All imports in the library and the toy, of whatever module."""
    found = {
        Import(name, target, node.lineno, late, typing): None  # once for each line, in order
        for name, path in modules().items()
        for node, late, typing in walk(ast.parse(path.read_text(encoding="utf-8"), type_comments=True))  # as the book reads it
        for target in names_in(node)
    }
    return list(found)


def floor_of(module: str) -> int | None:
    """The floor of a module of the library or the toy, from 0; None for the two packages themselves and `__main__`."""
    package, _, rest = module.partition(".")
    floors = FLOORS if package == "dmpo_ref" else TOY_FLOORS
    place = rest.partition(".")[0]
    return next((number for number, names in enumerate(floors) if place in names), None)


def inner(package: str) -> list[Import]:
    """Imports of a package's modules by its modules; the package itself, which hands names on, is left out."""
    is_inside = [found for found in imports() if found.source.startswith(f"{package}.") and found.target.startswith(f"{package}.")]
    return [found for found in is_inside if not found.source.endswith("__main__")]


def show(found: Import) -> str:
    return f"{modules()[found.source].relative_to(ROOT)}:{found.line} imports {found.target}"


def test_every_module_has_a_floor():
    without = {name for name in modules() if floor_of(name) is None}
    assert without <= {"dmpo_ref", "dmpo_ref.__main__", "dmpo_ref.minimal", "toy"}
    flat = {name.partition(".")[2] for name, path in modules().items() if path.parent == ROOT / "dmpo_ref" and "." in name}
    assert flat - {"__main__"} <= FLAT, "only the method is flat in dmpo_ref"


def test_minimal_imports_the_model_and_nothing_else_of_the_project():
    named = {found.target for found in imports() if found.source == "dmpo_ref.minimal"}
    ours = {name for name in named if name.split(".")[0] in ("dmpo_ref", "toy")}
    assert all(name.startswith("dmpo_ref.models") for name in ours)
    assert not [show(found) for found in imports() if found.target == "dmpo_ref.minimal"], "nothing depends on the page for readers"


@pytest.mark.parametrize("package", ["dmpo_ref", "toy"])
def test_imports_go_downwards(package):
    chosen = [found for found in inner(package) if "minimal" not in found.source]
    assert len(chosen) > 10
    upwards = [show(found) for found in chosen if floor_of(found.target) > floor_of(found.source)]
    assert not upwards, "\n".join(upwards)


@pytest.mark.parametrize("package", ["dmpo_ref", "toy"])
def test_there_is_no_cycle(package):
    graph: dict[str, set[str]] = {}
    for found in inner(package):
        graph.setdefault(found.source, set()).add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_library_knows_nothing_of_the_toy():
    """But for the command line, which names two functions of it and imports them when they are called."""
    assert not [show(found) for found in imports() if found.source.startswith("dmpo_ref") and found.target.split(".")[0] == "toy"]
    naming = {name for name, path in modules().items() if name.startswith("dmpo_ref") and '"toy.' in path.read_text(encoding="utf-8")}
    assert naming == {"dmpo_ref.cli.parser"}


def test_the_front_door_loads_nothing():
    """`dmpo_ref/__init__` names modules; only type checkers run its imports."""
    assert all(found.typing for found in imports() if found.source == "dmpo_ref" and found.target.startswith("dmpo_ref"))


def test_a_late_import_says_which_seconds_it_saves():
    """In a comment on its line, or above it and the imports that it stands with; or that its package need not be installed."""
    silent = []
    for found in (found for found in imports() if found.late):
        lines = modules()[found.source].read_text(encoding="utf-8").splitlines()
        first = found.line - 1
        while lines[first - 1].strip().startswith(("import ", "from ")):
            first -= 1
        comments = [lines[found.line - 1].partition("#")[2], lines[first - 1].partition("#")[2]]
        if not any("second" in comment or "optional" in comment for comment in comments):
            silent.append(show(found))
    assert not silent, "\n".join(silent)


def lengths() -> Iterator[tuple[str, int, int]]:
    """(path or path:function, lines, the most it should have) of every file and function."""
    for path in modules().values():
        text, where = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        yield where, len(text.splitlines()), MOST_LINES
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{where}:{node.name}", node.end_lineno - node.lineno + 1, MOST_LINES_OF_A_FUNCTION


def test_no_file_and_no_function_is_too_long_without_a_reason():
    long = {where: lines for where, lines, most in lengths() if lines > most}
    assert not {where: lines for where, lines in long.items() if where not in LONGER}
    assert LONGER.keys() <= long.keys(), "an exception that is no longer needed"
    assert all(LONGER.values()), "each exception has a reason"


def test_no_docstring_has_a_table_that_only_markdown_knows():
    """The book reads docstrings as reStructuredText, which would run its rows together."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert "| --- |" not in ((isinstance(node, documented) and ast.get_docstring(node)) or ""), name
