"""The book tells the truth: its code runs, its commands parse, its links lead somewhere, its pages are made from the repository."""

import dataclasses
import re
import shlex
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from dmpo_ref.cli import main as dmpo
from dmpo_ref.cli.parser import WITH_OWN_PARSER, build_parser
from dmpo_ref.forecast.plan import make_plan
from dmpo_ref.presets.loading import load_config
from dmpo_ref.train import train

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from book import build as book  # noqa: E402
from book.extensions.glossary_links import plain  # noqa: E402
from book.extensions.plain_docstrings import to_rst  # noqa: E402
from book.links import Links  # noqa: E402
from book.pages import api_pages, configuration_page, equations_page, modules, section  # noqa: E402

HOWTO = [ROOT / "book" / "howto" / f"{name}.md" for name in book.HOWTO]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[list[str]]:
    """Every `dmpo …` line of a page as words; a line that ends in a backslash goes on."""
    joined = [block.replace("\\\n", "") for block in blocks(path, "bash")]
    return [shlex.split(line)[1:] for block in joined for line in block.splitlines() if line.startswith("dmpo ")]


# Code and commands of the pages


@pytest.mark.parametrize("path", [p for p in HOWTO if "```python" in p.read_text(encoding="utf-8")], ids=lambda p: p.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(path, "python")):
        exec(compile(block, f"{path.name}, block {number}", "exec"), names)


