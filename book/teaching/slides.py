"""One reveal.js deck for each session, from the decks beside this file and the cells of the notebooks that are tagged `slide`.

    python book/teaching/slides.py [--output build/slides]

A deck (`decks/*.md`) is Markdown, slides separated by `---`. A line `<!-- cells: 03_weights | 4. Effective sample size -->` puts
there what those cells of that notebook have put out that are tagged `slide` and stand under that heading, without their code. What
stands after a question on a slide, in cells or after a line `<!-- answer -->`, is its answer, and appears with the next key. What
follows a line `Note:` is for the speaker (key S). Nothing is run, and the decks ask no other host for anything: reveal.js comes from
the package sphinx-revealjs, MathJax from sphinx-mathjax-offline.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import re
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter
from nbformat import NotebookNode
from traitlets.config import Config

FOLDER = Path(__file__).parent
NOTEBOOKS = FOLDER.parents[1] / "notebooks"
TAG = "slide"
ANSWER = "<!-- answer -->"
NO_DESCRIPTION = "No description has been provided for this image"
QUESTION = re.compile(r"^(?!#).*\?\**$|^\*\*On paper", flags=re.MULTILINE)
CELLS = re.compile(r"^<!-- cells: *(\S+) *\| *(.+?) *-->$", flags=re.MULTILINE)
LOCAL = {  # package, what is copied from it, where to
    "reveal/dist": ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs/dist"),
    "reveal/plugin/notes": ("sphinx-revealjs", "sphinx_revealjs/_static/revealjs/plugin/notes"),
    "tex-svg.js": ("sphinx-mathjax-offline", "sphinx-mathjax-offline/static/mathjax/tex-svg.js"),
}


def main() -> int:
    """Write the decks and what they load; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER.parents[1] / "build" / "slides", help="folder to write")
    args = parser.parse_args()
    try:
        copy_scripts(args.output)
        for deck in sorted((FOLDER / "decks").glob("*.md")):
            target = args.output / f"{deck.stem}.html"
            target.write_text(render(deck), encoding="utf-8")
            print(target)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def copy_scripts(output: Path) -> None:
    """Put reveal.js and MathJax beside the decks.

    Raises:
        FileNotFoundError: a package that holds them is not installed.
    """
    for name, (package, inside) in LOCAL.items():
        try:
            source = Path(distribution(package).locate_file(inside))
        except PackageNotFoundError:
            raise FileNotFoundError(f"{package} is not installed; run pip install -c constraints.txt -e '.[book]'") from None
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.map"))
        else:
            shutil.copy(source, target)


def render(deck: Path) -> str:
    """The HTML of a deck."""
    title = re.search(r"^# (.+)$", deck.read_text(encoding="utf-8"), flags=re.MULTILINE)
    notebook = nbformat.v4.new_notebook(metadata={"title": title[1] if title else deck.stem, "language_info": {"name": "python"}})
    descriptions = []
    for page in read_deck(deck):
        asked = False
        for number, cell in enumerate(page):
            waits = asked or cell.metadata.get("waits")
            kind = "notes" if cell.metadata.get("notes") else "slide" if not number else "fragment" if waits else "-"
            asked = asked or cell.cell_type == "markdown" and bool(QUESTION.search(cell.source))
            descriptions += [cell.metadata.alt] if cell.metadata.get("alt") else []
            cell.metadata = nbformat.from_dict({"slideshow": {"slide_type": kind}, "tags": cell.metadata.get("tags", [])})
            notebook.cells.append(cell)
    settings = Config()
    settings.SlidesExporter.reveal_url_prefix, settings.SlidesExporter.reveal_theme = "reveal", "white"
    settings.SlidesExporter.exclude_input = settings.SlidesExporter.exclude_output_prompt = True  # the code is in the notebooks
    exporter = SlidesExporter(config=settings, template_file=str(FOLDER / "slides.html.j2"))
    exporter.log.setLevel("ERROR")  # it warns that images have no description; they get one below
    page = exporter.from_notebook_node(notebook)[0]
    for description in descriptions:  # nbconvert has no place for them
        page = page.replace(f'alt="{NO_DESCRIPTION}"', f'alt="{html.escape(description)}"', 1)
    return page


def read_deck(deck: Path) -> list[list[NotebookNode]]:
    """The slides of a deck, each a list of cells.

    Raises:
        ValueError: a line names cells that do not exist.
    """
    pages = []
    for number, text in enumerate(re.split(r"^---$", deck.read_text(encoding="utf-8"), flags=re.MULTILINE)):
        text, _, note = text.partition("\nNote:")
        page, waits = [], False
        # Split at two groups: text, notebook, heading, text, notebook, heading, …, text.
        shown, *named = CELLS.split(text)
        for part, name, heading in zip([shown, *named[2::3]], [*named[::3], None], [*named[1::3], None], strict=True):
            for k, piece in enumerate(part.split(ANSWER)):
                waits = waits or k > 0
                if piece.strip():
                    page.append(markdown(piece.strip(), deck.stem, number, len(page), waits=waits))
            for cell in tagged_cells(name, heading, where=f"{deck.name}, slide {number + 1}") if name else ():
                cell.metadata["waits"] = waits
                page.append(cell)
        if note.strip():
            page.append(markdown(note.strip(), deck.stem, number, len(page), notes=True))
        pages.append(page)
    return pages


def markdown(text: str, *key: str | int, notes: bool = False, waits: bool = False) -> NotebookNode:
    """A Markdown cell with an id that does not change from run to run; it is for the speaker, or waits for a key."""
    name = hashlib.sha1(repr(key).encode()).hexdigest()[:8]
    return nbformat.v4.new_markdown_cell(text, id=name, metadata={"notes": notes, "waits": waits})


def tagged_cells(name: str, heading: str, where: str) -> list[NotebookNode]:
    """The code cells tagged `slide` between a heading of a notebook and the next one.

    Raises:
        ValueError: no such notebook, or no such cell.
    """
    path = NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        raise ValueError(f"{where}: there is no notebook {name}; run make notebooks, or correct the line")
    current, found = "", []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            current = ([current, *re.findall(r"^## (.+)$", cell.source, flags=re.MULTILINE)])[-1]
        elif current == heading and TAG in cell.metadata.get("tags", []):
            found.append(with_animation(cell))
    if not found:
        raise ValueError(f"{where}: in {name} no code cell under {heading!r} is tagged {TAG}")
    return found


def with_animation(cell: NotebookNode) -> NotebookNode:
    """The cell with its GIFs as HTML: nbconvert knows no GIFs."""
    animations = [output.data for output in cell.outputs if "image/gif" in output.get("data", {})]
    alt = html.escape(cell.metadata.pop("alt")) if animations else ""
    for data in animations:
        data["text/html"] = f'<img alt="{alt}" src="data:image/gif;base64,{data["image/gif"].strip()}">'
    return cell


if __name__ == "__main__":
    raise SystemExit(main())
