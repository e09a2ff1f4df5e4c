"""The course's exercises: the checks accept the solutions and refuse misconceptions; the student notebooks are what the sources give."""

import contextlib
import importlib.util
import io
import itertools
import math
import re
import runpy
import subprocess
import sys
import zipfile
from fractions import Fraction
from functools import cache
from pathlib import Path

import jupytext
import nbformat
import numpy as np
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
    counts = [labels.count(name) for name in CHECKS]
    page = (TEACHING / "index.md").read_text(encoding="utf-8")
    assert f"on between {min(counts)} and {max(counts)} wrong solutions" in page


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
    assert problem(lambda weight: 1 / 0, "ess") == "raised ZeroDivisionError: division by zero for weight=[[1, 0, 0, 0]]"
    assert problem(lambda k, n, z: 0.5, "wilson") == (
        "returns 0.5, which cannot be checked (TypeError: cannot unpack non-iterable float object), for k=5, n=10, z=1.96"
    )
    assert "numbers of shape [1] are expected" in problem(lambda _: None, "ess")
    assert "shape [1] is expected, not []" in problem(lambda _: 0.25, "ess")


MESSAGES = [  # exercise, a wrong answer, what must be told
    ("wilson", lambda k, n: 0, "takes 2 positional arguments but 3 were given for argument 1=5, argument 2=10, argument 3=1.96"),
    ("wilson", lambda k, n, z: (0.8, 0.2), "the first number is larger than the second: are the ends exchanged? (lower, upper)"),
    (
        "tilted",
        lambda p, r, a: [math.exp(x / a) for x in r][9],
        "raised IndexError: list index out of range for p=[0.5, 0.25, 0.25], r=[0, ",
    ),
    (
        "exact_nelbo",
        lambda model, answer: model((None,)),
        "positions; the model has 3 for model=SmallModel(3, 2, seed=3), answer=[0, 1, 1]",
    ),
    ("stratified_sizes", lambda L, R, u: [2] * R, "in one draw, 0 of 4 masks have a size from 1 to 1: too far from 1·R/L for L=4"),
    ("stratified_sizes", lambda L, R, u: [1 + int(L * (j + u + 1e-8) / R) for j in range(R)], "outside 1 to 4 for L=4, R=4, u=0.999999999"),
    ("threshold_count", lambda c, tau: max(1, sum(round(x, 3) >= tau for x in c)), "confidence=[0.8999999, 0.96, 0.95], tau=0.9"),
    ("countdown_grade", lambda t, n, g: 1, "returns 1, not True or False, on a correct answer, for text='30 + 100 - 93', numbers=[30, "),
    ("countdown_grade", lambda t, n, g: bool(int(t)), "raised ValueError: invalid literal for int() with base 10: '30 + 100 - 93' for t="),
]


@pytest.mark.parametrize(("name", "function", "told"), MESSAGES)
def test_a_message_says_what_is_checked_and_shows_the_input_that_fails(name, function, told):
    assert told in problem(function, name)


def sorted_in_place(confidence, factor):
    confidence.sort(reverse=True)
    while len(confidence) > 1 and not all((k + 1) * (1 - c) <= factor + 1e-12 for k, c in enumerate(confidence, start=1)):
        confidence.pop()
    return len(confidence)


def divided_in_place(reward, log_ref, log_old, alpha):
    reward /= alpha
    reward += log_ref - log_old
    reward -= reward.max(dim=-1, keepdim=True).values
    reward.exp_()
    reward /= reward.sum(dim=-1, keepdim=True)
    return reward


def backwards(model, answer):
    """{S: P(S)} from P(S) = Σ_d P(S∖d) π(o_d | S∖d) / (L − |S| + 1), the smallest sets first."""
    P = {frozenset(): 1.0}
    rows = cache(lambda S: model(tuple(answer[d] if d in S else None for d in range(model.n))))
    for size in range(1, model.n + 1):
        for S in map(frozenset, itertools.combinations(range(model.n), size)):
            P[S] = sum(P[S - {d}] * rows(S - {d})[d][answer[d]] for d in S) / (model.n - size + 1)
    return P


