"""The course's exercises: the checks accept the solutions and refuse misconceptions; the student notebooks are what the sources give."""

import contextlib
import importlib.util
import io
import re
import runpy
from functools import cache
from pathlib import Path

import jupytext
import nbformat
import pytest
from exercise_checks import CHECKS, problem

TEACHING = Path(__file__).parents[1] / "book" / "teaching"
SOURCES = sorted((TEACHING / "exercises").glob("*.py"))
LEVELS = ("warm-up", "standard", "hard", "research")


def load(name: str):
    """A script of the course as a module."""
    spec = importlib.util.spec_from_file_location(f"teaching_{name}", TEACHING / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


handout, slides = load("handout"), load("slides")


@cache
def wrong_answers() -> list[tuple[str, str, object]]:
    """(exercise, misconception, function) of every wrong answer."""
    files = [runpy.run_path(str(path.parent / "wrong" / path.name))["WRONG"] for path in SOURCES]
    return [(name, label, function) for wrong in files for name, variants in wrong.items() for label, function in variants.items()]


def exercises_of(source: Path) -> list[tuple[str, str]]:
    """(name, level) of the exercises of a source: the function under each heading with a level."""
    text = source.read_text(encoding="utf-8")
    return re.findall(rf"^# ## \d\.\d .*\(({'|'.join(LEVELS)})\)$[\s\S]*?^def (\w+)\(", text, flags=re.MULTILINE)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_solutions_pass(source):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        solved = runpy.run_path(str(source))
    for _, name in exercises_of(source):
        assert f"{name}: right\n" in printed.getvalue()
        assert problem(solved[name]) is None


@pytest.mark.parametrize(("name", "label", "function"), wrong_answers(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_misconception_fails_with_one_line(name, label, function):
    message = problem(function, name)
    assert message
    assert "\n" not in message and len(message) <= 300


def test_there_are_enough_exercises_of_every_level_and_each_has_its_misconceptions():
    found = [(level, name) for source in SOURCES for level, name in exercises_of(source)]
    assert {name for _, name in found} == set(CHECKS)
    assert len(found) == len(CHECKS) >= 20
    assert {level for level, _ in found} == set(LEVELS)
    labels = [name for name, _, _ in wrong_answers()]
    assert all(labels.count(name) >= 2 for name in CHECKS) and set(labels) == set(CHECKS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_student_notebook_is_what_the_source_gives_and_holds_no_solution(source):
    path = TEACHING / "student" / f"{source.stem}.ipynb"
    assert path.read_text(encoding="utf-8") == handout.student_notebook(source), "run make exercises"
    assert "SOLUTION" not in path.read_text(encoding="utf-8")
    solution = re.findall(r"# BEGIN SOLUTION\n([\s\S]*?)# END SOLUTION", source.read_text(encoding="utf-8"))
    written = [line.strip() for block in solution for line in block.splitlines() if len(line.strip()) > 25]
    cells = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert written and not [line for line in written if line in cells]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_an_untouched_student_notebook_runs_and_says_what_is_not_written(source):
    printed, namespace = io.StringIO(), {"__name__": "notebook"}
    with contextlib.redirect_stdout(printed):
        for cell in nbformat.read(TEACHING / "student" / f"{source.stem}.ipynb", as_version=4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, str(source), "exec"), namespace)
    for _, name in exercises_of(source):
        assert f"{name}: not written yet\n" in printed.getvalue()


def test_an_unknown_exercise_and_an_exception_are_told_in_one_line():
    with pytest.raises(ValueError, match="there is no exercise 'nothing'"):
        problem(lambda: None, "nothing")
    assert problem(lambda *_: 1 / 0, "ess") == "raised ZeroDivisionError: division by zero"
    assert "numbers of shape [1] are expected" in problem(lambda _: None, "ess")
    assert "shape [1] is expected, not []" in problem(lambda _: 0.25, "ess")


def test_a_solution_block_that_is_not_closed_is_refused():
    notebook = jupytext.reads("# %%\ndef f():\n    # BEGIN SOLUTION\n    return 1\n", fmt="py:percent")
    with pytest.raises(ValueError, match="END SOLUTION"):
        handout.without_solution(notebook.cells[0].source, "here")


@pytest.mark.parametrize("deck", sorted((TEACHING / "decks").glob("*.md")), ids=lambda path: path.stem)
def test_every_slide_finds_its_cells(deck):
    pages = slides.read_deck(deck)
    assert len(pages) >= 10
    assert any(cell.cell_type == "code" for page in pages for cell in page)


def test_a_slide_of_a_section_without_marked_cells_is_refused(tmp_path):
    deck = tmp_path / "deck.md"
    deck.write_text("# One\n\n<!-- cells: 03_weights | No such section -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="No such section"):
        slides.read_deck(deck)


def test_a_deck_shows_stored_outputs_and_asks_no_other_host():
    html = slides.render(TEACHING / "decks" / "2_losses_and_evidence.md")
    assert html.count("<section") >= 15 and html.count("data:image/png;base64") >= 5
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"(.*?)\"", html)
    assert "reveal/dist/reveal.js" in loaded and "tex-svg.js" in loaded
    assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", html)


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise slides.PackageNotFoundError(name)

    monkeypatch.setattr(slides, "distribution", missing)
    with pytest.raises(FileNotFoundError, match="sphinx-revealjs is not installed; run pip"):
        slides.copy_scripts(tmp_path)
