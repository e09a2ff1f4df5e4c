"""The README tells the truth: every function it names exists, every file it links to is there, its example runs."""

import ast
import importlib
import re
from pathlib import Path

import pytest

README = Path("README.md").read_text(encoding="utf-8")


def resolve(name: str):
    """The object of a dotted name such as dmpo_ref.weights.log_weights."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(name)


def equation_table() -> list[str]:
    section = README.split("## Equation to code")[1].split("\n## ")[0]
    return re.findall(r"`((?:dmpo_ref|toy)\.[\w.]+)`", section)


def test_the_equation_table_is_there():
    assert len(equation_table()) >= 15


@pytest.mark.parametrize("name", sorted(set(equation_table())))
def test_every_function_of_the_equation_table_exists(name):
    assert callable(resolve(name))
    assert resolve(name).__doc__


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_linked_file_exists(link):
    assert Path(link).exists()


def test_a_room_imports_only_rooms_above_it():
    """The map is also the reading order: what a module imports on loading stands above it there."""
    section = README.split("## Map of the house")[1].split("\n## ")[0]
    files = [path for path in re.findall(r"\]\((dmpo_ref/[\w/]+\.py)\)", section) if not path.startswith("dmpo_ref/tasks/")]
    place = {path: number for number, path in enumerate(files)}
    missing = {f"dmpo_ref/{path.name}" for path in Path("dmpo_ref").glob("[a-z]*.py")} - set(files)
    assert not missing
    tasks = next(number for number, path in enumerate(files) if path == "dmpo_ref/runtime/processes.py")  # the row after the tasks
    for path, number in place.items():
        for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dmpo_ref."):
                wanted = node.module.replace(".", "/") + ".py"
                if wanted in place:
                    assert place[wanted] < number, f"{path} imports {wanted}, which stands below it"
                elif node.module.startswith("dmpo_ref.tasks"):
                    assert number >= tasks, f"{path} imports {node.module}, which stands below it"


def test_every_make_target_that_is_named_exists():
    makefile = Path("Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_python_example_has_about_ten_lines_and_trains(tmp_path, monkeypatch, capsys):
    example = next(block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "reward" in block)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    first, last = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert last > first + 0.1