def by_brackets(text, numbers, target):
    """A grader of another kind: innermost brackets first, then products, then sums; each value a fraction in a list."""
    if re.search("[^0-9+*/() -]", text) or len(text) > 200:
        return False
    tokens = [Fraction(run) if run.isdigit() else run for run in re.findall("[0-9]+|[^0-9 ]", text)]
    used = re.findall("[0-9]+", text)

    def flat(part):
        for signs in ("*/", "+-"):
            i = 1
            while i < len(part) - 1:
                left, sign, right = part[i - 1 : i + 2]
                if not (isinstance(left, Fraction) and isinstance(right, Fraction) and isinstance(sign, str)):
                    raise ValueError
                if sign in signs:
                    part[i - 1 : i + 2] = [{"+": left + right, "-": left - right, "*": left * right}[sign] if sign != "/" else left / right]
                else:
                    i += 2
        if len(part) != 1 or not isinstance(part[0], Fraction):
            raise ValueError
        return part

    try:
        while "(" in tokens or ")" in tokens:
            end = tokens.index(")")
            start = max(i for i in range(end) if tokens[i] == "(")
            tokens[start : end + 1] = flat(tokens[start + 1 : end])
        value = flat(tokens)[0]
        for run in used:
            numbers.remove(int(run) if run == str(int(run)) else None)
        return value == target and not numbers
    except (ValueError, ZeroDivisionError):
        return False


RIGHT = [  # answers that are right in another way than the solutions; some change what they are given
    ("factor_count", sorted_in_place),
    ("group_weights", divided_in_place),
    ("tilted", lambda p, r, alpha: np.exp(np.log(p) + np.array(r) / alpha - np.logaddexp.reduce(np.log(p) + np.array(r) / alpha))),
    ("random_order_fast", backwards),
    ("stratified_sizes", lambda L, R, u: [1 + min(int(L * (R - 1 - j + u) / R), L - 1) for j in range(R)]),
    ("stratified_sizes", lambda L, R, u: [1 + round(L * (j + u) / R) % L for j in range(R)]),
    ("antithetic_weights", lambda L, m: tuple((L + 1) / size if size else 0 for size in (m, L - m))),
    ("pass_at_k", lambda n, c, k: 1 - math.prod((n - c - i) / (n - i) for i in range(k))),
    ("countdown_grade", by_brackets),
]


@pytest.mark.parametrize(("name", "function"), RIGHT)
def test_an_answer_that_is_right_in_another_way_passes(name, function):
    assert problem(function, name) is None


def test_the_solution_of_the_grader_keeps_its_own_rule_on_every_text_with_one_more_character():
    with contextlib.redirect_stdout(io.StringIO()):
        grade = runpy.run_path(str(TEACHING / "exercises" / "05_evaluation.py"))["countdown_grade"]
    text, numbers = "30 + 100 - 93", [30, 100, 93]
    assert grade(text, numbers, 37) is True
    for more in [
        *map(chr, range(0x250)),
        *"٣３³₀−–×÷⁄\u200b\u2003\u2028\ufeff",
        "0x",
        "0b",
        "0o",
        "e0",
        ".0",
        "0_",
        "# 7",
        "//1",
        "\\\n",
        "+-",
        "()",
    ]:
        for place in range(len(text) + 1):
            changed = text[:place] + more + text[place:]
            is_apart = more == " " and re.findall("[0-9]+", changed) == ["30", "100", "93"]
            assert grade(changed, numbers, 37) is is_apart, changed


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
    html = slides.render(TEACHING / "decks" / "3_losses_and_evidence.md")
    assert html.count("<section") >= 15 and html.count("data:image/png;base64") >= 5
    loaded = re.findall(r"<(?:script|link|img|iframe)[^>]*?(?:src|href)=\"(.*?)\"", html)
    assert "reveal/dist/reveal.js" in loaded and "tex-svg.js" in loaded
    assert not [address for address in loaded if re.match(r"(https?:)?//", address)]
    assert not re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", html)


@pytest.mark.parametrize("deck", sorted((TEACHING / "decks").glob("*.md")), ids=lambda path: path.stem)
def test_the_answer_to_a_question_waits_and_figures_are_described(deck, tmp_path):
    page = slides.render(deck)
    assert slides.NO_DESCRIPTION not in page and page.count("<img") == page.count('alt="') >= 3
    assert page.count('class="fragment"') >= 3
    small = tmp_path / "deck.md"
    cells = "<!-- cells: 05_two_losses | 3. WDDO: tell p\\* from p_old -->"
    for text, fragments in (
        (f"# One?\n\nText.\n\n{cells}\n", 0),
        (f"# One\n\nWhere is it **low?**\n\n{cells}\n\nThere.\n", 2),
        (f"# One\n\nIt is …\n\n<!-- answer -->\n\nlow\n\n{cells}\n", 2),
        (f"# One\n\nCompute it.\n\n<!-- answer -->\n\n{cells}\n", 1),
    ):
        small.write_text(text, encoding="utf-8")
        assert slides.render(small).count('class="fragment"') == fragments