def test_the_config_file_of_a_page_trains_and_its_paths_are_where_the_page_says(tmp_path, monkeypatch):
    (text,) = blocks(ROOT / "book" / "howto" / "task.md", "yaml")
    shutil.copytree(ROOT / "toy" / "checkpoint", tmp_path / "mine" / "base")
    for source, file in (("train", "mine/train.csv"), ("test", "data/test.csv")):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "toy" / "data" / f"{source}.csv", tmp_path / file)
    (tmp_path / "mine" / "sudoku.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    config = load_config("mine/sudoku.yaml")
    assert (config.model.path, config.task.train) == (str(tmp_path / "mine" / "base"), str(tmp_path / "mine" / "train.csv"))
    assert load_config("mine/sudoku.yaml", "model.path=./other").model.path == str(tmp_path / "other")
    small = ("train.rounds=1", "train.prompts_per_round=2", "train.num_rollouts=2", "evaluation.num_items=1", "threads=1", "device=cpu")
    assert dmpo(["train", "mine/sudoku.yaml", *small]) == 0
    assert (tmp_path / "runs" / "mine" / "metrics.jsonl").is_file()


@pytest.mark.parametrize("masks", ["path", "path_steps", "exact"])
def test_the_objective_of_its_page_trains_on_the_masks_that_the_config_names(masks, small_run):
    page: dict = {}
    exec(blocks(ROOT / "book" / "howto" / "objective.md", "python")[0], page)
    config = small_run("train.rounds=1", f"loss.masks={masks}", "loss.micro_batch=5")
    assert train(config, objective=page["build"](config.loss, config.weight.alpha)).metrics


def test_the_answer_about_memory_has_the_figures_of_the_plan(capsys):
    """They follow the preset, which may change."""
    answers = (ROOT / "book" / "answers.md").read_text(encoding="utf-8")
    answer, code = re.search(r"(\*\*1\.\*\* \*Overrides for 24 GB.*?)```python\n(.*?)```", answers, re.DOTALL).groups()
    exec(compile(code, "answers.md", "exec"), {"make_plan": make_plan, "load_config": load_config})
    printed = re.findall(r"^([\d.]+) GB", capsys.readouterr().out, re.MULTILINE)
    assert len(printed) == 5
    assert [figure for figure in printed if not re.search(rf"\b{re.escape(figure)}\b", answer)] == []


def needs_weights(words: list[str]) -> bool:
    """Commands that need a large model, a run of it, or minutes."""
    return (
        words[0] in ("train", "rerun", "export")
        or (words[0] != "plan" and any("llada" in word.lower() for word in words))
        or "results/trained" in words
    )


@pytest.mark.parametrize("path", HOWTO, ids=lambda p: p.stem)
def test_every_command_of_a_page_is_one_that_dmpo_knows(path):
    for words in commands(path):
        if words[0] in WITH_OWN_PARSER:
            continue
        args, overrides = build_parser().parse_known_args(words)
        overrides = [word for word in [*getattr(args, "overrides", []), *overrides]]
        assert all("=" in word for word in overrides), words
        if hasattr(args, "config"):
            load_config(args.config.removeprefix("runs/"), *overrides)  # on the pages a run has the name of its preset


@pytest.mark.parametrize("path", [p for p in HOWTO if any(not needs_weights(c) for c in commands(p))], ids=lambda p: p.stem)
def test_commands_that_need_no_large_model_work(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in commands(path):
        if not needs_weights(words):
            assert dmpo(words) == 0, capsys.readouterr().err


def test_every_script_of_a_page_exists():
    for path in [*HOWTO, ROOT / "book" / "intro.md"]:
        for block in blocks(path, "bash"):
            for name in re.findall(r"--config_file (\S+)", block):
                assert (ROOT / name).is_file(), name
            for name in re.findall(r"^make ([\w-]+)", block, re.MULTILINE):
                assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), name


@pytest.mark.parametrize("path", [*ROOT.glob("[CR]*.md"), *(ROOT / "book").rglob("*.md")], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_that_a_page_runs_is_a_program(path):
    """`python -m …`, but for LOG.md, which is history, and for the columns of old names in the changelog."""
    text = path.read_text(encoding="utf-8").partition("\n### Commands: old name, new name")[0]
    for name in re.findall(r"-m ((?:dmpo_ref|toy|book)[\w.]*\w)", text):
        file = ROOT / name.replace(".", "/")
        file = file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
        assert file.is_file() and '__name__ == "__main__"' in file.read_text() or file.stem == "__main__", name


# Links

LINKED = [*ROOT.glob("*.md"), *(ROOT / "book").rglob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]


def linked_text(path: Path) -> str:
    if path.suffix == ".md":
        return re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


@pytest.mark.parametrize("path", LINKED, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_to_files(path):
    targets = re.findall(r"\]\(([\w./~-]*[./][\w./~-]*)(?:#[\w-]+)?\)", linked_text(path))
    made = {"equations.md", "results.md", "configuration.md", "log.md", "contributing.md"}  # by build.py
    dead = [t for t in targets if not (path.parent / t).exists() and t not in made]
    assert not dead


@pytest.mark.parametrize(
    "name", re.findall(r"\{doc\}`(?:[^<`]*<)?([\w./]+)>?`", "".join(p.read_text() for p in LINKED if p.suffix == ".md"))
)
def test_named_pages_exist(name, staged):
    assert (staged / "howto" / f"{name}.md").resolve().is_file() or (staged / f"{name}.md").is_file()


def test_links_are_rewritten_to_where_the_book_has_the_file(tmp_path):
    for name in ("README.md", "LOG.md", "pkg/code.py", "tests/test_x.py", "book/figures/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    text = "[log](LOG.md#end) [`code`](pkg/code.py) [test](tests/test_x.py) ![a](book/figures/a.png) [gone](x.md) $E[r](x)$"
    text += "\n```\n[l](LOG.md)\n```"
    links = Links(tmp_path, "", "main")
    links.pages = {"LOG.md": "log.md", "pkg/code.py": "api/code.md"}
    assert links.relink(text, tmp_path / "README.md", "howto/page.md") == (
        "[log](../log.md#end) [`code`](../api/code.md) [test](../files/tests/test_x.py) ![a](../figures/a.png) gone $E[r](x)$"
        "\n```\n[l](LOG.md)\n```"
    )
    assert links.files == {"files/tests/test_x.py": tmp_path / "tests/test_x.py", "figures/a.png": tmp_path / "book/figures/a.png"}
    assert links.missing == ["README.md links to x.md, which does not exist"]
    public = Links(tmp_path, "https://example.org/o/r", "main")
    assert public.relink("[test](tests/test_x.py)", tmp_path / "README.md", "a.md") == (
        "[test](https://example.org/o/r/blob/main/tests/test_x.py)"
    )


# Pages that are made


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    target = tmp_path_factory.mktemp("book")
    (target / "left_over.md").write_text("from an earlier build")
    book.stage(target)
    return target


def test_every_page_is_in_the_table_of_contents(staged):
    def files(node):
        found = [node["file"]] if "file" in node else []
        return found + [f for key in ("parts", "chapters", "sections") for child in node.get(key, []) for f in files(child)]

    toc = yaml.safe_load((staged / "_toc.yml").read_text())
    listed = [toc["root"], *(name.removesuffix(".ipynb") for name in files(toc))]
    pages = [p for p in staged.rglob("*") if p.suffix in (".md", ".ipynb") and p.relative_to(staged).parts[0] != "files"]
    assert sorted(listed) == sorted(
        str(p.relative_to(staged).with_suffix("")) if p.suffix == ".ipynb" else str(p.relative_to(staged))[:-3] for p in pages
    )
    notebooks = [name for name in listed if name.startswith("notebooks/")]
    assert notebooks == sorted(f"notebooks/{p.stem}" for p in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    assert not (staged / "left_over.md").exists()


def test_the_map_of_equations_is_the_readme_s(staged):
    page = (staged / "equations.md").read_text()
    functions = re.findall(r"`((?:dmpo_ref|toy)\.[\w.]+)`", section(README, "Equation to code"))
    assert len(functions) >= 15
    assert re.findall(r"\{py:obj\}`[\w.]+ <([\w.]+)>`", page) == functions
    with pytest.raises(ValueError, match="no section '## Equation to code'"):
        equations_page("# another README")


def test_every_module_has_a_page_in_the_order_of_the_map():
    pages = list(api_pages(ROOT, README))
    on_disk = {p for folder in ("dmpo_ref", "toy") for p in (ROOT / folder).rglob("*.py") if p.stem != "__main__"}
    assert {ROOT / path for path in modules(ROOT).values()} == on_disk
    assert set(pages) == {"api/index.md"} | {f"api/{name}.md" for name in modules(ROOT)}
    order = [
        pages.index(f"api/dmpo_ref.{name}.md")
        for name in ("minimal", "config", "masking", "models.llada", "likelihood", "weights", "losses", "train", "cli")
    ]
    assert order == sorted(order)


def test_every_option_has_a_row(staged):
    page, config = configuration_page(), load_config("toy_sudoku")

    def leaves(node, prefix=""):
        return [leaf for k, v in node.items() for leaf in (leaves(v, f"{prefix}{k}.") if isinstance(v, dict) else [prefix + k])]

    assert re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE) == leaves(dataclasses.asdict(config))


def test_widgets_are_replaced_by_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(book, "ROOT", tmp_path)
    slider = nbformat.v4.new_output("display_data", {book.WIDGET: {"model_id": "1"}, "text/plain": "interactive()"})
    printed = nbformat.v4.new_output("stream", text="kept")
    without_state = nbformat.v4.new_output("display_data", {"text/plain": "interactive(children=(…"})
    cells = [nbformat.v4.new_code_cell("interact(draw)", outputs=[slider, without_state, printed])]
    cells += [nbformat.v4.new_markdown_cell("[log](LOG.md)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    (tmp_path / "LOG.md").write_text("")
    links = Links(tmp_path, "", "main")
    links.pages = {"LOG.md": "log.md"}
    made = nbformat.reads(book.notebook_page(tmp_path / "a.ipynb", links), as_version=4)
    assert [cell.source for cell in made.cells] == ["interact(draw)", book.SLIDERS, "[log](log.md)"]
    assert [output.text for output in made.cells[0].outputs] == ["kept"]


# Links to the repository, Colab and Binder


def test_without_a_repository_nothing_links_to_one():
    config = book.settings("")
    assert "repository" not in config
    assert "launch_buttons" not in config
    assert not config["html"]["use_repository_button"]


def test_with_a_repository_notebooks_open_in_colab_and_binder():
    config = book.settings("https://example.org/o/r")
    assert config["repository"]["url"] == "https://example.org/o/r"
    assert config["html"]["use_repository_button"]
    assert {"colab_url", "binderhub_url"} <= set(config["launch_buttons"])


def test_files_of_other_hosts_are_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<link rel="stylesheet" href="_static/a.css"><link rel="stylesheet" href="https://x.org/a.css"><script src="//x.org/b.js"></script>'
        '<img src="c.png"><img src="http://x.org/d.png"><a href="https://x.org/page">a link may leave the host</a>'
    )
    assert book.remote_files(page) == ["https://x.org/a.css", "//x.org/b.js", "http://x.org/d.png"]


# Docstrings


def test_docstrings_become_restructured_text():
    docstring = [
        *("The target p*(o|q), by `weights.log_weights`.", "", "    p* = p_ref · e^{r/α}", "", "It *must* end:", "- one `a`;", "- two_."),
        *("Done.", "", "Args:", "    x: [G, N] |x|", "", "Returns:", "    a, b: [G].", "    c: more,", "        and more."),
    ]
    arguments = ["Args:", r"    x: [G, N] \|x\|"]
    assert to_rst(docstring) == [
        r"The target p\*(o\|q), by ``weights.log_weights``.",
        *("", ".. code-block:: text", "", "    p* = p_ref · e^{r/α}", "", "It *must* end:", "", "- one ``a``;", r"- two\_.", ""),
        *("Done.", "", *arguments, "", "", ":returns:", "    - **a, b**: [G].", "    - **c**: more,", "          and more."),
    ]


def test_a_definition_on_hover_has_no_latex():
    definition = r"\log p_{\mathrm{ref}} - \ell of e^{r/\alpha}\, and KL(p^* \| p_\theta). dmpo_ref.weights.target_weights()."
    assert plain(definition) == "log p_ref - ℓ of e^(r/α) and KL(p^* ‖ p_θ)."


def test_the_buttons_of_the_theme_are_named_as_they_look():
    page = '<button class="pst-js-only" title="Search" aria-label="Search"><i class="theme-switch fa  fa-lg" data-mode="x" title="X"></i>'
    named = '<button class="pst-js-only" title="Search"><i class="theme-switch fa  fa-lg" data-mode="x"></i>'
    assert book.name_controls(page) == named
    assert book.name_controls("<summary><span>") == '<summary aria-label="Pages of this chapter"><span>'


def test_the_answers_to_exercises_are_folded_below_their_questions():
    text = (ROOT / "book" / "answers.md").read_text(encoding="utf-8")
    questions = re.findall(r"(?m)^\*\*\d\.\*\* (.*)$", text)
    folded = re.findall(
        r"(?ms)^\*\*\d\.\*\* \*[^\n]+\*\n\n<details class=\"choice\"><summary>(\w[\w ]+)</summary>\n\n.+?\n\n</details>$", text
    )
    assert len(folded) == len(questions) == 4 * 11 and {*folded} == {"Answer", "Where to start"}
    assert text.count("<details") == text.count("</details>") == len(folded)
