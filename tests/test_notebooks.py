"""The notebooks beside their numbers: questions with one right choice each, lines that fit the page, images that are described."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

from toy.notebook import Table

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9]*.ipynb"))
QUESTION = re.compile(r"\*\*Check yourself\.\*\*(.*?)(?=\n#|\*\*Check|\Z)", re.DOTALL)
CHOICE = re.compile(r'<details class="choice"><summary>(.+?)</summary>\n\n\*\*(Right|No)\.\*\* (.+?)\n\n</details>', re.DOTALL)


def cells(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_three_questions_with_one_right_choice_and_a_reason_for_each(path):
    text = "\n\n".join(cell.source for cell in cells(path, "markdown"))
    questions = QUESTION.findall(text)
    assert len(questions) >= 3
    for question in questions:
        choices = CHOICE.findall(question)
        assert len(choices) == question.count("<details") == 3
        assert [verdict for _, verdict, _ in choices].count("Right") == 1
        assert all(len(why) >= 30 for _, _, why in choices)
        assert len({choice for choice, _, _ in choices}) == 3
        assert not any("$" in choice for choice, _, _ in choices)  # HTML of their own, in which the book sets no formula


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_numbered_section_ends_with_a_question(path):
    text = "\n\n".join(cell.source for cell in cells(path, "markdown"))
    _, *sections = re.split(r"(?m)^## (?=\d+\. )", re.split(r"(?m)^## (?!\d)", text)[0])
    assert len(sections) >= 4 and all("**Check yourself.**" in section for section in sections)


def test_the_right_choice_is_not_always_the_same_one():
    places = []
    for path in NOTEBOOKS:
        for question in QUESTION.findall("\n\n".join(cell.source for cell in cells(path, "markdown"))):
            places.append([verdict for _, verdict, _ in CHOICE.findall(question)].index("Right"))
    assert all(places.count(place) >= len(places) / 10 for place in range(3))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_fits_the_page_and_images_are_described_in_words(path):
    for cell in cells(path, "code"):
        assert max(map(len, cell.source.splitlines())) <= 88
        if any(kind.startswith("image/") for output in cell.outputs for kind in output.get("data", {})):
            assert len(cell.metadata["alt"]) >= 40


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_not_the_lesson_is_folded(path):
    """The check of the installation, and the imports."""
    first, second, *_ = cells(path, "code")
    assert "hide-input" in first.metadata.tags
    assert "hide-input" in second.metadata.tags or not second.source.startswith(("import", "from"))


PLAIN = "# # Title\n\n# %% {head}\n{code}\n\n# %%\nb = 2\n\n# %%\nc = 3\n"


@pytest.mark.parametrize(
    ("head", "code", "image", "problem"),
    [
        ("", "a = 1", False, None),
        ('alt="A picture of something"', "a = 1", True, None),
        ("", "a = 1", True, 'needs alt="…" in its first line if it shows an image'),
        ('alt="A picture of something"', "a = 1", False, 'needs alt="…" in its first line if it shows an image, and only then'),
        ("", f"a = {'1' * 84}", False, None),
        ("", f"a = {'1' * 85}", False, "has more than 88 characters"),
    ],
)
def test_the_check_of_a_notebook_finds_wide_lines_and_images_without_a_description(tmp_path, head, code, image, problem):
    spec = importlib.util.spec_from_file_location("notebook_build", FOLDER / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    source = tmp_path / "00_small.py"
    source.write_text("# %% [markdown]\n" + PLAIN.format(head=head, code=code), encoding="utf-8")
    notebook = build.read(source)
    if image:
        output = nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})
        next(cell for cell in notebook.cells if cell.cell_type == "code").outputs = [output]
    nbformat.write(build.strip(notebook), source.with_suffix(".ipynb"))
    found = build.compare(source)
    assert found is None if problem is None else problem in found


def test_what_the_book_folds_is_folded_in_jupyterlab():
    for path in sorted(Path("notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            folded = "hide-input" in cell.metadata.get("tags", [])
            assert cell.metadata.get("jupyter", {}) == ({"source_hidden": True} if folded else {})


def test_a_table_is_one_in_html_and_columns_in_text():
    table = Table([("a<b", f"{1.5:.2f}"), ("c", -3)], ("x", "y"))
    assert repr(table).split() == ["x", "y", "a<b", "1.50", "c", "-3"]
    html = table._repr_html_()
    cells = re.findall(r"<t[hd](?: [^>]*)?>\s*(.*?)\s*</t[hd]>", html)
    assert cells == ["x", "y", "a&lt;b", "1.50", "c", "-3"] and html.count("<tr>") == 3
    with pytest.raises(ValueError, match=r"a row of 1 cells, \['c'\] …, under 2 headers"):
        Table([("a", 1), ("c",)], ("x", "y"))