def test_a_board_fills_itself_in_on_the_first_slide():
    first = slides.render(TEACHING / "decks" / "1_masked_diffusion.md").partition("</section>")[0]
    assert "data:image/gif;base64,R0lGOD" in first and 'alt="Animation: a 4x4 Sudoku' in first


@pytest.mark.parametrize("session", [1, 2, 3])
def test_a_session_has_ninety_minutes_without_a_gap_two_blocks_by_hand_and_a_poll_each_quarter_of_an_hour(session):
    plan = (TEACHING / f"session{session}.md").read_text(encoding="utf-8")
    times = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+)–(\d+) \|", plan, flags=re.MULTILINE)]
    assert times[0][0] == 0 and times[-1][1] == 90
    assert all(end == start for (_, end), (start, _) in zip(times, times[1:], strict=False))
    by_hand = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+)–(\d+) \| \*\*Hands on", plan, flags=re.MULTILINE)]
    assert len(by_hand) == 2 and all(end - start == 10 for start, end in by_hand)
    (deck,) = (TEACHING / "decks").glob(f"{session}_*.md")
    assert f"`{deck.stem}`" in plan
    text = deck.read_text(encoding="utf-8")
    polls = re.findall(r"^\| (\d+)–(\d+) \|.*\*\*Poll (\d+)\*\*", plan, flags=re.MULTILINE)
    assert [int(number) for *_, number in polls] == list(range(1, text.count("**Poll.**") + 1))
    active = sorted(by_hand + [(int(a), int(b)) for a, b, _ in polls])
    waits = [start - end for (_, end), (start, _) in zip([(0, 0), *active], [*active, (90, 90)], strict=True)]
    assert max(waits) <= 15, waits
    assert text.count("<!-- answer -->") >= text.count("**Poll.**")
    assert text.count("## Hands on: ten minutes") == text.count("No installation here?") == 2


def test_the_students_archive_holds_no_solution(tmp_path, capsys):
    (tmp_path / "slides").mkdir()
    for name in ("1_masked_diffusion", "1_of_another_course"):
        slide = '<p>a slide</p><aside class="notes">\n<p>the answer</p></aside><p>another</p><aside class="notes"><p>2</p></aside>'
        (tmp_path / "slides" / f"{name}.html").write_text(slide)
    assert run_packs(["--build", str(tmp_path)]) == 2 and "run make slides and make print first" in capsys.readouterr().err
    (tmp_path / "print").mkdir()
    (tmp_path / "print" / "sheet.pdf").write_bytes(b"%PDF")
    assert run_packs(["--build", str(tmp_path)]) == 0
    with zipfile.ZipFile(tmp_path / "packs" / "student.zip") as student, zipfile.ZipFile(tmp_path / "packs" / "instructor.zip") as lecturer:
        names = student.namelist()
        assert len([name for name in names if name.startswith("exercises/")]) == 6 and {
            "sheet.pdf",
            "slides/1_masked_diffusion.html",
        } <= set(names)
        assert "slides/1_of_another_course.html" not in names
        assert student.read("slides/1_masked_diffusion.html") == b"<p>a slide</p><p>another</p>"
        for name in names:
            if name.endswith(".ipynb"):
                cells = nbformat.reads(student.read(name).decode(), as_version=4).cells
                assert not any("](.." in cell.source for cell in cells), name
        assert b"Read notebook 03 before or together with them" in student.read("exercises/01_weights.ipynb")
        assert not any(b"BEGIN SOLUTION" in student.read(name) for name in names)
        assert any(b"BEGIN SOLUTION" in lecturer.read(name) for name in lecturer.namelist())


def run_packs(words):
    program = [sys.executable, str(TEACHING / "packs.py"), *words]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    sys.stderr.write(done.stderr)
    return done.returncode


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    def missing(name):
        raise slides.PackageNotFoundError(name)

    monkeypatch.setattr(slides, "distribution", missing)
    with pytest.raises(FileNotFoundError, match="sphinx-revealjs is not installed; run pip"):
        slides.copy_scripts(tmp_path)
